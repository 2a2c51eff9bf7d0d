//! Accounts: registration, passwords, sign-in, sessions.
//!
//! Owns who may do something and how that is proven. Promises that a database failure never looks like a refused
//! session ([`AuthError::Database`]), that the answer to a registration does not tell whether the address is known,
//! that at most a few password hashes are computed at once, and that a revoked session is refused at once in this
//! process and, where the events of [`crate::events`] are followed, within a second in every other one
//! ([`CACHE_TTL_MS`] at the latest).
//!
//! Must not know HTTP, sockets or the engine: closing the sockets of a revoked or deleted account is its caller's part.
//!
//! Every way to sign in ends in `open.rs`, which alone gives out tokens.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::budget::Memory;
use crate::clock::Clock;
use crate::config::{Config, RegistrationMode};
use crate::mail::Mailer;
use crate::protocol::UserId;
use crate::store::Store;
use crate::webauthn::Ceremonies;

mod address;
mod authenticate;
mod bounded;
mod cache;
mod error;
mod generated_password;
mod guesses;
mod invite;
mod link;
mod login;
mod manage;
mod open;
mod origin;
mod passkey;
mod password;
mod profile;
mod queue;
mod register;
mod security_log;
mod seen;
mod session;
mod session_list;
mod step_up;
mod summary;
mod timing;
mod verify;

pub use address::{Address, AddressError, MAX_ADDRESS_CHARS};
pub use authenticate::{AuthError, AuthUser};
pub use cache::{CACHE_TTL_MS, SEEN_EVERY_MS};
pub use error::AccountError;
pub use generated_password::generate_password;
pub use guesses::{LOCK_AFTER_FAILURES, LOCK_MS, MOST_FROM_STRANGERS};
pub use invite::{INVITE_LIFETIME_MS, Invitation};
pub use link::{
    CHANGE_ADDRESS_LIFETIME_MS, LINK_GAP_MS, MAGIC_LOGIN_LIFETIME_MS, MAX_LINKS, RECOVER_PASSKEY_LIFETIME_MS,
    RESET_PASSWORD_LIFETIME_MS, UNDO_ADDRESS_LIFETIME_MS, VERIFY_EMAIL_LIFETIME_MS,
};
pub use open::MAX_SESSIONS;
pub use origin::{Asker, MAX_SESSION_NAME_CHARS, SessionOrigin, address_prefix};
pub use passkey::{CHALLENGE_LIFETIME_MS, Creation, MAX_PASSKEYS};
pub use password::{
    HashError, HashParams, MAX_PASSWORD_BYTES, MIN_PASSWORD_CHARS, PasswordRuleError, Passwords, check_new_password,
};
pub use profile::{AccountFacts, MAX_ADDRESS_CHANGES};
pub use register::{Applicant, MAX_LINKS_PER_DAY, MAX_RESENDS_PER_DAY, Receipt, Registered, SPARSE_LINK_GAP_MS};
pub use security_log::{JOINS_WITHIN_MS, MAX_SECURITY_EVENTS, MAX_SECURITY_FAILURES};
pub use session::{SESSION_SECONDS, Session};
pub use session_list::{SessionList, SessionRef, TICKET_LIFETIME_MS};
pub use step_up::RECENT_MS;
pub use summary::{AccountReport, AccountSummary, SecuritySummary, SessionSummary, Storage};
pub use verify::Verified;

/// Everything about accounts. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    mailer: Mailer,
    /// For notices to owners, the only mails of the command line.
    notices: Mailer,
    passwords: Passwords,
    sessions: session::Tokens,
    cache: cache::KnownSessions,
    seen: seen::SeenSessions,
    /// Counts on every request, so it is looked up once.
    checked_by_cache: metrics::Counter,
    login_locks: guesses::LoginLocks,
    look_ups: login::LookUps,
    registration: RegistrationMode,
    ceremonies: Ceremonies,
    public_url: String,
    allowed_emails: Vec<String>,
    default_quota_bytes: i64,
    test_mode: bool,
}

impl Accounts {
    /// Counts the memory of tokens there from now on.
    pub fn count_in(&self, memory: &Memory) {
        self.inner.sessions.count_in(memory);
        self.inner.cache.count_in(memory);
    }

    /// Accounts in `store` under the rules of `config`; mails leave through `mailer`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, config: &Config, clock: Clock, mailer: Mailer) -> Self {
        let passwords = Passwords::new(HashParams::default(), config.limits.password_hash_parallelism);
        Self::with_passwords(store, config, clock, mailer, passwords)
    }

    /// The same for the command line: it mails no links, but notices of changes, through `notices`.
    #[must_use]
    pub fn of_operator(store: Arc<dyn Store>, config: &Config, clock: Clock, notices: Mailer) -> Self {
        let passwords = Passwords::new(HashParams::default(), config.limits.password_hash_parallelism);
        Self::assembled(store, config, clock, Mailer::unavailable(), notices, passwords)
    }

    /// The same with password hashing of one's own choice, so that tests need not pay for strong hashes.
    #[must_use]
    pub fn with_passwords(
        store: Arc<dyn Store>,
        config: &Config,
        clock: Clock,
        mailer: Mailer,
        passwords: Passwords,
    ) -> Self {
        let notices = mailer.clone();
        Self::assembled(store, config, clock, mailer, notices, passwords)
    }

    fn assembled(
        store: Arc<dyn Store>,
        config: &Config,
        clock: Clock,
        mailer: Mailer,
        notices: Mailer,
        passwords: Passwords,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                clock,
                mailer,
                notices,
                passwords,
                sessions: session::Tokens::new(&config.jwt_secret),
                cache: cache::KnownSessions::new(),
                seen: seen::SeenSessions::default(),
                checked_by_cache: metrics::counter!("supersync_session_checks_total", "source" => "cache"),
                login_locks: guesses::LoginLocks::new(),
                look_ups: login::LookUps::new(),
                registration: config.registration,
                ceremonies: Ceremonies::new(config.relying_party.clone()),
                public_url: config.public_url.clone(),
                allowed_emails: config.allowed_emails.clone(),
                default_quota_bytes: config.limits.default_quota_bytes,
                test_mode: config.test_mode,
            }),
        }
    }

    /// How many password hashes have been computed since the start (also `supersync_password_hashes_total`): what shows
    /// that known and unknown addresses cost the same.
    #[must_use]
    pub fn password_hashes_computed(&self) -> u64 {
        self.inner.passwords.computed()
    }

    /// Gives back, from time to time, the memory of sessions that nobody has used for `idle`; until cancelled.
    pub async fn run_janitor(self, idle: Duration, cancel: CancellationToken) {
        let idle_ms = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX);
        let every = idle.clamp(Duration::from_secs(1), Duration::from_mins(1));
        while cancel.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            let now_ms = self.inner.clock.now_ms();
            self.inner.sessions.forget_unused(now_ms.saturating_sub(idle_ms));
            self.inner.cache.forget_old(now_ms);
        }
    }

    /// Writes down, from time to time, which sessions have been seen; a last time when cancelled.
    pub async fn run_recorder(self, every: Duration, cancel: CancellationToken) {
        while cancel.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            self.record_sessions().await;
        }
        self.record_sessions().await;
    }

    /// Whether mailed links reach anybody.
    #[must_use]
    pub fn can_mail(&self) -> bool {
        self.inner.mailer.can_deliver()
    }

    /// Waits until queued mails have left or were given up. The caller bounds the time.
    pub async fn drain_mails(&self) {
        self.inner.mailer.drain().await;
        self.inner.notices.drain().await;
    }

    /// Makes `write`, a change of an account's sessions, token version, verification, lock or existence, known to the
    /// cache before and after it, also when the caller is cancelled in between.
    async fn revoking<T>(&self, user: UserId, write: impl Future<Output = T> + Send) -> T {
        let _guard = self.inner.cache.invalidating(user);
        write.await
    }
}
