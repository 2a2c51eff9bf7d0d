//! Passwords: the rule for new ones, hashing and checking on a bounded number of blocking threads.
//!
//! New hashes are argon2id ([`HashParams::default`]). Hashes of the old server are bcrypt (`$2a$`, `$2b$`, `$2y$`);
//! they are checked as such, and the caller is told to renew them. An unknown account costs the same computation as a
//! known one: a check against a made-up hash of the current parameters.
//!
//! # Bounds
//! At most `parallelism` hashes are computed at once, each with 32 MiB of memory. At most [`QUEUED_PER_SLOT`] times as
//! many strangers wait, and as many owners ([`Caller`]); a further one is [`HashError::Busy`] at once, so nobody waits
//! longer than about two seconds. [`super::queue`] decides the order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use secrecy::{ExposeSecret, SecretString};

use super::queue::{Caller, Place, Queue};

/// The fewest characters of a new password (UTF-16 units, as the app's pages count them).
pub const MIN_PASSWORD_CHARS: usize = 12;
/// The most bytes of a password.
pub const MAX_PASSWORD_BYTES: usize = 1024;
/// How many computations may wait for each one that runs.
const QUEUED_PER_SLOT: usize = 16;

/// Why a text can't become a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordRuleError {
    /// Shorter than [`MIN_PASSWORD_CHARS`].
    #[error("Password must be at least 12 characters long")]
    TooShort,
    /// Longer than [`MAX_PASSWORD_BYTES`].
    #[error("Password must be at most 1024 bytes long")]
    TooLong,
}

/// The rule for new passwords (accounts contract, section 1.4): a length, nothing else.
///
/// # Errors
/// When the password is too short or too long.
pub fn check_new_password(password: &str) -> Result<(), PasswordRuleError> {
    if password.encode_utf16().count() < MIN_PASSWORD_CHARS {
        return Err(PasswordRuleError::TooShort);
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(PasswordRuleError::TooLong);
    }
    Ok(())
}

/// Why nothing was computed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Too many computations wait already.
    #[error("server busy, please retry")]
    Busy,
    /// Something that should not happen.
    #[error("password hashing failed: {0}")]
    Internal(String),
}

/// How expensive a hash is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
}

impl Default for HashParams {
    /// 32 MiB and 3 passes, one lane: 57 ms on the 2-core machine where it was measured (release build, median of 15),
    /// about twice the work that OWASP asks for at least (19 MiB and 2 passes: 14 ms there).
    fn default() -> Self {
        Self { memory_kib: 32 * 1024, passes: 3 }
    }
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The wrong password, or there is none.
    Mismatch,
    /// The right one. `outdated`: its hash is bcrypt or of other parameters and should be renewed.
    Match {
        /// See above.
        outdated: bool,
    },
}

/// Computes and checks hashes.
pub struct Passwords {
    argon2: Argon2<'static>,
    /// A hash that no password has.
    decoy: String,
    queue: Arc<Queue>,
    computed: Arc<AtomicU64>,
}

/// Computes and checks hashes in a place of the queue. Dropping it gives the place back.
pub(super) struct Hasher<'a> {
    passwords: &'a Passwords,
    place: Place,
}

impl Passwords {
    /// Hashes of `params`, at most `parallelism` (at least 1) at once.
    ///
    /// # Panics
    /// When `params` are out of argon2's bounds (at least 8 KiB and 1 pass): they are constants of the program.
    #[must_use]
    pub fn new(params: HashParams, parallelism: usize) -> Self {
        let parallelism = parallelism.max(1);
        let algorithm = Params::new(params.memory_kib, params.passes, 1, Some(32))
            .expect("the parameters are constants within argon2's bounds");
        let decoy = format!(
            "$argon2id$v=19$m={},t={},p=1${}${}",
            params.memory_kib,
            params.passes,
            STANDARD_NO_PAD.encode(rand::random::<[u8; 16]>()),
            STANDARD_NO_PAD.encode(rand::random::<[u8; 32]>()),
        );
        Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, algorithm),
            decoy,
            queue: Queue::new(parallelism, parallelism * (1 + QUEUED_PER_SLOT)),
            computed: Arc::default(),
        }
    }

    pub(super) fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }

    /// A place in the queue, or [`HashError::Busy`] at once.
    pub(super) fn admit(&self, caller: Caller) -> Result<Hasher<'_>, HashError> {
        let place = self.queue.enter(caller).ok_or_else(refused)?;
        Ok(Hasher { passwords: self, place })
    }

    fn is_current(&self, hash: &PasswordHash) -> bool {
        let current = self.argon2.params();
        hash.algorithm.as_str() == "argon2id"
            && Params::try_from(hash).is_ok_and(|p| {
                (p.m_cost(), p.t_cost(), p.p_cost()) == (current.m_cost(), current.t_cost(), current.p_cost())
            })
    }
}

fn refused() -> HashError {
    metrics::counter!("supersync_password_hashes_refused_total").increment(1);
    HashError::Busy
}

impl Hasher<'_> {
    async fn run<T: Send + 'static>(
        &self,
        algorithm: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HashError> {
        let turn = self.place.turn().await.ok_or_else(refused)?;
        let computed = Arc::clone(&self.passwords.computed);
        // Moves the turn: if the caller goes away, the computation continues and still counts.
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            computed.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("supersync_password_hashes_total", "algorithm" => algorithm).increment(1);
            work()
        })
        .await
        .map_err(|e| HashError::Internal(e.to_string()))
    }

    /// A new hash with a random salt.
    pub(super) async fn hash(&self, password: &SecretString) -> Result<String, HashError> {
        let argon2 = self.passwords.argon2.clone();
        let password = password.clone();
        self.run("argon2id", move || argon2.hash_password(password.expose_secret().as_bytes()).map(|h| h.to_string()))
            .await?
            .map_err(|e| HashError::Internal(e.to_string()))
    }

    /// Checks against a stored hash; with none, against one that no password has, at the same cost.
    pub(super) async fn check(&self, password: &SecretString, stored: Option<&str>) -> Result<Verdict, HashError> {
        if let Some(stored) = stored.filter(|hash| is_bcrypt(hash)) {
            return self.check_bcrypt(password, stored).await;
        }
        let hash = stored.unwrap_or(&self.passwords.decoy);
        let hash = PasswordHash::new(hash).map_err(|_| HashError::Internal("a stored hash is malformed".to_owned()))?;
        let outdated = !self.passwords.is_current(&hash);
        let argon2 = self.passwords.argon2.clone();
        let password = password.clone();
        let result =
            self.run("argon2id", move || argon2.verify_password(password.expose_secret().as_bytes(), &hash)).await?;
        match result {
            Ok(()) => Ok(Verdict::Match { outdated }),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(Verdict::Mismatch),
            Err(e) => Err(HashError::Internal(e.to_string())),
        }
    }

    async fn check_bcrypt(&self, password: &SecretString, stored: &str) -> Result<Verdict, HashError> {
        let (password, stored) = (password.clone(), stored.to_owned());
        // Like the old server's library, this looks at the first 72 bytes only.
        let matches = self
            .run("bcrypt", move || bcrypt::verify(password.expose_secret().as_bytes(), &stored))
            .await?
            .map_err(|e| HashError::Internal(e.to_string()))?;
        Ok(if matches { Verdict::Match { outdated: true } } else { Verdict::Mismatch })
    }
}

fn is_bcrypt(hash: &str) -> bool {
    ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: HashParams = HashParams { memory_kib: 8, passes: 1 };

    fn secret(text: &str) -> SecretString {
        text.to_owned().into()
    }

    #[test]
    fn the_rule_counts_characters_below_and_bytes_above() {
        assert_eq!(check_new_password("elevenchars"), Err(PasswordRuleError::TooShort));
        assert_eq!(check_new_password("twelve chars"), Ok(()));
        assert_eq!(check_new_password("ääääääääääää"), Ok(()));
        assert_eq!(check_new_password(&"x".repeat(1024)), Ok(()));
        assert_eq!(check_new_password(&"x".repeat(1025)), Err(PasswordRuleError::TooLong));
    }

    #[tokio::test]
    async fn a_missing_hash_costs_one_computation_and_never_matches() {
        let passwords = Passwords::new(CHEAP, 1);
        let hasher = passwords.admit(Caller::Anybody).unwrap();
        assert_eq!(hasher.check(&secret("anything at all"), None).await.unwrap(), Verdict::Mismatch);
        assert_eq!(passwords.computed(), 1);
    }

    #[tokio::test]
    async fn a_malformed_hash_is_an_error_not_a_wrong_password() {
        let passwords = Passwords::new(CHEAP, 1);
        let hasher = passwords.admit(Caller::Anybody).unwrap();
        for stored in ["", "plain", "$argon2id$v=19$nonsense", "$2b$12$tooshort"] {
            let result = hasher.check(&secret("x"), Some(stored)).await;
            assert!(matches!(result, Err(HashError::Internal(_))), "{stored}");
        }
    }

    #[tokio::test]
    async fn own_hashes_match_and_those_of_other_parameters_are_outdated() {
        let old = Passwords::new(HashParams { memory_kib: 16, passes: 1 }, 1);
        let passwords = Passwords::new(CHEAP, 1);
        let (hasher, right, wrong) =
            (passwords.admit(Caller::Anybody).unwrap(), secret("right password"), secret("wrong"));
        let hash = hasher.hash(&right).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert_eq!(hasher.check(&right, Some(&hash)).await.unwrap(), Verdict::Match { outdated: false });
        assert_eq!(hasher.check(&wrong, Some(&hash)).await.unwrap(), Verdict::Mismatch);
        let hash = old.admit(Caller::Anybody).unwrap().hash(&right).await.unwrap();
        assert_eq!(hasher.check(&right, Some(&hash)).await.unwrap(), Verdict::Match { outdated: true });
    }

    #[tokio::test]
    async fn all_three_bcrypt_prefixes_match_and_are_outdated() {
        let passwords = Passwords::new(CHEAP, 1);
        let hasher = passwords.admit(Caller::Anybody).unwrap();
        let hash = bcrypt::hash("an old password", 4).unwrap();
        for prefix in ["$2a$", "$2b$", "$2y$"] {
            let hash = format!("{prefix}{}", &hash[4..]);
            let check = hasher.check(&secret("an old password"), Some(&hash)).await.unwrap();
            assert_eq!(check, Verdict::Match { outdated: true });
            assert_eq!(hasher.check(&secret("another"), Some(&hash)).await.unwrap(), Verdict::Mismatch);
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let passwords = Passwords::new(CHEAP, 2);
        let places: Vec<_> =
            (0..2 * (1 + QUEUED_PER_SLOT)).map(|_| passwords.admit(Caller::Anybody).unwrap()).collect();
        assert!(matches!(passwords.admit(Caller::Anybody), Err(HashError::Busy)));
        drop(places);
        assert!(passwords.admit(Caller::Anybody).is_ok());
    }
}
