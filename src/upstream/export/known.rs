//! Whether what the target holds of an account was here. What the old server acknowledged after the take-over was not, and
//! must not be given up unasked.
//!
//! The old server appends to a log, or begins a new one after a wipe. So if the newest operation there was ours, everything
//! before it was.

use sqlx::{PgConnection, Row as _};

use super::error::{AccountFault, Stop};
use super::source::Account;
use crate::protocol::json::digest::json_digest;
use crate::protocol::{ClockOrdering, Seq, StoredOp, VectorClock};
use crate::upstream::import::log_digest;

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

/// The target's newest operation of an account whose data set here begins after it.
pub(super) struct Newest {
    seq: Seq,
    id: String,
    clock: Option<VectorClock>,
    timestamp: i64,
    received_at: i64,
    action_type: String,
    entity_id: Option<String>,
    payload: Option<[u8; 32]>,
    was_here: bool,
}

impl Newest {
    /// Reads it.
    pub(super) async fn read(tx: &mut PgConnection, user: i32, seq: Seq) -> Result<Self, Stop> {
        let sql = "SELECT id, vector_clock::text, client_timestamp, received_at, action_type, entity_id, payload::text \
                   FROM operations WHERE user_id = $1 AND server_seq = $2";
        let row = sqlx::query(sql).bind(user).bind(seq).fetch_one(tx).await?;
        Ok(Self {
            seq,
            id: row.try_get(0)?,
            clock: VectorClock::from_json(row.try_get(1)?).ok(),
            timestamp: row.try_get(2)?,
            received_at: row.try_get(3)?,
            action_type: row.try_get(4)?,
            entity_id: row.try_get(5)?,
            payload: json_digest(row.try_get(6)?),
            was_here: false,
        })
    }

    /// Compares it with what is known beside the data set. `archived`: which operation had its number here, if that is
    /// still stored.
    pub(super) async fn compare(
        &mut self,
        tx: &mut PgConnection,
        user: i32,
        account: &Account,
        archived: Option<&str>,
        taken: Option<&Taken>,
    ) -> Result<(), Stop> {
        let is_ours = if let Some(id) = archived {
            Some(id == self.id)
        } else if let Some(taken) = taken.filter(|taken| self.seq <= taken.last_seq) {
            // Nothing was added or removed since.
            Some(self.seq >= taken.first_seq && taken.is_still(tx, user).await?)
        } else {
            None
        };
        self.was_here = match is_ours {
            Some(true) => true,
            Some(false) => return Err(self.unknown().into()),
            // Pruned here: the full state that the data set begins with has seen it, so that every device gives it up.
            None => self.is_covered_by(account),
        };
        Ok(())
    }

    fn is_covered_by(&self, account: &Account) -> bool {
        let Some((_, full_state)) = &account.full_state else { return false };
        self.clock.as_ref().zip(VectorClock::from_json(full_state).ok()).is_some_and(|(clock, full_state)| {
            matches!(clock.compare(&full_state), ClockOrdering::Less | ClockOrdering::Equal)
        })
    }

    /// Looks for it among operations of the data set: brought back from the archive it has another number and id.
    pub(super) fn look_for(&mut self, ops: &[StoredOp]) {
        self.was_here = self.was_here || ops.iter().any(|op| self.is_like(op));
    }

    fn is_like(&self, op: &StoredOp) -> bool {
        (op.timestamp, op.received_at) == (self.timestamp, self.received_at)
            && *op.action_type == self.action_type
            && op.entity_id.as_deref() == self.entity_id.as_deref()
            && self.payload.is_some()
            && std::str::from_utf8(&op.payload).ok().and_then(json_digest) == self.payload
    }

    /// Fails if it is not known to have been here.
    pub(super) fn verify(&self) -> Result<(), AccountFault> {
        if self.was_here { Ok(()) } else { Err(self.unknown()) }
    }

    const fn unknown(&self) -> AccountFault {
        AccountFault::Restarted { seq: self.seq }
    }
}
