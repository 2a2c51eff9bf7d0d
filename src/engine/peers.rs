//! The other processes on the same database: tells them what this one has committed, and hears from them, so that what is
//! in memory here is out of date for milliseconds, and for [`TRUST_FOR`] at most when one of them fails.
//!
//! Every process listens on one channel of the database. After a commit it says which accounts have a new revision; whoever
//! has such an account in memory looks at it again before the next answer, and tells the account's sockets. That alone
//! would trust a process to live until it has spoken, and a line never to break. So memory is trusted on proof, and
//! each proof lasts for [`TRUST_FOR`]:
//!
//! - Every process that is present says so twice a second, after what it has to tell of earlier commits: a beat. It
//!   carries the time at which its sender looked who is present. When a process hears its own beat, it has heard everything
//!   that was said before that time, and whoever is heard next was alive after it. So a process that is frozen, or cut
//!   off, is distrusted no later than [`TRUST_FOR`] after its last word, however late that word arrives; so is this process
//!   by itself, when it was frozen or can't reach the database.
//! - Who joins says hello, and trusts nothing in its memory (each request looks at the account's row first) until
//!   everyone who is present has answered. Who answers has begun to speak.
//! - Who sees one of the others gone rereads everything: it may have died between a commit and its words.
//! - Who is not known to be present tells the others of a commit before it acknowledges it: they would not miss its beats.
//!
//! Alone, a process says nothing at all, and trusts its memory while it sees that it is alone, or while the database
//! refuses connections: then nobody else can commit either. Writing never depends on any of this: each commit is fenced by
//! the account's revision.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::EngineError;
use super::notifier::Notifier;
use super::registry::Registry;
use crate::protocol::{Seq, UserId};
use crate::store::peers::{MAX_SAID_BYTES, PeerId, PeerLine};
use crate::store::{Store, StoreError, SyncState};

/// How long memory is trusted after the last proof that everything was heard.
pub const TRUST_FOR: Duration = Duration::from_secs(3);
/// How long commits are gathered before the others are told of them: what is said wakes every process.
const GATHER: Duration = Duration::from_millis(10);
/// How often a process looks who is present, and says that it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is noted whether memory is trusted still.
const JUDGE_EVERY: Duration = Duration::from_millis(250);
/// A process that has others and has not heard itself for so long has lost its line.
const DEAF_AFTER: Duration = Duration::from_secs(5);
/// Between two tries to join, or to speak.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a start waits for the others' answers; after that it serves without trusting its memory.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);
/// Things heard that wait to be acted on.
const MAX_UNHEARD: usize = 1024;
/// Authors named per account; with more, everyone is told.
const MAX_AUTHORS: usize = 8;

/// What processes say to each other. A newer one may say more; what is not understood is passed over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
enum Said {
    /// I have joined, or still wait for your answer.
    Hello {
        from: PeerId,
        /// When the sender looked who is present, by its own clock; for the sender only.
        #[serde(default)]
        at: u64,
    },
    /// I have heard you and tell you of my commits from now on.
    Here { from: PeerId, to: PeerId },
    /// I am here, and have told of everything that I acknowledged before.
    Beat {
        from: PeerId,
        /// As above.
        #[serde(default)]
        at: u64,
    },
    /// These accounts have changed.
    News { from: PeerId, accounts: Vec<News> },
}

/// An account that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct News {
    #[serde(rename = "u")]
    user: UserId,
    #[serde(rename = "r")]
    revision: i64,
    #[serde(rename = "s")]
    latest_seq: Seq,
    /// Whose operations were accepted.
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    authors: Vec<Arc<str>>,
}

impl News {
    fn add(&mut self, later: Self) {
        self.revision = self.revision.max(later.revision);
        self.latest_seq = self.latest_seq.max(later.latest_seq);
        for author in later.authors {
            if !self.authors.contains(&author) {
                self.authors.push(author);
            }
        }
        if self.authors.len() > MAX_AUTHORS {
            // Nobody's name: all devices are told, the authors' too, which find nothing new.
            self.authors = vec!["".into()];
        }
    }
}

/// What this process knows of the others. Shared by everything that reads or commits.
#[derive(Debug)]
pub struct Peers {
    me: PeerId,
    /// Times below are milliseconds since then.
    began: Instant,
    /// Changes whenever everything must be reread.
    epoch: AtomicU64,
    /// Until when what is in memory can be trusted.
    trusted_until: AtomicU64,
    /// Until when the others would miss this process if it fell silent.
    missed_until: AtomicU64,
    /// Whether the database did not answer lately.
    is_cut_off: AtomicBool,
    /// The others that are present.
    present: AtomicU32,
    changed: Notify,
    /// Whether anybody is there to be told.
    telling: AtomicBool,
    /// At most one for each account that this process writes.
    news: Mutex<HashMap<UserId, News>>,
    gathered: Notify,
    /// What is said is said in turn: a beat must not overtake news.
    speaking: tokio::sync::Mutex<()>,
}

impl Peers {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            me: rand::random_range(0..PeerId::MAX),
            began: Instant::now(),
            epoch: AtomicU64::new(0),
            trusted_until: AtomicU64::new(0),
            missed_until: AtomicU64::new(0),
            is_cut_off: AtomicBool::new(false),
            present: AtomicU32::new(0),
            changed: Notify::new(),
            telling: AtomicBool::new(true),
            news: Mutex::new(HashMap::new()),
            gathered: Notify::new(),
            speaking: tokio::sync::Mutex::new(()),
        }
    }

    /// A view read in the current epoch stays valid until a peer reports a newer revision. `None`: it is valid at the
    /// moment of reading only.
    pub fn epoch(&self) -> Option<u64> {
        // In this order: whoever trusts again begins an epoch first.
        let until = self.trusted_until.load(Ordering::Acquire);
        (until > self.now()).then(|| self.epoch.load(Ordering::Acquire))
    }

    /// Refuses at once what would wait for a database that does not answer.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] when it has not answered for [`TRUST_FOR`].
    pub fn check_reachable(&self) -> Result<(), EngineError> {
        let is_cut_off = self.is_cut_off.load(Ordering::Relaxed) && self.epoch().is_none();
        if is_cut_off { Err(EngineError::Unavailable) } else { Ok(()) }
    }

    /// How many processes serve the database, this one included, as far as it knows.
    pub fn processes(&self) -> u32 {
        self.present.load(Ordering::Relaxed).saturating_add(1)
    }

    /// Gathers a commit, to tell the others of it.
    pub fn committed(&self, user: UserId, sync: &SyncState, authors: &[Arc<str>]) {
        if !self.telling.load(Ordering::Acquire) {
            return;
        }
        let mut news = News { user, revision: sync.revision, latest_seq: sync.latest_seq(), authors: Vec::new() };
        news.add(News { authors: authors.to_vec(), ..news.clone() });
        self.gather(news);
        self.gathered.notify_one();
    }

    fn gather(&self, news: News) {
        match self.news().entry(news.user) {
            Entry::Occupied(mut earlier) => earlier.get_mut().add(news),
            Entry::Vacant(none) => {
                none.insert(news);
            }
        }
    }

    fn news(&self) -> MutexGuard<'_, HashMap<UserId, News>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what has been gathered. What can't be said now is kept.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tell(&self, store: &dyn Store) -> Result<(), StoreError> {
        self.say(store, None).await
    }

    /// The same, unless the others would miss this process anyway if it fell silent. To be called after
    /// [`Peers::committed`], before the commit is acknowledged.
    ///
    /// # Errors
    /// When the database fails: then the commit must not be acknowledged.
    pub async fn tell_unless_missed(&self, store: &dyn Store) -> Result<(), StoreError> {
        if self.missed_until.load(Ordering::Acquire) > self.now() { Ok(()) } else { self.tell(store).await }
    }

    /// Says what has been gathered, then this.
    async fn say(&self, store: &dyn Store, said: Option<&Said>) -> Result<(), StoreError> {
        let _turn = self.speaking.lock().await;
        let mut gathered = Gathered { peers: self, news: std::mem::take(&mut *self.news()) };
        if !self.telling.load(Ordering::Acquire) {
            gathered.news.clear();
        }
        let mut all = texts(self.me, gathered.news.values());
        all.extend(said.map(text));
        if !all.is_empty() {
            store.tell_peers(&all).await?;
        }
        gathered.news.clear();
        Ok(())
    }

    /// Tells the others of what is committed, until cancelled.
    pub async fn run_teller(self: Arc<Self>, store: Arc<dyn Store>, cancel: CancellationToken) {
        let tell = async {
            loop {
                self.gathered.notified().await;
                sleep(GATHER).await;
                while let Err(error) = self.tell(store.as_ref()).await {
                    tracing::warn!(%error, "the other processes can't be told of commits yet");
                    sleep(PAUSE).await;
                }
            }
        };
        cancel.run_until_cancelled(tell).await;
    }

    /// Waits until what is in memory can be trusted, but not for long.
    pub async fn settle(&self) {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                if self.epoch().is_some() {
                    return;
                }
                changed.await;
            }
        };
        if timeout(SETTLE_PATIENCE, settled).await.is_err() {
            tracing::warn!("the other processes on the database have not answered: every request asks the database");
        }
    }

    /// Nothing that was read before counts.
    fn renew(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Everything that the others had acknowledged at `proven` has been heard; `None`: it is not known whether it has.
    fn trust(&self, proven: Option<Instant>) {
        self.trust_until(proven.map_or(0, |at| self.millis(at + TRUST_FOR)));
    }

    fn trust_until(&self, until: u64) {
        let now = self.now();
        let was_trusted = self.trusted_until.load(Ordering::Acquire) > now;
        if until > now && !was_trusted {
            self.renew();
        }
        self.trusted_until.store(until, Ordering::Release);
        metrics::gauge!("supersync_memory_trusted").set(if until > now { 1.0 } else { 0.0 });
        self.changed.notify_waiters();
    }

    /// There can be no others.
    fn trust_forever(&self) {
        self.telling.store(false, Ordering::Release);
        self.missed_until.store(u64::MAX, Ordering::Release);
        metrics::gauge!("supersync_peers").set(0.0);
        self.trust_until(u64::MAX);
    }

    fn now(&self) -> u64 {
        self.millis(Instant::now())
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

/// What is being said. Goes back to the rest unless it has been said.
struct Gathered<'a> {
    peers: &'a Peers,
    news: HashMap<UserId, News>,
}

impl Drop for Gathered<'_> {
    fn drop(&mut self) {
        for (_, news) in self.news.drain() {
            self.peers.gather(news);
            self.peers.gathered.notify_one();
        }
    }
}

/// As few texts as the channel's limit allows.
fn texts<'a>(from: PeerId, news: impl Iterator<Item = &'a News>) -> Vec<String> {
    let (mut texts, mut accounts, mut bytes) = (Vec::new(), Vec::new(), 0);
    // Room for the frame.
    let most = MAX_SAID_BYTES - 100;
    for news in news {
        let size = text(news).len() + 1;
        if bytes + size > most && !accounts.is_empty() {
            texts.push(text(&Said::News { from, accounts: std::mem::take(&mut accounts) }));
            bytes = 0;
        }
        bytes += size;
        accounts.push(news.clone());
    }
    if !accounts.is_empty() {
        texts.push(text(&Said::News { from, accounts }));
    }
    texts
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and texts are always JSON")
}

/// Listens to the others.
pub struct Listener {
    peers: Arc<Peers>,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    notifier: Notifier,
    /// The others, and of each up to when everything has been heard that it acknowledged; `None`: it has not answered.
    others: HashMap<PeerId, Option<Instant>>,
    /// What is heard now was said after this.
    heard_up_to: Instant,
    /// Whether this process has ever heard itself, and whether it has on this line.
    hears: bool,
    is_tested: bool,
    /// When it was last looked who is present.
    looked: Option<Instant>,
    /// When somebody last said hello.
    greeted: Option<Instant>,
}

/// Why listening ended.
enum Ended {
    /// There can be no others.
    Alone,
    Broken,
}

/// A look at who is present.
struct Look {
    /// When it began.
    at: Instant,
    /// Who is; `None`: the database does not say.
    found: Option<Vec<PeerId>>,
    /// Whether the database refuses connections: nobody can commit.
    is_refused: bool,
}

/// What a look that began at some time says about this process.
struct Greeting {
    /// Who has answered.
    known: Vec<PeerId>,
    is_tested: bool,
}

impl Greeting {
    fn of(&self, peers: &Peers, present: &[PeerId], at: Instant) -> Option<Said> {
        let is_unknown = |peer: &PeerId| *peer != peers.me && !self.known.contains(peer);
        let (from, at) = (peers.me, peers.millis(at));
        if !self.is_tested || present.iter().any(is_unknown) {
            return Some(Said::Hello { from, at });
        }
        present.iter().any(|peer| *peer != from).then_some(Said::Beat { from, at })
    }
}

impl Look {
    /// Looks, and says that this process is here: after the look, so that a beat proves what it has found. Without a line
    /// it says nothing.
    async fn take(store: Arc<dyn Store>, peers: Arc<Peers>, greeting: Option<Greeting>) -> Self {
        let at = Instant::now();
        // The other look would take a second to fail.
        if greeting.is_none() && store.refuses_everybody().await {
            peers.is_cut_off.store(true, Ordering::Relaxed);
            return Self { at, found: None, is_refused: true };
        }
        let found = match store.present_peers().await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "it can't be seen who else is there");
                peers.is_cut_off.store(true, Ordering::Relaxed);
                let is_refused = store.refuses_everybody().await;
                // The connection of these looks may be the only one that fails.
                if !is_refused && store.ping().await.is_ok() {
                    peers.is_cut_off.store(false, Ordering::Relaxed);
                }
                return Self { at, found: None, is_refused };
            }
        };
        peers.is_cut_off.store(false, Ordering::Relaxed);
        if let Some(said) = greeting.and_then(|greeting| greeting.of(&peers, &found, at)) {
            // Whoever hears it may rely on hearing of commits.
            peers.telling.store(true, Ordering::Release);
            if let Err(error) = peers.say(store.as_ref(), Some(&said)).await {
                tracing::debug!(%error, "the other processes can't be told that this one is here");
            }
        }
        Self { at, found: Some(found), is_refused: false }
    }
}

impl Listener {
    /// Listens for what concerns these accounts and sockets.
    pub fn new(peers: Arc<Peers>, store: Arc<dyn Store>, registry: Arc<Registry>, notifier: Notifier) -> Self {
        Self {
            peers,
            store,
            registry,
            notifier,
            others: HashMap::new(),
            heard_up_to: Instant::now(),
            hears: false,
            is_tested: false,
            looked: None,
            greeted: None,
        }
    }

    /// Listens until cancelled, joining again as often as the line breaks.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut complained = false;
        let listen = async {
            loop {
                let ended = self.listen().await;
                complained &= !self.is_tested;
                match ended {
                    Ok(Ended::Alone) => return,
                    Ok(Ended::Broken) if !complained => {
                        complained = true;
                        tracing::warn!("the line to the other processes is broken; joining again");
                    }
                    Err(error) if !complained => {
                        complained = true;
                        tracing::warn!(%error, "the other processes on the database can't be joined, trying again");
                    }
                    Ok(Ended::Broken) | Err(_) => {}
                }
                // They don't see this process any more, nor does it hear them; and somebody may have come since.
                self.peers.missed_until.store(0, Ordering::Release);
                self.peers.telling.store(true, Ordering::Release);
                self.others.values_mut().for_each(|heard| *heard = None);
                self.is_tested = false;
                self.judge();
                let look = Look::take(Arc::clone(&self.store), Arc::clone(&self.peers), None).await;
                self.found(&look);
                if look.found.is_some() {
                    // Others that can't join either may be there; and the database can be asked.
                    self.looked = None;
                }
                self.judge();
                sleep(PAUSE).await;
            }
        };
        cancel.run_until_cancelled(listen).await;
    }

    async fn listen(&mut self) -> Result<Ended, StoreError> {
        self.is_tested = false;
        let joining = Instant::now();
        let Some(line) = self.store.join_peers(self.peers.me).await? else {
            self.peers.trust_forever();
            return Ok(Ended::Alone);
        };
        // From here on whoever joins hears of every commit, and whoever is there says who it is.
        self.peers.telling.store(true, Ordering::Release);
        let (to, mut heard) = mpsc::channel(MAX_UNHEARD);
        let _ear = AbortOnDropHandle::new(tokio::spawn(pass_on(line, to)));
        // Whoever it knew may be somebody else by now, and may have spoken meanwhile.
        self.others.values_mut().for_each(|heard| *heard = None);
        self.heard_up_to = joining;
        let mut alone_until = joining;
        let mut looking = self.look(Duration::ZERO);
        let mut ticks = interval(JUDGE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                text = heard.recv() => match text {
                    Some(text) => self.heard(&text).await,
                    None => return Ok(Ended::Broken),
                },
                look = &mut looking => {
                    let Ok(look) = look else { return Ok(Ended::Broken) };
                    self.found(&look);
                    match &look.found {
                        Some(present) if !present.contains(&self.peers.me) => return Ok(Ended::Broken),
                        Some(_) => {
                            let until = self.peers.millis(look.at + TRUST_FOR);
                            self.peers.missed_until.store(until, Ordering::Release);
                        }
                        None => {}
                    }
                    looking = self.look(LOOK_EVERY);
                }
                _ = ticks.tick() => {}
            }
            if self.others.is_empty() {
                alone_until = Instant::now();
            } else if self.heard_up_to.max(alone_until).elapsed() > DEAF_AFTER {
                return Ok(Ended::Broken);
            }
            self.judge();
        }
    }

    /// The next look, after a pause. A task of its own: it speaks, and so does whoever listens meanwhile, in turn.
    fn look(&self, pause: Duration) -> AbortOnDropHandle<Look> {
        let known = self.others.iter().filter(|(_, heard)| heard.is_some()).map(|(peer, _)| *peer).collect();
        let greeting = Greeting { known, is_tested: self.is_tested };
        let (store, peers) = (Arc::clone(&self.store), Arc::clone(&self.peers));
        AbortOnDropHandle::new(tokio::spawn(async move {
            sleep(pause).await;
            Look::take(store, peers, Some(greeting)).await
        }))
    }

    /// Trusts the memory as far as there is proof.
    fn judge(&self) {
        let proven = self.others.values().copied().min().unwrap_or(self.looked);
        self.peers.trust(proven.filter(|_| self.hears));
    }

    /// Who is there?
    fn found(&mut self, look: &Look) {
        let Some(present) = &look.found else {
            if look.is_refused && self.looked.is_some() {
                self.looked = Some(Instant::now());
            }
            return;
        };
        let others: Vec<PeerId> = present.iter().copied().filter(|peer| *peer != self.peers.me).collect();
        let known = self.others.len();
        self.others.retain(|peer, _| others.contains(peer));
        if self.others.len() < known {
            // It may have died before it could tell of its last commits.
            self.peers.renew();
        }
        for peer in &others {
            self.others.entry(*peer).or_insert(None);
        }
        self.looked = Some(look.at);
        // Whoever has said hello meanwhile may have come after the look.
        if others.is_empty() && self.is_tested && self.greeted.is_none_or(|greeted| greeted < look.at) {
            self.peers.telling.store(false, Ordering::Release);
        }
        let others = u32::try_from(others.len()).unwrap_or(u32::MAX);
        self.peers.present.store(others, Ordering::Relaxed);
        metrics::gauge!("supersync_peers").set(f64::from(others));
    }

    async fn heard(&mut self, text: &str) {
        let me = self.peers.me;
        let said: Said = match serde_json::from_str(text) {
            Ok(said) => said,
            Err(error) => {
                tracing::debug!(%error, "another process said something that this version does not understand");
                return;
            }
        };
        match said {
            Said::Hello { from, at } | Said::Beat { from, at } if from == me => {
                self.heard_up_to = self.heard_up_to.max(self.peers.began + Duration::from_millis(at));
                if !self.is_tested {
                    (self.hears, self.is_tested) = (true, true);
                    // Everything from before this line.
                    self.peers.renew();
                }
            }
            Said::Here { from, .. } | Said::News { from, .. } if from == me => {}
            Said::Hello { from, .. } => {
                // It speaks already, for it knows that somebody is there.
                self.greeted = Some(Instant::now());
                self.peers.telling.store(true, Ordering::Release);
                self.answered(from);
                let here = Said::Here { from: me, to: from };
                if let Err(error) = self.peers.say(self.store.as_ref(), Some(&here)).await {
                    // It asks again.
                    tracing::debug!(%error, "another process's hello could not be answered");
                }
            }
            Said::Here { from, .. } | Said::Beat { from, .. } => self.answered(from),
            Said::News { accounts, .. } => {
                metrics::counter!("supersync_peer_news_total").increment(accounts.len().try_into().unwrap_or(u64::MAX));
                for news in accounts {
                    self.registry.heard(news.user, news.revision);
                    for author in &news.authors {
                        self.notifier.committed(news.user, author, news.latest_seq);
                    }
                }
            }
        }
    }

    /// Another process is alive, and tells of its commits. If it was not known before, it may have committed what was not
    /// told: nothing that is in memory from before counts.
    fn answered(&mut self, other: PeerId) {
        if self.others.insert(other, Some(self.heard_up_to)).is_none() {
            self.peers.renew();
            // It has come after the last look.
            self.others.insert(other, self.looked.max(Some(self.heard_up_to)));
        }
    }
}

/// Hears until the line breaks or nobody listens any more.
async fn pass_on(mut line: Box<dyn PeerLine>, to: mpsc::Sender<String>) {
    while let Some(said) = line.hear().await {
        if to.send(said).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(user: UserId, authors: &[&str]) -> News {
        News { user, revision: 1, latest_seq: 1, authors: authors.iter().map(|author| Arc::from(*author)).collect() }
    }

    #[test]
    fn texts_stay_below_the_limit_and_nothing_is_left_out() {
        let long = "x".repeat(255);
        let all: Vec<News> = (0..1000).map(|user| news(user, &[&long[..], "short \"quoted\" \u{1}"])).collect();
        let mut found = Vec::new();
        for text in texts(PeerId::MAX, all.iter()) {
            assert!(text.len() <= MAX_SAID_BYTES, "{}", text.len());
            match serde_json::from_str(&text).expect("understood") {
                Said::News { from: PeerId::MAX, accounts } => found.extend(accounts),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(found, all);
        assert!(texts(1, [].into_iter()).is_empty());
    }

    #[test]
    fn later_news_of_an_account_take_in_the_earlier_ones() {
        let mut all = news(1, &["a"]);
        all.add(News { revision: 7, latest_seq: 9, ..news(1, &["b", "a"]) });
        assert_eq!(all, News { revision: 7, latest_seq: 9, ..news(1, &["a", "b"]) });
        // An older commit's words may come late.
        all.add(news(1, &[]));
        assert_eq!((all.revision, all.latest_seq), (7, 9));
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        all.add(news(1, &many));
        assert_eq!(all.authors, ["".into()]);
    }
}
