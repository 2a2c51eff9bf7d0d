//! What `supersync top` shows besides metrics: which accounts ask most, and which requests took longest lately. Not metrics,
//! because their labels would be accounts.
//!
//! Owns bounded memory, some 40 KB. Counting a request costs some ten nanoseconds and never waits: two threads that meet at
//! the same place lose one of the two counts. Holds account numbers, routes and durations; never an address, a token or
//! anything that a client has sent.

mod hottest;
mod slowest;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::protocol::UserId;
use hottest::Hottest;
use slowest::Slowest;

/// How far back accounts are counted.
pub const WINDOW: Duration = Duration::from_mins(1);

/// One account's part of the last minute, as far as it was followed: at least so much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotAccount {
    /// The account.
    pub account: UserId,
    /// Requests.
    pub requests: u64,
    /// Operations uploaded.
    pub operations: u64,
    /// Bytes of request bodies and of answers.
    pub bytes: u64,
}

/// A request that took long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowRequest {
    /// When it was over, Unix milliseconds.
    pub at: i64,
    /// Its method.
    pub method: Cow<'static, str>,
    /// Its route.
    pub route: String,
    /// Whose it was.
    pub account: Option<UserId>,
    /// The answer's status; 0: the client hung up before.
    pub status: u16,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What took longest.
    pub phase: Cow<'static, str>,
}

/// What is known at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How far back accounts are counted, in seconds.
    pub window_seconds: u64,
    /// Accounts, those with most requests first.
    pub accounts: Vec<HotAccount>,
    /// Requests of the last five minutes, the slowest first.
    pub slowest: Vec<SlowRequest>,
}

/// What a request was about.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Request<'a> {
    pub account: Option<UserId>,
    pub method: &'static str,
    pub route: &'a str,
    /// 0: the client hung up before there was an answer.
    pub status: u16,
    pub operations: u64,
    pub bytes: u64,
    pub started: Instant,
    pub duration: Duration,
}

impl<'a> Request<'a> {
    /// One that is over, of nobody known, with nothing in it.
    #[must_use]
    pub const fn over(method: &'static str, route: &'a str, status: u16, started: Instant, duration: Duration) -> Self {
        Self { account: None, method, route, status, operations: 0, bytes: 0, started, duration }
    }
}

/// Remembers them.
#[derive(Debug)]
pub struct Recent {
    began: Instant,
    clock: Clock,
    hottest: Hottest,
    slowest: Slowest,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(Clock::System)
    }
}

impl Recent {
    /// Nothing so far. The clock dates slow requests.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { began: Instant::now(), clock, hottest: Hottest::default(), slowest: Slowest::default() }
    }

    /// Counts a request that is over. `phase` is asked only about one that is among the slowest.
    pub fn count(&self, request: &Request<'_>, phase: impl FnOnce() -> &'static str) {
        let age = (request.started + request.duration).saturating_duration_since(self.began);
        if let Some(account) = request.account {
            self.hottest.count(account, request.operations, request.bytes, age);
        }
        if self.slowest.is_slow(request.duration, age) {
            self.slowest.add(request, self.clock.now_ms(), phase(), age);
        }
    }

    /// What is known now.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let age = self.began.elapsed();
        Seen { window_seconds: WINDOW.as_secs(), accounts: self.hottest.accounts(age), slowest: self.slowest.list(age) }
    }
}
