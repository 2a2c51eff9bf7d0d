//! `supersync export --upstream`: what this server holds, back into the old server's database.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;

use super::backup_file::{self, check, of};
use super::report::time;
use super::{Failure, progress};
use crate::backup::{self, BackupError, Draft};
use crate::config::Config;
use crate::protocol::UserId;
use crate::store::adopt::AdoptionRow;
use crate::store::{self, OpenMode};
use crate::upstream::export::{Counts, Options, Report, Taken, Target};

/// Write this server's data into the old (Node) server's database: the way back.
///
/// Adds what happened since the take-over, or everything if the target is empty: accounts, passkeys, operations, devices.
/// Stop this server before, so that nothing is acknowledged that is not written; its own database is only read. Each
/// account is written as a whole or not at all, and read back before it counts; a second run writes only what has changed
/// since. What the old server can't take over is listed.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
pub struct ExportArgs {
    /// Into the old server's schema. There is no other kind of export.
    #[arg(long, required = true)]
    upstream: bool,
    /// The old server's database: postgres://user:password@host:port/name, as in its `DATABASE_URL`. Without a
    /// password `PGPASSWORD` or `~/.pgpass` gives it.
    #[arg(long, value_name = "URL")]
    to: String,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Write what this backup holds, not what the database holds.
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
    /// Where to keep a copy of the data meanwhile, about as large as a backup; `DATA_DIR` if not given.
    #[arg(long, value_name = "DIR", conflicts_with = "backup")]
    work_dir: Option<PathBuf>,
    /// Go on even if other sessions work on the target.
    #[arg(long)]
    force: bool,
    /// Where the target has operations, passkeys or revoked tokens that this server never had, give them up.
    #[arg(long)]
    overwrite: bool,
    /// Where a payload holds what the old server's database can't (the character U+0000, half of a character, a number
    /// beyond numeric), write the nearest that it can.
    #[arg(long)]
    replace_values: bool,
    /// Delete accounts of the target that were deleted here.
    #[arg(long)]
    delete_missing: bool,
    /// Don't read back what was written.
    #[arg(long)]
    no_verify: bool,
    /// Go on with data that `supersync verify` finds fault with.
    #[arg(long)]
    accept_faults: bool,
}

/// Runs `supersync export`.
///
/// # Errors
/// Why it was not done, or not for every account.
pub async fn export(args: ExportArgs, config: &Config, output: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let mut options = Options {
        dry_run: args.dry_run,
        force: args.force,
        overwrite: args.overwrite,
        delete_missing: args.delete_missing,
        replace: args.replace_values,
        taken: None,
        verify: !args.no_verify,
    };
    // Before anything that takes long.
    let target = Target::open(&args.to, &options).await?;
    let copy = match &args.backup {
        Some(file) => Copy::Given(file.clone()),
        None => Copy::make(config, args.work_dir.as_deref().unwrap_or(&config.data_dir)).await?,
    };
    options.taken = copy.taken();
    let checked = check(copy.path()).await.map_err(of(copy.path()))?;
    if checked.fault_count > 0 && !args.accept_faults {
        for fault in &checked.faults {
            writeln!(output, "fault: {fault}")?;
        }
        return Err(of(copy.path())(BackupError::Faults(checked.fault_count)));
    }
    let operations = AtomicU64::new(0);
    let bar = progress::bar(usize::try_from(checked.operations).unwrap_or(usize::MAX), "operations");
    let writing = target.write(Arc::new(checked), copy.path(), &options, &operations);
    let mut report = progress::watch(bar, writing, |bar| bar.set_position(operations.load(Ordering::Relaxed))).await?;
    report.server_running = copy.is_served();
    if args.json {
        let report = serde_json::to_string(&report).map_err(io::Error::from)?;
        writeln!(output, "{report}")?;
    } else {
        tell(&report, output)?;
    }
    match report.accounts.failed.count {
        0 => Ok(()),
        failed => Err(Failure::failed(format!(
            "{failed} account(s) could not be written, as listed above; the others are done"
        ))),
    }
}

/// The data as it is at one instant, in a file.
enum Copy {
    /// A backup that there was.
    Given(PathBuf),
    /// Made for this, gone with this: it never gets a name of its own.
    Made {
        draft: Box<Draft>,
        /// Whether a server was working on the database.
        is_served: bool,
        /// What was taken over from the old server.
        taken: HashMap<UserId, Taken>,
    },
}

impl Copy {
    async fn make(config: &Config, directory: &Path) -> Result<Self, Failure> {
        if !backup_file::is_current(config).await? {
            return Err(Failure::refused(
                "this server's database is not of this program's version; `supersync migrate run` brings it up to date",
            ));
        }
        let store = store::open_with(OpenMode::Shared, &config.database, config.timeouts.statement).await?;
        remove_abandoned(directory)?;
        let path = directory.join(format!("{}{}.ssb", backup::WORKING_COPY, std::process::id()));
        let is_served = store.is_in_use().await?;
        let (taken, _) = store.adoptions().await?;
        let taken = taken.into_iter().map(|row| (row.user, taken_of(row))).collect();
        let draft = backup_file::write(&store, &path).await;
        store.close().await;
        Ok(Self::Made { draft: Box::new(draft?), is_served, taken })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Made { draft, .. } => draft.path(),
        }
    }

    /// What was taken over, as far as that is known: a backup doesn't say it, nor does a server that has taken over nothing.
    fn taken(&self) -> Option<HashMap<UserId, Taken>> {
        match self {
            Self::Made { taken, .. } if !taken.is_empty() => Some(taken.clone()),
            _ => None,
        }
    }

    const fn is_served(&self) -> bool {
        matches!(self, Self::Made { is_served: true, .. })
    }
}

fn taken_of(row: AdoptionRow) -> Taken {
    let AdoptionRow { first_seq, last_seq, op_count, digest, finished_at: at, .. } = row;
    Taken { at, first_seq, last_seq, op_count, digest }
}

/// Deletes the working copies of exports that were killed: all that the server holds, and nobody else looks for them.
fn remove_abandoned(directory: &Path) -> Result<(), Failure> {
    let found = backup::abandoned(directory).map_err(of(directory))?;
    for path in found.into_iter().filter(|path| backup::is_working_copy(path)) {
        std::fs::remove_file(&path).map_err(of(&path))?;
        tracing::warn!(file = %path.display(), "deleted the working copy of an export that was killed");
    }
    Ok(())
}

/// What a person is told.
fn tell(report: &Report, output: &mut (dyn Write + Send)) -> io::Result<()> {
    let Report { accounts, counts, missing, beyond_restoring, .. } = report;
    let Counts { operations, passkeys, devices, lost } = counts;
    let (did, state) =
        if report.dry_run { ("Would be done (nothing was changed)", "would be") } else { ("Done", "were") };
    writeln!(output, "{did}, with the data as of {} UTC:", time(report.taken_at))?;
    writeln!(
        output,
        "accounts    {} added, {} changed, {} already so, {} failed",
        accounts.added, accounts.changed, accounts.unchanged, accounts.failed.count
    )?;
    writeln!(
        output,
        "operations  {} added, {} removed, {} already there",
        operations.added, operations.removed, operations.kept
    )?;
    writeln!(output, "passkeys    {} written, {} removed", passkeys.written, passkeys.removed)?;
    writeln!(output, "devices     {} written, {} removed", devices.written, devices.removed)?;
    for (count, what) in [
        (
            lost.passwords,
            "account(s) have a password that the old server can't check (argon2id): they sign in with a passkey or a link",
        ),
        (lost.passwords_without_passkey, "of them have no passkey, so only a link by mail remains"),
        (lost.links, "link(s) that were mailed and not used yet are void there"),
        (lost.locks, "account(s) are locked here; the old server knows no such lock, so they are open there"),
        (lost.values, "operation(s) hold a value that JSONB can't; the nearest one that it can takes its place there"),
    ] {
        if count > 0 {
            writeln!(output, "note: {count} {what}")?;
        }
    }
    if beyond_restoring.count > 0 {
        writeln!(
            output,
            "note: {} account(s) have restore points that the old server can't restore (\"Too many operations to process\"), \
             because their numbers are above 100000, as after a bring-back; restore here what is wanted of them: {}",
            beyond_restoring.count,
            listed(beyond_restoring.first.iter())
        )?;
    }
    if missing.deleted_here.count > 0 {
        let done = if missing.deleted_there > 0 {
            format!("{} {state} deleted there", missing.deleted_there)
        } else {
            "--delete-missing deletes them there".to_owned()
        };
        writeln!(
            output,
            "note: {} account(s) of the target were deleted here, or left out when it was taken over ({done}): {}",
            missing.deleted_here.count,
            listed(missing.deleted_here.first.iter().map(|missing| missing.account))
        )?;
    }
    if missing.unknown.count > 0 {
        writeln!(
            output,
            "note: {} account(s) of the target were never known here and are left alone: {}",
            missing.unknown.count,
            listed(missing.unknown.first.iter().map(|missing| missing.account))
        )?;
    }
    if report.server_running {
        writeln!(
            output,
            "note: a server works on this database. What it acknowledges from now on is not in the target: stop it, then \
             run the command again"
        )?;
    }
    for failed in &accounts.failed.first {
        writeln!(output, "failed: account {}: {}", failed.account, failed.reason)?;
    }
    if accounts.failed.count == 0 && !report.dry_run && !report.server_running {
        writeln!(output, "Start the old server with the JWT_SECRET that this one had, and devices go on.")?;
    }
    Ok(())
}

fn listed(accounts: impl Iterator<Item = impl ToString>) -> String {
    accounts.map(|account| account.to_string()).collect::<Vec<_>>().join(", ")
}
