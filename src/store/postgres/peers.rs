//! Peers by `LISTEN` and `NOTIFY`; present is who holds an advisory lock, which PostgreSQL takes away with the session.

use std::io::ErrorKind;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::time::{Instant, timeout, timeout_at};

use super::server::takes_no_writes;
use super::{PostgresStore, on_connection, silent};
use crate::store::peers::{CountedTogether, PeerId, PeerLine, PeerStore};
use crate::store::{Result, StoreError, ttl_ms};

/// How long what processes say, and a look at who is present, may wait for a connection and for the answer each.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// And a process that joins. With a pause it is over before a proof that the database is down has lost its force.
const JOIN_PATIENCE: Duration = Duration::from_millis(1500);

/// Schemas of one database are separate servers' business.
const CHANNEL: &str = "SELECT 'supersync_peers_' || md5(current_schema())";
/// The first half of the lock's key says what it is for and of which schema, the second one whose it is.
const LOCK: &str = "SELECT pg_try_advisory_lock(hashtext('supersync_peers_' || md5(current_schema())), $1)";
/// The lock of a process whose machine is gone must not be held for hours.
const NOTICE_LOSS: &str = "SELECT set_config('tcp_keepalives_idle', '5', false), \
     set_config('tcp_keepalives_interval', '2', false), set_config('tcp_keepalives_count', '3', false), \
     set_config('tcp_user_timeout', '10000', false)";
/// A session of this process's that the server has not given up yet: its connection broke without a word.
const END_FORMER: &str = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 \
     AND classid = hashtext('supersync_peers_' || md5(current_schema()))::oid AND objid = $1::int4::oid \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted";
const PRESENT: &str = "SELECT objid::bigint::int FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 \
     AND classid = hashtext('supersync_peers_' || md5(current_schema()))::oid \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted";
const TELL: &str = "SELECT pg_notify('supersync_peers_' || md5(current_schema()), said) FROM unnest($1::text[]) said";

/// Each request takes up to two windows away that are over, so that they don't pile up. A window that ends later than it
/// could is one from before the clock was set back.
const COUNT: &str = "WITH now AS (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8 AS ms), \
     over AS (DELETE FROM request_counts WHERE key IN (SELECT key FROM request_counts, now \
     WHERE ends_at <= ms AND key <> $1 ORDER BY ends_at LIMIT 2 FOR UPDATE OF request_counts SKIP LOCKED)) \
     INSERT INTO request_counts AS c (key, count, ends_at) SELECT $1, 1, ms + $2 FROM now \
     ON CONFLICT (key) DO UPDATE SET (count, ends_at) = (SELECT \
     CASE WHEN is_open THEN c.count + 1 ELSE 1 END, CASE WHEN is_open THEN c.ends_at ELSE excluded.ends_at END \
     FROM (SELECT c.ends_at > excluded.ends_at - $2 AND c.ends_at < excluded.ends_at + 60000 AS is_open) AS state) \
     RETURNING count, ends_at - (SELECT ms FROM now)";

struct Line {
    listener: PgListener,
    /// No connection is used for ever; the next one may lead elsewhere.
    ends: Instant,
    /// Of one connection, which must not outlive the line: it holds the lock.
    _connection: PgPool,
}

#[async_trait]
impl PeerLine for Line {
    async fn hear(&mut self) -> Option<String> {
        match timeout_at(self.ends, self.listener.try_recv()).await {
            Ok(Ok(Some(said))) => Some(said.payload().to_owned()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the line to the other processes is broken");
                None
            }
            // Broken, or old.
            Ok(Ok(None)) | Err(_) => None,
        }
    }
}

impl PostgresStore {
    async fn join_at(&self, options: &PgConnectOptions, me: PeerId) -> Result<Line> {
        let connection = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(JOIN_PATIENCE)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&connection).await?;
        // A new connection would have neither the lock nor what was said meanwhile: whoever listens must notice.
        listener.eager_reconnect(false);
        takes_no_writes(&sqlx::raw_sql(self.direct.greeting(&self.session)).fetch_one(&mut listener).await?)?;
        sqlx::query(NOTICE_LOSS).execute(&mut listener).await?;
        // Before it listens: whoever is heard speaks to somebody who is present.
        let locked: bool = sqlx::query_scalar(LOCK).bind(me).fetch_one(&mut listener).await?;
        if !locked {
            sqlx::query(END_FORMER).bind(me).execute(&mut listener).await?;
            let busy = "a former session of this process is being ended";
            return Err(StoreError::Unavailable(sqlx::Error::Protocol(busy.to_owned())));
        }
        let channel: String = sqlx::query_scalar(CHANNEL).fetch_one(&mut listener).await?;
        listener.listen(&channel).await?;
        let ends = Instant::now() + self.direct.lifetime();
        Ok(Line { listener, ends, _connection: connection })
    }
}

#[async_trait]
impl PeerStore for PostgresStore {
    async fn join_peers(&self, me: PeerId) -> Result<Option<Box<dyn PeerLine>>> {
        let mut failed = StoreError::Unavailable(silent());
        for (_, options) in self.direct.hosts() {
            let joining = timeout(JOIN_PATIENCE, self.join_at(options, me)).await;
            match joining.unwrap_or_else(|_| Err(StoreError::Unavailable(silent()))) {
                Ok(line) => return Ok(Some(Box::new(line))),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn tell_peers(&self, said: &[String]) -> Result<()> {
        on_connection!(self.peers, PATIENCE, "tell_peers", |db| {
            sqlx::query(TELL).bind(said).execute(&mut *db).await?;
            Ok(())
        })
    }

    async fn present_peers(&self) -> Result<Vec<PeerId>> {
        on_connection!(self.peers, PATIENCE, "present_peers", |db| {
            Ok(sqlx::query_scalar(PRESENT).fetch_all(&mut *db).await?)
        })
    }

    async fn count_together(&self, key: &str, window: Duration) -> Result<Option<CountedTogether>> {
        // A request that is counted must not wait as long as one that is answered.
        let counting = async {
            on_connection!(self.requests, PATIENCE, "count_together", |db| {
                let counting = sqlx::query_as(COUNT).bind(key.to_owned()).bind(ttl_ms(window));
                let (count, left_ms): (i64, i64) = counting.fetch_one(&mut *db).await?;
                Ok(Some(CountedTogether {
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                    left: Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)),
                }))
            })
        };
        timeout(2 * PATIENCE, counting).await.unwrap_or_else(|_| Err(StoreError::Unavailable(silent())))
    }

    async fn refuses_everybody(&self) -> bool {
        for (_, options) in self.direct.hosts() {
            // Not by a pool, which remembers that nothing could be reached.
            let is_refused = match timeout(PATIENCE, options.connect()).await {
                Ok(Err(sqlx::Error::Io(error))) => {
                    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
                }
                // It starts, or shuts down.
                Ok(Err(error)) => error
                    .as_database_error()
                    .and_then(sqlx::error::DatabaseError::code)
                    .is_some_and(|code| code == "57P03"),
                Ok(Ok(_)) | Err(_) => false,
            };
            if !is_refused {
                return false;
            }
        }
        true
    }
}
