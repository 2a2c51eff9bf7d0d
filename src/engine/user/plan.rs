//! The rules of an account's log as a pure function: (state, facts, work) → plan. No I/O, no clock, no async.
//!
//! A batch of requests becomes one [`Commit`]. Each request sees what the ones before it in the batch will have done, and a request that
//! is refused leaves no trace. Nothing changes in the state until the commit has succeeded and the caller applies [`Plan::after`].

use std::collections::HashMap;

use super::facts::{Facts, Needs};
use super::heads::HeadCache;
use super::requests::{Remembered, RequestCache, RequestKey};
use super::work::{Answer, UploadOutcome, Work};
use crate::engine::{CleanupStats, QuotaExceeded, SnapshotReply};
use crate::protocol::limits::{MAX_CLOCK_DRIFT_MS, MAX_CLOCK_STORED};
use crate::protocol::request::SnapshotReason;
use crate::protocol::response::{OpResult, Rejection};
use crate::protocol::validate::{CheckedSnapshot, CheckedUpload};
use crate::protocol::{
    ClockOrdering, ErrorCode, OpType, Seq, StoredOp, UserId, ValidOp, VectorClock, identity, validate,
};
use crate::store::{
    AccountState, ArchiveReason, ArchivedRange, Commit, EntityHead, EntityKey, FullStateMark, LEGACY_MISC,
    SnapshotChange, SnapshotMeta, SyncState,
};

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
    pub authors: Vec<String>,
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
    now_ms: i64,
}

impl UserState {
    /// Makes a committed plan's change the state.
    pub fn apply(&mut self, after: After) {
        self.account.sync = after.sync;
        self.unsaved = false;
        if after.new_data_set {
            self.heads = HeadCache::of_empty_data_set();
            self.requests.clear();
        }
        for (key, head) in after.heads {
            self.heads.insert(key, Some(head));
        }
        for (key, answer) in after.answers {
            self.requests.put(key, answer, after.now_ms);
        }
    }
}

/// Plans a batch.
///
/// # Errors
/// The facts that are missing. Fetch them and plan again; the state is as it was.
pub fn plan(state: &UserState, facts: &Facts, batch: &[&Work], now_ms: i64) -> Result<Plan, Needs> {
    let mut draft = Draft::new(state, facts, now_ms);
    let answers: Vec<Answer> = batch.iter().map(|work| draft.request(work)).collect();
    if draft.needs.is_empty() { Ok(draft.finish(answers)) } else { Err(draft.needs) }
}

/// What one request, or all before it, add to the log.
#[derive(Clone, Debug)]
struct Addition {
    sync: SyncState,
    ops: Vec<(i64, StoredOp)>,
    heads: HashMap<EntityKey, EntityHead>,
    /// Operations of the current generation by id, as indexes into `ops`.
    ids: HashMap<String, usize>,
    archived: Vec<ArchivedRange>,
    snapshot: SnapshotChange,
    clear_devices: bool,
    devices: Vec<(String, i64)>,
    new_data_set: bool,
    answers: Vec<(RequestKey, Remembered)>,
    authors: Vec<String>,
    changed: bool,
}

impl Addition {
    /// Nothing, on top of a state.
    fn on(sync: SyncState) -> Self {
        Self {
            sync,
            ops: Vec::new(),
            heads: HashMap::new(),
            ids: HashMap::new(),
            archived: Vec::new(),
            snapshot: SnapshotChange::Keep,
            clear_devices: false,
            devices: Vec::new(),
            new_data_set: false,
            answers: Vec::new(),
            authors: Vec::new(),
            changed: false,
        }
    }

    /// The operation that this addition stores under an id in the current data set.
    fn stored(&self, id: &str) -> Option<&StoredOp> {
        self.ids.get(id).and_then(|at| self.ops.get(*at)).map(|(_, op)| op)
    }

    /// Joins what a request adds on top of this.
    fn absorb(&mut self, next: Self) {
        if next.new_data_set {
            self.heads.clear();
            self.ids.clear();
            self.devices.clear();
            self.answers.clear();
        }
        let offset = self.ops.len();
        self.sync = next.sync;
        self.ops.extend(next.ops);
        self.heads.extend(next.heads);
        self.ids.extend(next.ids.into_iter().map(|(id, at)| (id, at + offset)));
        self.archived.extend(next.archived);
        if next.snapshot != SnapshotChange::Keep {
            self.snapshot = next.snapshot;
        }
        self.clear_devices |= next.clear_devices;
        for (client_id, at) in next.devices {
            touch(self, &client_id, at);
        }
        self.new_data_set |= next.new_data_set;
        self.answers.extend(next.answers);
        self.authors.extend(next.authors);
        self.changed |= next.changed;
    }
}

/// How an operation fares.
enum Verdict {
    Accept,
    Reject(Rejection),
    /// Facts are missing; the plan will be made again.
    Open,
}

struct Draft<'a> {
    state: &'a UserState,
    facts: &'a Facts,
    now_ms: i64,
    /// What the requests so far add. Each request builds an addition of its own on top, which joins the sum when the request succeeds.
    sum: Addition,
    needs: Needs,
}

impl<'a> Draft<'a> {
    fn new(state: &'a UserState, facts: &'a Facts, now_ms: i64) -> Self {
        let mut sum = Addition::on(state.account.sync.clone());
        sum.changed = state.unsaved;
        Self { state, facts, now_ms, sum, needs: Needs::default() }
    }

    fn finish(self, answers: Vec<Answer>) -> Plan {
        let Addition {
            mut sync, ops, heads, archived, snapshot, clear_devices, devices, new_data_set, authors, ..
        } = self.sum;
        let expected_revision = sync.revision;
        let (commit, devices) = if self.sum.changed {
            sync.revision += 1;
            let heads_to_write = heads.iter().map(|(key, head)| (key.clone(), head.clone())).collect();
            let commit = Commit {
                user: self.state.user,
                expected_revision,
                state: sync.clone(),
                ops,
                heads: heads_to_write,
                clear_devices,
                devices,
                archived,
                snapshot,
            };
            (Some(commit), Vec::new())
        } else {
            (None, devices)
        };
        let after = After { sync, heads, new_data_set, answers: self.sum.answers, now_ms: self.now_ms };
        Plan { commit, devices, answers, authors, after }
    }

    fn request(&mut self, work: &Work) -> Answer {
        match work {
            Work::Upload(upload) => self.upload(upload),
            Work::Snapshot(snapshot) => self.snapshot(snapshot),
            Work::Wipe => self.wipe(),
            Work::Retire { full_state_seq, bytes } => self.retire(*full_state_seq, *bytes),
            Work::KeepState { generation, meta, blob } => {
                let sync = &mut self.sum.sync;
                let known = sync.snapshot.map_or((0, 0), |old| (old.seq, old.bytes));
                let used = sync.storage_used_bytes - known.1 + meta.bytes;
                let fits = used <= self.state.account.storage_quota_bytes;
                if *generation != sync.generation || known.0 >= meta.seq || meta.seq > sync.last_seq || !fits {
                    return Answer::Done(false);
                }
                sync.snapshot = Some(*meta);
                sync.storage_used_bytes = used;
                self.sum.snapshot = SnapshotChange::Set(blob.clone());
                self.sum.changed = true;
                Answer::Done(true)
            }
        }
    }

    // ---------------------------------------------------------------- uploads

    fn upload(&mut self, upload: &CheckedUpload) -> Answer {
        let replacement_seq = self.sum.sync.replacement_seq.unwrap_or(0);
        let outcome = |results, deduplicated, fenced| Answer::Upload(UploadOutcome { results, deduplicated, fenced });

        let key = request_key(upload.request_id.as_ref(), upload.fingerprint.as_ref(), false);
        if let Some(Remembered::Upload(results)) = key.as_ref().and_then(|key| self.remembered(key)) {
            // An answer from before the newest replacement speaks of operations that are superseded (section 5.5 B).
            let predates = upload.last_known_server_seq.is_some_and(|cursor| {
                cursor < replacement_seq
                    || results.iter().any(|r| r.outcome.as_ref().is_ok_and(|seq| *seq < replacement_seq))
            });
            if !predates {
                return outcome(results, true, false);
            }
        }

        if upload.last_known_server_seq.is_some_and(|cursor| cursor < replacement_seq) {
            let rejection = || {
                Rejection::new(
                    ErrorCode::InternalError,
                    "The account's state was replaced; download the replacement, then please retry",
                )
            };
            return outcome(all_rejected(upload, |_| rejection()), false, true);
        }

        // A REPAIR says which history it covers per request, which `/ops` can't (section 5.7).
        if upload.ops.iter().any(|op| op.is_repair) {
            let results = all_rejected(upload, |is_repair| {
                if is_repair {
                    Rejection::new(ErrorCode::RepairStale, "REPAIR does not say which server state it covers")
                } else {
                    Rejection::new(ErrorCode::InternalError, "Deferred because of a stale REPAIR, please retry")
                }
            });
            return outcome(results, false, false);
        }

        let mut next = Addition::on(self.sum.sync.clone());
        let mut results = Vec::with_capacity(upload.ops.len());
        let used_before = next.sync.storage_used_bytes;
        for checked in &upload.ops {
            let verdict = match &checked.check {
                Err(rejection) => Err(rejection.clone()),
                Ok(op) => match self.judge(&next, op, upload.request_id.is_some()) {
                    Verdict::Accept => Ok(self.accept(&mut next, op)),
                    Verdict::Reject(rejection) => Err(rejection),
                    Verdict::Open => Ok(0),
                },
            };
            results.push(OpResult { op_id: checked.op_id.clone(), outcome: verdict });
        }
        if !self.needs.is_empty() {
            return outcome(results, false, false);
        }
        let added = next.sync.storage_used_bytes - used_before;
        if added > 0
            && let Err(exceeded) = self.make_room(&mut next)
        {
            return Answer::Quota(exceeded);
        }
        touch(&mut next, &upload.client_id, self.now_ms);
        if results.iter().any(|r| r.outcome.is_ok()) {
            next.changed = true;
            next.authors.push(upload.client_id.clone());
        }
        if let Some(key) = key {
            next.answers.push((key, Remembered::Upload(results.clone())));
        }
        self.sum.absorb(next);
        outcome(results, false, false)
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

    /// Steps 3 to 5 of section 5.5 A and conflict detection.
    fn judge(&mut self, next: &Addition, op: &ValidOp, knows_superseded: bool) -> Verdict {
        if let Some(stored) = next.stored(&op.id).or_else(|| self.sum.stored(&op.id)) {
            return Verdict::Reject(duplicate(stored, op));
        }
        let mut id_is_new = self.sum.new_data_set;
        if !id_is_new {
            match self.facts.ids.get(&op.id) {
                Some(Some(stored)) => return Verdict::Reject(duplicate(stored, op)),
                Some(None) => id_is_new = true,
                None => {}
            }
        }
        let (conflict, dominates) = match self.conflict(next, op, knows_superseded) {
            Ok(found) => found,
            Err(mut missing) => {
                self.needs.heads.append(&mut missing);
                return Verdict::Open;
            }
        };
        // A stored operation never dominates the head of an entity that it touched itself. So an operation that does is new, and only
        // the others need a look-up. (One that reuses an id with a newer clock fails the commit and comes back with the look-up done.)
        if !id_is_new && (self.facts.distrust_ids || !dominates) {
            self.needs.ids.push(op.id.clone());
            return Verdict::Open;
        }
        conflict.map_or(Verdict::Accept, Verdict::Reject)
    }

    /// The conflict of an operation (section 5.8), if any, and whether it dominates every head that it meets.
    ///
    /// # Errors
    /// The keys of heads that are not known.
    fn conflict(
        &self,
        next: &Addition,
        op: &ValidOp,
        knows_superseded: bool,
    ) -> Result<(Option<Rejection>, bool), Vec<EntityKey>> {
        if op.op_type.is_full_state() {
            return Ok((None, false));
        }
        let keys = conflict_keys(op);
        let mut dominates = !keys.is_empty();
        let mut conflict = None;
        let mut missing = Vec::new();
        for candidates in keys {
            let mut newest: Option<&EntityHead> = None;
            for key in candidates {
                match self.head(next, &key) {
                    Some(Some(head)) if newest.is_none_or(|n| head.seq > n.seq) => newest = Some(head),
                    Some(_) => {}
                    None => missing.push(key),
                }
            }
            let Some(prior) = newest else { continue };
            let order = op.vector_clock.compare(&prior.clock);
            dominates &= order == ClockOrdering::Greater;
            let Some(code) = conflict_code(op, prior, order, knows_superseded) else { continue };
            // The first one counts.
            conflict.get_or_insert_with(|| {
                let mut rejection = Rejection::new(code, conflict_text(code));
                rejection.existing_clock = Some(prior.clock.clone());
                rejection
            });
        }
        if missing.is_empty() { Ok((conflict, dominates)) } else { Err(missing) }
    }

    fn head<'b>(&'b self, next: &'b Addition, key: &EntityKey) -> Option<Option<&'b EntityHead>> {
        if let Some(head) = next.heads.get(key).or_else(|| self.sum.heads.get(key)) {
            return Some(Some(head));
        }
        if self.sum.new_data_set {
            return Some(None);
        }
        if let Some(head) = self.facts.heads.get(key) {
            return Some(head.as_ref());
        }
        self.state.heads.peek(key)
    }

    /// Section 5.9.
    fn accept(&self, next: &mut Addition, op: &ValidOp) -> Seq {
        let sync = &mut next.sync;
        sync.last_seq += 1;
        let seq = sync.last_seq;
        let causal = op.is_causal_full_state();
        let author = if causal {
            Some(op.client_id.clone())
        } else if op.vector_clock.len() > MAX_CLOCK_STORED {
            sync.full_state.as_ref().map(|mark| mark.client_id.clone())
        } else {
            None
        };
        let preserve = std::iter::once(op.client_id.as_str()).chain(author.as_deref());
        let clock = op.vector_clock.pruned(preserve);
        if causal {
            let mut merged = sync.clock.clone();
            merged.merge(&op.vector_clock);
            sync.full_state = Some(FullStateMark { seq, client_id: op.client_id.clone(), clock: merged });
        }
        if op.op_type.is_state_replacement() {
            sync.replacement_seq = Some(seq);
        }
        sync.clock.merge(&clock);
        let stored = stored_op(op, seq, clock, self.now_ms);
        sync.storage_used_bytes += stored.storage_bytes;
        for key in head_keys(op) {
            let head = EntityHead {
                seq,
                client_id: op.client_id.as_str().into(),
                clock: stored.vector_clock.clone(),
                is_time_delta: op.is_time_delta(),
            };
            next.heads.insert(key, head);
        }
        next.ids.insert(stored.id.clone(), next.ops.len());
        next.ops.push((sync.generation, stored));
        seq
    }

    // ---------------------------------------------------------------- snapshots

    fn snapshot(&mut self, snapshot: &CheckedSnapshot) -> Answer {
        let reply = self.snapshot_reply(snapshot);
        match reply {
            Ok(reply) => Answer::Snapshot(reply),
            Err(exceeded) => Answer::Quota(exceeded),
        }
    }

    /// Section 7.2. Every snapshot with an op id is idempotent by that id, also beyond the life of the request cache (section 17.7).
    fn snapshot_reply(&mut self, snapshot: &CheckedSnapshot) -> Result<SnapshotReply, QuotaExceeded> {
        let pending = SnapshotReply::Accepted { seq: 0, clean_slate: false };
        let key = request_key(snapshot.request_id.as_ref(), snapshot.fingerprint.as_ref(), true);
        if let Some(Remembered::Snapshot(reply)) = key.as_ref().and_then(|key| self.remembered(key)) {
            return Ok(reply);
        }
        let is_first = snapshot.reason == SnapshotReason::Initial && !snapshot.clean_slate;
        if is_first {
            match self.newest_full_state(snapshot) {
                None => return Ok(pending),
                Some(Some(reply)) => return Ok(reply),
                Some(None) => {}
            }
        }
        let op = match &snapshot.op {
            Ok(op) => op,
            Err(rejection) => {
                return Ok(self.remember(&key, SnapshotReply::Rejected(rejection.clone())));
            }
        };
        if snapshot.op_id_given {
            match self.stored(&op.id) {
                None => return Ok(pending),
                Some(Some(stored)) => {
                    let reply = if stored.op_type.is_full_state() && identity::same_operation_ignoring_time(&stored, op)
                    {
                        SnapshotReply::Accepted { seq: stored.server_seq, clean_slate: false }
                    } else {
                        SnapshotReply::Rejected(validate::id_taken())
                    };
                    return Ok(self.remember(&key, reply));
                }
                Some(None) => {}
            }
        }
        if op.op_type == OpType::Repair
            && !snapshot.legacy_repair
            && op.repair_base_server_seq != Some(self.sum.sync.latest_seq())
        {
            return Ok(SnapshotReply::Rejected(Rejection::new(
                ErrorCode::RepairStale,
                "REPAIR does not cover the current server state",
            )));
        }

        let mut next = Addition::on(self.sum.sync.clone());
        if snapshot.clean_slate {
            start_data_set(&mut next, ArchiveReason::CleanSlate, self.now_ms);
        }
        let seq = self.accept(&mut next, op);
        if snapshot.clean_slate {
            let bytes = next.sync.storage_used_bytes;
            if bytes > self.state.account.storage_quota_bytes {
                return Err(QuotaExceeded {
                    used_bytes: 0,
                    quota_bytes: self.state.account.storage_quota_bytes,
                    cleanup: None,
                });
            }
        } else {
            self.make_room(&mut next)?;
            if !self.needs.is_empty() {
                return Ok(pending);
            }
        }
        if !op.is_payload_encrypted && !snapshot.legacy_repair {
            // The operation itself is the state at its sequence: restores start from its row, so no second copy is stored or charged.
            drop_snapshot(&mut next);
            next.sync.snapshot = Some(SnapshotMeta { seq, at: self.now_ms, bytes: 0 });
        }
        touch(&mut next, &op.client_id, self.now_ms);
        next.changed = true;
        next.authors.push(op.client_id.clone());
        self.sum.absorb(next);
        Ok(self.remember(&key, SnapshotReply::Accepted { seq, clean_slate: snapshot.clean_slate }))
    }

    /// Keeps an answer for a retry that carries the same request id.
    fn remember(&mut self, key: &Option<RequestKey>, reply: SnapshotReply) -> SnapshotReply {
        if let Some(key) = key {
            // A remembered answer must not announce a clean slate a second time.
            let kept = match &reply {
                SnapshotReply::Accepted { seq, .. } => SnapshotReply::Accepted { seq: *seq, clean_slate: false },
                other => other.clone(),
            };
            self.sum.answers.push((key.clone(), Remembered::Snapshot(kept)));
        }
        reply
    }

    /// Step 6 of section 7.2. `None`: facts are missing; `Some(None)`: there is no full state yet.
    fn newest_full_state(&mut self, snapshot: &CheckedSnapshot) -> Option<Option<SnapshotReply>> {
        let in_batch = self
            .sum
            .ops
            .iter()
            .rev()
            .find(|(generation, op)| *generation == self.sum.sync.generation && op.op_type.is_full_state())
            .map(|(_, op)| op.id.clone());
        let newest = match in_batch {
            Some(id) => Some(id),
            None if self.sum.new_data_set => None,
            None => match &self.facts.newest_full_state {
                Some(row) => row.as_ref().map(|row| row.id.clone()),
                None => {
                    self.needs.newest_full_state = true;
                    return None;
                }
            },
        };
        let Some(existing_import_id) = newest else { return Some(None) };
        if snapshot.op_id_given {
            let own = self.stored(&snapshot.op_id)?;
            if let Some(own) = own.filter(|own| own.op_type.is_full_state()) {
                return Some(Some(SnapshotReply::Accepted { seq: own.server_seq, clean_slate: false }));
            }
        }
        Some(Some(SnapshotReply::ImportExists { existing_import_id }))
    }

    /// The operation stored under an id. `None`: it has to be looked up.
    fn stored(&mut self, id: &str) -> Option<Option<StoredOp>> {
        if let Some(op) = self.sum.stored(id) {
            return Some(Some(op.clone()));
        }
        if self.sum.new_data_set {
            return Some(None);
        }
        if let Some(found) = self.facts.ids.get(id) {
            return Some(found.clone());
        }
        self.needs.ids.push(id.to_owned());
        None
    }

    // ---------------------------------------------------------------- room

    /// Checks the quota; when it is exceeded recounts, then gives up superseded operations, as few as do (sections 11.2, 11.3, 17.5).
    fn make_room(&mut self, next: &mut Addition) -> Result<(), QuotaExceeded> {
        let quota_bytes = self.state.account.storage_quota_bytes;
        if next.sync.storage_used_bytes <= quota_bytes {
            return Ok(());
        }
        let before = &self.state.account.sync;
        let mut stats = None;
        if next.sync.generation == before.generation {
            let Some(recount) = self.facts.recount_bytes else {
                self.needs.recount = true;
                return Ok(());
            };
            let counted = recount + (next.sync.storage_used_bytes - before.storage_used_bytes);
            if counted <= quota_bytes {
                next.sync.storage_used_bytes = counted;
                return Ok(());
            }
            stats = Some(CleanupStats::default());
            if next.sync.pruned_seq == before.pruned_seq {
                let Some(steps) = &self.facts.cleanup else {
                    self.needs.cleanup = true;
                    return Ok(());
                };
                if let Some(step) = steps.iter().find(|step| counted - step.freed_bytes <= quota_bytes) {
                    next.sync.storage_used_bytes = counted;
                    let range = prune(next, step.prune_to, step.freed_bytes, ArchiveReason::Superseded, self.now_ms);
                    next.archived.push(range);
                    next.changed = true;
                    return Ok(());
                }
            }
        }
        Err(QuotaExceeded { used_bytes: self.sum.sync.storage_used_bytes, quota_bytes, cleanup: stats })
    }

    // ---------------------------------------------------------------- wipes

    fn wipe(&mut self) -> Answer {
        let mut next = Addition::on(self.sum.sync.clone());
        start_data_set(&mut next, ArchiveReason::Wipe, self.now_ms);
        self.sum.absorb(next);
        Answer::Done(true)
    }

    fn retire(&mut self, full_state_seq: Seq, bytes: i64) -> Answer {
        let sync = &self.sum.sync;
        let valid = sync.full_state.as_ref().is_some_and(|mark| mark.seq == full_state_seq)
            && sync.pruned_seq < full_state_seq - 1;
        if !valid {
            return Answer::Done(false);
        }
        // Dated far back: the rows are due for deletion at once, by the one routine that deletes.
        let range = prune(&mut self.sum, full_state_seq - 1, bytes, ArchiveReason::Expired, 0);
        self.sum.archived.push(range);
        self.sum.changed = true;
        Answer::Done(true)
    }
}

// -------------------------------------------------------------------- pieces

fn request_key(request_id: Option<&String>, fingerprint: Option<&[u8; 32]>, is_snapshot: bool) -> Option<RequestKey> {
    Some(RequestKey { request_id: request_id?.clone(), is_snapshot, fingerprint: *fingerprint? })
}

fn all_rejected(upload: &CheckedUpload, rejection: impl Fn(bool) -> Rejection) -> Vec<OpResult> {
    let result = |op: &crate::protocol::validate::CheckedOp| OpResult {
        op_id: op.op_id.clone(),
        outcome: Err(rejection(op.is_repair)),
    };
    upload.ops.iter().map(result).collect()
}

fn duplicate(stored: &StoredOp, op: &ValidOp) -> Rejection {
    if identity::same_operation(stored, op) { validate::duplicate_operation() } else { validate::id_taken() }
}

fn touch(next: &mut Addition, client_id: &str, now_ms: i64) {
    if !next.devices.iter().any(|(known, _)| known == client_id) {
        next.devices.push((client_id.to_owned(), now_ms));
    }
}

/// For each entity that an operation touches the keys under which its latest operation may stand (section 5.8, with the alias for settings that moved
/// from `misc` to `tasks`).
fn conflict_keys(op: &ValidOp) -> Vec<Vec<EntityKey>> {
    let key = |entity_type, id: &str| EntityKey { entity_type, entity_id: id.into() };
    let is_config = op.entity_type == "GLOBAL_CONFIG";
    let mut keys: Vec<Vec<EntityKey>> = Vec::new();
    let mut ids = op.conflict_ids();
    if is_config && op.schema_version < 2 && ids.contains(&"misc") && !ids.contains(&"tasks") {
        ids.push("tasks");
    }
    for id in ids {
        let mut candidates = vec![key(op.entity_type, id)];
        if is_config && id == "tasks" {
            candidates.push(key(LEGACY_MISC, "misc"));
        }
        keys.push(candidates);
    }
    keys
}

/// The keys whose latest operation an accepted operation becomes.
fn head_keys(op: &ValidOp) -> Vec<EntityKey> {
    let mut keys: Vec<EntityKey> = op
        .conflict_ids()
        .into_iter()
        .map(|id| EntityKey { entity_type: op.entity_type, entity_id: id.into() })
        .collect();
    if op.entity_type == "GLOBAL_CONFIG" && op.schema_version < 2 && op.entity_id.as_deref() == Some("misc") {
        keys.push(EntityKey { entity_type: LEGACY_MISC, entity_id: "misc".into() });
    }
    keys
}

fn conflict_code(op: &ValidOp, prior: &EntityHead, order: ClockOrdering, knows_superseded: bool) -> Option<ErrorCode> {
    match order {
        ClockOrdering::Greater => None,
        ClockOrdering::Equal if *prior.client_id == *op.client_id => None,
        ClockOrdering::Concurrent if op.is_time_delta() && prior.is_time_delta => None,
        ClockOrdering::Equal | ClockOrdering::Concurrent => Some(ErrorCode::ConflictConcurrent),
        // Clients from before request ids drop the edit on the newer word (section 13.2).
        ClockOrdering::Less if knows_superseded => Some(ErrorCode::ConflictSuperseded),
        ClockOrdering::Less => Some(ErrorCode::ConflictStale),
    }
}

const fn conflict_text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::ConflictConcurrent => "Another device changed this entity at the same time",
        _ => "Another device has changed this entity since",
    }
}

fn stored_op(op: &ValidOp, seq: Seq, clock: VectorClock, now_ms: i64) -> StoredOp {
    let storage_bytes = op.payload.len() + clock.to_json().len();
    StoredOp {
        server_seq: seq,
        id: op.id.clone(),
        client_id: op.client_id.clone(),
        action_type: op.action_type.clone(),
        op_type: op.op_type,
        entity_type: op.entity_type,
        entity_id: op.entity_id.clone(),
        entity_ids: op.stored_entity_ids(),
        payload: op.payload.clone(),
        storage_bytes: i64::try_from(storage_bytes).unwrap_or(i64::MAX),
        vector_clock: clock,
        timestamp: op.timestamp.min(now_ms + MAX_CLOCK_DRIFT_MS),
        schema_version: op.schema_version,
        is_payload_encrypted: op.is_payload_encrypted,
        import_reason: op.import_reason,
        repair_base_server_seq: op.repair_base_server_seq,
        received_at: now_ms,
    }
}

/// Takes the data set's oldest part, up to and with `up_to`, out of it.
fn prune(next: &mut Addition, up_to: Seq, bytes: i64, reason: ArchiveReason, archived_at: i64) -> ArchivedRange {
    let sync = &mut next.sync;
    let range = ArchivedRange {
        generation: sync.generation,
        from_seq: sync.pruned_seq + 1,
        to_seq: up_to,
        reason,
        bytes,
        archived_at,
    };
    sync.pruned_seq = up_to;
    sync.storage_used_bytes = (sync.storage_used_bytes - bytes).max(0);
    if sync.snapshot.is_some_and(|snapshot| snapshot.seq <= up_to) {
        drop_snapshot(next);
    }
    range
}

fn drop_snapshot(next: &mut Addition) {
    if let Some(old) = next.sync.snapshot.take() {
        next.sync.storage_used_bytes = (next.sync.storage_used_bytes - old.bytes).max(0);
        next.snapshot = SnapshotChange::Clear;
    }
}

/// Starts a new, empty data set above the highest sequence ever given out; what was there goes to the archive (sections 7.3, 8.4, 17.1).
fn start_data_set(next: &mut Addition, reason: ArchiveReason, now_ms: i64) {
    drop_snapshot(next);
    let sync = &mut next.sync;
    if sync.last_seq > sync.pruned_seq {
        next.archived.push(ArchivedRange {
            generation: sync.generation,
            from_seq: sync.pruned_seq + 1,
            to_seq: sync.last_seq,
            reason,
            bytes: sync.storage_used_bytes,
            archived_at: now_ms,
        });
    }
    sync.generation += 1;
    sync.base_seq = sync.last_seq;
    sync.pruned_seq = sync.last_seq;
    sync.clock = VectorClock::new();
    sync.full_state = None;
    sync.replacement_seq = Some(0);
    sync.storage_used_bytes = 0;
    next.clear_devices = true;
    next.new_data_set = true;
    next.changed = true;
}
