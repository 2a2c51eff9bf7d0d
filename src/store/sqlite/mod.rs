//! The embedded database: one file, one process, one writer, several readers.
//!
//! Owns the connections, the lock that keeps a second process out, and the checkpoints. Write-ahead log with
//! `synchronous=FULL`: a commit that has returned is on the disk. Whoever writes has the turn (`writer`);
//! readers see the last committed state and never wait for it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use super::error::timed_on;
use super::migrate::{self, MigrationStatus};
use super::{Result, Store, StoreError};

mod accounts;
mod adopt;
mod archives;
mod backup;
mod checkpoint;
mod columns;
mod commit;
mod deletion;
mod doctor;
mod error;
mod events;
mod gauges;
mod log;
mod overview;
mod overwrite;
mod payload;
mod peers;
mod reader;
mod recount;
mod retention;
mod security;
mod segments;
mod sessions;
mod signin;
mod test_mode;
mod thread;
mod upkeep;
mod usage;
mod writer;

use thread::Threads;
use writer::Writer;

/// How much of the write-ahead log's file is kept when the log starts over, in bytes: to write over it is faster than to
/// let it grow again.
const WAL_KEPT: u32 = 96 << 20;

/// A reading connection of the driver that has not been used for so long is closed, and its page cache with it.
const IDLE: Duration = Duration::from_mins(1);

/// The page cache of each connection that reads logs: 8 MiB.
const LOG_CACHE: &str = "-8192";
/// That of each other one but the commits' own: 4 MiB. One large payload fills any of them; what they miss the operating system
/// has.
const SMALL_CACHE: &str = "-4096";

/// How to open the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// Connections that read.
    pub readers: u32,
    /// How long a read may wait for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement waits for a lock that another program (a backup, the `sqlite3` shell) holds on the file.
    pub busy_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { readers: 4, acquire_timeout: Duration::from_secs(10), busy_timeout: Duration::from_secs(5) }
    }
}

/// The embedded database.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Arc<Writer>,
    logs: reader::Readers,
    /// For everything but logs.
    readers: SqlitePool,
    /// How many connections that pool has at most.
    most_readers: u32,
    /// For health checks only, so that busy readers don't look like a dead database.
    probe: SqlitePool,
    checkpointer: checkpoint::Checkpointer,
    /// Held as long as the file is open: tells other processes that it is in use.
    lock: Mutex<Option<File>>,
    /// For what needs a connection of its own.
    path: PathBuf,
}

impl SqliteStore {
    /// Opens the file, creates it if missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when another process has it open or its schema is newer than this program.
    pub async fn open(path: &Path, options: SqliteOptions) -> Result<Self> {
        let in_use = || {
            StoreError::Refused(format!(
                "the database {} is in use by another process; SQLite serves one server at a time. Stop the other one, \
                 or use PostgreSQL (DATABASE_URL=postgres://…) for several",
                path.display()
            ))
        };
        let lock = prepare(path)?.ok_or_else(in_use)?;
        Self::connect(path, options, Some(lock)).await
    }

    /// Opens the file for a short command that runs beside a server: accounts are added and changed while it serves.
    /// Every commit of a log is fenced by its revision, so the server only finds out a little later.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the server that has it open is of another version.
    pub async fn open_shared(path: &Path, options: SqliteOptions) -> Result<Self> {
        let lock = prepare(path)?;
        if lock.is_none()
            && !Self::migration_status(path).await?.iter().all(|migration| migration.applied && migration.known)
        {
            return Err(StoreError::Refused(format!(
                "the database {} is in use by a server of another version: use that one's program, or stop it first",
                path.display()
            )));
        }
        Self::connect(path, options, lock).await
    }

    /// Opens a file that has every migration of this program and no other, without making, changing or locking
    /// anything.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it is of another version or is not there.
    pub async fn open_unlocked(path: &Path, options: SqliteOptions) -> Result<Self> {
        if !Self::migration_status(path).await?.iter().all(|migration| migration.applied && migration.known) {
            return Err(StoreError::Refused(format!("the database {} is of another version", path.display())));
        }
        Self::connect(path, options, None).await
    }

    async fn connect(path: &Path, options: SqliteOptions, lock: Option<File>) -> Result<Self> {
        // Checkpoints run elsewhere, so that no commit waits for one.
        let writing = connect_options(path, options)
            .pragma("wal_autocheckpoint", "0")
            .pragma("journal_size_limit", WAL_KEPT.to_string())
            .pragma("cache_size", SMALL_CACHE);
        let mut driver = writing.connect().await?;
        if lock.is_some() {
            migrate::run_sqlite(&mut driver, path).await?;
        }
        let file = path.to_owned();
        if lock.is_some() {
            payload::purge(&open_writer(&file, options.busy_timeout)?)?;
        }
        let writer = Arc::new(Writer::new(driver, move || open_writer(&file, options.busy_timeout))?);
        let reading = connect_options(path, options).pragma("query_only", "1").pragma("cache_size", SMALL_CACHE);
        let file = path.to_owned();
        let count = usize::try_from(options.readers.max(1)).unwrap_or(1);
        let logs = Threads::start("sqlite-reader", count, move || open_reader(&file, options.busy_timeout))?;
        let logs = reader::Readers::new(logs, count, options.acquire_timeout);
        let readers = pool(options.readers.max(1), options.acquire_timeout).connect_with(reading.clone()).await?;
        let probe = pool(1, super::PING_TIMEOUT).connect_with(reading).await?;
        let file = path.to_owned();
        let checkpoints = Threads::start("sqlite-checkpoint", 1, move || open_direct(&file, Duration::ZERO))?;
        let checkpointer = checkpoint::Checkpointer::start(checkpoints, Arc::clone(&writer));
        Ok(Self {
            writer,
            logs,
            readers,
            most_readers: options.readers.max(1),
            probe,
            checkpointer,
            lock: Mutex::new(lock),
            path: path.to_owned(),
        })
    }

    /// Which migrations the file has and which it lacks; changes nothing. A missing file lacks all.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn migration_status(path: &Path) -> Result<Vec<MigrationStatus>> {
        if !path.exists() {
            return Ok(migrate::all_pending_sqlite());
        }
        let options = connect_options(path, SqliteOptions::default()).create_if_missing(false);
        let pool = pool(1, Duration::from_secs(10)).connect_with(options).await?;
        let status = migrate::status_sqlite(&pool).await;
        pool.close().await;
        status
    }
}

fn pool(connections: u32, acquire_timeout: Duration) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(acquire_timeout)
        .idle_timeout(IDLE)
        .max_lifetime(None)
        .test_before_acquire(false)
}

fn connect_options(path: &Path, options: SqliteOptions) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(options.busy_timeout)
        .statement_cache_capacity(128)
        // Calls are measured where they are made.
        .disable_statement_logging()
}

/// A connection of ours, past the driver, to a file that the driver has opened before.
fn open_direct(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(busy_timeout)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;")?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    Ok(connection)
}

/// The connection of the commits.
fn open_writer(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = open_direct(path, busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(commit::STATEMENTS);
    // The state row that each commit changes first is the proof that the account exists; a look-up for each row more would
    // tell nothing new. Accounts are deleted by the driver's connection, which does take along what hangs on them.
    connection.execute_batch("PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF;")?;
    Ok(connection)
}

/// A connection that reads logs.
fn open_reader(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = open_direct(path, busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(reader::STATEMENTS);
    connection.pragma_update(None, "cache_size", LOG_CACHE)?;
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA query_only = 1;")?;
    Ok(connection)
}

/// Makes the folder and takes the lock; `None` when another process holds it.
fn prepare(path: &Path) -> Result<Option<File>> {
    let io = |what: &str, error: &std::io::Error| StoreError::Refused(format!("{what} {}: {error}", path.display()));
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        crate::config::private_folder(folder)
            .map_err(|error| io("cannot create the folder of the database", &error))?;
    }
    let lock = private_file(&lock_path(path)).map_err(|error| io("cannot create the lock file of", &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(error)) => return Err(io("cannot lock", &error)),
    }
    // The file holds password hashes and private data: created for its owner only. SQLite gives its side files the same
    // mode.
    private_file(path).map_err(|error| io("cannot open the database", &error))?;
    Ok(Some(lock))
}

/// The side file that carries the lock. Not the database itself: its own locks belong to `SQLite`.
fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<()> {
        timed_on("ping", "probe", async {
            sqlx::query("SELECT 1 FROM leadership LIMIT 1").fetch_optional(&self.probe).await?;
            Ok(())
        })
        .await
    }

    async fn try_room(&self) -> Result<()> {
        timed_on("try_room", "writer", async {
            // Two commits: what is rolled back never reaches the disk.
            for sql in [
                "INSERT INTO leadership (role, owner, expires_at) VALUES ('room', hex(randomblob(?1 / 2)), 0)",
                "DELETE FROM leadership WHERE role = 'room'",
            ] {
                let query = sqlx::query(sql).bind(super::ROOM_BYTES);
                query.execute(&mut *self.writer.acquire().await?).await?;
            }
            self.checkpointer.wake();
            Ok(())
        })
        .await
    }

    fn kind(&self) -> &'static str {
        "sqlite"
    }

    async fn close(&self) {
        self.checkpointer.stop().await;
        self.logs.close().await;
        self.readers.close().await;
        self.probe.close().await;
        let is_owner = self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        // The writer last: it folds the write-ahead log into the file, which only works without readers.
        self.writer
            .close(async |connection| {
                if is_owner
                    && let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(connection).await
                {
                    tracing::warn!(%error, "final checkpoint failed; the next start reads the write-ahead log instead");
                }
            })
            .await;
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
