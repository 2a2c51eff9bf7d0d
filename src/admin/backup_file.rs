//! Backup files as commands write and read them: with a bar, and with their name in what goes wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::ProgressBar;

use super::progress;
use crate::backup::{self, BackupError, Checked, Draft, Progress};
use crate::config::Config;
use crate::store::{self, Store, StoreError};

/// A file can't be written, read, or relied on.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct FileError {
    /// Which one.
    pub path: PathBuf,
    /// Why.
    pub error: BackupError,
}

/// What goes wrong with this file.
pub(super) fn of(path: &Path) -> impl FnOnce(BackupError) -> FileError {
    let path = path.to_owned();
    |error| FileError { path, error }
}

/// Whether the configured database, which must be there, is of this program's version. Neither makes one nor changes one
/// that an older server may be using.
pub(super) async fn is_current(config: &Config) -> Result<bool, StoreError> {
    Ok(store::existing_status(&config.database).await?.iter().all(|migration| migration.applied))
}

/// Writes what the database holds. The file has not got its name yet.
pub(super) async fn write(store: &Arc<dyn Store>, path: &Path) -> Result<Draft, FileError> {
    let so_far = Arc::new(Progress::default());
    let bar = progress::bar(0, "rows");
    let writing = backup::write(Arc::clone(store), path, Arc::clone(&so_far));
    let written = progress::watch(writing, || {
        let rows = so_far.rows.load(Ordering::Relaxed);
        bar.set_length(so_far.of_about.load(Ordering::Relaxed).max(rows));
        bar.set_position(rows);
    })
    .await;
    bar.finish_and_clear();
    written.map_err(of(path))
}

/// Reads it to its end.
pub(super) async fn check(path: &Path) -> Result<Checked, FileError> {
    let bytes = Arc::new(AtomicU64::new(0));
    let bar = bytes_bar(path)?;
    let (file, counter) = (path.to_owned(), Arc::clone(&bytes));
    let checking = tokio::task::spawn_blocking(move || backup::check(&file, &counter));
    let checked = progress::watch(checking, || bar.set_position(bytes.load(Ordering::Relaxed))).await;
    bar.finish_and_clear();
    checked.unwrap_or(Err(BackupError::Crashed)).map_err(of(path))
}

/// A bar as long as the file.
pub(super) fn bytes_bar(path: &Path) -> Result<ProgressBar, FileError> {
    let size = std::fs::metadata(path).map_err(|error| of(path)(error.into()))?.len();
    Ok(progress::bar(usize::try_from(size).unwrap_or(usize::MAX), "bytes"))
}
