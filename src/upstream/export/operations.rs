//! An account's operations: what the target has beyond ours goes, what it lacks is written.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::PgConnection;
use tokio::sync::mpsc;

use super::account::How;
use super::error::{AccountFault, ExportError, Stop};
use super::report::Operations;
use super::rows::{self, Fingerprint};
use super::source::{Account, Piece};
use crate::protocol::{Seq, StoredOp, UserId};

/// Accounts and operations as they come.
pub(super) struct Stream<'a> {
    from: mpsc::Receiver<Piece>,
    /// What came after the operations of an account.
    held: Option<Piece>,
    /// Operations that were taken.
    taken: &'a AtomicU64,
}

impl<'a> Stream<'a> {
    pub(super) const fn new(from: mpsc::Receiver<Piece>, taken: &'a AtomicU64) -> Self {
        Self { from, held: None, taken }
    }

    /// The next account, whose operations follow. Those of the one before that were not taken are left out.
    pub(super) async fn account(&mut self) -> Result<Option<Box<Account>>, ExportError> {
        while self.operations().await?.is_some() {}
        match self.held.take() {
            Some(Piece::Account(account)) => Ok(Some(account)),
            Some(Piece::End) => Ok(None),
            // The other side says why.
            _ => Err(ExportError::Crashed),
        }
    }

    /// Some operations of the account.
    async fn operations(&mut self) -> Result<Option<Vec<StoredOp>>, ExportError> {
        if self.held.is_some() {
            return Ok(None);
        }
        match self.from.recv().await {
            Some(Piece::Operations(ops)) => {
                self.taken.fetch_add(u64::try_from(ops.len()).unwrap_or(0), Ordering::Relaxed);
                Ok(Some(ops))
            }
            Some(other) => {
                self.held = Some(other);
                Ok(None)
            }
            None => Err(ExportError::Crashed),
        }
    }
}

/// Brings the target's operations of an account to ours. Returns what was done and, if it is going to be verified, what
/// should stand there now.
pub(super) async fn write(
    tx: &mut PgConnection,
    user: i32,
    account: &Account,
    ops: &mut Stream<'_>,
    how: How,
) -> Result<(Operations, Fingerprint), Stop> {
    let (mut done, mut ours) = (Operations::default(), Fingerprint::default());
    // Pruned, wiped, or before a clean slate.
    done.removed += delete(tx, user, 0, account.pruned_seq).await?;
    let last: Option<i32> = sqlx::query_scalar("SELECT max(server_seq) FROM operations WHERE user_id = $1")
        .bind(user)
        .fetch_one(&mut *tx)
        .await?;
    let mut theirs = Theirs { tx, user, last: last.map_or(0, Seq::from), how };
    let mut seen = account.pruned_seq;
    while let Some(batch) = ops.operations().await? {
        let Some(last) = batch.last().map(|op| op.server_seq) else { continue };
        let new = theirs.compare(seen, &batch, &mut ours, &mut done).await?;
        for op in &new {
            rows::check(op)?;
        }
        theirs.check_ids(&new).await?;
        done.added += u64::try_from(new.len()).unwrap_or(0);
        if !how.dry_run {
            rows::copy(theirs.tx, user, &new).await?;
        }
        seen = last;
    }
    if theirs.last > seen {
        done.removed += theirs.give_up_from(seen + 1).await?;
    }
    Ok((done, ours))
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
    how: How,
}

impl Theirs<'_> {
    /// Finds out which operations the target lacks, and deletes those between them that we lack.
    async fn compare<'b>(
        &mut self,
        after: Seq,
        batch: &'b [StoredOp],
        ours: &mut Fingerprint,
        done: &mut Operations,
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
        let (mut new, mut gone) = (Vec::new(), Vec::new());
        for op in batch {
            if self.how.verify {
                ours.add(op)?;
            }
            while let Some((seq, _)) = known.next_if(|(seq, _)| Seq::from(*seq) < op.server_seq) {
                gone.push(seq);
            }
            match known.next_if(|(seq, _)| Seq::from(*seq) == op.server_seq) {
                Some((_, id)) if id == *op.id => done.kept += 1,
                Some(_) => {
                    done.removed += self.give_up_from(op.server_seq).await?;
                    known = Vec::new().into_iter().peekable();
                    new.push(op);
                }
                None => new.push(op),
            }
        }
        gone.extend(known.map(|(seq, _)| seq));
        if !gone.is_empty() {
            let sql = "DELETE FROM operations WHERE user_id = $1 AND server_seq = ANY($2)";
            done.removed += sqlx::query(sql).bind(self.user).bind(gone).execute(&mut *self.tx).await?.rows_affected();
        }
        Ok(new)
    }

    /// From here on the target went its own way.
    async fn give_up_from(&mut self, seq: Seq) -> Result<u64, Stop> {
        if !self.how.overwrite {
            return Err(AccountFault::Diverged { seq }.into());
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
        let holder = (holder != self.user).then_some(UserId::from(holder));
        Err(AccountFault::Collision { seq, id, holder }.into())
    }
}
