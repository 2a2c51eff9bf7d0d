//! A scratch database: created empty, filled with accounts, measured, removed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use supersync::accounts::Accounts;
use supersync::clock::Clock;
use supersync::config::Config;
use supersync::mail::Mailer;
use supersync::store::{self, NewUser};
use tempfile::TempDir;
use tokio::process::Command;
use url::Url;

use crate::usage::postmaster_of;

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
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "sqlite" {
            return Ok(Self::Sqlite);
        }
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let is_postgres = matches!(url.scheme(), "postgres" | "postgresql");
        is_postgres.then_some(Self::Postgres(url)).ok_or_else(|| "expected sqlite or postgres://…".to_owned())
    }

    /// Its name for people and in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Drops this process's scratch databases.
    pub async fn clean(&self) -> Result<()> {
        let Self::Postgres(admin) = self else { return Ok(()) };
        let mut connection = PgConnection::connect(admin.as_str()).await?;
        let query = sqlx::query_scalar("SELECT datname FROM pg_database WHERE datname LIKE $1 || '%'");
        let left: Vec<String> = query.bind(prefix()).fetch_all(&mut connection).await?;
        for name in left {
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }
}

/// How the names of this process's scratch databases begin; made of letters, digits and underscores.
fn prefix() -> String {
    format!("supersync_bench_{}_", std::process::id())
}

/// An empty database and a data directory for one server. The directory goes when it is dropped.
pub struct Place {
    directory: TempDir,
    database: Database,
    /// The scratch database's name, on PostgreSQL.
    name: String,
    program: PathBuf,
    settings: Vec<(String, String)>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Place {
    /// Creates it, for a server program with these settings beyond those that every load needs.
    pub async fn create(
        database: &Database,
        parent: &Path,
        program: &Path,
        settings: Vec<(String, String)>,
    ) -> Result<Self> {
        let name = format!("{}{}", prefix(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix(&name).tempdir_in(parent)?;
        if let Database::Postgres(admin) = database {
            let mut connection = PgConnection::connect(admin.as_str()).await.context("scratch database")?;
            let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
            sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await?;
            connection.close().await?;
        }
        Ok(Self { directory, database: database.clone(), name, program: program.to_owned(), settings })
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The scratch database's address, on PostgreSQL.
    pub fn postgres_url(&self) -> Option<String> {
        let Database::Postgres(admin) = &self.database else { return None };
        let mut url = admin.clone();
        url.set_path(&self.name);
        Some(url.into())
    }

    pub fn sqlite_file(&self) -> PathBuf {
        self.directory().join("supersync.db")
    }

    /// Limits that a load from one address would meet are off, and the quota is out of the way.
    fn environment(&self) -> HashMap<String, String> {
        let fixed = [
            ("JWT_SECRET", "the secret of a server that lives for a minute"),
            ("RATE_LIMITS", "off"),
            ("UPLOADS_PER_USER_PER_MINUTE", "0"),
            ("SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES", "1099511627776"),
            ("METRICS_ADDR", "off"),
            ("LOG_LEVEL", "error"),
        ];
        let mut variables: HashMap<_, _> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        variables.insert("DATA_DIR".to_owned(), self.directory().to_string_lossy().into_owned());
        variables.extend(self.postgres_url().map(|url| ("DATABASE_URL".to_owned(), url)));
        variables.extend(self.settings.iter().cloned());
        variables
    }

    /// The server's program with this place's settings only: the caller's environment is not inherited.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.directory()).env_clear().envs(self.environment());
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        command
    }

    /// Packs all operations into segments. The server must not run.
    pub async fn seal(&self) -> Result<()> {
        let sealed = self.command(&["data", "seal", "--older-than", "0"]).output().await?;
        ensure!(sealed.status.success(), "sealing: {}", String::from_utf8_lossy(&sealed.stderr).trim());
        Ok(())
    }

    /// Creates accounts and gives their tokens. The server must not run: the embedded database lets one process in.
    pub async fn create_accounts(&self, count: usize) -> Result<Vec<String>> {
        let config = Config::parse(&self.environment())?;
        let store = store::open(&config.database, config.timeouts.statement).await.context("scratch database")?;
        let accounts = Accounts::new(Arc::clone(&store), &config, Clock::System, Mailer::unavailable());
        let create = |n: usize| {
            let (store, accounts) = (&store, &accounts);
            let new = NewUser {
                email: format!("bench-{n}@example.org"),
                password_hash: None,
                is_verified: true,
                created_at: Clock::System.now_ms(),
                terms_accepted_at: None,
                storage_quota_bytes: config.limits.default_quota_bytes,
            };
            async move {
                let id = store.create_user(&new).await?.context("the scratch database is not empty")?;
                anyhow::Ok(accounts.session_for(id).await?.token.expose_secret().to_owned())
            }
        };
        // A few at a time, so that the database commits them together.
        let created = stream::iter((0..count).map(create)).buffered(16).try_collect().await;
        store.close().await;
        created
    }

    /// Bytes on disk of all tables and indexes, after everything was written to its place. The server must not run.
    pub async fn disk_bytes(&self) -> Result<u64> {
        if let Some(url) = self.postgres_url() {
            let mut connection = PgConnection::connect(&url).await?;
            sqlx::query("CHECKPOINT").execute(&mut connection).await?;
            let query = sqlx::query_scalar("SELECT pg_database_size(current_database())");
            let bytes: i64 = query.fetch_one(&mut connection).await?;
            connection.close().await?;
            return Ok(u64::try_from(bytes).unwrap_or_default());
        }
        let connection = rusqlite::Connection::open(self.sqlite_file())?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(std::fs::metadata(self.sqlite_file())?.len())
    }

    /// Removes the database and the directory.
    pub async fn remove(self) -> Result<()> {
        // No other scratch database is in use: one server is measured at a time.
        self.database.clean().await
    }
}

/// Asks a database about itself: what the report says about it, with the settings on which figures depend, and
/// PostgreSQL's first process, if it runs on this machine.
pub async fn describe(database: &Database) -> Result<(Value, Option<u32>)> {
    const SETTINGS: [&str; 7] = [
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "wal_sync_method",
        "shared_buffers",
        "max_wal_size",
        "max_connections",
    ];
    let description = |version: &str, settings: HashMap<String, String>| json!({ "kind": database.name(), "version": version, "settings": settings });
    let Database::Postgres(url) = database else {
        return Ok((description(rusqlite::version(), HashMap::new()), None));
    };
    let mut connection = PgConnection::connect(url.as_str()).await.context("scratch database")?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
    let query = sqlx::query_as("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)");
    let settings = query.bind(&SETTINGS[..]).fetch_all(&mut connection).await?.into_iter().collect();
    let postmaster = u32::try_from(backend).ok().and_then(postmaster_of);
    connection.close().await?;
    Ok((description(&version, settings), postmaster))
}
