//! Free space on the disk of the embedded database: when it runs low new data is refused, so that existing data can
//! still be read, exported and deleted. A full disk would stop all of that.
//!
//! Checked every few seconds, never during a request. The disk of a PostgreSQL server is not monitored: on a full one
//! the database refuses writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Database};

/// How often the disk is checked: often enough that requests don't use up the required free space in between.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The state of the disk. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Disk(Option<Arc<Watched>>);

#[derive(Debug)]
struct Watched {
    folder: PathBuf,
    least_bytes: u64,
    is_low: AtomicBool,
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
        if least_bytes == 0 {
            return Self::default();
        }
        let folder = folder.to_owned();
        let disk = Self(Some(Arc::new(Watched { folder, least_bytes, is_low: AtomicBool::new(false) })));
        disk.look();
        disk
    }

    /// Whether there is too little free space for new data.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.0.as_ref().is_some_and(|disk| disk.is_low.load(Ordering::Relaxed))
    }

    /// Checks. On failure the state stays as it was.
    fn look(&self) {
        let Some(disk) = &self.0 else { return };
        let free_bytes = match rustix::fs::statvfs(&disk.folder) {
            Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
            Err(error) => {
                tracing::debug!(%error, "the room on the database's disk is not known");
                return;
            }
        };
        let is_low = free_bytes < disk.least_bytes;
        metrics::gauge!("supersync_disk_refuses_data").set(if is_low { 1.0 } else { 0.0 });
        if disk.is_low.swap(is_low, Ordering::Relaxed) != is_low {
            if is_low {
                tracing::error!(free_bytes, "the disk is nearly full: new data is refused");
            } else {
                tracing::info!(free_bytes, "there is room on the disk again: new data is taken");
            }
        }
    }

    /// Checks periodically until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        if self.0.is_none() {
            metrics::gauge!("supersync_disk_refuses_data").set(0.0);
            return;
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watching = async {
            loop {
                looks.tick().await;
                let disk = self.clone();
                // The folder may be on a network; the panic hook reports a panic.
                let _ = tokio::task::spawn_blocking(move || disk.look()).await;
            }
        };
        cancel.run_until_cancelled(watching).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_low_when_less_is_free_than_must_be() {
        let folder = std::env::temp_dir();
        assert!(Disk::watched(&folder, u64::MAX).is_low());
        assert!(!Disk::watched(&folder, 1).is_low());
        assert!(!Disk::watched(&folder, 0).is_low());
        assert!(!Disk::watched(Path::new("/nonexistent/folder"), u64::MAX).is_low(), "not known");
        assert!(!Disk::default().is_low());
    }

    #[test]
    fn what_was_seen_is_put_right_by_the_next_look() {
        let disk = Disk::watched(&std::env::temp_dir(), u64::MAX);
        let Some(watched) = &disk.0 else { panic!("watched") };
        watched.is_low.store(false, Ordering::Relaxed);
        disk.look();
        assert!(disk.is_low());
    }
}
