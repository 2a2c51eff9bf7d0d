//! Uploads of operations (contract, sections 5.5 to 5.8): duplicates, the fence, conflicts.

use smallvec::SmallVec;

use super::addition::{Addition, entity_keys};
use super::{Draft, request_key};
use crate::engine::user::heads::Head;
use crate::engine::user::requests::Remembered;
use crate::engine::user::work::{Answer, UploadOutcome};
use crate::protocol::response::{OpResult, Rejection};
use crate::protocol::validate::{CheckedOp, CheckedUpload};
use crate::protocol::{ClockOrdering, ErrorCode, OpType, StoredOp, ValidOp, identity, validate};
use crate::store::{EntityKey, LEGACY_MISC};

/// So many entities are taken to be absent in one batch, which the commit makes sure of. More are looked up before it, where
/// nobody waits for the writer.
const MAX_ABSENT: usize = 1000;

/// How an operation fares.
enum Verdict {
    Accept,
    Reject(Rejection),
    /// Facts are missing; the plan will be made again.
    Open,
}

/// An operation next to the heads of the entities that it touches.
struct Comparison {
    /// Why it must be refused.
    conflict: Option<Rejection>,
    /// Whether it comes after every head that it meets.
    dominates: bool,
    /// Entities of which it is not known whether they have a head.
    unknown: Vec<EntityKey>,
}

impl Draft<'_> {
    pub(super) fn upload(&mut self, upload: &CheckedUpload) -> Answer {
        let replacement_seq = self.sum.sync.replacement_seq.unwrap_or(0);
        let outcome = |results, deduplicated, fenced| Answer::Upload(UploadOutcome { results, deduplicated, fenced });

        // A device that starts from an encrypted full state refuses the whole download over one operation that is not
        // (section 17.18). What is refused for itself never gets there.
        if upload.ops.iter().any(CheckedOp::brings_plaintext) && self.is_encrypted() == Some(true) {
            return Answer::EncryptionRequired;
        }

        let key = request_key(upload.request_id.as_ref(), upload.fingerprint, false);
        let remembered = key.as_ref().and_then(|key| self.remembered(key));
        if let Some(outcomes) = remembered.and_then(|answer| answer.outcomes(upload.ops.len())) {
            // An answer from before the newest replacement speaks of operations that are superseded (section 5.5 B).
            let predates = upload.last_known_server_seq.is_some_and(|cursor| {
                cursor < replacement_seq
                    || outcomes.iter().any(|outcome| outcome.as_ref().is_ok_and(|seq| *seq < replacement_seq))
            });
            if !predates {
                let ids = upload.ops.iter().map(|op| op.op_id.clone());
                let results = ids.zip(outcomes).map(|(op_id, outcome)| OpResult { op_id, outcome }).collect();
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
            let follows_encrypted = next.encryption.is_some_and(|(_, is_encrypted)| is_encrypted);
            if checked.brings_plaintext() && follows_encrypted {
                return Answer::EncryptionRequired;
            }
            let verdict = match &checked.check {
                Err(rejection) => Err(rejection.clone()),
                Ok(op) => {
                    let keys = entity_keys(op);
                    match self.judge(&mut next, op, &keys, upload.request_id.is_some()) {
                        Verdict::Accept => Ok(next.accept(op, &keys, self.now_ms)),
                        Verdict::Reject(rejection) => Err(rejection),
                        Verdict::Open => Ok(0),
                    }
                }
            };
            results.push(OpResult { op_id: checked.op_id.clone(), outcome: verdict });
        }
        if !self.needs.is_empty() {
            return outcome(results, false, false);
        }
        let added = next.sync.storage_used_bytes - used_before;
        if added > 0
            && let Err(no_room) = self.make_room(&mut next)
        {
            return no_room.into();
        }
        if !self.needs.is_empty() {
            return outcome(results, false, false);
        }
        next.touch(&upload.client_id, self.now_ms);
        if results.iter().any(|r| r.outcome.is_ok()) {
            next.changed = true;
            next.authors.push(upload.client_id.clone());
        }
        if let Some(key) = key {
            next.answers.push((key, Remembered::upload(&results)));
        }
        self.sum.absorb(next);
        outcome(results, false, false)
    }

    /// Steps 3 to 5 of section 5.5 A and conflict detection.
    fn judge(&mut self, next: &mut Addition, op: &ValidOp, keys: &[EntityKey], knows_superseded: bool) -> Verdict {
        if let Some(stored) = next.stored(&op.id).or_else(|| self.sum.stored(&op.id)) {
            return Verdict::Reject(duplicate(stored, op));
        }
        let mut id_is_new = self.sum.new_data_set;
        if !id_is_new {
            match self.facts.ids.get(&*op.id) {
                Some(Some(stored)) => return Verdict::Reject(duplicate(stored, op)),
                Some(None) => id_is_new = true,
                None => {}
            }
        }
        let Comparison { conflict, dominates, unknown } = self.compare(next, op, keys, knows_superseded);
        if !unknown.is_empty() {
            if self.state.heads.is_unknown() {
                self.needs.load_heads = true;
                return Verdict::Open;
            }
            // What an operation creates is hardly ever there already: the commit makes sure of it.
            let absent = self.sum.absent.len() + next.absent.len() + unknown.len();
            if op.op_type != OpType::Create || self.facts.distrust_heads || absent > MAX_ABSENT {
                self.needs.heads.extend(unknown);
                return Verdict::Open;
            }
            next.absent.extend(unknown);
        }
        // A stored operation never dominates the head of an entity that it touched itself. So an operation that does is
        // new, and only the others need a look-up. (One that reuses an id with a newer clock fails the commit and comes
        // back with the look-up done. That does not happen with one whose operation is packed, so an id that is not above
        // all of those is always looked up.)
        let is_above_sealed = self.sum.sync.sealed_max_op_id.as_deref().is_none_or(|highest| &*op.id > highest);
        if !id_is_new && (self.facts.distrust_ids || !dominates || !is_above_sealed) {
            self.needs.ids.push(op.id.to_string());
            return Verdict::Open;
        }
        conflict.map_or(Verdict::Accept, Verdict::Reject)
    }

    /// Compares an operation with the heads of the entities that it touches (section 5.8).
    fn compare(&self, next: &Addition, op: &ValidOp, keys: &[EntityKey], knows_superseded: bool) -> Comparison {
        let mut conflict = None;
        let mut unknown = Vec::new();
        if op.op_type.is_full_state() {
            return Comparison { conflict, dominates: false, unknown };
        }
        let entities = with_aliases(op, keys);
        let mut dominates = !entities.is_empty();
        for (key, alias) in entities {
            let mut newest: Option<Head<'_>> = None;
            for key in std::iter::once(key).chain(alias) {
                match self.head(next, &key) {
                    Some(Some(head)) if newest.is_none_or(|n| head.seq() > n.seq()) => newest = Some(head),
                    Some(_) => {}
                    None => unknown.push(key),
                }
            }
            let Some(prior) = newest else { continue };
            let order = prior.compared_with(&op.vector_clock);
            dominates &= order == ClockOrdering::Greater;
            let Some(code) = conflict_code(op, &prior, order, knows_superseded) else { continue };
            // The first one counts.
            conflict.get_or_insert_with(|| {
                let mut rejection = Rejection::new(code, conflict_text(code));
                rejection.existing_clock = Some(prior.clock());
                rejection
            });
        }
        Comparison { conflict, dominates, unknown }
    }

    fn head<'b>(&'b self, next: &'b Addition, key: &EntityKey) -> Option<Option<Head<'b>>> {
        if let Some(head) = next.heads.get(key).or_else(|| self.sum.heads.get(key)) {
            return Some(Some(Head::Planned(head)));
        }
        if self.sum.new_data_set {
            return Some(None);
        }
        if let Some(head) = self.facts.heads.get(key) {
            return Some(head.as_ref().map(Head::Planned));
        }
        self.state.heads.peek(key)
    }
}

fn all_rejected(upload: &CheckedUpload, rejection: impl Fn(bool) -> Rejection) -> Vec<OpResult> {
    let result = |op: &CheckedOp| OpResult { op_id: op.op_id.clone(), outcome: Err(rejection(op.is_repair)) };
    upload.ops.iter().map(result).collect()
}

fn duplicate(stored: &StoredOp, op: &ValidOp) -> Rejection {
    if identity::same_operation(stored, op) { validate::duplicate_operation() } else { validate::id_taken() }
}

/// For each entity whose latest operation an operation is compared with, the key under which that stands, and a second
/// one under which it may stand (section 5.8, with the alias for settings that moved from `misc` to `tasks`). `keys` are
/// [`entity_keys`] of the operation.
fn with_aliases(op: &ValidOp, keys: &[EntityKey]) -> SmallVec<[(EntityKey, Option<EntityKey>); 2]> {
    let mut entities: SmallVec<_> = keys.iter().map(|key| (*key, None)).collect();
    if op.entity_type != "GLOBAL_CONFIG" {
        return entities;
    }
    let tasks = EntityKey::new(op.entity_type, "tasks");
    if op.schema_version < 2 && keys.contains(&EntityKey::new(op.entity_type, "misc")) && !keys.contains(&tasks) {
        entities.push((tasks, None));
    }
    for (key, alias) in &mut entities {
        if *key == tasks {
            *alias = Some(EntityKey::new(LEGACY_MISC, "misc"));
        }
    }
    entities
}

fn conflict_code(op: &ValidOp, prior: &Head<'_>, order: ClockOrdering, knows_superseded: bool) -> Option<ErrorCode> {
    match order {
        ClockOrdering::Greater => None,
        ClockOrdering::Equal if prior.client_id() == &*op.client_id => None,
        ClockOrdering::Concurrent if op.is_time_delta() && prior.is_time_delta() => None,
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
