//! Whether what the target holds of an account was here. What the old server acknowledged after the take-over was not, and
//! must not be given up unasked.
//!
//! The old server appends to a log, or begins a new one after a wipe. So if the newest operation there was ours, everything
//! before it was.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::PgConnection;
use tokio::sync::mpsc;

use super::error::Stop;
use super::options::Taken;
use super::source::Account;
use crate::protocol::json::digest::json_digest;
use crate::protocol::{ClockOrdering, Seq, StoredOp, VectorClock};
use crate::upstream::import::operations_at_head;

/// The target's newest operation of an account whose data set here begins after it.
pub(super) struct Newest {
    seq: Seq,
    /// `None`: it is unreadable.
    op: Option<StoredOp>,
    was_here: bool,
}

impl Newest {
    /// Reads it, and compares it with what is known beside the data set. `archived`: the operations here that have left
    /// that.
    pub(super) async fn read(
        tx: &mut PgConnection,
        user: i32,
        seq: Seq,
        account: &Account,
        archived: &mut mpsc::Receiver<Vec<(Seq, Arc<str>)>>,
        taken: Option<&Taken>,
    ) -> Result<Self, Stop> {
        let ops = operations_at_head(tx, &format!("user_id = {user} AND server_seq = {seq}")).await?;
        let op = ops.try_collect::<Vec<_>>().await?.pop().and_then(Result::ok);
        let mut newest = Self { seq, op, was_here: false };
        let is_ours = if let Some(id) = archived_id(archived, seq).await {
            Some(newest.op.as_ref().is_some_and(|op| op.id == id))
        } else if let Some(taken) = taken.filter(|taken| seq <= taken.last_seq) {
            // Nothing was added or removed since.
            Some(seq >= taken.first_seq && taken.is_still(tx, user).await?)
        } else {
            None
        };
        newest.was_here = match is_ours {
            Some(true) => true,
            Some(false) => return Err(newest.unknown().into()),
            // Pruned here: the full state that the data set begins with has seen it, so that every device gives it up.
            None => newest.is_covered_by(account),
        };
        Ok(newest)
    }

    fn is_covered_by(&self, account: &Account) -> bool {
        let Some((_, full_state)) = &account.full_state else { return false };
        self.op.as_ref().zip(VectorClock::from_json(full_state).ok()).is_some_and(|(op, full_state)| {
            matches!(op.vector_clock.compare(&full_state), ClockOrdering::Less | ClockOrdering::Equal)
        })
    }

    /// Looks for it among operations of the data set: brought back from the archive it has another number and id.
    pub(super) fn look_for(&mut self, ops: &[StoredOp]) {
        self.was_here = self.was_here || self.op.as_ref().is_some_and(|ours| ops.iter().any(|op| are_alike(ours, op)));
    }

    /// Fails if it is not known to have been here.
    pub(super) fn verify(&self) -> Result<(), String> {
        if self.was_here { Ok(()) } else { Err(self.unknown()) }
    }

    fn unknown(&self) -> String {
        format!(
            "the target's operations up to {} are none that this server is known to have had: its numbering has started \
             again there after the take-over, or nothing is left here to compare them with. --overwrite gives them up",
            self.seq
        )
    }
}

/// The id of the operation that had this number before it left the data set, if that is known.
async fn archived_id(archived: &mut mpsc::Receiver<Vec<(Seq, Arc<str>)>>, seq: Seq) -> Option<Arc<str>> {
    let mut found = None;
    while let Some(ids) = archived.recv().await {
        found = found.or(ids.into_iter().find(|(at, _)| *at == seq).map(|(_, id)| id));
    }
    found
}

fn are_alike(one: &StoredOp, other: &StoredOp) -> bool {
    let digest = |op: &StoredOp| std::str::from_utf8(&op.payload).ok().and_then(json_digest);
    (one.timestamp, one.received_at, &one.action_type, &one.entity_id)
        == (other.timestamp, other.received_at, &other.action_type, &other.entity_id)
        && digest(one).is_some_and(|payload| digest(other) == Some(payload))
}
