//! Room for new data: on a full disk it is refused, so that existing data can still be read, exported and deleted.
//!
//! Two things say that a disk is full: the database, by refusing a commit, and, for the embedded database, the free space of
//! its disk, which is checked every few seconds and never during a request. What the database has said holds until
//! it has stored a megabyte on trial.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Database};
use crate::store::Store;

/// How often the disk is checked. Requests can't write the minimum of free space in that time.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The state of the disk. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// The folder whose disk is watched, and how many bytes must be free there.
    watched: Option<(PathBuf, u64)>,
    /// Less is free.
    is_low: AtomicBool,
    /// The database has refused data for want of room.
    has_refused: AtomicBool,
}

impl Disk {
    /// The disk of the configured database, checked once.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        match &config.database {
            Database::Sqlite { path } => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                Self::watched(folder.unwrap_or(Path::new(".")), config.limits.min_free_disk_bytes)
            }
            Database::Postgres { .. } => Self::default(),
        }
    }

    /// The disk of a folder; new data is refused with less free space than this. 0: never.
    #[must_use]
    pub fn watched(folder: &Path, least_bytes: u64) -> Self {
        let watched = (least_bytes > 0).then(|| (folder.to_owned(), least_bytes));
        let disk = Self(Arc::new(State { watched, ..State::default() }));
        disk.look();
        disk
    }

    /// Whether there is too little room for new data.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.is_low.load(Ordering::Relaxed) || self.0.has_refused.load(Ordering::Relaxed)
    }

    /// The database has refused data for want of room.
    pub fn refused(&self) {
        if !self.0.has_refused.swap(true, Ordering::Relaxed) {
            tracing::error!("the database's disk is full: new data is refused until there is room");
            self.show();
        }
    }

    fn show(&self) {
        metrics::gauge!("supersync_disk_refuses_data").set(if self.is_full() { 1.0 } else { 0.0 });
    }

    /// Checks. On failure the state stays as it was.
    fn look(&self) {
        if let Some((folder, least_bytes)) = &self.0.watched {
            match free_bytes(folder) {
                Ok(free_bytes) => self.found(free_bytes, *least_bytes),
                Err(error) => tracing::debug!(%error, "the room on the database's disk is not known"),
            }
        }
        self.show();
    }

    fn found(&self, free_bytes: u64, least_bytes: u64) {
        let is_low = free_bytes < least_bytes;
        if self.0.is_low.swap(is_low, Ordering::Relaxed) != is_low {
            if is_low {
                tracing::error!(free_bytes, "the disk is nearly full: new data is refused");
            } else {
                tracing::info!(free_bytes, "there is room on the disk again: new data is taken");
            }
        }
    }

    /// Checks periodically until cancelled.
    pub async fn run(self, store: Arc<dyn Store>, cancel: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watching = async {
            loop {
                looks.tick().await;
                let disk = self.clone();
                // The folder may be on a network; the panic hook reports a panic.
                let _ = tokio::task::spawn_blocking(move || disk.look()).await;
                self.try_room(&*store).await;
            }
        };
        cancel.run_until_cancelled(watching).await;
    }

    async fn try_room(&self, store: &dyn Store) {
        if !self.0.has_refused.load(Ordering::Relaxed) {
            return;
        }
        match store.try_room().await {
            Ok(()) => {
                self.0.has_refused.store(false, Ordering::Relaxed);
                tracing::info!("the database stores data again: new data is taken");
                self.show();
            }
            Err(error) => tracing::debug!(%error, "the database still stores nothing"),
        }
    }
}

fn free_bytes(folder: &Path) -> rustix::io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_when_less_is_free_than_must_be() {
        let folder = std::env::temp_dir();
        assert!(Disk::watched(&folder, u64::MAX).is_full());
        assert!(!Disk::watched(&folder, 1).is_full());
        assert!(!Disk::watched(&folder, 0).is_full());
        assert!(!Disk::watched(Path::new("/nonexistent/folder"), u64::MAX).is_full(), "not known");
        assert!(!Disk::default().is_full());
    }

    #[test]
    fn what_was_seen_is_put_right_by_the_next_look() {
        let disk = Disk::watched(&std::env::temp_dir(), u64::MAX);
        disk.0.is_low.store(false, Ordering::Relaxed);
        disk.look();
        assert!(disk.is_full());
    }

    #[test]
    fn a_refusal_holds_whatever_is_free() {
        let disk = Disk::watched(&std::env::temp_dir(), 1);
        disk.refused();
        disk.look();
        assert!(disk.is_full());
    }
}
