//! The database server: any number of instances of this program may share it.
//!
//! Owns the connections. Commits have their own few (lanes), requests a pool, housekeeping one, health checks one: a
//! flood of reads can't starve commits, nor the other way round. Every session carries a `statement_timeout`, so that
//! what takes too long really stops in the server; a connection that stays silent is given up (`server`).
//!
//! A pooler that hands sessions round (`PgBouncer` in transaction mode) may carry requests and housekeeping. What needs a
//! session of its own goes past it: commits, peers, health checks, migrations, backups.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

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
mod log;
mod overview;
mod peers;
mod pool;
mod recount;
mod retention;
mod rows;
mod security;
mod segments;
mod server;
mod sessions;
mod signin;
mod sql;
mod test_mode;
mod upkeep;
mod usage;

use pool::Pool;
use server::{Access, Server, silent};

/// Longer than a statement may take by so much, and the connection counts as dead.
const GRACE: Duration = Duration::from_secs(5);
/// Ordinary lanes: one saturates one core of the database server; more than a few slow each other down.
const ORDINARY_LANES: usize = 2;
/// The lanes of groups: one more for large commits.
const LANES: u32 = 3;
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
    /// `postgres://…`, of one host or several.
    pub url: SecretString,
    /// The address of PostgreSQL itself, if the other one leads through a pooler.
    pub direct_url: Option<SecretString>,
    /// Whether the pooler hands sessions round; otherwise that is found out.
    pub pgbouncer: bool,
    /// Most connections for requests; commits, housekeeping, peers and health checks add nine.
    pub max_connections: u32,
    /// How long a request may wait for a connection.
    pub acquire_timeout: Duration,
    /// The schema, when not the default; created if missing.
    pub schema: Option<String>,
    /// After this time the server stops a statement.
    pub statement_timeout: Duration,
    /// No connection is used for longer, or half as long again: what has moved meanwhile (names, roles, balancers) is found.
    pub lifetime: Duration,
    /// Whether an unreachable database is waited for, however long, with the reason in the log. Otherwise it is an error.
    pub waits: bool,
}

/// A PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    lanes: Pool,
    /// For commits that must wait for somebody else's lock: nobody waits behind them.
    patient: Pool,
    requests: Pool,
    housekeeping: Pool,
    probe: Pool,
    /// The same by way of the pooler, if there is one.
    probe_pooled: Option<Pool>,
    /// What the processes tell each other must wait for nothing.
    peers: Pool,
    accounts: Gather<UserId, Option<log::Loaded>>,
    users: Gather<UserId, Option<UserRow>>,
    standings: Gather<(UserId, Option<SessionId>), Option<Standing>>,
    logs: Gather<(UserId, Seq, Seq), Vec<(EntityKey, EntityHead)>>,
    /// After this time without an answer a connection counts as dead.
    patience: Duration,
    /// PostgreSQL itself.
    direct: Arc<Server>,
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
                let (server, pid) = held.watch();
                let statements = async {
                    let mut turn = held.turn().await?;
                    let result = {
                        let $connection = turn.connection();
                        async $body.await
                    };
                    turn.end(result).await
                };
                let Some(result) = server.watch(pid, $patience, statements).await else {
                    held.discard();
                    break Err($crate::store::StoreError::Unavailable($crate::store::postgres::server::silent()));
                };
                held.settle(&result);
                match result {
                    Err($crate::store::StoreError::Unavailable(error))
                        if $crate::store::error::is_transient(&error) && attempt < $crate::store::postgres::RETRIES =>
                    {
                        attempt += 1;
                    }
                    result => break result,
                }
            }
        })
        .await
    };
}
use on_connection;

/// Where the answer to the key at this place goes, counted from 1 as `WITH ORDINALITY` does.
fn placed<T>(answers: &mut [T], place: i64) -> Result<&mut T> {
    let answer = usize::try_from(place - 1).ok().and_then(|at| answers.get_mut(at));
    answer.ok_or_else(|| StoreError::Corrupt(format!("an answer to a question {place} that nobody has asked")))
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
    /// The settings as columns of a SELECT, for the session or, `local`, for the transaction.
    fn settings(&self, local: bool) -> String {
        let set = |name: &str, value: &str| format!("set_config('{name}', '{}', {local})", value.replace('\'', "''"));
        let millis = |time: Duration| time.as_millis().to_string();
        // Every statement of requests and commits is a look-up by key; on tables that look small (new, not analysed yet)
        // the planner would rather read them whole and keep that plan, and compiling plans costs more than running them.
        let mut settings = vec![
            set("statement_timeout", &millis(self.statement_timeout)),
            set("lock_timeout", &millis(self.lock_timeout)),
            set("enable_seqscan", "off"),
            set("jit", "off"),
            set("plan_cache_mode", "force_generic_plan"),
        ];
        if let Some(schema) = &self.schema {
            settings.push(set("search_path", &quoted(schema)));
        }
        // An acknowledged commit must be on the disk, even if the server's default says otherwise.
        let durable = set("synchronous_commit", "on");
        settings.push(format!("CASE current_setting('synchronous_commit') WHEN 'off' THEN {durable} END"));
        if !local {
            // The server lets go of a session, and of its locks, whose other end is gone without a word.
            settings.push(set("tcp_keepalives_idle", "10"));
            settings.push(set("tcp_keepalives_interval", "5"));
            settings.push(set("tcp_keepalives_count", "3"));
            settings.push(set("tcp_user_timeout", "15000"));
        }
        settings.join(", ")
    }
}

/// A name as an SQL identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Between two tries of a start that waits for the database.
const WAITING_PAUSE: Duration = Duration::from_millis(500);
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
        // Migrations may take longer than any request's statement.
        let migrating = Session {
            statement_timeout: Duration::ZERO,
            lock_timeout: MIGRATION_LOCK_TIMEOUT,
            schema: options.schema.clone(),
        };
        let direct = Arc::new(Server::new(
            options.direct_url.as_ref().unwrap_or(&options.url),
            false,
            options.lifetime,
            options.waits,
        )?);
        let pooled = through_pooler(&options, &direct, &migrating).await?;
        if options.waits {
            wait_for(&direct, &migrating, Access::Writes).await?;
        }
        let mut connection = direct.connect(&migrating, Access::Writes).await?.connection;
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
        let wait = options.acquire_timeout;
        let patience = options.statement_timeout.saturating_add(GRACE);
        let pool = |name, most, access, wait| Pool::new(name, most, &direct, &session, access, wait);
        let through = pooled.as_ref().unwrap_or(&direct);
        Ok(Self {
            requests: Pool::new("requests", options.max_connections.max(1), through, &session, Access::Reads, wait),
            // The sweep has time: it takes turns with itself.
            housekeeping: Pool::new("housekeeping", 1, through, &session, Access::Writes, patience),
            probe: pool("probe", 1, Access::Writes, super::PING_TIMEOUT),
            probe_pooled: pooled
                .as_ref()
                .map(|pooled| Pool::new("probe", 1, pooled, &session, Access::Writes, super::PING_TIMEOUT)),
            peers: pool("peers", 1, Access::Reads, peers::PATIENCE),
            accounts: Gather::new(MAX_LOOKED_UP),
            users: Gather::new(MAX_LOOKED_UP),
            standings: Gather::new(MAX_LOOKED_UP),
            logs: Gather::new(MAX_LOGS_LOOKED_UP),
            lanes: Pool::new("commits", LANES, &direct, &hasty, Access::Writes, wait),
            patient: pool("own", 1, Access::Writes, wait),
            patience,
            direct,
            session,
        })
    }

    /// Which migrations the database has and which it lacks; changes nothing.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn migration_status(url: &SecretString, schema: Option<&str>) -> Result<Vec<MigrationStatus>> {
        let session = Session {
            statement_timeout: Duration::ZERO,
            lock_timeout: Duration::ZERO,
            schema: schema.map(str::to_owned),
        };
        let mut connection = Arc::new(Server::new(url, false, Duration::ZERO, false)?)
            .connect(&session, Access::Reads)
            .await?
            .connection;
        refuse_upstream(&mut connection).await?;
        let status = migrate::status_postgres(&mut connection).await;
        connection.close().await?;
        status
    }
}

/// Waits until a server lets somebody in. Why it does not is in the log.
async fn wait_for(server: &Arc<Server>, session: &Session, access: Access) -> Result<()> {
    loop {
        match server.connect(session, access).await {
            Ok(made) => return Ok(made.connection.close().await?),
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(WAITING_PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// The pooler that `DATABASE_URL` leads through, if it hands sessions round; else `DATABASE_URL` is as good as the direct
/// address.
async fn through_pooler(
    options: &PostgresOptions,
    direct: &Arc<Server>,
    session: &Session,
) -> Result<Option<Arc<Server>>> {
    let pooled = Arc::new(Server::new(&options.url, true, options.lifetime, options.waits)?);
    if options.waits {
        wait_for(&pooled, session, Access::Reads).await?;
    }
    if !options.pgbouncer && !pooled.hands_sessions_round(session).await? {
        return Ok(None);
    }
    if options.direct_url.is_none() {
        return Err(StoreError::Refused(
            "DATABASE_URL leads through a pooler that hands sessions round (PgBouncer with pool_mode=transaction), and \
             commits, LISTEN and migrations need sessions: set DATABASE_DIRECT_URL to the address of PostgreSQL itself, or \
             use pool_mode=session and a DATABASE_URL without pgbouncer=true"
                .to_owned(),
        ));
    }
    if pooled.identity(session).await? != direct.identity(session).await? {
        return Err(StoreError::Refused(
            "DATABASE_URL and DATABASE_DIRECT_URL lead to different databases: they must name the same one, by way of the \
             pooler and past it"
                .to_owned(),
        ));
    }
    tracing::info!("requests go through the pooler that DATABASE_URL names, everything else to DATABASE_DIRECT_URL");
    Ok(Some(pooled))
}

/// The statements that requests and the sweep run on large tables, by name, for tests of their plans.
#[must_use]
pub fn statements() -> &'static [(&'static str, &'static str)] {
    sql::HOT
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
        // By way of the pooler first: what it does not let through is not served.
        for pool in self.probe_pooled.iter().chain([&self.probe]) {
            on_connection!(pool, super::PING_TIMEOUT, "ping", |db| { server::check(db, Access::Writes).await })?;
        }
        Ok(())
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
        let pools = [&self.lanes, &self.patient, &self.housekeeping, &self.requests, &self.probe, &self.peers];
        for pool in pools.into_iter().chain(&self.probe_pooled) {
            pool.close(self.patience).await;
        }
        self.direct.close().await;
    }
}
