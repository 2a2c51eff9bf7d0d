//! What an account's owner does with its sessions: look at them, name them, end them; and tickets for sockets.

use secrecy::SecretString;

use super::link;
use super::origin::MAX_SESSION_NAME_CHARS;
use super::{AccountError, Accounts, Asker, AuthUser};
use crate::protocol::UserId;
use crate::store::{Credential, OlderTokens, SecurityKind, SessionId, SessionRow, SignOut, SocketTicket, StoreError};

/// How long a ticket for a socket works: 30 seconds.
pub const TICKET_LIFETIME_MS: i64 = 30_000;
/// Tickets that an account may have at a time; beyond it the first ones don't work.
const MAX_TICKETS: usize = 50;

/// A session as its account's owner names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRef {
    /// One session.
    One(SessionId),
    /// All tokens that name no session.
    OlderTokens,
}

impl SessionRef {
    /// Stands for an account's older tokens where a session's id is expected.
    pub const OLDER_TOKENS: &str = "older-tokens";

    /// The session, or the older tokens, by this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            Self::OLDER_TOKENS => Some(Self::OlderTokens),
            id => SessionId::parse(id).map(Self::One),
        }
    }
}

/// What an account is signed in with.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct SessionList {
    /// The one that was seen last first.
    pub sessions: Vec<SessionRow>,
    /// `None`: none has been seen since they were last voided.
    pub older_tokens: Option<OlderTokens>,
}

impl Accounts {
    /// The account's sessions.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sessions(&self, user: UserId) -> Result<SessionList, StoreError> {
        let inner = &*self.inner;
        let sessions = inner.store.sessions(user, inner.clock.certain_ms()).await?;
        let older_tokens = inner.store.older_tokens(user).await?;
        Ok(SessionList { sessions, older_tokens })
    }

    /// Gives a session another name; what is too long is cut.
    ///
    /// # Errors
    /// When the account has no such session, or the database fails.
    pub async fn rename_session(&self, user: UserId, id: SessionId, name: &str) -> Result<(), AccountError> {
        let name: String = name.chars().take(MAX_SESSION_NAME_CHARS).collect();
        if self.inner.store.rename_session(user, id, &name).await? { Ok(()) } else { Err(AccountError::NoSession) }
    }

    /// Voids one session, or all older tokens, and the account's mailed links, which the session may have requested.
    /// The caller closes their sockets.
    ///
    /// # Errors
    /// When the account has no such session, or the database fails.
    pub async fn revoke_session(&self, user: UserId, session: SessionRef, asker: &Asker) -> Result<(), AccountError> {
        let inner = &*self.inner;
        let write = async {
            match session {
                SessionRef::One(id) => inner.store.revoke_session(user, id).await,
                SessionRef::OlderTokens => inner.store.revoke_older_tokens(user, inner.clock.now_ms()).await,
            }
        };
        if !self.revoking(user, write).await? {
            return Err(AccountError::NoSession);
        }
        tracing::info!(user_id = user, "session revoked");
        self.note(user, SecurityKind::SessionRevoked, asker).await;
        Ok(())
    }

    /// Voids every session of the sender's account but its own, and its mailed links. If the sender has an older token,
    /// all older tokens stay, since they can't be told apart. The caller closes the sockets. Returns the number of
    /// voided sessions.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke_other_sessions(&self, user: &AuthUser, asker: &Asker) -> Result<u64, StoreError> {
        let inner = &*self.inner;
        let others = SignOut { keep: user.session, now_ms: inner.clock.now_ms() };
        let write = inner.store.revoke_other_sessions(user.user_id, others);
        let revoked = self.revoking(user.user_id, write).await?;
        tracing::info!(user_id = user.user_id, revoked, "other sessions revoked");
        self.note(user.user_id, SecurityKind::OtherSessionsRevoked, asker).await;
        Ok(revoked)
    }

    /// A ticket that opens one socket as the sender, within [`TICKET_LIFETIME_MS`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn issue_ticket(&self, user: &AuthUser) -> Result<SecretString, StoreError> {
        let (ticket, hash) = link::new_token();
        let expires_at = self.inner.clock.now_ms() + TICKET_LIFETIME_MS;
        let ticket_row = SocketTicket { hash, user: user.user_id, credential: user.credential(), expires_at };
        self.inner.store.put_ticket(&ticket_row, MAX_TICKETS).await?;
        Ok(ticket)
    }

    /// Uses a ticket up. `None`: unknown, used, or expired. Whether the token that it was asked for with still counts
    /// is the caller's to check ([`Accounts::recheck`]).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn redeem_ticket(&self, ticket: &str) -> Result<Option<(UserId, Credential)>, StoreError> {
        let taken = self.inner.store.take_ticket(&link::hash(ticket), self.inner.clock.now_ms()).await?;
        Ok(taken.map(|ticket| (ticket.user, ticket.credential)))
    }

    /// Writes down which sessions have been seen, as happens now and then by itself.
    pub async fn record_sessions(&self) {
        self.inner.seen.write(&*self.inner.store).await;
    }

    /// Forgets what is remembered of an account's tokens, because another process has changed what they are worth.
    pub fn forget_sessions(&self, user: UserId) {
        self.inner.cache.invalidate(user);
    }

    /// The same for every account.
    pub fn forget_all_sessions(&self) {
        self.inner.cache.invalidate_all();
    }
}
