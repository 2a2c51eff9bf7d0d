//! Figures that nobody records in passing because they describe a state: connections in use, how much the database holds,
//! room on the disk, the age of the newest backup. Looks now and then and sets the gauges; a look that fails leaves what
//! was seen before, and [`LOOKED`](self) tells how old that is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::gauge;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::store::{Holdings, PoolUse, Store, StoreError};

/// How often connections and room are looked at: between two scrapes of the usual interval.
const GLANCE_EVERY: Duration = Duration::from_secs(5);
/// How often the database's contents are: that walks over all accounts.
const COUNT_EVERY: Duration = Duration::from_mins(5);
/// Names of files that are still being written end in this.
const UNFINISHED: [&str; 4] = [".part", ".partial", ".tmp", ".faulty"];

/// Keeps the gauges up to date.
pub struct Gauges {
    store: Arc<dyn Store>,
    data_dir: PathBuf,
    backup_dir: Option<PathBuf>,
    /// Where the database lies on this machine.
    database_dirs: Vec<PathBuf>,
}

impl Gauges {
    /// Of this database and what the configuration names.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, config: &Config) -> Self {
        let (data_dir, backup_dir) = (config.data_dir.clone(), config.backup_dir.clone());
        Self { store, data_dir, backup_dir, database_dirs: Vec::new() }
    }

    /// Looks now and then until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (mut glances, mut counts) = (interval(GLANCE_EVERY), interval(COUNT_EVERY));
        glances.set_missed_tick_behavior(MissedTickBehavior::Delay);
        counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = glances.tick() => self.glance().await,
                _ = counts.tick() => match self.count().await {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(%error, "what the database holds could not be counted"),
                },
            }
        }
    }

    async fn glance(&self) {
        for PoolUse { name, busy, most } in self.store.pools() {
            gauge!("supersync_store_connections_busy", "pool" => name).set(f64::from(busy));
            gauge!("supersync_store_connections_max", "pool" => name).set(f64::from(most));
        }
        let (data_dir, backup_dir) = (self.data_dir.clone(), self.backup_dir.clone());
        let database_dirs = self.database_dirs.clone();
        let look = move || {
            look_at_disks(&data_dir, &database_dirs);
            if let Some(backup_dir) = backup_dir {
                match newest_file(&backup_dir) {
                    Ok(newest) => {
                        let (written, bytes) = newest.map_or((0.0, 0.0), |(at, bytes)| (at, float(bytes)));
                        gauge!("supersync_backup_last_success_timestamp_seconds").set(written);
                        gauge!("supersync_backup_last_bytes").set(bytes);
                    }
                    Err(error) => tracing::debug!(%error, "BACKUP_DIR can't be read"),
                }
            }
        };
        // Folders may lie on a network; a look that panics is told by the panic hook.
        let _ = tokio::task::spawn_blocking(look).await;
    }

    async fn count(&mut self) -> Result<(), StoreError> {
        self.database_dirs = self.store.folders().await?;
        let Holdings {
            accounts,
            accounts_near_quota,
            used_bytes,
            quota_bytes,
            archives,
            archive_bytes,
            database_bytes,
            wal_bytes,
        } = self.store.holdings().await?;
        gauge!("supersync_accounts").set(signed(accounts));
        gauge!("supersync_accounts_near_quota").set(signed(accounts_near_quota));
        gauge!("supersync_storage_used_bytes").set(signed(used_bytes));
        gauge!("supersync_storage_quota_bytes").set(signed(quota_bytes));
        gauge!("supersync_archives").set(signed(archives));
        gauge!("supersync_archive_bytes").set(signed(archive_bytes));
        gauge!("supersync_database_bytes").set(signed(database_bytes));
        if let Some(wal_bytes) = wal_bytes {
            gauge!("supersync_database_wal_bytes").set(signed(wal_bytes));
        }
        gauge!("supersync_holdings_counted_timestamp_seconds").set(unix_seconds(SystemTime::now()));
        Ok(())
    }
}

/// Of several disks of the database the fullest counts.
fn look_at_disks(data_dir: &Path, database_dirs: &[PathBuf]) {
    if let Some((free, size)) = room(data_dir) {
        gauge!("supersync_disk_free_bytes").set(free);
        gauge!("supersync_disk_size_bytes").set(size);
    }
    let fullest = database_dirs
        .iter()
        .filter_map(|folder| room(folder))
        .min_by(|(free, size), (other, of)| (free / size).total_cmp(&(other / of)));
    if let Some((free, size)) = fullest {
        gauge!("supersync_database_disk_free_bytes").set(free);
        gauge!("supersync_database_disk_size_bytes").set(size);
    }
}

/// Free bytes and size of the disk that a folder lies on.
fn room(folder: &Path) -> Option<(f64, f64)> {
    match rustix::fs::statvfs(folder) {
        Ok(stat) => {
            let bytes = |blocks: u64| float(blocks.saturating_mul(stat.f_frsize));
            Some((bytes(stat.f_bavail), bytes(stat.f_blocks)))
        }
        Err(error) => {
            tracing::debug!(%error, folder = %folder.display(), "the room on a disk is not known");
            None
        }
    }
}

/// When the newest file of a folder was written, Unix seconds, and its length. Hidden and unfinished ones don't count.
fn newest_file(folder: &Path) -> io::Result<Option<(f64, u64)>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let file = entry.metadata()?;
        if !file.is_file() || name.starts_with('.') || UNFINISHED.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        let written = file.modified()?;
        if newest.is_none_or(|(at, _)| written > at) {
            newest = Some((written, file.len()));
        }
    }
    Ok(newest.map(|(at, bytes)| (unix_seconds(at), bytes)))
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a gauge's nature; exact up to eight petabytes")]
const fn float(n: u64) -> f64 {
    n as f64
}

fn signed(n: i64) -> f64 {
    float(u64::try_from(n).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_finished_file_counts() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(newest_file(folder.path()).expect("readable"), None);
        for (name, written, bytes) in
            [("old.ssb", 100, 1), ("new.ssb", 200, 2), ("newer.ssb.part", 300, 3), (".newest", 400, 4)]
        {
            let path = folder.path().join(name);
            fs::write(&path, vec![0; bytes]).expect("written");
            let file = fs::File::options().write(true).open(&path).expect("opened");
            file.set_modified(UNIX_EPOCH + Duration::from_secs(written)).expect("set");
        }
        fs::create_dir(folder.path().join("folder")).expect("made");
        assert_eq!(newest_file(folder.path()).expect("readable"), Some((200.0, 2)));
        assert!(newest_file(&folder.path().join("missing")).is_err());
    }
}
