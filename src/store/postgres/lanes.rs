//! The connections that commit. Not a pool of the driver: that tests a connection after each use, which would cost
//! every commit a second round trip.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::{Session, TRUST};
use crate::store::{PING_TIMEOUT, PoolUse, Result, StoreError};

/// Ordinary lanes: one saturates one core of the database server; more than a few slow each other down.
pub(super) const ORDINARY: usize = 2;
/// The lanes of groups: one more for large commits.
pub(super) const GROUPS: usize = ORDINARY + 1;

#[derive(Debug)]
pub(super) struct Lanes {
    options: PgConnectOptions,
    session: Session,
    count: usize,
    permits: Semaphore,
    parked: Mutex<Vec<(PgConnection, Instant)>>,
    pub(super) patience: Duration,
    acquire_timeout: Duration,
}

/// A lane in use. A connection that was taken out and not given back with [`Lane::keep`] is closed, and with it
/// whatever still runs there.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    lanes: &'a Lanes,
    connection: Option<PgConnection>,
    _permit: SemaphorePermit<'a>,
}

impl Lanes {
    pub(super) fn new(
        count: usize,
        options: PgConnectOptions,
        session: Session,
        patience: Duration,
        acquire_timeout: Duration,
    ) -> Self {
        let (permits, parked) = (Semaphore::new(count), Mutex::new(Vec::new()));
        Self { options, session, count, permits, parked, patience, acquire_timeout }
    }

    /// How many are committing.
    pub(super) fn in_use(&self, name: &'static str) -> PoolUse {
        let busy = self.count.saturating_sub(self.permits.available_permits());
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        PoolUse { name, busy: number(busy), most: number(self.count) }
    }

    /// Waits for a free lane. Nothing has been sent when this fails.
    pub(super) async fn acquire(&self) -> Result<Lane<'_>> {
        let permit = timeout(self.acquire_timeout, self.permits.acquire())
            .await
            .map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))?
            .map_err(|_| StoreError::Unavailable(sqlx::Error::PoolClosed))?;
        Ok(Lane { lanes: self, connection: None, _permit: permit })
    }

    fn unpark(&self) -> Option<(PgConnection, Instant)> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Lets running commits finish and closes everything.
    pub(super) async fn close(&self) {
        let all = u32::try_from(self.count).expect("a handful");
        let idle = timeout(self.patience, self.permits.acquire_many(all)).await;
        self.permits.close();
        drop(idle);
        let parked = std::mem::take(&mut *self.parked.lock().unwrap_or_else(PoisonError::into_inner));
        for (connection, _) in parked {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "closing a commit connection failed");
            }
        }
    }
}

impl Lane<'_> {
    /// The lane's connection. Nothing has been sent when this fails.
    pub(super) async fn connection(&mut self) -> Result<PgConnection> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        while let Some((mut connection, since)) = self.lanes.unpark() {
            // After a pause the server may have restarted. To find out now costs a round trip; to find out with the
            // commit would leave its outcome open.
            if since.elapsed() <= TRUST || matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
                return Ok(connection);
            }
        }
        let connecting = async {
            let mut connection = self.lanes.options.connect().await?;
            self.lanes.session.prepare(&mut connection).await?;
            Ok::<_, StoreError>(connection)
        };
        timeout(self.lanes.acquire_timeout, connecting)
            .await
            .map_err(|_| StoreError::Unavailable(sqlx::Error::PoolTimedOut))?
    }

    /// Gives the connection back after a complete exchange.
    pub(super) fn keep(&mut self, connection: PgConnection) {
        self.connection = Some(connection);
    }

    pub(super) const fn patience(&self) -> Duration {
        self.lanes.patience
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let mut parked = self.lanes.parked.lock().unwrap_or_else(PoisonError::into_inner);
            parked.push((connection, Instant::now()));
        }
    }
}
