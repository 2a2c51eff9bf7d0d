//! The rules of an account's log as a pure function: (state, facts, work) → plan. No I/O, no clock, no async.
//!
//! A batch of requests becomes one [`Commit`]. Each request sees what the ones before it in the batch will have done,
//! and a request that is refused leaves no trace. Nothing changes in the state until the commit has succeeded and the
//! caller applies [`Plan::after`].

mod addition;
mod archive;
mod bring_back;
mod room;
mod seal;
mod snapshot;
mod upload;

use std::sync::Arc;

use foldhash::HashMap;

use self::addition::Addition;
pub use self::addition::bounded_history;
use super::facts::{Facts, Needs};
use super::heads::{self, HeadCache, SLICE_HEADS, STORE_EVERY};
use super::requests::{Remembered, RequestCache, RequestKey};
use super::work::{Answer, Work};
use crate::engine::QuotaExceeded;
use crate::protocol::{Seq, UserId};
use crate::store::{AccountState, Commit, EntityHead, EntityKey, SyncState};

/// What an account's writer remembers between batches.
#[derive(Debug)]
pub struct UserState {
    /// The account.
    pub user: UserId,
    /// Its row, as of the last commit.
    pub account: AccountState,
    /// The row holds something that was worked out on loading and is not stored yet.
    pub unsaved: bool,
    /// Latest operations per entity.
    pub heads: HeadCache,
    /// Recent answers.
    pub requests: RequestCache,
    /// Where the newest causal full state lies, and whether it is encrypted; `None`, or of another one: not known.
    pub encryption: Option<(Seq, bool)>,
}

/// Why there is no room for an upload.
enum NoRoom {
    Quota(QuotaExceeded),
    /// Making room has to wait.
    Busy,
}

impl From<QuotaExceeded> for NoRoom {
    fn from(exceeded: QuotaExceeded) -> Self {
        Self::Quota(exceeded)
    }
}

impl From<NoRoom> for Answer {
    fn from(no_room: NoRoom) -> Self {
        match no_room {
            NoRoom::Quota(exceeded) => Self::Quota(exceeded),
            NoRoom::Busy => Self::Busy,
        }
    }
}

/// What a batch comes to.
#[derive(Debug)]
pub struct Plan {
    /// To be committed before anything is answered; `None` when nothing changes.
    pub commit: Option<Commit>,
    /// Devices seen when there is no commit to carry them.
    pub devices: Vec<(String, i64)>,
    /// One per request, in order.
    pub answers: Vec<Answer>,
    /// Devices whose operations were accepted: the others are to be told.
    pub authors: Vec<Arc<str>>,
    /// What the state becomes when the commit has succeeded.
    pub after: After,
}

/// The state's change, applied only after the commit.
#[derive(Debug)]
pub struct After {
    sync: SyncState,
    heads: HashMap<EntityKey, EntityHead>,
    new_data_set: bool,
    answers: Vec<(RequestKey, Remembered)>,
    encryption: Option<(Seq, bool)>,
    now_ms: i64,
    /// The commit leaves something in the archive that is to be deleted.
    pub reclaim: bool,
}

impl After {
    /// Whether another data set has taken the place of what was there.
    #[must_use]
    pub const fn starts_data_set(&self) -> bool {
        self.new_data_set
    }
}

impl UserState {
    /// An account of which nothing but its row is known.
    #[must_use]
    pub fn loaded(user: UserId, account: AccountState, unsaved: bool) -> Self {
        let (heads, requests) = (HeadCache::unknown(), RequestCache::default());
        Self { user, account, unsaved, heads, requests, encryption: None }
    }

    /// Bytes that this keeps, beside what a view of the account keeps.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// An actor: its task, its mailbox, its maps of nothing.
        const WRITER: usize = 4096;
        WRITER + self.heads.weight() + self.requests.weight()
    }

    /// Whether more heads wait to be stored than may wait for the next commit.
    #[must_use]
    pub fn has_heads_to_store(&self) -> bool {
        heads_are_due(&self.account.sync, Some(&self.heads), 0) && !self.heads.is_unknown()
    }

    /// Makes a committed plan's change the state.
    pub fn apply(&mut self, after: After) {
        self.account.sync = after.sync;
        self.encryption = after.encryption;
        self.unsaved = false;
        if after.new_data_set {
            self.heads = HeadCache::of_empty_data_set();
            self.requests.clear();
        }
        self.heads.advance(after.heads.into_iter().collect(), self.account.sync.heads_seq);
        for (key, answer) in after.answers {
            self.requests.put(key, answer, after.now_ms);
        }
    }
}

/// Whether a commit should carry heads. `before`: what is known of the data set; `new`: how many come with it.
fn heads_are_due(sync: &SyncState, before: Option<&HeadCache>, new: usize) -> bool {
    sync.pruned_seq.max(sync.sealed_seq) > sync.heads_seq
        || sync.last_seq - sync.heads_seq >= STORE_EVERY
        || new + before.map_or(0, HeadCache::waiting) >= SLICE_HEADS
        || before.is_some_and(HeadCache::is_overfull)
}

/// Plans a batch. An empty one stores heads, if that is due.
///
/// # Errors
/// The facts that are missing. Fetch them and plan again; the state is as it was.
pub fn plan(state: &UserState, facts: &Facts, batch: &[&Work], now_ms: i64) -> Result<Plan, Needs> {
    let mut draft = Draft::new(state, facts, now_ms);
    let answers: Vec<Answer> = batch.iter().map(|work| draft.request(work)).collect();
    draft.keep_archive_small();
    draft.store_heads(batch.is_empty());
    if draft.needs.is_empty() { Ok(draft.finish(answers)) } else { Err(draft.needs) }
}

/// A plan in the making.
struct Draft<'a> {
    state: &'a UserState,
    facts: &'a Facts,
    now_ms: i64,
    /// What the requests so far add. Each request builds an addition of its own on top, which joins the sum when the
    /// request succeeds.
    sum: Addition,
    /// Heads to store with the commit, when it is time.
    heads_to_store: Vec<(EntityKey, EntityHead)>,
    /// See [`After::reclaim`].
    reclaim: bool,
    needs: Needs,
}

impl<'a> Draft<'a> {
    fn new(state: &'a UserState, facts: &'a Facts, now_ms: i64) -> Self {
        let mut sum = Addition::on(state.account.sync.clone());
        sum.changed = state.unsaved;
        sum.encryption = state.encryption;
        Self { state, facts, now_ms, sum, heads_to_store: Vec::new(), reclaim: false, needs: Needs::default() }
    }

    fn finish(self, answers: Vec<Answer>) -> Plan {
        let Addition {
            mut sync,
            ops,
            heads,
            absent,
            archived,
            snapshot,
            seal,
            adoption,
            clear_devices,
            devices,
            new_data_set,
            answers: remembered,
            authors,
            encryption,
            changed,
            ..
        } = self.sum;
        let expected_revision = sync.revision;
        let (commit, devices) = if changed {
            sync.revision += 1;
            let commit = Commit {
                user: self.state.user,
                expected_revision,
                state: sync.clone(),
                ops,
                heads: self.heads_to_store,
                absent,
                clear_devices,
                devices,
                archived,
                snapshot,
                seal,
                adoption,
            };
            (Some(commit), Vec::new())
        } else {
            (None, devices)
        };
        let after = After {
            sync,
            heads,
            new_data_set,
            answers: remembered,
            encryption,
            now_ms: self.now_ms,
            reclaim: self.reclaim,
        };
        Plan { commit, devices, answers, authors, after }
    }

    /// Stores heads when they lag too far behind the log, or when operations that are not in them leave the data set or
    /// are packed: the former may be deleted before anybody reads the log again, so these heads go with this commit
    /// however many there are. Otherwise it carries a slice of them, the oldest ones first.
    fn store_heads(&mut self, alone: bool) {
        let sync = &mut self.sum.sync;
        let before = if self.sum.new_data_set { None } else { Some(&self.state.heads) };
        if !heads_are_due(sync, before, self.sum.heads.len()) || !(self.sum.changed || alone) {
            return;
        }
        if before.is_some_and(HeadCache::is_unknown) {
            self.needs.load_heads = true;
            return;
        }
        self.sum.changed = true;
        let planned = &self.sum.heads;
        let mut waiting: Vec<_> = planned.iter().map(|(key, head)| (head.seq, *key)).collect();
        let recent = before.into_iter().flat_map(HeadCache::recent);
        waiting.extend(recent.filter(|(_, key)| !planned.contains_key(key)));
        let required = sync.pruned_seq;
        let up_to = heads::slice(&mut waiting, required);
        // All heads of an operation share what is unpacked of it, and so the text of its clock.
        let mut unpacked: HashMap<Seq, EntityHead> = HashMap::default();
        let mut head = |seq, key: &EntityKey| {
            if let Some(head) = planned.get(key).or_else(|| unpacked.get(&seq)) {
                return Some(head.clone());
            }
            let head = before?.get(key)?;
            unpacked.insert(seq, head.clone());
            Some(head)
        };
        let mut slice: Vec<_> =
            waiting.into_iter().filter_map(|(seq, key)| head(seq, &key).map(|head| (key, head))).collect();
        let up_to = heads::slice_bytes(&mut slice, required).or(up_to);
        sync.heads_seq = up_to.unwrap_or(sync.last_seq);
        // Neighbours in the table one after the other.
        slice.sort_unstable_by_key(|(key, _)| *key);
        self.heads_to_store = slice;
    }

    fn request(&mut self, work: &Work) -> Answer {
        match work {
            Work::Upload(upload) => self.upload(upload),
            Work::Snapshot(snapshot) => self.snapshot(snapshot),
            Work::Wipe => self.wipe(),
            Work::Retire(prefix) => self.retire(prefix),
            Work::Seal(sealing) => self.seal(sealing),
            Work::BringBack(set) => self.bring_back(set),
            Work::KeepState { generation, meta, blob } => self.keep_state(*generation, *meta, blob),
        }
    }

    /// Whether the newest causal full state, which devices start from, is encrypted. `None`: it has to be looked up.
    fn is_encrypted(&mut self) -> Option<bool> {
        let Some(mark) = &self.sum.sync.full_state else { return Some(false) };
        let known = self.sum.encryption.into_iter().chain(self.facts.encryption).find(|(seq, _)| *seq == mark.seq);
        self.needs.encryption |= known.is_none();
        self.sum.encryption = known;
        known.map(|(_, is_encrypted)| is_encrypted)
    }

    /// The answer to the same request, from earlier in the batch or before it.
    fn remembered(&self, key: &RequestKey) -> Option<Remembered> {
        let in_batch = self.sum.answers.iter().rev().find(|(k, _)| k == key).map(|(_, answer)| answer);
        let before = || {
            let live = !self.sum.new_data_set;
            live.then(|| self.state.requests.get(key, self.now_ms)).flatten()
        };
        in_batch.or_else(before).cloned()
    }
}

fn request_key(request_id: Option<&Arc<str>>, fingerprint: Option<u128>, is_snapshot: bool) -> Option<RequestKey> {
    Some(RequestKey::new(fingerprint?, request_id?, is_snapshot))
}
