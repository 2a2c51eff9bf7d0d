//! A pool with a name, by which metrics tell it from the others.

use std::ops::Deref;
use std::time::Instant;

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPool;

use crate::store::PoolUse;
use crate::store::error::waited;

/// Connections for one kind of work. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    name: &'static str,
    most: u32,
    connections: PgPool,
}

impl Pool {
    pub(super) const fn new(name: &'static str, most: u32, connections: PgPool) -> Self {
        Self { name, most, connections }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Waits for a connection.
    pub(super) async fn acquire(&self) -> sqlx::Result<PoolConnection<Postgres>> {
        let since = Instant::now();
        let connection = self.connections.acquire().await;
        waited(self.name, since);
        connection
    }

    pub(super) fn in_use(&self) -> PoolUse {
        let idle = u32::try_from(self.connections.num_idle()).unwrap_or(u32::MAX);
        PoolUse { name: self.name, busy: self.connections.size().saturating_sub(idle), most: self.most }
    }
}

impl Deref for Pool {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.connections
    }
}
