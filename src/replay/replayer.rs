//! Replaying a range of the log with every check it needs (contract, section 10.1).

use bytes::Bytes;

use super::ReplayError;
use super::room::{Problem, Room, heap};
use super::state::State;
use crate::protocol::{Seq, StoredOp, follows};

/// Memory for a page of operations on its way in, besides the state.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// What a replay holds besides its state and the operations.
const OWN_BYTES: usize = 4 * 1024;
/// Steps for each byte that the state may have, and for each operation: what honest histories need, several times over.
const STEPS_PER_BYTE: u64 = 16;
const STEPS_PER_OP: u64 = 10_000;

/// Bounds of one replay (contract, section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most operations (100 000).
    pub max_ops: usize,
    /// Largest state, in bytes of compact JSON (100 MiB).
    pub max_state_bytes: usize,
    /// What it may hold on the heap at once: the state in its parts, operations, the result.
    pub max_memory_bytes: usize,
    /// What it may do; a step is about a nanosecond.
    pub max_steps: u64,
}

impl Limits {
    /// Bounds whose memory holds the largest state as text, and a quarter more for what is taken apart.
    #[must_use]
    pub fn new(max_ops: usize, max_state_bytes: usize) -> Self {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let for_bytes = number(max_state_bytes).saturating_mul(STEPS_PER_BYTE);
        Self {
            max_ops,
            max_state_bytes,
            max_memory_bytes: max_state_bytes.saturating_add(max_state_bytes / 4).saturating_add(PAGE_BYTES),
            max_steps: for_bytes.saturating_add(number(max_ops).saturating_mul(STEPS_PER_OP)),
        }
    }

    /// The same with a tenth of the memory, which is enough for nearly all accounts.
    #[must_use]
    pub const fn small(self) -> Self {
        Self { max_memory_bytes: self.max_state_bytes / 8 + PAGE_BYTES, ..self }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(100_000, 100 * 1024 * 1024)
    }
}

/// A state that was rebuilt.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// Compact JSON, in pieces that follow each other.
    pub json: Vec<Bytes>,
    /// What is left of the replay's memory.
    pub memory_left: usize,
}

/// Builds the state as of `target` from a base and all operations after it, fed in order.
///
/// The operations must be contiguous from the base on: a hole would give a state that no device ever had. The one
/// exception is a gap before the first of them if that is a causal full state, which forgets everything earlier anyway;
/// and numbers that never belonged to an operation ([`Replayer::sparse_up_to`]).
#[derive(Debug)]
pub struct Replayer {
    state: State,
    room: Room,
    last: Seq,
    sparse_up_to: Seq,
    target: Seq,
    applied: usize,
    limits: Limits,
}

impl Replayer {
    /// Starts with nothing after `base`, to end at `target`.
    #[must_use]
    pub fn new(base: Seq, target: Seq, limits: Limits) -> Self {
        let memory = limits.max_memory_bytes.saturating_sub(OWN_BYTES);
        let room = Room::new(memory, limits.max_state_bytes, limits.max_steps);
        Self { state: State::default(), room, last: base, sparse_up_to: 0, target, applied: 0, limits }
    }

    /// Numbers up to `seq` may belong to no operation.
    #[must_use]
    pub const fn sparse_up_to(mut self, seq: Seq) -> Self {
        self.sparse_up_to = seq;
        self
    }

    /// Gives up when `stop` says so; it is asked every few milliseconds.
    #[must_use]
    pub fn stop_when(mut self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.room.stop_when(Box::new(stop));
        self
    }

    /// Starts with a stored state, as an earlier replay gave it: what the operations up to the base make. Migrates it from
    /// `schema_version`.
    ///
    /// # Errors
    /// [`ReplayError::InvalidState`] when the text is no JSON object, or the version is not known; what exceeds a bound.
    pub fn start_with(&mut self, json: Bytes, schema_version: u8) -> Result<(), ReplayError> {
        self.take(json.len())?;
        self.state = State::from_json(json, schema_version, &mut self.room)?;
        Ok(self.room.json_is(self.state.json_len())?)
    }

    /// Takes memory for something that belongs to the replay but lies outside: what is being read for it.
    ///
    /// # Errors
    /// [`ReplayError::OutOfMemory`] when there is not so much left.
    pub fn take(&mut self, bytes: usize) -> Result<(), ReplayError> {
        self.room.take(heap(bytes)).map_err(ReplayError::from)
    }

    /// Gives back what was taken.
    pub const fn give(&mut self, bytes: usize) {
        self.room.give(heap(bytes));
    }

    /// Applies the next operations, for which `expected` bytes had been taken before they were read.
    ///
    /// # Errors
    /// Any [`ReplayError`]; the replay can't go on then.
    pub fn push_all(&mut self, ops: Vec<StoredOp>, expected: usize) -> Result<(), ReplayError> {
        self.give(expected);
        self.take(ops.iter().map(memory_of).sum())?;
        for op in ops {
            self.give(memory_of(&op));
            self.push(op)?;
        }
        Ok(())
    }

    /// Applies the next operation.
    ///
    /// # Errors
    /// Any [`ReplayError`]; the replay can't go on then.
    pub fn push(&mut self, op: StoredOp) -> Result<(), ReplayError> {
        let (expected, found) = (self.last + 1, op.server_seq);
        let gap_is_forgotten = self.applied == 0 && found > expected && op.is_causal_full_state();
        if !gap_is_forgotten && !follows(self.last, found, self.sparse_up_to) {
            return Err(ReplayError::Hole { expected, found: Some(found) });
        }
        if found > self.target {
            return Err(ReplayError::BeyondTarget { target: self.target, found });
        }
        if self.applied == self.limits.max_ops {
            return Err(ReplayError::TooManyOps { max: self.limits.max_ops });
        }
        let payload = op.payload.len();
        self.take(payload)?;
        if !self.state.apply(op, &mut self.room)? {
            self.give(payload);
        }
        self.room.json_is(self.state.json_len())?;
        self.applied += 1;
        self.last = found;
        Ok(())
    }

    /// Where the next operation has to be read from: everything up to here is in the state.
    #[must_use]
    pub const fn position(&self) -> Seq {
        self.last
    }

    /// The state as of the target.
    ///
    /// # Errors
    /// [`ReplayError::Hole`] when the log ended before the target; what exceeds a bound.
    pub fn finish(mut self) -> Result<Rebuilt, ReplayError> {
        if self.last != self.target && self.target > self.sparse_up_to {
            return Err(ReplayError::Hole { expected: self.last + 1, found: None });
        }
        let json = self.state.into_json(&mut self.room)?;
        Ok(Rebuilt { json, memory_left: self.room.left() })
    }
}

/// About what an operation takes in memory.
fn memory_of(op: &StoredOp) -> usize {
    let ids = op.entity_ids.iter().chain(&op.entity_id).map(|id| heap(id.len()) + 32);
    let clock = op.vector_clock.iter().map(|(client, _)| heap(client.len()) + 48);
    let texts = [op.id.len(), op.client_id.len(), op.action_type.len(), op.payload.len()].map(|len| heap(len) + 16);
    size_of::<StoredOp>() + ids.sum::<usize>() + clock.sum::<usize>() + texts.iter().sum::<usize>()
}

impl From<Problem> for ReplayError {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::TooLarge(max) => Self::TooLarge { max },
            Problem::Full => Self::OutOfMemory,
            Problem::Exhausted => Self::TooMuchWork,
            Problem::Stopped => Self::Stopped,
            Problem::NotAnObject | Problem::Unreadable | Problem::TooManyMembers => Self::InvalidState,
        }
    }
}
