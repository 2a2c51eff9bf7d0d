//! A state row and the heads, derived again from the log: for an account whose row was lost, and for test mode, which
//! cuts logs short. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::op::{TIME_DELTA_ACTION, is_causal_full_state};
use crate::protocol::{OpType, Seq, StoredOp, VectorClock};

use super::{EntityHead, EntityKey, FullStateMark, LEGACY_MISC, SyncState};

/// An operation without its payload.
#[derive(Debug)]
pub(super) struct OpTrace {
    pub(super) seq: Seq,
    pub(super) client_id: Arc<str>,
    pub(super) action_type: Arc<str>,
    pub(super) op_type: OpType,
    pub(super) entity_type: &'static str,
    pub(super) entity_id: Option<Arc<str>>,
    pub(super) entity_ids: Vec<Arc<str>>,
    pub(super) storage_bytes: i64,
    pub(super) clock: VectorClock,
    pub(super) schema_version: u8,
    pub(super) repair_base_server_seq: Option<Seq>,
}

impl From<StoredOp> for OpTrace {
    fn from(op: StoredOp) -> Self {
        Self {
            seq: op.server_seq,
            client_id: op.client_id,
            action_type: op.action_type,
            op_type: op.op_type,
            entity_type: op.entity_type,
            entity_id: op.entity_id,
            entity_ids: op.entity_ids,
            storage_bytes: op.storage_bytes,
            clock: op.vector_clock,
            schema_version: op.schema_version,
            repair_base_server_seq: op.repair_base_server_seq,
        }
    }
}

/// What a log says about its account.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) state: SyncState,
    pub(super) heads: Vec<(EntityKey, EntityHead)>,
}

/// Derives everything from `ops`, which are the data set's operations in ascending order. Generation, base and snapshot
/// are kept from `old` as far as they still fit; the revision grows.
pub(super) fn rebuild(old: &SyncState, ops: &[OpTrace]) -> Rebuilt {
    let mut rebuilding = Rebuilding::of(old);
    for op in ops {
        rebuilding.add(op);
    }
    let (mut state, heads) = rebuilding.done();
    state.pruned_seq = ops.first().map_or(old.base_seq, |_| old.pruned_seq);
    state.sealed_seq = old.sealed_seq.min(state.last_seq);
    state.snapshot = old.snapshot.filter(|snapshot| snapshot.seq <= state.last_seq && state.last_seq > old.base_seq);
    state.storage_used_bytes += state.snapshot.map_or(0, |snapshot| snapshot.bytes);
    Rebuilt { state, heads: heads.collect() }
}

/// A state row and heads, growing with each operation.
#[derive(Debug)]
pub(super) struct Rebuilding {
    state: SyncState,
    heads: HashMap<EntityKey, EntityHead>,
}

impl Rebuilding {
    /// Begins with no operation. Generation, base and what is pruned and sealed are those of `old`; the revision grows.
    pub(super) fn of(old: &SyncState) -> Self {
        let state = SyncState {
            revision: old.revision + 1,
            generation: old.generation,
            base_seq: old.base_seq,
            pruned_seq: old.pruned_seq,
            last_seq: old.base_seq,
            sealed_seq: old.sealed_seq,
            sealed_max_op_id: old.sealed_max_op_id.clone(),
            sparse_up_to: old.sparse_up_to,
            replacement_seq: Some(0),
            ..SyncState::default()
        };
        Self { state, heads: HashMap::new() }
    }

    /// Takes account of the next operation.
    pub(super) fn add(&mut self, op: &OpTrace) {
        let state = &mut self.state;
        state.last_seq = op.seq;
        state.storage_used_bytes += op.storage_bytes;
        state.clock.merge(&op.clock);
        if is_causal_full_state(op.op_type, op.repair_base_server_seq) {
            state.full_state =
                Some(FullStateMark { seq: op.seq, client_id: op.client_id.to_string(), clock: state.clock.clone() });
        }
        if op.op_type.is_state_replacement() {
            state.replacement_seq = Some(op.seq);
        }
        add_heads(&mut self.heads, op);
    }

    /// The newest causal full state, if it is operation `seq`, covers what this clock says too.
    pub(super) fn covers(&mut self, seq: Seq, clock: &VectorClock) {
        if let Some(mark) = self.state.full_state.as_mut().filter(|mark| mark.seq == seq) {
            mark.clock.merge(clock);
            self.state.clock.merge(clock);
        }
    }

    /// What it has come to.
    pub(super) fn done(mut self) -> (SyncState, impl Iterator<Item = (EntityKey, EntityHead)>) {
        self.state.heads_seq = self.state.last_seq;
        (self.state, self.heads.into_iter())
    }
}

/// The heads that stored operations, in ascending order, make: the newest of each entity.
#[must_use]
pub fn heads_of_ops(ops: &[StoredOp]) -> Vec<(EntityKey, EntityHead)> {
    let traces: Vec<OpTrace> = ops.iter().cloned().map(OpTrace::from).collect();
    heads_of(&traces)
}

/// The heads that operations, in ascending order, make: the newest of each entity.
pub(super) fn heads_of(ops: &[OpTrace]) -> Vec<(EntityKey, EntityHead)> {
    let mut heads = HashMap::new();
    for op in ops {
        add_heads(&mut heads, op);
    }
    heads.into_iter().collect()
}

fn add_heads(heads: &mut HashMap<EntityKey, EntityHead>, op: &OpTrace) {
    for id in op.entity_id.iter().chain(&op.entity_ids) {
        let head = EntityHead {
            seq: op.seq,
            client_id: Arc::clone(&op.client_id),
            clock: op.clock.clone(),
            is_time_delta: &*op.action_type == TIME_DELTA_ACTION,
        };
        if op.entity_type == "GLOBAL_CONFIG" && &**id == "misc" && op.schema_version < 2 {
            heads.insert(EntityKey::new(LEGACY_MISC, id), head.clone());
        }
        heads.insert(EntityKey::new(op.entity_type, id), head);
    }
}
