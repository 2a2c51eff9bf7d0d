//! Giving out sessions: the one place where a token is issued, whatever the way to sign in.

use super::session::SESSION_SECONDS;
use super::{AccountError, Accounts, Asker, AuthUser, Session, SessionOrigin};
use crate::protocol::UserId;
use crate::store::{Authentication, SecurityKind, SessionId, SessionMethod, SessionRow, UserRow};

/// How many sessions an account may have; beyond it those unused for longest are revoked.
pub const MAX_SESSIONS: usize = 200;

impl Accounts {
    /// Opens a session for somebody who has proven who they are; after a passkey, with or without user verification.
    /// `user`: as read when that was proven. A session is worth nothing if all sessions were voided since.
    ///
    /// [`AccountError::NoAccount`] when the account is gone or locked by the operator.
    pub(super) async fn open_session(
        &self,
        user: &UserRow,
        origin: &SessionOrigin,
        user_verified: bool,
    ) -> Result<Session, AccountError> {
        let mut row = self.new_session(user.id, origin);
        let proves =
            matches!(origin.method, SessionMethod::Password | SessionMethod::Passkey | SessionMethod::MagicLink);
        row.authentication =
            proves.then_some(Authentication { at_ms: row.created_at, how: origin.method, user_verified });
        if !self.revoking(user.id, self.inner.store.open_session(&row, MAX_SESSIONS)).await? {
            return Err(AccountError::NoAccount);
        }
        count_opened(origin.method);
        self.note(user.id, SecurityKind::SignedIn, &Asker::opening(origin)).await;
        Ok(self.inner.sessions.issue(user.id, &user.email, user.token_version, row.id, row.created_at))
    }

    /// Voids every session of the account and gives out a new one, whose token names the same address as the presented
    /// one and which is called as the presented one's session was (accounts contract, section 4.8). The caller closes
    /// the account's sockets. The new session inherits the last proof, with its time.
    ///
    /// # Errors
    /// When the account is gone or locked, or the database fails.
    pub async fn replace_token(&self, user: &AuthUser, origin: &SessionOrigin) -> Result<Session, AccountError> {
        let id = user.user_id;
        let row = self.new_session(id, origin);
        let replace = self.inner.store.replace_sessions(&row, user.session);
        let version = self.revoking(id, replace).await?.ok_or(AccountError::NoAccount)?;
        count_opened(SessionMethod::Replaced);
        tracing::info!(user_id = id, "sessions replaced");
        self.note(id, SecurityKind::TokenReplaced, &Asker::opening(origin)).await;
        Ok(self.inner.sessions.issue(id, &user.email, version, row.id, row.created_at))
    }

    /// A session for an account, without its password: for the operator, and for test mode's route.
    ///
    /// # Errors
    /// When there is no such account, it is locked, or the database fails.
    pub async fn session_for(&self, user: UserId) -> Result<Session, AccountError> {
        let row = self.inner.store.user_by_id(user).await?.ok_or(AccountError::NoAccount)?;
        self.open_session(&row, &SessionOrigin::operator(), false).await
    }

    fn new_session(&self, user: UserId, origin: &SessionOrigin) -> SessionRow {
        let now_ms = self.inner.clock.now_ms();
        SessionRow {
            id: SessionId::random(),
            user,
            name: origin.name(),
            user_agent: origin.stored_user_agent(),
            method: origin.method,
            created_at: now_ms,
            last_seen_at: now_ms,
            last_address: origin.address_prefix(),
            expires_at: now_ms + SESSION_SECONDS * 1000,
            authentication: None,
        }
    }
}

fn count_opened(method: SessionMethod) {
    metrics::counter!("supersync_sessions_opened_total", "method" => method.as_str()).increment(1);
}
