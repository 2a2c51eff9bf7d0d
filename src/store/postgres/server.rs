//! Where the database is, and how a connection to it comes about.
//!
//! A connection is used only where it can do its work: each new one, and each that has rested, is asked whether it leads
//! to a server that takes writes. So after a failover nobody stays with the demoted server, whatever the path there. The
//! driver sets no TCP options, so silence is found by asking: a rested connection has a second to answer, and of a
//! statement that takes long another connection asks whether it still runs.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tokio::time::{sleep, timeout};

use super::{APPLICATION, Session};
use crate::config::postgres_hosts;
use crate::store::{Result, StoreError};

/// How long one host may take to let somebody in. Less than a probe waits, so that it hears of it.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long a connection that has rested may take to answer.
pub(super) const PING_LIMIT: Duration = Duration::from_secs(1);
/// Where no writes are taken, a connection is for the moment only: its session would stay so.
const LIFETIME_READ_ONLY: Duration = Duration::from_secs(1);
/// For so long a call tries to connect; so long after the first failure none waits for it any more.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is then tried in the background.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// How often the log says that the database still can't be used.
const REMIND_EVERY: Duration = Duration::from_mins(1);
/// A statement that takes longer is asked after,
const WATCH_AFTER: Duration = Duration::from_secs(2);
/// so often,
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// on a connection that has not rested for longer than this,
const WATCHER_RESTS: Duration = Duration::from_secs(5);
/// and is given up when nothing is heard from the server for so long.
const SILENCE: Duration = Duration::from_secs(5);

/// By this name the database knows sessions that lead through a pooler. It may keep them for others, so they do not show
/// that a server runs.
const POOLED_APPLICATION: &str = "supersync-pooled";
/// What every new connection is asked.
const FACTS: &str = "pg_is_in_recovery(), current_setting('transaction_read_only')::bool, \
     current_setting('server_encoding'), pg_backend_pid()";
/// What a connection that has rested is asked.
const ROLE: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool";
/// Tells two servers from each other, and two databases of one.
const IDENTITY: &str = "SELECT pg_postmaster_start_time()::text || ' ' || \
     (SELECT oid FROM pg_database WHERE datname = current_database())::text";

/// What a connection must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading from the primary. It may take no writes, as when an operator or a full disk has stopped them.
    Reads,
    /// Reading and writing.
    Writes,
}

/// A connection that has just been made.
pub(super) struct Connected {
    pub connection: PgConnection,
    /// Its process in the server; `None` behind a pooler, where it changes.
    pub pid: Option<i32>,
    pub is_read_only: bool,
    /// How long it is used at most.
    pub lifetime: Duration,
}

/// The hosts of one address.
#[derive(Debug)]
pub(super) struct Server {
    hosts: Vec<PgConnectOptions>,
    /// Whether a pooler in between hands sessions round, so that nothing lasts longer than a transaction.
    pub pooled: bool,
    lifetime: Duration,
    /// Whether trouble is written to the log. A command ends with it instead.
    logs: bool,
    /// The place of the host that was good last.
    preferred: AtomicUsize,
    state: Mutex<State>,
    /// Asks after statements of the other connections.
    watcher: tokio::sync::Mutex<Option<(PgConnection, Instant)>>,
}

#[derive(Debug)]
struct State {
    /// When the server has last said anything.
    heard: Instant,
    /// Connections that have last answered before are asked before they are used.
    doubted: Instant,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    tried: Instant,
    /// Whether it is being tried in the background.
    is_tried: bool,
    logged: Instant,
    why: String,
    /// Whether there is nothing to read from either.
    bars_reads: bool,
}

impl Server {
    pub(super) fn new(url: &SecretString, pooled: bool, lifetime: Duration, logs: bool) -> Result<Self> {
        let refused = |error: &dyn std::fmt::Display| {
            StoreError::Refused(format!("DATABASE_URL is not a PostgreSQL address: {error}"))
        };
        let urls = postgres_hosts(url.expose_secret()).ok_or_else(|| refused(&"expected postgres://…"))?;
        let options = |url: &url::Url| {
            let options = PgConnectOptions::from_url(url).map_err(|error| refused(&error))?;
            let options = options.disable_statement_logging();
            // A pooler need not know this parameter; numbers come in binary form, so it changes nothing.
            let options = options.extra_float_digits(None);
            Ok(if pooled {
                // Statements are gone with the transaction, so none is kept.
                options.application_name(POOLED_APPLICATION).statement_cache_capacity(0)
            } else {
                options.application_name(APPLICATION)
            })
        };
        let now = Instant::now();
        Ok(Self {
            hosts: urls.iter().map(options).collect::<Result<_>>()?,
            pooled,
            lifetime,
            logs,
            preferred: AtomicUsize::new(0),
            state: Mutex::new(State { heard: now, doubted: now, trouble: None }),
            watcher: tokio::sync::Mutex::new(None),
        })
    }

    /// The hosts, the one that was good last first.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (usize, &PgConnectOptions)> {
        let first = self.preferred.load(Ordering::Relaxed);
        let count = self.hosts.len();
        (0..count).map(move |n| (first + n) % count).map(|place| (place, &self.hosts[place]))
    }

    pub(super) fn prefer(&self, place: usize) {
        self.preferred.store(place, Ordering::Relaxed);
    }

    /// Connects to the first host that is good for this. Tries each once. When nothing could be reached for longer, fails at
    /// once, and tries in the background.
    pub(super) async fn connect(self: &Arc<Self>, session: &Session, access: Access) -> Result<Connected> {
        let Some((why, tries)) = self.refusal(access) else { return self.connect_now(session, access).await };
        if tries {
            let (server, session) = (Arc::clone(self), session.clone());
            tokio::spawn(async move {
                let connected = server.connect_now(&session, access).await;
                if let Some(trouble) = &mut server.state().trouble {
                    trouble.is_tried = false;
                }
                // What it leads to is known now; who needs it connects.
                drop(connected);
            });
        }
        Err(StoreError::Unavailable(sqlx::Error::Io(std::io::Error::other(why))))
    }

    async fn connect_now(&self, session: &Session, access: Access) -> Result<Connected> {
        let (mut failed, mut only_reads) = (None, None);
        for (place, options) in self.hosts() {
            let connecting = timeout(CONNECT_TIMEOUT, self.open(options, session));
            match connecting.await.unwrap_or_else(|_| Err(StoreError::Unavailable(silent()))) {
                Ok(connected) if connected.is_read_only => {
                    failed = Some(StoreError::Unavailable(read_only()));
                    only_reads = Some(connected);
                }
                Ok(connected) => {
                    self.prefer(place);
                    self.reached();
                    return Ok(connected);
                }
                Err(error @ StoreError::Refused(_)) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        let failed = failed.unwrap_or_else(|| StoreError::Unavailable(silent()));
        match only_reads {
            Some(connected) if access == Access::Reads => {
                self.heard();
                Ok(connected)
            }
            only_reads => {
                self.failed(&failed, only_reads.is_none());
                Err(failed)
            }
        }
    }

    async fn open(&self, options: &PgConnectOptions, session: &Session) -> Result<Connected> {
        let mut connection = options.connect().await?;
        let facts = sqlx::raw_sql(self.greeting(session)).fetch_one(&mut connection).await?;
        let is_read_only = takes_no_writes(&facts)?;
        let encoding: String = facts.try_get(2)?;
        if encoding != "UTF8" {
            return Err(StoreError::Refused(format!(
                "the database's encoding is {encoding}, in which not every text can be stored: make one with \
                 CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in DATABASE_URL"
            )));
        }
        let pid = if self.pooled { None } else { Some(facts.try_get(3)?) };
        let lifetime = if is_read_only { LIFETIME_READ_ONLY } else { self.lifetime() };
        Ok(Connected { connection, pid, is_read_only, lifetime })
    }

    /// Not the same for all, so that they are not renewed at once.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime.mul_f32(rand::random_range(1.0..1.5))
    }

    /// What is said first on a connection. Behind a pooler no settings: they would stay with a session that is somebody
    /// else's next.
    pub(super) fn greeting(&self, session: &Session) -> AssertSqlSafe<String> {
        let settings = if self.pooled { String::new() } else { format!(", {}", session.settings(false)) };
        AssertSqlSafe(format!("SELECT {FACTS}{settings}"))
    }

    /// Why a call does not wait for a connection, and whether it is for this one to have it tried in the background.
    fn refusal(&self, access: Access) -> Option<(String, bool)> {
        let now = Instant::now();
        let mut state = self.state();
        let trouble = state.trouble.as_mut().filter(|trouble| trouble.bars_reads || access == Access::Writes)?;
        let rested = now - trouble.tried;
        // What was found out long ago says nothing of now.
        if now - trouble.since <= PATIENCE || rested > PATIENCE && !trouble.is_tried {
            trouble.tried = now;
            return None;
        }
        let tries = rested >= RETRY_EVERY && !trouble.is_tried;
        if tries {
            (trouble.tried, trouble.is_tried) = (now, true);
        }
        Some((trouble.why.clone(), tries))
    }

    /// Whether it has been in trouble for so long that a request does not wait for the end of it.
    pub(super) fn is_given_up(&self) -> bool {
        self.state().trouble.as_ref().is_some_and(|trouble| trouble.since.elapsed() > PATIENCE)
    }

    fn failed(&self, error: &StoreError, bars_reads: bool) {
        let now = Instant::now();
        let why = match error.driver() {
            // Later calls wrap this text in an I/O error, and the driver then prefixes it again.
            Some(sqlx::Error::Io(error)) => error.to_string(),
            driver => driver.map_or_else(|| error.to_string(), ToString::to_string),
        };
        let mut state = self.state();
        let first = Trouble { since: now, tried: now, is_tried: false, logged: now, why: String::new(), bars_reads };
        let trouble = state.trouble.get_or_insert(first);
        trouble.bars_reads = bars_reads;
        if self.logs && (trouble.why != why || now - trouble.logged > REMIND_EVERY) {
            trouble.logged = now;
            let advice = error.advice().unwrap_or("See docs/runbook.md");
            tracing::error!("the database can't be used: {why}. {advice}; the server keeps trying");
        }
        trouble.why = why;
    }

    fn reached(&self) {
        let mut state = self.state();
        state.heard = Instant::now();
        if let Some(trouble) = state.trouble.take() {
            tracing::info!(seconds = trouble.since.elapsed().as_secs(), "the database can be used again");
        }
    }

    /// The server has answered something.
    pub(super) fn heard(&self) {
        self.state().heard = Instant::now();
    }

    /// A connection broke, was silent or takes no writes: the others may be no better.
    pub(super) fn doubt(&self) {
        self.state().doubted = Instant::now();
    }

    /// Whether what has answered at this time needs not be asked again.
    pub(super) fn trusts(&self, proven: Instant) -> bool {
        proven > self.state().doubted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a statement. `None`: it has taken too long, or the server does not know of it any more, or has gone silent; the
    /// connection is of no use.
    pub(super) async fn watch<T>(
        &self,
        pid: Option<i32>,
        limit: Duration,
        statement: impl Future<Output = Result<T>>,
    ) -> Option<Result<T>> {
        let start = Instant::now();
        let mut statement = pin!(statement);
        let done = if let Ok(done) = timeout(WATCH_AFTER.min(limit), &mut statement).await {
            Some(done)
        } else {
            tokio::select! {
                biased;
                done = &mut statement => Some(done),
                () = Box::pin(self.lost(pid, start)) => None,
                () = sleep(limit.saturating_sub(WATCH_AFTER)) => None,
            }
        };
        if done.as_ref().is_some_and(|done| done.as_ref().err().is_none_or(StoreError::is_answer)) {
            self.heard();
        }
        done
    }

    /// Waits until a statement is lost, if it is.
    async fn lost(&self, pid: Option<i32>, start: Instant) {
        let mut alive = start;
        loop {
            match timeout(CONNECT_TIMEOUT, self.is_running(pid)).await {
                Ok(Ok(true)) => alive = Instant::now(),
                // A large statement may still be on its way there, or its answer on the way back.
                Ok(Ok(false)) => {}
                // It may have no connection left to ask on; as long as it answers others it is alive.
                Ok(Err(_)) | Err(_) => alive = alive.max(self.state().heard),
            }
            if alive.elapsed() > SILENCE {
                return;
            }
            sleep(WATCH_EVERY).await;
        }
    }

    /// Whether the server is at work for this process. Behind a pooler: whether it answers.
    async fn is_running(&self, pid: Option<i32>) -> Result<bool> {
        let mut watcher = self.watcher.lock().await;
        let used_lately = watcher.take().filter(|(_, used)| used.elapsed() < WATCHER_RESTS);
        let mut connection = if let Some((connection, _)) = used_lately { connection } else { self.any_host().await? };
        let sql = match pid {
            Some(pid) => {
                format!("SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND state = 'active')")
            }
            None => "SELECT true".to_owned(),
        };
        let is_running = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut connection).await?.try_get(0)?;
        self.heard();
        *watcher = Some((connection, Instant::now()));
        Ok(is_running)
    }

    /// A connection to whichever host lets somebody in.
    async fn any_host(&self) -> Result<PgConnection> {
        let mut failed = silent();
        for (_, options) in self.hosts() {
            match options.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => failed = error,
            }
        }
        Err(failed.into())
    }

    /// Whether a pooler in between hands sessions round: whether two connections share one, or one has several.
    pub(super) async fn hands_sessions_round(self: &Arc<Self>, session: &Session) -> Result<bool> {
        let mut one = self.connect(session, Access::Reads).await?.connection;
        let mut other = self.connect(session, Access::Reads).await?.connection;
        let (first, second) = (pid_of(&mut one).await?, pid_of(&mut other).await?);
        Ok(first == second || pid_of(&mut other).await? != second || pid_of(&mut one).await? != first)
    }

    /// Says whether two addresses lead to the same database.
    pub(super) async fn identity(self: &Arc<Self>, session: &Session) -> Result<String> {
        let mut connection = self.connect(session, Access::Reads).await?.connection;
        Ok(sqlx::raw_sql(IDENTITY).fetch_one(&mut connection).await?.try_get(0)?)
    }

    pub(super) async fn close(&self) {
        self.watcher.lock().await.take();
    }
}

async fn pid_of(connection: &mut PgConnection) -> Result<i32> {
    Ok(sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)?)
}

/// Whether this connection leads to a server that is good for this.
pub(super) async fn check(connection: &mut PgConnection, access: Access) -> Result<()> {
    let role = sqlx::raw_sql(ROLE).fetch_one(connection).await?;
    if takes_no_writes(&role)? && access == Access::Writes {
        return Err(StoreError::Unavailable(read_only()));
    }
    Ok(())
}

/// Of a standby, whose data may be old, nothing is read either.
pub(super) fn takes_no_writes(facts: &PgRow) -> Result<bool> {
    if facts.try_get(0)? {
        return Err(StoreError::Unavailable(read_only()));
    }
    Ok(facts.try_get(1)?)
}

/// What is said of a server that does not answer.
pub(super) fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database server does not answer"))
}

fn read_only() -> sqlx::Error {
    let text = "the database server takes no writes: it is a standby, or default_transaction_read_only is on";
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ReadOnlyFilesystem, text))
}
