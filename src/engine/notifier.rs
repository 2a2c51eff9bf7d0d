//! Tells open sockets that something is new. Hints only: a lost one costs a poll.
//!
//! Owns the list of every account's sockets, who may join it, and what each is to be told. Knows neither HTTP nor
//! frames: a socket's task reads its [`Membership`] and speaks. Nothing here queues: a socket that falls behind finds
//! the newest sequence, not every one it missed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::protocol::{Seq, UserId};
use crate::store::Credential;

/// Times and bounds (contract, section 9).
#[derive(Clone, Debug)]
pub struct NotifierOptions {
    /// How often a socket is pinged.
    pub ping_every: Duration,
    /// A socket whose last pong is older than this when its ping is due is closed.
    pub pong_grace: Duration,
    /// Uploads this close to each other are told in one notice.
    pub debounce: Duration,
    /// A notice waits no longer than this, however steadily uploads come.
    pub max_delay: Duration,
    /// A device that has just connected keeps its socket for so long against a newcomer with its name.
    pub cooldown: Duration,
    /// Sockets of one account.
    pub max_sockets_per_user: usize,
    /// Most bytes of a message from a client.
    pub max_message_bytes: usize,
    /// How long a socket that is being closed may take to answer.
    pub close_grace: Duration,
}

impl Default for NotifierOptions {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(30),
            pong_grace: Duration::from_secs(40),
            debounce: Duration::from_millis(100),
            max_delay: Duration::from_millis(500),
            cooldown: Duration::from_secs(5),
            max_sockets_per_user: 10,
            max_message_bytes: 1024,
            close_grace: Duration::from_secs(1),
        }
    }
}

/// Why a socket is closed: code and reason of the close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The code; clients act on it.
    pub code: u16,
    /// The reason; for people.
    pub reason: &'static str,
}

impl Closing {
    /// Why, as a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self.code {
            1001 => "shutdown",
            1008 => "flooded",
            1009 => "too_big",
            1011 => "error",
            1012 => "reset",
            4001 => "malformed",
            4003 => "not_accepted",
            4008 => "too_many",
            4009 => "replaced",
            _ => "other",
        }
    }

    /// Whether whoever opened the socket has not shown to have an account here.
    #[must_use]
    pub const fn proves_nobody(self) -> bool {
        matches!(self.code, 4001 | 4003)
    }

    /// The upgrade carried no token.
    pub const MISSING_TOKEN: Self = Self { code: 4001, reason: "Missing token" };
    /// The upgrade carried no valid client id.
    pub const INVALID_CLIENT: Self = Self { code: 4001, reason: "Invalid clientId" };
    /// The token is not accepted; clients stop reconnecting.
    pub const INVALID_TOKEN: Self = Self { code: 4003, reason: "Invalid token" };
    /// The account's tokens were revoked.
    pub const REVOKED: Self = Self { code: 4003, reason: "Token revoked" };
    /// The device has a young socket already, which stays.
    pub const TOO_FAST: Self = Self { code: 4008, reason: "Reconnecting too fast" };
    /// The account has as many sockets as it may have.
    pub const TOO_MANY: Self = Self { code: 4008, reason: "Too many connections" };
    /// The device has opened a newer socket.
    pub const REPLACED: Self = Self { code: 4009, reason: "Replaced by newer connection" };
    /// The server stops.
    pub const SHUTDOWN: Self = Self { code: 1001, reason: "Server shutting down" };
    /// The server asks the client to connect and prove itself again.
    pub const RESET: Self = Self { code: 1012, reason: "Please reconnect" };
    /// The client sent a larger message than it may.
    pub const TOO_BIG: Self = Self { code: 1009, reason: "Message too big" };
    /// The client sends more, or more often, than it may.
    pub const FLOODED: Self = Self { code: 1008, reason: "Too many messages" };
    /// The server failed while it set the socket up.
    pub const INTERNAL: Self = Self { code: 1011, reason: "Internal error" };
}

/// What a socket has to do next; only the newest of each kind matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signal {
    /// The sequence to tell; grows in `notice` steps.
    latest_seq: Seq,
    /// How many notices there were.
    notice: u64,
    closing: Option<Closing>,
}

/// From the list to one socket's task. A tenth of a `watch` channel, which is made for many receivers: there are tens
/// of thousands of these.
#[derive(Debug, Default)]
struct Line {
    signal: Mutex<Signal>,
    changed: Notify,
}

impl Line {
    fn signal(&self) -> MutexGuard<'_, Signal> {
        self.signal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, latest_seq: Seq) {
        let mut signal = self.signal();
        signal.latest_seq = latest_seq;
        signal.notice += 1;
        drop(signal);
        self.changed.notify_one();
    }

    /// The first reason counts.
    fn close(&self, closing: Closing) {
        self.signal().closing.get_or_insert(closing);
        self.changed.notify_one();
    }
}

#[derive(Debug)]
struct Socket {
    client_id: Box<str>,
    /// Tells this socket from a later one of the same device.
    number: u64,
    /// What it was opened with.
    credential: Credential,
    line: Arc<Line>,
    cooldown_until: Instant,
}

impl Socket {
    fn is_closing(&self) -> bool {
        self.line.signal().closing.is_some()
    }
}

/// Uploads that are going to be told in one notice.
#[derive(Debug)]
struct Window {
    latest_seq: Seq,
    /// Who uploaded, and up to where: a device needs no notice of what it wrote itself, but of everything else.
    authored: HashMap<Box<str>, Seq>,
    last_at: Instant,
}

#[derive(Debug, Default)]
struct Account {
    /// One per device; so few that looking through them is faster than hashing, and a list of one takes no more than
    /// one.
    sockets: Vec<Socket>,
    window: Option<Box<Window>>,
}

#[derive(Debug)]
struct Inner {
    options: NotifierOptions,
    clock: Clock,
    accounts: DashMap<UserId, Account>,
    numbers: AtomicU64,
    open: AtomicUsize,
    stopped: AtomicBool,
}

/// The sockets of every account. Cheap to clone; all clones share them.
#[derive(Clone, Debug)]
pub struct Notifier {
    inner: Arc<Inner>,
}

impl Notifier {
    /// A notifier without sockets. `clock` dates the messages.
    #[must_use]
    pub fn new(options: NotifierOptions, clock: Clock) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                clock,
                accounts: DashMap::new(),
                numbers: AtomicU64::new(0),
                open: AtomicUsize::new(0),
                stopped: AtomicBool::new(false),
            }),
        }
    }

    /// Its times and bounds.
    #[must_use]
    pub fn options(&self) -> &NotifierOptions {
        &self.inner.options
    }

    /// The time that messages carry, Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }

    /// Sockets that are members now.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// Adds a device's socket, which `credential` opened. An older socket of the same device is closed in its favour, unless that one is open
    /// and young.
    ///
    /// # Errors
    /// Why the socket is to be closed at once.
    pub fn join(&self, user: UserId, client_id: &str, credential: Credential) -> Result<Membership, Closing> {
        let inner = &self.inner;
        let now = Instant::now();
        let mut account = inner.accounts.entry(user).or_default();
        let incumbent = account.sockets.iter().position(|socket| *socket.client_id == *client_id);
        let refused = match incumbent.map(|at| &mut account.sockets[at]) {
            _ if inner.stopped.load(Ordering::SeqCst) => Some(Closing::SHUTDOWN),
            Some(incumbent) if incumbent.is_closing() => None,
            Some(incumbent) if now < incumbent.cooldown_until => {
                incumbent.cooldown_until = now + inner.options.cooldown;
                Some(Closing::TOO_FAST)
            }
            Some(incumbent) => {
                incumbent.line.close(Closing::REPLACED);
                None
            }
            None => {
                let open = account.sockets.iter().filter(|socket| !socket.is_closing()).count();
                (open >= inner.options.max_sockets_per_user).then_some(Closing::TOO_MANY)
            }
        };
        if let Some(refused) = refused {
            let empty = account.sockets.is_empty();
            drop(account);
            if empty {
                inner.accounts.remove_if(&user, |_, account| account.sockets.is_empty());
            }
            return Err(refused);
        }
        let number = inner.numbers.fetch_add(1, Ordering::Relaxed);
        let line = Arc::<Line>::default();
        let cooldown_until = now + inner.options.cooldown;
        let socket =
            Socket { client_id: client_id.into(), number, credential, line: Arc::clone(&line), cooldown_until };
        if let Some(at) = incumbent {
            account.sockets[at] = socket;
        } else {
            account.sockets.reserve_exact(1);
            account.sockets.push(socket);
        }
        drop(account);
        inner.open.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("supersync_sockets").increment(1.0);
        metrics::counter!("supersync_sockets_opened_total").increment(1);
        Ok(Membership { notifier: self.clone(), user, number, line, seen: 0 })
    }

    /// Called after a commit that accepted operations of `author`; `latest_seq` is the account's last sequence. Costs
    /// nothing to speak of for an account without other sockets.
    pub fn committed(&self, user: UserId, author: &str, latest_seq: Seq) {
        let Some(mut account) = self.inner.accounts.get_mut(&user) else { return };
        let now = Instant::now();
        if let Some(window) = &mut account.window {
            window.latest_seq = window.latest_seq.max(latest_seq);
            window.last_at = now;
            let authored = window.authored.entry(author.into()).or_insert(latest_seq);
            *authored = latest_seq.max(*authored);
            return;
        }
        if account.sockets.iter().all(|socket| *socket.client_id == *author) {
            return;
        }
        let authored = HashMap::from([(Box::from(author), latest_seq)]);
        account.window = Some(Box::new(Window { latest_seq, authored, last_at: now }));
        drop(account);
        tokio::spawn(self.clone().flush_later(user, now));
    }

    async fn flush_later(self, user: UserId, opened: Instant) {
        let options = &self.inner.options;
        let latest = opened + options.max_delay;
        let mut due = opened + options.debounce;
        loop {
            tokio::time::sleep_until(due.min(latest)).await;
            let Some(mut account) = self.inner.accounts.get_mut(&user) else { return };
            let Some(window) = &account.window else { return };
            let quiet_at = window.last_at + options.debounce;
            let now = Instant::now();
            if now < quiet_at && now < latest {
                due = quiet_at;
                continue;
            }
            if let Some(window) = account.window.take() {
                account.tell(&window);
            }
            return;
        }
    }

    /// Closes every socket of an account, for instance because its tokens were revoked.
    pub fn close_user(&self, user: UserId, code: u16, reason: &'static str) {
        if let Some(account) = self.inner.accounts.get(&user) {
            for socket in &account.sockets {
                socket.line.close(Closing { code, reason });
            }
        }
    }

    /// What an account's sockets were opened with, each once.
    #[must_use]
    pub fn credentials(&self, user: UserId) -> Vec<Credential> {
        let Some(account) = self.inner.accounts.get(&user) else { return Vec::new() };
        let mut credentials = Vec::new();
        for socket in account.sockets.iter().filter(|socket| !socket.is_closing()) {
            if !credentials.contains(&socket.credential) {
                credentials.push(socket.credential);
            }
        }
        credentials
    }

    /// Closes those sockets of an account whose tokens `is_void` any more.
    pub fn close_revoked(&self, user: UserId, is_void: impl Fn(&Credential) -> bool) {
        if let Some(account) = self.inner.accounts.get(&user) {
            for socket in account.sockets.iter().filter(|socket| is_void(&socket.credential)) {
                socket.line.close(Closing::REVOKED);
            }
        }
    }

    /// Closes every socket in a way that makes clients come back: nobody knows any more whose tokens still count.
    pub fn close_all(&self) {
        for account in &self.inner.accounts {
            for socket in &account.sockets {
                socket.line.close(Closing::RESET);
            }
        }
    }

    /// Closes every socket and lets no new one in: the server stops.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        for account in &self.inner.accounts {
            for socket in &account.sockets {
                socket.line.close(Closing::SHUTDOWN);
            }
        }
    }
}

impl Account {
    fn tell(&self, window: &Window) {
        let mut told = 0;
        for socket in &self.sockets {
            // News is whatever somebody else wrote.
            let is_news = window.authored.keys().any(|author| *author != socket.client_id);
            if is_news {
                socket.line.tell(window.latest_seq);
                told += 1;
            }
        }
        metrics::counter!("supersync_notices_total").increment(told);
    }
}

/// What a socket's task has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Tell the client that the account has reached this sequence.
    NewOps(Seq),
    /// Close the socket.
    Close(Closing),
}

/// A socket's place in the list; dropping it leaves.
#[derive(Debug)]
pub struct Membership {
    notifier: Notifier,
    user: UserId,
    number: u64,
    line: Arc<Line>,
    seen: u64,
}

impl Membership {
    /// Waits for the next thing to do. Closing goes first. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            // A call between the look and the wait is kept by `notify_one`.
            let signal = *self.line.signal();
            if let Some(closing) = signal.closing {
                return Event::Close(closing);
            }
            if signal.notice > self.seen {
                self.seen = signal.notice;
                return Event::NewOps(signal.latest_seq);
            }
            self.line.changed.notified().await;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let inner = &self.notifier.inner;
        inner.open.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("supersync_sockets").decrement(1.0);
        if let Entry::Occupied(mut account) = inner.accounts.entry(self.user) {
            let sockets = &mut account.get_mut().sockets;
            sockets.retain(|socket| socket.number != self.number);
            if sockets.is_empty() {
                account.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const NEVER: Duration = Duration::from_hours(1);
    const SOON: Duration = Duration::from_millis(20);
    const USER: UserId = 7;
    const TOKEN: Credential = Credential { session: None, token_version: 0, issued_at: None };

    fn notifier(change: impl FnOnce(&mut NotifierOptions)) -> Notifier {
        let mut options = NotifierOptions { debounce: SOON, max_delay: NEVER, ..NotifierOptions::default() };
        change(&mut options);
        Notifier::new(options, Clock::manual(0))
    }

    async fn next(membership: &mut Membership) -> Event {
        timeout(Duration::from_secs(30), membership.next()).await.expect("an event in time")
    }

    #[tokio::test]
    async fn a_burst_is_told_once_to_everybody_but_its_author() {
        let notifier = notifier(|_| ());
        let (mut a, mut b) = (notifier.join(USER, "A", TOKEN).unwrap(), notifier.join(USER, "B", TOKEN).unwrap());
        let mut stranger = notifier.join(USER + 1, "B", TOKEN).unwrap();
        for seq in 1..=3 {
            notifier.committed(USER, "A", seq);
        }
        assert_eq!(next(&mut b).await, Event::NewOps(3));
        // What is told to all comes first: so nothing was told before.
        notifier.committed(USER, "C", 4);
        assert_eq!(next(&mut a).await, Event::NewOps(4));
        assert_eq!(next(&mut b).await, Event::NewOps(4));
        notifier.stop();
        assert_eq!(next(&mut stranger).await, Event::Close(Closing::SHUTDOWN));
    }

    #[tokio::test]
    async fn two_devices_that_upload_at_once_hear_of_each_other() {
        let notifier = notifier(|_| ());
        let (mut a, mut b) = (notifier.join(USER, "A", TOKEN).unwrap(), notifier.join(USER, "B", TOKEN).unwrap());
        notifier.committed(USER, "A", 1);
        notifier.committed(USER, "B", 2);
        assert_eq!((next(&mut a).await, next(&mut b).await), (Event::NewOps(2), Event::NewOps(2)));
    }

    #[tokio::test]
    async fn steady_traffic_does_not_hold_a_notice_back() {
        let notifier = notifier(|options| (options.debounce, options.max_delay) = (NEVER, SOON));
        let mut b = notifier.join(USER, "B", TOKEN).unwrap();
        notifier.committed(USER, "A", 1);
        notifier.committed(USER, "A", 2);
        assert_eq!(next(&mut b).await, Event::NewOps(2));
    }

    #[tokio::test]
    async fn a_device_that_falls_behind_hears_of_the_newest_only() {
        let notifier = notifier(|_| ());
        let (mut slow, mut quick) =
            (notifier.join(USER, "S", TOKEN).unwrap(), notifier.join(USER, "Q", TOKEN).unwrap());
        for seq in 1..=2 {
            notifier.committed(USER, "A", seq);
            assert_eq!(next(&mut quick).await, Event::NewOps(seq));
        }
        notifier.committed(USER, "A", 3);
        assert_eq!(next(&mut quick).await, Event::NewOps(3));
        let told = next(&mut slow).await;
        assert!(matches!(told, Event::NewOps(2 | 3)), "{told:?}");
    }

    #[tokio::test]
    async fn a_newcomer_inside_the_cooldown_is_refused_and_prolongs_it() {
        let notifier = notifier(|options| options.cooldown = NEVER);
        let _incumbent = notifier.join(USER, "A", TOKEN).unwrap();
        assert_eq!(notifier.join(USER, "A", TOKEN).unwrap_err(), Closing::TOO_FAST);
        assert_eq!(notifier.join(USER, "A", TOKEN).unwrap_err(), Closing::TOO_FAST);
        assert_eq!(notifier.sockets(), 1);
    }

    #[tokio::test]
    async fn after_the_cooldown_the_newer_socket_wins() {
        let notifier = notifier(|options| options.cooldown = Duration::ZERO);
        let mut old = notifier.join(USER, "A", TOKEN).unwrap();
        let mut new = notifier.join(USER, "A", TOKEN).unwrap();
        assert_eq!(next(&mut old).await, Event::Close(Closing::REPLACED));
        // The old one's leaving must not take the new one's place away.
        drop(old);
        notifier.committed(USER, "B", 1);
        assert_eq!(next(&mut new).await, Event::NewOps(1));
        assert_eq!(notifier.sockets(), 1);
    }

    #[tokio::test]
    async fn a_closing_socket_is_replaced_at_once() {
        let notifier = notifier(|options| options.cooldown = NEVER);
        let mut old = notifier.join(USER, "A", TOKEN).unwrap();
        notifier.close_user(USER, 4003, "Token revoked");
        notifier.join(USER, "A", TOKEN).unwrap();
        assert_eq!(next(&mut old).await, Event::Close(Closing::REVOKED), "the first reason stays");
    }

    #[tokio::test]
    async fn sockets_of_an_account_are_bounded_and_places_come_back() {
        let notifier = notifier(|options| (options.max_sockets_per_user, options.cooldown) = (2, Duration::ZERO));
        let (_a, b) = (notifier.join(USER, "A", TOKEN).unwrap(), notifier.join(USER, "B", TOKEN).unwrap());
        assert_eq!(notifier.join(USER, "C", TOKEN).unwrap_err(), Closing::TOO_MANY);
        let _replaces_a = notifier.join(USER, "A", TOKEN).unwrap();
        notifier.join(USER + 1, "C", TOKEN).unwrap();
        drop(b);
        notifier.join(USER, "C", TOKEN).unwrap();
    }

    #[tokio::test]
    async fn nothing_is_kept_of_accounts_without_sockets() {
        let notifier = notifier(|options| options.max_sockets_per_user = 0);
        notifier.committed(USER, "A", 1);
        notifier.join(USER, "A", TOKEN).unwrap_err();
        assert!(notifier.inner.accounts.is_empty());
    }

    #[tokio::test]
    async fn a_stopped_notifier_lets_nobody_in() {
        let notifier = notifier(|_| ());
        let mut old = notifier.join(USER, "A", TOKEN).unwrap();
        notifier.stop();
        assert_eq!(next(&mut old).await, Event::Close(Closing::SHUTDOWN));
        assert_eq!(notifier.join(USER, "B", TOKEN).unwrap_err(), Closing::SHUTDOWN);
    }

    #[tokio::test]
    async fn only_sockets_whose_tokens_are_void_are_closed() {
        let notifier = notifier(|_| ());
        let revoked = Credential { token_version: 1, ..TOKEN };
        let mut stays = notifier.join(USER, "A", TOKEN).unwrap();
        let mut goes = notifier.join(USER, "B", revoked).unwrap();
        let _goes_too = notifier.join(USER, "C", revoked).unwrap();
        let mut stranger = notifier.join(USER + 1, "A", revoked).unwrap();
        assert_eq!(notifier.credentials(USER), [TOKEN, revoked]);
        notifier.close_revoked(USER, |credential| *credential == revoked);
        assert_eq!(next(&mut goes).await, Event::Close(Closing::REVOKED));
        assert_eq!(notifier.credentials(USER), [TOKEN]);
        notifier.close_all();
        for socket in [&mut stays, &mut stranger] {
            assert_eq!(next(socket).await, Event::Close(Closing::RESET));
        }
        assert!(notifier.credentials(USER + 2).is_empty());
    }
}
