//! Bringing an archived data set back: what has been staged becomes the data set, and what was the data set goes to the
//! archive.

use super::Draft;
use super::addition::Addition;
use crate::engine::QuotaExceeded;
use crate::engine::user::work::{Answer, StagedSet};
use crate::store::{Adoption, ArchiveReason};

impl Draft<'_> {
    /// Puts a staged data set in the place of the one that there is. Devices must see it before they upload: the fence
    /// stands at what they have to start from.
    pub(super) fn bring_back(&mut self, set: &StagedSet) -> Answer {
        let sync = &self.sum.sync;
        let outdated = sync.generation != set.beside_generation
            || sync.last_seq >= set.from_seq
            || (set.beside_empty && sync.last_seq != sync.base_seq);
        if outdated {
            return Answer::Done(false);
        }
        let quota_bytes = self.state.account.storage_quota_bytes;
        if set.bytes > quota_bytes {
            return Answer::Quota(QuotaExceeded { used_bytes: sync.storage_used_bytes, quota_bytes, cleanup: None });
        }
        match self.archive_takes() {
            Some(true) => {}
            Some(false) => return Answer::Busy,
            None => return Answer::Done(false),
        }
        let mut next = Addition::on(self.sum.sync.clone());
        next.start_data_set(ArchiveReason::BringBack, self.now_ms);
        // The devices are the same as before.
        next.clear_devices = false;
        let sync = &mut next.sync;
        sync.generation = set.generation;
        sync.base_seq = set.from_seq - 1;
        sync.pruned_seq = sync.base_seq;
        // The heads come with this commit and those that follow it.
        sync.heads_seq = sync.base_seq;
        sync.last_seq = set.to_seq;
        sync.sealed_seq = set.to_seq;
        sync.sealed_max_op_id.clone_from(&set.sealed_max_op_id);
        sync.sparse_up_to = set.sparse_up_to;
        sync.clock = set.clock.clone();
        sync.full_state.clone_from(&set.full_state);
        sync.replacement_seq = Some(set.full_state.as_ref().map_or(set.from_seq, |mark| mark.seq));
        sync.storage_used_bytes = set.bytes;
        next.heads.clone_from(&set.heads);
        next.adoption = Some(Adoption { staged_from: set.from_seq, source_from: set.source_from });
        // No device wrote it, so all are told.
        next.authors.push("".into());
        self.sum.absorb(next);
        Answer::Done(true)
    }
}
