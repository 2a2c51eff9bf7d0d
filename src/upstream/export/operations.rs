//! An account's operations: what the target has beyond ours goes, what it lacks is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::PgConnection;
use tokio::sync::mpsc;

use super::Options;
use super::error::{AccountFault, ExportError, Stop, Unstorable};
use super::known::Newest;
use super::report::Operations;
use super::rows::{self, Fingerprint, Storable};
use super::source::{Account, Piece};
use crate::protocol::{Seq, StoredOp, UserId};

/// The old server restores nothing that lies further from the beginning of the numbers, or from a state that it has cached.
const RESTORABLE: Seq = 100_000;

/// Accounts and operations as they come.
pub(super) struct Stream<'a> {
    from: mpsc::Receiver<Piece>,
    /// What came after what was asked for.
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

    async fn next(&mut self) -> Result<Piece, ExportError> {
        match self.held.take() {
            Some(held) => Ok(held),
            None => self.from.recv().await.ok_or(ExportError::Crashed),
        }
    }

    /// The id of the account's operation that had this number before it left the data set, if that is known. To be asked
    /// before its operations are taken.
    async fn archived_id(&mut self, seq: Seq) -> Result<Option<Arc<str>>, ExportError> {
        let mut found = None;
        loop {
            match self.next().await? {
                Piece::Archived(ids) => found = found.or(ids.into_iter().find(|(at, _)| *at == seq)),
                other => {
                    self.held = Some(other);
                    return Ok(found.map(|(_, id)| id));
                }
            }
        }
    }

    /// Some operations of the account.
    async fn operations(&mut self) -> Result<Option<Vec<StoredOp>>, ExportError> {
        loop {
            match self.next().await? {
                Piece::Operations(ops) => {
                    self.taken.fetch_add(u64::try_from(ops.len()).unwrap_or(0), Ordering::Relaxed);
                    return Ok(Some(ops));
                }
                Piece::Archived(_) => {}
                other => {
                    self.held = Some(other);
                    return Ok(None);
                }
            }
        }
    }
}

/// What was done.
#[derive(Default)]
pub(super) struct Written {
    pub(super) operations: Operations,
    /// What should stand there now, if it is going to be verified.
    pub(super) fingerprint: Fingerprint,
    /// Operations of which a value was replaced.
    pub(super) replaced: u64,
    /// Whether there is a restore point that is too far from the beginning for the old server.
    pub(super) is_beyond_restoring: bool,
}

/// Brings the target's operations of an account to ours.
pub(super) async fn write(
    tx: &mut PgConnection,
    user: i32,
    account: &Account,
    ops: &mut Stream<'_>,
    options: &Options,
) -> Result<Written, Stop> {
    let mut written = Written::default();
    let last: Option<i32> = sqlx::query_scalar("SELECT max(server_seq) FROM operations WHERE user_id = $1")
        .bind(user)
        .fetch_one(&mut *tx)
        .await?;
    let last = last.map_or(0, Seq::from);
    let mut newest = None;
    if last > 0 && last <= account.pruned_seq && !options.overwrite {
        let mut read = Newest::read(tx, user, last).await?;
        let archived = ops.archived_id(last).await?;
        read.compare(tx, user, account, archived.as_deref(), options.taken_of(account.id)).await?;
        newest = Some(read);
    }
    // Pruned, wiped, or before a clean slate.
    written.operations.removed += delete(tx, user, 0, account.pruned_seq).await?;
    let last = if last > account.pruned_seq { last } else { 0 };
    let mut theirs = Theirs { tx, user, last, options };
    let mut seen = account.pruned_seq;
    let mut unstorable = Unstorable::default();
    let restorable = account.kept_snapshot().unwrap_or(0) + RESTORABLE;
    while let Some(batch) = ops.operations().await? {
        let Some(last) = batch.last().map(|op| op.server_seq) else { continue };
        if let Some(newest) = &mut newest {
            newest.look_for(&batch);
        }
        written.is_beyond_restoring |=
            batch.iter().any(|op| op.server_seq > restorable && op.is_causal_full_state() && !op.is_payload_encrypted);
        let new = theirs.compare(seen, &batch, &mut written).await?;
        for op in &new {
            match rows::check(op)? {
                Storable::AsItIs => {}
                Storable::Replaced(_) if options.replace => written.replaced += 1,
                Storable::Replaced(what) => {
                    unstorable.can_be_replaced = true;
                    unstorable.add(op.server_seq, what);
                }
                Storable::Not(what) => unstorable.add(op.server_seq, what),
            }
        }
        seen = last;
        if unstorable.is_some() {
            // Nothing of it will be written, but everything that is in the way is told.
            continue;
        }
        theirs.check_ids(&new).await?;
        written.operations.added += u64::try_from(new.len()).unwrap_or(0);
        if !options.dry_run {
            rows::copy(theirs.tx, user, &new).await?;
        }
    }
    if let Some(newest) = newest {
        newest.verify()?;
    }
    if theirs.last > seen {
        written.operations.removed += theirs.give_up_from(seen + 1).await?;
    }
    if unstorable.is_some() { Err(AccountFault::from(unstorable).into()) } else { Ok(written) }
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
}

impl Theirs<'_> {
    /// Finds out which operations the target lacks. What it has between them is given up like what it has beyond them.
    async fn compare<'b>(
        &mut self,
        after: Seq,
        batch: &'b [StoredOp],
        written: &mut Written,
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
                written.fingerprint.add(op)?;
            }
            if let Some((seq, _)) = known.next_if(|(seq, id)| {
                Seq::from(*seq) < op.server_seq || (Seq::from(*seq) == op.server_seq && *id != *op.id)
            }) {
                written.operations.removed += self.give_up_from(seq.into()).await?;
                known = Vec::new().into_iter().peekable();
            }
            match known.next_if(|(seq, _)| Seq::from(*seq) == op.server_seq) {
                Some(_) => written.operations.kept += 1,
                None => new.push(op),
            }
        }
        Ok(new)
    }

    /// From here on the target went its own way.
    async fn give_up_from(&mut self, seq: Seq) -> Result<u64, Stop> {
        if !self.options.overwrite {
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
