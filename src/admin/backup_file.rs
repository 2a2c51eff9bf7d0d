//! Backup files as commands write and read them: with a bar, and with their name in what goes wrong.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::ProgressBar;

use super::failure::{CommandError as _, Exit, Failure};
use super::progress;
use crate::backup::{self, BackupError, Checked, Draft, Progress};
use crate::config::Config;
use crate::store::{self, Store, StoreError};

/// What goes wrong with this file: it can't be written, read, or relied on.
pub(super) fn of<E: Into<BackupError>>(path: &Path) -> impl FnOnce(E) -> Failure {
    move |error| {
        let error = error.into();
        let exit = match &error {
            BackupError::Io(error) if error.kind() == ErrorKind::NotFound => Exit::NotFound,
            BackupError::NotEmpty(_) | BackupError::InUse => Exit::Refused,
            BackupError::Store(error) => error.exit(),
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("{}: {error}", path.display()))
    }
}

/// Whether the configured database, which must be there, is of this program's version. Neither makes one nor changes one
/// that an older server may be using.
pub(super) async fn is_current(config: &Config) -> Result<bool, StoreError> {
    Ok(store::existing_status(&config.database).await?.iter().all(|migration| migration.applied))
}

/// Writes what the database holds. The file has not got its name yet.
pub(super) async fn write(store: &Arc<dyn Store>, path: &Path) -> Result<Draft, Failure> {
    let so_far = Arc::new(Progress::default());
    let writing = backup::write(Arc::clone(store), path, Arc::clone(&so_far));
    let written = progress::watch(progress::bar(0, "rows"), writing, |bar| {
        let rows = so_far.rows.load(Ordering::Relaxed);
        bar.set_length(so_far.of_about.load(Ordering::Relaxed).max(rows));
        bar.set_position(rows);
    });
    written.await.map_err(of(path))
}

/// Reads it to its end.
pub(super) async fn check(path: &Path) -> Result<Checked, BackupError> {
    let bytes = Arc::new(AtomicU64::new(0));
    let bar = bytes_bar(path)?;
    let (file, counter) = (path.to_owned(), Arc::clone(&bytes));
    let checking = tokio::task::spawn_blocking(move || backup::check(&file, &counter));
    let checked = progress::watch(bar, checking, |bar| bar.set_position(bytes.load(Ordering::Relaxed))).await;
    checked.unwrap_or(Err(BackupError::Crashed))
}

/// A bar as long as the file.
pub(super) fn bytes_bar(path: &Path) -> std::io::Result<ProgressBar> {
    let size = std::fs::metadata(path)?.len();
    Ok(progress::bar(usize::try_from(size).unwrap_or(usize::MAX), "bytes"))
}
