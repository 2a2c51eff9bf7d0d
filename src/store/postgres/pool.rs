//! Connections for one kind of work. Not a pool of the driver: that knows one host, waits as long for a server that is
//! down as for a free connection, and tests a connection after each use, which costs every statement a second round trip.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, Transaction};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::Session;
use super::server::{Access, Connected, PATIENCE, PING_LIMIT, Server, check};
use crate::store::error::waited;
use crate::store::{PoolUse, Result, StoreError};

/// A connection is asked before it is used, unless it has been asked within this time.
const TRUST: Duration = Duration::from_secs(5);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// Connections for one kind of work. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// By which metrics tell it from the others.
    name: &'static str,
    most: u32,
    server: Arc<Server>,
    session: Session,
    access: Access,
    acquire_timeout: Duration,
    permits: Arc<Semaphore>,
    parked: Mutex<Vec<Parked>>,
}

#[derive(Debug)]
struct Parked {
    connection: PgConnection,
    pid: Option<i32>,
    born: Instant,
    lifetime: Duration,
    /// When it was last asked, and was good.
    checked: Instant,
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct Leased {
    pool: Pool,
    parked: Option<Parked>,
    /// Whether nothing is under way there.
    is_clean: bool,
    permit: Option<OwnedSemaphorePermit>,
}

/// Some statements on a connection: behind a pooler a transaction, since nothing else stays together there.
pub(super) enum Turn<'a> {
    Plain(&'a mut PgConnection),
    Within(Transaction<'a, Postgres>),
}

impl Pool {
    pub(super) fn new(
        name: &'static str,
        most: u32,
        server: &Arc<Server>,
        session: &Session,
        access: Access,
        acquire_timeout: Duration,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(usize::MAX)));
        let (server, session, parked) = (Arc::clone(server), session.clone(), Mutex::new(Vec::new()));
        Self(Arc::new(Inner { name, most, server, session, access, acquire_timeout, permits, parked }))
    }

    pub(super) fn name(&self) -> &'static str {
        self.0.name
    }

    pub(super) fn in_use(&self) -> PoolUse {
        let free = u32::try_from(self.0.permits.available_permits()).unwrap_or(u32::MAX);
        PoolUse { name: self.0.name, busy: self.0.most.saturating_sub(free), most: self.0.most }
    }

    /// Waits for a connection. Nothing has been sent when this fails.
    pub(super) async fn acquire(&self) -> Result<Leased> {
        let since = Instant::now();
        let acquiring = async {
            let permit = Arc::clone(&self.0.permits).acquire_owned().await;
            let permit = permit.map_err(|_| StoreError::Unavailable(sqlx::Error::PoolClosed))?;
            let mut held = Leased { pool: self.clone(), parked: None, is_clean: true, permit: Some(permit) };
            held.ready().await?;
            Ok(held)
        };
        let acquired = timeout(self.0.acquire_timeout, acquiring).await;
        waited(self.0.name, since);
        acquired.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)))
    }

    fn parked(&self) -> MutexGuard<'_, Vec<Parked>> {
        self.0.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last. Those that are too old are closed, also where they are never needed.
    fn unpark(&self) -> Option<Parked> {
        let now = Instant::now();
        let mut parked = self.parked();
        let old: Vec<_> = parked.extract_if(.., |parked| now - parked.born > parked.lifetime).collect();
        let newest = parked.pop();
        drop(parked);
        part_from(old);
        newest
    }

    /// A connection that is good, parked or new.
    async fn find(&self) -> Result<Parked> {
        let Inner { server, access, .. } = &*self.0;
        while let Some(mut parked) = self.unpark() {
            if parked.checked.elapsed() <= TRUST && server.trusts(parked.checked) {
                return Ok(parked);
            }
            match timeout(PING_LIMIT, Box::pin(check(&mut parked.connection, *access))).await {
                Ok(Ok(())) => {
                    server.heard();
                    parked.checked = Instant::now();
                    return Ok(parked);
                }
                Ok(Err(error)) => tracing::debug!(%error, pool = self.0.name, "a connection is not used again"),
                Err(_) => {
                    // What has rested beside it will hardly answer sooner; to ask each would take a second each.
                    server.doubt();
                    part_from(std::mem::take(&mut *self.parked()));
                }
            }
        }
        Box::pin(self.connect()).await
    }

    /// A server that is just starting again is waited for, but not for long.
    async fn connect(&self) -> Result<Parked> {
        let Inner { server, session, access, .. } = &*self.0;
        let start = Instant::now();
        loop {
            match server.connect(session, *access).await {
                Ok(Connected { connection, pid, lifetime, .. }) => {
                    let now = Instant::now();
                    return Ok(Parked { connection, pid, born: now, lifetime, checked: now });
                }
                Err(StoreError::Unavailable(_)) if start.elapsed() < PATIENCE && !server.is_given_up() => {
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets what runs finish and closes everything.
    pub(super) async fn close(&self, patience: Duration) {
        let idle = timeout(patience, self.0.permits.acquire_many(self.0.most)).await;
        self.0.permits.close();
        drop(idle);
        let parked = std::mem::take(&mut *self.parked());
        for parked in parked {
            if let Err(error) = parked.connection.close().await {
                tracing::debug!(%error, pool = self.0.name, "closing a connection failed");
            }
        }
    }
}

/// Takes leave in the background: nobody waits for servers that may not answer.
fn part_from(connections: Vec<Parked>) {
    let Ok(runtime) = Handle::try_current() else { return };
    for parked in connections {
        // Whether it hears that or not, the socket is closed.
        runtime.spawn(async move { timeout(PING_LIMIT, parked.connection.close()).await.ok() });
    }
}

impl Leased {
    /// Sees to it that there is a connection. Nothing has been sent when this fails.
    pub(super) async fn ready(&mut self) -> Result<()> {
        if self.parked.is_none() {
            self.parked = Some(self.pool.find().await?);
            self.is_clean = true;
        }
        Ok(())
    }

    /// The server and process number to ask while a statement runs.
    pub(super) fn watch(&self) -> (Arc<Server>, Option<i32>) {
        (Arc::clone(&self.pool.0.server), self.parked.as_ref().and_then(|parked| parked.pid))
    }

    /// The connection itself, after [`Leased::ready`]. [`Leased::settle`] takes the outcome.
    pub(super) fn connection(&mut self) -> Result<&mut PgConnection> {
        self.is_clean = false;
        let parked = self.parked.as_mut().ok_or(StoreError::Unavailable(sqlx::Error::PoolClosed))?;
        Ok(&mut parked.connection)
    }

    /// The same for statements that may lead through a pooler.
    pub(super) async fn turn(&mut self) -> Result<Turn<'_>> {
        let prelude = self.pool.0.server.pooled.then(|| {
            // Statements that others have left in the session have the names that this one will use.
            format!("BEGIN; DEALLOCATE ALL; SELECT {}", self.pool.0.session.settings(true))
        });
        let connection = self.connection()?;
        Ok(match prelude {
            None => Turn::Plain(connection),
            Some(sql) => Turn::Within(connection.begin_with(AssertSqlSafe(sql)).await?),
        })
    }

    /// What became of the connection.
    pub(super) fn settle<T>(&mut self, result: &Result<T>) {
        if result.as_ref().err().is_some_and(StoreError::ends_connection) {
            self.discard();
        } else {
            self.is_clean = true;
        }
    }

    /// The connection is of no use any more, and the others may be no better.
    pub(super) fn discard(&mut self) {
        self.parked = None;
        self.pool.0.server.doubt();
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        let Some(mut parked) = self.parked.take() else { return };
        // The driver keeps a rollback until the next use.
        if self.is_clean && !parked.connection.should_flush() {
            self.pool.parked().push(parked);
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let (pool, permit) = (self.pool.clone(), self.permit.take());
        runtime.spawn(async move {
            if matches!(timeout(PING_LIMIT, parked.connection.ping()).await, Ok(Ok(()))) {
                pool.parked().push(parked);
            }
            drop(permit);
        });
    }
}

impl Turn<'_> {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(connection) => connection,
            Self::Within(transaction) => transaction,
        }
    }

    /// Ends it. What failed is rolled back.
    pub(super) async fn end<T>(self, result: Result<T>) -> Result<T> {
        if let (Self::Within(transaction), Ok(_)) = (self, &result) {
            transaction.commit().await?;
        }
        result
    }
}
