//! Who writes: a connection of ours for the commits of logs, and one of the driver's for everything else.
//!
//! `SQLite` has one writer at a time, and waiting in our queue is fairer than in its busy loop: whoever writes has the
//! turn, first come, first served, and with it both connections. Another program (the command line beside a server, a
//! backup) is waited for in the busy loop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};

use super::archives::store_part;
use super::commit::Lane;
use super::error::as_driver_error;
use super::payload::{self, Staged};
use crate::protocol::{Seq, UserId};
use crate::store::error::waited;
use crate::store::group::commit_now;
use crate::store::{Commit, CommitOutcome, PoolUse, Result, StagedPart, StoreError};

/// How long somebody waits for the turn. Only commits stand before it, so this is a sign that something is stuck.
const PATIENCE: Duration = Duration::from_mins(1);

/// Both writing connections and the turn to use them.
#[derive(Debug)]
pub(super) struct Writer {
    connections: Arc<Mutex<Option<Connections>>>,
}

/// Which thread may block.
#[derive(Clone, Copy, Debug)]
enum Where {
    /// The caller's.
    Here,
    /// One that blocks for others.
    Elsewhere,
}

/// Whoever has the turn has these.
pub(super) struct Connections {
    driver: SqliteConnection,
    /// `None`: the next commit opens it.
    direct: Option<Connection>,
    open: Box<dyn Fn() -> rusqlite::Result<Connection> + Send>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// The turn: while it is held nobody else of this process writes. Gives the driver's connection.
pub(super) type Turn = OwnedMappedMutexGuard<Option<Connections>, SqliteConnection>;

impl Writer {
    /// `open` makes a connection of ours to the same file.
    ///
    /// # Errors
    /// When it can't be made.
    pub(super) fn new(
        driver: SqliteConnection,
        open: impl Fn() -> rusqlite::Result<Connection> + Send + 'static,
    ) -> Result<Self> {
        let direct = Some(open()?);
        let connections = Connections { driver, direct, open: Box::new(open) };
        Ok(Self { connections: Arc::new(Mutex::new(Some(connections))) })
    }

    /// Whether somebody writes.
    pub(super) fn in_use(&self, name: &'static str) -> PoolUse {
        PoolUse { name, busy: u32::from(self.connections.try_lock().is_err()), most: 1 }
    }

    /// Waits for the turn.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: not within a minute, or closed.
    pub(super) async fn acquire(&self) -> Result<Turn> {
        self.turn(|connections| &mut connections.driver).await
    }

    async fn turn<T>(
        &self,
        part: impl FnOnce(&mut Connections) -> &mut T,
    ) -> Result<OwnedMappedMutexGuard<Option<Connections>, T>> {
        let since = Instant::now();
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.connections).lock_owned()).await;
        waited("writer", since);
        let turn = turn.map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))?;
        OwnedMutexGuard::try_map(turn, |connections| connections.as_mut().map(part))
            .map_err(|_| StoreError::Unavailable(sqlx::Error::PoolClosed))
    }

    /// Applies a group of commits. What has begun goes on even if the caller is gone.
    ///
    /// # Errors
    /// As [`crate::store::LogStore::commit`] says.
    pub(super) async fn commit(&self, group: &Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        self.apply(group, Where::Elsewhere).await
    }

    /// The same on the calling thread, which blocks once the turn has come.
    ///
    /// # Errors
    /// As [`crate::store::LogStore::commit`] says.
    pub(super) async fn commit_here(&self, group: &Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        self.apply(group, Where::Here).await
    }

    /// Large payloads are written ahead, in parts, and others may have the turn after each.
    async fn apply(&self, group: &Arc<[Commit]>, thread: Where) -> Result<Vec<CommitOutcome>> {
        let mut staged = Staged::default();
        let outcomes = match self.stage(Staged::due(group), &mut staged, thread).await {
            Ok(()) => {
                let (group, staged) = (Arc::clone(group), staged.clone());
                let work = move |connection: &mut Connection| commit_now(&mut Lane(connection, &staged), &group);
                self.run(thread, work).await
            }
            Err(error) => Err(error),
        };
        let all_stored =
            outcomes.as_ref().is_ok_and(|all| all.iter().all(|outcome| *outcome == CommitOutcome::Committed));
        if !all_stored {
            self.discard(&staged, thread).await;
        }
        outcomes
    }

    /// Deletes payloads that were written ahead of what turned out not to be stored.
    async fn discard(&self, staged: &Staged, thread: Where) {
        for id in staged.ids() {
            if let Err(error) = self.run(thread, move |connection| payload::discard(connection, id)).await {
                tracing::warn!(%error, "a payload that was not stored is left until the next start");
            }
        }
    }

    /// Writes a part of a data set that is being brought back, its large payloads ahead of it. `false`: it was given up.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn stage_part(&self, user: UserId, part: StagedPart) -> Result<bool> {
        let mut staged = Staged::default();
        let large = Staged::large(part.rows.iter().map(|op| (user, op)));
        let stored = match self.stage(large, &mut staged, Where::Elsewhere).await {
            Ok(()) => {
                let payloads = staged.clone();
                self.work(move |connection| store_part(connection, user, &part, &payloads)).await
            }
            Err(error) => Err(error),
        };
        if !matches!(stored, Ok(true)) {
            self.discard(&staged, Where::Elsewhere).await;
        }
        stored
    }

    /// Works on our connection while holding the turn, on a thread that may block.
    ///
    /// # Errors
    /// What the work says, or that there was no turn.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(Where::Elsewhere, work).await
    }

    async fn stage(&self, large: Vec<(UserId, Seq, Bytes)>, staged: &mut Staged, thread: Where) -> Result<()> {
        for (user, seq, payload) in large {
            let mut id = None;
            for (at, part) in payload::parts(&payload).enumerate() {
                let work = move |connection: &mut Connection| payload::put(connection, id, at, &part);
                let written = self.run(thread, work).await.map_err(StoreError::made_unapplied)?;
                if id.is_none() {
                    staged.add(user, seq, written);
                    id = Some(written);
                }
            }
        }
        Ok(())
    }

    /// Works on our connection while holding the turn.
    async fn run<T: Send + 'static>(
        &self,
        thread: Where,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut turn = self.turn(|connections| connections).await?;
        match thread {
            Where::Here => turn.directly(work),
            Where::Elsewhere => {
                let done = tokio::task::spawn_blocking(move || turn.directly(work)).await;
                done.unwrap_or(Err(StoreError::Unknown(sqlx::Error::WorkerCrashed)))
            }
        }
    }

    /// Waits for the turn a last time and closes the connections; `last` is done with the driver's before.
    pub(super) async fn close(&self, last: impl AsyncFnOnce(&mut SqliteConnection)) {
        let Some(Connections { mut driver, direct, .. }) = self.connections.lock().await.take() else { return };
        if let Some(Err((_, error))) = direct.map(Connection::close) {
            tracing::warn!(%error, "closing the connection of the commits failed");
        }
        last(&mut driver).await;
        if let Err(error) = driver.close().await {
            tracing::warn!(%error, "closing the writer's connection failed");
        }
    }
}

impl Connections {
    /// A panic, or a transaction left open, costs the connection: what was left half done goes with it.
    fn directly<T>(&mut self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let opened = self.direct.take().map_or_else(|| (self.open)(), Ok);
        let mut live = opened.map_err(|error| StoreError::Unavailable(as_driver_error(error)))?;
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut live)));
        if done.is_ok() && live.is_autocommit() {
            self.direct = Some(live);
        }
        done.unwrap_or(Err(StoreError::Unknown(sqlx::Error::WorkerCrashed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn writer() -> Writer {
        let driver = SqliteConnection::connect("sqlite::memory:").await.expect("a connection");
        Writer::new(driver, Connection::open_in_memory).expect("a connection")
    }

    /// Whether the connection is the one in which the table was made.
    fn has_table(connections: &mut Connections) -> bool {
        connections.directly(|connection| Ok(connection.prepare("SELECT x FROM t").is_ok())).expect("it works")
    }

    #[tokio::test]
    async fn what_was_left_half_done_goes_with_the_connection() {
        let writer = writer().await;
        let mut turn = writer.turn(|connections| connections).await.expect("it is free");
        turn.directly(|connection| Ok(connection.execute_batch("CREATE TABLE t (x)")?)).expect("it works");
        assert!(has_table(&mut turn));
        let error = turn.directly::<()>(|_| panic!("injected")).expect_err("it panicked");
        assert!(matches!(error, StoreError::Unknown(_)), "{error}");
        assert!(!has_table(&mut turn), "it is reopened");
        turn.directly(|connection| Ok(connection.execute_batch("BEGIN; CREATE TABLE t (x)")?)).expect("it works");
        assert!(!has_table(&mut turn), "it is reopened");
    }

    #[tokio::test]
    async fn a_turn_is_for_one_and_none_comes_after_the_end() {
        let writer = writer().await;
        let turn = writer.acquire().await.expect("it is free");
        assert!(Arc::clone(&writer.connections).try_lock_owned().is_err());
        drop(turn);
        writer.close(async |_| {}).await;
        for error in [
            writer.acquire().await.map(drop).expect_err("closed"),
            writer.commit(&[].into()).await.map(drop).expect_err("closed"),
            writer.commit_here(&[].into()).await.map(drop).expect_err("closed"),
        ] {
            assert!(matches!(error, StoreError::Unavailable(sqlx::Error::PoolClosed)), "{error}");
        }
    }
}
