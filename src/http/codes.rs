//! Every refusal: its code, its status, its text where no error type has one, and when to come back.
//!
//! Errors of other modules become answers here and nowhere else. A code stands in the answer as `errorCode` where the sync
//! protocol says so, as `code` in answers of account routes, and only in the log where the server itself is in trouble
//! or the answer is one of released clients' routes. Pages find their texts by it (`js.refused.…` in `templates/texts`).
//! The level of the log line follows from the status ([`super::observe`]): 500 is an error, 503 a warning, the rest is
//! information.

use axum::http::{Method, StatusCode};
use serde_json::Value;

use super::error::{ApiError, Code, Member};
use super::inflate::InflateError;
use crate::accounts::{AccountError, AuthError, HashError};
use crate::budget::Refused;
use crate::engine::archive::{ArchiveError, Obstacle};
use crate::engine::{EngineError, QuotaExceeded, RestoreError};
use crate::protocol::ErrorCode;
use crate::protocol::limits::MAX_OPS_PER_UPLOAD;
use crate::protocol::request::RequestError;
use crate::protocol::response::Issue;
use crate::store::StoreError;

/// How long a client should wait when the server is short of something.
const SOON_SECONDS: u64 = 5;
/// The same where somebody has to make room first.
const LATER_SECONDS: u64 = 60;

impl Code {
    /// Of account routes; the error has the text.
    const fn account(name: &'static str, status: StatusCode) -> Self {
        Self::api(name, status, "")
    }

    /// Of routes that the old server did not have.
    const fn api(name: &'static str, status: StatusCode, text: &'static str) -> Self {
        Self { name, status, text, retry_after: None, member: Member::Code }
    }

    /// Of a token. Answers of the sync routes have the text only; [`super::admit`] adds the code elsewhere.
    const fn token(name: &'static str) -> Self {
        Self { member: Member::None, ..Self::account(name, StatusCode::UNAUTHORIZED) }
    }

    /// Of the sync protocol. Clients look for words in some of these texts.
    const fn sync(_: &'static str, code: ErrorCode, status: StatusCode, text: &'static str) -> Self {
        Self { name: code.as_str(), status, text, retry_after: None, member: Member::ErrorCode }
    }

    /// Nothing is wrong with the request, the server can't serve it now. Clients take the word "retry" in the text for a
    /// temporary failure.
    const fn server(name: &'static str, text: &'static str, retry_after: u64) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { name, status, text, retry_after: Some(retry_after), member: Member::None }
    }

    /// Of what is wrong with a request's bytes.
    const fn transport(name: &'static str, status: StatusCode, text: &'static str) -> Self {
        Self { name, status, text, retry_after: None, member: Member::None }
    }
}

macro_rules! codes {
    ($($name:ident = $kind:ident($($argument:expr),*);)+) => {
        $(pub(super) const $name: Code = Code::$kind(stringify!($name), $($argument),*);)+

        /// Every code.
        pub(super) const ALL: &[Code] = &[$($name),+];
    };
}

codes! {
    // The server is in trouble.
    BUSY = server("server busy, please retry", SOON_SECONDS);
    OVERLOADED = server("server busy, please retry", 1);
    TIMED_OUT = server("Request timeout, please retry", SOON_SECONDS);
    DISK_FULL = server("the server's disk is full, please retry later", LATER_SECONDS);
    QUARANTINED = server("account temporarily unavailable, please retry", SOON_SECONDS);
    DATABASE_UNAVAILABLE = server("database unavailable, please retry", SOON_SECONDS);
    INTERNAL = transport(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error");

    // The body.
    BODY_INCOMPLETE = transport(StatusCode::BAD_REQUEST, "Request body incomplete");
    COMPRESSED_TOO_LARGE = transport(StatusCode::PAYLOAD_TOO_LARGE, "Compressed payload too large");
    INFLATED_TOO_LARGE = transport(StatusCode::PAYLOAD_TOO_LARGE, "Decompressed payload too large");
    NOT_BASE64 = transport(StatusCode::BAD_REQUEST, "Request body is not valid base64");
    NOT_GZIP = transport(StatusCode::BAD_REQUEST, "Request body is not valid gzip");
    COMPRESSED_NOT_JSON = transport(StatusCode::BAD_REQUEST, "Compressed request body is not JSON");
    COMPRESSED_MALFORMED = transport(StatusCode::BAD_REQUEST, "Compressed request body is not valid JSON");
    TOO_MANY_OPERATIONS = sync(ErrorCode::PayloadTooLarge, StatusCode::PAYLOAD_TOO_LARGE, "Too many operations in one request");

    // Tokens and rights.
    TOKEN_MISSING = token();
    TOKEN_INVALID = token();
    TOKEN_EXPIRED = token();
    TOKEN_REVOKED = token();
    TOKEN_ACCOUNT_UNAVAILABLE = token();
    ACCOUNT_GONE = transport(StatusCode::UNAUTHORIZED, "Account unavailable");
    ACCOUNT_UNAVAILABLE = api(StatusCode::UNAUTHORIZED, "Account unavailable");
    ADMINISTRATORS_ONLY = account(StatusCode::FORBIDDEN);
    REAUTH_REQUIRED = account(StatusCode::FORBIDDEN);
    WRONG_PASSWORD = account(StatusCode::FORBIDDEN);
    PROOF_LOCKED = account(StatusCode::FORBIDDEN);

    // Ways to sign in.
    REGISTRATION_NOT_ALLOWED = account(StatusCode::FORBIDDEN);
    REGISTRATION_CLOSED = account(StatusCode::FORBIDDEN);
    INVITATION_NEEDED = account(StatusCode::FORBIDDEN);
    INVITATION_INVALID = account(StatusCode::FORBIDDEN);
    MAIL_UNAVAILABLE = account(StatusCode::FORBIDDEN);
    ACCOUNT_EXISTS = account(StatusCode::CONFLICT);
    INVALID_CREDENTIALS = account(StatusCode::UNAUTHORIZED);
    LOGIN_LOCKED = account(StatusCode::UNAUTHORIZED);
    EMAIL_NOT_VERIFIED = account(StatusCode::UNAUTHORIZED);
    VERIFICATION_INVALID = account(StatusCode::BAD_REQUEST);
    VERIFICATION_EXPIRED = account(StatusCode::BAD_REQUEST);
    LOGIN_LINK_INVALID = account(StatusCode::UNAUTHORIZED);
    RESET_LINK_INVALID = account(StatusCode::BAD_REQUEST);
    RECOVERY_LINK_INVALID = account(StatusCode::BAD_REQUEST);
    ADDRESS_LINK_INVALID = account(StatusCode::BAD_REQUEST);
    ADDRESS_CHANGED_TOO_OFTEN = account(StatusCode::CONFLICT);
    ADDRESS_NOT_ALLOWED = account(StatusCode::FORBIDDEN);
    CHALLENGE_EXPIRED = account(StatusCode::BAD_REQUEST);
    PASSKEY_REJECTED = account(StatusCode::BAD_REQUEST);
    AUTHENTICATION_FAILED = account(StatusCode::UNAUTHORIZED);
    PASSKEY_UNVERIFIED = account(StatusCode::UNAUTHORIZED);
    TOO_MANY_PASSKEYS = account(StatusCode::CONFLICT);
    LAST_WAY_IN = account(StatusCode::CONFLICT);
    NO_SUCH_PASSKEY = account(StatusCode::NOT_FOUND);
    PASSKEYS_BROKEN = account(StatusCode::INTERNAL_SERVER_ERROR);
    NO_SUCH_SESSION = account(StatusCode::NOT_FOUND);
    NO_SUCH_INVITATION = account(StatusCode::NOT_FOUND);

    // Administration.
    NO_SUCH_ACCOUNT = api(StatusCode::NOT_FOUND, "No such account");
    // With the reason as its text.
    INVALID_QUERY = account(StatusCode::BAD_REQUEST);
    OWN_ACCOUNT = api(StatusCode::CONFLICT, "You can't do this to your own account");

    // Sync.
    INVALID_LIMIT = transport(StatusCode::BAD_REQUEST, "Invalid limit: an integer from 1 to 100 is needed");
    INVALID_SERVER_SEQ = transport(StatusCode::BAD_REQUEST, "Invalid serverSeq: a positive integer is needed");
    SERVER_SEQ_BEYOND_LATEST = transport(StatusCode::BAD_REQUEST, "serverSeq is beyond the latest operation");
    RATE_LIMITED = sync(ErrorCode::RateLimited, StatusCode::TOO_MANY_REQUESTS, "Rate limited");
    E2EE_REQUIRED = sync(ErrorCode::E2eeRequired, StatusCode::BAD_REQUEST, "Only end-to-end encrypted data is accepted for this account");
    SYNC_IMPORT_EXISTS = sync(ErrorCode::SyncImportExists, StatusCode::CONFLICT, "SYNC_IMPORT_EXISTS");
    STORAGE_QUOTA_EXCEEDED = sync(ErrorCode::StorageQuotaExceeded, StatusCode::PAYLOAD_TOO_LARGE, "Storage quota exceeded");
    // The app looks for "encrypt" in the first 80 characters.
    ENCRYPTED_OPS_NOT_SUPPORTED = sync(ErrorCode::EncryptedOpsNotSupported, StatusCode::BAD_REQUEST, "Operations are end-to-end encrypted: the server can't rebuild this state");
    // Not the server's fault, and nothing that trying again would change.
    STATE_SCHEMA_TOO_NEW = sync(ErrorCode::StateSchemaTooNew, StatusCode::BAD_REQUEST, "The app that wrote this state is newer than the server, which can't rebuild it");
    RESTORE_POINT_GONE = sync(ErrorCode::RestorePointGone, StatusCode::BAD_REQUEST, "The operations that this state was made of are gone");
    STATE_TOO_LARGE = sync(ErrorCode::StateTooLarge, StatusCode::BAD_REQUEST, "Rebuilding this state is beyond the server's limits");
    STATE_NOT_REPLAYABLE = sync(ErrorCode::StateNotReplayable, StatusCode::BAD_REQUEST, "The server can't rebuild this state from its operations");

    // Archives.
    ARCHIVE_NOT_FOUND = sync(ErrorCode::ArchiveNotFound, StatusCode::NOT_FOUND, "No such archived data set");
    ARCHIVE_INCOMPLETE = sync(ErrorCode::ArchiveNotRestorable, StatusCode::CONFLICT, "Operations of this data set are missing");
    ARCHIVE_NOT_RESTORABLE = sync(ErrorCode::ArchiveNotRestorable, StatusCode::CONFLICT, "");
    BRING_BACK_RUNNING = sync(ErrorCode::BringBackRunning, StatusCode::CONFLICT, "Another data set is being brought back, please retry");
    DATA_SET_CHANGED = sync(ErrorCode::DataSetChanged, StatusCode::CONFLICT, "The data was replaced meanwhile; nothing was changed");
}

impl From<Code> for ApiError {
    fn from(code: Code) -> Self {
        Self::coded(code, code.text)
    }
}

impl ApiError {
    /// 404 for an unknown route or a method that a route does not have; there is no 405.
    #[must_use]
    pub fn not_found(method: &Method, path_and_query: &str) -> Self {
        Self::framework(StatusCode::NOT_FOUND, format!("Route {method}:{path_and_query} not found"), None)
    }

    /// 415, connection closed: the body's media type or encoding is none that the server reads.
    #[must_use]
    pub fn unsupported_media_type() -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::framework(status, "Unsupported Media Type", Some("FST_ERR_CTP_INVALID_MEDIA_TYPE")).closing()
    }

    /// 413, connection closed: the body has more bytes on the wire than allowed.
    #[must_use]
    pub fn body_too_large() -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::framework(status, "Request body is too large", Some("FST_ERR_CTP_BODY_TOO_LARGE")).closing()
    }

    /// 400: the body calls itself JSON and is none.
    #[must_use]
    pub fn malformed_json() -> Self {
        Self::framework(
            StatusCode::BAD_REQUEST,
            "Body is not valid JSON but content-type is set to 'application/json'",
            Some("FST_ERR_CTP_INVALID_JSON_BODY"),
        )
    }

    /// 400: the request's structure is wrong. `issues` are shown when given (sync routes hide them in production,
    /// account routes never do).
    #[must_use]
    pub fn validation(issues: Option<Vec<Issue>>) -> Self {
        let error = Self::bad_request("Validation failed");
        match issues {
            Some(issues) => error.extra("details", issues.into_iter().map(|i| Value::Object(i.0)).collect::<Vec<_>>()),
            None => error,
        }
    }

    /// 429: too many requests or sockets from an address. Clients parse `after` in the text, not the header.
    #[must_use]
    pub fn too_many(what: &str, after: &str, seconds: u64) -> Self {
        Self::framework(StatusCode::TOO_MANY_REQUESTS, format!("{what}, retry in {after}"), None).retry_after(seconds)
    }

    /// 500 `{"error":"Internal server error"}`; `detail` goes to the log only.
    #[must_use]
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        Self::from(INTERNAL).detail(detail)
    }

    /// 503: the request's time was up.
    #[must_use]
    pub fn deadline() -> Self {
        Self::from(TIMED_OUT).detail("deadline exceeded")
    }

    /// 413: the account's quota is used up (contract, section 11.2). Clients compare the text.
    #[must_use]
    pub fn quota_exceeded(quota: &QuotaExceeded) -> Self {
        let error = Self::from(STORAGE_QUOTA_EXCEEDED)
            .extra("storageUsedBytes", quota.used_bytes)
            .extra("storageQuotaBytes", quota.quota_bytes)
            .extra("autoCleanupAttempted", quota.cleanup.is_some());
        let Some(stats) = quota.cleanup else { return error };
        let stats = [
            ("freedBytes", Value::from(stats.freed_bytes)),
            ("deletedRestorePoints", stats.deleted_restore_points.into()),
            ("deletedOps", stats.deleted_ops.into()),
        ];
        error.extra("cleanupStats", stats.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Value>())
    }

    /// 409: an initial upload into an account with a full state. Clients look for the code in the text.
    #[must_use]
    pub fn import_exists(existing_import_id: String) -> Self {
        Self::from(SYNC_IMPORT_EXISTS)
            .extra("message", "The account has a full state already; download it first")
            .extra("existingImportId", existing_import_id)
    }
}

/// Makes answers of an error type: for each variant the code, then the variants that hold an error of another type. The
/// text is the error's own, unless the code has one: then the error goes to the log.
macro_rules! refusals {
    ($($error:ident { $($variant:ident $(($any:tt))? => $code:ident),+; $($inner:ident),* })+) => {
        $(
            impl From<$error> for ApiError {
                fn from(error: $error) -> Self {
                    let code = match error {
                        $($error::$variant $(($any))? => $code,)+
                        $($error::$inner(inner) => return inner.into(),)*
                    };
                    let text = error.to_string();
                    if code.text.is_empty() { Self::coded(code, text) } else { Self::from(code).detail(text) }
                }
            }
        )+
    };
}

refusals! {
    AuthError {
        MissingHeader => TOKEN_MISSING,
        Invalid => TOKEN_INVALID,
        Expired => TOKEN_EXPIRED,
        Unavailable => TOKEN_ACCOUNT_UNAVAILABLE,
        Revoked => TOKEN_REVOKED;
        // Never 401: three of them in a row make the app erase its token.
        Database
    }
    AccountError {
        // Where it is the sender's, the account went away between the check of the session and the change.
        NoAccount => ACCOUNT_UNAVAILABLE,
        Exists => ACCOUNT_EXISTS,
        NotAdmin => ADMINISTRATORS_ONLY,
        RegistrationNotAllowed => REGISTRATION_NOT_ALLOWED,
        RegistrationNeedsMail => MAIL_UNAVAILABLE,
        RegistrationClosed => REGISTRATION_CLOSED,
        InviteNeeded => INVITATION_NEEDED,
        InviteInvalid => INVITATION_INVALID,
        NoInvite => NO_SUCH_INVITATION,
        Registered => ACCOUNT_EXISTS,
        InvalidCredentials => INVALID_CREDENTIALS,
        LoginLocked => LOGIN_LOCKED,
        NotVerified => EMAIL_NOT_VERIFIED,
        NoMail => MAIL_UNAVAILABLE,
        VerificationInvalid => VERIFICATION_INVALID,
        VerificationExpired => VERIFICATION_EXPIRED,
        LoginLinkInvalid => LOGIN_LINK_INVALID,
        ResetLinkInvalid => RESET_LINK_INVALID,
        RecoveryLinkInvalid => RECOVERY_LINK_INVALID,
        AddressLinkInvalid => ADDRESS_LINK_INVALID,
        AddressChangedTooOften => ADDRESS_CHANGED_TOO_OFTEN,
        AddressNotAllowed => ADDRESS_NOT_ALLOWED,
        ProofRequired => REAUTH_REQUIRED,
        WrongPassword => WRONG_PASSWORD,
        ProofLocked => PROOF_LOCKED,
        NoSession => NO_SUCH_SESSION,
        ChallengeExpired => CHALLENGE_EXPIRED,
        PasskeyRejected => PASSKEY_REJECTED,
        AuthenticationFailed => AUTHENTICATION_FAILED,
        PasskeyUnverified => PASSKEY_UNVERIFIED,
        TooManyPasskeys => TOO_MANY_PASSKEYS,
        NoPasskey => NO_SUCH_PASSKEY,
        LastWayIn => LAST_WAY_IN,
        PasskeysBroken(_) => PASSKEYS_BROKEN;
        Hash, Database
    }
    HashError { Busy => OVERLOADED, Internal(_) => INTERNAL; }
    EngineError {
        NoAccount => ACCOUNT_GONE,
        Busy => OVERLOADED,
        Deadline => TIMED_OUT,
        DiskFull => DISK_FULL,
        Quarantined => QUARANTINED,
        Unavailable => DATABASE_UNAVAILABLE,
        Internal(_) => INTERNAL;
    }
    StoreError {
        Full(_) => DISK_FULL,
        Unavailable(_) => DATABASE_UNAVAILABLE,
        Timeout(_) => DATABASE_UNAVAILABLE,
        Unknown(_) => DATABASE_UNAVAILABLE,
        Corrupt(_) => INTERNAL,
        Internal(_) => INTERNAL,
        Refused(_) => INTERNAL;
    }
    RestoreError {
        BeyondLatest => SERVER_SEQ_BEYOND_LATEST,
        Encrypted => ENCRYPTED_OPS_NOT_SUPPORTED,
        NewerSchema => STATE_SCHEMA_TOO_NEW,
        Gone => RESTORE_POINT_GONE,
        TooLarge(_) => STATE_TOO_LARGE,
        NotReplayable(_) => STATE_NOT_REPLAYABLE;
        Engine
    }
    InflateError {
        CompressedTooLarge => COMPRESSED_TOO_LARGE,
        InflatedTooLarge => INFLATED_TOO_LARGE,
        Base64 => NOT_BASE64,
        Gzip => NOT_GZIP;
        NoRoom
    }
}

/// What is asked for, not the sender's own account, is missing.
pub(super) fn of_another(error: AccountError) -> ApiError {
    match error {
        AccountError::NoAccount => NO_SUCH_ACCOUNT.into(),
        other => other.into(),
    }
}

/// A challenge that nobody knows fails a sign-in with 401, as everything does that is wrong with it (accounts contract,
/// section 2).
pub(super) fn of_sign_in(error: AccountError) -> ApiError {
    match error {
        AccountError::ChallengeExpired => ApiError::from(error).status_of(AUTHENTICATION_FAILED),
        other => other.into(),
    }
}

/// A step-up that fails is no 401, which would say that the token is no good.
pub(super) fn of_step_up(error: AccountError) -> ApiError {
    match error {
        AccountError::AuthenticationFailed | AccountError::ChallengeExpired => {
            ApiError::from(error).status_of(WRONG_PASSWORD)
        }
        other => other.into(),
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::from(BUSY).detail(refused)
    }
}

impl From<ArchiveError> for ApiError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::NotFound => ARCHIVE_NOT_FOUND.into(),
            ArchiveError::NotRestorable(obstacle) => {
                Self::coded(ARCHIVE_NOT_RESTORABLE, explanation(obstacle)).extra("obstacle", obstacle.as_str())
            }
            ArchiveError::Incomplete => Self::from(ARCHIVE_INCOMPLETE).extra("obstacle", "INCOMPLETE"),
            ArchiveError::Running => BRING_BACK_RUNNING.into(),
            ArchiveError::Outdated => DATA_SET_CHANGED.into(),
            ArchiveError::Quota(quota) => Self::quota_exceeded(&quota),
            ArchiveError::Engine(error) => error.into(),
        }
    }
}

const fn explanation(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Expired => "This data set is being deleted: its time is over",
        Obstacle::Superseded => "This is the older part of a data set, not a data set",
        Obstacle::NoFullState => "This data set holds no full state, and other data has been uploaded since",
        Obstacle::TooManyOperations => "More changes follow the newest full state than the app takes in one download",
        Obstacle::LegacyRepair => "An old app's repair follows the newest full state: it is not clear what it covers",
        Obstacle::NotEncrypted => "This data set is not encrypted, and the devices would refuse it",
    }
}

/// What is wrong with the structure of a sync request. `compressed`: the body came packed. `shown`: the issues are told.
pub(super) fn of_structure(error: RequestError, compressed: bool, shown: bool) -> ApiError {
    match error {
        RequestError::Malformed if compressed => COMPRESSED_MALFORMED.into(),
        RequestError::Malformed => ApiError::malformed_json(),
        RequestError::TooManyOps(_) => ApiError::from(TOO_MANY_OPERATIONS).extra("maxOpsPerBatch", MAX_OPS_PER_UPLOAD),
        RequestError::Invalid(issues) => ApiError::validation(shown.then_some(issues)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::language::Language;

    /// Whatever they are called in the table, clients see the name.
    #[test]
    fn names_are_unique_but_for_two_that_clients_treat_alike() {
        let names: BTreeSet<&str> = ALL.iter().map(|code| code.name).collect();
        assert_eq!(names.len(), ALL.len() - 1, "an archive that is incomplete can't be restored");
    }

    #[test]
    fn temporary_failures_say_so_and_permanent_ones_do_not() {
        for code in ALL.iter().filter(|code| code.member != Member::Code && !code.text.is_empty()) {
            let says_so = code.text.contains("retry");
            let is_temporary = code.retry_after.is_some() || code.name == ErrorCode::BringBackRunning.as_str();
            assert_eq!(says_so, is_temporary, "{}", code.name);
        }
    }

    #[test]
    fn pages_have_texts_for_codes_that_exist() {
        let mut found = 0;
        for (key, _) in Language::English.script_texts() {
            let Some(name) = key.strip_prefix("refused.") else { continue };
            assert!(ALL.iter().any(|code| code.name == name && code.member != Member::ErrorCode), "{key}");
            found += 1;
        }
        assert!(found > 20, "{found}");
    }
}
