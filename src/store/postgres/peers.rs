//! Peers by `LISTEN` and `NOTIFY`; present is who holds an advisory lock, which PostgreSQL takes away with the session.

use async_trait::async_trait;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};

use super::{PostgresStore, on_connection};
use crate::store::peers::{PeerId, PeerLine, PeerStore};
use crate::store::{PING_TIMEOUT, Result, StoreError};

/// Schemas of one database are separate servers' business.
const CHANNEL: &str = "SELECT 'supersync_peers_' || md5(current_schema())";
/// The first half of the lock's key says what it is for and of which schema, the second one whose it is.
const LOCK: &str = "SELECT pg_try_advisory_lock(hashtext('supersync_peers_' || md5(current_schema())), $1)";
const PRESENT: &str = "SELECT objid::bigint::int FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 \
     AND classid = hashtext('supersync_peers_' || md5(current_schema()))::oid \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted";
const TELL: &str = "SELECT pg_notify('supersync_peers_' || md5(current_schema()), said) FROM unnest($1::text[]) said";

struct Line {
    listener: PgListener,
    /// Of one connection, which must not outlive the line: it holds the lock.
    _connection: PgPool,
}

#[async_trait]
impl PeerLine for Line {
    async fn hear(&mut self) -> Option<String> {
        match self.listener.try_recv().await {
            Ok(Some(said)) => Some(said.payload().to_owned()),
            Ok(None) => None,
            Err(error) => {
                tracing::debug!(%error, "the line to the other processes is broken");
                None
            }
        }
    }
}

#[async_trait]
impl PeerStore for PostgresStore {
    async fn join_peers(&self, me: PeerId) -> Result<Option<Box<dyn PeerLine>>> {
        let session = self.session.clone();
        let connection = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PING_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |connection, _| {
                let session = session.clone();
                Box::pin(async move { session.prepare(connection).await })
            })
            .connect_lazy_with(self.connecting.clone());
        let mut listener = PgListener::connect_with(&connection).await?;
        // A new connection would have neither the lock nor what was said meanwhile: whoever listens must notice.
        listener.eager_reconnect(false);
        let channel: String = sqlx::query_scalar(CHANNEL).fetch_one(&mut listener).await?;
        listener.listen(&channel).await?;
        let locked: bool = sqlx::query_scalar(LOCK).bind(me).fetch_one(&mut listener).await?;
        if !locked {
            return Err(StoreError::Unavailable(sqlx::Error::Protocol("another process has this number".to_owned())));
        }
        Ok(Some(Box::new(Line { listener, _connection: connection })))
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
