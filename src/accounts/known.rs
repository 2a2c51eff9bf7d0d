//! Who is let in to sign in while a crowd of strangers waits: owners of accounts, from where they were last.

use tokio::sync::Semaphore;

use super::password::Admission;
use super::queue::Caller;
use super::{Accounts, Address, HashError, LoginError, SessionOrigin};

/// How many callers are looked up at once. A look is short and cheap, so that many can wait for theirs.
const AT_ONCE: usize = 8;
const MOST_WAITING: usize = 1024;

/// Callers who are looked up because strangers have taken all places.
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
    /// A place to check a password. When strangers have taken all of theirs, one that has a session from the same part of
    /// the network, and so is probably the owner, has a place among owners. That is looked up then only: as long as there
    /// is room, everybody is served alike.
    pub(super) async fn admit_login(
        &self,
        address: &Address,
        origin: &SessionOrigin,
    ) -> Result<Admission<'_>, LoginError> {
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
        let sessions = inner.store.sessions(user.id, inner.clock.now_ms()).await?;
        if !sessions.iter().any(|session| session.last_address.as_ref() == Some(&prefix)) {
            return Err(busy.into());
        }
        Ok(inner.passwords.admit(Caller::Owner(user.id))?)
    }
}
