//! Everything that is taken over, as the rows of a backup.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;
use tokio::sync::mpsc;

use super::accounts::{Account, Accounts};
use super::source::Source;
use super::{ImportError, operations};
use crate::protocol::UserId;
use crate::store::backup::{Batch, Piece, Row, Snapshot, TABLES, Value};
use crate::store::{EntityHead, EntityKey, take_over};

/// Hands rows on, until nobody takes them any more.
struct Out {
    to: mpsc::Sender<Piece>,
    batch: Batch,
}

/// Nobody takes any more; whoever did knows why.
struct Unwanted;

impl Out {
    async fn send(&self, piece: Piece) -> Result<(), Unwanted> {
        self.to.send(piece).await.map_err(|_| Unwanted)
    }

    async fn row(&mut self, row: Row) -> Result<(), Unwanted> {
        match self.batch.add(row) {
            Some(full) => self.send(full).await,
            None => Ok(()),
        }
    }

    async fn rows(&mut self, rows: &[Row]) -> Result<(), Unwanted> {
        for row in rows {
            self.row(row.clone()).await?;
        }
        Ok(())
    }

    async fn rest(&mut self) -> Result<(), Unwanted> {
        match self.batch.rest() {
            Some(rest) => self.send(rest).await,
            None => Ok(()),
        }
    }
}

/// Why a stream ended early.
enum Stop {
    Unwanted,
    Failed(ImportError),
}

impl From<Unwanted> for Stop {
    fn from(Unwanted: Unwanted) -> Self {
        Self::Unwanted
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Hands over every row, as [`crate::store::BackupStore::dump`] does of a database.
pub(super) async fn dump(
    source: &mut Source,
    accounts: &Accounts,
    taken_at_ms: i64,
    to: mpsc::Sender<Piece>,
) -> Result<(), ImportError> {
    match pieces(source, accounts, taken_at_ms, Out { to, batch: Batch::default() }).await {
        Ok(()) | Err(Stop::Unwanted) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}

async fn pieces(source: &mut Source, accounts: &Accounts, taken_at_ms: i64, mut out: Out) -> Result<(), Stop> {
    let passkeys = i64::try_from(accounts.passkeys.len()).unwrap_or(i64::MAX);
    out.send(Piece::Begin(Snapshot {
        taken_at_ms,
        numbers: vec![accounts.highest, passkeys, 0],
        approximate_rows: accounts.operations * 2,
    }))
    .await?;
    for table in TABLES {
        out.send(Piece::Table(table, table.columns.iter().collect())).await?;
        match table.name {
            "users" => {
                for account in accounts.all.values() {
                    out.row(account.user.clone()).await?;
                }
            }
            "user_sync_state" => {
                for (user, account) in &accounts.all {
                    out.row(state(*user, account)).await?;
                }
            }
            "operations" => send_operations(source, accounts, &mut out).await?,
            "entity_heads" => send_heads(source, accounts, &mut out).await?,
            "sync_devices" => out.rows(&accounts.devices).await?,
            "one_time_tokens" => out.rows(&accounts.tokens).await?,
            "passkeys" => out.rows(&accounts.passkeys).await?,
            // The old server has nothing of the kind.
            _ => {}
        }
        out.rest().await?;
    }
    out.send(Piece::End).await?;
    Ok(())
}

async fn send_operations(source: &mut Source, accounts: &Accounts, out: &mut Out) -> Result<(), Stop> {
    let mut ops = operations::all(source, true);
    while let Some(op) = ops.try_next().await? {
        if let Ok(op) = op
            && accounts.all.contains_key(&op.user)
        {
            out.row(op.into_row()).await?;
        }
    }
    Ok(())
}

/// The newest operation of each entity. Of one account at a time: memory grows with its entities only.
async fn send_heads(source: &mut Source, accounts: &Accounts, out: &mut Out) -> Result<(), Stop> {
    let mut ops = operations::all(source, false);
    let mut of = None;
    let mut heads = HashMap::new();
    while let Some(op) = ops.try_next().await? {
        let Ok(op) = op else { continue };
        if !accounts.all.contains_key(&op.user) {
            continue;
        }
        if let Some(user) = of.filter(|user| *user != op.user) {
            send_heads_of(user, &mut heads, out).await?;
        }
        of = Some(op.user);
        take_over(&mut heads, &op.trace);
    }
    if let Some(user) = of {
        send_heads_of(user, &mut heads, out).await?;
    }
    Ok(())
}

async fn send_heads_of(
    user: UserId,
    heads: &mut HashMap<EntityKey, EntityHead>,
    out: &mut Out,
) -> Result<(), Unwanted> {
    let mut heads: Vec<_> = std::mem::take(heads).into_iter().collect();
    heads.sort_unstable_by_key(|(key, _)| *key);
    for (key, head) in heads {
        let row = vec![
            Value::Int(user),
            Value::Bytes(key.as_bytes().to_vec()),
            Value::Int(head.seq),
            Value::Bool(head.is_time_delta),
            Value::Text(head.client_id.to_string()),
            Value::Text(head.clock.as_json().to_owned()),
        ];
        out.row(row).await?;
    }
    Ok(())
}

fn state(user: UserId, account: &Account) -> Row {
    let state = &account.state;
    let (seq, client, clock) = match &state.full_state {
        None => (Value::Null, Value::Null, Value::Null),
        Some(mark) => {
            (Value::Int(mark.seq), Value::Text(mark.client_id.clone()), Value::Text(mark.clock.as_json().to_owned()))
        }
    };
    vec![
        Value::Int(user),
        Value::Int(state.revision),
        Value::Int(state.generation),
        Value::Int(state.base_seq),
        Value::Int(state.pruned_seq),
        Value::Int(state.last_seq),
        Value::Text(state.clock.as_json().to_owned()),
        seq,
        client,
        clock,
        state.replacement_seq.map_or(Value::Null, Value::Int),
        Value::Int(state.storage_used_bytes),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Int(state.heads_seq),
        Value::Int(state.sealed_seq),
        Value::Null,
    ]
}
