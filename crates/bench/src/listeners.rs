//! Open sockets of many devices, and the notices that they get.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use supersync_client::{Client, Ladder, Notice, Notices, Seq, raw::Raw};
use tokio::task::JoinSet;

use crate::device::Device;
use crate::load::{histogram, record};
use crate::report::Check;
use crate::session::Session;

/// How long a notice may take at the end of a run: the longest delay that the contract allows is half a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sockets that are opened at the same time.
const OPENING: usize = 32;

/// What was uploaded to an account, and what its listeners heard of it.
#[derive(Debug, Default)]
struct Entry {
    acknowledged: AtomicI64,
    /// When, in microseconds since the board was made.
    acknowledged_at_us: AtomicU64,
    heard: AtomicI64,
}

/// Where the load notes acknowledged uploads, and the listeners their notices.
#[derive(Debug)]
pub struct Board {
    started: Instant,
    entries: Vec<Entry>,
    /// The server's own delay before a notice, which is taken off.
    debounce: Duration,
    /// From the acknowledgement of an upload to its notice, less the debounce.
    delays: Mutex<Histogram<u64>>,
    notices: AtomicU64,
}

impl Board {
    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// An upload that raised the account's counter to `seq` has just been acknowledged.
    pub fn acknowledged(&self, account: usize, seq: Seq) {
        let entry = &self.entries[account];
        entry.acknowledged_at_us.store(self.now_us(), Ordering::Relaxed);
        entry.acknowledged.fetch_max(seq, Ordering::Release);
    }

    fn heard(&self, account: usize, seq: Seq) {
        let entry = &self.entries[account];
        self.notices.fetch_add(1, Ordering::Relaxed);
        entry.heard.fetch_max(seq, Ordering::Relaxed);
        // A notice that is followed by a later upload already tells nothing about the delay of either.
        if entry.acknowledged.load(Ordering::Acquire) == seq {
            let delay_us = self.now_us().saturating_sub(entry.acknowledged_at_us.load(Ordering::Relaxed));
            let delay = Duration::from_micros(delay_us).saturating_sub(self.debounce);
            record(&mut self.delays.lock().unwrap_or_else(PoisonError::into_inner), delay);
        }
    }

    /// The delays so far, µs.
    pub fn delays(&self) -> Histogram<u64> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many notices came.
    pub fn notices(&self) -> u64 {
        self.notices.load(Ordering::Relaxed)
    }

    fn unheard(&self) -> usize {
        let is_unheard =
            |entry: &&Entry| entry.heard.load(Ordering::Relaxed) < entry.acknowledged.load(Ordering::Relaxed);
        self.entries.iter().filter(is_unheard).count()
    }
}

/// Open sockets. Dropping them closes them.
#[derive(Debug)]
pub struct Listeners {
    /// What they heard.
    pub board: Arc<Board>,
    tasks: JoinSet<Result<()>>,
}

impl Listeners {
    /// Opens a socket for each device.
    pub async fn open(session: &Session, devices: &[Device], debounce: Duration) -> Result<Self> {
        let board = Arc::new(Board {
            started: Instant::now(),
            entries: session.accounts().iter().map(|_| Entry::default()).collect(),
            debounce,
            delays: Mutex::new(histogram()),
            notices: AtomicU64::new(0),
        });
        let raw = Raw::new(&session.base(), &Ladder::default())?;
        let open = |device: &Device| {
            let (raw, account, client_id) = (raw.clone(), device.account, device.client_id.clone());
            async move {
                let client = Client::over(&raw, &session.accounts()[account].token, Ladder::default())?;
                let mut socket = client.notices(&client_id).await?;
                match socket.next().await? {
                    Notice::Connected { .. } => anyhow::Ok((account, socket)),
                    other => bail!("a socket begins with {other:?}"),
                }
            }
        };
        let sockets: Vec<(usize, Notices)> =
            stream::iter(devices.iter().map(open)).buffer_unordered(OPENING).try_collect().await?;
        let mut tasks = JoinSet::new();
        for (account, socket) in sockets {
            tasks.spawn(listen(Arc::clone(&board), account, socket));
        }
        Ok(Self { board, tasks })
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until every listener heard of everything that was acknowledged to its account.
    pub async fn check(&mut self) -> Check {
        const NAME: &str = "every listener heard of the last upload";
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(ended) = self.tasks.try_join_next() {
                return Check::new(NAME, false, format!("a socket ended: {ended:?}"));
            }
            let unheard = self.board.unheard();
            if unheard == 0 || Instant::now() >= deadline {
                let detail = format!("{} sockets, {unheard} accounts not told", self.tasks.len());
                return Check::new(NAME, unheard == 0, detail);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn listen(board: Arc<Board>, account: usize, mut socket: Notices) -> Result<()> {
    loop {
        match socket.next().await? {
            Notice::NewOps { latest_seq } => board.heard(account, latest_seq),
            other => bail!("{other:?} on an open socket"),
        }
    }
}
