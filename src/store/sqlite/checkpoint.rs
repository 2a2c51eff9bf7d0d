//! Checkpoints: moving committed pages from the write-ahead log into the database file, away from the commits that wait
//! for their acknowledgement.
//!
//! A checkpoint ends with a flush of the database file, and a commit's own flush waits for that one on the same disk. So a
//! busy writer is followed in small steps: what little has been written meanwhile is flushed in a few milliseconds. A
//! quiet one is left alone for longer, because each step costs two flushes.
//!
//! A checkpoint that runs beside the commits never quite catches up with them, and only when it has does the log start
//! over at its beginning. So when the log has grown long, checkpoints follow each other at once until next to nothing is
//! left, and that is moved while the writer is held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::thread::Threads;
use super::writer::Writer;
use crate::store::Result;

/// Pages that one checkpoint should have to move (about 2 MiB at 4 KiB each): how long commits gather before it follows
/// from how fast they have come. Fewer shorten the flush that commits wait for; more save the writing of pages that
/// change again and again.
const PAGES_AT_ONCE: u32 = 600;
/// How long commits gather at least.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// How long commits gather at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// From this length of the write-ahead log on (64 MiB) commits wait for the rest of the checkpoint, so that the log
/// starts over; else a busy writer would outrun the checkpoints and it would grow without end.
const RESTART_PAGES: u32 = 16_384;
/// So few pages are moved while commits wait,
const LAST_PAGES: u32 = 200;
/// unless they have not become so few in this many checkpoints without a pause.
const CATCH_UP_ROUNDS: usize = 12;

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
    let mut pace = Pace { pause: LONGEST_PAUSE, since: Instant::now(), moved: 0 };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = written.notified() => {}
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pace.pause) => {}
        }
        if let Err(error) = checkpoint(&thread, &writer, &mut pace).await {
            // Nothing is lost: the log keeps what was not moved, and the next commit wakes this task again.
            tracing::warn!(%error, "checkpoint failed");
        }
    }
    thread.close().await;
}

async fn checkpoint(thread: &Threads, writer: &Writer, pace: &mut Pace) -> Result<()> {
    let Some(mut log) = thread.run(passive).await? else { return Ok(()) };
    pace.follow(log.moved, Instant::now());
    metrics::gauge!("supersync_sqlite_wal_pages").set(log.pages);
    if log.pages < RESTART_PAGES {
        return Ok(());
    }
    for _ in 0..CATCH_UP_ROUNDS {
        let before = log.moved;
        log = match thread.run(passive).await? {
            Some(log) => log,
            None => return Ok(()),
        };
        if log.moved.saturating_sub(before) < LAST_PAGES {
            break;
        }
    }
    let turn = writer.acquire().await?;
    let held = Instant::now();
    thread.run(passive).await?;
    drop(turn);
    tracing::debug!(held = ?held.elapsed(), "the write-ahead log starts over");
    Ok(())
}

/// How long commits gather before the next checkpoint.
struct Pace {
    pause: Duration,
    /// When the last checkpoint ended,
    since: Instant,
    /// and how much of the log had been moved then.
    moved: u32,
}

impl Pace {
    /// A checkpoint ended `now`, after which so many pages of the log were moved.
    fn follow(&mut self, moved: u32, now: Instant) {
        // Less than before: the log started over.
        let step = moved.checked_sub(self.moved).unwrap_or(moved);
        let took = now.saturating_duration_since(self.since);
        let pause = took.saturating_mul(PAGES_AT_ONCE) / step.max(1);
        *self = Self { pause: pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE), since: now, moved };
    }
}

/// The write-ahead log after a checkpoint.
struct Log {
    /// Its length.
    pages: u32,
    /// How many of those, from its beginning, are in the database file too.
    moved: u32,
}

/// Moves what can be moved without waiting for anybody. `None`: somebody else does it at the moment, say another program
/// that has the file open; the next commit wakes this task again.
fn passive(connection: &mut Connection) -> Result<Option<Log>> {
    let mut statement = connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
    let (pages, moved): (i64, i64) = statement.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?;
    // SQLite says -1 when it could not look.
    Ok(u32::try_from(pages).ok().zip(u32::try_from(moved).ok()).map(|(pages, moved)| Log { pages, moved }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_can_not_be_looked_at_is_no_failure() {
        let mut connection = Connection::open_in_memory().expect("opens");
        assert!(passive(&mut connection).expect("no failure").is_none(), "a database in memory has none");
    }

    #[test]
    fn the_pause_follows_how_fast_pages_come() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace { pause: LONGEST_PAUSE, since: start, moved: 0 };
        pace.follow(1_000, at(100));
        assert_eq!(pace.pause, Duration::from_millis(60), "10 pages a millisecond");
        pace.follow(1_000, at(200));
        assert_eq!(pace.pause, LONGEST_PAUSE, "nothing was written");
        pace.follow(9_000, at(300));
        assert_eq!(pace.pause, SHORTEST_PAUSE);
        pace.follow(500, at(350));
        assert_eq!(pace.pause, Duration::from_millis(60), "the log started over");
    }
}
