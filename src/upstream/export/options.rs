//! What is wanted of an export, and what is known beside the data.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::protocol::{Seq, UserId};
use crate::upstream::import::log_digest;

/// What is wanted of an export.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
pub struct Options {
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
    /// Go on even if others work on the target.
    pub force: bool,
    /// Where the target has operations that this server never had, they give way.
    pub overwrite: bool,
    /// Delete the target's accounts that were deleted here.
    pub delete_missing: bool,
    /// Values that JSONB can't hold are replaced.
    pub replace: bool,
    /// What was taken over from the old server, by account, if that is known.
    pub taken: Option<HashMap<UserId, Taken>>,
    /// Read back what was written before it is committed.
    pub verify: bool,
}

impl Options {
    /// What was taken over of an account, if that is known.
    pub(super) fn taken_of(&self, user: UserId) -> Option<&Taken> {
        self.taken.as_ref().and_then(|taken| taken.get(&user))
    }
}

/// What was taken over of an account.
#[derive(Clone, Debug)]
pub struct Taken {
    /// When, Unix milliseconds, before the source was read. `None`: not to its end.
    pub at: Option<i64>,
    /// The first sequence that the source had, 0 if it had none.
    pub first_seq: Seq,
    /// The last one.
    pub last_seq: Seq,
    /// How many operations the source had,
    pub op_count: i64,
    /// and a digest of them.
    pub digest: String,
}

impl Taken {
    /// Whether the target's log of this account is what was taken over.
    pub(super) async fn is_still(&self, connection: &mut PgConnection, user: i32) -> sqlx::Result<bool> {
        let as_taken = Some((self.op_count, self.digest.clone()));
        Ok(log_digest(connection, user).await? == as_taken)
    }
}
