//! Who writes: a thread of its own for the commits of logs, and one of the driver's connections for everything else.
//!
//! `SQLite` has one writer at a time, and waiting in our queue is fairer than in its busy loop: whoever writes has the
//! turn, first come, first served. Another program (the command line beside a server, a backup) is waited for in the
//! busy loop.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};

use super::commit::Lane;
use super::thread::Threads;
use crate::store::{Commit, CommitOutcome, Result, StoreError};

/// How long somebody waits for the turn. Only commits stand before it, so this is a sign that something is stuck.
const PATIENCE: Duration = Duration::from_mins(1);

/// Both writing connections and the turn to use one of them.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Arc<Mutex<Option<SqliteConnection>>>,
    commits: Arc<Threads>,
}

/// The turn: while it is held nobody else of this process writes. Gives the driver's connection.
pub(super) type Turn = OwnedMappedMutexGuard<Option<SqliteConnection>, SqliteConnection>;

impl Writer {
    /// `commits` has one thread, with a connection to the same file.
    pub(super) fn new(connection: SqliteConnection, commits: Threads) -> Self {
        Self { connection: Arc::new(Mutex::new(Some(connection))), commits: Arc::new(commits) }
    }

    /// Waits for the turn.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: not within a minute, or closed.
    pub(super) async fn acquire(&self) -> Result<Turn> {
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.connection).lock_owned())
            .await
            .map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))?;
        OwnedMutexGuard::try_map(turn, Option::as_mut).map_err(|_| StoreError::Unavailable(sqlx::Error::PoolClosed))
    }

    /// Applies a group of commits on the thread. Goes on even if the caller is gone.
    ///
    /// # Errors
    /// As [`crate::store::LogStore::commit`] says.
    pub(super) async fn commit(&self, group: Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        let turn = self.acquire().await?;
        self.commits
            .run(move |connection| {
                let outcomes = crate::store::group::commit_now(&mut Lane(connection), &group);
                drop(turn);
                outcomes
            })
            .await
    }

    /// Ends the thread after what it was sent; `last` is then done with the other connection, before it is closed too.
    pub(super) async fn close(&self, last: impl AsyncFnOnce(&mut SqliteConnection)) {
        let mut connection = self.connection.lock().await;
        self.commits.close().await;
        if let Some(mut connection) = connection.take() {
            last(&mut connection).await;
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "closing the writer's connection failed");
            }
        }
    }
}
