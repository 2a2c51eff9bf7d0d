//! `supersync backup`, `restore`, `verify`: the database in one file, and back.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;

use super::backup_file::{self, bytes_bar, check, of};
use super::output::confirmed;
use super::report::time;
use super::{Failure, progress};
use crate::backup::rotate::{self, Keep};
use crate::backup::{self, BackupError, Checked};
use crate::clock::Clock;
use crate::config::{Config, private_folder};
use crate::store::{self, OpenMode};

/// Write the whole database into one file, while the server runs.
///
/// The file holds the database as it is at one instant, compressed and with checksums, and is read back before the
/// command ends. It can be restored into PostgreSQL and into SQLite, whichever it was made from. It is as secret as the
/// database: readable by its owner only, not encrypted.
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    /// The file to write.
    #[arg(required_unless_present = "directory", conflicts_with = "directory")]
    file: Option<PathBuf>,
    /// Write into this folder, under a name with the time.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Afterwards delete backups of the folder, but for the newest of each of the last days, weeks and months, such as
    /// `daily=7,weekly=4,monthly=12`.
    #[arg(long, requires = "directory", value_name = "HOW MANY")]
    keep: Option<Keep>,
    /// Replace the file if there is one.
    #[arg(long, requires = "file")]
    overwrite: bool,
    /// Don't read the file back.
    #[arg(long)]
    no_verify: bool,
}

/// Fill an empty database from a backup.
///
/// The file is read and checked to its end first; then the database gets all of it or nothing. Stop the server before.
/// The database may be of the other kind than the one that the backup was made from: this is the way from SQLite to
/// PostgreSQL, and back. With the same `JWT_SECRET` devices keep their sessions and cursors.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// The backup.
    file: PathBuf,
    /// Delete what is in the database first.
    #[arg(long)]
    replace: bool,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    /// Restore a backup that is whole, but whose contents `verify` finds fault with.
    #[arg(long)]
    accept_faults: bool,
}

/// Read a backup to its end and check it. Needs no database.
///
/// Checks every checksum, and that what the file holds is in order: no operation missing or twice, every byte counted,
/// nothing without owner.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// The backup.
    file: PathBuf,
}

/// Runs `supersync backup`.
///
/// # Errors
/// Why it was not done.
pub async fn backup(
    args: BackupArgs,
    config: &Config,
    clock: &Clock,
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let path = match (&args.file, &args.directory) {
        (Some(file), _) => file.clone(),
        (None, Some(directory)) => free_name(directory, clock).await,
        (None, None) => return Err(Failure::refused("nothing was changed")),
    };
    if let Some(directory) = &args.directory {
        // What lies in it is as secret as the database.
        private_folder(directory).map_err(of(directory))?;
    }
    match std::fs::symlink_metadata(&path) {
        Ok(_) if !args.overwrite => {
            return Err(Failure::refused(format!("{} exists; --overwrite replaces it", path.display())));
        }
        Ok(_) if !backup::may_replace(&path).map_err(of(&path))? => {
            return Err(Failure::refused(format!("{} is no backup, so it is not replaced", path.display())));
        }
        _ => {}
    }
    if !backup_file::is_current(config).await? {
        return Err(Failure::refused(
            "the database is not of this program's version: `supersync migrate run` or the next start brings it up to date",
        ));
    }
    // Takes no lock that would keep a server from starting.
    let store = store::open_with(OpenMode::Unlocked, &config.database, config.timeouts.statement).await?;
    if store.is_adopting().await? {
        store.close().await;
        return Err(Failure::refused(
            "an import of the old server's database is under way, or was broken off: a backup would hold a part of the \
             accounts",
        ));
    }
    let draft = backup_file::write(&store, &path).await;
    store.close().await;
    let draft = draft?;
    // Before it has its name: until then what had that name stays, and nobody takes it for a backup.
    let checked = if args.no_verify { None } else { Some(check(draft.path()).await.map_err(of(draft.path()))?) };
    if let Some(checked) = checked.as_ref().filter(|checked| checked.fault_count > 0) {
        report(checked, output)?;
        let aside = draft.set_aside().map_err(of(&path))?;
        return accept(&aside, checked);
    }
    let written = draft.finish().map_err(of(&path))?;
    writeln!(
        output,
        "{}: {} rows of {} in {} bytes, as of {} UTC",
        path.display(),
        written.rows,
        written.header.source,
        written.bytes,
        time(written.header.taken_at)
    )?;
    if let Some(checked) = &checked {
        report(checked, output)?;
    }
    if let (Some(directory), Some(keep)) = (&args.directory, args.keep) {
        let backups = rotate::backups_in(directory).map_err(of(directory))?;
        for old in rotate::superfluous(&backups, keep, &path) {
            std::fs::remove_file(&old).map_err(of(&old))?;
            writeln!(output, "{}: deleted", old.display())?;
        }
    }
    Ok(())
}

/// A name that nobody has: names go by the second, so the next one is free.
async fn free_name(directory: &Path, clock: &Clock) -> PathBuf {
    let path = rotate::path_in(directory, clock.now_ms());
    if !path.exists() {
        return path;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    rotate::path_in(directory, clock.now_ms())
}

/// Runs `supersync verify`.
///
/// # Errors
/// Why it was not done.
pub async fn verify(args: VerifyArgs, output: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let checked = check(&args.file).await.map_err(of(&args.file))?;
    report(&checked, output)?;
    accept(&args.file, &checked)
}

/// Runs `supersync restore`.
///
/// # Errors
/// Why it was not done.
pub async fn restore(
    args: RestoreArgs,
    config: &Config,
    input: &mut (dyn BufRead + Send),
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    // Before anything of the database is touched.
    let checked = check(&args.file).await.map_err(of(&args.file))?;
    report(&checked, output)?;
    if !args.accept_faults {
        accept(&args.file, &checked)?;
    }
    let warning = "This deletes every account and all data of the configured database.";
    if args.replace && !args.yes && !confirmed(warning, "replace", input, output)? {
        return Err(Failure::refused("nothing was changed"));
    }
    let store = store::open(&config.database, config.timeouts.statement).await?;
    let bytes = Arc::new(AtomicU64::new(0));
    let bar = bytes_bar(&args.file).map_err(of(&args.file))?;
    let restoring = backup::restore(Arc::clone(&store), &args.file, args.replace, Arc::clone(&bytes));
    let restored = progress::watch(bar, restoring, |bar| bar.set_position(bytes.load(Ordering::Relaxed))).await;
    let kind = store.kind();
    store.close().await;
    restored.map_err(of(&args.file))?;
    writeln!(output, "Restored into {kind}. Start the server with the JWT_SECRET that it had, and devices go on.")?;
    Ok(())
}

fn report(checked: &Checked, output: &mut (dyn Write + Send)) -> io::Result<()> {
    let header = &checked.header;
    writeln!(
        output,
        "{} accounts, {} operations, {} sessions, {} devices, as of {} UTC (from {}, schema {}, program {})",
        checked.rows_of("users"),
        checked.operations,
        checked.rows_of("sessions"),
        checked.rows_of("sync_devices"),
        time(header.taken_at),
        header.source,
        header.schema,
        header.program
    )?;
    for fault in &checked.faults {
        writeln!(output, "fault: {fault}")?;
    }
    if checked.fault_count == 0 {
        writeln!(output, "The backup is whole and what it holds is in order.")?;
    }
    Ok(())
}

fn accept(path: &Path, checked: &Checked) -> Result<(), Failure> {
    if checked.fault_count == 0 { Ok(()) } else { Err(of(path)(BackupError::Faults(checked.fault_count))) }
}
