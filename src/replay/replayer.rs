//! Replaying a range of the log with every check it needs (contract, section 10.1).

use super::{ReplayError, State};
use crate::protocol::{Seq, StoredOp, follows};

/// Bounds of one replay (contract, section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most operations (100 000).
    pub max_ops: usize,
    /// Largest state, in bytes of compact JSON (100 MiB).
    pub max_state_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_ops: 100_000, max_state_bytes: 100 * 1024 * 1024 }
    }
}

/// Builds the state as of `target` from a base and all operations after it, fed in order.
///
/// The operations must be contiguous from the base on: a hole would give a state that no device ever had. The one
/// exception is a gap before the first of them if that is a causal full state, which forgets everything earlier anyway;
/// and numbers that never belonged to an operation ([`Replayer::sparse_up_to`]).
#[derive(Debug)]
pub struct Replayer {
    state: State,
    last: Seq,
    sparse_up_to: Seq,
    target: Seq,
    applied: usize,
    limits: Limits,
}

impl Replayer {
    /// Starts at `base`, the last operation that `state` includes (0 with [`State::empty`]), to end at `target`.
    ///
    /// # Errors
    /// [`ReplayError::TooLarge`] when the base exceeds the bound already.
    pub fn new(state: State, base: Seq, target: Seq, limits: Limits) -> Result<Self, ReplayError> {
        let replayer = Self { state, last: base, sparse_up_to: 0, target, applied: 0, limits };
        replayer.check_size()?;
        Ok(replayer)
    }

    /// Numbers up to `seq` may belong to no operation.
    #[must_use]
    pub const fn sparse_up_to(mut self, seq: Seq) -> Self {
        self.sparse_up_to = seq;
        self
    }

    /// Applies the next operation.
    ///
    /// # Errors
    /// Any [`ReplayError`]; the replay can't go on then.
    pub fn push(&mut self, op: &StoredOp) -> Result<(), ReplayError> {
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
        self.state.apply(op)?;
        self.check_size()?;
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
    /// [`ReplayError::Hole`] when the log ended before the target.
    pub fn finish(self) -> Result<State, ReplayError> {
        if self.last == self.target || self.target <= self.sparse_up_to {
            Ok(self.state)
        } else {
            Err(ReplayError::Hole { expected: self.last + 1, found: None })
        }
    }

    fn check_size(&self) -> Result<(), ReplayError> {
        let max = self.limits.max_state_bytes;
        if self.state.json_len() > max { Err(ReplayError::TooLarge { max }) } else { Ok(()) }
    }
}
