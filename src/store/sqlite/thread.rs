//! Connections that each live on a thread of their own and do what is sent to them: a prepared statement costs a
//! function call there, where the driver's connections cost two changes of thread.
//!
//! Owns the threads. Work that was accepted runs to its end whatever becomes of the one who sent it. A panic in it costs
//! that piece of work and the connection, which is reopened; it never leaves anybody waiting.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::error::as_driver_error;
use crate::store::{Result, StoreError};

type Job = Box<dyn FnOnce(rusqlite::Result<&mut Connection>) + Send>;
type Open = dyn Fn() -> rusqlite::Result<Connection> + Send + Sync;

/// Threads with a connection each, behind one queue.
#[derive(Debug)]
pub(super) struct Threads {
    queue: Mutex<Option<Sender<Job>>>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Opens the connections and starts the threads. `name` is seen in the system's list of threads.
    ///
    /// # Errors
    /// When a connection or a thread can't be made.
    pub(super) fn start(
        name: &str,
        count: usize,
        open: impl Fn() -> rusqlite::Result<Connection> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (sender, receiver) = channel();
        let (receiver, open): (_, Arc<Open>) = (Arc::new(Mutex::new(receiver)), Arc::new(open));
        let mut handles = Vec::with_capacity(count);
        for _ in 0..count {
            let connection = open()?;
            let (jobs, open) = (Arc::clone(&receiver), Arc::clone(&open));
            let thread = std::thread::Builder::new().name(name.to_owned());
            let started = thread.spawn(move || serve(&jobs, connection, &*open));
            handles.push(started.map_err(|error| StoreError::Unavailable(sqlx::Error::Io(error)))?);
        }
        Ok(Self { queue: Mutex::new(Some(sender)), handles: Mutex::new(handles) })
    }

    /// Has a thread do the work and waits for the result. The work goes on even if the caller doesn't wait for it.
    ///
    /// # Errors
    /// What the work returns; [`StoreError::Unavailable`] if it was not begun; [`StoreError::Unknown`] if it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = connection.map_err(|error| StoreError::Unavailable(as_driver_error(error))).and_then(work);
            // Nobody may be waiting any more.
            answer.send(result).ok();
        });
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let closed = || StoreError::Unavailable(sqlx::Error::PoolClosed);
        queue.ok_or_else(closed)?.send(job).map_err(|_| closed())?;
        result.await.unwrap_or(Err(StoreError::Unknown(sqlx::Error::WorkerCrashed)))
    }

    /// Lets the threads finish what they were sent and ends them.
    pub(super) async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let handles = std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || handles.into_iter().all(|thread| thread.join().is_ok())).await;
        if !joined.unwrap_or(false) {
            tracing::error!("a thread of the embedded database failed");
        }
    }
}

/// Works through the queue until nobody can add to it any more.
fn serve(jobs: &Mutex<Receiver<Job>>, connection: Connection, open: &Open) {
    let mut connection = Some(connection);
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { break };
        let mut live = match connection.take().map_or_else(open, Ok) {
            Ok(live) => live,
            Err(error) => {
                job(Err(error));
                continue;
            }
        };
        let done = catch_unwind(AssertUnwindSafe(|| job(Ok(&mut live))));
        // What was left half done goes with the connection.
        if done.is_ok() && live.is_autocommit() {
            connection = Some(live);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads() -> Threads {
        Threads::start("test", 1, Connection::open_in_memory).expect("a thread")
    }

    #[tokio::test]
    async fn a_panic_costs_one_piece_of_work_and_the_connection() {
        let threads = threads();
        threads.run(|connection| Ok(connection.execute_batch("CREATE TABLE t (x)")?)).await.expect("it works");
        let error = threads.run::<()>(|_| panic!("injected")).await.expect_err("it panicked");
        assert!(matches!(error, StoreError::Unknown(_)), "{error:?}");
        let count = |connection: &mut Connection| {
            Ok(connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?)
        };
        assert_eq!(threads.run(count).await.expect("it works again"), 0, "a new connection");
        threads.close().await;
    }

    #[tokio::test]
    async fn a_transaction_left_open_does_not_reach_the_next() {
        let threads = threads();
        threads.run(|connection| Ok(connection.execute_batch("BEGIN")?)).await.expect("it works");
        let open = threads.run(|connection| Ok(connection.is_autocommit())).await;
        assert!(open.expect("it works"), "no transaction is open");
        threads.close().await;
    }

    #[tokio::test]
    async fn what_was_sent_before_closing_is_done_and_nothing_after() {
        let threads = threads();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let first = threads.run(move |_| Ok(wait.recv().is_ok()));
        let second = threads.run(|_| Ok(2));
        let close = async {
            release.send(()).expect("the first waits for it");
            threads.close().await;
        };
        let (first, second, ()) = tokio::join!(first, second, close);
        assert!(first.expect("done"));
        assert_eq!(second.expect("done"), 2);
        let error = threads.run(|_| Ok(())).await.expect_err("closed");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_opened_again_is_reported() {
        let opened = std::sync::atomic::AtomicBool::new(false);
        let threads = Threads::start("test", 1, move || {
            if opened.swap(true, std::sync::atomic::Ordering::SeqCst) {
                Connection::open("/nowhere/at/all")
            } else {
                Connection::open_in_memory()
            }
        });
        let threads = threads.expect("a thread");
        threads.run::<()>(|_| panic!("injected")).await.expect_err("it panicked");
        for _ in 0..2 {
            let error = threads.run(|_| Ok(())).await.expect_err("no connection");
            assert!(matches!(error, StoreError::Unavailable(sqlx::Error::Database(_))), "{error:?}");
        }
        threads.close().await;
    }
}
