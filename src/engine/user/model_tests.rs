//! Random requests against a naive model of the rules: a plain list that is searched from end to end. The model also
//! plays the store, so that planning meets every mixture of known and unknown facts.

use std::collections::HashMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::facts::{ArchiveFacts, CleanupStep, Facts, Needs, Stored};
use super::heads::{HeadCache, SLICE_HEADS};
use super::plan::{Plan, UserState, plan};
use super::requests::RequestCache;
use super::work::{Answer, Work};
use crate::engine::{SnapshotReply, invariants};
use crate::protocol::charge::charged_bytes;
use crate::protocol::request::SnapshotReason;
use crate::protocol::validate::{CheckedOp, CheckedSnapshot, CheckedUpload};
use crate::protocol::{ClockOrdering, ErrorCode, OpType, Seq, StoredOp, ValidOp, VectorClock, identity};
use crate::store::{AccountState, EntityHead, EntityKey, FullStateRow, LEGACY_MISC, SyncState};

const SEQUENCES: u64 = 2_000;
const STEPS: usize = 30;
const QUOTA: i64 = 6_000;
const CLIENTS: [&str; 4] = ["A", "B", "C", "D"];
const NOW: i64 = 1_700_000_000_000;

type Heads = HashMap<EntityKey, EntityHead>;

/// The log as the contract describes it, without any index.
#[derive(Clone, Default)]
struct Model {
    ops: Vec<StoredOp>,
    last_seq: Seq,
    pruned_seq: Seq,
    is_empty: bool,
}

impl Model {
    fn new() -> Self {
        Self { is_empty: true, ..Self::default() }
    }

    fn latest_seq(&self) -> Seq {
        if self.is_empty { 0 } else { self.last_seq }
    }

    fn fence(&self) -> Seq {
        self.ops.iter().filter(|op| op.op_type.is_state_replacement()).map(|op| op.server_seq).max().unwrap_or(0)
    }

    fn used(&self) -> i64 {
        self.retained().map(|op| op.storage_bytes).sum()
    }

    fn retained(&self) -> impl Iterator<Item = &StoredOp> {
        self.ops.iter().filter(|op| op.server_seq > self.pruned_seq)
    }

    /// Whether devices start from an encrypted full state.
    fn is_encrypted(&self) -> bool {
        self.retained().filter(|op| op.is_causal_full_state()).last().is_some_and(|op| op.is_payload_encrypted)
    }

    /// The latest operation that touched an entity, by searching the whole data set; pruned ones count (they keep their
    /// heads).
    fn latest_on(&self, entity_type: &str, id: &str) -> Option<&StoredOp> {
        let touches = |op: &&StoredOp| {
            op.entity_type == entity_type
                && (op.entity_id.as_deref() == Some(id) || op.entity_ids.iter().any(|e| **e == *id))
        };
        self.ops.iter().rev().find(touches)
    }

    fn legacy_misc(&self) -> Option<&StoredOp> {
        let legacy = |op: &&StoredOp| {
            op.entity_type == "GLOBAL_CONFIG" && op.entity_id.as_deref() == Some("misc") && op.schema_version < 2
        };
        self.ops.iter().rev().find(legacy)
    }

    fn verdict(&self, op: &ValidOp, has_request_id: bool) -> Result<(), ErrorCode> {
        if let Some(stored) = self.ops.iter().find(|stored| stored.id == op.id) {
            let same = identity::same_operation(stored, op);
            return Err(if same { ErrorCode::DuplicateOperation } else { ErrorCode::InvalidOpId });
        }
        if op.op_type.is_full_state() {
            return Ok(());
        }
        let mut ids: Vec<String> = op.entity_id.iter().chain(&op.entity_ids).map(ToString::to_string).collect();
        let config = op.entity_type == "GLOBAL_CONFIG";
        if config && op.schema_version < 2 && ids.iter().any(|id| id == "misc") {
            ids.push("tasks".to_owned());
        }
        for id in ids {
            let mut prior = self.latest_on(op.entity_type, &id);
            if config && id == "tasks" {
                prior = prior.into_iter().chain(self.legacy_misc()).max_by_key(|op| op.server_seq);
            }
            let Some(prior) = prior else { continue };
            let superseded = if has_request_id { ErrorCode::ConflictSuperseded } else { ErrorCode::ConflictStale };
            match op.vector_clock.compare(&prior.vector_clock) {
                ClockOrdering::Greater => {}
                ClockOrdering::Equal if op.client_id == prior.client_id => {}
                ClockOrdering::Concurrent
                    if op.is_time_delta() && prior.action_type == crate::protocol::op::TIME_DELTA_ACTION.into() => {}
                ClockOrdering::Less => return Err(superseded),
                ClockOrdering::Equal | ClockOrdering::Concurrent => return Err(ErrorCode::ConflictConcurrent),
            }
        }
        Ok(())
    }

    fn append(&mut self, op: &ValidOp) -> Seq {
        self.last_seq += 1;
        self.is_empty = false;
        let clock = op.vector_clock.clone();
        let mut stored = StoredOp {
            server_seq: self.last_seq,
            id: op.id.clone(),
            client_id: op.client_id.clone(),
            action_type: op.action_type.clone(),
            op_type: op.op_type,
            entity_type: op.entity_type,
            entity_id: op.entity_id.clone(),
            entity_ids: op.stored_entity_ids(),
            payload: op.payload.clone(),
            storage_bytes: 0,
            vector_clock: clock,
            timestamp: op.timestamp,
            schema_version: op.schema_version,
            is_payload_encrypted: op.is_payload_encrypted,
            import_reason: op.import_reason,
            repair_base_server_seq: op.repair_base_server_seq,
            received_at: NOW,
        };
        stored.storage_bytes = charged_bytes(&stored);
        self.ops.push(stored);
        self.last_seq
    }

    fn clear(&mut self) {
        self.ops.clear();
        self.pruned_seq = self.last_seq;
        self.is_empty = true;
    }

    /// Up to where the data set must be given up for `added` bytes more (section 11.3); `None` when nothing helps.
    fn prune_for(&self, added: i64) -> Option<Seq> {
        let mut ends: Vec<Seq> = self.restore_points();
        if let Some(newest) = ends.pop() {
            ends.push(newest - 1);
        }
        let used_after =
            |end: Seq| -> i64 { self.retained().filter(|op| op.server_seq > end).map(|op| op.storage_bytes).sum() };
        std::iter::once(self.pruned_seq).chain(ends).find(|end| used_after(*end) + added <= QUOTA)
    }

    fn restore_points(&self) -> Vec<Seq> {
        self.retained().filter(|op| op.is_causal_full_state()).map(|op| op.server_seq).collect()
    }

    // ---- the model as the store

    /// The heads that operations after `after` make.
    fn heads_after(&self, after: Seq) -> Vec<(EntityKey, EntityHead)> {
        let mut heads = HashMap::new();
        for op in self.ops.iter().filter(|op| op.server_seq > after) {
            let head = EntityHead {
                seq: op.server_seq,
                client_id: op.client_id.clone(),
                clock: op.vector_clock.clone(),
                is_time_delta: op.action_type == crate::protocol::op::TIME_DELTA_ACTION.into(),
            };
            for id in op.entity_id.iter().chain(&op.entity_ids) {
                heads.insert(EntityKey::new(op.entity_type, id), head.clone());
            }
            if op.entity_type == "GLOBAL_CONFIG" && op.entity_id.as_deref() == Some("misc") && op.schema_version < 2 {
                heads.insert(EntityKey::new(LEGACY_MISC, "misc"), head);
            }
        }
        heads.into_iter().collect()
    }

    fn answer(&self, needs: Needs, stored: &Heads, facts: &mut Facts) {
        for key in needs.heads {
            facts.heads.insert(key, stored.get(&key).cloned());
        }
        for id in needs.ids {
            let found = self.ops.iter().find(|op| *op.id == *id).cloned();
            facts.ids.insert(id, found);
        }
        if needs.newest_full_state {
            let newest = self.retained().filter(|op| op.op_type.is_full_state()).last().map(|op| FullStateRow {
                seq: op.server_seq,
                id: op.id.to_string(),
                op_type: op.op_type,
                client_id: op.client_id.to_string(),
                timestamp: op.timestamp,
                repair_base_server_seq: op.repair_base_server_seq,
                is_payload_encrypted: op.is_payload_encrypted,
                import_reason: op.import_reason,
            });
            facts.newest_full_state = Some(newest);
        }
        if needs.encryption {
            let points = self.retained().filter(|op| op.is_causal_full_state());
            facts.encryption = points.last().map(|op| (op.server_seq, op.is_payload_encrypted));
        }
        if needs.recount {
            let operations = i64::try_from(self.retained().count()).unwrap();
            facts.recount = Some(Stored { bytes: self.used(), operations });
        }
        if needs.cleanup {
            let mut points = self.restore_points();
            let mut steps = Vec::new();
            if let Some(newest) = points.pop() {
                points.push(newest - 1);
                for end in points {
                    let gone = || self.retained().filter(|op| op.server_seq <= end);
                    steps.push(CleanupStep {
                        prune_to: end,
                        freed_bytes: gone().map(|op| op.storage_bytes).sum(),
                        deleted_ops: i64::try_from(gone().count()).unwrap(),
                        deleted_restore_points: 0,
                    });
                }
            }
            facts.cleanup = Some(steps);
        }
        if needs.archive {
            facts.archive = Some(ArchiveFacts { ranges: Vec::new(), percent: 100 });
        }
    }
}

fn random_clock(rng: &mut StdRng) -> VectorClock {
    let mut entries: Vec<(std::sync::Arc<str>, u32)> = Vec::new();
    for client in CLIENTS {
        if rng.random_bool(0.6) {
            entries.push((client.into(), rng.random_range(0..4)));
        }
    }
    VectorClock::from_entries(entries)
}

fn random_op(rng: &mut StdRng, client: &str, model: &Model) -> ValidOp {
    if rng.random_bool(0.15)
        && let Some(old) = model.ops.choose(rng)
        && !old.op_type.is_full_state()
    {
        // A retry, sometimes with another content.
        let action_type = if rng.random_bool(0.7) { old.action_type.clone() } else { "[Task] Something else".into() };
        let clock = if rng.random_bool(0.8) { old.vector_clock.clone() } else { random_clock(rng) };
        return ValidOp {
            id: old.id.clone(),
            client_id: old.client_id.clone(),
            action_type,
            op_type: old.op_type,
            entity_type: old.entity_type,
            entity_id: old.entity_id.clone(),
            entity_ids: old.entity_ids.clone(),
            payload: old.payload.clone(),
            vector_clock: clock,
            timestamp: old.timestamp,
            schema_version: old.schema_version,
            is_payload_encrypted: old.is_payload_encrypted,
            import_reason: None,
            repair_base_server_seq: None,
        };
    }
    let entity_type = ["TASK", "TAG", "GLOBAL_CONFIG"][rng.random_range(0..3)];
    let names: &[&str] = if entity_type == "GLOBAL_CONFIG" { &["misc", "tasks"] } else { &["e1", "e2", "e3"] };
    let full_state = rng.random_bool(0.04);
    let entity_id = names.choose(rng).filter(|_| !full_state).map(|id| (*id).to_owned());
    let others = if rng.random_bool(0.2) && !full_state {
        names.iter().filter(|_| rng.random_bool(0.5)).map(|id| (*id).to_owned()).collect()
    } else {
        Vec::new()
    };
    ValidOp {
        id: format!("op-{}", rng.random_range(0..1_000_000)).into(),
        client_id: client.into(),
        action_type: if rng.random_bool(0.3) { crate::protocol::op::TIME_DELTA_ACTION } else { "[Task] Update" }.into(),
        op_type: if full_state { OpType::SyncImport } else { OpType::Update },
        entity_type: if full_state { "ALL" } else { entity_type },
        entity_id: entity_id.map(Into::into),
        entity_ids: others.into_iter().map(Into::into).collect(),
        payload: Bytes::from(format!("{{\"n\":\"{}\"}}", "x".repeat(rng.random_range(0..120)))),
        vector_clock: random_clock(rng),
        timestamp: NOW - 1000,
        schema_version: if rng.random_bool(0.3) { 1 } else { 4 },
        is_payload_encrypted: rng.random_bool(if full_state { 0.3 } else { 0.8 }),
        import_reason: None,
        repair_base_server_seq: None,
    }
}

/// An operation that claims to be encrypted is not always.
fn checked(rng: &mut StdRng, op: ValidOp) -> CheckedOp {
    let is_plain = !op.is_payload_encrypted || rng.random_bool(0.1);
    CheckedOp { op_id: op.id.clone(), is_repair: false, is_plain, check: Ok(Box::new(op)) }
}

fn random_upload(rng: &mut StdRng, model: &Model) -> CheckedUpload {
    let client = *CLIENTS.choose(rng).expect("not empty");
    let mut ops: Vec<ValidOp> = (0..rng.random_range(1..5)).map(|_| random_op(rng, client, model)).collect();
    ops.sort_by(|a, b| a.id.cmp(&b.id));
    ops.dedup_by(|a, b| a.id == b.id);
    let cursor = rng.random_bool(0.6).then(|| rng.random_range(0..=model.last_seq + 1));
    CheckedUpload {
        client_id: client.into(),
        last_known_server_seq: cursor,
        request_id: rng.random_bool(0.5).then(|| format!("r-{}", rng.random::<u64>()).into()),
        fingerprint: None,
        ops: ops.into_iter().map(|op| checked(rng, op)).collect(),
    }
}

fn random_snapshot(rng: &mut StdRng, model: &Model) -> CheckedSnapshot {
    let client = *CLIENTS.choose(rng).expect("not empty");
    let mut op = random_op(rng, client, &Model::new());
    op.op_type = [OpType::SyncImport, OpType::BackupImport, OpType::Repair][rng.random_range(0..3)];
    op.entity_type = "ALL";
    op.entity_id = None;
    op.entity_ids = Vec::new();
    let legacy_repair = op.op_type == OpType::Repair && rng.random_bool(0.2);
    if op.op_type == OpType::Repair && !legacy_repair {
        let right = rng.random_bool(0.6);
        op.repair_base_server_seq = Some(if right { model.latest_seq() } else { rng.random_range(0..20) });
    }
    let reused = model.ops.iter().filter(|o| o.op_type.is_full_state()).collect::<Vec<_>>();
    let op_id_given = rng.random_bool(0.8);
    if op_id_given
        && rng.random_bool(0.2)
        && let Some(old) = reused.choose(rng)
    {
        op.id.clone_from(&old.id);
    }
    CheckedSnapshot {
        op_id: op.id.clone(),
        op_id_given,
        reason: [SnapshotReason::Initial, SnapshotReason::Recovery, SnapshotReason::Migration][rng.random_range(0..3)],
        clean_slate: op_id_given && op.op_type != OpType::Repair && rng.random_bool(0.3),
        legacy_repair,
        request_id: None,
        fingerprint: None,
        client_id: client.into(),
        state_bytes: op.payload.len(),
        is_plain: !op.is_payload_encrypted || rng.random_bool(0.2),
        op: Ok(Box::new(op)),
    }
}

/// Why a request is refused as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Quota,
    Encryption,
}

/// What the model says of an upload: per operation a sequence or a code.
fn expect_upload(model: &mut Model, upload: &CheckedUpload) -> Result<Vec<Result<Seq, ErrorCode>>, Refused> {
    if model.is_encrypted() && upload.ops.iter().any(|op| op.is_plain) {
        return Err(Refused::Encryption);
    }
    if upload.last_known_server_seq.is_some_and(|cursor| cursor < model.fence()) {
        return Ok(upload.ops.iter().map(|_| Err(ErrorCode::InternalError)).collect());
    }
    let mut next = model.clone();
    let mut results = Vec::new();
    for checked in &upload.ops {
        if next.last_seq > model.last_seq && next.is_encrypted() && checked.is_plain {
            return Err(Refused::Encryption);
        }
        let op = checked.check.as_ref().expect("the generator makes valid ones");
        results.push(next.verdict(op, upload.request_id.is_some()).map(|()| next.append(op)));
    }
    if results.iter().any(Result::is_ok) {
        // Room is made at the expense of what was there before the request only.
        next.pruned_seq = model.prune_for(next.used() - model.used()).ok_or(Refused::Quota)?;
    }
    *model = next;
    Ok(results)
}

fn expect_snapshot(model: &mut Model, snapshot: &CheckedSnapshot) -> Result<Result<Seq, &'static str>, Refused> {
    let op = snapshot.op.as_ref().expect("the generator makes valid ones");
    let turns_off = !op.is_payload_encrypted && !snapshot.legacy_repair;
    if model.is_encrypted() && snapshot.is_plain && !snapshot.clean_slate && !turns_off {
        return Err(Refused::Encryption);
    }
    let full = |op: &&StoredOp| op.op_type.is_full_state();
    if snapshot.reason == SnapshotReason::Initial
        && !snapshot.clean_slate
        && model.retained().any(|op| op.op_type.is_full_state())
    {
        let own = model.ops.iter().filter(full).find(|stored| snapshot.op_id_given && stored.id == op.id);
        return Ok(own.map_or(Err("exists"), |own| Ok(own.server_seq)));
    }
    if snapshot.op_id_given
        && let Some(stored) = model.ops.iter().find(|stored| stored.id == op.id)
    {
        let same = stored.op_type.is_full_state() && identity::same_operation_ignoring_time(stored, op);
        return Ok(if same { Ok(stored.server_seq) } else { Err("INVALID_OP_ID") });
    }
    if op.op_type == OpType::Repair && !snapshot.legacy_repair && op.repair_base_server_seq != Some(model.latest_seq())
    {
        return Ok(Err("REPAIR_STALE"));
    }
    let mut next = model.clone();
    if snapshot.clean_slate {
        next.clear();
    }
    let old = next.clone();
    let seq = next.append(op);
    let added = next.used() - old.used();
    if snapshot.clean_slate && added > QUOTA {
        return Err(Refused::Quota);
    }
    next.pruned_seq = old.prune_for(added).ok_or(Refused::Quota)?;
    *model = next;
    Ok(Ok(seq))
}

fn state() -> UserState {
    let sync = SyncState { replacement_seq: Some(0), ..SyncState::default() };
    UserState {
        user: 1,
        account: AccountState { sync, storage_quota_bytes: QUOTA },
        unsaved: false,
        heads: HeadCache::unknown(),
        requests: RequestCache::default(),
        encryption: None,
    }
}

/// Plans as the actor and the database do together. `stored` are the heads in the database.
fn settle(state: &mut UserState, store: &Model, stored: &Heads, batch: &[&Work], rng: &mut StdRng) -> Plan {
    let mut facts = Facts::default();
    let SyncState { generation, base_seq, heads_seq, .. } = state.account.sync;
    let live: Heads = stored.iter().filter(|(_, head)| head.seq > base_seq).map(|(k, h)| (*k, h.clone())).collect();
    for _ in 0..10 {
        match plan(state, &facts, batch, NOW) {
            Ok(plan) => {
                // The database's part: an entity that is not absent, an id that stands in the data set already.
                let commit = plan.commit.as_ref();
                let is_live =
                    |key: &EntityKey| commit.is_some_and(|c| c.state.base_seq == base_seq) && live.contains_key(key);
                if commit.iter().flat_map(|commit| &commit.absent).any(is_live) {
                    assert!(!facts.distrust_heads, "assumed although every head was to be looked up");
                    facts = Facts { distrust_heads: true, ..Facts::default() };
                    continue;
                }
                let mut new_ops = commit.iter().flat_map(|commit| &commit.ops);
                let taken =
                    |(of, op): &(i64, StoredOp)| *of == generation && store.ops.iter().any(|stored| stored.id == op.id);
                if !new_ops.any(taken) {
                    return plan;
                }
                assert!(!facts.distrust_ids, "planned a stored id although every id was looked up");
                facts = Facts { distrust_ids: true, distrust_heads: true, ..Facts::default() };
            }
            Err(needs) if needs.load_heads => {
                let few = rng.random_bool(0.5).then(|| live.iter().map(|(key, head)| (*key, head.clone())).collect());
                state.heads = HeadCache::loaded(few, store.heads_after(heads_seq), heads_seq);
            }
            Err(needs) => store.answer(needs, &live, &mut facts),
        }
    }
    panic!("planning does not settle");
}

fn compare_upload(answer: &Answer, expected: &Result<Vec<Result<Seq, ErrorCode>>, Refused>) {
    match (answer, expected) {
        (Answer::Upload(outcome), Ok(expected)) => {
            let found: Vec<_> =
                outcome.results.iter().map(|r| r.outcome.as_ref().map(|seq| *seq).map_err(|e| e.code)).collect();
            assert_eq!(&found, expected);
        }
        (Answer::Quota(_), Err(Refused::Quota)) | (Answer::EncryptionRequired, Err(Refused::Encryption)) => {}
        (answer, expected) => panic!("{answer:?} instead of {expected:?}"),
    }
}

fn compare_snapshot(answer: &Answer, expected: &Result<Result<Seq, &'static str>, Refused>) {
    match (answer, expected) {
        (Answer::Snapshot(SnapshotReply::Accepted { seq, .. }), Ok(Ok(expected))) => assert_eq!(seq, expected),
        (Answer::Snapshot(SnapshotReply::Rejected(rejection)), Ok(Err(code))) => {
            assert_eq!(rejection.code.as_str(), *code);
        }
        (Answer::Snapshot(SnapshotReply::ImportExists { .. }), Ok(Err("exists")))
        | (Answer::Quota(_), Err(Refused::Quota))
        | (Answer::EncryptionRequired, Err(Refused::Encryption)) => {}
        (answer, expected) => panic!("{answer:?} instead of {expected:?}"),
    }
}

fn check_state(state: &UserState, model: &Model) {
    let sync = &state.account.sync;
    invariants::check_state(sync).expect("state invariants");
    invariants::check_log(model.ops.first().map_or(0, |op| op.server_seq - 1), &model.ops).expect("G1, G2");
    assert_eq!(sync.latest_seq(), model.latest_seq());
    assert_eq!(sync.pruned_seq, model.pruned_seq);
    assert_eq!(sync.replacement_seq, Some(model.fence()));
    assert_eq!(sync.storage_used_bytes, model.used());
    let newest = model.retained().filter(|op| op.is_causal_full_state()).last();
    assert_eq!(sync.full_state.as_ref().map(|m| m.seq), newest.map(|op| op.server_seq));
    let mut clock = VectorClock::new();
    for op in &model.ops {
        clock.merge(&op.vector_clock);
    }
    assert_eq!(sync.clock.compare(&clock), ClockOrdering::Equal);
}

/// What is stored and what the log has after it make the latest operation of each entity, whenever the process ends.
fn check_heads(state: &UserState, model: &Model, stored: &Heads) {
    let SyncState { base_seq, pruned_seq, heads_seq, .. } = state.account.sync;
    assert!(heads_seq >= pruned_seq, "what is pruned may be deleted before anybody reads its heads");
    let stored = stored.iter().filter(|(_, head)| head.seq > base_seq).map(|(key, head)| (*key, head.clone()));
    let mut found: Heads = stored.collect();
    found.extend(model.heads_after(heads_seq));
    assert_eq!(found, model.heads_after(0).into_iter().collect::<Heads>());
}

/// What the database keeps of a commit's heads. A commit that need not carries no more than a slice and one operation's.
fn store_heads(stored: &mut Heads, plan: &Plan) {
    let Some(commit) = &plan.commit else { return };
    let has_to = commit.heads.iter().any(|(_, head)| head.seq <= commit.state.pruned_seq);
    assert!(has_to || commit.heads.len() <= SLICE_HEADS + 8, "{} heads at once", commit.heads.len());
    stored.extend(commit.heads.iter().cloned());
}

fn run_sequence(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut state = state();
    let mut model = Model::new();
    let mut stored_heads = Heads::new();
    for _ in 0..STEPS {
        let before = model.clone();
        let works: Vec<Work> = match rng.random_range(0..20) {
            0 => vec![Work::Wipe],
            1..4 => vec![Work::Snapshot(Box::new(random_snapshot(&mut rng, &model)))],
            // Several requests in one batch, each one planned on what the ones before it will have done.
            4..8 => (0..3).map(|_| Work::Upload(random_upload(&mut rng, &model))).collect(),
            _ => vec![Work::Upload(random_upload(&mut rng, &model))],
        };
        // Only single requests may run into the quota here: in a batch the order of making room is free.
        if works.len() > 1 && model.used() > QUOTA / 2 {
            continue;
        }
        let batch: Vec<&Work> = works.iter().collect();
        let plan = settle(&mut state, &before, &stored_heads, &batch, &mut rng);
        if let Some(commit) = &plan.commit {
            invariants::check_commit(&state.account.sync, commit).expect("commit invariants");
        }
        for (work, answer) in works.iter().zip(&plan.answers) {
            match work {
                Work::Upload(upload) => {
                    let expected = expect_upload(&mut model, upload);
                    compare_upload(answer, &expected);
                }
                Work::Snapshot(snapshot) => {
                    let expected = expect_snapshot(&mut model, snapshot);
                    compare_snapshot(answer, &expected);
                }
                _ => model.clear(),
            }
        }
        let stored: HashMap<Seq, &StoredOp> = model.ops.iter().map(|op| (op.server_seq, op)).collect();
        for (generation, op) in plan.commit.iter().flat_map(|commit| &commit.ops) {
            if *generation == plan.commit.as_ref().expect("there is one").state.generation {
                assert_eq!(stored.get(&op.server_seq).map(|op| &op.id), Some(&op.id), "stored elsewhere");
            }
        }
        store_heads(&mut stored_heads, &plan);
        state.apply(plan.after);
        check_heads(&state, &model, &stored_heads);
        while state.has_heads_to_store() && rng.random_bool(0.8) {
            let plan = settle(&mut state, &model, &stored_heads, &[], &mut rng);
            let commit = plan.commit.as_ref().expect("something to store");
            invariants::check_commit(&state.account.sync, commit).expect("commit invariants");
            store_heads(&mut stored_heads, &plan);
            state.apply(plan.after);
            check_heads(&state, &model, &stored_heads);
        }
        if rng.random_bool(0.1) {
            // As after a passivation.
            state.heads = HeadCache::unknown();
            state.encryption = None;
        }
        check_state(&state, &model);
    }
}

#[test]
fn planning_agrees_with_a_naive_model() {
    for seed in 0..SEQUENCES {
        let run = std::panic::catch_unwind(|| run_sequence(seed));
        assert!(run.is_ok(), "sequence {seed} failed");
    }
}

#[test]
fn a_head_of_the_legacy_misc_key_is_found_by_its_own_type() {
    assert!(!crate::protocol::op::ENTITY_TYPES.contains(&LEGACY_MISC), "clients could write to it");
}

#[test]
fn made_up_client_ids_do_not_grow_the_state_without_bound() {
    let mut state = state();
    state.account.storage_quota_bytes = 1 << 30;
    let mut rng = StdRng::seed_from_u64(1);
    let model = Model::new();
    for round in 0..200 {
        let mut op = random_op(&mut rng, "A", &model);
        op.id = format!("op-{round}").into();
        op.op_type = OpType::Batch;
        op.entity_type = "ALL";
        op.entity_id = None;
        op.entity_ids = Vec::new();
        let made_up = (0..19u32).map(|n| (format!("X{round}_{n}").into(), n + 1));
        op.vector_clock = VectorClock::from_entries(made_up.chain([("A".into(), round + 1)]));
        let upload = CheckedUpload {
            client_id: "A".into(),
            last_known_server_seq: None,
            request_id: None,
            fingerprint: None,
            ops: vec![checked(&mut rng, op)],
        };
        let plan = settle(&mut state, &model, &Heads::new(), &[&Work::Upload(upload)], &mut rng);
        state.apply(plan.after);
    }
    let clock = &state.account.sync.clock;
    assert!(clock.len() <= 1000, "{} entries", clock.len());
    assert_eq!(clock.get("A"), 200, "who writes stays");
}
