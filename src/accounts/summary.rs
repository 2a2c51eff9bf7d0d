//! Accounts, sessions and security logs as they are shown: one shape each for the API, the export and the command line.
//!
//! Times are Unix milliseconds.

use serde::Serialize;
use utoipa::ToSchema;

use super::{AuthUser, SessionList, SessionRef};
use crate::protocol::UserId;
use crate::store::{AccountOverview, OlderTokens, SecurityEvent, SessionMethod, SessionRow, UserRow};

/// What an account holds; what nobody asked for is left out.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Bytes charged to its quota.
    pub used_bytes: i64,
    /// How many it may have.
    pub quota_bytes: i64,
    /// Bytes that came within the last 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grown_bytes: Option<i64>,
    /// Operations of its data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<i64>,
    /// Bytes of its archived data sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_bytes: Option<i64>,
    /// Beyond it the oldest archived sets are deleted first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_limit_bytes: Option<i64>,
}

/// An account.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountSummary {
    /// Its number.
    #[schema(value_type = i64)]
    pub id: UserId,
    /// Its address.
    pub email: String,
    /// `verified`; `unverified`: it waits for the mailed link; `locked`: by the operator.
    pub state: &'static str,
    /// Whether it is an administrator's.
    pub is_admin: bool,
    /// Whether it has a password.
    pub has_password: bool,
    /// When it was created.
    pub created_at: i64,
    /// What it holds.
    pub storage: Storage,
}

impl AccountSummary {
    /// The account with what it uses of its quota.
    #[must_use]
    pub fn new(user: UserRow, used_bytes: i64) -> Self {
        let state = match (user.locked_at, user.is_verified) {
            (Some(_), _) => "locked",
            (None, true) => "verified",
            (None, false) => "unverified",
        };
        Self {
            id: user.id,
            email: user.email,
            state,
            is_admin: user.is_admin,
            has_password: user.password_hash.is_some(),
            created_at: user.created_at,
            storage: Storage { used_bytes, quota_bytes: user.storage_quota_bytes, ..Storage::default() },
        }
    }
}

/// An account as administrators and operators see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccountReport {
    /// The account.
    #[serde(flatten)]
    pub account: AccountSummary,
    /// When a device or a session was last seen, to within a few minutes.
    pub last_seen_at: Option<i64>,
    /// Operations of its data set.
    pub operations: i64,
    /// Devices that have synced and were not forgotten.
    pub devices: i64,
    /// Sessions, those that have ended and were not swept yet included.
    pub sessions: i64,
}

impl From<AccountOverview> for AccountReport {
    fn from(of: AccountOverview) -> Self {
        let mut account = AccountSummary::new(of.user, of.storage_used_bytes);
        account.storage.grown_bytes = Some(of.grown_bytes);
        let AccountOverview { last_seen_at, operations, devices, sessions, .. } = of;
        Self { account, last_seen_at, operations, devices, sessions }
    }
}

/// A session, or the tokens that belong to none.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionSummary {
    /// Its name for programs, see [`SessionRef::parse`].
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// As the browser gave it, shortened; may be empty.
    pub user_agent: String,
    /// How it was opened.
    pub method: Option<&'static str>,
    /// When it was opened.
    pub created_at: Option<i64>,
    /// When it was last seen, to within a few minutes.
    pub last_seen_at: i64,
    /// The first part of the address that it was last seen from.
    pub last_address: Option<String>,
    /// When it ends by itself.
    pub expires_at: Option<i64>,
    /// Whether it is the one that asks; left out where none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<bool>,
    /// Whether it stands for the tokens that belong to no session.
    pub older_token: bool,
}

impl SessionSummary {
    fn of(row: &SessionRow, viewer: Option<&AuthUser>) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            user_agent: row.user_agent.clone(),
            method: Some(row.method.as_str()),
            created_at: Some(row.created_at),
            last_seen_at: row.last_seen_at,
            last_address: row.last_address.clone(),
            expires_at: Some(row.expires_at),
            current: viewer.map(|viewer| viewer.session == Some(row.id)),
            older_token: false,
        }
    }

    fn of_older(tokens: &OlderTokens, viewer: Option<&AuthUser>) -> Self {
        Self {
            id: SessionRef::OLDER_TOKENS.to_owned(),
            name: "Older tokens".to_owned(),
            user_agent: String::new(),
            method: None,
            created_at: None,
            last_seen_at: tokens.last_seen_at,
            last_address: tokens.last_address.clone(),
            expires_at: None,
            current: viewer.map(|viewer| viewer.session.is_none()),
            older_token: true,
        }
    }
}

impl SessionList {
    /// The sessions as they are shown to `viewer`, or to the operator.
    #[must_use]
    pub fn summaries(&self, viewer: Option<&AuthUser>) -> Vec<SessionSummary> {
        let sessions = self.sessions.iter().map(|row| SessionSummary::of(row, viewer));
        sessions.chain(self.older_tokens.iter().map(|tokens| SessionSummary::of_older(tokens, viewer))).collect()
    }
}

/// An entry of a security log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SecuritySummary {
    /// When; of several that are one entry the last time.
    pub at: i64,
    /// What happened.
    pub kind: &'static str,
    /// The method of authentication, if more than the session.
    pub method: Option<&'static str>,
    /// The first part of the address, if it is known.
    pub address: Option<String>,
    /// What the program calls itself, in short.
    pub device: Option<String>,
    /// How often.
    pub times: i64,
}

impl From<SecurityEvent> for SecuritySummary {
    fn from(event: SecurityEvent) -> Self {
        let SecurityEvent { at_ms: at, kind, method, address, device, times } = event;
        Self { at, kind: kind.as_str(), method: method.map(SessionMethod::as_str), address, device, times }
    }
}
