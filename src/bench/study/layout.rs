//! What the studies of layouts share: data that is written over days, in minutes.

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _, SqliteConnection,
};
use tokio::process::Command;

use super::turns::Group;
use crate::bench::Bench;
use crate::bench::ceiling::{postgres, rows};
use crate::bench::error::{BenchError, Result};
use crate::bench::place::{Database, Place};
use crate::bench::session::Session;
use crate::protocol::Seq;

/// Operations per upload.
pub const BATCH: usize = 20;

/// Packs every old operation into segments: what the server does in the background, by hand. The server must not run.
///
/// # Errors
/// When the program fails.
pub async fn seal(place: &Place) -> Result<()> {
    let program = std::env::current_exe().map_err(BenchError::io("finding this program"))?;
    let output = Command::new(program)
        .args(["data", "seal"])
        .current_dir(place.directory())
        .env_clear()
        .envs(place.environment())
        .output()
        .await
        .map_err(BenchError::io("sealing"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(BenchError::Answer(format!("sealing: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// A connection of whichever kind the place has.
pub enum Raw {
    /// PostgreSQL.
    Postgres(Box<PgConnection>),
    /// The embedded database.
    Sqlite(Box<SqliteConnection>),
}

impl Raw {
    /// Connects. With the embedded database the server must not run.
    pub async fn open(place: &Place) -> Result<Self> {
        Ok(match place.database() {
            Database::Postgres(_) => Self::Postgres(Box::new(postgres::connect(place).await?)),
            Database::Sqlite => {
                let options = sqlx::sqlite::SqliteConnectOptions::new()
                    .filename(rows::sqlite_file(place)?)
                    .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
                Self::Sqlite(Box::new(options.connect().await?))
            }
        })
    }

    /// Runs a statement of this module's callers: never anything from outside.
    pub async fn execute(&mut self, sql: String) -> Result<()> {
        let sql = AssertSqlSafe(sql);
        match self {
            Self::Postgres(connection) => connection.execute(sql).await.map(|_| ())?,
            Self::Sqlite(connection) => connection.execute(sql).await.map(|_| ())?,
        }
        Ok(())
    }

    /// The first column of every row.
    pub async fn texts(&mut self, sql: &'static str) -> Result<Vec<String>> {
        Ok(match self {
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_all(&mut **connection).await?,
            Self::Sqlite(connection) => sqlx::query_scalar(sql).fetch_all(&mut **connection).await?,
        })
    }

    /// A number.
    pub async fn number(&mut self, sql: &'static str) -> Result<i64> {
        Ok(match self {
            Self::Postgres(connection) => sqlx::query_scalar(sql).fetch_one(&mut **connection).await?,
            Self::Sqlite(connection) => sqlx::query_scalar(sql).fetch_one(&mut **connection).await?,
        })
    }

    /// Bytes of all columns of up to `limit` rows that a page query finds.
    pub async fn page(&mut self, sql: &'static str, user: i64, limit: i64) -> Result<Vec<Vec<u8>>> {
        Ok(match self {
            Self::Postgres(connection) => {
                let rows = sqlx::query(sql).bind(user).bind(limit).fetch_all(&mut **connection).await?;
                rows.iter().map(|row| row.try_get("payload")).collect::<Result<_, sqlx::Error>>()?
            }
            Self::Sqlite(connection) => {
                let rows = sqlx::query(sql).bind(user).bind(limit).fetch_all(&mut **connection).await?;
                rows.iter().map(|row| row.try_get("payload")).collect::<Result<_, sqlx::Error>>()?
            }
        })
    }

    /// Ends the session, so that nothing is left to be written.
    pub async fn close(self) -> Result<()> {
        match self {
            Self::Postgres(connection) => connection.close().await?,
            Self::Sqlite(connection) => connection.close().await?,
        }
        Ok(())
    }
}

/// Frees the space of what was deleted, for what comes next: what the database does by itself in the course of a day.
pub async fn vacuum(place: &Place) -> Result<()> {
    let mut connection = Raw::open(place).await?;
    if matches!(connection, Raw::Postgres(_)) {
        connection.execute("VACUUM (ANALYZE)".to_owned()).await?;
    } else {
        // The embedded database uses free pages again by itself; only the log has to go into the file.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)".to_owned()).await?;
    }
    connection.close().await
}

/// Lets all accounts upload in turn, a part of `per_account` operations in each of so many rounds. Between two rounds, with
/// the server stopped, `copy` sees the rows with sequences above its second argument; then they are sealed.
pub async fn write_in_rounds(
    bench: &Bench,
    mut session: Session,
    rounds: usize,
    per_account: usize,
    mut copy: impl AsyncFnMut(&Place, Seq) -> Result<()>,
) -> Result<(Session, Group)> {
    let mut group = Group::new(session.devices(0, bench.options.payload_bytes()).await?);
    let uploads = per_account / rounds / BATCH;
    for round in 0..rounds {
        bench.progress(&format!("writing, round {} of {rounds}", round + 1));
        group.upload_each(&session, bench.options.connections(), uploads, BATCH).await?;
        let before = Seq::try_from(round * uploads * BATCH).unwrap_or(Seq::MAX);
        (session, ()) = session
            .paused(async |place: &Place| {
                copy(place, before).await?;
                seal(place).await?;
                vacuum(place).await
            })
            .await?;
        group.retarget(&session);
    }
    Ok((session, group))
}

/// Makes the database and the operating system forget what they read; `Err` says why it can't be done. The server must
/// not run.
pub async fn make_cold(place: &Place) -> Result<Result<(), String>> {
    let mut connection = Raw::open(place).await?;
    let emptied = match connection {
        Raw::Postgres(_) => empty_shared_buffers(&mut connection).await?,
        Raw::Sqlite(_) => Ok(()),
    };
    connection.close().await?;
    Ok(match emptied {
        Ok(()) => drop_page_cache().await,
        Err(reason) => Err(reason),
    })
}

async fn drop_page_cache() -> Result<(), String> {
    const SWITCH: &str = "/proc/sys/vm/drop_caches";
    let synced = Command::new("sync").status().await.map_err(|error| format!("sync: {error}"))?;
    if !synced.success() {
        return Err(format!("sync: {synced}"));
    }
    std::fs::write(SWITCH, "3").map_err(|error| format!("{SWITCH}: {error}"))
}

/// PostgreSQL forgets what it read when it reads as much of something else. Tables of less than a quarter of its buffers
/// go through all of the buffers, larger ones through a few of them; and a buffer that was used often survives several
/// rounds.
async fn empty_shared_buffers(connection: &mut Raw) -> Result<Result<(), String>> {
    const TABLES: usize = 8;
    const PASSES: usize = 6;
    const MOST_PAGES: i64 = 131_072;
    let pages = connection.number("SELECT setting::int8 FROM pg_settings WHERE name = 'shared_buffers'").await?;
    if pages > MOST_PAGES {
        return Ok(Err("shared_buffers is more than 1 GiB".to_owned()));
    }
    // A fifth each; one row fills a page.
    let rows = (pages / 5).max(1);
    connection.execute("SET max_parallel_workers_per_gather = 0".to_owned()).await?;
    for table in 0..TABLES {
        connection.execute(format!("CREATE UNLOGGED TABLE filler_{table} (filling TEXT)")).await?;
        // Neither compressed nor kept beside the table.
        connection.execute(format!("ALTER TABLE filler_{table} ALTER COLUMN filling SET STORAGE PLAIN")).await?;
        let fill =
            format!("INSERT INTO filler_{table} SELECT repeat(md5(n::text), 200) FROM generate_series(1, {rows}) n");
        connection.execute(fill).await?;
    }
    for _ in 0..PASSES {
        for table in 0..TABLES {
            connection.execute(format!("SELECT sum(length(filling)) FROM filler_{table}")).await?;
        }
    }
    for table in 0..TABLES {
        connection.execute(format!("DROP TABLE filler_{table}")).await?;
    }
    connection.execute("CHECKPOINT".to_owned()).await?;
    Ok(Ok(()))
}

/// Bytes that were read from disks since the system started; `None` where it does not tell.
#[must_use]
pub fn bytes_read() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix("pgpgin "))?.trim().parse().ok()?;
    Some(kib * 1024)
}
