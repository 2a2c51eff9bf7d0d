//! What the rest of the program asks the engine.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::archive::BringBackLocks;
use super::committer::Committer;
use super::download;
use super::notifier::Notifier;
use super::options::Options;
use super::peers::{Listener, Peers};
use super::reclaimer::Reclaimer;
use super::registry::{Lease, Registry};
use super::replays::{Replays, Size};
use super::restore::{self, Failed, Keep};
use super::retention::Prefix;
use super::tidier::Tidier;
use super::touches::{Touches, with_waiting};
use super::user::actor::{Context, Message, Pending};
use super::user::work::Sealing;
use super::user::work::{Answer, Answered, Work};
use super::view::UserView;
use super::{
    DownloadReply, EngineError, RestoreError, Restored, SnapshotReply, Status, UploadDone, UploadReply, store_trouble,
    within,
};
use crate::aside::{LARGE_BYTES, aside};
use crate::budget::Memory;
use crate::clock::Clock;
use crate::protocol::limits::PIGGYBACK_LIMIT;
use crate::protocol::op::is_causal_full_state;
use crate::protocol::request::{DownloadQuery, SnapshotRequest, UploadRequest};
use crate::protocol::validate::{self, CheckedUpload};
use crate::protocol::{Seq, UserId};
use crate::replay::{self, ReplayError};
use crate::spans;
use crate::store::{Device, FullStateRow, Store};

/// A device counts as online for so long after it was seen.
const ONLINE_MS: i64 = 5 * 60 * 1000;
/// Devices listed.
const MAX_DEVICES: usize = 100;
/// How long rereading an account may take: revocations wait behind it, and they have a second.
const CATCH_UP_PATIENCE: Duration = Duration::from_millis(500);
/// How long a restore waits until the state that it has rebuilt is kept for the next one.
const KEEP_PATIENCE: Duration = Duration::from_secs(2);
/// How long a request waits until what the account's archive has given up is deleted.
const RECLAIM_PATIENCE: Duration = Duration::from_secs(10);
/// How long stopping waits for requests under way.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(20);

/// The engine as the rest of the program sees it. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    context: Arc<Context>,
    registry: Arc<Registry>,
    admission: Admission,
    replays: Arc<Replays>,
    bring_backs: BringBackLocks,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Handle {
    /// Starts the engine on a store.
    ///
    /// # Errors
    /// When its supervisor does not start.
    pub async fn start(store: Arc<dyn Store>, clock: Clock, options: Options) -> Result<Self, EngineError> {
        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        let committer = Committer::start(&store, &options.disk, &tasks);
        let notifier = Notifier::new(options.notifier.clone(), clock.clone());
        let admission =
            Admission::new(options.max_queued_requests, options.max_queued_bytes, options.max_queued_requests_per_user);
        let touches = Arc::new(Touches::new(Arc::clone(&store)));
        tasks.spawn(Arc::clone(&touches).run(options.touch_every, cancel.clone()));
        let tidier = Arc::new(Tidier::new(Arc::clone(&store)));
        tasks.spawn(Arc::clone(&tidier).run(cancel.clone()));
        tasks.spawn(options.disk.clone().run(Arc::clone(&store), cancel.clone()));
        let reclaimer = Arc::new(Reclaimer::new(Arc::clone(&store)));
        tasks.spawn(Arc::clone(&reclaimer).run(cancel.clone()));
        let peers = Arc::new(Peers::new());
        tasks.spawn(Arc::clone(&peers).run_teller(Arc::clone(&store), cancel.clone()));
        let live = Arc::default();
        let memory = Memory::new(options.memory_bytes);
        let context = Arc::new(Context {
            store,
            clock,
            committer,
            notifier,
            peers,
            touches,
            tidier,
            reclaimer,
            live,
            memory,
            options,
        });
        let registry = Registry::start(Arc::clone(&context)).await?;
        let Context { peers, store, notifier, .. } = &*context;
        let listener =
            Listener::new(Arc::clone(peers), Arc::clone(store), Arc::clone(&registry), Notifier::clone(notifier));
        tasks.spawn(listener.run(cancel.clone()));
        peers.settle().await;
        tasks.spawn(Arc::clone(&registry).run_janitor(cancel.clone()));
        let limits = replay::Limits::new(context.options.max_replay_ops, context.options.max_replay_state_bytes);
        let replays = Arc::new(Replays::new(limits));
        Ok(Self { context, registry, admission, replays, bring_backs: BringBackLocks::default(), tasks, cancel })
    }

    /// Refuses at once what would wait for a database that does not answer.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`].
    pub fn check_reachable(&self) -> Result<(), EngineError> {
        self.context.peers.check_reachable()
    }

    /// How many processes serve the database, this one included, as far as it knows.
    #[must_use]
    pub fn processes(&self) -> u32 {
        self.context.peers.processes()
    }

    /// What is kept for accounts, for others who keep something as well.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.context.memory
    }

    /// Whether polls are answered from memory, without a question to the database.
    #[must_use]
    pub fn trusts_memory(&self) -> bool {
        self.context.peers.epoch().is_some()
    }

    /// `POST /api/sync/ops` (contract, section 5): validates, stores, and reads what others wrote since the client's
    /// cursor.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn upload(
        &self,
        user: UserId,
        request: UploadRequest,
        deadline: Instant,
    ) -> Result<UploadReply, EngineError> {
        self.upload_checked(user, request, deadline, |_| {}).await
    }

    /// The same as if nobody had to encrypt: what older servers stored can be made again, in test mode.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn seed(
        &self,
        user: UserId,
        request: UploadRequest,
        deadline: Instant,
    ) -> Result<UploadReply, EngineError> {
        self.upload_checked(user, request, deadline, |upload| {
            upload.ops.iter_mut().for_each(|op| op.is_plain = false);
        })
        .await
    }

    async fn upload_checked(
        &self,
        user: UserId,
        request: UploadRequest,
        deadline: Instant,
        adjust: impl FnOnce(&mut CheckedUpload) + Send,
    ) -> Result<UploadReply, EngineError> {
        self.check_room()?;
        let bytes = request.ops.iter().filter_map(|op| op.payload.as_ref()).map(bytes::Bytes::len).sum();
        let cursor = request.last_known_server_seq;
        let client_id = request.client_id.clone();
        let is_large = bytes + request.metadata_bytes() > LARGE_BYTES;
        let mut checked = aside(is_large, || validate::check_upload(request)).await;
        adjust(&mut checked);
        if self.context.options.encrypted_only && checked.ops.iter().any(|op| op.is_plain) {
            return Ok(UploadReply::EncryptionRequired);
        }
        let Answered { answer, view } = self.submit(user, Work::Upload(checked), bytes, deadline).await?;
        let outcome = match answer {
            Answer::Upload(outcome) => outcome,
            Answer::Quota(exceeded) => return Ok(UploadReply::QuotaExceeded(exceeded)),
            Answer::EncryptionRequired => return Ok(UploadReply::EncryptionRequired),
            Answer::Snapshot(_) | Answer::Done(_) | Answer::Busy => return Err(wrong_answer()),
        };
        let (mut new_ops, mut has_more_piggyback) = (Vec::new(), false);
        if let Some(cursor) = cursor {
            let exclude = (!outcome.fenced).then_some(&*client_id);
            let store = self.context.store.as_ref();
            let limits = (PIGGYBACK_LIMIT, self.context.options.page_bytes);
            let lease = self.lease(user, deadline).await?;
            let reads = &lease.slot().reads;
            let page = download::read_page(store, reads, user, &view, cursor, exclude, limits);
            let page = within(deadline, page).await?.map_err(store_trouble)?;
            new_ops = page.ops;
            has_more_piggyback = page.has_more;
        }
        Ok(UploadReply::Done(UploadDone {
            results: outcome.results,
            deduplicated: outcome.deduplicated,
            new_ops,
            has_more_piggyback,
            latest_seq: view.sync().latest_seq(),
        }))
    }

    /// `POST /api/sync/snapshot` (contract, section 7).
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn upload_snapshot(
        &self,
        user: UserId,
        request: SnapshotRequest,
        deadline: Instant,
    ) -> Result<SnapshotReply, EngineError> {
        self.check_room()?;
        let bytes = request.state.as_ref().map_or(0, bytes::Bytes::len);
        let now_ms = self.context.clock.now_ms();
        let op_id = uuid::Uuid::now_v7().to_string().into();
        let check = move || validate::check_snapshot(request, op_id, now_ms);
        let checked = aside(bytes > LARGE_BYTES, check).await;
        if self.context.options.encrypted_only && checked.is_plain {
            return Ok(SnapshotReply::EncryptionRequired);
        }
        match self.submit(user, Work::Snapshot(Box::new(checked)), bytes, deadline).await?.answer {
            Answer::Snapshot(reply) => Ok(reply),
            Answer::Quota(exceeded) => Ok(SnapshotReply::QuotaExceeded(exceeded)),
            Answer::EncryptionRequired => Ok(SnapshotReply::EncryptionRequired),
            Answer::Upload(_) | Answer::Done(_) | Answer::Busy => Err(wrong_answer()),
        }
    }

    /// `GET /api/sync/ops` (contract, section 6).
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn download(
        &self,
        user: UserId,
        query: DownloadQuery,
        deadline: Instant,
    ) -> Result<DownloadReply, EngineError> {
        let lease = self.lease(user, deadline).await?;
        let mut view = self.view(&lease, deadline).await?;
        // A cursor ahead of the view proves that another instance has committed.
        if query.since_seq > view.sync().latest_seq() {
            view = self.refresh(&lease, deadline).await?;
        }
        if let Some(client_id) = &query.exclude_client {
            self.touch(&lease, user, client_id);
        }
        let store = self.context.store.as_ref();
        let reads = &lease.slot().reads;
        let page = download::download(store, reads, user, &view, &query, self.context.options.page_bytes);
        within(deadline, page).await?.map_err(store_trouble)
    }

    /// Refuses new data while there is too little room for it.
    pub(super) fn check_room(&self) -> Result<(), EngineError> {
        if self.is_short_of_room() { Err(EngineError::DiskFull) } else { Ok(()) }
    }

    /// Whether new data is refused because there is too little room on the disk.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.context.options.disk.is_full()
    }

    /// Records that a device polls.
    fn touch(&self, lease: &Lease, user: UserId, client_id: &str) {
        let now_ms = self.context.clock.now_ms();
        let mut seen = lease.slot().devices();
        if seen.polled(client_id, now_ms) {
            self.context.touches.record(user, client_id, now_ms);
            seen.written(client_id, now_ms);
            lease.slot().weigh_devices(&seen);
        }
    }

    /// Writes down the devices that have been seen, as happens about every second by itself.
    pub async fn record_devices(&self) {
        self.context.touches.write().await;
    }

    /// `GET /api/sync/status` (contract, section 8.2).
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn status(&self, user: UserId, deadline: Instant) -> Result<Status, EngineError> {
        let lease = self.lease(user, deadline).await?;
        let view = self.view(&lease, deadline).await?;
        let since_ms = self.context.clock.now_ms() - ONLINE_MS;
        let online = self.devices_since(&lease, user, since_ms, deadline).await?;
        let sync = view.sync();
        Ok(Status {
            latest_seq: sync.latest_seq(),
            devices_online: online.len(),
            snapshot_at: sync.snapshot.map(|snapshot| snapshot.at),
            storage_used_bytes: sync.storage_used_bytes,
            storage_quota_bytes: view.account.storage_quota_bytes,
        })
    }

    /// Devices seen within the retention time, newest first, at most 100 (contract, section 8.3).
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn devices(&self, user: UserId, deadline: Instant) -> Result<Vec<Device>, EngineError> {
        let retention_ms = i64::try_from(self.context.options.device_retention.as_millis()).unwrap_or(i64::MAX);
        let since_ms = self.context.clock.now_ms().saturating_sub(retention_ms);
        let lease = self.lease(user, deadline).await?;
        self.view(&lease, deadline).await?;
        self.devices_since(&lease, user, since_ms, deadline).await
    }

    async fn devices_since(
        &self,
        lease: &Lease,
        user: UserId,
        since_ms: i64,
        deadline: Instant,
    ) -> Result<Vec<Device>, EngineError> {
        // Before the rows: what is written in between is then in both, not in neither.
        let waiting = self.context.touches.of(user);
        let rows = self.context.store.devices(user, since_ms, MAX_DEVICES);
        let rows = within(deadline, rows).await?.map_err(store_trouble)?;
        let rows = with_waiting(rows, waiting, since_ms);
        Ok(lease.slot().devices().merged(rows, since_ms, MAX_DEVICES))
    }

    /// `DELETE /api/sync/data`: starts a new, empty data set; the old one goes to the archive (contract, sections 8.4,
    /// 17.1).
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn wipe(&self, user: UserId, deadline: Instant) -> Result<(), EngineError> {
        self.submit(user, Work::Wipe, 0, deadline).await.map(|_| ())
    }

    /// Gives up a superseded prefix, if the data set still begins where it does. Whether it did.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub(super) async fn retire(&self, user: UserId, prefix: Prefix, deadline: Instant) -> Result<bool, EngineError> {
        let answered = self.submit(user, Work::Retire(prefix), 0, deadline).await?;
        Ok(matches!(answered.answer, Answer::Done(true)))
    }

    /// Puts packed operations in the place of their rows, if they still are the next ones to be sealed. Whether it did.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub(super) async fn seal(&self, user: UserId, sealing: Sealing, deadline: Instant) -> Result<bool, EngineError> {
        let bytes = sealing.segments.iter().map(|segment| segment.data.len()).sum();
        let answered = self.submit(user, Work::Seal(sealing), bytes, deadline).await?;
        Ok(matches!(answered.answer, Answer::Done(true)))
    }

    /// Causal full states, newest first (contract, section 8.5).
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn restore_points(
        &self,
        user: UserId,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<FullStateRow>, EngineError> {
        let lease = self.lease(user, deadline).await?;
        let view = self.view(&lease, deadline).await?;
        let sync = view.sync();
        // Legacy REPAIRs are left out afterwards: they are few, so twice the limit nearly always suffices; look further
        // if not.
        let mut look_at = limit * 2;
        loop {
            let rows = self.context.store.full_states(user, sync.pruned_seq, sync.last_seq, look_at);
            let rows = within(deadline, rows).await?.map_err(store_trouble)?;
            let all = rows.len() < look_at;
            let mut points: Vec<FullStateRow> =
                rows.into_iter().filter(|row| is_causal_full_state(row.op_type, row.repair_base_server_seq)).collect();
            if all || points.len() >= limit {
                points.truncate(limit);
                return Ok(points);
            }
            look_at *= 4;
        }
    }

    /// The state as of `seq`; `None` = the latest (contract, sections 8.1, 8.6).
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub async fn restore(&self, user: UserId, seq: Option<Seq>, deadline: Instant) -> Result<Restored, RestoreError> {
        let lease = self.lease(user, deadline).await?;
        let view = self.view(&lease, deadline).await?;
        let latest_seq = view.sync().latest_seq();
        let target = seq.unwrap_or(latest_seq);
        if target > latest_seq || (target < 1 && seq.is_some()) {
            // After a wipe the counter still tells what there has been.
            let was_there = (1..=view.sync().last_seq).contains(&target);
            return Err(if was_there { RestoreError::Gone } else { RestoreError::BeyondLatest });
        }
        if target == 0 {
            return Ok(Restored {
                state: Arc::from([bytes::Bytes::from_static(b"{}")]),
                server_seq: 0,
                generated_at: self.context.clock.now_ms(),
                schema_version: replay::CURRENT_SCHEMA_VERSION,
            });
        }
        let key = (view.sync().generation, target);
        let run = Box::pin(lease.slot().restores.run(key, self.rebuild(user, &view, target, deadline)));
        within(deadline, run).await?
    }

    async fn rebuild(
        &self,
        user: UserId,
        view: &Arc<UserView>,
        target: Seq,
        deadline: Instant,
    ) -> Result<Restored, RestoreError> {
        let mut made = self.replay(user, view, target, Size::Small).await;
        if matches!(made, Err(Failed::Outgrown)) {
            made = self.replay(user, view, target, Size::Large).await;
        }
        let (restored, keep) = match made {
            Ok(made) => made,
            Err(Failed::For(error)) => return Err(error),
            Err(Failed::Outgrown) => return Err(RestoreError::TooLarge(ReplayError::OutOfMemory.to_string())),
            Err(Failed::Hole(error)) => {
                // Not damage, if the operations have left the data set meanwhile.
                let (now, then) = (self.fresh_view(user, deadline).await?, view.sync());
                let is_same = (now.sync().generation, now.sync().pruned_seq) == (then.generation, then.pruned_seq);
                return Err(if is_same { EngineError::Internal(error.to_string()).into() } else { RestoreError::Gone });
            }
        };
        if let Some(Keep { meta, blob }) = keep {
            let bytes = blob.data.len();
            if self.is_short_of_room() {
                return Ok(restored);
            }
            let work = Work::KeepState { generation: view.sync().generation, meta, blob };
            // The state is there: its reader does not wait long for a database that can't take it.
            let soon = deadline.min(Instant::now() + KEEP_PATIENCE);
            if let Err(error) = self.submit(user, work, bytes, soon).await {
                tracing::info!(%error, user_id = user, "rebuilt state not kept");
            }
        }
        Ok(restored)
    }

    async fn replay(
        &self,
        user: UserId,
        view: &Arc<UserView>,
        target: Seq,
        size: Size,
    ) -> Result<(Restored, Option<Keep>), Failed> {
        let place = self.replays.place(user, size).await?;
        let rebuilding = restore::rebuild(&self.context, user, view, target, place);
        // Whatever it waits for, others get the place then.
        timeout(self.context.options.replay_time, rebuilding).await.map_err(|_| EngineError::Busy)?
    }

    /// Drops what is cached of an account whose rows were changed or deleted behind the engine's back.
    pub fn forget(&self, user: UserId) {
        self.registry.evict(user);
    }

    /// The same after a change with a new revision, of which the other processes are told.
    ///
    /// # Errors
    /// When the account can't be looked at; it is no error that there is none.
    pub async fn changed_behind(&self, user: UserId, deadline: Instant) -> Result<(), EngineError> {
        self.forget(user);
        match self.fresh_view(user, deadline).await {
            Ok(view) => {
                self.context.peers.committed(user, view.sync(), &[]);
                Ok(())
            }
            Err(EngineError::NoAccount) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Drops what is cached of every account.
    pub fn forget_all(&self) {
        self.registry.evict_all();
    }

    /// Looks at what another process has made of an account that is in use here, and tells every device with an open socket
    /// how far its log goes now. Requests under way go on; a device that hears nothing finds out when it polls.
    pub async fn catch_up(&self, user: UserId) {
        if !self.registry.is_live(user) && self.context.notifier.credentials(user).is_empty() {
            return;
        }
        let deadline = Instant::now() + CATCH_UP_PATIENCE;
        match self.fresh_view(user, deadline).await {
            Ok(view) => self.context.notifier.committed(user, "", view.sync().latest_seq()),
            Err(error) => {
                tracing::info!(%error, user_id = user, "an account that was changed elsewhere can't be looked at yet");
                self.forget(user);
            }
        }
    }

    /// Accounts in memory.
    #[must_use]
    pub fn live_actors(&self) -> usize {
        self.registry.live()
    }

    /// Who is told about new operations.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.context.notifier
    }

    /// Lets requests under way finish for a while, then stops every actor and writes down the devices seen. Afterwards every request is refused.
    pub async fn shutdown(&self) {
        self.registry.shutdown(SHUTDOWN_PATIENCE).await;
        let Context { peers, store, .. } = &*self.context;
        if let Err(error) = peers.tell(store.as_ref()).await {
            // They see this process gone and reread everything.
            tracing::info!(%error, "the other processes were not told of the last commits");
        }
        self.cancel.cancel();
        self.record_devices().await;
        self.tasks.close();
    }

    /// What the engine works with.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Where work is done that outlives its caller.
    pub(super) const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Who is bringing a data set back.
    pub(super) const fn bring_backs(&self) -> &BringBackLocks {
        &self.bring_backs
    }

    /// The account as it is in the database now, for what happens seldom and must not rest on an old picture.
    pub(super) async fn fresh_view(&self, user: UserId, deadline: Instant) -> Result<Arc<UserView>, EngineError> {
        let lease = self.lease(user, deadline).await?;
        self.refresh(&lease, deadline).await
    }

    async fn lease(&self, user: UserId, deadline: Instant) -> Result<Lease, EngineError> {
        self.check_reachable()?;
        within(deadline, self.registry.lease(user)).await?
    }

    async fn view(&self, lease: &Lease, deadline: Instant) -> Result<Arc<UserView>, EngineError> {
        match lease.slot().current(&self.context.peers) {
            Some(view) => Ok(view),
            None => self.refresh(lease, deadline).await,
        }
    }

    async fn refresh(&self, lease: &Lease, deadline: Instant) -> Result<Arc<UserView>, EngineError> {
        let (reply, answer) = oneshot::channel();
        let actor = within(deadline, self.registry.writer(lease)).await??;
        actor.cast(Message::Refresh(reply)).map_err(|_| EngineError::Unavailable)?;
        within(deadline, answer).await?.map_err(|_| EngineError::Unavailable)?
    }

    /// Has an account's actor do something. When the actor dies meanwhile, a fresh one is asked once more: what was
    /// stored is found by its id.
    pub(super) async fn submit(
        &self,
        user: UserId,
        work: Work,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Answered, EngineError> {
        let work = Arc::new(work);
        let mut failure = EngineError::Unavailable;
        for _ in 0..2 {
            let lease = self.lease(user, deadline).await?;
            let permit = self.admission.admit(user, &lease.slot().waiting, bytes)?;
            let actor = within(deadline, self.registry.writer(&lease)).await??;
            let (reply, answer) = oneshot::channel();
            let pending = Pending {
                work: Arc::clone(&work),
                reply,
                deadline,
                since: Instant::now(),
                span: spans::account(work.name(), user),
                _permit: permit,
                _lease: lease.clone(),
            };
            if actor.cast(Message::Submit(pending)).is_err() {
                continue;
            }
            match within(deadline, answer).await? {
                // What the archive has given up has to be deleted first.
                Ok(Ok(Answered { answer: Answer::Busy, .. })) => {
                    let patience = deadline.min(Instant::now() + RECLAIM_PATIENCE);
                    let freed = timeout_at(patience, self.context.reclaimer.free(user)).await;
                    if !matches!(freed, Ok(Ok(()))) {
                        return Err(EngineError::Busy);
                    }
                    failure = EngineError::Busy;
                }
                Ok(answered) => return answered,
                Err(_dropped) => {}
            }
        }
        Err(failure)
    }
}

fn wrong_answer() -> EngineError {
    EngineError::Internal("an actor answered another question".to_owned())
}
