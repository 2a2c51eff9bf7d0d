//! An account's operations: what the target has beyond ours goes, what it lacks is written.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::PgConnection;

use super::error::{ExportError, Stop, Unstorable, WENT_ON};
use super::known::Newest;
use super::options::Options;
use super::report::Counts;
use super::rows::{self, Fingerprint};
use super::source::Reading;
use crate::protocol::{Seq, StoredOp};

/// The old server restores nothing that lies further from the beginning of the numbers, or from a state that it has cached.
const RESTORABLE: Seq = 100_000;

/// Brings the target's operations of an account to ours. Returns what should stand there now, if it is going to be
/// verified, and whether there is a restore point that is too far from the beginning for the old server.
pub(super) async fn write(
    tx: &mut PgConnection,
    user: i32,
    reading: &mut Reading,
    options: &Options,
    counts: &mut Counts,
    progress: &AtomicU64,
) -> Result<(Fingerprint, bool), Stop> {
    let Reading { account, archived, operations } = reading;
    let last: Option<i32> = sqlx::query_scalar("SELECT max(server_seq) FROM operations WHERE user_id = $1")
        .bind(user)
        .fetch_one(&mut *tx)
        .await?;
    let last = last.map_or(0, Seq::from);
    let mut newest = None;
    if last > 0 && last <= account.pruned_seq && !options.overwrite {
        newest = Some(Newest::read(tx, user, last, account, archived, options.taken_of(account.id)).await?);
    }
    // Their readers need not wait.
    archived.close();
    // Pruned, wiped, or before a clean slate.
    counts.operations.removed += delete(tx, user, 0, account.pruned_seq).await?;
    let last = if last > account.pruned_seq { last } else { 0 };
    let mut theirs = Theirs { tx, user, last, options, fingerprint: Fingerprint::default() };
    let mut seen = account.pruned_seq;
    let (mut unstorable, mut is_beyond_restoring) = (Unstorable::default(), false);
    let restorable = account.kept_snapshot().unwrap_or(0) + RESTORABLE;
    while let Some(batch) = operations.recv().await.ok_or(ExportError::Crashed)? {
        let Some(last) = batch.last().map(|op| op.server_seq) else { continue };
        progress.fetch_add(u64::try_from(batch.len()).unwrap_or(0), Ordering::Relaxed);
        if let Some(newest) = &mut newest {
            newest.look_for(&batch);
        }
        is_beyond_restoring |=
            batch.iter().any(|op| op.server_seq > restorable && op.is_causal_full_state() && !op.is_payload_encrypted);
        let new = theirs.compare(seen, &batch, counts).await?;
        for op in &new {
            match rows::fault(op)? {
                Some((_, true)) if options.replace => counts.lost.values += 1,
                Some((what, can_be_replaced)) => unstorable.add(op.server_seq, what, can_be_replaced),
                None => {}
            }
        }
        seen = last;
        if unstorable.verify().is_err() {
            // Nothing of it will be written, but everything that is in the way is told.
            continue;
        }
        theirs.check_ids(&new).await?;
        counts.operations.added += u64::try_from(new.len()).unwrap_or(0);
        if !options.dry_run {
            rows::copy(theirs.tx, user, &new).await?;
        }
    }
    if let Some(newest) = newest {
        newest.verify()?;
    }
    if theirs.last > seen {
        counts.operations.removed += theirs.give_up_from(seen + 1).await?;
    }
    unstorable.verify()?;
    Ok((theirs.fingerprint, is_beyond_restoring))
}

/// Deletes operations with `after < seq ≤ up_to`.
async fn delete(tx: &mut PgConnection, user: i32, after: Seq, up_to: Seq) -> Result<u64, Stop> {
    if after >= up_to {
        return Ok(0);
    }
    let sql = "DELETE FROM operations WHERE user_id = $1 AND server_seq > $2 AND server_seq <= $3";
    Ok(sqlx::query(sql).bind(user).bind(after).bind(up_to).execute(tx).await?.rows_affected())
}

/// What the target holds of the account.
struct Theirs<'a> {
    tx: &'a mut PgConnection,
    user: i32,
    /// Its last operation, 0 if there is none.
    last: Seq,
    options: &'a Options,
    /// Of what should stand there.
    fingerprint: Fingerprint,
}

impl Theirs<'_> {
    /// Finds out which operations the target lacks. What it has between them is given up like what it has beyond them.
    async fn compare<'b>(
        &mut self,
        after: Seq,
        batch: &'b [StoredOp],
        counts: &mut Counts,
    ) -> Result<Vec<&'b StoredOp>, Stop> {
        let up_to = batch.last().map_or(after, |op| op.server_seq);
        let known: Vec<(i32, String)> = if self.last > after {
            let sql = "SELECT server_seq, id FROM operations WHERE user_id = $1 AND server_seq > $2 AND server_seq <= $3 \
                       ORDER BY server_seq";
            sqlx::query_as(sql).bind(self.user).bind(after).bind(up_to).fetch_all(&mut *self.tx).await?
        } else {
            Vec::new()
        };
        let mut known = known.into_iter().peekable();
        let mut new = Vec::new();
        for op in batch {
            if self.options.verify {
                self.fingerprint.add(op)?;
            }
            if let Some((seq, _)) = known.next_if(|(seq, id)| {
                Seq::from(*seq) < op.server_seq || (Seq::from(*seq) == op.server_seq && *id != *op.id)
            }) {
                counts.operations.removed += self.give_up_from(seq.into()).await?;
                known = Vec::new().into_iter().peekable();
            }
            match known.next_if(|(seq, _)| Seq::from(*seq) == op.server_seq) {
                Some(_) => counts.operations.kept += 1,
                None => new.push(op),
            }
        }
        Ok(new)
    }

    /// From here on the target went its own way.
    async fn give_up_from(&mut self, seq: Seq) -> Result<u64, Stop> {
        if !self.options.overwrite {
            return Err(format!("the target's operation {seq} is none that this server has: {WENT_ON}").into());
        }
        self.last = seq - 1;
        delete(self.tx, self.user, seq - 1, i32::MAX.into()).await
    }

    /// The old server has one space of ids for all accounts.
    async fn check_ids(&mut self, new: &[&StoredOp]) -> Result<(), Stop> {
        if new.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = new.iter().map(|op| &*op.id).collect();
        let held: Option<(String, i32)> =
            sqlx::query_as("SELECT id, user_id FROM operations WHERE id = ANY($1) LIMIT 1")
                .bind(ids)
                .fetch_optional(&mut *self.tx)
                .await?;
        let Some((id, holder)) = held else { return Ok(()) };
        let seq = new.iter().find(|op| *op.id == *id).map_or(0, |op| op.server_seq);
        let holder = if holder == self.user {
            "another operation of the same account".to_owned()
        } else {
            format!("account {holder}: the old server can't store an id twice")
        };
        Err(format!("its operation {seq} has the id {id}, which in the target belongs to {holder}").into())
    }
}
