//! Open sockets of many devices, and what they hear.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;

use super::check::Check;
use super::device::Device;
use super::error::{BenchError, Result};
use super::latency::Histogram;
use super::session::Session;
use super::socket::{Notice, Socket};
use crate::protocol::Seq;

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

/// Where the load notes what was acknowledged, and the listeners what they heard.
#[derive(Debug)]
pub struct Board {
    started: Instant,
    entries: Vec<Entry>,
    /// From the acknowledgement of an upload to the notice that tells it.
    delays: Mutex<Histogram>,
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
        entry.acknowledged.store(seq, Ordering::Release);
    }

    fn heard(&self, account: usize, seq: Seq) {
        let entry = &self.entries[account];
        self.notices.fetch_add(1, Ordering::Relaxed);
        entry.heard.fetch_max(seq, Ordering::Relaxed);
        // A notice that is followed by a later upload already tells nothing about the delay of either.
        if entry.acknowledged.load(Ordering::Acquire) == seq {
            let delay = self.now_us().saturating_sub(entry.acknowledged_at_us.load(Ordering::Relaxed));
            let mut delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
            delays.record(Duration::from_micros(delay));
        }
    }

    /// Forgets the delays so far.
    #[must_use]
    pub fn take_delays(&self) -> Histogram {
        std::mem::take(&mut *self.delays.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many notices came.
    #[must_use]
    pub fn notices(&self) -> u64 {
        self.notices.load(Ordering::Relaxed)
    }

    fn unheard(&self) -> usize {
        let is_unheard =
            |entry: &&Entry| entry.heard.load(Ordering::Relaxed) < entry.acknowledged.load(Ordering::Relaxed);
        self.entries.iter().filter(is_unheard).count()
    }
}

/// Open sockets. Dropping them closes them without a word.
#[derive(Debug)]
pub struct Listeners {
    board: Arc<Board>,
    tasks: JoinSet<Result<()>>,
}

impl Listeners {
    /// Opens a socket for each device.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn open(session: &Session, devices: &[Device]) -> Result<Self> {
        let entries = session.accounts().iter().map(|_| Entry::default()).collect();
        let board =
            Arc::new(Board { started: Instant::now(), entries, delays: Mutex::default(), notices: AtomicU64::new(0) });
        let open = |device: &Device| {
            let account = device.account();
            let client_id = device.client_id().to_owned();
            async move {
                let socket = Socket::open(session.target(), &session.accounts()[account], &client_id).await?;
                Ok::<_, BenchError>((account, socket))
            }
        };
        let sockets: Vec<(usize, Socket)> =
            stream::iter(devices.iter().map(open)).buffer_unordered(OPENING).try_collect().await?;
        let mut tasks = JoinSet::new();
        for (account, socket) in sockets {
            tasks.spawn(listen(Arc::clone(&board), account, socket));
        }
        Ok(Self { board, tasks })
    }

    /// Where to note what was acknowledged.
    #[must_use]
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// How many sockets are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether no socket is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits until everything that was acknowledged has been told, and checks that it was and that every socket is
    /// still open.
    pub async fn check(&mut self) -> Check {
        const NAME: &str = "every socket is open and was told the last upload of its account";
        let until = Instant::now() + PATIENCE;
        while self.board.unheard() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if let Some(ended) = self.tasks.try_join_next() {
            let reason = match ended {
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(())) => "ended".to_owned(),
                Err(error) => error.to_string(),
            };
            return Check::new(NAME, false, format!("a socket ended: {reason}"));
        }
        let detail = format!("{} sockets, {} notices", self.tasks.len(), self.board.notices());
        match self.board.unheard() {
            0 => Check::new(NAME, true, detail),
            unheard => Check::new(NAME, false, format!("{detail}; {unheard} accounts were not told")),
        }
    }
}

async fn listen(board: Arc<Board>, account: usize, mut socket: Socket) -> Result<()> {
    loop {
        match socket.next().await? {
            Notice::NewOps(seq) => board.heard(account, seq),
            other => return Err(BenchError::Answer(format!("{other:?} on an open socket"))),
        }
    }
}
