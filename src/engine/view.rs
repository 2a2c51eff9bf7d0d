//! What the actor publishes after each commit, and everything that reads answer from: immutable, shared, complete up to
//! its last sequence. A reader that holds a view never needs the actor.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::{Seq, StoredOp, response};
use crate::store::{AccountState, SyncState};

/// Operations kept encoded in memory per account.
const TAIL_MAX_OPS: usize = 128;
/// Bytes kept encoded in memory per account.
const TAIL_MAX_BYTES: usize = 64 * 1024;
/// And when memory is shared by many accounts.
const TAIL_MIN_BYTES: usize = 4 * 1024;
/// The part of all that accounts keep in memory that tails may take, one in so many.
const TAILS_PART: usize = 4;

/// About what an operation takes beside its payload.
const ENVELOPE_BYTES: usize = 512;

/// An operation ready to be sent.
#[derive(Clone, Debug)]
pub struct EncodedOp {
    /// Its place in the log.
    pub seq: Seq,
    /// Who wrote it.
    pub client_id: Arc<str>,
    /// As JSON; empty when the operation is too large for the tail.
    pub json: Bytes,
    /// Bytes that it takes, or would take.
    weight: usize,
}

impl EncodedOp {
    /// Encodes a commit's operations for the tail, into one buffer of which each is a slice. One that the tail would not
    /// keep is not encoded: an import would be copied for nothing, on a thread that serves everybody.
    pub fn of_commit<'a>(ops: impl Iterator<Item = &'a StoredOp> + Clone) -> Vec<Self> {
        let fits = |op: &StoredOp| op.payload.len() <= TAIL_MAX_BYTES;
        let size = ops.clone().filter(|op| fits(op)).map(|op| op.payload.len() + ENVELOPE_BYTES).sum();
        let mut buffer = Vec::with_capacity(size);
        let ends: Vec<usize> = ops
            .clone()
            .map(|op| {
                if fits(op) {
                    response::encode_op(op, &mut buffer);
                }
                buffer.len()
            })
            .collect();
        // What was reserved in vain would be kept as long as the tail.
        let all = Bytes::from(buffer.into_boxed_slice());
        let mut start = 0;
        ops.zip(ends)
            .map(|(op, end)| {
                let json = all.slice(std::mem::replace(&mut start, end)..end);
                let weight = size_of::<Self>() + json.len().max(op.payload.len());
                Self { seq: op.server_seq, client_id: Arc::clone(&op.client_id), json, weight }
            })
            .collect()
    }
}

/// The newest operations of a log, without a hole up to the view's last sequence. One chunk per commit, so that
/// publishing copies pointers only.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    chunks: Vec<Arc<[EncodedOp]>>,
    ops: usize,
    bytes: usize,
    /// Every operation after this sequence is in the tail.
    after: Seq,
    /// Who wrote the newest operations.
    author: Option<Arc<str>>,
    /// The author wrote every operation after this sequence, also those that the tail has no room for.
    author_after: Seq,
}

impl Tail {
    /// An empty tail: nothing up to `after` is in it.
    #[must_use]
    pub const fn empty(after: Seq) -> Self {
        Self { chunks: Vec::new(), ops: 0, bytes: 0, after, author: None, author_after: after }
    }

    /// The sequence after which the tail is complete.
    #[must_use]
    pub const fn after(&self) -> Seq {
        self.after
    }

    /// Bytes that a tail may take while so many accounts are live and may keep `memory` bytes in all. A few hundred take
    /// what they like; of more, each takes its share when it next grows.
    #[must_use]
    pub fn room(memory: usize, live: usize) -> usize {
        (memory / TAILS_PART / live.max(1)).clamp(TAIL_MIN_BYTES, TAIL_MAX_BYTES)
    }

    /// The tail with newer operations, cut down to `room` bytes, and to its bound in operations, from the old end.
    #[must_use]
    pub fn extended(&self, new: Vec<EncodedOp>, room: usize) -> Self {
        let Some(last) = new.last().map(|op| op.seq) else { return self.clone() };
        let mut tail = self.clone();
        for op in &new {
            if tail.author.as_ref() != Some(&op.client_id) {
                tail.author = Some(Arc::clone(&op.client_id));
                tail.author_after = op.seq - 1;
            }
        }
        tail.ops += new.len();
        tail.bytes += new.iter().map(|op| op.weight).sum::<usize>();
        tail.chunks.push(new.into());
        let mut drop = 0;
        while tail.ops > TAIL_MAX_OPS || tail.bytes > room {
            let Some(chunk) = tail.chunks.get(drop) else { break };
            tail.ops -= chunk.len();
            tail.bytes -= chunk.iter().map(|op| op.weight).sum::<usize>();
            tail.after = chunk.last().map_or(last, |op| op.seq);
            drop += 1;
        }
        tail.chunks.drain(..drop);
        tail
    }

    /// Whether this device wrote whatever came after `after`: to a device that has just uploaded, which excludes its own
    /// operations, nothing is new then, and no log needs to be read to tell it so.
    #[must_use]
    pub fn only_by(&self, client_id: &str, after: Seq) -> bool {
        after >= self.author_after && self.author.as_deref().is_none_or(|author| author == client_id)
    }

    /// The operations after `after`, ascending.
    pub fn since(&self, after: Seq) -> impl Iterator<Item = &EncodedOp> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).filter(move |op| op.seq > after)
    }
}

/// An account as of its last commit.
#[derive(Clone, Debug)]
pub struct UserView {
    /// The state row and the quota.
    pub account: Arc<AccountState>,
    /// The newest operations.
    pub tail: Tail,
}

impl UserView {
    /// The view of an account that has just been loaded.
    #[must_use]
    pub fn loaded(account: AccountState) -> Self {
        let tail = Tail::empty(account.sync.last_seq);
        Self { account: Arc::new(account), tail }
    }

    /// Bytes that it keeps.
    #[must_use]
    pub fn weight(&self) -> usize {
        let sync = self.sync();
        let mark = sync.full_state.as_ref().map_or(0, |mark| mark.clock.weight() + mark.client_id.len());
        let chunks = self.tail.chunks.capacity() * size_of::<Arc<[EncodedOp]>>();
        // The actor's own copy of the row shares its clocks.
        2 * size_of::<AccountState>() + size_of::<Self>() + sync.clock.weight() + mark + chunks + self.tail.bytes
    }

    /// The log's state row.
    #[must_use]
    pub fn sync(&self) -> &SyncState {
        &self.account.sync
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{OpType, VectorClock};

    fn op(server_seq: Seq, payload_bytes: usize) -> StoredOp {
        StoredOp {
            server_seq,
            id: server_seq.to_string().into(),
            client_id: "A".into(),
            action_type: "x".into(),
            op_type: OpType::Update,
            entity_type: "TASK",
            entity_id: Some("t".into()),
            entity_ids: Vec::new(),
            payload: Bytes::from(vec![b'1'; payload_bytes]),
            storage_bytes: 1,
            vector_clock: VectorClock::new(),
            timestamp: 1,
            schema_version: 1,
            is_payload_encrypted: false,
            import_reason: None,
            repair_base_server_seq: None,
            received_at: 2,
        }
    }

    fn encoded(op: &StoredOp) -> EncodedOp {
        EncodedOp::of_commit(std::iter::once(op)).pop().expect("one for each")
    }

    #[test]
    fn a_tail_gives_way_when_many_accounts_are_live() {
        let room = |live| Tail::room(512 << 20, live);
        assert_eq!((room(0), room(2048)), (TAIL_MAX_BYTES, TAIL_MAX_BYTES));
        assert_eq!((room(16_384), room(1_000_000)), (8 * 1024, TAIL_MIN_BYTES));
        let tail = Tail::empty(0).extended(vec![encoded(&op(1, 6000))], TAIL_MAX_BYTES);
        let tail = tail.extended(vec![encoded(&op(2, 1000))], room(16_384));
        assert_eq!((tail.after(), tail.since(0).count()), (0, 2));
        let tail = tail.extended(vec![encoded(&op(3, 1000))], room(32_768));
        assert_eq!((tail.after(), tail.since(0).count()), (1, 2));
    }

    #[test]
    fn who_wrote_the_newest_operations_is_known_without_room_for_them() {
        let by = |seq, client: &str| encoded(&StoredOp { client_id: client.into(), ..op(seq, TAIL_MAX_BYTES + 1) });
        let tail = Tail::empty(5);
        assert!(tail.only_by("A", 5) && !tail.only_by("A", 4));
        let tail = tail.extended(vec![by(6, "A")], TAIL_MAX_BYTES).extended(vec![by(7, "A")], TAIL_MAX_BYTES);
        assert_eq!(tail.after(), 7, "no room");
        assert!(tail.only_by("A", 5) && !tail.only_by("A", 4) && !tail.only_by("B", 6));
        let tail = tail.extended(vec![by(8, "B"), by(9, "A")], TAIL_MAX_BYTES);
        assert!(tail.only_by("A", 8) && !tail.only_by("A", 7) && !tail.only_by("B", 8));
    }

    #[test]
    fn an_operation_beyond_the_bound_is_not_encoded_and_empties_the_tail() {
        let small = Tail::empty(0).extended(vec![encoded(&op(1, 10))], TAIL_MAX_BYTES);
        assert_eq!((small.after(), small.since(0).count()), (0, 1));
        let large = encoded(&op(2, TAIL_MAX_BYTES + 1));
        assert!(large.json.is_empty());
        let tail = small.extended(vec![large, encoded(&op(3, 10))], TAIL_MAX_BYTES);
        assert_eq!((tail.after(), tail.since(0).count(), tail.bytes), (3, 0, 0));
        let tail = tail.extended(vec![encoded(&op(4, 10))], TAIL_MAX_BYTES);
        assert_eq!((tail.after(), tail.since(3).count()), (3, 1));
    }
}
