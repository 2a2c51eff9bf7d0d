//! Accounts against a real database: sessions, lock-out, neutrality, links, adopted rows.

#![allow(clippy::unwrap_used, reason = "a test that can't set its stage has failed")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::{EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use supersync::accounts::{
    Accounts, Address, AuthError, CACHE_TTL_MS, HashParams, LOCK_MS, LoginError, MAX_RESENDS_PER_DAY, Passwords,
    RegisterError, Registered, VERIFY_EMAIL_LIFETIME_MS, VerifyError,
};
use supersync::admin::user::{AdminError, PasswordSource, UserCommand, execute};
use supersync::clock::Clock;
use supersync::config::{
    Config, Cors, Database, EncryptionPolicy, Environment, Limits, LogFormat, RateLimit, RateLimits, Retention,
    Timeouts,
};
use supersync::mail::{Mailer, Rendered, SendError, Transport};
use supersync::protocol::UserId;
use supersync::store::sqlite::{SqliteOptions, SqliteStore};
use supersync::store::{AccountStore as _, NewUser, Store};

const NOW_MS: i64 = 1_800_000_000_000;
const SECRET: &str = "a secret of at least 32 characters";
const CHEAP: HashParams = HashParams { memory_kib: 8, passes: 1 };

const OWNER: &str = "the owner's password";
const ATTACKER: &str = "the attacker's password";

fn config() -> Config {
    let limit = RateLimit { max: 0, window: Duration::from_mins(15) };
    Config {
        environment: Environment::Development,
        host: [127, 0, 0, 1].into(),
        port: 0,
        public_url: "https://sync.example.org".into(),
        data_dir: PathBuf::new(),
        database: Database::Sqlite { path: PathBuf::new() },
        jwt_secret: SECRET.to_owned().into(),
        cors: Cors { enabled: false, origins: Vec::new() },
        allowed_emails: Vec::new(),
        smtp: None,
        encryption_policy: EncryptionPolicy::Optional,
        test_mode: false,
        trusted_proxies: 0,
        metrics_addr: None,
        log_format: LogFormat::Text,
        log_filter: "info".into(),
        rate_limits: RateLimits {
            per_address: false,
            uploads_per_user: limit,
            upload: limit,
            download: limit,
            snapshot: limit,
            status: limit,
            devices: limit,
            wipe: limit,
            restore_points: limit,
            restore: limit,
            ws: limit,
            other: limit,
            register: limit,
            login: limit,
            verify_email: limit,
        },
        timeouts: Timeouts {
            statement: Duration::from_mins(1),
            handler: Duration::from_secs(80),
            socket: Duration::from_secs(90),
            slow_request: Duration::from_secs(30),
            drain: Duration::from_secs(25),
        },
        limits: Limits {
            upload_body_bytes: 10 << 20,
            snapshot_body_bytes: 30 << 20,
            upload_inflated_bytes: 30 << 20,
            snapshot_inflated_bytes: 60 << 20,
            page_bytes: 8 << 20,
            default_quota_bytes: 100 << 20,
            max_live_actors: 100,
            actor_idle: Duration::from_mins(10),
            max_queued_requests: 100,
            max_queued_requests_per_user: 10,
            max_queued_bytes: 100 << 20,
            max_sockets_per_user: 10,
            max_sockets: 100,
            max_replay_ops: 100_000,
            max_replay_state_bytes: 100 << 20,
            max_snapshot_blob_bytes: 100 << 20,
            password_hash_parallelism: 2,
        },
        retention: Retention {
            superseded: Duration::from_hours(45 * 24),
            archive: Duration::from_hours(30 * 24),
            first_sweep: Duration::from_secs(10),
            sweep_every: Duration::from_hours(24),
            delete_batch: 5000,
            max_deleted_per_run: 25_000,
        },
    }
}

/// Keeps what would have been mailed.
#[derive(Default)]
struct Outbox {
    mails: Mutex<Vec<(String, String)>>,
}

#[async_trait]
impl Transport for Outbox {
    async fn send(&self, to: &str, mail: &Rendered) -> Result<(), SendError> {
        self.mails.lock().unwrap().push((to.to_owned(), mail.text.clone()));
        Ok(())
    }
}

struct World {
    accounts: Accounts,
    store: Arc<SqliteStore>,
    clock: Clock,
    outbox: Arc<Outbox>,
    _folder: tempfile::TempDir,
}

async fn world() -> World {
    world_with(|_| ()).await
}

async fn world_with(change: impl FnOnce(&mut Config)) -> World {
    let mut config = config();
    change(&mut config);
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("supersync.db"), SqliteOptions::default()).await.unwrap();
    let store = Arc::new(store);
    let outbox = Arc::new(Outbox::default());
    let clock = Clock::manual(NOW_MS);
    let accounts = Accounts::with_passwords(
        Arc::clone(&store) as Arc<dyn Store>,
        &config,
        clock.clone(),
        Mailer::with_transport(Arc::clone(&outbox) as Arc<dyn Transport>),
        Passwords::new(CHEAP, 2),
    );
    World { accounts, store, clock, outbox, _folder: folder }
}

fn secret(text: &str) -> SecretString {
    text.to_owned().into()
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

impl World {
    async fn register(&self, email: &str, password: &str) -> Result<Registered, RegisterError> {
        self.accounts.register(&address(email), &secret(password), false).await
    }

    async fn login(&self, email: &str, password: &str) -> Result<String, LoginError> {
        let session = self.accounts.login(&address(email), &secret(password)).await?;
        Ok(session.token.expose_secret().to_owned())
    }

    /// The tokens of all links mailed so far, in order.
    async fn links(&self) -> Vec<String> {
        self.accounts.drain_mails().await;
        let mails = self.outbox.mails.lock().unwrap();
        mails
            .iter()
            .map(|(_, text)| {
                let start = text.find("https://sync.example.org/verify-email?token=").unwrap();
                text[start..].lines().next().unwrap().rsplit_once('=').unwrap().1.to_owned()
            })
            .collect()
    }

    async fn verified(&self, email: &str, password: &str) -> UserId {
        self.accounts.create_verified(&address(email), &secret(password)).await.unwrap()
    }

    async fn refusal(&self, header: &str) -> String {
        self.accounts.authenticate(Some(header)).await.unwrap_err().to_string()
    }

    /// A row as another program may have left it.
    async fn row(&self, email: &str, hash: Option<&str>, is_verified: bool) -> UserId {
        let row = NewUser {
            email: email.into(),
            password_hash: hash.map(Into::into),
            is_verified,
            created_at: NOW_MS,
            terms_accepted_at: None,
            storage_quota_bytes: 1,
        };
        self.store.create_user(&row).await.unwrap().unwrap()
    }
}

fn sign(claims: &serde_json::Value) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

mod sessions {
    use super::*;

    #[tokio::test]
    async fn each_refusal_has_the_contract_s_text() {
        let world = world().await;
        let user = world.verified("a@b.co", OWNER).await;
        let unverified = world.row("u@b.co", None, false).await;
        let good = world.login("a@b.co", OWNER).await.unwrap();

        let missing = world.accounts.authenticate(None).await.unwrap_err();
        assert_eq!(missing.to_string(), "Missing or invalid Authorization header");
        for header in ["", "Bearer", &good, &format!("bearer {good}"), "Basic x"] {
            assert_eq!(world.refusal(header).await, "Missing or invalid Authorization header", "{header}");
        }
        for header in ["Bearer ", "Bearer  x", &format!("Bearer  {good}"), "Bearer x.y.z", &format!("Bearer {good}x")] {
            assert_eq!(world.refusal(header).await, "Invalid token", "{header}");
        }
        let claims = |user: UserId, version: i64, exp: i64| json!({"userId": user, "email": "a@b.co", "tokenVersion": version, "exp": exp});
        let (past, future) = (NOW_MS / 1000, NOW_MS / 1000 + 1);
        let refusals = [
            (claims(user, 0, past), "Token expired. Please log in again to get a new token."),
            (claims(user + 100, 0, future), "Account unavailable"),
            (claims(unverified, 0, future), "Account unavailable"),
            (claims(user, 1, future), "Token was revoked. Please log in again to get a new token."),
            (json!({"userId": user, "email": "a@b.co", "nbf": future}), "Invalid token"),
        ];
        for (claims, text) in refusals {
            assert_eq!(world.refusal(&format!("Bearer {}", sign(&claims))).await, text);
        }

        let sender = world.accounts.authenticate(Some(&format!("Bearer {good} and more"))).await.unwrap();
        assert_eq!((sender.user_id, sender.email.as_str(), sender.token_version), (user, "a@b.co", 0));
    }

    #[tokio::test]
    async fn a_token_of_the_old_server_without_version_and_expiry_works_until_revoked() {
        let world = world().await;
        let user = world.verified("a@b.co", OWNER).await;
        let old = sign(&json!({"userId": user, "email": "A@b.co", "iat": 1_700_000_000}));
        let sender = world.accounts.authenticate_token(&old).await.unwrap();

        let session = world.accounts.replace_token(&sender).await.unwrap();
        assert_eq!(session.email, "A@b.co", "the presented token's address");
        assert!(matches!(world.accounts.authenticate_token(&old).await, Err(AuthError::Revoked)));
        let sender = world.accounts.authenticate_token(session.token.expose_secret()).await.unwrap();
        assert_eq!(sender.token_version, 1);
    }

    #[tokio::test]
    async fn a_dead_database_is_never_a_refused_session() {
        let world = world().await;
        let user = world.verified("a@b.co", OWNER).await;
        let token = world.login("a@b.co", OWNER).await.unwrap();
        world.accounts.authenticate_token(&token).await.unwrap();
        world.store.close().await;

        world.accounts.authenticate_token(&token).await.expect("known for half a minute");
        world.clock.advance_ms(CACHE_TTL_MS);
        assert!(matches!(world.accounts.authenticate_token(&token).await, Err(AuthError::Database(_))));
        // A token of another version is not refused from the cache's word either.
        let other = sign(&json!({"userId": user, "email": "a@b.co", "tokenVersion": 5}));
        assert!(matches!(world.accounts.authenticate_token(&other).await, Err(AuthError::Database(_))));
        assert!(matches!(world.login("a@b.co", OWNER).await, Err(LoginError::Database(_))));
        assert!(matches!(world.register("n@b.co", OWNER).await, Err(RegisterError::Database(_))));
        assert!(matches!(world.accounts.verify_email("x").await, Err(VerifyError::Database(_))));
    }

    #[tokio::test]
    async fn a_change_from_outside_is_seen_after_half_a_minute() {
        let world = world().await;
        let user = world.verified("a@b.co", OWNER).await;
        let token = world.login("a@b.co", OWNER).await.unwrap();
        world.accounts.authenticate_token(&token).await.unwrap();
        // Another process revokes.
        world.store.bump_token_version(user).await.unwrap();
        world.clock.advance_ms(CACHE_TTL_MS - 1);
        assert!(world.accounts.authenticate_token(&token).await.is_ok());
        world.clock.advance_ms(1);
        assert!(matches!(world.accounts.authenticate_token(&token).await, Err(AuthError::Revoked)));
    }

    #[tokio::test]
    async fn a_deleted_account_is_unavailable_at_once() {
        let world = world().await;
        let user = world.verified("a@b.co", OWNER).await;
        let token = world.login("a@b.co", OWNER).await.unwrap();
        world.accounts.authenticate_token(&token).await.unwrap();
        world.accounts.delete(user).await.unwrap();
        assert!(matches!(world.accounts.authenticate_token(&token).await, Err(AuthError::Unavailable)));
    }
}

mod passwords {
    use super::*;

    const LOCKED: &str = "Account temporarily locked due to too many failed login attempts. Please try again later.";

    #[tokio::test]
    async fn five_wrong_passwords_lock_for_fifteen_minutes() {
        let world = world().await;
        world.verified("a@b.co", OWNER).await;
        for _ in 0..5 {
            assert_eq!(world.login("a@b.co", "wrong").await.unwrap_err().to_string(), "Invalid credentials");
        }
        let hashes = world.accounts.password_hashes_computed();
        assert_eq!(world.login("a@b.co", OWNER).await.unwrap_err().to_string(), LOCKED);
        assert_eq!(world.accounts.password_hashes_computed(), hashes, "no hash while locked");
        world.clock.advance_ms(LOCK_MS - 1);
        assert!(matches!(world.login("a@b.co", OWNER).await, Err(LoginError::Locked)));
        world.clock.advance_ms(1);
        // One further miss locks again at once.
        assert!(matches!(world.login("a@b.co", "wrong").await, Err(LoginError::InvalidCredentials)));
        assert!(matches!(world.login("a@b.co", OWNER).await, Err(LoginError::Locked)));
        world.clock.advance_ms(LOCK_MS);
        world.login("a@b.co", OWNER).await.unwrap();
        // Success starts the count anew.
        for _ in 0..4 {
            assert!(matches!(world.login("a@b.co", "wrong").await, Err(LoginError::InvalidCredentials)));
        }
        world.login("a@b.co", OWNER).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn twenty_parallel_guesses_get_five_tries() {
        let world = Arc::new(world().await);
        world.verified("a@b.co", OWNER).await;
        let before = world.accounts.password_hashes_computed();
        let guesses: Vec<_> = (0..20)
            .map(|n| {
                let world = Arc::clone(&world);
                tokio::spawn(async move { world.login("a@b.co", &format!("guess {n}")).await })
            })
            .collect();
        let mut wrong = 0;
        let mut locked = 0;
        for guess in guesses {
            match guess.await.unwrap() {
                Err(LoginError::InvalidCredentials) => wrong += 1,
                Err(LoginError::Locked) => locked += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((wrong, locked), (5, 15));
        assert_eq!(world.accounts.password_hashes_computed() - before, 5);
        assert!(matches!(world.login("a@b.co", OWNER).await, Err(LoginError::Locked)));
    }

    #[tokio::test]
    async fn a_failed_login_costs_the_same_for_every_kind_of_account() {
        let world = world().await;
        world.verified("known@b.co", OWNER).await;
        world.row("keyless@b.co", None, true).await;
        world.register("unverified@b.co", OWNER).await.unwrap();
        for email in ["known@b.co", "keyless@b.co", "unverified@b.co", "unknown@b.co"] {
            let before = world.accounts.password_hashes_computed();
            let error = world.login(email, "a wrong password").await.unwrap_err();
            assert_eq!(error.to_string(), "Invalid credentials", "{email}");
            assert_eq!(world.accounts.password_hashes_computed() - before, 1, "{email}");
        }
    }

    #[tokio::test]
    async fn a_bcrypt_row_in_mixed_case_logs_in_and_gets_a_new_hash() {
        let world = world().await;
        let hash = bcrypt::hash(OWNER, 4).unwrap();
        let user = world.row("Mixed.Case@Example.COM", Some(&hash), true).await;
        assert!(matches!(world.login("mixed.case@example.com", "wrong").await, Err(LoginError::InvalidCredentials)));
        assert_eq!(world.store.user_by_id(user).await.unwrap().unwrap().password_hash, Some(hash));
        world.login("MIXED.case@example.com", OWNER).await.unwrap();
        let renewed = world.store.user_by_id(user).await.unwrap().unwrap();
        assert!(renewed.password_hash.unwrap().starts_with("$argon2id$"));
        assert_eq!((renewed.token_version, renewed.failed_login_attempts), (0, 0), "nobody is signed out by it");
        world.login("mixed.case@example.com", OWNER).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_password_ends_sessions_and_locks() {
        let world = world().await;
        let user = world.verified("a@b.co", OWNER).await;
        let token = world.login("a@b.co", OWNER).await.unwrap();
        for _ in 0..5 {
            let _wrong = world.login("a@b.co", "wrong").await.unwrap_err();
        }
        world.accounts.set_password(user, &secret("a newer password")).await.unwrap();
        assert!(matches!(world.accounts.authenticate_token(&token).await, Err(AuthError::Revoked)));
        assert!(matches!(world.login("a@b.co", OWNER).await, Err(LoginError::InvalidCredentials)));
        world.login("a@b.co", "a newer password").await.unwrap();
    }
}

mod registration {
    use super::*;

    #[tokio::test]
    async fn a_link_verifies_once_and_then_the_password_signs_in() {
        let world = world().await;
        assert_eq!(world.register("New@Example.com", OWNER).await.unwrap(), Registered::CheckMail);
        assert_eq!(world.login("new@example.com", OWNER).await.unwrap_err().to_string(), "Email not verified");
        let links = world.links().await;
        assert_eq!(links.len(), 1);
        assert_eq!(world.outbox.mails.lock().unwrap()[0].0, "new@example.com");

        let invalid = world.accounts.verify_email("0".repeat(64).as_str()).await.unwrap_err();
        assert_eq!(invalid.to_string(), "Invalid verification token");
        world.accounts.verify_email(&links[0]).await.unwrap();
        let again = world.accounts.verify_email(&links[0]).await.unwrap_err();
        assert_eq!(again.to_string(), "Invalid verification token");
        let token = world.login("new@example.com", OWNER).await.unwrap();
        assert!(world.accounts.authenticate_token(&token).await.is_ok());
        let user = world.accounts.find("new@example.com").await.unwrap();
        assert_eq!(user.storage_quota_bytes, 100 << 20);
    }

    #[tokio::test]
    async fn an_old_link_has_expired_and_a_new_one_can_be_had() {
        let world = world().await;
        world.register("a@b.co", OWNER).await.unwrap();
        world.clock.advance_ms(VERIFY_EMAIL_LIFETIME_MS);
        let links = world.links().await;
        let expired = world.accounts.verify_email(&links[0]).await.unwrap_err();
        assert_eq!(expired.to_string(), "Verification token has expired");
        world.register("a@b.co", OWNER).await.unwrap();
        world.accounts.verify_email(&world.links().await[1]).await.unwrap();
        let left = world.store.delete_expired_tokens(i64::MAX).await.unwrap();
        assert_eq!(left, 0, "the account's other links are gone");
    }

    #[tokio::test]
    async fn the_password_bound_to_the_clicked_link_is_the_only_one_alive() {
        for owner_clicks in [true, false] {
            let world = world().await;
            world.register("owner@b.co", ATTACKER).await.unwrap();
            world.register("owner@b.co", OWNER).await.unwrap();
            world.register("owner@b.co", ATTACKER).await.unwrap();
            let links = world.links().await;
            let (clicked, alive, dead) = if owner_clicks { (1, OWNER, ATTACKER) } else { (2, ATTACKER, OWNER) };
            world.accounts.verify_email(&links[clicked]).await.unwrap();
            assert!(world.login("owner@b.co", alive).await.is_ok());
            assert!(matches!(world.login("owner@b.co", dead).await, Err(LoginError::InvalidCredentials)));
            for link in links {
                assert!(matches!(world.accounts.verify_email(&link).await, Err(VerifyError::Invalid)));
            }
            assert!(world.login("owner@b.co", alive).await.is_ok());
        }
    }

    #[tokio::test]
    async fn a_stranger_s_link_can_t_replace_the_password_that_the_operator_set() {
        let world = world().await;
        world.register("owner@b.co", ATTACKER).await.unwrap();
        let user = world.accounts.find("owner@b.co").await.unwrap().id;
        world.accounts.set_password(user, &secret(OWNER)).await.unwrap();
        world.accounts.set_verified(user).await.unwrap();
        let links = world.links().await;
        assert!(matches!(world.accounts.verify_email(&links[0]).await, Err(VerifyError::Invalid)));
        assert!(world.login("owner@b.co", OWNER).await.is_ok());
    }

    #[tokio::test]
    async fn one_of_two_clicks_at_once_wins() {
        let world = world().await;
        world.register("a@b.co", OWNER).await.unwrap();
        let links = world.links().await;
        let (one, two) = tokio::join!(world.accounts.verify_email(&links[0]), world.accounts.verify_email(&links[0]));
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
    }

    #[tokio::test]
    async fn known_and_unknown_addresses_get_the_same_answer_for_the_same_work() {
        let world = world().await;
        world.verified("verified@b.co", OWNER).await;
        world.register("unverified@b.co", OWNER).await.unwrap();
        for _ in 0..=MAX_RESENDS_PER_DAY {
            world.register("capped@b.co", OWNER).await.unwrap();
        }
        let mailed = world.links().await.len();
        for email in ["VERIFIED@b.co", "unverified@b.co", "capped@b.co", "unknown@b.co"] {
            let before = world.accounts.password_hashes_computed();
            assert_eq!(world.register(email, ATTACKER).await.unwrap(), Registered::CheckMail, "{email}");
            assert_eq!(world.accounts.password_hashes_computed() - before, 1, "{email}");
        }
        assert_eq!(world.links().await.len() - mailed, 2, "unverified and unknown only");
        assert!(world.login("verified@b.co", OWNER).await.is_ok());
    }

    #[tokio::test]
    async fn the_cap_on_links_decays() {
        let world = world().await;
        for _ in 0..30 {
            world.register("a@b.co", ATTACKER).await.unwrap();
        }
        let most = usize::try_from(MAX_RESENDS_PER_DAY).unwrap() + 1;
        assert_eq!(world.links().await.len(), most);
        world.clock.advance_ms(VERIFY_EMAIL_LIFETIME_MS + 1);
        world.register("a@b.co", OWNER).await.unwrap();
        assert_eq!(world.links().await.len(), most + 1);
    }

    #[tokio::test]
    async fn parallel_registrations_make_one_account_and_keep_the_cap() {
        let world = world().await;
        let all = (0..30).map(|_| world.register("a@b.co", OWNER));
        for result in futures_util::future::join_all(all).await {
            assert_eq!(result.unwrap(), Registered::CheckMail);
        }
        assert_eq!(world.accounts.list(0, 10).await.unwrap().len(), 1);
        assert_eq!(world.links().await.len(), usize::try_from(MAX_RESENDS_PER_DAY).unwrap() + 1);
    }

    #[tokio::test]
    async fn the_allow_list_refuses_registrations_and_nothing_else() {
        let world = world_with(|config| config.allowed_emails = vec!["*@good.org".into()]).await;
        world.verified("known@bad.org", OWNER).await;
        for email in ["new@bad.org", "known@bad.org"] {
            let error = world.register(email, OWNER).await.unwrap_err();
            assert_eq!(error.to_string(), "Registration is not allowed for this email address.");
        }
        world.register("new@good.org", OWNER).await.unwrap();
        assert!(world.login("known@bad.org", OWNER).await.is_ok());
    }

    #[tokio::test]
    async fn without_mail_registration_says_what_to_do() {
        let world = world().await;
        let accounts = Accounts::with_passwords(
            Arc::clone(&world.store) as Arc<dyn Store>,
            &config(),
            world.clock.clone(),
            Mailer::unavailable(),
            Passwords::new(CHEAP, 1),
        );
        let error = accounts.register(&address("a@b.co"), &secret(OWNER), false).await.unwrap_err();
        assert!(matches!(error, RegisterError::NoMail));
        assert!(error.to_string().contains("supersync user add"));
        assert_eq!(accounts.list(0, 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn test_mode_verifies_at_once_and_mails_nothing() {
        let world = world_with(|config| config.test_mode = true).await;
        world.row("pending@b.co", None, false).await;
        for email in ["new@b.co", "pending@b.co"] {
            assert_eq!(world.register(email, OWNER).await.unwrap(), Registered::Verified);
            assert!(world.login(email, OWNER).await.is_ok());
        }
        assert_eq!(world.register("new@b.co", ATTACKER).await.unwrap(), Registered::CheckMail);
        assert!(world.login("new@b.co", OWNER).await.is_ok(), "an account in use keeps its password");
        assert_eq!(world.links().await, Vec::<String>::new());
    }
}

mod operator {
    use super::*;

    async fn run(world: &World, command: UserCommand, input: &str) -> Result<String, AdminError> {
        let mut output = Vec::new();
        execute(command, &world.accounts, "https://sync.example.org", &mut input.as_bytes(), &mut output).await?;
        Ok(String::from_utf8(output).unwrap())
    }

    fn add(email: &str, password_stdin: bool) -> UserCommand {
        UserCommand::Add { email: email.into(), password: PasswordSource { password_stdin } }
    }

    /// The line after the one that starts so.
    fn after<'a>(output: &'a str, heading: &str) -> &'a str {
        let mut lines = output.lines().skip_while(|line| !line.starts_with(heading));
        lines.nth(1).unwrap_or_else(|| panic!("{heading} in {output}")).trim()
    }

    #[tokio::test]
    async fn add_makes_an_account_whose_token_and_password_work() {
        let world = world().await;
        let output = run(&world, add("Me@b.co", false), "").await.unwrap();
        assert!(world.accounts.authenticate_token(after(&output, "Access token")).await.is_ok());
        assert!(world.login("me@b.co", after(&output, "Password")).await.is_ok());
        assert!(output.contains("https://sync.example.org"));
        assert!(matches!(run(&world, add("me@B.co", false), "").await, Err(AdminError::Exists(_))));
        assert!(matches!(run(&world, add("nobody", false), "").await, Err(AdminError::Address(..))));

        let output = run(&world, add("you@b.co", true), "a long passphrase\n").await.unwrap();
        assert!(!output.contains("passphrase") && !output.contains("Password"), "{output}");
        assert!(world.login("you@b.co", "a long passphrase").await.is_ok());
    }

    #[tokio::test]
    async fn token_needs_a_verified_account() {
        let world = world().await;
        world.row("u@b.co", None, false).await;
        world.verified("v@b.co", OWNER).await;
        let token = |email: &str| UserCommand::Token { email: email.into() };
        assert!(matches!(run(&world, token("n@b.co"), "").await, Err(AdminError::NoAccount(_))));
        assert!(matches!(run(&world, token("u@b.co"), "").await, Err(AdminError::NotVerified(_))));
        let output = run(&world, token("V@b.co"), "").await.unwrap();
        let old = after(&output, "Access token");
        assert!(world.accounts.authenticate_token(old).await.is_ok());
        run(&world, UserCommand::Revoke { email: "v@b.co".into() }, "").await.unwrap();
        assert!(matches!(world.accounts.authenticate_token(old).await, Err(AuthError::Revoked)));
        let output = run(&world, token("v@b.co"), "").await.unwrap();
        assert!(world.accounts.authenticate_token(after(&output, "Access token")).await.is_ok());
    }

    #[tokio::test]
    async fn delete_asks_unless_told_not_to() {
        let world = world().await;
        world.verified("a@b.co", OWNER).await;
        let delete = |yes| UserCommand::Delete { email: "a@b.co".into(), yes };
        for answer in ["", "no\n", "y\n"] {
            assert!(matches!(run(&world, delete(false), answer).await, Err(AdminError::NotConfirmed)));
        }
        assert!(world.accounts.find("a@b.co").await.is_ok());
        run(&world, delete(false), "yes\n").await.unwrap();
        assert!(matches!(run(&world, delete(true), "").await, Err(AdminError::NoAccount(_))));
        world.verified("a@b.co", OWNER).await;
        run(&world, delete(true), "").await.unwrap();
    }

    #[tokio::test]
    async fn verify_replaces_the_password_of_a_registration_unless_it_is_trusted() {
        for keep_password in [false, true] {
            let world = world().await;
            world.register("a@b.co", ATTACKER).await.unwrap();
            let password = PasswordSource { password_stdin: false };
            let verify = UserCommand::Verify { email: "a@b.co".into(), keep_password, password };
            let output = run(&world, verify, "").await.unwrap();
            assert_eq!(world.login("a@b.co", ATTACKER).await.is_ok(), keep_password);
            if !keep_password {
                assert!(world.login("a@b.co", after(&output, "Password")).await.is_ok());
            }
        }
    }

    #[tokio::test]
    async fn list_and_quota_show_each_account() {
        let world = world().await;
        world.verified("a@b.co", OWNER).await;
        world.row("u@b.co", None, false).await;
        run(&world, UserCommand::SetQuota { email: "u@b.co".into(), quota: 12_345 }, "").await.unwrap();
        let output = run(&world, UserCommand::List, "").await.unwrap();
        let line = output.lines().find(|line| line.ends_with("u@b.co")).unwrap();
        assert!(line.contains("unverified") && line.contains("12345") && line.contains("2027-01-15"), "{line}");
        assert!(output.ends_with("2 accounts\n"), "{output}");
    }
}

mod over_http {
    use axum::Router;
    use axum::body::Body;
    use axum::http::{Request, StatusCode, header};
    use serde_json::Value;
    use supersync::engine::{Handle, Options};
    use supersync::http::AppState;
    use tower::ServiceExt as _;

    use super::*;

    struct Answer {
        status: StatusCode,
        cache_control: Option<String>,
        text: String,
    }

    impl Answer {
        fn json(&self) -> Value {
            serde_json::from_str(&self.text).unwrap()
        }

        fn error(&self) -> (u16, String) {
            (self.status.as_u16(), self.json()["error"].as_str().unwrap().to_owned())
        }
    }

    struct Server {
        world: World,
        engine: Handle,
        router: Router,
    }

    async fn server() -> Server {
        let world = world().await;
        let config = config();
        let store = Arc::clone(&world.store) as Arc<dyn Store>;
        let engine = Handle::start(Arc::clone(&store), world.clock.clone(), Options::from(&config)).await.unwrap();
        let state = AppState::new(Arc::new(config), engine.clone(), world.accounts.clone(), store, world.clock.clone());
        Server { engine, router: supersync::http::router(state), world }
    }

    impl Server {
        async fn send(&self, request: Request<Body>) -> Answer {
            let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
            let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let cache_control = parts.headers.get(header::CACHE_CONTROL).map(|v| v.to_str().unwrap().to_owned());
            Answer { status: parts.status, cache_control, text: String::from_utf8(bytes.to_vec()).unwrap() }
        }

        async fn post(&self, path: &str, body: &Value) -> Answer {
            let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
            self.send(request.body(Body::from(body.to_string())).unwrap()).await
        }

        async fn with_token(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::AUTHORIZATION, format!("Bearer {token}"));
            self.send(request.body(Body::from(body.to_owned())).unwrap()).await
        }

        async fn get(&self, method: &str, path: &str) -> Answer {
            self.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
        }
    }

    #[tokio::test]
    async fn faults_of_a_body_are_named() {
        let server = server().await;
        let answer = server.post("/api/register", &json!({"email": "a@localhost", "password": "short"})).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(
            answer.json(),
            json!({"error": "Validation failed", "details": [
                {"code": "invalid_format", "path": ["email"], "message": "Invalid email format"},
                {"code": "too_small", "path": ["password"], "message": "Password must be at least 12 characters long"},
            ]})
        );
        let answer = server.post("/api/login", &json!({"email": "a@b.co", "password": ""})).await;
        assert_eq!(answer.json()["details"][0]["message"], "Password is required");
        let answer = server.post("/api/verify-email", &json!({"token": ""})).await;
        assert_eq!(answer.json()["details"][0]["message"], "Token is required");
        let answer = server.post("/api/login", &json!(["x"])).await;
        assert_eq!(answer.json()["details"][0]["message"], "Invalid input: expected object, received array");
        let answer = server.get("POST", "/api/login").await;
        assert_eq!(answer.json()["details"][0]["message"], "Invalid input: expected object, received undefined");
    }

    #[tokio::test]
    async fn register_verify_and_log_in() {
        let server = server().await;
        let body = json!({"email": "New@b.co", "password": OWNER, "termsAccepted": true});
        let answer = server.post("/api/register", &body).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        let message = "Registration successful. Please check your email to verify your account.";
        assert_eq!(answer.json(), json!({"message": message, "email": "New@b.co"}));

        let login = json!({"email": "new@b.co", "password": OWNER});
        assert_eq!(server.post("/api/login", &login).await.error(), (401, "Email not verified".into()));
        let token = server.world.links().await.remove(0);
        let wrong = server.post("/api/verify-email", &json!({"token": "x"})).await;
        assert_eq!(wrong.error(), (400, "Invalid verification token".into()));
        let answer = server.post("/api/verify-email", &json!({"token": token})).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"message": "Email verified successfully"})));

        let answer = server.post("/api/login", &login).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.cache_control.as_deref(), Some("no-store"));
        let session = answer.json();
        assert_eq!(session["user"], json!({"id": 1, "email": "new@b.co"}));
        assert!(server.world.accounts.authenticate_token(session["token"].as_str().unwrap()).await.is_ok());
        let wrong = server.post("/api/login", &json!({"email": "new@b.co", "password": "x"})).await;
        assert_eq!(wrong.error(), (401, "Invalid credentials".into()));
    }

    #[tokio::test]
    async fn opening_the_page_changes_nothing_and_its_button_verifies_once() {
        let server = server().await;
        server.world.register("a@b.co", OWNER).await.unwrap();
        let token = server.world.links().await.remove(0);
        let path = format!("/verify-email?token={token}&token=again");
        for method in ["HEAD", "GET", "GET"] {
            let answer = server.get(method, &path).await;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.cache_control.as_deref(), Some("no-store"));
            assert!(!answer.text.contains("Email Verified") && !answer.text.contains("<script"));
            assert_eq!(answer.text.contains(&token), method == "GET");
        }
        assert!(!server.world.accounts.find("a@b.co").await.unwrap().is_verified);

        let submit = || {
            let form = Request::post("/verify-email").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            server.send(form.body(Body::from(format!("token={token}"))).unwrap())
        };
        let answer = submit().await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.text.contains("<title>Email Verified</title>") && answer.text.contains("Email Verified!"));
        let again = submit().await;
        assert_eq!(
            (again.status.as_u16(), again.text.as_str()),
            (400, "Verification failed: Invalid verification token")
        );
    }

    #[tokio::test]
    async fn the_page_escapes_the_token_and_wants_one() {
        let server = server().await;
        for path in ["/verify-email", "/verify-email?token="] {
            let answer = server.get("GET", path).await;
            assert_eq!((answer.status.as_u16(), answer.text.as_str()), (400, "Token is required"));
        }
        let answer = server.get("GET", "/verify-email?token=%22%3E%3Cscript%3E").await;
        assert!(answer.text.contains("value=\"&quot;&gt;&lt;script&gt;\"") && !answer.text.contains("<script"));
    }

    #[tokio::test]
    async fn replacing_the_token_voids_the_old_one_and_closes_every_socket() {
        for body in ["", "{}", r#"{"clientId":"phone"}"#] {
            let server = server().await;
            let user = server.world.verified("a@b.co", OWNER).await;
            let old = server.world.login("a@b.co", OWNER).await.unwrap();
            let mut phone = server.engine.notifier().join(user, "phone").unwrap();
            let mut laptop = server.engine.notifier().join(user, "laptop").unwrap();
            let mut stranger = server.engine.notifier().join(user + 1, "phone").unwrap();

            let answer = server.with_token("POST", "/api/replace-token", &old, body).await;
            assert_eq!(answer.status, StatusCode::OK, "{body}");
            let token = answer.json()["token"].as_str().unwrap().to_owned();
            for socket in [&mut phone, &mut laptop] {
                assert_eq!(closed_with(socket).await, (4003, "Token revoked"));
            }
            assert!(futures_util::FutureExt::now_or_never(stranger.next()).is_none(), "another account's socket stays");

            let refused = server.with_token("POST", "/api/replace-token", &old, "{}").await;
            assert_eq!(refused.error().1, "Token was revoked. Please log in again to get a new token.");
            assert_eq!(server.with_token("POST", "/api/replace-token", &token, "{}").await.status, StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn deleting_the_account_ends_sessions_and_sockets() {
        let server = server().await;
        let user = server.world.verified("a@b.co", OWNER).await;
        let token = server.world.login("a@b.co", OWNER).await.unwrap();
        let mut phone = server.engine.notifier().join(user, "phone").unwrap();
        let answer = server.with_token("DELETE", "/api/account", &token, "").await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"success": true})));
        assert_eq!(closed_with(&mut phone).await.0, 4003);
        let gone = server.with_token("DELETE", "/api/account", &token, "").await;
        assert_eq!(gone.error(), (401, "Account unavailable".into()));
        assert!(server.world.store.list_users(0, 10).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_bad_body_comes_before_a_missing_token() {
        let server = server().await;
        let request = Request::post("/api/replace-token").header(header::CONTENT_TYPE, "application/json");
        assert_eq!(server.send(request.body(Body::from("{")).unwrap()).await.status, StatusCode::BAD_REQUEST);
        let answer = server.get("POST", "/api/replace-token").await;
        assert_eq!(answer.error(), (401, "Missing or invalid Authorization header".into()));
    }

    #[tokio::test]
    async fn a_dead_database_is_503_everywhere() {
        let server = server().await;
        server.world.verified("a@b.co", OWNER).await;
        let token = server.world.login("a@b.co", OWNER).await.unwrap();
        server.world.store.close().await;
        let credentials = json!({"email": "a@b.co", "password": OWNER});
        for answer in [
            server.post("/api/login", &credentials).await,
            server.post("/api/register", &credentials).await,
            server.post("/api/verify-email", &json!({"token": "x"})).await,
            server.with_token("POST", "/api/replace-token", &token, "{}").await,
            server.with_token("DELETE", "/api/account", &token, "").await,
        ] {
            assert_eq!(answer.error(), (503, "database unavailable, please retry".into()));
        }
    }

    /// How the socket was closed; waits for nothing, as the handler has returned.
    async fn closed_with(socket: &mut supersync::engine::notifier::Membership) -> (u16, &'static str) {
        match socket.next().await {
            supersync::engine::notifier::Event::Close(closing) => (closing.code, closing.reason),
            news @ supersync::engine::notifier::Event::NewOps(_) => panic!("{news:?}"),
        }
    }
}

mod mail {
    use std::net::SocketAddr;

    use supersync::config::Smtp;
    use supersync::mail::{Letter, Mail, MailConfigError};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// A mail server that takes one mail in plain text and hands it over.
    async fn mail_server() -> (SocketAddr, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut socket = BufReader::new(socket);
            socket.write_all(b"220 mail\r\n").await.unwrap();
            let mut dialogue = String::new();
            loop {
                let mut line = String::new();
                socket.read_line(&mut line).await.unwrap();
                dialogue.push_str(&line);
                let reply = match line.get(..4).unwrap_or_default() {
                    "DATA" => "354 go on\r\n",
                    _ => "250 fine\r\n",
                };
                socket.write_all(reply.as_bytes()).await.unwrap();
                if line.starts_with("DATA") {
                    while !dialogue.ends_with("\r\n.\r\n") {
                        assert_ne!(socket.read_line(&mut dialogue).await.unwrap(), 0, "{dialogue}");
                    }
                    socket.write_all(b"250 taken\r\n").await.unwrap();
                    return dialogue;
                }
            }
        });
        (addr, server)
    }

    fn smtp(addr: SocketAddr) -> Smtp {
        Smtp {
            host: addr.ip().to_string(),
            port: addr.port(),
            implicit_tls: false,
            user: None,
            password: None,
            from: "SuperSync <noreply@example.org>".into(),
        }
    }

    #[tokio::test]
    async fn a_mail_reaches_the_configured_server() {
        let (addr, server) = mail_server().await;
        let mailer = Mailer::from_config(&Config { smtp: Some(smtp(addr)), ..config() }).unwrap();
        assert!(mailer.can_deliver());
        let link = "https://sync.example.org/verify-email?token=abc".to_owned().into();
        mailer.send(Mail { user: 1, to: "a@b.co".into(), letter: Letter::VerifyAddress { link } });
        let dialogue = server.await.unwrap();
        for part in ["MAIL FROM:<noreply@example.org>", "RCPT TO:<a@b.co>", "Subject: Verify your SuperSync account"] {
            assert!(dialogue.contains(part), "{part} in {dialogue}");
        }
        // Long lines are wrapped with an equals sign, so only the beginning is in one piece.
        assert!(dialogue.contains("https://sync.example.org/verify-email?token"), "{dialogue}");
        mailer.drain().await;
    }

    #[tokio::test]
    async fn without_a_mail_server_only_development_takes_mails() {
        assert!(Mailer::from_config(&config()).unwrap().can_deliver());
        let production = Config { environment: Environment::Production, ..config() };
        assert!(!Mailer::from_config(&production).unwrap().can_deliver());
        let sender = Smtp { from: "nobody".into(), ..smtp(([127, 0, 0, 1], 25).into()) };
        let broken = Mailer::from_config(&Config { smtp: Some(sender), ..config() });
        assert!(matches!(broken.err(), Some(MailConfigError::From(_))));
    }

    /// Keeps log lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_a_mail_server_the_operator_finds_the_link_in_the_log_but_no_address() {
        let mailer = Mailer::from_config(&config()).unwrap();
        let link = "https://sync.example.org/verify-email?token=abc".to_owned().into();
        let mail = Mail { user: 42, to: "a@b.co".into(), letter: Letter::VerifyAddress { link } };
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || mailer.send(mail));
        let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        for part in [" INFO ", "OPERATOR: ", "https://sync.example.org/verify-email?token=abc", "user_id=42"] {
            assert!(log.contains(part), "{part} in {log}");
        }
        assert!(!log.contains("a@b.co"), "{log}");
    }
}
