//! Between a file and a store: rows go through a short queue, so that neither side waits longer than it must and memory
//! stays the same.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc;

use super::cursor::Source as _;
use super::error::BackupError;
use super::format::{Header, MAGIC};
use super::reader::Reader;
use super::writer::Writer;
use crate::store::Store;
use crate::store::backup::{Batch, LoadOutcome, NUMBERED, Piece, Snapshot, schema_version};

/// Pieces under way at a time.
const QUEUE: usize = 4;

/// What a backup with faulty contents is called in addition.
const FAULTY: &str = ".faulty";

/// What the name of an unfinished backup ends with, behind the number of its process.
const PARTIAL: &str = ".partial";

/// What the names of backups begin with that are made only to be read once and never finished.
pub const WORKING_COPY: &str = "supersync-export-";

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// What the file says of itself.
    pub header: Header,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// How far a backup is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows that are written.
    pub rows: AtomicU64,
    /// About how many there are.
    pub of_about: AtomicU64,
}

/// A backup that is on the disk, but has not got its name yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Draft {
    /// What was written.
    pub written: Written,
    partial: Partial,
    target: PathBuf,
}

impl Draft {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial.path
    }

    /// Gives it its name, for good. What is at that name is replaced.
    ///
    /// # Errors
    /// When that can't be done; then there is no file.
    pub fn finish(self) -> Result<Written, BackupError> {
        self.partial.rename(&self.target)?;
        Ok(self.written)
    }

    /// Gives it a name that says that its contents are at fault, so that nobody takes it for a backup. Returns the name.
    ///
    /// # Errors
    /// When that can't be done; then there is no file.
    pub fn set_aside(self) -> Result<PathBuf, BackupError> {
        let mut name = self.target.into_os_string();
        name.push(FAULTY);
        self.partial.rename(Path::new(&name))?;
        Ok(name.into())
    }
}

/// Whether a backup may take the place of what is there: another one, or an empty file.
///
/// # Errors
/// When it can't be read.
pub fn may_replace(path: &Path) -> std::io::Result<bool> {
    let about = std::fs::symlink_metadata(path)?;
    if !about.is_file() {
        return Ok(false);
    }
    let mut beginning = Vec::new();
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut beginning)?;
    Ok(beginning.is_empty() || beginning == MAGIC)
}

/// Whether a file is named like a working copy.
#[must_use]
pub fn is_working_copy(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(WORKING_COPY))
}

/// Unfinished backups of a folder whose programs have ended without deleting them (`kill -9`, a power failure). They hold
/// all that was written until then, and nothing reads them any more.
///
/// # Errors
/// When the folder can't be read.
pub fn abandoned(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // What can't be read is somebody else's, or has just got its name.
        if is_unfinished(&path) && is_unlocked(&path) && may_replace(&path).unwrap_or(false) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_unfinished(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let process = name.strip_suffix(PARTIAL).and_then(|name| name.rsplit_once('.')).map(|(_, process)| process);
    // Earlier versions finished their working copies.
    process.is_some_and(|process| process.parse::<u32>().is_ok()) || is_working_copy(path)
}

/// Whether no program writes it or reads it as its own.
fn is_unlocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| flock(file, FlockOperation::NonBlockingLockShared).is_ok())
}

/// Writes a backup: under another name in the same folder, readable by its owner only, until [`Draft::finish`].
///
/// # Errors
/// When the database can't be read or the file not be written; then there is no file.
pub async fn write(store: Arc<dyn Store>, path: &Path, progress: Arc<Progress>) -> Result<Draft, BackupError> {
    let (to, from) = mpsc::channel(QUEUE);
    let source = store.kind();
    let dumping = tokio::spawn(async move { store.dump(to).await });
    let path = path.to_owned();
    let writing = tokio::task::spawn_blocking(move || write_file(&path, source, from, &progress));
    let (dumped, written) = tokio::join!(dumping, writing);
    // What the writer says of a stream that ended early is explained by why it did.
    dumped.map_err(|_| BackupError::Crashed)??;
    written.map_err(|_| BackupError::Crashed)?
}

fn write_file(
    path: &Path,
    source: &str,
    mut from: mpsc::Receiver<Piece>,
    progress: &Progress,
) -> Result<Draft, BackupError> {
    let partial = Partial::create(path)?;
    let Some(Piece::Begin(snapshot)) = from.blocking_recv() else { return Err(BackupError::Crashed) };
    progress.of_about.store(snapshot.approximate_rows, Ordering::Relaxed);
    let header = Header {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        schema: schema_version(),
        source: source.to_owned(),
        taken_at: snapshot.taken_at_ms,
        numbers: NUMBERED.iter().map(|&table| table.to_owned()).zip(snapshot.numbers).collect(),
    };
    let mut writer = Writer::new(BufWriter::new(&partial.file), &header)?;
    let mut rows = 0;
    let mut next = from.blocking_recv();
    while let Some(Piece::Table(table, columns)) = next {
        let mut section = writer.section(table, columns)?;
        next = loop {
            match from.blocking_recv() {
                Some(Piece::Rows(piece)) => {
                    for row in &piece {
                        section.row(row)?;
                    }
                    rows += u64::try_from(piece.len()).unwrap_or(0);
                    progress.rows.store(rows, Ordering::Relaxed);
                }
                other => break other,
            }
        };
        writer = section.finish()?;
    }
    let Some(Piece::End) = next else { return Err(BackupError::Crashed) };
    writer.finish()?.flush()?;
    partial.file.sync_all()?;
    let bytes = partial.file.metadata()?.len();
    Ok(Draft { written: Written { header, rows, bytes }, partial, target: path.to_owned() })
}

/// A file that is not complete: gone unless it gets its name.
#[derive(Debug)]
struct Partial {
    file: File,
    path: PathBuf,
    is_renamed: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, BackupError> {
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{}{PARTIAL}", std::process::id()));
        let path = PathBuf::from(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let partial = Self { file, path, is_renamed: false };
        // As long as the lock is held nobody takes it for abandoned ([`abandoned`]). Where there are no locks nobody does.
        if let Err(error) = flock(&partial.file, FlockOperation::NonBlockingLockExclusive) {
            tracing::debug!(%error, "the unfinished backup can't be locked");
        }
        Ok(partial)
    }

    /// Gives it its name, for good: the folder is on the disk too.
    fn rename(mut self, target: &Path) -> Result<(), BackupError> {
        std::fs::rename(&self.path, target)?;
        self.is_renamed = true;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_renamed
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "the unfinished backup can't be removed");
        }
    }
}

/// Fills a database from a backup that has been checked; it is read and checked again on the way, and only the end of a
/// whole file makes the database keep what it was given. `progress` counts the bytes read. `replace`: what is in the
/// database is deleted.
///
/// # Errors
/// When the file is not whole, the database not empty or in use, or fails. Then it is as it was before.
pub async fn restore(
    store: Arc<dyn Store>,
    path: &Path,
    replace: bool,
    progress: Arc<AtomicU64>,
) -> Result<(), BackupError> {
    let (to, from) = mpsc::channel(QUEUE);
    let loading = tokio::spawn(async move { store.load(from, replace).await });
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_pieces(&path, &to, &progress));
    let (loaded, read) = tokio::join!(loading, reading);
    let outcome = loaded.map_err(|_| BackupError::Crashed)??;
    match outcome {
        LoadOutcome::NotEmpty { accounts } => return Err(BackupError::NotEmpty(accounts)),
        LoadOutcome::InUse => return Err(BackupError::InUse),
        // The reader of the file knows why the stream ended early.
        LoadOutcome::Loaded | LoadOutcome::Abandoned => read.map_err(|_| BackupError::Crashed)??,
    }
    if outcome == LoadOutcome::Loaded { Ok(()) } else { Err(BackupError::Crashed) }
}

/// Hands over what is in a file. If nobody takes any more, the other side knows why.
fn read_pieces(path: &Path, to: &mpsc::Sender<Piece>, progress: &AtomicU64) -> Result<(), BackupError> {
    let send = |piece| to.blocking_send(piece).map_err(|_| BackupError::Crashed);
    let mut reader = Reader::open(path, progress)?;
    let header = &reader.header;
    let number = |table: &&str| header.numbers.iter().find(|(name, _)| name == table).map_or(0, |(_, number)| *number);
    let numbers = NUMBERED.iter().map(number).collect();
    send(Piece::Begin(Snapshot { taken_at_ms: header.taken_at, numbers, approximate_rows: 0 }))?;
    while let Some(mut section) = reader.next()? {
        send(Piece::Table(section.table, section.columns.clone()))?;
        let mut batch = Batch::default();
        while let Some(row) = section.row()? {
            batch.add(row).map_or(Ok(()), send)?;
        }
        batch.rest().map_or(Ok(()), send)?;
        reader = section.finish()?;
    }
    send(Piece::End)
}
