//! `supersync data …`: what the server's clean-up does by itself, now.
//!
//! Works on the database, beside running servers or without: every change of an account's log is fenced by its revision,
//! so a server that has the account in memory only finds out a little later.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;

use crate::clock::Clock;
use crate::config::Config;
use crate::engine::sealer::{self, MIN_RUN, Scope};
use crate::engine::{EngineError, Handle, Options};
use crate::protocol::UserId;
use crate::store::{Store, StoreError};

/// Accounts sealed at a time: their commits share transactions.
const CONCURRENCY: usize = 16;

/// Look after the stored data.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum DataCommand {
    /// Pack old operations into compressed segments, as the clean-up does once a day.
    ///
    /// Makes the database smaller and reading old operations faster; nothing is lost or changed for the devices. Servers
    /// may be running meanwhile. On PostgreSQL the space is free for new data at once and goes back to the system with
    /// VACUUM FULL, on SQLite with VACUUM.
    Seal {
        /// Only operations that were received more than so many hours ago; `SEAL_AFTER_HOURS` if not given.
        #[arg(long, value_name = "HOURS")]
        older_than: Option<u32>,
        /// Only the account with this number (`supersync user list`).
        #[arg(long, value_name = "ID")]
        user: Option<UserId>,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Sealing is off, and the command line does not say either how old is old.
    #[error("SEAL_AFTER_HOURS is 0, so nothing is packed; say --older-than HOURS to do it all the same")]
    Off,
    /// There is no such account.
    #[error("there is no account with the number {0}")]
    NoAccount(UserId),
    /// Some accounts could not be done; the log says why.
    #[error("{0} account(s) failed; run the command again")]
    Failed(u64),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Writing the output failed.
    #[error("standard output: {0}")]
    Io(#[from] io::Error),
}

/// Runs a command.
///
/// # Errors
/// See [`DataError`]; the text is meant for the operator.
pub async fn run(
    command: DataCommand,
    store: Arc<dyn Store>,
    config: &Config,
    clock: Clock,
    output: &mut (dyn Write + Send),
) -> Result<(), DataError> {
    let DataCommand::Seal { older_than, user } = command;
    let age = match older_than {
        Some(hours) => Duration::from_secs(u64::from(hours) * 3600),
        None if config.retention.seal_after.is_zero() => return Err(DataError::Off),
        None => config.retention.seal_after,
    };
    if let Some(user) = user
        && store.user_by_id(user).await?.is_none()
    {
        return Err(DataError::NoAccount(user));
    }
    let before_ms = clock.now_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let engine = Handle::start(Arc::clone(&store), clock, Options::from(config)).await?;
    let scope = Scope { before_ms, only: user, min_run: MIN_RUN, max_ops: u64::MAX, concurrency: CONCURRENCY };
    let report = sealer::seal(&store, &engine, scope).await;
    engine.shutdown().await;
    let report = report?;
    writeln!(
        output,
        "{} operations of {} accounts packed into {} segments; {} bytes of payloads and clocks take {} bytes now",
        report.operations, report.accounts, report.segments, report.operation_bytes, report.segment_bytes
    )?;
    if report.accounts_failed > 0 { Err(DataError::Failed(report.accounts_failed)) } else { Ok(()) }
}
