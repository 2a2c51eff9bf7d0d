//! Open sockets of many devices, and the notices that they get.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use supersync_client::{Notice, Notices, Seq};
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
#[derive(Clone, Default)]
struct Entry {
    acknowledged: Seq,
    acknowledged_at: Option<Instant>,
    heard: Seq,
}

/// What the listeners' notices add up to.
pub struct Heard {
    entries: Vec<Entry>,
    /// From the acknowledgement of an upload to its notice, less the debounce.
    pub delays: Histogram<u64>,
    pub notices: u64,
}

/// Where the load notes acknowledged uploads, and the listeners their notices.
pub struct Board {
    /// The server's own delay before a notice, which is taken off.
    debounce: Duration,
    heard: Mutex<Heard>,
}

impl Board {
    pub fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An upload that raised the account's counter to `seq` has just been acknowledged.
    pub fn acknowledged(&self, account: usize, seq: Seq) {
        let entry = &mut self.lock().entries[account];
        entry.acknowledged_at = Some(Instant::now());
        entry.acknowledged = entry.acknowledged.max(seq);
    }

    fn heard(&self, account: usize, seq: Seq) {
        let heard = &mut *self.lock();
        let entry = &mut heard.entries[account];
        heard.notices += 1;
        entry.heard = entry.heard.max(seq);
        // A notice that is followed by a later upload already tells nothing about the delay of either.
        if let Some(at) = entry.acknowledged_at.filter(|_| entry.acknowledged == seq) {
            record(&mut heard.delays, at.elapsed().saturating_sub(self.debounce));
        }
    }

    fn unheard(&self) -> usize {
        self.lock().entries.iter().filter(|entry| entry.heard < entry.acknowledged).count()
    }
}

/// Open sockets. Dropping them closes them.
pub struct Listeners {
    pub board: Arc<Board>,
    tasks: JoinSet<Result<()>>,
}

impl Listeners {
    pub async fn open(session: &Session, devices: &[Device], debounce: Duration) -> Result<Self> {
        let entries = vec![Entry::default(); session.tokens.len()];
        let heard = Mutex::new(Heard { entries, delays: histogram(), notices: 0 });
        let board = Arc::new(Board { debounce, heard });
        let client = session.client()?;
        let open = |device: &Device| {
            let (client, account) = (client.with_token(&session.tokens[device.account]), device.account);
            let client_id = device.client_id.clone();
            async move {
                let mut socket = client?.notices(&client_id).await?;
                match socket.next().await? {
                    Notice::Connected { .. } => Ok((account, socket)),
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
