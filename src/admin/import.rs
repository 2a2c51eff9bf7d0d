//! `supersync import`: the old server's database becomes this server's.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use serde::Serialize;

use super::progress;
use crate::backup::{self, BackupError, Checked, Progress};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{self, Store, StoreError};
use crate::upstream::import::{Found, Import, ImportError, Options};

/// Take over the old (Node) server's database, of any age, into this server's empty one.
///
/// The old database is only read. Accounts keep their numbers, passwords, passkeys, token versions, operations and
/// sequences: started with the same `JWT_SECRET`, this server is to every device what the old one was. What is read is
/// checked before the target is touched, which gets all of it or nothing, and compared with the old database afterwards,
/// row by row. Stop the old server first; `--rehearsal` tries it out while it runs.
#[derive(Clone, Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the command line")]
pub struct ImportArgs {
    /// The old server's database: postgres://user:password@host:port/name, as in its `DATABASE_URL`. Without a password
    /// `PGPASSWORD` or `~/.pgpass` gives it.
    #[arg(long, value_name = "URL")]
    from: String,
    /// Say what is there, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Go on although others, such as the old server, work on its database: what they write meanwhile is not taken over.
    #[arg(long)]
    rehearsal: bool,
    /// Raise counters that stand below their account's last operation.
    #[arg(long)]
    repair: bool,
    /// Go on without the accounts that can't be taken over.
    #[arg(long)]
    leave_out: bool,
    /// Keep what was read in this file: a backup, with which `supersync restore` can go on when the target fails.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Don't compare the result with the old database.
    #[arg(long)]
    no_verify: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportCommandError {
    /// The file in between can't be written, read, or relied on.
    #[error("{}: {error}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: BackupError,
    },
    /// There is a file.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// The import failed as a whole.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The target failed, when all was read.
    #[error("{error}. What was read is in {}: `supersync restore` goes on from there", path.display())]
    Restore {
        /// Where the data lies.
        path: PathBuf,
        /// Why.
        error: BackupError,
    },
    /// The target failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing the output failed.
    #[error("standard output: {0}")]
    Io(#[from] io::Error),
}

impl ImportCommandError {
    /// With which code the program ends.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Import(
                ImportError::Address(_)
                | ImportError::NotUpstream(_)
                | ImportError::OtherType { .. }
                | ImportError::InUse(_)
                | ImportError::Faults(_)
                | ImportError::Backup(BackupError::NotEmpty(_) | BackupError::InUse),
            )
            | Self::Restore { error: BackupError::NotEmpty(_) | BackupError::InUse, .. }
            | Self::Exists(_)
            | Self::Store(StoreError::Refused(_)) => 4,
            Self::Import(
                ImportError::Source(_) | ImportError::Store(_) | ImportError::Backup(BackupError::Store(_)),
            )
            | Self::Restore { error: BackupError::Store(_), .. }
            | Self::Store(_) => 5,
            Self::Import(_) | Self::File { .. } | Self::Restore { .. } | Self::Io(_) => 1,
        }
    }
}

fn of(path: &Path) -> impl FnOnce(BackupError) -> ImportCommandError {
    let path = path.to_owned();
    |error| ImportCommandError::File { path, error }
}

/// What is printed at the end.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    #[serde(flatten)]
    found: &'a Found,
    is_dry_run: bool,
    /// Rows of the result that were compared with the old database, and are the same.
    rows_compared: Option<u64>,
}

/// Runs `supersync import`.
///
/// # Errors
/// See [`ImportCommandError`]; the text is meant for the operator.
pub async fn import(
    args: ImportArgs,
    config: &Config,
    clock: &Clock,
    output: &mut (dyn Write + Send),
) -> Result<(), ImportCommandError> {
    let options = Options { rehearsal: args.rehearsal, repair: args.repair, leave_out: args.leave_out };
    if let Some(path) = args.keep.as_ref().filter(|path| path.exists()) {
        return Err(ImportCommandError::Exists(path.clone()));
    }
    let reading = progress::spinner().with_message("reading the old database");
    let opened = progress::watch(Import::open(&args.from, &options, clock.now_ms()), || reading.tick()).await;
    reading.finish_and_clear();
    let mut import = opened?;
    let found = import.found();
    if !args.json {
        tell(&found, output)?;
    }
    if args.dry_run {
        if args.json {
            print(&Report { found: &found, is_dry_run: true, rows_compared: None }, output)?;
        }
        return Ok(import.accept(&options)?);
    }
    if let Err(error) = import.accept(&options) {
        if args.json {
            print(&Report { found: &found, is_dry_run: true, rows_compared: None }, output)?;
        }
        return Err(error.into());
    }
    std::fs::create_dir_all(&config.data_dir)?;
    let rows_compared = fill(&mut import, &args, config, output).await?;
    if args.json {
        print(&Report { found: &found, is_dry_run: false, rows_compared }, output)?;
    } else {
        if let Some(rows) = rows_compared {
            writeln!(output, "Compared with the old database: {rows} rows, all as they should be.")?;
        }
        writeln!(output, "Done. Start this server with the JWT_SECRET that the old one had, and devices go on.")?;
    }
    Ok(())
}

/// Fills the target. Returns how many rows of it were compared.
async fn fill(
    import: &mut Import,
    args: &ImportArgs,
    config: &Config,
    output: &mut (dyn Write + Send),
) -> Result<Option<u64>, ImportCommandError> {
    // Also found out at the end, but then it has taken long. Each use of the database is one of its own: whoever fills it
    // must be alone with it.
    let accounts = on(config, async |store| Ok(store.holdings().await?.accounts)).await?;
    if accounts > 0 {
        return Err(ImportError::Backup(BackupError::NotEmpty(accounts)).into());
    }
    let made = config.data_dir.join(format!("supersync-import-{}.ssb", std::process::id()));
    let path = args.keep.clone().unwrap_or(made);
    let mut copy = Copy { path: path.clone(), stays: args.keep.is_some() };
    let so_far = Arc::new(Progress::default());
    let bar = progress::bar(0, "rows read");
    let written = progress::watch(import.write(&path, Arc::clone(&so_far)), || {
        let rows = so_far.rows.load(Ordering::Relaxed);
        bar.set_length(so_far.of_about.load(Ordering::Relaxed).max(rows));
        bar.set_position(rows);
    })
    .await;
    bar.finish_and_clear();
    let written = written?;
    let checked = check(&path).await?;
    if checked.fault_count > 0 {
        for fault in &checked.faults {
            writeln!(output, "fault: {fault}")?;
        }
        return Err(of(&path)(BackupError::Faults(checked.fault_count)));
    }
    let bytes = Arc::new(AtomicU64::new(0));
    let bar = progress::bar(usize::try_from(written.bytes).unwrap_or(usize::MAX), "bytes written");
    let restored = on(config, async |store| {
        let restoring = backup::restore(store, &path, false, Arc::clone(&bytes));
        let restored = progress::watch(restoring, || bar.set_position(bytes.load(Ordering::Relaxed))).await;
        restored.map_err(|error| ImportCommandError::Restore { path: path.clone(), error })
    })
    .await;
    bar.finish_and_clear();
    if let Err(error) = restored {
        copy.stays = true;
        return Err(error);
    }
    if args.no_verify {
        return Ok(None);
    }
    let comparing = progress::spinner().with_message("comparing the result with the old database");
    let compared =
        on(config, async |store| Ok(progress::watch(import.compare(store), || comparing.tick()).await?)).await;
    comparing.finish_and_clear();
    Ok(Some(compared?))
}

/// Uses this server's database for one thing.
async fn on<T>(
    config: &Config,
    work: impl AsyncFnOnce(Arc<dyn Store>) -> Result<T, ImportCommandError>,
) -> Result<T, ImportCommandError> {
    let store = store::open(&config.database, config.timeouts.statement).await?;
    let done = work(Arc::clone(&store)).await;
    store.close().await;
    done
}

/// What was read, in a file.
struct Copy {
    path: PathBuf,
    stays: bool,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the working copy of the data can't be removed; it is as secret as the database");
            }
            _ => {}
        }
    }
}

async fn check(path: &Path) -> Result<Checked, ImportCommandError> {
    let bytes = Arc::new(AtomicU64::new(0));
    let size = std::fs::metadata(path).map_err(|error| of(path)(error.into()))?.len();
    let bar = progress::bar(usize::try_from(size).unwrap_or(usize::MAX), "bytes checked");
    let (file, counter) = (path.to_owned(), Arc::clone(&bytes));
    let checking = tokio::task::spawn_blocking(move || backup::check(&file, &counter));
    let checked = progress::watch(checking, || bar.set_position(bytes.load(Ordering::Relaxed))).await;
    bar.finish_and_clear();
    checked.unwrap_or(Err(BackupError::Crashed)).map_err(of(path))
}

fn print(report: &Report<'_>, output: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(output, "{}", serde_json::to_string(report).map_err(io::Error::from)?)
}

/// What a person is told.
fn tell(found: &Found, output: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(
        output,
        "In the old database: {} accounts, {} operations, {} devices, {} passkeys, {} links in mails.",
        found.accounts, found.operations, found.devices, found.passkeys, found.links
    )?;
    for (count, what) in [
        (found.passkeys_repaired, "passkey(s) had their id stored as text, which is put right"),
        (found.pending_passkeys_dropped, "registration(s) of passkeys were not completed; they begin anew"),
    ] {
        if count > 0 {
            writeln!(output, "note: {count} {what}")?;
        }
    }
    for left in &found.left_out {
        writeln!(output, "not taken over: account {}: {}", left.user, left.why)?;
    }
    Ok(())
}
