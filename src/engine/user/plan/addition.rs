//! What requests add to the log, as plain data, and the few ways in which it grows.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};
use smallvec::SmallVec;

use crate::engine::user::requests::{Remembered, RequestKey};
use crate::protocol::charge::charged_bytes;
use crate::protocol::limits::{MAX_CLOCK_DRIFT_MS, MAX_CLOCK_STORED};
use crate::protocol::{Seq, StoredOp, ValidOp, VectorClock};
use crate::store::{
    Adoption, ArchiveReason, ArchivedRange, EntityHead, EntityKey, FullStateMark, LEGACY_MISC, Segment, SnapshotChange,
    SyncState,
};

/// Devices remembered in the clock of a whole data set. Clients get 20 of its entries; the bound keeps a device that
/// makes up client ids from growing the account's row.
const MAX_HISTORY_CLOCK: usize = 1000;
/// Bytes of their names: the app's come to a tenth of it. The row is written with every commit.
const MAX_HISTORY_BYTES: usize = 64 * 1024;
/// With so few devices the longest names there are stay below that.
const FEW_DEVICES: usize = 64;

/// The clock of a whole data set to which this client's operation has just come, within its bound.
#[must_use]
pub fn bounded_history(mut clock: VectorClock, client_id: &str) -> VectorClock {
    if clock.len() > MAX_HISTORY_CLOCK {
        clock = clock.cut_to(MAX_HISTORY_CLOCK / 2, [client_id]);
    }
    while clock.len() > FEW_DEVICES && clock.iter().map(|(id, _)| id.len()).sum::<usize>() > MAX_HISTORY_BYTES {
        clock = clock.cut_to(clock.len() / 2, [client_id]);
    }
    clock
}

/// What one request, or all before it, add to the log.
#[derive(Clone, Debug)]
pub(super) struct Addition {
    pub(super) sync: SyncState,
    pub(super) ops: Vec<(i64, StoredOp)>,
    pub(super) heads: HashMap<EntityKey, EntityHead>,
    /// Entities that were taken to have no stored head.
    pub(super) absent: Vec<EntityKey>,
    /// Operations of the current generation by id, as indexes into `ops`.
    pub(super) ids: HashMap<Arc<str>, usize>,
    pub(super) archived: Vec<ArchivedRange>,
    pub(super) snapshot: SnapshotChange,
    pub(super) seal: Vec<Segment>,
    pub(super) adoption: Option<Adoption>,
    pub(super) clear_devices: bool,
    pub(super) devices: Vec<(String, i64)>,
    pub(super) new_data_set: bool,
    pub(super) answers: Vec<(RequestKey, Remembered)>,
    pub(super) authors: Vec<Arc<str>>,
    /// Where the newest causal full state that is known lies, and whether it is encrypted.
    pub(super) encryption: Option<(Seq, bool)>,
    pub(super) changed: bool,
}

impl Addition {
    /// Nothing, on top of a state.
    pub(super) fn on(sync: SyncState) -> Self {
        Self {
            sync,
            ops: Vec::new(),
            heads: HashMap::new(),
            absent: Vec::new(),
            ids: HashMap::new(),
            archived: Vec::new(),
            snapshot: SnapshotChange::Keep,
            seal: Vec::new(),
            adoption: None,
            clear_devices: false,
            devices: Vec::new(),
            new_data_set: false,
            answers: Vec::new(),
            authors: Vec::new(),
            encryption: None,
            changed: false,
        }
    }

    /// The operation that this addition stores under an id in the current data set.
    pub(super) fn stored(&self, id: &str) -> Option<&StoredOp> {
        self.ids.get(id).and_then(|at| self.ops.get(*at)).map(|(_, op)| op)
    }

    /// Joins what a request adds on top of this.
    pub(super) fn absorb(&mut self, next: Self) {
        if next.new_data_set {
            self.heads.clear();
            self.absent.clear();
            self.ids.clear();
            self.devices.clear();
            self.answers.clear();
        }
        let offset = self.ops.len();
        self.sync = next.sync;
        self.ops.extend(next.ops);
        self.heads.extend(next.heads);
        self.absent.extend(next.absent);
        self.ids.extend(next.ids.into_iter().map(|(id, at)| (id, at + offset)));
        self.archived.extend(next.archived);
        if next.snapshot != SnapshotChange::Keep {
            self.snapshot = next.snapshot;
        }
        self.seal.extend(next.seal);
        self.adoption = next.adoption.or(self.adoption);
        self.clear_devices |= next.clear_devices;
        for (client_id, at) in next.devices {
            self.touch(&client_id, at);
        }
        self.new_data_set |= next.new_data_set;
        self.answers.extend(next.answers);
        self.authors.extend(next.authors);
        self.encryption = next.encryption.or(self.encryption);
        self.changed |= next.changed;
    }

    /// Appends an operation that has been judged acceptable (section 5.9); `keys` are [`entity_keys`] of it.
    pub(super) fn accept(&mut self, op: &ValidOp, keys: &[EntityKey], now_ms: i64) -> Seq {
        let sync = &mut self.sync;
        sync.last_seq += 1;
        let seq = sync.last_seq;
        let causal = op.is_causal_full_state();
        let author = if causal {
            Some(Arc::clone(&op.client_id))
        } else if op.vector_clock.len() > MAX_CLOCK_STORED {
            sync.full_state.as_ref().map(|mark| mark.client_id.as_str().into())
        } else {
            None
        };
        let preserve = std::iter::once(&*op.client_id).chain(author.as_deref());
        let clock = op.vector_clock.pruned(preserve);
        if causal {
            let mut merged = sync.clock.clone();
            merged.merge(&op.vector_clock);
            merged = bounded_history(merged, &op.client_id);
            sync.full_state = Some(FullStateMark { seq, client_id: op.client_id.to_string(), clock: merged });
            self.encryption = Some((seq, op.is_payload_encrypted));
        }
        if op.op_type.is_state_replacement() {
            sync.replacement_seq = Some(seq);
        }
        sync.clock.merge(&clock);
        sync.clock = bounded_history(std::mem::take(&mut sync.clock), &op.client_id);
        let stored = stored_op(op, seq, clock, now_ms);
        sync.storage_used_bytes += stored.storage_bytes;
        let is_misc =
            op.entity_type == "GLOBAL_CONFIG" && op.schema_version < 2 && op.entity_id.as_deref() == Some("misc");
        let legacy = is_misc.then(|| EntityKey::new(LEGACY_MISC, "misc"));
        for key in keys.iter().copied().chain(legacy) {
            let head = EntityHead {
                seq,
                client_id: Arc::clone(&op.client_id),
                clock: stored.vector_clock.clone(),
                is_time_delta: op.is_time_delta(),
            };
            self.heads.insert(key, head);
        }
        self.ids.insert(Arc::clone(&stored.id), self.ops.len());
        self.ops.push((sync.generation, stored));
        seq
    }

    /// Records that a device was seen.
    pub(super) fn touch(&mut self, client_id: &str, now_ms: i64) {
        if !self.devices.iter().any(|(known, _)| known == client_id) {
            self.devices.push((client_id.to_owned(), now_ms));
        }
    }

    /// Takes the data set's oldest part, up to and with `up_to`, out of it.
    pub(super) fn prune(&mut self, up_to: Seq, bytes: i64, reason: ArchiveReason, archived_at: i64) {
        let sync = &mut self.sync;
        let range = ArchivedRange {
            generation: sync.generation,
            from_seq: sync.pruned_seq + 1,
            to_seq: up_to,
            reason,
            bytes,
            archived_at,
        };
        sync.pruned_seq = up_to;
        sync.storage_used_bytes = (sync.storage_used_bytes - bytes).max(0);
        if sync.snapshot.is_some_and(|snapshot| snapshot.seq <= up_to) {
            self.drop_snapshot();
        }
        self.archived.push(range);
        self.changed = true;
    }

    /// Gives up the cached state.
    pub(super) fn drop_snapshot(&mut self) {
        if let Some(old) = self.sync.snapshot.take() {
            self.sync.storage_used_bytes = (self.sync.storage_used_bytes - old.bytes).max(0);
            self.snapshot = SnapshotChange::Clear;
        }
    }

    /// Starts a new, empty data set above the highest sequence ever given out; what was there goes to the archive
    /// (sections 7.3, 8.4, 17.1).
    pub(super) fn start_data_set(&mut self, reason: ArchiveReason, now_ms: i64) {
        self.drop_snapshot();
        let sync = &mut self.sync;
        if sync.last_seq > sync.pruned_seq {
            self.archived.push(ArchivedRange {
                generation: sync.generation,
                from_seq: sync.pruned_seq + 1,
                to_seq: sync.last_seq,
                reason,
                bytes: sync.storage_used_bytes,
                archived_at: now_ms,
            });
        }
        sync.generation += 1;
        sync.base_seq = sync.last_seq;
        sync.pruned_seq = sync.last_seq;
        sync.heads_seq = sync.last_seq;
        sync.sealed_seq = sync.last_seq;
        sync.sealed_max_op_id = None;
        sync.clock = VectorClock::new();
        sync.full_state = None;
        sync.replacement_seq = Some(0);
        sync.storage_used_bytes = 0;
        self.clear_devices = true;
        self.new_data_set = true;
        self.changed = true;
    }
}

/// The entities that an operation touches: it becomes the latest operation of each when it is accepted.
pub(super) fn entity_keys(op: &ValidOp) -> SmallVec<[EntityKey; 2]> {
    op.conflict_ids().into_iter().map(|id| EntityKey::new(op.entity_type, id)).collect()
}

fn stored_op(op: &ValidOp, seq: Seq, clock: VectorClock, now_ms: i64) -> StoredOp {
    let mut stored = StoredOp {
        server_seq: seq,
        id: op.id.clone(),
        client_id: op.client_id.clone(),
        action_type: op.action_type.clone(),
        op_type: op.op_type,
        entity_type: op.entity_type,
        entity_id: op.entity_id.clone(),
        entity_ids: op.stored_entity_ids(),
        payload: op.payload.clone(),
        storage_bytes: 0,
        vector_clock: clock,
        timestamp: op.timestamp.min(now_ms + MAX_CLOCK_DRIFT_MS),
        schema_version: op.schema_version,
        is_payload_encrypted: op.is_payload_encrypted,
        import_reason: op.import_reason,
        repair_base_server_seq: op.repair_base_server_seq,
        received_at: now_ms,
    };
    stored.storage_bytes = charged_bytes(&stored);
    stored
}
