//! The attacker: a registered account with as many addresses and connections as it likes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use supersync::accounts::Accounts;
use supersync::store::Store;
use supersync_client::Client;
use supersync_client::raw::{Answer, Body, Encoding};
use tokio::time::{Instant, interval};

use crate::harness::{Account, Op, http_client, ladder, register, upload};
use crate::line::Line;

/// An attacker sends the next request of a row no sooner than this after the one before: what is measured is the server,
/// not what is left to it by a loop that burns the machine's cores.
const PACE: Duration = Duration::from_millis(25);

/// An address of this machine that belongs to `number` of a group alone.
pub fn address(group: u8, number: usize) -> IpAddr {
    let [high, low] = u16::try_from(number % 60_000 + 1).expect("below 60,001").to_be_bytes();
    Ipv4Addr::new(127, group, high, low).into()
}

fn next_address() -> IpAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    address(66, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// How often attackers were answered with which status; 0: no answer.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<u16, usize>>>);

impl Tally {
    pub fn note(&self, status: u16) {
        *self.0.lock().expect("nobody panicked").entry(status).or_default() += 1;
    }

    pub fn take(&self) -> BTreeMap<u16, usize> {
        std::mem::take(&mut *self.0.lock().expect("nobody panicked"))
    }
}

/// What attackers find: a server, and who makes accounts on it.
#[derive(Clone)]
pub struct Stage {
    pub base: String,
    pub tally: Tally,
    /// When the attack ends, and how long it lasts.
    pub end: Arc<Mutex<Instant>>,
    pub length: Duration,
    pub store: Arc<dyn Store>,
    pub accounts: Accounts,
    /// Everybody who attacked.
    pub foes: Arc<Mutex<Vec<Account>>>,
}

impl Stage {
    /// When the attack ends.
    pub fn until(&self) -> Instant {
        *self.end.lock().expect("nobody panicked")
    }

    /// Everything is prepared: the time of the attack begins.
    pub fn ready(&self) {
        *self.end.lock().expect("nobody panicked") = Instant::now() + self.length;
    }

    /// A registered account with production's quota.
    pub async fn foe(&self) -> Foe {
        self.foe_with(104_857_600).await
    }

    /// The same with another quota.
    pub async fn foe_with(&self, quota: i64) -> Foe {
        let now_ms = supersync::clock::Clock::System.now_ms();
        let (id, email, token) = register(&*self.store, &self.accounts, now_ms, quota).await;
        let account = Account { id, email, token, base: self.base.clone(), http: http_client() };
        self.foes.lock().expect("nobody panicked").push(account.clone());
        Foe { account, stage: self.clone() }
    }

    /// The same act in `rows` rows, again and again until the attack ends. An act is told its number.
    pub async fn again(&self, rows: usize, act: impl AsyncFn(usize)) {
        let number = AtomicUsize::new(0);
        let row = async || {
            let mut pace = interval(PACE);
            while Instant::now() < self.until() {
                pace.tick().await;
                act(number.fetch_add(1, Ordering::Relaxed)).await;
            }
        };
        join_all((0..rows).map(|_| row())).await;
    }

    /// Sends a request without an account.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Body>) -> Option<Answer> {
        let client = Client::from_address(&self.base, &ladder(), Some(next_address())).expect("an address");
        self.note(client.send(method, path, body).await.ok())
    }

    fn note(&self, answer: Option<Answer>) -> Option<Answer> {
        self.tally.note(answer.as_ref().map_or(0, |answer| answer.status.as_u16()));
        answer
    }

    /// A connection from a new address; `None` when the server takes none.
    pub async fn line(&self) -> Option<Line> {
        Line::open(&self.base, next_address()).await
    }
}

/// One attacker.
#[derive(Clone)]
pub struct Foe {
    pub account: Account,
    pub stage: Stage,
}

impl Foe {
    /// Sends a request from a new address.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Body>) -> Option<Answer> {
        let client = Client::from_address(&self.stage.base, &ladder(), Some(next_address())).expect("an address");
        let client = client.with_token(&self.account.token).expect("a token");
        self.stage.note(client.send(method, path, body).await.ok())
    }

    pub async fn get(&self, path: &str) -> Option<Answer> {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, json: &Value) -> Option<Answer> {
        let body = if matches!(path, "/api/sync/ops" | "/api/sync/snapshot") { packed(json) } else { plain(json) };
        self.send(Method::POST, path, Some(&body)).await
    }

    /// Uploads operations, and says how many were accepted.
    pub async fn upload(&self, ops: &[Op]) -> usize {
        let Some(answer) = self.post("/api/sync/ops", &upload(CLIENT, None, ops)).await else { return 0 };
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let results = body["results"].as_array().map(Vec::as_slice).unwrap_or_default();
        results.iter().filter(|result| result["accepted"] == true).count()
    }

    /// A request's head, to be sent by hand.
    pub fn head(&self, method: &str, path: &str, more: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: sync.example.org\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\n{more}\r\n",
            self.account.token
        )
    }

    /// Sends a request's head and `body` over a new connection that takes in little at a time.
    pub async fn begin(&self, method: &str, path: &str, more: &str, body: &[u8]) -> Option<Line> {
        let mut line = self.stage.line().await?;
        line.send(self.head(method, path, more).as_bytes()).await?;
        line.send(body).await?;
        Some(line)
    }
}

/// The device of attackers.
pub const CLIENT: &str = "B_evil";

/// A body as browsers send it.
pub fn packed(json: &Value) -> Body {
    Body::new(json.to_string().as_bytes(), Encoding::Gzip)
}

/// A body as pages send it.
pub fn plain(json: &Value) -> Body {
    Body::new(json.to_string().as_bytes(), Encoding::Plain)
}

/// A full state with this text in it.
pub fn full_state(text: &str) -> Value {
    crate::harness::snapshot(CLIENT)
        .with("state", json!({ "task": { "ids": ["a"], "entities": { "a": { "id": "a", "notes": text } } } }))
        .json()
}

/// Text that hardly gets smaller: each attack meets the limits of what is stored, not only of what is sent.
pub fn noise(bytes: usize) -> String {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ crate::harness::fresh();
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(state >> 58) as usize]
    };
    String::from_utf8((0..bytes).map(|_| next()).collect()).expect("ASCII")
}
