//! The other processes on the same database: tells them what this one has committed, and hears from them, so that what is
//! in memory here is out of date for milliseconds at most.
//!
//! Every process listens on one channel of the database. After a commit it says which accounts have a new revision; whoever
//! has such an account in memory looks at it again before the next answer, and tells the account's sockets. That alone
//! would trust a process to live until it has spoken, and a line never to break. So:
//!
//! - Who joins says hello, and trusts nothing in its memory (each request looks at the account's row first) until
//!   everyone who is present has answered. Who answers has begun to speak.
//! - Who sees one of the others gone looks at everything anew: it may have died between a commit and its words.
//! - Who stops hearing its own words while there are others trusts nothing until it has joined again. Who was alone
//!   serves on from memory; nobody was there who could have changed anything.
//!
//! Alone, a process says nothing at all. Writing never depends on any of this: each commit is fenced by the account's
//! revision.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::notifier::Notifier;
use super::registry::Registry;
use crate::protocol::{Seq, UserId};
use crate::store::peers::{MAX_SAID_BYTES, PeerId, PeerLine};
use crate::store::{Store, StoreError, SyncState};

/// How long commits are gathered before the others are told of them: what is said wakes every process.
const GATHER: Duration = Duration::from_millis(10);
/// How often a process looks who is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
/// What is in memory can't be trusted.
const NO_EPOCH: u64 = 0;

/// What processes say to each other. A newer one may say more; what is not understood is passed over.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
enum Said {
    /// I have joined, or still wait for your answer.
    Hello { from: PeerId },
    /// I have heard you and tell you of my commits from now on.
    Here { from: PeerId, to: PeerId },
    /// I am listening; for myself.
    Beat { from: PeerId },
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
    /// Changes whenever everything must be looked at anew; [`NO_EPOCH`]: always.
    epoch: AtomicU64,
    epochs: AtomicU64,
    changed: Notify,
    /// Whether anybody is there to be told.
    telling: AtomicBool,
    /// At most one for each account that this process writes.
    news: Mutex<HashMap<UserId, News>>,
    gathered: Notify,
}

impl Peers {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            me: rand::random_range(0..PeerId::MAX),
            epoch: AtomicU64::new(NO_EPOCH),
            epochs: AtomicU64::new(NO_EPOCH),
            changed: Notify::new(),
            telling: AtomicBool::new(true),
            news: Mutex::new(HashMap::new()),
            gathered: Notify::new(),
        }
    }

    /// What was read from the database in this epoch is good until something is heard of it. `None`: it is good at the
    /// moment when it is read.
    pub fn epoch(&self) -> Option<u64> {
        Some(self.epoch.load(Ordering::Acquire)).filter(|epoch| *epoch != NO_EPOCH)
    }

    /// Tells the others of a commit.
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
        let news = std::mem::take(&mut *self.news());
        if news.is_empty() || !self.telling.load(Ordering::Acquire) {
            return Ok(());
        }
        let told = store.tell_peers(&texts(self.me, news.values())).await;
        if told.is_err() {
            for news in news.into_values() {
                self.gather(news);
            }
        }
        told
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

    fn renew(&self) {
        let next = self.epochs.fetch_add(1, Ordering::AcqRel) + 1;
        self.set_epoch(next);
    }

    fn distrust(&self) {
        self.set_epoch(NO_EPOCH);
    }

    fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
        metrics::gauge!("supersync_memory_trusted").set(if epoch == NO_EPOCH { 0.0 } else { 1.0 });
        self.changed.notify_waiters();
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
    /// The others, and whether they have answered.
    others: HashMap<PeerId, bool>,
    /// When this process last heard itself.
    heard_myself: Option<Instant>,
    /// Whether it has been looked who is there since the line was joined.
    looked: bool,
}

/// Why listening ended.
enum Ended {
    /// There can be no others.
    Alone,
    Broken,
}

impl Listener {
    /// Listens for what concerns these accounts and sockets.
    pub fn new(peers: Arc<Peers>, store: Arc<dyn Store>, registry: Arc<Registry>, notifier: Notifier) -> Self {
        Self { peers, store, registry, notifier, others: HashMap::new(), heard_myself: None, looked: false }
    }

    /// Listens until cancelled, joining again as often as the line breaks.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut complained = false;
        let listen = async {
            loop {
                match self.listen().await {
                    Ok(Ended::Alone) => return,
                    Ok(Ended::Broken) => tracing::info!("the line to the other processes is broken; joining again"),
                    Err(error) if !complained => {
                        complained = true;
                        tracing::warn!(%error, "the other processes on the database can't be joined, trying again");
                    }
                    Err(_) => {}
                }
                // Somebody may have come since, whom this process can't hear.
                if let Ok(present) = self.store.present_peers().await {
                    let me = self.peers.me;
                    for other in present.into_iter().filter(|other| *other != me) {
                        self.others.entry(other).or_insert(false);
                        self.peers.telling.store(true, Ordering::Release);
                    }
                }
                if !self.others.is_empty() {
                    self.peers.distrust();
                }
                sleep(PAUSE).await;
            }
        };
        cancel.run_until_cancelled(listen).await;
    }

    async fn listen(&mut self) -> Result<Ended, StoreError> {
        let Some(line) = self.store.join_peers(self.peers.me).await? else {
            self.peers.telling.store(false, Ordering::Release);
            metrics::gauge!("supersync_peers").set(0.0);
            self.peers.renew();
            return Ok(Ended::Alone);
        };
        // From here on whoever joins hears of every commit, and whoever is there says who it is.
        self.peers.telling.store(true, Ordering::Release);
        let (to, mut heard) = mpsc::channel(MAX_UNHEARD);
        let _ear = AbortOnDropHandle::new(tokio::spawn(pass_on(line, to)));
        (self.looked, self.heard_myself) = (false, None);
        // Whoever it knew may be somebody else by now, and may have spoken meanwhile.
        self.others.values_mut().for_each(|answered| *answered = false);
        let mut was_deaf = true;
        let joined = Instant::now();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                text = heard.recv() => match text {
                    Some(text) => self.heard(&text).await,
                    None => return Ok(Ended::Broken),
                },
                _ = looks.tick() => if let Err(error) = self.look().await {
                    // The line stays: whoever is seen there and does not answer is not trusted.
                    tracing::debug!(%error, "it can't be seen who else is there");
                },
            }
            let silence = self.heard_myself.unwrap_or(joined).elapsed();
            if silence > DEAF_AFTER && !self.others.is_empty() {
                return Ok(Ended::Broken);
            }
            if self.heard_myself.is_some() && was_deaf {
                was_deaf = false;
                // Everything from before this line.
                self.peers.distrust();
            }
            self.judge();
        }
    }

    /// Trusts the memory if everyone has answered.
    fn judge(&self) {
        let all_answer = self.looked && self.heard_myself.is_some() && self.others.values().all(|answered| *answered);
        match (all_answer, self.peers.epoch()) {
            (true, None) => self.peers.renew(),
            // Until this process hears itself it has not joined.
            (false, Some(_)) if self.heard_myself.is_some() => self.peers.distrust(),
            _ => {}
        }
    }

    async fn say(&self, said: &Said) -> Result<(), StoreError> {
        self.store.tell_peers(&[text(said)]).await
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
            Said::Hello { from } | Said::Here { from, .. } | Said::Beat { from } | Said::News { from, .. }
                if from == me =>
            {
                self.heard_myself = Some(Instant::now());
            }
            Said::Hello { from } => {
                // It speaks already, for it knows that somebody is there.
                self.meet(from);
                self.peers.telling.store(true, Ordering::Release);
                if let Err(error) = self.say(&Said::Here { from: me, to: from }).await {
                    // It asks again.
                    tracing::debug!(%error, "another process's hello could not be answered");
                }
            }
            Said::Here { from, to } if to == me => self.meet(from),
            Said::Here { .. } | Said::Beat { .. } => {}
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

    /// Another process answers. If it was not known before, it may have committed what was not told: nothing that is in
    /// memory from before counts.
    fn meet(&mut self, other: PeerId) {
        if self.others.insert(other, true).is_none() && self.peers.epoch().is_some() {
            self.peers.renew();
        }
    }

    /// Who is there? And says that this process is.
    async fn look(&mut self) -> Result<(), StoreError> {
        let mut present = self.store.present_peers().await?;
        present.retain(|peer| *peer != self.peers.me);
        let known = self.others.len();
        self.others.retain(|peer, _| present.contains(peer));
        if self.others.len() < known && self.peers.epoch().is_some() {
            // It may have died before it could tell of its last commits.
            self.peers.renew();
        }
        for peer in &present {
            self.others.entry(*peer).or_insert(false);
        }
        self.looked = true;
        self.peers.telling.store(!present.is_empty(), Ordering::Release);
        metrics::gauge!("supersync_peers").set(f64::from(u32::try_from(present.len()).unwrap_or(u32::MAX)));
        if self.others.values().any(|answered| !answered) || self.heard_myself.is_none() {
            self.say(&Said::Hello { from: self.peers.me }).await?;
        } else if !present.is_empty() {
            self.say(&Said::Beat { from: self.peers.me }).await?;
        }
        Ok(())
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
