//! What the actor publishes after each commit, and everything that reads answer from: immutable, shared, complete up to
//! its last sequence. A reader that holds a view never needs the actor.

use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::{Seq, StoredOp, response};
use crate::store::{AccountState, SyncState};

/// Operations kept encoded in memory per account.
const TAIL_MAX_OPS: usize = 256;
/// Bytes kept encoded in memory per account; the newest operation is kept whatever its size, unless it is larger than
/// this.
const TAIL_MAX_BYTES: usize = 256 * 1024;

/// An operation ready to be sent.
#[derive(Clone, Debug)]
pub struct EncodedOp {
    /// Its place in the log.
    pub seq: Seq,
    /// Who wrote it.
    pub client_id: Box<str>,
    /// As JSON.
    pub json: Bytes,
}

impl EncodedOp {
    /// Encodes a stored operation for the wire.
    #[must_use]
    pub fn new(op: &StoredOp) -> Self {
        let mut json = Vec::with_capacity(op.payload.len() + 512);
        response::encode_op(op, &mut json);
        Self { seq: op.server_seq, client_id: op.client_id.as_str().into(), json: json.into() }
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
}

impl Tail {
    /// An empty tail: nothing up to `after` is in it.
    #[must_use]
    pub const fn empty(after: Seq) -> Self {
        Self { chunks: Vec::new(), ops: 0, bytes: 0, after }
    }

    /// The sequence after which the tail is complete.
    #[must_use]
    pub const fn after(&self) -> Seq {
        self.after
    }

    /// The tail with newer operations, cut down to its bounds from the old end.
    #[must_use]
    pub fn extended(&self, new: Vec<EncodedOp>) -> Self {
        let Some(last) = new.last().map(|op| op.seq) else { return self.clone() };
        let mut tail = self.clone();
        tail.ops += new.len();
        tail.bytes += new.iter().map(|op| op.json.len()).sum::<usize>();
        tail.chunks.push(new.into());
        let mut drop = 0;
        while tail.ops > TAIL_MAX_OPS || tail.bytes > TAIL_MAX_BYTES {
            let Some(chunk) = tail.chunks.get(drop) else { break };
            tail.ops -= chunk.len();
            tail.bytes -= chunk.iter().map(|op| op.json.len()).sum::<usize>();
            tail.after = chunk.last().map_or(last, |op| op.seq);
            drop += 1;
        }
        tail.chunks.drain(..drop);
        tail
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

    /// The log's state row.
    #[must_use]
    pub fn sync(&self) -> &SyncState {
        &self.account.sync
    }
}
