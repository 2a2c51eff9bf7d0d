//! Peers by `LISTEN` and `NOTIFY`; present is who holds an advisory lock, which PostgreSQL takes away with the session.

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use tokio::time::{Instant, timeout, timeout_at};

use super::server::takes_no_writes;
use super::{PostgresStore, on_connection};
use crate::store::peers::{PeerId, PeerLine, PeerStore};
use crate::store::{PING_TIMEOUT, Result, StoreError};

/// Schemas of one database are separate servers' business.
const CHANNEL: &str = "SELECT 'supersync_peers_' || md5(current_schema())";
/// The first half of the lock's key says what it is for and of which schema, the second one whose it is.
const LOCK: &str = "SELECT pg_try_advisory_lock(hashtext('supersync_peers_' || md5(current_schema())), $1)";
/// A session of this process's that the server has not given up yet: its connection broke without a word.
const END_FORMER: &str = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 \
     AND classid = hashtext('supersync_peers_' || md5(current_schema()))::oid AND objid = $1::int4::oid \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted";
const PRESENT: &str = "SELECT objid::bigint::int FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 \
     AND classid = hashtext('supersync_peers_' || md5(current_schema()))::oid \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted";
const TELL: &str = "SELECT pg_notify('supersync_peers_' || md5(current_schema()), said) FROM unnest($1::text[]) said";

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
            .acquire_timeout(PING_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&connection).await?;
        // A new connection would have neither the lock nor what was said meanwhile: whoever listens must notice.
        listener.eager_reconnect(false);
        takes_no_writes(&sqlx::raw_sql(self.direct.greeting(&self.session)).fetch_one(&mut listener).await?)?;
        let channel: String = sqlx::query_scalar(CHANNEL).fetch_one(&mut listener).await?;
        listener.listen(&channel).await?;
        let locked: bool = sqlx::query_scalar(LOCK).bind(me).fetch_one(&mut listener).await?;
        if !locked {
            sqlx::query(END_FORMER).bind(me).execute(&mut listener).await?;
            let busy = "a former session of this process is being ended";
            return Err(StoreError::Unavailable(sqlx::Error::Protocol(busy.to_owned())));
        }
        let ends = Instant::now() + self.direct.lifetime();
        Ok(Line { listener, ends, _connection: connection })
    }
}

#[async_trait]
impl PeerStore for PostgresStore {
    async fn join_peers(&self, me: PeerId) -> Result<Option<Box<dyn PeerLine>>> {
        let mut failed = StoreError::Unavailable(super::silent());
        for (_, options) in self.direct.hosts() {
            let joining = timeout(PING_TIMEOUT, self.join_at(options, me)).await;
            match joining.unwrap_or_else(|_| Err(StoreError::Unavailable(super::silent()))) {
                Ok(line) => return Ok(Some(Box::new(line))),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn tell_peers(&self, said: &[String]) -> Result<()> {
        on_connection!(self.peers, PING_TIMEOUT, "tell_peers", |db| {
            sqlx::query(TELL).bind(said).execute(&mut *db).await?;
            Ok(())
        })
    }

    async fn present_peers(&self) -> Result<Vec<PeerId>> {
        on_connection!(self.peers, PING_TIMEOUT, "present_peers", |db| {
            Ok(sqlx::query_scalar(PRESENT).fetch_all(&mut *db).await?)
        })
    }
}
