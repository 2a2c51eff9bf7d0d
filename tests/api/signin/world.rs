//! The routes over a database, without a socket, with mails kept and a clock that stands still.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use supersync::accounts::{Accounts, Address, HashParams, Passwords};
use supersync::clock::Clock;
use supersync::config::{Config, Controller};
use supersync::http::address::Peer;
use supersync::mail::{Mailer, Rendered, SendError, Transport};
use supersync::protocol::UserId;
use supersync::server::{Parts, Server};
use supersync::store::{self, Store};
use tower::ServiceExt as _;

use crate::harness::{Backend, TestDatabase};
use crate::signin::authenticator::Key;

pub const PASSWORD: &str = "the owner's password";
pub const OTHER_PASSWORD: &str = "another good password";

/// What answers say of a challenge, a new key, and a key to sign in with.
pub const GONE: &str = "Challenge expired or not found. Please try again.";
pub const BAD_KEY: &str = "Passkey verification failed. Please try again.";
pub const REFUSED: &str = "Authentication failed";

const CHEAP: HashParams = HashParams { memory_kib: 8, passes: 1 };

/// Publishes a privacy policy, which registration then asks consent to.
pub fn publish_terms(config: &mut Config) {
    let text = || "x".to_owned();
    let who = Controller { name: text(), street: text(), city: text(), country: text(), email: text() };
    config.legal.controller = Some(who);
}

/// Keeps what would have been mailed.
#[derive(Default)]
pub struct Outbox {
    mails: Mutex<Vec<(String, String)>>,
}

#[async_trait]
impl Transport for Outbox {
    async fn send(&self, to: &str, mail: &Rendered) -> Result<(), SendError> {
        self.mails.lock().unwrap().push((to.to_owned(), mail.text.clone()));
        Ok(())
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.body
    }

    #[track_caller]
    pub fn created(self) -> Value {
        assert_eq!(self.status, 201, "{}", self.text);
        self.body
    }

    #[track_caller]
    pub fn refused(&self, status: u16, error: &str) {
        assert_eq!((self.status, self.body["error"].as_str()), (status, Some(error)), "{}", self.text);
    }

    /// The messages of a validation error.
    #[track_caller]
    pub fn faults(&self) -> Vec<&str> {
        self.refused(400, "Validation failed");
        self.body["details"].as_array().unwrap().iter().map(|fault| fault["message"].as_str().unwrap()).collect()
    }
}

pub struct World {
    pub accounts: Accounts,
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub outbox: Arc<Outbox>,
    router: Router,
    /// What the browsers got that registered.
    cookies: Arc<Mutex<Vec<String>>>,
    // Last, so that it goes last.
    pub database: Arc<TestDatabase>,
}

pub async fn world(on: Backend) -> World {
    world_with(on, true, |_| ()).await
}

pub async fn world_with(on: Backend, mail: bool, change: impl FnOnce(&mut Config)) -> World {
    let database = Arc::new(TestDatabase::create(on).await);
    let clock = Clock::manual(Clock::System.now_ms());
    open(database, clock, Arc::default(), mail, change).await
}

async fn open(
    database: Arc<TestDatabase>,
    clock: Clock,
    outbox: Arc<Outbox>,
    mail: bool,
    change: impl FnOnce(&mut Config),
) -> World {
    let variables = [
        ("DATA_DIR", database.data_dir().to_string_lossy().into_owned()),
        ("JWT_SECRET", "a secret of the tests, long enough to be one".to_owned()),
        ("PUBLIC_URL", "https://sync.example.org".to_owned()),
        ("RATE_LIMITS", "off".to_owned()),
    ];
    let variables: HashMap<String, String> = variables.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    let mut config = Config::parse(&variables).unwrap();
    config.database = database.settings();
    change(&mut config);
    let store = store::open(&config.database, config.timeouts.statement).await.unwrap();
    let mailer =
        if mail { Mailer::with_transport(Arc::clone(&outbox) as Arc<dyn Transport>) } else { Mailer::unavailable() };
    let parts = Parts { passwords: Passwords::new(CHEAP, 4), ..Parts::of(&config, clock, mailer) };
    let server = Server::assemble(Arc::new(config), store, parts).await.unwrap();
    let router = server.router();
    let Server { accounts, store, clock, .. } = server;
    World { accounts, store, clock, outbox, router, cookies: Arc::default(), database }
}

impl World {
    /// A second server on the same database, with the same mailbox, clock and browsers.
    pub async fn beside(&self) -> World {
        let other = open(Arc::clone(&self.database), self.clock.clone(), Arc::clone(&self.outbox), true, |_| ()).await;
        World { cookies: Arc::clone(&self.cookies), ..other }
    }

    /// A link is used in the browser that registered, if any did.
    pub async fn send(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let cookie = match body.and_then(|body| body["token"].as_str()) {
            Some(link) if path == "/api/verify-email" => self.cookie_of(link).await,
            _ => None,
        };
        self.send_from(None, cookie.as_deref(), method, path, token, body).await
    }

    /// The cookie that came with the registration whose link this is.
    pub async fn cookie_of(&self, link: &str) -> Option<String> {
        let cookies = self.cookies.lock().unwrap().clone();
        for cookie in cookies {
            let secret = cookie.split_once('=').unwrap().1.to_owned().into();
            if self.accounts.registered_here(link, Some(&secret)).await.unwrap() {
                return Some(cookie);
            }
        }
        None
    }

    /// The same from an address, with a cookie.
    pub async fn send_from(
        &self,
        address: Option<&str>,
        cookie: Option<&str>,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(address) = address {
            request = request.extension(Peer::at(address.parse().unwrap()));
        }
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body).unwrap();
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        if let Some(cookie) = parts.headers.get(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
            self.cookies.lock().unwrap().push(cookie);
        }
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status.as_u16(), headers: parts.headers, body, text }
    }

    /// How many registrations have set a cookie.
    pub fn cookies_given(&self) -> usize {
        self.cookies.lock().unwrap().len()
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, None, Some(&body)).await
    }

    pub async fn post_as(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(token), Some(&body)).await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.send("GET", path, Some(token), None).await
    }

    /// The body of an answer with status 200, as it is.
    pub async fn bytes_as(&self, token: &str, path: &str) -> Vec<u8> {
        let request = Request::builder().uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let (parts, body) =
            self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().into_parts();
        assert_eq!(parts.status.as_u16(), 200);
        axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec()
    }

    /// How many mails have left so far.
    pub async fn mails(&self) -> usize {
        self.accounts.drain_mails().await;
        self.outbox.mails.lock().unwrap().len()
    }

    /// Everything that was mailed: to whom, and what.
    pub async fn mailed(&self) -> Vec<(String, String)> {
        self.accounts.drain_mails().await;
        self.outbox.mails.lock().unwrap().clone()
    }

    /// The tokens of the links to this page that were mailed to the address, in order.
    pub async fn links(&self, to: &str, page: &str) -> Vec<String> {
        let start = format!("https://sync.example.org/{page}?token=");
        let of_page = |(_, text): &(String, String)| {
            let at = text.find(&start)? + start.len();
            Some(text[at..].chars().take_while(char::is_ascii_hexdigit).collect())
        };
        self.mailed().await.iter().filter(|(address, _)| address == to).filter_map(of_page).collect()
    }

    /// The newest one.
    pub async fn link(&self, to: &str, page: &str) -> String {
        self.links(to, page).await.pop().expect("a link was mailed")
    }

    /// A verified account with a password.
    pub async fn verified(&self, email: &str) -> UserId {
        let address = Address::parse(email).unwrap();
        self.accounts.create_verified(&address, &PASSWORD.to_owned().into()).await.unwrap()
    }

    /// The token of a session in which the password has just been given.
    pub async fn signed_in(&self, email: &str) -> String {
        self.login(email, PASSWORD).await.ok()["token"].as_str().expect("a token").to_owned()
    }

    /// A session for the account that the operator made: it proves nothing.
    pub async fn token(&self, user: UserId) -> String {
        self.accounts.session_for(user).await.unwrap().token.expose_secret().to_owned()
    }

    pub async fn login(&self, email: &str, password: &str) -> Answer {
        self.post("/api/login", json!({ "email": email, "password": password })).await
    }

    pub async fn register_options(&self, email: &str) -> Value {
        self.post("/api/register/passkey/options", json!({ "email": email })).await.ok()
    }

    pub async fn login_options(&self, email: &str) -> Value {
        self.post("/api/login/passkey/options", json!({ "email": email })).await.ok()
    }

    /// Registers with this key, up to the mail.
    pub async fn register_key(&self, email: &str, key: &Key) -> Answer {
        let options = self.register_options(email).await;
        let body = json!({ "email": email, "credential": key.create(&options) });
        self.post("/api/register/passkey/verify", body).await
    }

    /// A verified account that signs in with this key only.
    pub async fn with_key(&self, email: &str, key: &Key) -> UserId {
        self.register_key(email, key).await.created();
        let token = self.link(email, "verify-email").await;
        self.post("/api/verify-email", json!({ "token": token })).await.ok();
        self.accounts.find(email).await.unwrap().id
    }

    /// A verified account with a password and this key, as the old server stored it.
    pub async fn adopt(&self, email: &str, key: &Key) {
        let user = self.verified(email).await;
        self.store.add_passkey(user, &key.adopted(), 20).await.unwrap();
    }

    /// Adds this key to the account that the token is for.
    pub async fn add_key(&self, token: &str, key: &Key, name: &str) -> Answer {
        let options = self.post_as(token, "/api/passkeys/options", json!({})).await.ok();
        self.post_as(token, "/api/passkeys/verify", json!({ "credential": key.create(&options), "name": name })).await
    }

    pub async fn login_key(&self, email: &str, key: &Key) -> Answer {
        let options = self.login_options(email).await;
        let body = json!({ "email": email, "credential": key.get(&options) });
        self.post("/api/login/passkey/verify", body).await
    }
}

/// Whether a session's answer is one, and works.
pub async fn works(world: &World, session: &Value) -> bool {
    let token = session["token"].as_str().expect("a session has a token");
    world.get_as(token, "/api/account").await.status == 200
}
