//! Sessions: one row per sign-in, and short-lived tickets that open a socket.
//!
//! A token names its session; a session whose row is gone is revoked. Tokens of the old server name none: they live
//! under the account's token version, and can be voided together by an instant before which they must not have been
//! issued. Growing the token version voids everything: the schema deletes the rows and announces it, whoever does it.

use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Result, StoreError};
use crate::protocol::UserId;

/// A session's number: 16 random bytes, as text the 22 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// A number that nobody can guess.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// From what is stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// As stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From its text; `None`: it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        // The length first: nothing longer is decoded, whatever it is.
        let decoded = (text.len() == 22).then(|| URL_SAFE_NO_PAD.decode_slice(text, &mut bytes))?;
        (decoded.ok()? == bytes.len()).then_some(Self(bytes))
    }

    pub(super) fn stored(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into().map_err(|_| StoreError::Corrupt("unreadable session number".to_owned()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Only its beginning: enough to tell sessions apart in a log.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// What decides whether a token still counts, besides its signature and its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The session that it names; `None`: an older token.
    pub session: Option<SessionId>,
    /// The account's token version when it was issued.
    pub token_version: i64,
    /// When it was issued, Unix milliseconds, if it says so.
    pub issued_at: Option<i64>,
}

/// How somebody signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionMethod {
    /// With a password.
    Password,
    /// With a passkey.
    Passkey,
    /// With a mailed link.
    MagicLink,
    /// The operator made the token.
    Operator,
    /// It replaced all sessions before it.
    Replaced,
    /// It came with the registration.
    Registration,
}

impl SessionMethod {
    const ALL: [Self; 6] =
        [Self::Password, Self::Passkey, Self::MagicLink, Self::Operator, Self::Replaced, Self::Registration];

    /// The method's text, as stored and as clients get it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Passkey => "passkey",
            Self::MagicLink => "magic_link",
            Self::Operator => "operator",
            Self::Replaced => "replaced",
            Self::Registration => "registration",
        }
    }

    pub(super) fn stored(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|method| method.as_str() == text);
        found.ok_or_else(|| StoreError::Corrupt("unreadable sign-in method".to_owned()))
    }
}

/// When and how somebody last proved in a session who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// By a password, a passkey or a mailed link; nothing else proves it.
    pub how: SessionMethod,
    /// Of passkeys: whether the authenticator made sure of its user.
    pub user_verified: bool,
}

/// Which sessions end with a change: all but one.
#[derive(Clone, Copy, Debug)]
pub struct SignOut {
    /// The one that stays; `None`: an older token asks, and those stay.
    pub keep: Option<SessionId>,
    /// Older tokens that were issued before this instant end.
    pub now_ms: i64,
}

/// A session. Times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SessionRow {
    pub id: SessionId,
    pub user: UserId,
    pub name: String,
    /// As the browser gave it, shortened; may be empty.
    pub user_agent: String,
    pub method: SessionMethod,
    pub created_at: i64,
    /// To within a few minutes.
    pub last_seen_at: i64,
    /// The first part of the address that it was last seen from.
    pub last_address: Option<String>,
    pub expires_at: i64,
    /// `None`: nobody did, as in a session that the operator made.
    pub authentication: Option<Authentication>,
}

/// What is known of the tokens of an account that name no session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct OlderTokens {
    pub last_seen_at: i64,
    pub last_address: Option<String>,
}

/// What the database says about a token: of the account, and of the session if it names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the address was proven.
    pub is_verified: bool,
    /// Whether the operator has locked the account.
    pub is_locked: bool,
    /// The account's token version.
    pub token_version: i64,
    /// Older tokens that were issued before this instant are void.
    pub older_tokens_revoked_at: Option<i64>,
    /// When an older token was last shown.
    pub older_tokens_seen_at: Option<i64>,
    /// When the session was opened and last seen; `None`: there is no such session of this account.
    pub session: Option<(i64, i64)>,
}

/// A session, or the older tokens of an account, was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSeen {
    /// The account.
    pub user: UserId,
    /// With which token.
    pub credential: Credential,
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// The first part of the address, if it is known.
    pub address: Option<String>,
}

/// A ticket: what is stored of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketTicket {
    /// SHA-256 of the ticket.
    pub hash: [u8; 32],
    /// Whose socket it opens.
    pub user: UserId,
    /// The token that it was asked for with.
    pub credential: Credential,
    /// Unix milliseconds.
    pub expires_at: i64,
}

/// Sessions and tickets, and who may have any.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Stores a new session. Beyond `keep` sessions of the account those unused for longest go. `false`: there is no
    /// such account, or it is locked.
    async fn open_session(&self, session: &SessionRow, keep: usize) -> Result<bool>;
    /// Voids every token of the account and stores a new session, which takes over the name of `replaced`, and
    /// when and how somebody proved in it who they are, if that is a session of the account. Returns the new token version; `None`: no such account.
    async fn replace_sessions(&self, session: &SessionRow, replaced: Option<SessionId>) -> Result<Option<i64>>;
    /// What decides about a token of this account that names this session. `None`: no such account.
    async fn standing(&self, user: UserId, session: Option<SessionId>) -> Result<Option<Standing>>;
    /// When and how somebody proved in a session of the account who they are.
    async fn authentication(&self, user: UserId, session: SessionId) -> Result<Option<Authentication>>;
    /// Notes that somebody did so now. `false`: the account has no such session.
    async fn authenticate_session(&self, user: UserId, session: SessionId, now: &Authentication) -> Result<bool>;
    /// The account's sessions that end after `now_ms`, the one that was seen last first.
    async fn sessions(&self, user: UserId, now_ms: i64) -> Result<Vec<SessionRow>>;
    /// The account's older tokens, if one has been seen since they were last voided.
    async fn older_tokens(&self, user: UserId) -> Result<Option<OlderTokens>>;
    /// Gives a session of the account another name. `false`: it has no such session.
    async fn rename_session(&self, user: UserId, id: SessionId, name: &str) -> Result<bool>;
    /// Voids one session of the account and its mailed links, and announces it. `false`: it has no such session.
    async fn revoke_session(&self, user: UserId, id: SessionId) -> Result<bool>;
    /// Voids the tokens that name no session and were issued before `now_ms`, and the mailed links. `false`: no such account.
    async fn revoke_older_tokens(&self, user: UserId, now_ms: i64) -> Result<bool>;
    /// Voids every session but one, unless an older token asks the older tokens too, and the mailed links. Returns how
    /// many sessions went.
    async fn revoke_other_sessions(&self, user: UserId, others: SignOut) -> Result<u64>;
    /// Takes note that sessions were seen, each at most once in the list; later times win. Those that are gone are left
    /// out.
    async fn touch_sessions(&self, seen: &[SessionSeen]) -> Result<()>;
    /// Deletes sessions that ended before `now_ms`, at most `limit`, and announces nothing: their tokens have ended too.
    /// Returns how many.
    async fn delete_expired_sessions(&self, now_ms: i64, limit: usize) -> Result<u64>;
    /// Stores a ticket. Beyond `keep` tickets of the account those that end first go.
    async fn put_ticket(&self, ticket: &SocketTicket, keep: usize) -> Result<()>;
    /// Uses a ticket up. `None`: unknown, used, or expired at `now_ms`.
    async fn take_ticket(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<SocketTicket>>;
    /// Deletes tickets that expired before `now_ms`. Returns how many.
    async fn delete_expired_tickets(&self, now_ms: i64) -> Result<u64>;
    /// Locks or unlocks the account. `false`: no such account.
    async fn set_locked(&self, user: UserId, locked_at: Option<i64>) -> Result<bool>;
    /// Makes the account an administrator's, or not. `false`: no such account.
    async fn set_admin(&self, user: UserId, is_admin: bool) -> Result<bool>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_22_characters_and_nothing_else() {
        let id = SessionId::random();
        let text = id.to_string();
        assert_eq!((text.len(), SessionId::parse(&text)), (22, Some(id)));
        assert_ne!(SessionId::random(), id);
        // The last one has bits that 16 bytes don't have.
        for wrong in ["", "x", &text[1..], &format!("{text}A"), "+/+/+/+/+/+/+/+/+/+/+A", "AAAAAAAAAAAAAAAAAAAAAB"] {
            assert_eq!(SessionId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_log_shows_its_beginning_only() {
        assert_eq!(format!("{:?}", SessionId::from_bytes([0xAB; 16])), "SessionId(abab…)");
    }

    #[test]
    fn methods_are_read_back() {
        for method in SessionMethod::ALL {
            assert_eq!(SessionMethod::stored(method.as_str()).ok(), Some(method));
        }
        assert!(matches!(SessionMethod::stored("guess"), Err(StoreError::Corrupt(_))));
    }
}
