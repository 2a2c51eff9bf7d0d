//! How operations of an archived data set look when they are appended again. Pure.
//!
//! Devices recognise an operation by its id, leave out in a download what bears their own name, and drop what a newer
//! full state does not know of, by its clock (ADR 0012). So a set that begins with a full state comes back as
//! if a new device had made a clean slate with it and then every change that followed: new ids, one new author, whose
//! clock counts up. The payloads, which the server may be unable to read, stay as they are.
//!
//! A set without a full state can only come back to devices that never lost it; they recognise it by being unchanged.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};
use uuid::{Builder, Uuid};

use crate::engine::user::plan::bounded_history;
use crate::protocol::charge::charged_bytes;
use crate::protocol::op::is_causal_full_state;
use crate::protocol::{ImportReason, OpType, Seq, StoredOp, VectorClock};
use crate::store::{EntityHead, EntityKey, FullStateMark, heads_of_ops};

/// Characters of the author's random part.
const AUTHOR_CHARS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Ids that share a millisecond, told apart and ordered by twelve bits.
const IDS_PER_MS: u64 = 1 << 12;

/// Random bytes for ids and names.
pub(super) type Random = fn() -> [u8; 10];

/// Who appends the operations again.
#[derive(Debug)]
struct Author {
    client_id: Arc<str>,
    /// Counted up by each operation.
    counter: u32,
    /// Time of the first id, Unix milliseconds.
    first_ms: u64,
    random: Random,
}

impl Author {
    /// The next id: a version 7 UUID above all before.
    fn next_id(&self) -> Arc<str> {
        let nth = u64::from(self.counter) - 1;
        let mut bytes = (self.random)();
        let [high, low] = u16::try_from(nth % IDS_PER_MS).expect("below 4096").to_be_bytes();
        (bytes[0], bytes[1]) = (high, low);
        let id = Builder::from_unix_timestamp_millis(self.first_ms.saturating_add(nth / IDS_PER_MS), &bytes);
        id.into_uuid().to_string().into()
    }
}

/// Turns archived operations, one after the other, into those of the data set that they become, and keeps account of what
/// that set is.
#[derive(Debug)]
pub(super) struct Stamp {
    author: Option<Author>,
    /// From an operation's old place to its new one.
    shift: Seq,
    /// The old place of the full state that devices start from.
    start: Option<Seq>,
    /// What the set is charged.
    pub(super) bytes: i64,
    /// Per client the maximum over all clocks.
    pub(super) clock: VectorClock,
    /// The newest causal full state.
    pub(super) full_state: Option<FullStateMark>,
    /// The latest operation of each entity.
    pub(super) heads: HashMap<EntityKey, EntityHead>,
}

impl Stamp {
    /// For a set whose newest causal full state is at `start`. Ids begin at `first_ms`, Unix milliseconds: later than any
    /// full state that a device may know, for in older releases the highest id decides which one is in force.
    pub(super) fn of_new_author(shift: Seq, start: Seq, first_ms: u64, random: Random) -> Self {
        let mut name = String::from("R_");
        name.extend(random().iter().take(AUTHOR_CHARS).map(|byte| char::from(ALPHABET[usize::from(*byte) % 62])));
        let author = Author { client_id: name.into(), counter: 0, first_ms, random };
        Self { author: Some(author), start: Some(start), ..Self::unchanged(shift) }
    }

    /// For a set without one: only the sequences change.
    pub(super) fn unchanged(shift: Seq) -> Self {
        Self {
            author: None,
            shift,
            start: None,
            bytes: 0,
            clock: VectorClock::new(),
            full_state: None,
            heads: HashMap::new(),
        }
    }

    /// The operations as they are appended again.
    pub(super) fn apply(&mut self, mut ops: Vec<StoredOp>) -> Vec<StoredOp> {
        for op in &mut ops {
            self.one(op);
        }
        self.heads.extend(heads_of_ops(&ops));
        ops
    }

    fn one(&mut self, op: &mut StoredOp) {
        if self.start == Some(op.server_seq) {
            // Before an import a device asks its user what to do with changes of its own; on top of a repair, which it takes
            // for housekeeping, it would apply them unasked. Both carry the state in the same way.
            if op.op_type == OpType::Repair {
                op.op_type = OpType::SyncImport;
                op.repair_base_server_seq = None;
            }
            op.import_reason = Some(ImportReason::BackupRestore);
        }
        op.server_seq += self.shift;
        // A repair says how far its author had seen the log, 0 being an empty one.
        op.repair_base_server_seq = op.repair_base_server_seq.map(|base| if base > 0 { base + self.shift } else { 0 });
        if let Some(author) = &mut self.author {
            author.counter += 1;
            op.id = author.next_id();
            op.client_id = Arc::clone(&author.client_id);
            op.vector_clock = VectorClock::from_entries([(Arc::clone(&author.client_id), author.counter)]);
        }
        op.storage_bytes = charged_bytes(op);
        self.bytes = self.bytes.saturating_add(op.storage_bytes);
        self.clock.merge(&op.vector_clock);
        self.clock = bounded_history(std::mem::take(&mut self.clock), &op.client_id);
        if is_causal_full_state(op.op_type, op.repair_base_server_seq) {
            let (client_id, clock) = (op.client_id.to_string(), self.clock.clone());
            self.full_state = Some(FullStateMark { seq: op.server_seq, client_id, clock });
        }
    }
}

/// A time after that of every id among these that bears one, Unix milliseconds; at least `now_ms`.
pub(super) fn time_after<'a>(ids: impl IntoIterator<Item = &'a str>, now_ms: i64) -> u64 {
    let time_of = |id: &str| {
        let id = Uuid::parse_str(id).ok().filter(|id| id.get_version_num() == 7)?;
        let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
        Some(seconds * 1000 + u64::from(nanoseconds / 1_000_000) + 1)
    };
    ids.into_iter().filter_map(time_of).fold(u64::try_from(now_ms).unwrap_or(0), u64::max)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn op(server_seq: Seq, client: &str, op_type: OpType, task: Option<&str>) -> StoredOp {
        StoredOp {
            server_seq,
            id: format!("old-{server_seq}").into(),
            client_id: client.into(),
            action_type: "x".into(),
            op_type,
            entity_type: if task.is_some() { "TASK" } else { "ALL" },
            entity_id: task.map(Into::into),
            entity_ids: Vec::new(),
            payload: Bytes::from_static(b"\"opaque\""),
            storage_bytes: 99,
            vector_clock: VectorClock::from_entries([(client.into(), 7)]),
            timestamp: 1,
            schema_version: 4,
            is_payload_encrypted: true,
            import_reason: None,
            repair_base_server_seq: None,
            received_at: 2,
        }
    }

    fn random() -> [u8; 10] {
        [0x5a; 10]
    }

    #[test]
    fn a_set_with_a_full_state_is_what_a_new_device_would_have_written() {
        let old = vec![
            op(11, "A", OpType::Update, Some("t1")),
            op(12, "B", OpType::SyncImport, None),
            op(13, "A", OpType::Update, Some("t1")),
        ];
        let mut stamp = Stamp::of_new_author(100, 12, NOW, random);
        let new = stamp.apply(old.clone());
        assert!(new.iter().map(|op| op.server_seq).eq(111..=113));
        let author = &new[0].client_id;
        assert!(author.starts_with("R_") && author.len() == 8 && new.iter().all(|op| op.client_id == *author));
        let counters: Vec<u32> = new.iter().map(|op| op.vector_clock.get(author)).collect();
        assert_eq!((counters.as_slice(), new[2].vector_clock.len()), ([1, 2, 3].as_slice(), 1));
        assert!(new.windows(2).all(|pair| pair[0].id < pair[1].id));
        for (new, old) in new.iter().zip(&old) {
            assert_eq!((&new.payload, new.op_type, &new.entity_id), (&old.payload, old.op_type, &old.entity_id));
            assert_eq!((new.timestamp, new.received_at, new.schema_version), (1, 2, 4));
        }
        let mark = stamp.full_state.expect("there is one");
        assert_eq!((mark.seq, mark.clock.get(author), mark.client_id.as_str()), (112, 2, &**author));
        assert_eq!(stamp.clock.get(author), 3);
        assert_eq!(stamp.bytes, new.iter().map(|op| op.storage_bytes).sum::<i64>());
        let heads: Vec<Seq> = stamp.heads.values().map(|head| head.seq).collect();
        assert_eq!(heads, [113]);
        let reasons: Vec<_> = new.iter().map(|op| op.import_reason).collect();
        assert_eq!(reasons, [None, Some(ImportReason::BackupRestore), None]);
    }

    #[test]
    fn devices_start_from_an_import_even_if_it_was_a_repair() {
        let repair = StoredOp { repair_base_server_seq: Some(4), ..op(5, "A", OpType::Repair, None) };
        let mut stamp = Stamp::of_new_author(10, 5, NOW, random);
        let new = stamp.apply(vec![repair]);
        assert_eq!((new[0].op_type, new[0].repair_base_server_seq), (OpType::SyncImport, None));
        assert_eq!(stamp.full_state.expect("it is causal").seq, 15);
    }

    #[test]
    fn a_set_without_a_full_state_only_moves() {
        let old = vec![op(1, "A", OpType::Create, Some("t1")), op(2, "B", OpType::Update, Some("t1"))];
        let mut stamp = Stamp::unchanged(10);
        let new = stamp.apply(old.clone());
        for (new, old) in new.iter().zip(&old) {
            assert_eq!((&new.id, &new.client_id, &new.vector_clock), (&old.id, &old.client_id, &old.vector_clock));
            assert_eq!(new.server_seq, old.server_seq + 10);
        }
        assert_eq!((stamp.full_state, stamp.clock.get("A"), stamp.clock.get("B")), (None, 7, 7));
    }

    #[test]
    fn a_repair_is_causal_with_its_base_only_and_its_base_moves_along() {
        let with_base = |base| StoredOp { repair_base_server_seq: base, ..op(5, "A", OpType::Repair, None) };
        for (base, moved, causal) in [(None, None, false), (Some(4), Some(14), true), (Some(0), Some(0), true)] {
            let mut stamp = Stamp::of_new_author(10, 99, NOW, random);
            let new = stamp.apply(vec![with_base(base)]);
            assert_eq!((new[0].repair_base_server_seq, stamp.full_state.is_some()), (moved, causal));
        }
    }

    #[test]
    fn ids_ascend_beyond_a_millisecond() {
        let ops: Vec<StoredOp> = (1..=5000).map(|seq| op(seq, "A", OpType::Update, Some("t"))).collect();
        let new = Stamp::of_new_author(0, 1, NOW, random).apply(ops);
        assert!(new.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(new.iter().all(|op| Uuid::parse_str(&op.id).expect("a UUID").get_version_num() == 7));
    }

    #[test]
    fn ids_begin_after_every_known_full_state() {
        let at = |ms: u64| Builder::from_unix_timestamp_millis(ms, &[0xff; 10]).into_uuid().to_string();
        let now = i64::try_from(NOW).expect("a time");
        assert_eq!(time_after([], now), NOW);
        assert_eq!(time_after(["no uuid", "018f0000-0000-4000-8000-000000000000"], now), NOW);
        assert_eq!(time_after([at(NOW - 5).as_str(), at(NOW + 5).as_str(), at(3).as_str()], now), NOW + 6);
    }
}
