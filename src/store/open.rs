//! Opening the configured database: to serve it, to fill it, or beside a server.

use std::sync::Arc;
use std::time::Duration;

use super::{MigrationStatus, Result, Store, StoreError, postgres, sqlite};
use crate::config;

/// How long connections to a database server are used.
const LIFETIME: Duration = Duration::from_mins(20);

/// Which versions of the schema the configured database has, and which it lacks. Changes nothing.
///
/// # Errors
/// What kept the database from being read.
pub async fn migration_status(database: &config::Database) -> Result<Vec<MigrationStatus>> {
    match database {
        config::Database::Sqlite { path } => sqlite::SqliteStore::migration_status(path).await,
        config::Database::Postgres { url, direct_url, schema, .. } => {
            let url = direct_url.as_ref().unwrap_or(url);
            postgres::PostgresStore::migration_status(url, schema.as_deref()).await
        }
    }
}

/// The same of a database that a server has used before.
///
/// # Errors
/// [`StoreError::Refused`] when there is none: whoever looks from another folder than the server's has other settings.
pub async fn existing_status(database: &config::Database) -> Result<Vec<MigrationStatus>> {
    let migrations = migration_status(database).await?;
    if migrations.iter().any(|migration| migration.applied) {
        return Ok(migrations);
    }
    let found = match database {
        config::Database::Sqlite { path } => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            format!("there is no database {}", path.display())
        }
        config::Database::Postgres { .. } => "the database that DATABASE_URL names is empty".to_owned(),
    };
    Err(StoreError::Refused(format!(
        "{found}: is this the server's folder? Settings come from the environment and from the .env file of the working directory; \
         `supersync --print-config` shows them"
    )))
}

/// What a database is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Serving it. Brings its schema up to date. Waits for a database server that can't be reached, however long, and says
    /// so in the log. Refused while the database is being filled.
    Serve,
    /// Filling it, or looking after its schema, which is brought up to date. Refused while the database is being filled.
    Fill,
    /// A command beside a server. Makes the database, or brings its schema up to date, where no server holds it.
    Shared,
    /// A command beside a server, on a database of this program's version. Makes and migrates nothing.
    Existing,
    /// Like [`Existing`](Self::Existing), and a server may start meanwhile: nothing is locked.
    Unlocked,
}

/// Opens the configured database to fill it, and brings its schema up to date.
///
/// # Errors
/// Like [`open_with`].
pub async fn open(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    open_with(OpenMode::Fill, database, statement_timeout).await
}

/// Opens the configured database.
///
/// `statement_timeout` is enforced by PostgreSQL, which stops the statement; the embedded database runs in this process
/// and has nobody to wait for.
///
/// # Errors
/// [`StoreError::Refused`] when the database must not be used as it is, otherwise what kept it from being opened.
pub async fn open_with(
    mode: OpenMode,
    database: &config::Database,
    statement_timeout: Duration,
) -> Result<Arc<dyn Store>> {
    let is_current = |migrations: Vec<MigrationStatus>| migrations.iter().all(|one| one.applied && one.known);
    if mode == OpenMode::Existing && !is_current(existing_status(database).await?) {
        return Err(StoreError::Refused(
            "the database is not of this program's version: `supersync migrate status` says more, and `supersync migrate \
             run` or the next start of the server brings it up to date"
                .to_owned(),
        ));
    }
    match database {
        config::Database::Sqlite { path } => {
            let options = sqlite::SqliteOptions::default();
            let store = match mode {
                OpenMode::Serve | OpenMode::Fill => sqlite::SqliteStore::open(path, options).await?,
                OpenMode::Shared | OpenMode::Existing => sqlite::SqliteStore::open_shared(path, options).await?,
                OpenMode::Unlocked => sqlite::SqliteStore::open_unlocked(path, options).await?,
            };
            Ok(Arc::new(store))
        }
        config::Database::Postgres { url, direct_url, pgbouncer, max_connections, acquire_timeout, schema } => {
            if mode == OpenMode::Unlocked && !is_current(migration_status(database).await?) {
                return Err(StoreError::Refused("the database is of another version".to_owned()));
            }
            let options = postgres::PostgresOptions {
                url: url.clone(),
                direct_url: direct_url.clone(),
                pgbouncer: *pgbouncer,
                max_connections: *max_connections,
                acquire_timeout: *acquire_timeout,
                schema: schema.clone(),
                statement_timeout,
                lifetime: LIFETIME,
                waits: mode == OpenMode::Serve,
            };
            let store = postgres::PostgresStore::connect(options).await?;
            if matches!(mode, OpenMode::Serve | OpenMode::Fill) {
                store.refuse_while_filled().await?;
            }
            Ok(Arc::new(store))
        }
    }
}
