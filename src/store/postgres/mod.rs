//! The database server: any number of instances of this program may share it.
//!
//! Owns the connections. Commits have their own few (`lanes`), requests a pool, housekeeping one, health checks one: a
//! flood of reads can't starve commits, nor the other way round. Every session carries a `statement_timeout`, so that
//! what takes too long really stops in the server; a connection that stays silent for longer than that is given up.

use std::str::FromStr as _;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};

use super::gather::Gather;
use super::migrate::{self, MigrationStatus};
use super::{EntityHead, EntityKey, Result, SessionId, Standing, Store, StoreError, UserRow};
use crate::protocol::{Seq, UserId};

mod accounts;
mod adopt;
mod archives;
mod backup;
mod commit;
pub mod doctor;
mod events;
mod gauges;
mod lanes;
mod log;
mod overview;
mod peers;
mod pool;
mod recount;
mod retention;
mod rows;
mod security;
mod segments;
mod sessions;
mod signin;
mod sql;
mod test_mode;
mod upkeep;
mod usage;

use pool::Pool;

/// Longer than a statement may take by so much, and the connection counts as dead.
const GRACE: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is tested before it is used.
const TRUST: Duration = Duration::from_secs(5);
/// Accounts of one look-up.
const MAX_LOOKED_UP: usize = 256;
/// Logs of one look-up; each gives some hundred rows at most.
const MAX_LOGS_LOOKED_UP: usize = 32;
/// How often a statement that lost to another transaction (serialisation failure, deadlock) is run again.
const RETRIES: u32 = 3;

/// By this name the database knows the sessions of servers and commands.
const APPLICATION: &str = "supersync";

/// How to connect.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://…`
    pub url: SecretString,
    /// Most connections for requests; commits, housekeeping and health checks add five.
    pub max_connections: u32,
    /// How long a request may wait for a connection.
    pub acquire_timeout: Duration,
    /// The schema, when not the default; created if missing.
    pub schema: Option<String>,
    /// After this time the server stops a statement.
    pub statement_timeout: Duration,
}

/// A PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    lanes: lanes::Lanes,
    /// For commits that must wait for somebody else's lock: nobody waits behind them.
    patient: lanes::Lanes,
    requests: Pool,
    housekeeping: Pool,
    probe: Pool,
    /// What the processes tell each other must wait for nothing.
    peers: Pool,
    accounts: Gather<UserId, Option<log::Loaded>>,
    users: Gather<UserId, Option<UserRow>>,
    standings: Gather<(UserId, Option<SessionId>), Option<Standing>>,
    logs: Gather<(UserId, Seq, Seq), Vec<(EntityKey, EntityHead)>>,
    /// After this time without an answer a connection counts as dead.
    patience: Duration,
    /// For what needs a connection of its own.
    connecting: PgConnectOptions,
    session: Session,
}

/// Runs statements on a connection of a pool: measured, bounded in time, repeated when they lost to another
/// transaction.
macro_rules! on_connection {
    ($pool:expr, $patience:expr, $name:literal, |$connection:ident| $body:block) => {
        $crate::store::error::timed_on($name, $pool.name(), async {
            let mut held = $pool.acquire().await?;
            let mut attempt = 0;
            loop {
                let result = {
                    let $connection = &mut *held;
                    $crate::store::postgres::within($patience, async $body).await
                };
                match result {
                    Some(Err($crate::store::StoreError::Unavailable(error)))
                        if $crate::store::error::is_transient(&error) && attempt < $crate::store::postgres::RETRIES =>
                    {
                        attempt += 1;
                    }
                    Some(result) => break result,
                    None => {
                        held.close_on_drop();
                        break Err($crate::store::StoreError::Unavailable($crate::store::postgres::silent()));
                    }
                }
            }
        })
        .await
    };
}
use on_connection;

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Option<Result<T>> {
    tokio::time::timeout(limit, call).await.ok()
}

/// Where the answer to the key at this place goes, counted from 1 as `WITH ORDINALITY` does.
fn placed<T>(answers: &mut [T], place: i64) -> Result<&mut T> {
    let answer = usize::try_from(place - 1).ok().and_then(|at| answers.get_mut(at));
    answer.ok_or_else(|| StoreError::Corrupt(format!("an answer to a question {place} that nobody has asked")))
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database server does not answer"))
}

/// A group of commits waits no longer than this for a lock that somebody else holds: one account's trouble must not
/// become its neighbours'.
const GROUP_LOCK_TIMEOUT: Duration = Duration::from_millis(250);

/// What every session is set to.
#[derive(Clone, Debug)]
struct Session {
    statement_timeout: Duration,
    /// How long a statement waits for a lock; zero = as long as it may run.
    lock_timeout: Duration,
    schema: Option<String>,
}

impl Session {
    async fn prepare(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        // An acknowledged commit must be on the disk, even if the server's default says otherwise. Every statement of
        // requests and commits is a look-up by key; on tables that look small (new, not analysed yet) the planner would
        // rather read them whole and keep that plan, and compiling plans costs more than running them.
        sqlx::query(
            "SELECT set_config('statement_timeout', $1, false), \
             set_config('lock_timeout', $3, false), \
             set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false), \
             set_config('plan_cache_mode', 'force_generic_plan', false), \
             set_config('search_path', COALESCE($2, current_setting('search_path')), false), \
             CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END",
        )
        .bind(self.statement_timeout.as_millis().to_string())
        .bind(self.schema.as_deref().map(quoted))
        .bind(self.lock_timeout.as_millis().to_string())
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// A name as an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// How long a migration keeps others waiting,
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// and how long it lets them pass.
const MIGRATION_PAUSE: Duration = Duration::from_secs(2);

impl PostgresStore {
    /// Connects and brings the schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the URL is none or the schema is newer than this program; otherwise what kept it
    /// from connecting.
    pub async fn connect(options: PostgresOptions) -> Result<Self> {
        let connecting = connect_options(&options.url)?;
        // Migrations may take longer than any request's statement.
        let session = Session {
            statement_timeout: Duration::ZERO,
            lock_timeout: MIGRATION_LOCK_TIMEOUT,
            schema: options.schema.clone(),
        };
        let mut connection = connecting.connect().await?;
        session.prepare(&mut connection).await?;
        if let Some(schema) = &options.schema {
            create_schema(&mut connection, schema).await?;
        }
        refuse_upstream(&mut connection).await?;
        migrate_patiently(&mut connection).await?;
        connection.close().await?;

        let session = Session {
            statement_timeout: options.statement_timeout,
            lock_timeout: Duration::ZERO,
            schema: options.schema,
        };
        let hasty = Session { lock_timeout: GROUP_LOCK_TIMEOUT, ..session.clone() };
        let pool = |name, connections: u32, acquire_timeout| {
            let session = session.clone();
            let pool = PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(acquire_timeout)
                .test_before_acquire(false)
                .before_acquire(|connection, meta| {
                    Box::pin(async move {
                        if meta.idle_for > TRUST {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .after_connect(move |connection, _| {
                    let session = session.clone();
                    Box::pin(async move { session.prepare(connection).await })
                })
                .connect_lazy_with(connecting.clone());
            Pool::new(name, connections, pool)
        };
        let patience = options.statement_timeout.saturating_add(GRACE);
        Ok(Self {
            requests: pool("requests", options.max_connections.max(1), options.acquire_timeout),
            // The sweep has time: it takes turns with itself.
            housekeeping: pool("housekeeping", 1, patience),
            probe: pool("probe", 1, super::PING_TIMEOUT),
            peers: pool("peers", 1, super::PING_TIMEOUT),
            accounts: Gather::new(MAX_LOOKED_UP),
            users: Gather::new(MAX_LOOKED_UP),
            standings: Gather::new(MAX_LOOKED_UP),
            logs: Gather::new(MAX_LOGS_LOOKED_UP),
            lanes: lanes::Lanes::new(lanes::GROUPS, connecting.clone(), hasty, patience, options.acquire_timeout),
            patient: lanes::Lanes::new(1, connecting.clone(), session.clone(), patience, options.acquire_timeout),
            patience,
            connecting,
            session,
        })
    }

    /// Which migrations the database has and which it lacks; changes nothing.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn migration_status(url: &SecretString, schema: Option<&str>) -> Result<Vec<MigrationStatus>> {
        let mut connection = connect_options(url)?.connect().await?;
        let session = Session {
            statement_timeout: Duration::ZERO,
            lock_timeout: Duration::ZERO,
            schema: schema.map(str::to_owned),
        };
        session.prepare(&mut connection).await?;
        let status = migrate::status_postgres(&mut connection).await;
        connection.close().await?;
        status
    }
}

/// The statements that requests and the sweep run on large tables, by name, for tests of their plans.
#[must_use]
pub fn statements() -> &'static [(&'static str, &'static str)] {
    sql::HOT
}

fn connect_options(url: &SecretString) -> Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url.expose_secret())
        .map_err(|error| StoreError::Refused(format!("DATABASE_URL is not a PostgreSQL address: {error}")))?;
    Ok(options.application_name(APPLICATION).disable_statement_logging())
}

/// Whoever waits for a table's lock keeps everybody else from the table: so migrations wait a moment only, let the others
/// pass, and try again (operations contract, section 8.5).
async fn migrate_patiently(connection: &mut PgConnection) -> Result<()> {
    loop {
        match migrate::run_postgres(connection).await {
            Err(StoreError::Unavailable(error)) if super::error::is_lock_timeout(&error) => {
                tracing::warn!("a migration waits for a lock: a backup or another long transaction uses the table");
                tokio::time::sleep(MIGRATION_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Refuses the old (Node) server's database before anything is made in it.
async fn refuse_upstream(connection: &mut PgConnection) -> Result<()> {
    let is_upstream: bool = sqlx::query_scalar(
        "SELECT to_regclass('_sqlx_migrations') IS NULL AND to_regclass('users') IS NOT NULL AND EXISTS \
         (SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('operations') AND attname = 'server_seq') \
         AND NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('operations') AND attname = 'op_id')",
    )
    .fetch_one(connection)
    .await?;
    if is_upstream {
        return Err(StoreError::Refused(
            "DATABASE_URL names the old (Node) server's database, which stays as it is: name an empty one, and run \
             `supersync import --from <the old one>`"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Only when missing: it needs a right that a server set up by somebody else may not give.
async fn create_schema(connection: &mut PgConnection, schema: &str) -> Result<()> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        // The operator's own setting, quoted.
        let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema));
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(connection).await?;
    }
    Ok(())
}

#[async_trait]
impl Store for PostgresStore {
    async fn ping(&self) -> Result<()> {
        on_connection!(self.probe, super::PING_TIMEOUT, "ping", |connection| {
            sqlx::query("SELECT 1").execute(connection).await?;
            Ok(())
        })
    }

    async fn try_room(&self) -> Result<()> {
        on_connection!(self.housekeeping, self.patience, "try_room", |connection| {
            upkeep::try_room(connection).await
        })
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn close(&self) {
        self.lanes.close().await;
        self.patient.close().await;
        self.housekeeping.close().await;
        self.requests.close().await;
        self.probe.close().await;
        self.peers.close().await;
    }
}
