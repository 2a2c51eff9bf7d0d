//! Sealing: operations that have been packed change places, and nothing else.

use super::Draft;
use crate::engine::user::work::{Answer, Sealing};

impl Draft<'_> {
    /// Stores the segments in place of what holds their operations, unless somebody else has sealed, pruned or replaced what they hold.
    pub(super) fn seal(&mut self, sealing: &Sealing) -> Answer {
        let Sealing { generation, after, up_to, segments } = sealing;
        let sync = &mut self.sum.sync;
        let fits = sync.generation == *generation
            && sync.sealed_seq.max(sync.pruned_seq) == *after
            && after < up_to
            && *up_to <= sync.last_seq
            && segments.iter().all(|segment| segment.first_seq > sync.pruned_seq)
            && segments.iter().all(|segment| segment.last_seq > *after && segment.last_seq <= *up_to);
        if !fits {
            return Answer::Done(false);
        }
        sync.sealed_seq = *up_to;
        let highest = segments.iter().map(|segment| &segment.max_op_id).chain(&sync.sealed_max_op_id).max().cloned();
        sync.sealed_max_op_id = highest;
        self.sum.seal.extend(segments.iter().cloned());
        self.sum.changed = true;
        Answer::Done(true)
    }
}
