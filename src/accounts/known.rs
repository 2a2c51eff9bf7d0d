//! Lets owners sign in from a known network while strangers fill the queue.

use tokio::sync::Semaphore;

use super::password::Admission;
use super::queue::Caller;
use super::{AccountError, Accounts, Address, HashError, SessionOrigin};

/// Concurrent look-ups. They are short and cheap, so many can wait.
const AT_ONCE: usize = 8;
const MOST_WAITING: usize = 1024;

/// Look-ups while strangers have taken all places.
pub(super) struct LookUps {
    waiting: Semaphore,
    running: Semaphore,
}

impl LookUps {
    pub(super) const fn new() -> Self {
        Self { waiting: Semaphore::const_new(MOST_WAITING), running: Semaphore::const_new(AT_ONCE) }
    }
}

impl Accounts {
    /// A place to check a password. When the strangers' places are taken, a caller from the network of one of the
    /// account's sessions, so probably its owner, gets an owner's place. The look-up happens only then: otherwise all
    /// callers are treated alike.
    pub(super) async fn admit_login(
        &self,
        address: &Address,
        origin: &SessionOrigin,
    ) -> Result<Admission<'_>, AccountError> {
        let inner = &*self.inner;
        let busy = match inner.passwords.admit(Caller::at(origin.address)) {
            Err(HashError::Busy) => HashError::Busy,
            admitted => return Ok(admitted?),
        };
        let (Some(prefix), Ok(_waiting)) = (origin.address_prefix(), inner.look_ups.waiting.try_acquire()) else {
            return Err(busy.into());
        };
        let _running = inner.look_ups.running.acquire().await;
        let Some(user) = inner.store.user_by_email(address.as_str()).await? else { return Err(busy.into()) };
        let sessions = inner.store.sessions(user.id, inner.clock.certain_ms()).await?;
        if !sessions.iter().any(|session| session.last_address.as_ref() == Some(&prefix)) {
            return Err(busy.into());
        }
        Ok(inner.passwords.admit(Caller::Owner(user.id))?)
    }
}
