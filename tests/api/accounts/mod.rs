//! Accounts against a real database: sessions, lock-out, neutrality, links, adopted rows.

#![allow(clippy::unwrap_used, reason = "a test that can't set its stage has failed")]

mod mail;
mod operator;
mod over_http;
mod pages;
mod passwords;
mod registration;
mod sessions;
mod strict;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jsonwebtoken::{EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use supersync::accounts::{
    AccountError, Accounts, Address, Applicant, AuthError, CACHE_TTL_MS, HashParams, LOCK_MS, MAX_RESENDS_PER_DAY,
    Passwords, Registered, SessionOrigin, VERIFY_EMAIL_LIFETIME_MS, Verified,
};
use supersync::admin::user::{PasswordSource, UserCommand, execute};
use supersync::admin::{Exit, Failure};
use supersync::clock::Clock;
use supersync::config::{Config, MailDelivery};
use supersync::mail::{Mailer, Rendered, SendError, Transport};
use supersync::protocol::UserId;
use supersync::store::sqlite::{SqliteOptions, SqliteStore};
use supersync::store::{AccountStore as _, Credential, NewUser, SessionMethod, Store};

const NOW_MS: i64 = 1_800_000_000_000;
const SECRET: &str = "a secret of at least 32 characters";
const CHEAP: HashParams = HashParams { memory_kib: 8, passes: 1 };

const OWNER: &str = "the owner's password";
const ATTACKER: &str = "the attacker's password";

fn config() -> Config {
    let variables = [
        ("JWT_SECRET", SECRET),
        ("PUBLIC_URL", "https://sync.example.org"),
        ("WEBAUTHN_RP_NAME", "SuperSync"),
        ("CORS_ENABLED", "false"),
        ("TRUSTED_PROXIES", "none"),
        ("RATE_LIMITS", "off"),
        ("UPLOADS_PER_USER_PER_MINUTE", "0"),
        ("MIN_FREE_DISK_BYTES", "0"),
        ("PASSWORD_HASH_PARALLELISM", "2"),
    ];
    Config::parse(&variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()).unwrap()
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
    /// What the browsers got that registered.
    secrets: Mutex<Vec<SecretString>>,
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
    World { accounts, store, clock, outbox, secrets: Mutex::default(), _folder: folder }
}

fn secret(text: &str) -> SecretString {
    text.to_owned().into()
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// A browser somewhere.
fn origin() -> SessionOrigin {
    let user_agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0".to_owned();
    let address = Some([192, 0, 2, 77].into());
    SessionOrigin { method: SessionMethod::Password, user_agent: Some(user_agent), address }
}

fn applicant(email: &str) -> Applicant {
    Applicant {
        address: address(email),
        terms_accepted: false,
        invite: None,
        language: supersync::language::Language::English,
        from: Some([192, 0, 2, 77].into()),
    }
}

impl World {
    async fn register(&self, email: &str, password: &str) -> Result<Registered, AccountError> {
        let receipt = self.accounts.register(&applicant(email), Some(&secret(password))).await?;
        self.secrets.lock().unwrap().push(receipt.secret);
        Ok(receipt.registered)
    }

    /// Uses a link in the browser that registered.
    async fn verify(&self, token: &str) -> Result<Verified, AccountError> {
        let secrets = self.secrets.lock().unwrap().clone();
        for secret in secrets {
            if self.accounts.registered_here(token, Some(&secret)).await? {
                return self.accounts.verify_email(token, Some(&secret), None).await;
            }
        }
        self.accounts.verify_email(token, None, None).await
    }

    async fn login(&self, email: &str, password: &str) -> Result<String, AccountError> {
        let session = self.accounts.login(&address(email), &secret(password), &origin()).await?;
        Ok(session.token.expose_secret().to_owned())
    }

    /// The tokens of all links mailed so far, in order.
    async fn links(&self) -> Vec<String> {
        self.accounts.drain_mails().await;
        let mails = self.outbox.mails.lock().unwrap();
        mails
            .iter()
            .filter_map(|(_, text)| {
                let start = text.find("https://sync.example.org/verify-email?token=")?;
                Some(text[start..].lines().next()?.rsplit_once('=')?.1.to_owned())
            })
            .collect()
    }

    async fn verified(&self, email: &str, password: &str) -> UserId {
        self.accounts.create_verified(&address(email), &secret(password)).await.unwrap()
    }

    async fn refusal(&self, header: &str) -> String {
        self.accounts.authenticate(Some(header), || None).await.unwrap_err().to_string()
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
