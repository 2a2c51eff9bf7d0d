//! Uploads of full states (contract, section 7).

use super::addition::{Addition, entity_keys};
use super::{Draft, NoRoom, request_key};
use crate::engine::user::requests::{Remembered, RequestKey};
use crate::engine::user::work::Answer;
use crate::engine::{QuotaExceeded, SnapshotReply};
use crate::protocol::request::SnapshotReason;
use crate::protocol::response::Rejection;
use crate::protocol::validate::CheckedSnapshot;
use crate::protocol::{ErrorCode, OpType, StoredOp, identity, validate};
use crate::replay::CURRENT_SCHEMA_VERSION;
use crate::store::{ArchiveReason, SnapshotMeta};

/// Whether devices could not go on from an encrypted full state with this: a repair that they would meet after it, or a
/// state that says it is encrypted and is not. Anything else that is not encrypted takes its place and so turns encryption
/// off (section 17.18).
fn breaks_encryption(snapshot: &CheckedSnapshot) -> bool {
    let claims = snapshot.op.as_ref().is_ok_and(|op| op.is_payload_encrypted);
    snapshot.is_plain && !snapshot.clean_slate && (snapshot.legacy_repair || claims)
}

impl Draft<'_> {
    pub(super) fn snapshot(&mut self, snapshot: &CheckedSnapshot) -> Answer {
        if breaks_encryption(snapshot) && self.is_encrypted() == Some(true) {
            return Answer::EncryptionRequired;
        }
        let reply = self.snapshot_reply(snapshot);
        match reply {
            Ok(reply) => Answer::Snapshot(reply),
            Err(no_room) => no_room.into(),
        }
    }

    /// Section 7.2. Every snapshot with an op id is idempotent by that id, also beyond the life of the request cache
    /// (section 17.7).
    fn snapshot_reply(&mut self, snapshot: &CheckedSnapshot) -> Result<SnapshotReply, NoRoom> {
        let pending = SnapshotReply::Accepted { seq: 0, clean_slate: false };
        let key = request_key(snapshot.request_id.as_ref(), snapshot.fingerprint, true);
        if let Some(Remembered::Snapshot(reply)) = key.as_ref().and_then(|key| self.remembered(key)) {
            return Ok(reply);
        }
        let is_first = snapshot.reason == SnapshotReason::Initial && !snapshot.clean_slate;
        if is_first {
            let Some(found) = self.newest_full_state(snapshot) else { return Ok(pending) };
            if let Some(reply) = found {
                return Ok(reply);
            }
        }
        let op = match &snapshot.op {
            Ok(op) => op,
            Err(rejection) => {
                return Ok(self.remember(key.as_ref(), SnapshotReply::Rejected(rejection.clone())));
            }
        };
        if snapshot.op_id_given {
            let Some(found) = self.stored(&op.id) else { return Ok(pending) };
            if let Some(stored) = found {
                let reply = if stored.op_type.is_full_state() && identity::same_operation_ignoring_time(&stored, op) {
                    SnapshotReply::Accepted { seq: stored.server_seq, clean_slate: false }
                } else {
                    SnapshotReply::Rejected(validate::id_taken())
                };
                return Ok(self.remember(key.as_ref(), reply));
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
            match self.archive_takes() {
                Some(true) => {}
                Some(false) => return Err(NoRoom::Busy),
                None => return Ok(pending),
            }
            next.start_data_set(ArchiveReason::CleanSlate, self.now_ms);
        }
        let seq = next.accept(op, &entity_keys(op), self.now_ms);
        if snapshot.clean_slate {
            let bytes = next.sync.storage_used_bytes;
            if bytes > self.state.account.storage_quota_bytes {
                return Err(QuotaExceeded {
                    used_bytes: 0,
                    quota_bytes: self.state.account.storage_quota_bytes,
                    cleanup: None,
                }
                .into());
            }
        } else {
            self.make_room(&mut next)?;
            if !self.needs.is_empty() {
                return Ok(pending);
            }
        }
        if !op.is_payload_encrypted && !snapshot.legacy_repair && op.schema_version <= CURRENT_SCHEMA_VERSION {
            // The operation itself is the state at its sequence: restores start from its row, so no second copy is
            // stored or charged.
            next.drop_snapshot();
            next.sync.snapshot = Some(SnapshotMeta { seq, at: self.now_ms, bytes: 0 });
        }
        next.touch(&op.client_id, self.now_ms);
        next.changed = true;
        next.authors.push(op.client_id.clone());
        self.sum.absorb(next);
        Ok(self.remember(key.as_ref(), SnapshotReply::Accepted { seq, clean_slate: snapshot.clean_slate }))
    }

    /// Keeps an answer for a retry that carries the same request id.
    fn remember(&mut self, key: Option<&RequestKey>, reply: SnapshotReply) -> SnapshotReply {
        if let Some(key) = key {
            // A remembered answer must not announce a clean slate a second time.
            let kept = match &reply {
                SnapshotReply::Accepted { seq, .. } => SnapshotReply::Accepted { seq: *seq, clean_slate: false },
                other => other.clone(),
            };
            self.sum.answers.push((*key, Remembered::Snapshot(kept)));
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
            None => {
                let Some(row) = &self.facts.newest_full_state else {
                    self.needs.newest_full_state = true;
                    return None;
                };
                row.as_ref().map(|row| row.id.as_str().into())
            }
        };
        let Some(existing_import_id) = newest else { return Some(None) };
        if snapshot.op_id_given {
            let own = self.stored(&snapshot.op_id)?;
            if let Some(own) = own.filter(|own| own.op_type.is_full_state()) {
                return Some(Some(SnapshotReply::Accepted { seq: own.server_seq, clean_slate: false }));
            }
        }
        Some(Some(SnapshotReply::ImportExists { existing_import_id: existing_import_id.to_string() }))
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
}
