//! A real store with faults on demand: commits that wait at a gate, that are applied although the connection is lost,
//! that fail, and look-ups that panic.

mod delegated;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use supersync::protocol::response::OutgoingOp;
use supersync::protocol::{Seq, StoredOp, UserId};
use supersync::store::peers::{CountedTogether, PeerId, PeerLine, PeerStore};
use supersync::store::{
    AccountEvent, AccountState, ArchiveSize, ArchivedRange, Commit, CommitOutcome, Device, EntityHead, EntityKey,
    EventKind, EventStore, FullStateRow, LogPage, LogRange, LogStore, MaintenanceStore, Result, Sealable, SnapshotBlob,
    SnapshotMeta, Store, StoreError, Touch,
};
use tokio::sync::Semaphore;

/// What happens to the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Applied, but the answer is lost.
    LostAfterCommit,
    /// Not applied, and the connection is lost.
    LostBeforeCommit,
    /// The database is away.
    Unavailable,
}

/// The store and its switches.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    /// Commits take a permit each while the gate is in use.
    pub gate: Semaphore,
    pub gated: AtomicBool,
    /// Whether nothing comes of reading the log, neither operations nor an error.
    pub reads_hang: AtomicBool,
    /// Commits that have reached the gate.
    pub arrived: AtomicUsize,
    /// The next one is the last.
    pub faults: std::sync::Mutex<Vec<Fault>>,
    /// So many look-ups of heads panic.
    pub panics: AtomicUsize,
    /// Whether devices can't be written.
    pub touches_fail: AtomicBool,
    /// The account whose operations can't be deleted, because what is stored can't be read.
    pub corrupt: std::sync::Mutex<Option<UserId>>,
    /// Whether nothing can be said to other processes.
    pub mute: AtomicBool,
    /// Whether deleting operations takes too long.
    pub deletions_time_out: AtomicBool,
    /// Whether accounts with superseded operations can't be listed.
    pub prunable_fails: AtomicBool,
    /// Whether events can't be read.
    pub events_fail: AtomicBool,
    /// Heads that one commit carried at most.
    pub most_heads: AtomicUsize,
    /// Entities that one commit had to make sure of at most.
    pub most_absent: AtomicUsize,
    /// Calls of any kind, but for those that write down devices in the background.
    pub calls: AtomicUsize,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            gate: Semaphore::new(0),
            gated: AtomicBool::new(false),
            reads_hang: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            faults: std::sync::Mutex::new(Vec::new()),
            panics: AtomicUsize::new(0),
            touches_fail: AtomicBool::new(false),
            corrupt: std::sync::Mutex::new(None),
            mute: AtomicBool::new(false),
            deletions_time_out: AtomicBool::new(false),
            prunable_fails: AtomicBool::new(false),
            events_fail: AtomicBool::new(false),
            most_heads: AtomicUsize::new(0),
            most_absent: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
        })
    }

    fn count(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
    }

    fn maybe_panic(&self) {
        let fewer = |left: usize| left.checked_sub(1);
        assert!(self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_err(), "injected panic");
    }

    async fn maybe_hang(&self) {
        if self.reads_hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn commit_with_faults(&self, group: Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        for commit in group.iter() {
            self.most_heads.fetch_max(commit.heads.len(), Ordering::SeqCst);
            self.most_absent.fetch_max(commit.absent.len(), Ordering::SeqCst);
        }
        if self.gated.load(Ordering::SeqCst) {
            self.arrived.fetch_add(1, Ordering::SeqCst);
            self.gate.acquire().await.expect("the gate is never closed").forget();
        }
        let fault = self.faults.lock().expect("no panic under the lock").pop();
        let lost = || sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        match fault {
            None => self.inner.commit(group).await,
            Some(Fault::LostAfterCommit) => {
                self.inner.commit(group).await?;
                Err(StoreError::Unknown(lost()))
            }
            Some(Fault::LostBeforeCommit) => Err(StoreError::Unknown(lost())),
            Some(Fault::Unavailable) => Err(StoreError::Unavailable(lost())),
        }
    }
}

#[async_trait]
impl LogStore for FaultyStore {
    fn lanes(&self) -> usize {
        self.inner.lanes()
    }
    fn has_bulk_lane(&self) -> bool {
        self.inner.has_bulk_lane()
    }
    async fn load_account(&self, user: UserId) -> Result<Option<AccountState>> {
        self.count();
        self.inner.load_account(user).await
    }
    async fn commit(&self, group: Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        self.count();
        self.commit_with_faults(group).await
    }
    async fn find_ops(&self, user: UserId, generation: i64, ids: &[String]) -> Result<Vec<StoredOp>> {
        self.count();
        self.inner.find_ops(user, generation, ids).await
    }
    async fn load_heads(&self, user: UserId, above: Seq, keys: &[EntityKey]) -> Result<Vec<(EntityKey, EntityHead)>> {
        self.count();
        self.maybe_panic();
        self.inner.load_heads(user, above, keys).await
    }
    async fn load_all_heads(
        &self,
        user: UserId,
        above: Seq,
        limit: usize,
    ) -> Result<Option<Vec<(EntityKey, EntityHead)>>> {
        self.count();
        self.maybe_panic();
        self.inner.load_all_heads(user, above, limit).await
    }
    async fn read_log(&self, range: LogRange<'_>) -> Result<LogPage> {
        self.count();
        self.maybe_hang().await;
        self.inner.read_log(range).await
    }
    async fn read_outgoing(&self, range: LogRange<'_>) -> Result<LogPage<OutgoingOp>> {
        self.count();
        self.maybe_hang().await;
        self.inner.read_outgoing(range).await
    }

    async fn read_payload(&self, user: UserId, seq: Seq, piece: usize) -> Result<Option<Bytes>> {
        self.inner.read_payload(user, seq, piece).await
    }
    async fn full_states(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<Vec<FullStateRow>> {
        self.count();
        self.inner.full_states(user, after, up_to, limit).await
    }
    async fn heads_of_log(&self, user: UserId, after: Seq, up_to: Seq) -> Result<Vec<(EntityKey, EntityHead)>> {
        self.count();
        self.maybe_panic();
        self.inner.heads_of_log(user, after, up_to).await
    }
    async fn measure(&self, user: UserId, after: Seq, up_to: Seq) -> Result<(i64, i64)> {
        self.count();
        self.inner.measure(user, after, up_to).await
    }
    async fn received_since(&self, user: UserId, after: Seq, up_to: Seq, since_ms: i64) -> Result<bool> {
        self.count();
        self.inner.received_since(user, after, up_to, since_ms).await
    }
    async fn load_snapshot(&self, user: UserId) -> Result<Option<(SnapshotMeta, SnapshotBlob)>> {
        self.count();
        self.inner.load_snapshot(user).await
    }
    async fn touch_devices(&self, seen: &[Touch]) -> Result<()> {
        if self.touches_fail.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
        }
        self.inner.touch_devices(seen).await
    }
    async fn devices(&self, user: UserId, since_ms: i64, limit: usize) -> Result<Vec<Device>> {
        self.count();
        self.inner.devices(user, since_ms, limit).await
    }
    async fn archived(&self, user: UserId) -> Result<Vec<ArchivedRange>> {
        self.count();
        self.inner.archived(user).await
    }
}

#[async_trait]
impl MaintenanceStore for FaultyStore {
    async fn prunable_accounts(&self, after: UserId, limit: usize) -> Result<Vec<UserId>> {
        self.count();
        if self.prunable_fails.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
        }
        self.inner.prunable_accounts(after, limit).await
    }
    async fn sealable_accounts(
        &self,
        after: UserId,
        only: Option<UserId>,
        min_run: Seq,
        before_ms: i64,
        limit: usize,
    ) -> Result<Vec<Sealable>> {
        self.count();
        self.inner.sealable_accounts(after, only, min_run, before_ms, limit).await
    }
    async fn delete_ops(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<u64> {
        self.count();
        if *self.corrupt.lock().expect("no panic") == Some(user) {
            return Err(StoreError::Corrupt("injected".to_owned()));
        }
        if self.deletions_time_out.load(Ordering::SeqCst) {
            return Err(StoreError::Timeout(sqlx::Error::PoolTimedOut));
        }
        self.inner.delete_ops(user, after, up_to, limit).await
    }
    async fn expired_archives(&self, before_ms: i64, limit: usize) -> Result<Vec<(UserId, ArchivedRange)>> {
        self.count();
        self.inner.expired_archives(before_ms, limit).await
    }
    async fn archive_sizes(&self, after: UserId, limit: usize) -> Result<Vec<ArchiveSize>> {
        self.count();
        self.inner.archive_sizes(after, limit).await
    }
    async fn give_up_archives(&self, user: UserId, ranges: &[ArchivedRange]) -> Result<()> {
        self.count();
        self.inner.give_up_archives(user, ranges).await
    }
    async fn drop_archive(&self, user: UserId, range: &ArchivedRange) -> Result<()> {
        self.count();
        self.inner.drop_archive(user, range).await
    }
    async fn tidy_heads(&self, user: UserId) -> Result<()> {
        // Not counted: it comes whenever there is time.
        self.inner.tidy_heads(user).await
    }
    async fn delete_stale_devices(&self, before_ms: i64, limit: usize) -> Result<u64> {
        self.count();
        self.inner.delete_stale_devices(before_ms, limit).await
    }
    async fn try_lead(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool> {
        self.count();
        self.inner.try_lead(owner, now_ms, ttl).await
    }
}

#[async_trait]
impl EventStore for FaultyStore {
    async fn last_event(&self) -> Result<i64> {
        self.count();
        self.inner.last_event().await
    }
    async fn events_after(&self, after: i64, limit: usize) -> Result<Vec<AccountEvent>> {
        self.count();
        if self.events_fail.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable(sqlx::Error::PoolClosed));
        }
        self.inner.events_after(after, limit).await
    }
    async fn announce(&self, user: UserId, kind: EventKind) -> Result<()> {
        self.count();
        self.inner.announce(user, kind).await
    }
    async fn delete_old_events(&self, older_than: Duration) -> Result<u64> {
        self.count();
        self.inner.delete_old_events(older_than).await
    }
}

#[async_trait]
impl PeerStore for FaultyStore {
    async fn join_peers(&self, me: PeerId) -> Result<Option<Box<dyn PeerLine>>> {
        self.inner.join_peers(me).await
    }
    async fn tell_peers(&self, said: &[String]) -> Result<()> {
        if self.mute.load(Ordering::SeqCst) {
            let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            return Err(StoreError::Unavailable(sqlx::Error::Io(lost)));
        }
        self.inner.tell_peers(said).await
    }
    async fn present_peers(&self) -> Result<Vec<PeerId>> {
        self.inner.present_peers().await
    }
    async fn count_together(&self, key: &str, window: Duration) -> Result<Option<CountedTogether>> {
        self.inner.count_together(key, window).await
    }
    async fn refuses_everybody(&self) -> bool {
        self.inner.refuses_everybody().await
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn ping(&self) -> Result<()> {
        self.count();
        self.inner.ping().await
    }
    async fn try_room(&self) -> Result<()> {
        self.inner.try_room().await
    }
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
    async fn close(&self) {
        self.count();
        self.inner.close().await;
    }
}
