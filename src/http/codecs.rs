//! Turns at packing and unpacking what is large. So many are at work at once as there are cores: more gain nothing and cost
//! memory. How many an account may have waiting is bounded, so that those of others don't wait behind them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{Pool, PoolPermit, Refused, Resource};
use crate::protocol::UserId;

/// Turns waited for or taken, in all and of one account.
const TURNS: usize = 256;
const TURNS_PER_ACCOUNT: usize = 4;

/// Who may pack or unpack.
#[derive(Debug)]
pub struct Codecs {
    turns: Pool,
    running: Arc<Semaphore>,
}

/// A turn; it ends on drop.
#[must_use = "dropping it ends it"]
pub struct Turn {
    _turn: PoolPermit,
    _running: Option<OwnedSemaphorePermit>,
}

impl Codecs {
    /// With as many at work at once as this machine has cores.
    #[must_use]
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        Self { turns: Pool::new(Resource::Codecs, TURNS, TURNS_PER_ACCOUNT), running: Arc::new(Semaphore::new(cores)) }
    }

    /// Waits until something small may be packed, beside others: for what comes in pieces, one at a time.
    pub async fn running(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed, so never an error.
        self.running.clone().acquire_owned().await.ok()
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// When the account has too many already, or all together have.
    pub async fn turn(&self, account: UserId) -> Result<Turn, Refused> {
        let turn = self.turns.acquire(account, 1)?;
        Ok(Turn { _turn: turn, _running: self.running().await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_account_with_many_turns_leaves_the_others_theirs() {
        let codecs = Codecs { running: Arc::new(Semaphore::new(16)), ..Codecs::new() };
        let mut turns = Vec::new();
        for _ in 0..TURNS_PER_ACCOUNT {
            turns.push(codecs.turn(1).await.expect("within the share"));
        }
        assert!(codecs.turn(1).await.is_err());
        assert!(codecs.turn(2).await.is_ok());
        turns.pop();
        assert!(codecs.turn(1).await.is_ok());
    }
}
