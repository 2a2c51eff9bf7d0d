//! Making and giving up room (contract, sections 8.4, 11.2, 11.3, 17.5).

use super::Draft;
use super::addition::Addition;
use crate::engine::retention::{EXPIRED_AT, Prefix};
use crate::engine::user::work::Answer;
use crate::engine::{CleanupStats, QuotaExceeded};
use crate::store::{ArchiveReason, SnapshotBlob, SnapshotChange, SnapshotMeta};

impl Draft<'_> {
    /// Checks the quota; when it is exceeded recounts, then gives up superseded operations, as few as do (sections
    /// 11.2, 11.3, 17.5).
    pub(super) fn make_room(&mut self, next: &mut Addition) -> Result<(), QuotaExceeded> {
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
                    next.prune(step.prune_to, step.freed_bytes, ArchiveReason::Superseded, self.now_ms);
                    return Ok(());
                }
            }
        }
        Err(QuotaExceeded { used_bytes: self.sum.sync.storage_used_bytes, quota_bytes, cleanup: stats })
    }

    /// Starts a new, empty data set (`DELETE /api/sync/data`).
    pub(super) fn wipe(&mut self) -> Answer {
        let mut next = Addition::on(self.sum.sync.clone());
        next.start_data_set(ArchiveReason::Wipe, self.now_ms);
        self.sum.absorb(next);
        Answer::Done(true)
    }

    /// Retention: gives up a superseded prefix. A new data set, and whatever else takes operations away, moves the
    /// beginning; as long as that is where it was, the full state that supersedes the prefix is still there.
    pub(super) fn retire(&mut self, prefix: &Prefix) -> Answer {
        let Prefix { after, full_state_seq, bytes, .. } = *prefix;
        let sync = &self.sum.sync;
        let valid = sync.full_state.as_ref().is_some_and(|mark| mark.seq >= full_state_seq)
            && sync.pruned_seq == after
            && after < full_state_seq - 1;
        if !valid {
            return Answer::Done(false);
        }
        // The rows are deleted by the one routine that deletes.
        self.sum.prune(full_state_seq - 1, bytes, ArchiveReason::Expired, EXPIRED_AT);
        Answer::Done(true)
    }

    /// Keeps a rebuilt state, unless the log has moved to another data set, a newer one is kept, or there is no room.
    pub(super) fn keep_state(&mut self, generation: i64, meta: SnapshotMeta, blob: &SnapshotBlob) -> Answer {
        let sync = &mut self.sum.sync;
        let known = sync.snapshot.map_or((0, 0), |old| (old.seq, old.bytes));
        let used = sync.storage_used_bytes - known.1 + meta.bytes;
        let fits = used <= self.state.account.storage_quota_bytes;
        if generation != sync.generation || known.0 >= meta.seq || meta.seq > sync.last_seq || !fits {
            return Answer::Done(false);
        }
        sync.snapshot = Some(meta);
        sync.storage_used_bytes = used;
        self.sum.snapshot = SnapshotChange::Set(blob.clone());
        self.sum.changed = true;
        Answer::Done(true)
    }
}
