//! Making and giving up room (contract, sections 8.4, 11.2, 11.3, 17.5).

use super::Draft;
use super::NoRoom;
use super::addition::Addition;
use crate::engine::retention::{EXPIRED_AT, Prefix};
use crate::engine::user::work::Answer;
use crate::engine::{CleanupStats, QuotaExceeded};
use crate::store::{ArchiveReason, SnapshotBlob, SnapshotChange, SnapshotMeta};

/// Whatever an operation's size, its row takes about three times as many bytes. So an account may store one for so many
/// bytes of its quota; those of the app are larger, encrypted ones by far.
const BYTES_PER_OPERATION: i64 = 100;
/// However small its quota, an account may store so many.
const FEW_OPERATIONS: i64 = 10_000;

/// What an account may store.
#[derive(Clone, Copy)]
struct Room {
    bytes: i64,
    operations: i64,
}

impl Room {
    fn of(quota_bytes: i64) -> Self {
        Self { bytes: quota_bytes, operations: (quota_bytes / BYTES_PER_OPERATION).max(FEW_OPERATIONS) }
    }

    const fn fits(self, bytes: i64, operations: i64) -> bool {
        bytes <= self.bytes && operations <= self.operations
    }
}

impl Draft<'_> {
    /// Checks the quota; when it is exceeded recounts, then gives up superseded operations, as few as do (sections
    /// 11.2, 11.3, 17.5).
    pub(super) fn make_room(&mut self, next: &mut Addition) -> Result<(), NoRoom> {
        let quota_bytes = self.state.account.storage_quota_bytes;
        let room = Room::of(quota_bytes);
        let operations = next.sync.last_seq - next.sync.pruned_seq;
        if room.fits(next.sync.storage_used_bytes, operations) {
            return Ok(());
        }
        let before = &self.state.account.sync;
        let mut stats = None;
        if next.sync.generation == before.generation {
            let Some(stored) = self.facts.recount else {
                self.needs.recount = true;
                return Ok(());
            };
            let operations = stored.operations + next.sync.last_seq - before.last_seq;
            let counted = stored.bytes + (next.sync.storage_used_bytes - before.storage_used_bytes);
            if room.fits(counted, operations) {
                next.sync.storage_used_bytes = counted;
                return Ok(());
            }
            stats = Some(CleanupStats::default());
            if next.sync.pruned_seq == before.pruned_seq {
                let Some(steps) = &self.facts.cleanup else {
                    self.needs.cleanup = true;
                    return Ok(());
                };
                if let Some(step) =
                    steps.iter().find(|step| room.fits(counted - step.freed_bytes, operations - step.deleted_ops))
                {
                    match self.archive_takes() {
                        Some(true) => {}
                        Some(false) => return Err(NoRoom::Busy),
                        None => return Ok(()),
                    }
                    next.sync.storage_used_bytes = counted;
                    next.prune(step.prune_to, step.freed_bytes, ArchiveReason::Superseded, self.now_ms);
                    return Ok(());
                }
            }
        }
        Err(QuotaExceeded { used_bytes: self.sum.sync.storage_used_bytes, quota_bytes, cleanup: stats }.into())
    }

    /// Starts a new, empty data set (`DELETE /api/sync/data`).
    pub(super) fn wipe(&mut self) -> Answer {
        match self.archive_takes() {
            Some(true) => {}
            Some(false) => return Answer::Busy,
            None => return Answer::Done(false),
        }
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
