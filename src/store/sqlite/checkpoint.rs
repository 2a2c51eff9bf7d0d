//! Checkpoints: moving committed pages from the write-ahead log into the database file, away from the commits that wait
//! for their acknowledgement.
//!
//! A checkpoint that runs beside the commits never quite catches up with them, and only when it has does the log start
//! over at its beginning. So when the log has grown long, the last few pages are moved while the writer is held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::thread::Threads;
use super::writer::Writer;
use crate::store::Result;

/// How long commits gather before a checkpoint: each one costs two flushes to disk.
const PAUSE: Duration = Duration::from_millis(200);
/// From this length of the write-ahead log on (32 MiB at 4 KiB per page) commits wait for the rest of the checkpoint, so
/// that the log starts over; else a busy writer would outrun the checkpoints and it would grow without end.
const RESTART_PAGES: i64 = 8192;

/// The background task.
#[derive(Debug)]
pub(super) struct Checkpointer {
    written: Arc<Notify>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Checkpointer {
    /// Starts the task. `thread` is one with a connection that nobody else uses.
    pub(super) fn start(thread: Threads, writer: Arc<Writer>) -> Self {
        let written = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(thread, writer, Arc::clone(&written), stop.clone()));
        Self { written, stop, task: Mutex::new(Some(task)) }
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
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(thread: Threads, writer: Arc<Writer>, written: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = written.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(PAUSE) => {}
        }
        if let Err(error) = checkpoint(&thread, &writer).await {
            // Nothing is lost: the log keeps what was not moved, and the next commit wakes this task again.
            tracing::warn!(%error, "checkpoint failed");
        }
    }
    thread.close().await;
}

async fn checkpoint(thread: &Threads, writer: &Writer) -> Result<()> {
    let pages = thread.run(passive).await?;
    metrics::gauge!("supersync_sqlite_wal_pages").set(f64::from(i32::try_from(pages).unwrap_or(i32::MAX)));
    if pages >= RESTART_PAGES {
        // What was added meanwhile is moved first, so that little is left for the moment in which commits wait.
        thread.run(passive).await?;
        let turn = writer.acquire().await?;
        let held = Instant::now();
        thread.run(passive).await?;
        drop(turn);
        tracing::debug!(held = ?held.elapsed(), "the write-ahead log starts over");
    }
    Ok(())
}

/// Moves what can be moved without waiting for anybody. Returns how many pages the log has.
fn passive(connection: &mut Connection) -> Result<i64> {
    Ok(connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |row| row.get(1))?)
}
