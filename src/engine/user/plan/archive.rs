//! The archive's bound: what comes to it makes the oldest go.

use super::Draft;
use crate::engine::archive::bound::{beyond_limit, due_bytes, given_up, is_kept};
use crate::store::ArchivedRange;

impl Draft<'_> {
    /// Whether something may leave the data set now: not while more waits to be deleted than the account may store.
    /// `None`: facts are missing.
    pub(super) fn archive_takes(&mut self) -> Option<bool> {
        let Some(archive) = &self.facts.archive else {
            self.needs.archive = true;
            return None;
        };
        Some(due_bytes(&archive.ranges) <= self.state.account.storage_quota_bytes)
    }

    /// Gives up the oldest of the archive, if what comes to it makes it too large.
    pub(super) fn keep_archive_small(&mut self) {
        if !self.sum.archived.iter().any(|range| is_kept(range.reason)) {
            return;
        }
        let Some(archive) = &self.facts.archive else {
            self.needs.archive = true;
            return;
        };
        let limit = archive.limit(self.state.account.storage_quota_bytes);
        // What is brought back by this commit is due anyway.
        let brought_back = self.sum.adoption.map(|adoption| adoption.source_from);
        let stored = archive.ranges.iter().filter(|range| Some(range.from_seq) != brought_back);
        let all: Vec<ArchivedRange> = stored.chain(&self.sum.archived).cloned().collect();
        let gone = beyond_limit(&all, limit);
        self.reclaim = !gone.is_empty() || brought_back.is_some();
        let new = self.sum.archived.iter().map(|range| range.from_seq).collect::<Vec<_>>();
        for range in &mut self.sum.archived {
            if gone.contains(&range.from_seq) {
                *range = given_up(range);
            }
        }
        let old = all.iter().filter(|range| gone.contains(&range.from_seq) && !new.contains(&range.from_seq));
        self.sum.archived.extend(old.map(given_up));
    }
}
