//! The actor around [`plan`]: queues requests while a commit is under way, fetches missing facts, hands plans to the
//! committer, and after the commit, and only then, publishes, answers and notifies.
//!
//! While one commit runs the next batch gathers, so a busy account groups its own requests as the committer groups
//! accounts. A commit that fails leaves the state untouched or, where the database may have moved on, throws it away:
//! the next batch starts from what the database says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use super::facts::Facts;
use super::plan::{self, After, Plan, UserState};
use super::work::{Answer, Answered, UploadOutcome, Work};
use super::{heads, lookup};
use crate::aside::{LARGE_BYTES, aside};
use crate::budget::Memory;
use crate::clock::Clock;
use crate::engine::admission::Permit;
use crate::engine::committer::{CommitResult, Committer};
use crate::engine::invariants;
use crate::engine::notifier::Notifier;
use crate::engine::options::Options;
use crate::engine::peers::Peers;
use crate::engine::reclaimer::Reclaimer;
use crate::engine::registry::{ActorGuard, Lease, Slot};
use crate::engine::tidier::Tidier;
use crate::engine::touches::Touches;
use crate::engine::view::{EncodedOp, Tail, UserView};
use crate::engine::{EngineError, SnapshotReply, store_trouble};
use crate::protocol::response::{OpResult, Rejection};
use crate::protocol::{ErrorCode, Seq, UserId};
use crate::spans;
use crate::store::{Commit, CommitOutcome, Store, StoreError};

/// Operations planned into one commit of an account.
const MAX_BATCH_OPS: usize = 1000;
/// Payload bytes planned into one commit of an account.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Entities that one commit of an account touches.
const MAX_BATCH_ENTITIES: usize = 2000;
/// Bytes of text that take as much work as one entity.
const ENTITY_BYTES: usize = 256;
/// How often a batch is planned again because another instance was faster.
const MAX_ATTEMPTS: u32 = 5;
/// Rounds of fetching facts for one plan. Each kind is asked for at most once or twice.
const MAX_FACT_ROUNDS: u32 = 8;

/// What every actor shares.
pub struct Context {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
    /// Where commits go.
    pub committer: Committer,
    /// Who is told.
    pub notifier: Notifier,
    /// The other processes on the database.
    pub peers: Arc<Peers>,
    /// Devices that were seen and whose rows are to be written.
    pub touches: Arc<Touches>,
    /// Deletes the heads of data sets that were replaced.
    pub tidier: Arc<Tidier>,
    /// Accounts whose archive holds something to be deleted.
    pub reclaimer: Arc<Reclaimer>,
    /// Accounts that are live.
    pub live: Arc<AtomicUsize>,
    /// What they keep.
    pub memory: Memory,
    /// Bounds.
    pub options: Options,
}

/// A request that waits for its account's actor.
pub struct Pending {
    /// What is asked. Shared, so that the caller can ask again when the actor dies.
    pub work: Arc<Work>,
    /// Where the answer goes; closed when the caller has gone.
    pub reply: oneshot::Sender<Result<Answered, EngineError>>,
    /// From then on nobody waits for the answer.
    pub deadline: Instant,
    /// When it was sent.
    pub since: Instant,
    /// From being sent to being answered.
    pub span: Span,
    /// Its place in the engine's budget.
    pub _permit: Permit,
    /// Keeps the actor alive until it is answered.
    pub _lease: Lease,
}

/// What an account's actor is told.
pub enum Message {
    /// A request.
    Submit(Pending),
    /// The commit under way has ended.
    Committed(CommitResult),
    /// Load the account again: what is cached may be out of date.
    Refresh(oneshot::Sender<Result<Arc<UserView>, EngineError>>),
}

/// The actor; all its data is in [`Writer`].
pub struct UserActor;

/// What an actor starts with.
pub struct Arguments {
    /// Shared by all.
    pub context: Arc<Context>,
    /// Its own place in the registry.
    pub slot: Arc<Slot>,
    /// Takes the slot out of the registry when the actor ends, however it ends.
    pub guard: ActorGuard,
    /// The account as just loaded.
    pub state: UserState,
}

impl Actor for UserActor {
    type Msg = Message;
    type State = Writer;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Arguments) -> Result<Writer, ActorProcessingErr> {
        Ok(Writer {
            myself,
            user: args.state.user,
            context: args.context,
            slot: args.slot,
            state: Some(args.state),
            queue: VecDeque::new(),
            refreshes: Vec::new(),
            in_flight: None,
            one_by_one: 0,
            _guard: args.guard,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        writer: &mut Writer,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Submit(pending) => writer.queue.push_back(pending),
            Message::Committed(result) => writer.committed(result).await,
            Message::Refresh(reply) => writer.refreshes.push(reply),
        }
        writer.pump().await;
        Ok(())
    }
}

/// The batch whose commit is under way.
struct InFlight {
    batch: Vec<Pending>,
    answers: Vec<Answer>,
    authors: Vec<Arc<str>>,
    after: After,
    /// To find out whether the commit was applied when the connection was lost.
    probe: Probe,
    encoded: Vec<EncodedOp>,
    devices: Vec<(String, i64)>,
    attempt: u32,
    /// End with it.
    _commits: Vec<Span>,
}

struct Probe {
    expected_revision: i64,
    generation: i64,
    /// The last operation of the commit: its id and place.
    last_op: Option<(String, Seq)>,
}

/// One account's writer.
pub struct Writer {
    myself: ActorRef<Message>,
    user: UserId,
    context: Arc<Context>,
    slot: Arc<Slot>,
    /// `None`: must be loaded before the next plan.
    state: Option<UserState>,
    queue: VecDeque<Pending>,
    refreshes: Vec<oneshot::Sender<Result<Arc<UserView>, EngineError>>>,
    in_flight: Option<InFlight>,
    /// So many requests are planned alone, because a batch with them was refused.
    one_by_one: usize,
    _guard: ActorGuard,
}

impl Writer {
    /// Starts what can be started.
    async fn pump(&mut self) {
        while self.in_flight.is_none() {
            if !self.refreshes.is_empty() {
                let result = self.reload().await.map(|()| self.slot.view());
                for reply in self.refreshes.drain(..) {
                    // The reader may have gone; nobody else waits for this.
                    let _ = reply.send(match &result {
                        Ok(view) => Ok(Arc::clone(view)),
                        Err(EngineError::NoAccount) => Err(EngineError::NoAccount),
                        Err(_) => Err(EngineError::Unavailable),
                    });
                }
            }
            // More heads wait than the next commit could carry: they go first.
            let is_behind = self.state.as_ref().is_some_and(|state| state.heads.waiting() > heads::SLICE_HEADS);
            let batch = if is_behind { Vec::new() } else { self.take_batch() };
            if batch.is_empty() {
                if !self.state.as_ref().is_some_and(UserState::has_heads_to_store) {
                    return;
                }
                self.start(batch, Facts::default(), 1).await;
                continue;
            }
            if self.is_doubtful()
                && let Err(error) = self.reload().await
            {
                refuse(batch, &error);
                continue;
            }
            self.start(batch, Facts::default(), 1).await;
        }
    }

    fn take_batch(&mut self) -> Vec<Pending> {
        let now = Instant::now();
        let (mut ops, mut entities, mut bytes) = (0, 0, 0);
        let mut batch = Vec::new();
        while let Some(next) = self.queue.front() {
            let next_ops = match &*next.work {
                Work::Upload(upload) => upload.ops.len(),
                _ => 1,
            };
            let (next_entities, next_bytes) = (next.work.entities(), next.work.bytes());
            let full = ops + next_ops > MAX_BATCH_OPS
                || entities + next_entities > MAX_BATCH_ENTITIES
                || bytes + next_bytes > MAX_BATCH_BYTES
                || self.one_by_one > 0;
            if full && !batch.is_empty() {
                break;
            }
            let Some(pending) = self.queue.pop_front() else { break };
            // Nobody waits for it: don't start it.
            if pending.reply.is_closed() || pending.deadline <= now {
                metrics::counter!("supersync_engine_dropped_total").increment(1);
                let _ = pending.reply.send(Err(EngineError::Deadline));
                continue;
            }
            metrics::histogram!("supersync_mailbox_wait_seconds").record(pending.since.elapsed().as_secs_f64());
            ops += next_ops;
            entities += next_entities;
            bytes += next_bytes;
            batch.push(pending);
        }
        self.one_by_one = self.one_by_one.saturating_sub(batch.len());
        batch
    }

    /// Whether somebody else may have changed the account. A plan on an old state would be fenced, but an answer without a
    /// commit (a conflict, a duplicate) would not.
    fn is_doubtful(&self) -> bool {
        self.slot.current(&self.context.peers).is_none()
    }

    /// Brings the state in line with the database. What is cached stays when the row has not changed.
    async fn reload(&mut self) -> Result<(), EngineError> {
        let epoch = self.context.peers.epoch();
        let store = self.context.store.as_ref();
        let loaded = store.load_account(self.user).await.map_err(store_trouble)?.ok_or(EngineError::NoAccount)?;
        if let Some(state) = &mut self.state
            && (state.account.sync == loaded.sync
                || (state.unsaved && state.account.sync.revision == loaded.sync.revision))
        {
            state.account.storage_quota_bytes = loaded.storage_quota_bytes;
        } else {
            let state = lookup::state_of(store, self.user, loaded).await.map_err(store_trouble)?;
            self.slot.devices().clear();
            self.state = Some(state);
        }
        self.publish(Vec::new());
        self.slot.read_in(epoch);
        Ok(())
    }

    /// Makes the state visible to readers, with the operations that are new in it.
    fn publish(&self, new: Vec<EncodedOp>) {
        let Some(state) = &self.state else { return };
        let sync = &state.account.sync;
        let old = self.slot.view();
        let contiguous = old.sync().generation == sync.generation && old.sync().pruned_seq <= sync.pruned_seq;
        let first_new = new.first().map_or(sync.last_seq + 1, |op| op.seq);
        let room = Tail::room(self.context.memory.most(), self.context.live.load(Ordering::Relaxed));
        let tail = if contiguous && old.sync().last_seq + 1 == first_new {
            old.tail.extended(new, room)
        } else {
            Tail::empty(first_new - 1).extended(new, room)
        };
        self.slot.weigh_devices(&self.slot.devices());
        self.slot.publish(UserView { account: Arc::new(state.account.clone()), tail }, state.weight());
    }

    /// Plans a batch and submits it, or answers it when there is nothing to commit.
    async fn start(&mut self, batch: Vec<Pending>, mut facts: Facts, attempt: u32) {
        if self.state.is_none()
            && let Err(error) = self.reload().await
        {
            refuse(batch, &error);
            return;
        }
        let Some(plan) = self.plan(&batch, &mut facts).await else {
            refuse(batch, &EngineError::Unavailable);
            return;
        };
        let Plan { commit, devices, answers, authors, after } = plan;
        match commit {
            None => {
                self.touch_devices(&devices);
                if let Some(state) = &mut self.state {
                    state.apply(after);
                }
                self.answer(batch, answers);
            }
            Some(commit) => {
                let before = self.state.as_ref().map(|state| &state.account.sync);
                if let Some(Err(violation)) = before.map(|before| invariants::check_commit(before, &commit)) {
                    refuse(batch, &violated(self.user, violation));
                    self.state = None;
                    return;
                }
                if commit.clear_devices {
                    self.context.touches.forget(self.user).await;
                }
                let is_large = is_large(&batch);
                aside(is_large, || self.submit(commit, batch, answers, authors, after, attempt)).await;
            }
        }
    }

    async fn plan(&mut self, batch: &[Pending], facts: &mut Facts) -> Option<Plan> {
        let work: Vec<&Work> = batch.iter().map(|pending| &*pending.work).collect();
        let is_large = is_large(batch);
        let now_ms = self.context.clock.now_ms();
        for _ in 0..MAX_FACT_ROUNDS {
            let state = self.state.as_ref()?;
            let needs = match aside(is_large, || plan::plan(state, facts, &work, now_ms)).await {
                Ok(plan) => return Some(plan),
                Err(needs) => needs,
            };
            if needs.recount && !facts.quota_checked {
                // Somebody may have raised it since the account became live.
                facts.quota_checked = true;
                if self.refresh_quota().await.is_err() {
                    return None;
                }
                continue;
            }
            let state = self.state.as_ref()?;
            let store = self.context.store.as_ref();
            let found = if needs.load_heads {
                let heads = lookup::heads(store, self.user, &state.account.sync).await;
                heads.map(|heads| {
                    if let Some(state) = &mut self.state {
                        state.heads = heads;
                    }
                })
            } else {
                lookup::facts(store, state, needs, facts, self.context.options.archive_percent).await
            };
            if let Err(error) = found {
                store_trouble(error);
                return None;
            }
        }
        tracing::error!(user_id = self.user, "planning does not settle");
        None
    }

    async fn refresh_quota(&mut self) -> Result<(), EngineError> {
        let loaded = self.context.store.load_account(self.user).await.map_err(store_trouble)?;
        let quota_bytes = loaded.ok_or(EngineError::NoAccount)?.storage_quota_bytes;
        if let Some(state) = &mut self.state {
            state.account.storage_quota_bytes = quota_bytes;
        }
        Ok(())
    }

    fn submit(
        &mut self,
        mut commit: Commit,
        batch: Vec<Pending>,
        answers: Vec<Answer>,
        authors: Vec<Arc<str>>,
        after: After,
        attempt: u32,
    ) {
        let live_from = commit.state.base_seq;
        let encoded = commit.ops.iter().filter(|(_, op)| op.server_seq > live_from);
        let encoded = EncodedOp::of_commit(encoded.map(|(_, op)| op));
        if commit.clear_devices {
            self.slot.devices().clear();
        }
        let due = |(client_id, now_ms): &(String, i64)| self.slot.devices().uploaded(client_id, *now_ms);
        commit.devices.retain(due);
        let probe = Probe {
            expected_revision: commit.expected_revision,
            generation: commit.state.generation,
            last_op: commit.ops.last().map(|(_, op)| (op.id.to_string(), op.server_seq)),
        };
        let devices = commit.devices.clone();
        let commits = spans::commits(batch.iter().map(|pending| &pending.span), commit.ops.len(), attempt);
        self.in_flight =
            Some(InFlight { batch, answers, authors, after, probe, encoded, devices, attempt, _commits: commits });
        let myself = self.myself.clone();
        self.context.committer.submit(commit, move |result| {
            // Fails only when the actor has died: its callers ask again and find what was stored by op id.
            let _ = myself.cast(Message::Committed(result));
        });
    }

    async fn committed(&mut self, result: CommitResult) {
        let Some(flight) = self.in_flight.take() else { return };
        match result {
            Ok(CommitOutcome::Committed) => self.applied(flight).await,
            Ok(CommitOutcome::Stale) => {
                self.state = None;
                let facts = Facts { distrust_heads: true, ..Facts::default() };
                self.again(flight, facts).await;
            }
            // The committer has waited already.
            Ok(CommitOutcome::Contended) => {
                if flight.batch.is_empty() {
                    // Heads that could not be stored must not keep requests waiting a second time.
                    self.state = None;
                }
                fail(flight.batch, &self.slot.view(), "Transaction timeout, please retry");
            }
            Ok(CommitOutcome::DuplicateId) => {
                // Some id is not as new as it looked. Look all of them up.
                let facts = Facts { distrust_ids: true, distrust_heads: true, ..Facts::default() };
                self.again(flight, facts).await;
            }
            Err(error) => self.commit_failed(flight, &error).await,
        }
    }

    async fn commit_failed(&mut self, flight: InFlight, error: &StoreError) {
        let state = self.state.take();
        match error {
            StoreError::Unknown(_) => match self.was_applied(&flight.probe).await {
                Some(true) => {
                    self.state = state;
                    self.applied(flight).await;
                    // Others may have committed since: the next batch finds out by the fence.
                }
                Some(false) if flight.attempt < MAX_ATTEMPTS => self.again(flight, Facts::default()).await,
                Some(false) => fail(flight.batch, &self.slot.view(), "Database transaction failed, please retry"),
                None => fail(flight.batch, &self.slot.view(), "Connection to the database lost, please retry"),
            },
            StoreError::Internal(_) | StoreError::Corrupt(_) if flight.batch.len() > 1 => {
                self.one_by_one += flight.batch.len();
                for pending in flight.batch.into_iter().rev() {
                    self.queue.push_front(pending);
                }
            }
            StoreError::Full(_) => refuse(flight.batch, &EngineError::DiskFull),
            StoreError::Timeout(_) => fail(flight.batch, &self.slot.view(), "Transaction timeout, please retry"),
            _ => fail(flight.batch, &self.slot.view(), "Database transaction failed, please retry"),
        }
    }

    /// Whether a commit whose connection was lost is in the database; `None`: it does not answer.
    async fn was_applied(&self, probe: &Probe) -> Option<bool> {
        for delay_ms in [50, 200, 1000] {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            let store = self.context.store.as_ref();
            let Ok(Some(account)) = store.load_account(self.user).await else { continue };
            if account.sync.revision == probe.expected_revision {
                return Some(false);
            }
            let Some((id, seq)) = &probe.last_op else {
                return Some(account.sync.revision == probe.expected_revision + 1);
            };
            let Ok(found) = store.find_ops(self.user, probe.generation, std::slice::from_ref(id)).await else {
                continue;
            };
            return Some(found.iter().any(|op| op.server_seq == *seq));
        }
        None
    }

    async fn again(&mut self, flight: InFlight, facts: Facts) {
        if flight.attempt >= MAX_ATTEMPTS {
            tracing::warn!(user_id = self.user, "gave up after losing the race for an account several times");
            fail(flight.batch, &self.slot.view(), "Too many writers at once, please retry");
            return;
        }
        metrics::counter!("supersync_replans_total").increment(1);
        self.start(flight.batch, facts, flight.attempt + 1).await;
    }

    /// The commit is in the database: shows it, tells the others, answers.
    async fn applied(&mut self, flight: InFlight) {
        let (batch, answers) = aside(is_large(&flight.batch), || self.show(flight)).await;
        match self.context.peers.tell_unless_missed(self.context.store.as_ref()).await {
            Ok(()) => self.answer(batch, answers),
            Err(error) => {
                tracing::warn!(%error, "a commit that other processes can't be told of yet is not acknowledged");
                fail(batch, &self.slot.view(), "Connection to the database lost, please retry");
            }
        }
    }

    fn show(&mut self, flight: InFlight) -> (Vec<Pending>, Vec<Answer>) {
        if flight.after.starts_data_set() {
            self.context.tidier.replaced(self.user);
        }
        let reclaim = flight.after.reclaim;
        if let Some(state) = &mut self.state {
            state.apply(flight.after);
        }
        for (client_id, now_ms) in &flight.devices {
            self.slot.devices().written(client_id, *now_ms);
        }
        self.publish(flight.encoded);
        if reclaim {
            metrics::counter!("supersync_archive_evictions_total").increment(1);
            self.context.reclaimer.wake(self.user);
        }
        let latest_seq = self.slot.view().sync().latest_seq();
        for author in &flight.authors {
            self.context.notifier.committed(self.user, author, latest_seq);
        }
        self.context.peers.committed(self.user, self.slot.view().sync(), &flight.authors);
        (flight.batch, flight.answers)
    }

    fn answer(&self, batch: Vec<Pending>, answers: Vec<Answer>) {
        let view = self.slot.view();
        for (pending, answer) in batch.into_iter().zip(answers) {
            count_outcomes(&answer);
            if matches!(answer, Answer::Busy) {
                self.context.reclaimer.wake(self.user);
            }
            // The caller may have gone; what was stored stays stored.
            let _ = pending.reply.send(Ok(Answered { answer, view: Arc::clone(&view) }));
        }
    }

    /// Records devices of uploads that changed nothing else.
    fn touch_devices(&self, devices: &[(String, i64)]) {
        for (client_id, now_ms) in devices {
            let mut seen = self.slot.devices();
            if seen.uploaded(client_id, *now_ms) {
                self.context.touches.record(self.user, client_id, *now_ms);
                seen.written(client_id, *now_ms);
            }
        }
    }
}

/// Whether its work takes so long that other accounts must not wait for it.
fn is_large(batch: &[Pending]) -> bool {
    let weight = |work: &Work| ENTITY_BYTES * work.entities() + work.bytes();
    batch.iter().fold(0, |sum: usize, pending| sum.saturating_add(weight(&pending.work))) > LARGE_BYTES
}

fn count_outcomes(answer: &Answer) {
    let count =
        |outcome: &'static str| metrics::counter!("supersync_operations_total", "outcome" => outcome).increment(1);
    let snapshot =
        |outcome: &'static str| metrics::counter!("supersync_snapshots_total", "outcome" => outcome).increment(1);
    match answer {
        Answer::Upload(outcome) if outcome.deduplicated => {
            metrics::counter!("supersync_requests_deduplicated_total").increment(1);
        }
        Answer::Upload(outcome) => {
            if outcome.fenced {
                metrics::counter!("supersync_uploads_fenced_total").increment(1);
            }
            for result in &outcome.results {
                count(result.outcome.as_ref().map_or_else(|rejection| rejection.code.as_str(), |_| "accepted"));
            }
        }
        Answer::Snapshot(SnapshotReply::Accepted { .. }) => snapshot("accepted"),
        Answer::Snapshot(SnapshotReply::Rejected(rejection)) => snapshot(rejection.code.as_str()),
        Answer::Snapshot(SnapshotReply::ImportExists { .. }) => snapshot("SYNC_IMPORT_EXISTS"),
        Answer::Snapshot(SnapshotReply::QuotaExceeded(_)) => {
            snapshot("STORAGE_QUOTA_EXCEEDED");
            metrics::counter!("supersync_quota_rejections_total").increment(1);
        }
        Answer::Quota(_) => {
            metrics::counter!("supersync_quota_rejections_total").increment(1);
        }
        // Counted with other requests that are refused as a whole.
        Answer::Snapshot(SnapshotReply::EncryptionRequired)
        | Answer::EncryptionRequired
        | Answer::Done(_)
        | Answer::Busy => {}
    }
}

/// A defect here: rather refuse than write what breaks a guarantee.
fn violated(user: UserId, violation: invariants::Violation) -> EngineError {
    metrics::counter!("supersync_invariant_violations_total").increment(1);
    tracing::error!(user_id = user, error = %violation, "a plan breaks a guarantee and was not committed");
    EngineError::Internal(violation)
}

/// Answers a batch of which nothing was applied.
fn refuse(batch: Vec<Pending>, error: &EngineError) {
    for pending in batch {
        let error = match error {
            EngineError::NoAccount => EngineError::NoAccount,
            EngineError::DiskFull => EngineError::DiskFull,
            EngineError::Internal(text) => EngineError::Internal(text.clone()),
            _ => EngineError::Unavailable,
        };
        let _ = pending.reply.send(Err(error));
    }
}

/// Answers a batch whose commit failed: clients keep the operations and send them again (section 5.10).
fn fail(batch: Vec<Pending>, view: &Arc<UserView>, text: &str) {
    for pending in batch {
        let rejection = || Rejection::new(ErrorCode::InternalError, text);
        let answer = match &*pending.work {
            Work::Upload(upload) => {
                let result = |op_id: &Arc<str>| OpResult { op_id: op_id.clone(), outcome: Err(rejection()) };
                let results = upload.ops.iter().map(|op| result(&op.op_id)).collect();
                Answer::Upload(UploadOutcome { results, deduplicated: false, fenced: false })
            }
            Work::Snapshot(_) => Answer::Snapshot(SnapshotReply::Rejected(rejection())),
            Work::Wipe | Work::Retire(_) | Work::Seal(_) | Work::BringBack(_) | Work::KeepState { .. } => {
                let _ = pending.reply.send(Err(EngineError::Unavailable));
                continue;
            }
        };
        count_outcomes(&answer);
        let _ = pending.reply.send(Ok(Answered { answer, view: Arc::clone(view) }));
    }
}
