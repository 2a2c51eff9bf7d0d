//! The group committer: plans of many accounts become one transaction, so that hundreds of accounts share one fsync.
//!
//! Batching is natural: while one group commits, the next one gathers; nothing waits for a timer. Accounts are pinned
//! to a lane by number, and an account has at most one commit under way, so the queues are bounded by the admitted
//! requests. Large commits go alone on a lane of their own, where the store has one, so that an import delays nobody.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::disk::Disk;
use crate::protocol::StoredOp;
use crate::store::{Commit, CommitOutcome, Store, StoreError};

/// Plans in one transaction.
const MAX_GROUP_COMMITS: usize = 256;
/// Operations in one transaction, or the same amount of other work.
const MAX_GROUP_OPS: usize = 2000;
/// So many heads to write, or entities to be sure of, are as much work as an operation.
const HEADS_PER_OP: usize = 2;
/// Payload bytes in one transaction.
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;
/// How often a lane logs at most that a group failed.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// From this size on a commit goes alone.
const BULK_BYTES: usize = 1024 * 1024;

/// What became of a commit. An error is shared by the whole group, hence the `Arc`.
pub type CommitResult = Result<CommitOutcome, Arc<StoreError>>;

/// Called once, with the result.
type Done = Box<dyn FnOnce(CommitResult) + Send>;

struct Submission {
    commit: Commit,
    bytes: usize,
    since: Instant,
    done: Done,
}

/// Where actors leave their commits.
#[derive(Clone)]
pub struct Committer {
    lanes: Arc<[mpsc::UnboundedSender<Submission>]>,
    bulk: Option<mpsc::UnboundedSender<Submission>>,
}

fn weight(commit: &Commit) -> usize {
    let blob = match &commit.snapshot {
        crate::store::SnapshotChange::Set(blob) => blob.data.len(),
        _ => 0,
    };
    let segments = commit.seal.iter().map(|segment| segment.data.len()).sum::<usize>();
    blob + segments + commit.ops.iter().map(|(_, op)| op_weight(op)).sum::<usize>()
}

/// Bytes of an operation that its sender chose.
fn op_weight(op: &StoredOp) -> usize {
    op.payload.len() + op.vector_clock.weight() + op.entity_ids.iter().map(|id| id.len()).sum::<usize>()
}

/// Operations that a commit adds or moves.
fn operations(commit: &Commit) -> usize {
    commit.ops.len() + commit.seal.iter().map(|segment| segment.op_count).sum::<usize>()
}

/// What a commit takes of a transaction's [`MAX_GROUP_OPS`].
fn work(commit: &Commit) -> usize {
    operations(commit) + (commit.heads.len() + commit.absent.len()) / HEADS_PER_OP
}

/// Whether packed operations change places with it.
const fn moves_packed(commit: &Commit) -> bool {
    !commit.seal.is_empty() || commit.adoption.is_some()
}

impl Committer {
    /// Starts the lanes; they end when every handle is gone and the queues are empty.
    #[must_use]
    pub fn start(store: &Arc<dyn Store>, disk: &Disk, tasks: &TaskTracker) -> Self {
        let lane = |name: &'static str| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let (store, disk, waiting) = (Arc::clone(store), disk.clone(), tasks.clone());
            start_lane(Lane { store, disk, name, blocks: false, waiting, complaints: Mutex::default() }, receiver);
            sender
        };
        let lanes = (0..store.lanes().max(1)).map(|_| lane("ordinary")).collect();
        let bulk = store.has_bulk_lane().then(|| lane("bulk"));
        Self { lanes, bulk }
    }

    /// Queues a commit; `done` is called with its result, from the lane's task: it must not block.
    pub fn submit(&self, commit: Commit, done: impl FnOnce(CommitResult) + Send + 'static) {
        let bytes = weight(&commit);
        let index = usize::try_from(commit.user).unwrap_or(0) % self.lanes.len();
        let lane = match &self.bulk {
            Some(bulk) if bytes >= BULK_BYTES || work(&commit) > MAX_GROUP_OPS || moves_packed(&commit) => bulk,
            _ => &self.lanes[index],
        };
        if let Err(refused) = lane.send(Submission { commit, bytes, since: Instant::now(), done: Box::new(done) }) {
            let error = StoreError::Refused("the committer has stopped".to_owned());
            (refused.0.done)(Err(Arc::new(error)));
        }
    }
}

struct Lane {
    store: Arc<dyn Store>,
    disk: Disk,
    name: &'static str,
    /// Whether it has a thread of its own, which commits may block.
    blocks: bool,
    waiting: TaskTracker,
    /// When a failed group was last logged, and the number of failures since.
    complaints: Mutex<(Option<Instant>, u64)>,
}

/// Where commits block, the lane has a thread of its own. As a task it would wait for its turn among all the others between
/// two groups, while the database does nothing. On a runtime of one thread, as tests have it, nothing leaves that thread.
fn start_lane(mut lane: Lane, queue: mpsc::UnboundedReceiver<Submission>) {
    let runtime = Handle::current();
    lane.blocks = lane.store.commits_block() && runtime.runtime_flavor() != RuntimeFlavor::CurrentThread;
    let tasks = lane.waiting.clone();
    if !lane.blocks {
        tasks.spawn(lane.run(queue));
        return;
    }
    let running = tasks.track_future(lane.run(queue));
    let thread = std::thread::Builder::new().name("commit-lane".to_owned()).spawn(move || runtime.block_on(running));
    // Without a thread there is no lane either, and whoever submits is told so.
    if let Err(error) = thread {
        tracing::error!(%error, "the thread for commits could not be started");
    }
}

impl Lane {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Submission>) {
        let mut next = queue.recv().await;
        while let Some(first) = next.take() {
            let (mut ops, mut amount, mut bytes) = (operations(&first.commit), work(&first.commit), first.bytes);
            let oldest = first.since;
            let mut commits = vec![first.commit];
            let mut callbacks = vec![first.done];
            while commits.len() < MAX_GROUP_COMMITS && bytes < BULK_BYTES {
                let Ok(another) = queue.try_recv() else { break };
                if amount + work(&another.commit) > MAX_GROUP_OPS
                    || bytes + another.bytes > MAX_GROUP_BYTES
                    || another.bytes >= BULK_BYTES
                {
                    next = Some(another);
                    break;
                }
                ops += operations(&another.commit);
                amount += work(&another.commit);
                bytes += another.bytes;
                commits.push(another.commit);
                callbacks.push(another.done);
            }
            let started = Instant::now();
            metrics::histogram!("supersync_commit_wait_seconds", "lane" => self.name)
                .record((started - oldest).as_secs_f64());
            let commits: Arc<[Commit]> = commits.into();
            let results = self.commit_group(&commits).await;
            metrics::histogram!("supersync_commit_seconds", "lane" => self.name)
                .record(started.elapsed().as_secs_f64());
            metrics::histogram!("supersync_commit_plans").record(count(commits.len()));
            metrics::histogram!("supersync_commit_operations").record(count(ops));
            for ((done, result), commit) in callbacks.into_iter().zip(results).zip(&*commits) {
                if matches!(result, Ok(CommitOutcome::Contended)) {
                    // It waits for the lock by itself, at most as long as a statement may take, and one per account.
                    metrics::counter!("supersync_commits_total", "outcome" => "contended").increment(1);
                    self.waiting.spawn(wait_for_lock(Arc::clone(&self.store), commit.clone(), done));
                    continue;
                }
                metrics::counter!("supersync_commits_total", "outcome" => result_label(&result)).increment(1);
                done(result);
            }
            if next.is_none() {
                next = queue.recv().await;
            }
        }
    }

    /// Logs a failed group, unless the last one was just logged: a database that is away fails hundreds in a second.
    fn complain(&self, error: &StoreError, plans: usize) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let (logged, unlogged) = &mut *complaints;
        if logged.is_some_and(|at: Instant| at.elapsed() < LOG_EVERY) {
            *unlogged += 1;
            return;
        }
        tracing::error!(%error, plans, unlogged = std::mem::take(unlogged), "group commit failed");
        *logged = Some(Instant::now());
    }

    async fn commit(&self, group: &Arc<[Commit]>) -> Result<Vec<CommitOutcome>, StoreError> {
        if self.blocks { self.store.commit_here(group).await } else { self.store.commit(Arc::clone(group)).await }
    }

    /// Commits a group. When it is refused for a reason that may lie in a single plan, the plans are committed one by one.
    async fn commit_group(&self, commits: &Arc<[Commit]>) -> Vec<CommitResult> {
        match self.commit(commits).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(StoreError::Internal(error)) if commits.len() > 1 => {
                tracing::warn!(%error, plans = commits.len(), "group refused, committing its plans one by one");
                let mut results = Vec::with_capacity(commits.len());
                for commit in commits.iter() {
                    let outcomes = self.commit(&[commit.clone()].into()).await;
                    results.push(outcomes.map_err(Arc::new).and_then(|outcomes| {
                        let missing = || Arc::new(StoreError::Corrupt("a commit without an outcome".to_owned()));
                        outcomes.first().copied().ok_or_else(missing)
                    }));
                }
                results
            }
            Err(error) => {
                self.complain(&error, commits.len());
                if matches!(error, StoreError::Full(_)) {
                    self.disk.refused();
                }
                let error = Arc::new(error);
                commits.iter().map(|_| Err(Arc::clone(&error))).collect()
            }
        }
    }
}

async fn wait_for_lock(store: Arc<dyn Store>, commit: Commit, done: Done) {
    let outcomes = store.commit_patiently(&commit).await;
    let missing = || Arc::new(StoreError::Corrupt("a commit without an outcome".to_owned()));
    let result = outcomes.map_err(Arc::new).and_then(|outcomes| outcomes.first().copied().ok_or_else(missing));
    metrics::counter!("supersync_commits_total", "outcome" => result_label(&result)).increment(1);
    done(result);
}

fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}

fn result_label(result: &CommitResult) -> &'static str {
    match result {
        Ok(CommitOutcome::Committed) => "committed",
        Ok(CommitOutcome::Stale) => "stale",
        Ok(CommitOutcome::DuplicateId) => "duplicate_id",
        Ok(CommitOutcome::Contended) => "contended",
        Err(_) => "error",
    }
}
