//! Checkpoints: moving committed pages from the write-ahead log into the database file, away from the commits that wait
//! for their acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::store::Result;

/// How long commits gather before a checkpoint: each one costs two flushes to disk.
const PAUSE: Duration = Duration::from_millis(500);
/// From this length of the write-ahead log on (64 MiB at 4 KiB per page) a checkpoint makes the writer wait for a
/// moment and start the log over; else a busy writer would outrun the checkpoints and the log would grow without end.
const RESTART_PAGES: i64 = 16_384;
/// How long such a checkpoint may wait for readers, and commits for it.
const MAX_STALL: Duration = Duration::from_millis(250);

/// The background task.
#[derive(Debug)]
pub(super) struct Checkpointer {
    written: Arc<Notify>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpointer {
    /// Starts the task with a connection of its own.
    pub(super) async fn start(options: SqliteConnectOptions, writer: SqlitePool) -> Result<Self> {
        let connection = options.busy_timeout(MAX_STALL).pragma("wal_autocheckpoint", "0").connect().await?;
        let written = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(connection, writer, Arc::clone(&written), stop.clone()));
        Ok(Self { written, stop, task: Mutex::new(Some(task)) })
    }

    /// Something was committed.
    pub(super) fn wake(&self) {
        self.written.notify_one();
    }

    /// Stops the task and waits for it.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the checkpoint task failed");
        }
    }

    /// Moves everything into the file and empties the log; for the end.
    pub(super) async fn truncate(&self, writer: &SqlitePool) {
        if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(writer).await {
            tracing::warn!(%error, "final checkpoint failed; the next start reads the write-ahead log instead");
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(mut connection: SqliteConnection, writer: SqlitePool, written: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = written.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(PAUSE) => {}
        }
        if let Err(error) = checkpoint(&mut connection, &writer).await {
            // Nothing is lost: the log keeps what was not moved, and the next commit wakes this task again.
            tracing::warn!(%error, "checkpoint failed");
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "closing the checkpoint connection failed");
    }
}

async fn checkpoint(connection: &mut SqliteConnection, writer: &SqlitePool) -> Result<()> {
    let row = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut *connection).await?;
    let pages: i64 = row.try_get(1)?;
    metrics::gauge!("supersync_sqlite_wal_pages").set(f64::from(i32::try_from(pages).unwrap_or(i32::MAX)));
    if pages >= RESTART_PAGES {
        // While the writer is held nothing is added, and little is left after the passive one, so this is short. If a
        // slow reader still needs the log it gives up after MAX_STALL, and the next round tries again.
        let held = writer.acquire().await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(connection).await?;
        drop(held);
    }
    Ok(())
}
