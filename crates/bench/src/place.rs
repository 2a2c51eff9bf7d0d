//! A scratch database: created empty, filled with accounts, measured, removed.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use secrecy::ExposeSecret as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use url::Url;

use super::error::{BenchError, Result};
use super::target::Account;
use super::usage::postmaster_of;
use crate::accounts::Accounts;
use crate::clock::Clock;
use crate::config::Config;
use crate::mail::Mailer;
use crate::store::{self, NewUser};

/// Which database the server under load uses.
#[derive(Clone)]
pub enum Database {
    /// The embedded one, in a scratch directory.
    Sqlite,
    /// A database that is created on this server for the run and dropped after it.
    Postgres(Url),
}

impl Database {
    /// `sqlite`, or the address of a PostgreSQL server on which databases may be created.
    ///
    /// # Errors
    /// Why the text is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "sqlite" {
            return Ok(Self::Sqlite);
        }
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err("expected sqlite or postgres://…".to_owned());
        }
        Ok(Self::Postgres(url))
    }

    /// Its name for people and in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

/// Without the address: it may hold a password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A directory that is removed with everything in it.
#[derive(Debug)]
struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    fn create(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).map_err(BenchError::io(format!("creating {}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// An empty database and a data directory for one server.
#[derive(Debug)]
pub struct Place {
    directory: ScratchDirectory,
    database: Database,
    /// The scratch database's name, on PostgreSQL.
    name: String,
    settings: Vec<(String, String)>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Place {
    /// Creates it, for a server with these settings beyond those that every load needs.
    ///
    /// # Errors
    /// When the directory or the database can't be created.
    pub async fn create(database: &Database, parent: &Path, settings: &[(String, String)]) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("supersync_bench_{}_{number}", std::process::id());
        let directory = ScratchDirectory::create(parent, &name)?;
        if let Database::Postgres(admin) = database {
            let mut connection = PgConnection::connect(admin.as_str()).await?;
            // The name is made of letters and digits above.
            let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
            sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await?;
            connection.close().await?;
        }
        Ok(Self { directory, database: database.clone(), name, settings: settings.to_vec() })
    }

    /// Which database it is.
    #[must_use]
    pub const fn database(&self) -> &Database {
        &self.database
    }

    /// The server's working and data directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// The scratch database's address, on PostgreSQL.
    #[must_use]
    pub fn postgres_url(&self) -> Option<String> {
        let Database::Postgres(admin) = &self.database else { return None };
        let mut url = admin.clone();
        url.set_path(&self.name);
        Some(url.into())
    }

    /// The embedded database's file.
    #[must_use]
    pub fn sqlite_file(&self) -> Option<PathBuf> {
        matches!(self.database, Database::Sqlite).then(|| self.directory().join("supersync.db"))
    }

    /// The server's environment: limits that a load from one address would hit are off, and the quota is out of the
    /// way.
    #[must_use]
    pub fn environment(&self) -> HashMap<String, String> {
        let mut variables: HashMap<String, String> = [
            ("DATA_DIR", self.directory().to_string_lossy().into_owned()),
            ("JWT_SECRET", "the secret of a server that lives for a minute".to_owned()),
            ("RATE_LIMITS", "off".to_owned()),
            ("UPLOADS_PER_USER_PER_MINUTE", "0".to_owned()),
            ("SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES", (1_u64 << 40).to_string()),
            ("METRICS_ADDR", "off".to_owned()),
            ("LOG_LEVEL", "warn".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        variables.extend(self.postgres_url().map(|url| ("DATABASE_URL".to_owned(), url)));
        variables.extend(self.settings.iter().cloned());
        variables
    }

    /// Creates accounts while no server runs: the embedded database lets one process in at a time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_accounts(&self, count: usize) -> Result<Vec<Account>> {
        let config = Config::parse(&self.environment())?;
        let store = store::open(&config.database, config.timeouts.statement).await?;
        let accounts = Accounts::new(Arc::clone(&store), &config, Clock::System, Mailer::unavailable());
        let create = |n: usize| {
            let (store, accounts, config) = (&store, &accounts, &config);
            async move {
                let new = NewUser {
                    email: format!("bench-{n}@example.org"),
                    password_hash: None,
                    is_verified: true,
                    created_at: Clock::System.now_ms(),
                    terms_accepted_at: None,
                    storage_quota_bytes: config.limits.default_quota_bytes,
                };
                let taken = || BenchError::Options("the scratch database is not empty".to_owned());
                let id = store.create_user(&new).await?.ok_or_else(taken)?;
                let session = accounts.session_for(id).await?;
                Ok::<_, BenchError>(Account { token: session.token.expose_secret().to_owned() })
            }
        };
        // A few at a time, so that the database commits them together.
        let created = stream::iter((0..count).map(create)).buffered(16).try_collect().await;
        store.close().await;
        created
    }

    /// Bytes on disk of all tables and indexes, after everything was written to its place. The server must not run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn disk_bytes(&self) -> Result<u64> {
        if let Some(url) = self.postgres_url() {
            let mut connection = PgConnection::connect(&url).await?;
            sqlx::query("CHECKPOINT").execute(&mut connection).await?;
            let bytes: i64 =
                sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut connection).await?;
            connection.close().await?;
            return Ok(u64::try_from(bytes).unwrap_or_default());
        }
        let file = self.directory().join("supersync.db");
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
        connection.close().await?;
        let meta = fs::metadata(&file).map_err(BenchError::io(format!("measuring {}", file.display())))?;
        Ok(meta.len())
    }

    /// Removes the database and the directory.
    ///
    /// # Errors
    /// When the database can't be dropped.
    pub async fn remove(self) -> Result<()> {
        drop_database(&self.database, &self.name).await
    }

    /// What has to be dropped if the run ends early.
    #[must_use]
    pub(super) fn leftover(&self) -> Leftover {
        Leftover { database: self.database.clone(), name: self.name.clone() }
    }
}

/// A scratch database that may still be there. The directory removes itself.
#[derive(Clone, Debug)]
pub(super) struct Leftover {
    database: Database,
    name: String,
}

impl Leftover {
    pub(super) async fn remove(&self) -> Result<()> {
        drop_database(&self.database, &self.name).await
    }
}

async fn drop_database(database: &Database, name: &str) -> Result<()> {
    let Database::Postgres(admin) = database else { return Ok(()) };
    let mut connection = PgConnection::connect(admin.as_str()).await?;
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// What a report says about a database.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DatabaseDescription {
    /// `sqlite` or `postgres`.
    pub kind: &'static str,
    /// Its version.
    pub version: String,
    /// Settings on which figures depend.
    pub settings: HashMap<String, String>,
    /// PostgreSQL's first process, if it runs on this machine.
    #[serde(skip)]
    pub postmaster: Option<u32>,
}

/// Asks a database about itself.
///
/// # Errors
/// When it does not answer.
pub async fn describe(database: &Database) -> Result<DatabaseDescription> {
    const SETTINGS: [&str; 7] = [
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "wal_sync_method",
        "shared_buffers",
        "max_wal_size",
        "max_connections",
    ];
    match database {
        Database::Sqlite => {
            let mut connection = SqliteConnection::connect("sqlite::memory:").await?;
            let version = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok(DatabaseDescription { kind: "sqlite", version, settings: HashMap::new(), postmaster: None })
        }
        Database::Postgres(url) => {
            let mut connection = PgConnection::connect(url.as_str()).await?;
            let version = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
            let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
            let settings = sqlx::query_as("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)")
                .bind(&SETTINGS[..])
                .fetch_all(&mut connection)
                .await?
                .into_iter()
                .collect();
            let postmaster = u32::try_from(backend).ok().and_then(postmaster_of);
            connection.close().await?;
            Ok(DatabaseDescription { kind: "postgres", version, settings, postmaster })
        }
    }
}
