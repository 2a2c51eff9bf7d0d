//! What administrators may do: look at every account, and what they need for that.

use super::{Accounts, AuthUser, ManageError};
use crate::protocol::UserId;
use crate::store::{AccountOverview, Authentication, DatabaseFacts, SessionMethod, StoreError};

/// How far back the growth of an account is looked at: 30 days.
pub const GROWTH_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Why somebody may not do what administrators may.
#[derive(Debug, thiserror::Error)]
pub enum AdminRefusal {
    /// The account is no administrator's.
    #[error("Administrators only")]
    NotAdmin,
    /// Signed in by a passkey without user verification, which administrators need.
    #[error("Please sign in again to do this")]
    NotVerified,
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Goes on only for an administrator, by what the database says at this moment.
    ///
    /// # Errors
    /// When the sender is none, or the database fails.
    pub async fn require_admin(&self, user: &AuthUser) -> Result<(), AdminRefusal> {
        let row = self.inner.store.user_by_id(user.user_id).await?;
        if row.is_none_or(|row| !row.is_admin) {
            return Err(AdminRefusal::NotAdmin);
        }
        let Some(session) = user.session else { return Ok(()) };
        let found = self.inner.store.authentication(user.user_id, session).await?;
        let is_weak = |found: Authentication| found.how == SessionMethod::Passkey && !found.user_verified;
        if found.is_some_and(is_weak) { Err(AdminRefusal::NotVerified) } else { Ok(()) }
    }

    /// Accounts with numbers above `after`, ascending, at most `limit`; with `search` those whose address holds that
    /// text or whose number it is. Growth is that of the last 30 days.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn overviews(
        &self,
        search: Option<&str>,
        after: UserId,
        limit: usize,
    ) -> Result<Vec<AccountOverview>, StoreError> {
        self.inner.store.account_overviews(search, after, limit, self.growth_since()).await
    }

    /// One account with what it holds.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn overview(&self, user: UserId) -> Result<AccountOverview, ManageError> {
        self.inner.store.account_overview(user, self.growth_since()).await?.ok_or(ManageError::NoAccount)
    }

    fn growth_since(&self) -> i64 {
        self.inner.clock.now_ms() - GROWTH_MS
    }

    /// What there is to know of the database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn database_facts(&self) -> Result<DatabaseFacts, StoreError> {
        self.inner.store.database_facts().await
    }
}
