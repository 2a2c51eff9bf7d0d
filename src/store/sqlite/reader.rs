//! Who reads logs: a few threads with a connection each, whose statements stay prepared and whose rows are decoded where
//! they lie.
//!
//! A statement sees one state of the database, and holds on to it only while it runs: between two of them checkpoints may
//! go on. Nothing here writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Params};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::columns::Columns;
use super::thread::Threads;
use crate::store::error::waited;
use crate::store::{PoolUse, Result, StoreError};

/// Prepared statements that stay ready on each connection: all that logs are read with.
pub(super) const STATEMENTS: usize = 18;

/// The threads, each of which has one reader at most.
#[derive(Debug)]
pub(super) struct Readers {
    threads: Threads,
    free: Arc<Semaphore>,
    count: usize,
    patience: Duration,
}

/// A connection that reads, while somebody waits for what it reads.
pub(super) struct Reader<'a> {
    connection: &'a Connection,
    is_abandoned: &'a CancellationToken,
}

impl Readers {
    /// `threads` are so many. Nobody waits for one longer than `patience`.
    pub(super) fn new(threads: Threads, count: usize, patience: Duration) -> Self {
        Self { threads, free: Arc::new(Semaphore::new(count)), count, patience }
    }

    /// How many are reading.
    pub(super) fn in_use(&self, name: &'static str) -> PoolUse {
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        let busy = self.count.saturating_sub(self.free.available_permits());
        PoolUse { name, busy: number(busy), most: number(self.count) }
    }

    /// Reads on one of the threads.
    ///
    /// # Errors
    /// What the work returns; [`StoreError::Unavailable`]: no thread became free, or closed.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reader<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let since = Instant::now();
        let free = tokio::time::timeout(self.patience, Arc::clone(&self.free).acquire_owned()).await;
        waited("logs", since);
        let free = free.map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))?;
        let free = free.map_err(|_| StoreError::Unavailable(sqlx::Error::PoolClosed))?;
        let is_abandoned = CancellationToken::new();
        let _abandons = is_abandoned.clone().drop_guard();
        self.threads
            .run(move |connection| {
                let _free = free;
                let reader = Reader { connection, is_abandoned: &is_abandoned };
                reader.check_wanted()?;
                work(&reader)
            })
            .await
            // It changed nothing, whatever became of it.
            .map_err(StoreError::made_unapplied)
    }

    /// Lets those read who have a thread, and ends the threads.
    pub(super) async fn close(&self) {
        self.free.close();
        self.threads.close().await;
    }
}

impl Reader<'_> {
    /// Runs a statement and hands over its rows until it has no more or `each` says `false`.
    ///
    /// # Errors
    /// What the database says, or `each`.
    pub(super) fn rows(
        &self,
        sql: &'static str,
        params: impl Params,
        mut each: impl FnMut(Columns<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            if !each(Columns(row))? {
                break;
            }
        }
        Ok(())
    }

    /// All rows of a statement.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub(super) fn all<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        mut decode: impl FnMut(Columns<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        self.rows(sql, params, |row| {
            all.push(decode(row)?);
            Ok(true)
        })?;
        Ok(all)
    }

    /// The first row of a statement.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub(super) fn first<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        mut decode: impl FnMut(Columns<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut first = None;
        self.rows(sql, params, |row| {
            first = Some(decode(row)?);
            Ok(false)
        })?;
        Ok(first)
    }

    /// Between the statements of a long read: whether anybody still waits for it.
    ///
    /// # Errors
    /// When nobody does; nobody hears it.
    pub(super) fn check_wanted(&self) -> Result<()> {
        if self.is_abandoned.is_cancelled() {
            return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn readers(patience: Duration) -> Arc<Readers> {
        let threads = Threads::start("test", 1, Connection::open_in_memory).expect("a thread");
        Arc::new(Readers::new(threads, 1, patience))
    }

    #[tokio::test]
    async fn rows_are_read_until_enough() {
        let readers = readers(Duration::from_secs(10));
        let (some, first, none) = readers
            .read(|reader| {
                let sql = "SELECT value FROM json_each(?1)";
                let mut some = Vec::new();
                reader.rows(sql, ["[1,2,3]"], |row| {
                    some.push(row.try_get::<i64, _>(0)?);
                    Ok(some.len() < 2)
                })?;
                let first = reader.first(sql, ["[4,5]"], |row| row.try_get::<i64, _>(0))?;
                Ok((some, first, reader.first(sql, ["[]"], |row| row.try_get::<i64, _>(0))?))
            })
            .await
            .expect("it reads");
        assert_eq!((some, first, none), (vec![1, 2], Some(4), None));
    }

    #[tokio::test]
    async fn who_finds_no_free_thread_gives_up_and_who_went_away_is_not_read_for() {
        let readers = readers(Duration::from_millis(1));
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (go_on, waits) = channel::<()>();
        let (done, outcome) = channel();
        let long = tokio::spawn({
            let readers = Arc::clone(&readers);
            async move {
                let read = readers.read(move |reader| {
                    begun.send(()).expect("somebody waits");
                    waits.recv().expect("somebody sends");
                    done.send(reader.check_wanted()).expect("somebody waits");
                    Ok(())
                });
                read.await
            }
        });
        begins.await.expect("it begins");
        let error = readers.read(|_| Ok(())).await.expect_err("the only thread is taken");
        assert!(matches!(error, StoreError::Unavailable(sqlx::Error::PoolTimedOut)), "{error}");
        long.abort();
        assert!(long.await.expect_err("aborted").is_cancelled());
        go_on.send(()).expect("it waits");
        let outcome = tokio::task::spawn_blocking(move || outcome.recv()).await.expect("no panic");
        assert!(outcome.expect("it ends").is_err(), "it notices that nobody waits");
        readers.close().await;
        let error = readers.read(|_| Ok(())).await.expect_err("closed");
        assert!(matches!(error, StoreError::Unavailable(sqlx::Error::PoolClosed)), "{error}");
    }

    #[tokio::test]
    async fn a_panic_while_reading_leaves_no_doubt() {
        let readers = readers(Duration::from_secs(10));
        let error = readers.read::<()>(|_| panic!("injected")).await.expect_err("it panicked");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert_eq!(readers.read(|_| Ok(1)).await.expect("the next one is served"), 1);
    }
}
