//! `supersync data …`: what the server's clean-up does by itself, now; who takes how much room; archived data sets;
//! deleting what is synced.
//!
//! Works on the database, beside running servers or without: every change of an account's log is fenced by its revision,
//! so a server that has the account in memory only finds out a little later, from the events that the database keeps.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use tokio::time::Instant;

use super::output::{confirmed, print_json};
use super::recount::{self, RecountArgs};
use super::usage::{self, UsageArgs};
use super::{Failure, clear, progress};
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::archive::{Archive, ArchiveError, ArchiveId, ArchiveSummary, FormerPassword, Obstacle};
use crate::engine::sealer::{self, Counts, MIN_RUN, Scope};
use crate::engine::{Handle, Options};
use crate::protocol::UserId;
use crate::store::Store;

/// Accounts sealed at a time: their commits share transactions.
const CONCURRENCY: usize = 16;
/// How long bringing back a data set may take.
const PATIENCE: Duration = Duration::from_mins(10);

/// Look after the stored data.
#[derive(Clone, Debug, Subcommand)]
pub enum DataCommand {
    /// Pack old operations into compressed segments, as the clean-up does once a day.
    ///
    /// Makes the database smaller and reading old operations faster; nothing is lost or changed for the devices. Servers
    /// may be running meanwhile. On PostgreSQL the space is free for new data at once and goes back to the system with
    /// VACUUM FULL, on SQLite with VACUUM.
    Seal {
        /// Only operations that were received more than so many hours ago; 24 if not given.
        #[arg(long, value_name = "HOURS")]
        older_than: Option<u32>,
        /// Only the account with this number (`supersync user list`).
        #[arg(long, value_name = "ID")]
        user: Option<UserId>,
    },
    /// Show what uses the space: the largest accounts and their growth, kinds of operations, parts and tables.
    ///
    /// Reads what the accounts' counters say of all of them, and operations of the accounts shown. Which kinds of operations
    /// there are is counted of those that are not packed yet, and if these are too many, of a sample; it says so.
    Usage(UsageArgs),
    /// Recount the storage that accounts are charged, and correct wrong counters.
    ///
    /// They are right unless something else than this program has written to the database. Servers may be running meanwhile:
    /// they hear of a correction within a second.
    Recount(RecountArgs),
    /// Delete the synced data of an account, or of all. The accounts stay, with their tokens.
    ///
    /// The same as "Reset account" in the browser: devices keep what they have and upload it again. The deleted data stays in
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
    /// List an account's data sets that were replaced or deleted and can still be brought back.
    Archives {
        /// The account's e-mail address.
        email: String,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Make an archived data set the account's data again.
    ///
    /// The data that it has now goes to the archive, so this can be undone in the same way. All devices get the data with
    /// their next sync; changes that they have not uploaded by then are lost, unless their users decide otherwise when the
    /// app asks. Servers may be running meanwhile.
    BringBack {
        /// The account's e-mail address.
        email: String,
        /// The data set, as `supersync data archives` names it.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
}

/// A data set can't be brought back, or listed.
fn archive_failure(error: &ArchiveError) -> Failure {
    match error {
        ArchiveError::NotRestorable(obstacle) => Failure::refused(format!("{error}: {}", explained(*obstacle))),
        ArchiveError::Quota(quota) => Failure::refused(format!(
            "the data set is larger than the {} bytes that the account may store; `supersync user quota` changes that",
            quota.quota_bytes
        )),
        other => Failure::failed(other),
    }
}

const fn explained(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Expired => "its time is over",
        Obstacle::Superseded => "it is the older part of a data set, given up to make room",
        Obstacle::NoFullState => "it holds no full state, and other data has been uploaded since",
        Obstacle::TooManyOperations => "more changes follow its newest full state than the app takes in one download",
        Obstacle::LegacyRepair => {
            "an old app's repair follows its newest full state, and it is not clear what it covers"
        }
        Obstacle::NotEncrypted => "it is not encrypted, and the devices would refuse it",
    }
}

/// Runs a command.
///
/// # Errors
/// Why it was not done, or not all of it.
pub async fn run(
    command: DataCommand,
    store: Arc<dyn Store>,
    config: &Config,
    clock: Clock,
    input: &mut (dyn BufRead + Send),
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    match command {
        DataCommand::Seal { older_than, user } => seal(older_than, user, store, config, clock, output).await,
        DataCommand::Usage(args) => usage::run(args, clock.now_ms(), &*store, output).await,
        DataCommand::Recount(args) => recount::run(args, &*store, output).await,
        DataCommand::Clear { email, all: _, yes } => {
            let (users, whose) = match &email {
                Some(email) => (vec![account(&store, email).await?], format!("account {email}")),
                None => (clear::every_account(&*store).await?, "all accounts".to_owned()),
            };
            let warning = format!("This deletes the synced data of {whose}.");
            if !yes && !confirmed(&warning, "yes", input, output)? {
                return Err(Failure::refused("nothing was deleted"));
            }
            clear::clear(&users, store, config, clock, output).await
        }
        DataCommand::Archives { email, json } => {
            let user = account(&store, &email).await?;
            let engine = Handle::start(store, clock, Options::from(config)).await?;
            let archives = engine.archives(user, Instant::now() + PATIENCE).await;
            engine.shutdown().await;
            let archives = archives.map_err(|error| archive_failure(&error))?;
            let shown = if json {
                print_json(&archives.iter().map(ArchiveSummary::from).collect::<Vec<_>>(), output)
            } else {
                list(&archives, output)
            };
            Ok(shown?)
        }
        DataCommand::BringBack { email, id } => {
            let user = account(&store, &email).await?;
            let no_archive = || {
                let text = format!("the account has no archived data set {id}; `supersync data archives` shows all");
                Failure::not_found(text)
            };
            let archive_id = id.parse::<ArchiveId>().map_err(|_| no_archive())?;
            let engine = Handle::start(store, clock, Options::from(config)).await?;
            let done = engine.bring_back(user, archive_id, Instant::now() + PATIENCE).await;
            engine.shutdown().await;
            let done = done.map_err(|error| match error {
                ArchiveError::NotFound => no_archive(),
                other => archive_failure(&other),
            })?;
            writeln!(
                output,
                "{} operations of {email} brought back; its devices get them with their next sync",
                done.operations
            )?;
            Ok(())
        }
    }
}

async fn account(store: &Arc<dyn Store>, email: &str) -> Result<UserId, Failure> {
    let row = store.user_by_email(email).await?.ok_or_else(|| Failure::no_account(email))?;
    Ok(row.id)
}

fn list(archives: &[Archive], output: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(
        output,
        "{:<16} {:<20} {:<12} {:>10} {:>12}  CAN COME BACK",
        "ID", "ARCHIVED", "BECAUSE", "OPERATIONS", "BYTES"
    )?;
    for archive in archives {
        let at =
            Timestamp::from_millisecond(archive.range.archived_at).unwrap_or_default().strftime("%Y-%m-%d %H:%M UTC");
        let comes_back = match (archive.obstacle, archive.former_password) {
            (Some(obstacle), _) => format!("no: {}", explained(obstacle)),
            (None, FormerPassword::NotNeeded) => "yes".to_owned(),
            (None, FormerPassword::Maybe) => "yes; devices may need the former encryption password".to_owned(),
            (None, FormerPassword::Needed) => "yes; devices will need the former encryption password".to_owned(),
        };
        let (id, reason, bytes) = (archive.id.to_string(), archive.range.reason.as_str(), archive.range.bytes);
        let at = at.to_string();
        writeln!(output, "{id:<16} {at:<20} {reason:<12} {:>10} {bytes:>12}  {comes_back}", archive.operations())?;
    }
    Ok(())
}

async fn seal(
    older_than: Option<u32>,
    user: Option<UserId>,
    store: Arc<dyn Store>,
    config: &Config,
    clock: Clock,
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let age = match older_than {
        Some(hours) => Duration::from_secs(u64::from(hours) * 3600),
        None if config.retention.seal_after.is_zero() => {
            return Err(Failure::failed(
                "SEAL_AFTER_HOURS is 0, so nothing is packed; say --older-than HOURS to do it all the same",
            ));
        }
        None => config.retention.seal_after,
    };
    if let Some(user) = user
        && store.user_by_id(user).await?.is_none()
    {
        return Err(Failure::no_account_number(user));
    }
    let before_ms = clock.now_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let engine = Handle::start(Arc::clone(&store), clock, Options::from(config)).await?;
    let scope = Scope { before_ms, only: user, min_run: MIN_RUN, max_ops: u64::MAX, concurrency: CONCURRENCY };
    let counts = Counts::default();
    let sealing = sealer::seal_counting(&store, &engine, scope, &counts);
    let report = progress::watch(progress::spinner(), sealing, |spinner| {
        let so_far = counts.report();
        spinner.set_message(format!("{} operations of {} accounts packed", so_far.operations, so_far.accounts));
    })
    .await;
    engine.shutdown().await;
    let report = report?;
    writeln!(
        output,
        "{} operations of {} accounts packed into {} segments; {} bytes of payloads and clocks take {} bytes now",
        report.operations, report.accounts, report.segments, report.operation_bytes, report.segment_bytes
    )?;
    Failure::unless_done(report.accounts_failed)
}
