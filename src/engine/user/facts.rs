//! What planning may have to know beyond the account's state, and what it turns out to lack.

use foldhash::HashMap;

use crate::engine::archive::bound::archive_limit;
use crate::protocol::{Seq, StoredOp};
use crate::store::{ArchivedRange, EntityHead, EntityKey, FullStateRow};

/// One way to make room: give up everything up to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupStep {
    /// Operations up to here go.
    pub prune_to: Seq,
    /// Bytes that this frees in all.
    pub freed_bytes: i64,
    /// Operations that go in all.
    pub deleted_ops: i64,
    /// Restore points among them.
    pub deleted_restore_points: i64,
}

/// What an account stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes charged, those of the cached state included.
    pub bytes: i64,
    /// Operations.
    pub operations: i64,
}

/// What an account's archive holds.
#[derive(Clone, Debug)]
pub struct ArchiveFacts {
    /// All of it.
    pub ranges: Vec<ArchivedRange>,
    /// How much it may keep, in hundredths of the quota.
    pub percent: u32,
}

impl ArchiveFacts {
    /// How much it may keep, in bytes.
    #[must_use]
    pub fn limit(&self, quota_bytes: i64) -> i64 {
        archive_limit(quota_bytes, self.percent)
    }
}

/// Looked up for one batch, all at the revision of the state that it is planned on.
#[derive(Debug, Default)]
pub struct Facts {
    /// Stored heads of entities that have no newer one; `None` = there is none.
    pub heads: HashMap<EntityKey, Option<EntityHead>>,
    /// Operations by id; `None` = there is none.
    pub ids: HashMap<String, Option<StoredOp>>,
    /// No id may be assumed to be new any more: a commit failed on one.
    pub distrust_ids: bool,
    /// No entity may be assumed to be new any more: a commit was refused that may have rested on that.
    pub distrust_heads: bool,
    /// The newest full state of any kind; `Some(None)` = there is none.
    pub newest_full_state: Option<Option<FullStateRow>>,
    /// Where the newest causal full state lies, and whether it is encrypted.
    pub encryption: Option<(Seq, bool)>,
    /// The quota has been read again for this batch.
    pub quota_checked: bool,
    /// What is stored and charged, counted from the rows.
    pub recount: Option<Stored>,
    /// Ways to make room, smallest first.
    pub cleanup: Option<Vec<CleanupStep>>,
    /// What the archive holds. Ranges may have been deleted meanwhile.
    pub archive: Option<ArchiveFacts>,
}

/// Facts that a plan lacks. Planning goes on where it can, so that one round trip fetches them all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "kinds of facts, each needed or not")]
pub struct Needs {
    /// No head is known: load what there is, as far as it is little. Then plan again.
    pub load_heads: bool,
    /// Heads to look up.
    pub heads: Vec<EntityKey>,
    /// Ids to look up.
    pub ids: Vec<String>,
    /// [`Facts::newest_full_state`].
    pub newest_full_state: bool,
    /// [`Facts::encryption`].
    pub encryption: bool,
    /// [`Facts::recount`].
    pub recount: bool,
    /// [`Facts::cleanup`].
    pub cleanup: bool,
    /// [`Facts::archive`].
    pub archive: bool,
}

impl Needs {
    /// Whether nothing is lacking.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.load_heads
            && self.heads.is_empty()
            && self.ids.is_empty()
            && !self.newest_full_state
            && !self.encryption
            && !self.recount
            && !self.cleanup
            && !self.archive
    }
}
