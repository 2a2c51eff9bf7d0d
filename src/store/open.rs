//! Opening the configured database: to serve it, beside a server, or only to look.

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

/// Opens the configured database for a command that may run beside a server.
///
/// # Errors
/// Like [`open`], but a server that has the embedded database open is no hindrance.
pub async fn open_beside(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    open_for(Use::Beside, database, statement_timeout).await
}

/// Opens the configured database for a command that may run beside a server of this version and must not make or migrate
/// anything.
///
/// # Errors
/// [`StoreError::Refused`] when there is none of this program's version; otherwise like [`open_beside`].
pub async fn open_as_it_is(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    if existing_status(database).await?.iter().all(|migration| migration.applied && migration.known) {
        return open_beside(database, statement_timeout).await;
    }
    Err(StoreError::Refused(
        "the database is not of this program's version: `supersync migrate status` says more, and `supersync migrate run` \
         or the next start of the server brings it up to date"
            .to_owned(),
    ))
}

/// Opens the configured database to look at it: it must have every migration of this program and no other, and nothing is
/// made or migrated.
///
/// # Errors
/// [`StoreError::Refused`] when the database is of another version; otherwise what kept it from being opened.
pub async fn open_to_look(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    match database {
        config::Database::Sqlite { path } => {
            Ok(Arc::new(sqlite::SqliteStore::open_to_look(path, sqlite::SqliteOptions::default()).await?))
        }
        config::Database::Postgres { .. } => {
            if !migration_status(database).await?.iter().all(|migration| migration.applied && migration.known) {
                return Err(StoreError::Refused("the database is of another version".to_owned()));
            }
            // Nothing is left to migrate.
            open_beside(database, statement_timeout).await
        }
    }
}

/// Opens the configured database and brings its schema up to date.
///
/// `statement_timeout` is enforced by PostgreSQL, which stops the statement; the embedded database runs in this process
/// and has nobody to wait for.
///
/// # Errors
/// [`StoreError::Refused`] when the database must not be used as it is, otherwise what kept it from being opened.
pub async fn open(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    open_for(Use::Filling, database, statement_timeout).await
}

/// The same for a server that is to serve it: waits for a database server that can't be reached, however long, and says so in
/// the log.
///
/// # Errors
/// Like [`open`], but for what may pass.
pub async fn open_to_serve(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    open_for(Use::Serving, database, statement_timeout).await
}

/// What a database is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Serving it: nobody may be filling it.
    Serving,
    /// Filling it: nobody else may.
    Filling,
    /// A command beside that.
    Beside,
}

async fn open_for(what: Use, database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    match database {
        config::Database::Sqlite { path } => {
            let options = sqlite::SqliteOptions::default();
            let store = match what {
                Use::Serving | Use::Filling => sqlite::SqliteStore::open(path, options).await?,
                Use::Beside => sqlite::SqliteStore::open_beside(path, options).await?,
            };
            Ok(Arc::new(store))
        }
        config::Database::Postgres { url, direct_url, pgbouncer, max_connections, acquire_timeout, schema } => {
            let options = postgres::PostgresOptions {
                url: url.clone(),
                direct_url: direct_url.clone(),
                pgbouncer: *pgbouncer,
                max_connections: *max_connections,
                acquire_timeout: *acquire_timeout,
                schema: schema.clone(),
                statement_timeout,
                lifetime: LIFETIME,
                waits: what == Use::Serving,
            };
            let store = postgres::PostgresStore::connect(options).await?;
            if what != Use::Beside {
                store.refuse_while_filled().await?;
            }
            Ok(Arc::new(store))
        }
    }
}
