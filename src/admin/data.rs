//! `supersync data …`: what the server's clean-up does by itself, now; and what a user can do with its data.
//!
//! Works on the database, beside running servers or without: every change of an account's log is fenced by its revision,
//! so a server that has the account in memory only finds out a little later.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::Config;
use crate::engine::sealer::{self, MIN_RUN, Scope};
use crate::engine::{EngineError, Handle, Options};
use crate::protocol::UserId;
use crate::store::{EventKind, Store, StoreError};

/// Accounts sealed at a time: their commits share transactions.
const CONCURRENCY: usize = 16;
/// Accounts read at a time.
const LIST_PAGE: usize = 500;

/// Look after the stored data.
#[derive(Clone, Debug, Subcommand)]
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
    /// Delete the synced data of an account, or of all. The accounts stay, with their devices and tokens.
    ///
    /// The same as "Reset account" in the browser: devices keep what they have and upload it anew. The deleted data stays in
    /// the archive for 30 days. A running server hears of it within a second.
    Clear {
        /// The account's e-mail address.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        email: Option<String>,
        /// Every account.
        #[arg(long)]
        all: bool,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
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
    /// There is no account with this address.
    #[error("there is no account {0}; `supersync user list` shows all")]
    NoSuchAddress(String),
    /// The operator did not say yes.
    #[error("nothing was deleted")]
    NotConfirmed,
    /// Some accounts could not be done; the log says why.
    #[error("{0} account(s) failed; run the command again")]
    Failed(u64),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Reading the input or writing the output failed.
    #[error("standard input or output: {0}")]
    Io(#[from] io::Error),
}

impl DataError {
    /// With which code the program ends.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NoAccount(_) | Self::NoSuchAddress(_) => 3,
            Self::NotConfirmed => 4,
            Self::Store(_) => 5,
            Self::Off | Self::Failed(_) | Self::Engine(_) | Self::Io(_) => 1,
        }
    }
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
    input: &mut (dyn BufRead + Send),
    output: &mut (dyn Write + Send),
) -> Result<(), DataError> {
    match command {
        DataCommand::Seal { older_than, user } => seal(older_than, user, store, config, clock, output).await,
        DataCommand::Clear { email, all: _, yes } => {
            let what = email.as_deref().map_or_else(|| "all accounts".to_owned(), |email| format!("account {email}"));
            let users = match &email {
                Some(email) => {
                    let user = store.user_by_email(email).await?;
                    vec![user.ok_or_else(|| DataError::NoSuchAddress(email.clone()))?.id]
                }
                None => every_account(&*store).await?,
            };
            if !yes && !confirmed(&what, input, output)? {
                return Err(DataError::NotConfirmed);
            }
            clear(&users, store, config, clock, output).await
        }
    }
}

async fn every_account(store: &dyn Store) -> Result<Vec<UserId>, StoreError> {
    let mut all: Vec<UserId> = Vec::new();
    loop {
        let page = store.list_users(all.last().copied().unwrap_or(0), LIST_PAGE).await?;
        all.extend(page.iter().map(|user| user.id));
        if page.len() < LIST_PAGE {
            return Ok(all);
        }
    }
}

fn confirmed(what: &str, input: &mut (dyn BufRead + Send), output: &mut (dyn Write + Send)) -> io::Result<bool> {
    writeln!(output, "This deletes the synced data of {what}.")?;
    write!(output, "Type yes to go on: ")?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

async fn clear(
    users: &[UserId],
    store: Arc<dyn Store>,
    config: &Config,
    clock: Clock,
    output: &mut (dyn Write + Send),
) -> Result<(), DataError> {
    let engine = Handle::start(Arc::clone(&store), clock, Options::from(config)).await?;
    let mut failed = 0;
    for user in users {
        let wiped = match engine.wipe(*user, Instant::now() + config.timeouts.handler).await {
            // Deleted meanwhile.
            Err(EngineError::NoAccount) => continue,
            Err(error) => Err(error.to_string()),
            Ok(()) => store.announce(*user, EventKind::DataCleared).await.map_err(|error| error.to_string()),
        };
        if let Err(error) = wiped {
            failed += 1;
            tracing::warn!(error, user_id = user, "account not cleared");
        }
    }
    engine.shutdown().await;
    let failures = usize::try_from(failed).unwrap_or(usize::MAX);
    writeln!(output, "Deleted the synced data of {} account(s).", users.len().saturating_sub(failures))?;
    if failed > 0 { Err(DataError::Failed(failed)) } else { Ok(()) }
}

async fn seal(
    older_than: Option<u32>,
    user: Option<UserId>,
    store: Arc<dyn Store>,
    config: &Config,
    clock: Clock,
    output: &mut (dyn Write + Send),
) -> Result<(), DataError> {
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
