//! Taking over from the old server: its database becomes a backup of this server, which is checked like any other and
//! fills this server's database, of either kind.
//!
//! # What it promises
//! - The source is read as it is at one instant, by a transaction that can't write.
//! - The target gets everything or nothing, and only if it is empty and nobody uses it.
//! - Accounts keep their numbers, token versions, sequences and operation ids, so with the same `JWT_SECRET` every
//!   device goes on. Everything that this server derives (clocks, full states, heads, bytes) is derived anew, not believed.
//! - What can't be taken over as it is, is named before anything is written.
//! - Afterwards every row of the target has been compared with what the source gives.
//! - Memory grows with the number of accounts (about a KiB each) and with one account's entities, not with operations.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::backup::{self, Progress, Written};
use crate::protocol::UserId;
use crate::store::Store;

mod accounts;
mod compare;
mod error;
mod operations;
mod rows;
mod source;

pub use error::ImportError;

use accounts::Accounts;
use operations::Fault;
use source::Source;

/// Pieces under way at a time.
const QUEUE: usize = 4;

/// What is wanted of an import.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Even if others work on the source.
    pub rehearsal: bool,
    /// Raise counters that stand below their account's last operation.
    pub repair: bool,
    /// Go on without accounts that can't be taken over.
    pub leave_out: bool,
}

/// An account that is not taken over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Which one.
    pub user: UserId,
    /// Why.
    pub why: String,
    /// Whether it has data that is left behind with it.
    pub is_fault: bool,
}

/// What is in the source.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Accounts that are taken over.
    pub accounts: u64,
    /// Their operations.
    pub operations: u64,
    /// Their devices.
    pub devices: u64,
    /// Their passkeys.
    pub passkeys: u64,
    /// Passkeys whose id was stored as text.
    pub passkeys_repaired: u64,
    /// Registrations of passkeys that were not completed; they begin anew.
    pub pending_passkeys_dropped: u64,
    /// Links in mails that stay valid.
    pub links: u64,
    /// Accounts that are not.
    pub left_out: Vec<LeftOut>,
}

/// An old database, read once.
pub struct Import {
    source: Source,
    accounts: Accounts,
    taken_at_ms: i64,
}

impl Import {
    /// Opens the old database and reads what must be known before anything is written: all but the operations' payloads.
    ///
    /// # Errors
    /// When it is no such database, in use, or can't be read.
    pub async fn open(url: &str, options: &Options, now_ms: i64) -> Result<Self, ImportError> {
        let mut source = Source::open(url, options.rehearsal).await?;
        let accounts = accounts::read(&mut source, options, now_ms).await?;
        Ok(Self { source, accounts, taken_at_ms: now_ms })
    }

    /// What it holds.
    #[must_use]
    pub fn found(&self) -> Found {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let accounts = &self.accounts;
        Found {
            accounts: count(accounts.all.len()),
            operations: accounts.operations,
            devices: count(accounts.devices.len()),
            passkeys: count(accounts.passkeys.len()),
            passkeys_repaired: accounts.passkeys_repaired,
            pending_passkeys_dropped: accounts.pending_passkeys_dropped,
            links: count(accounts.tokens.len()),
            left_out: accounts.left_out.clone(),
        }
    }

    /// Refuses to go on without accounts that have data, unless that is wanted.
    ///
    /// # Errors
    /// [`ImportError::Faults`].
    pub fn accept(&self, options: &Options) -> Result<(), ImportError> {
        let faults = self.accounts.left_out.iter().filter(|left| left.is_fault).count();
        if faults == 0 || options.leave_out { Ok(()) } else { Err(ImportError::Faults(faults)) }
    }

    /// Writes everything as a backup of this server.
    ///
    /// # Errors
    /// When the source can't be read or the file not be written.
    pub async fn write(&mut self, path: &Path, progress: Arc<Progress>) -> Result<Written, ImportError> {
        let Self { source, accounts, taken_at_ms } = self;
        let dump = async |to| rows::dump(source, accounts, *taken_at_ms, to).await;
        backup::write_rows("the old server", path, progress, dump).await
    }

    /// Compares every row of a database with what the source gives. Returns how many there are.
    ///
    /// # Errors
    /// When they differ, or one side can't be read.
    pub async fn compare(&mut self, store: Arc<dyn Store>) -> Result<u64, ImportError> {
        let (to_given, given) = mpsc::channel(QUEUE);
        let (to_held, held) = mpsc::channel(QUEUE);
        let Self { source, accounts, taken_at_ms } = self;
        let giving = rows::dump(source, accounts, *taken_at_ms, to_given);
        let (given, held, compared) =
            tokio::join!(giving, async { store.dump(to_held).await }, compare::compare(given, held));
        // A difference ends both streams early, which is no error of theirs.
        let rows = compared?;
        given?;
        held?;
        rows.ok_or_else(|| ImportError::Differs("a stream broke off".to_owned()))
    }
}
