//! The schema's versions: embedded migrations, applied at start under a lock, one list per database.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{Row as _, SqlStr};

use super::{Result, StoreError};

/// The migrations of a database. Not `sqlx::migrate!`, which makes cargo compile sqlx with its drivers a second time.
macro_rules! migrator {
    ($database:literal) => {
        migrator!(
            $database:
            "0001_sync_core",
            "0002_speed",
            "0003_sessions",
            "0004_sign_in",
            "0005_mail_language",
            "0006_adoptions",
            "0007_sparse_logs",
            "0008_step_up",
            "0009_sign_in_again",
            "0011_device_rows",
            "0012_request_counts",
        )
    };
    ($database:literal: $($name:literal,)+) => {
        LazyLock::new(|| {
            Migrator::with_migrations(vec![
                $(migration($name, include_str!(concat!("../../migrations/", $database, "/", $name, ".sql"))),)+
            ])
        })
    };
}

static SQLITE: LazyLock<Migrator> = migrator!("sqlite");
static POSTGRES: LazyLock<Migrator> = migrator!("postgres");

/// A migration with the version and the description that its file's name gives.
fn migration(name: &'static str, sql: &'static str) -> Migration {
    let (version, description) = name.split_once('_').expect("a number, then a description");
    let version = version.parse().expect("a number");
    let description = description.replace('_', " ").into();
    Migration::new(version, description, MigrationType::Simple, SqlStr::from_static(sql), false)
}

/// One version of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its number; they are applied in this order.
    pub version: i64,
    /// What it does.
    pub description: String,
    /// Whether the database has it.
    pub applied: bool,
    /// Whether this program knows it; if not, the database belongs to a newer one.
    pub known: bool,
}

/// The newest version that this program has.
pub(super) fn newest() -> i64 {
    let versions = SQLITE.iter().chain(POSTGRES.iter()).map(|migration| migration.version);
    versions.max().unwrap_or(0)
}

/// Brings an SQLite file up to date. The caller holds the file's lock, so nobody else can be at it.
pub(super) async fn run_sqlite(connection: &mut SqliteConnection, path: &Path) -> Result<()> {
    // Not `run`: its future is not `Send` for every lifetime, so nobody could spawn what opens a store.
    let done = SQLITE.run_direct(None, connection, false).await;
    done.map_err(|error| refused(error, &path.display().to_string()))
}

/// Brings a PostgreSQL database up to date. An advisory lock makes instances that start together take turns.
pub(super) async fn run_postgres(connection: &mut PgConnection) -> Result<()> {
    POSTGRES.run_direct(None, connection, false).await.map_err(|error| refused(error, "on the server"))
}

/// What [`status_sqlite`] says about a file that does not exist yet.
pub(super) fn all_pending_sqlite() -> Vec<MigrationStatus> {
    status(&SQLITE, HashMap::new())
}

pub(super) async fn status_sqlite(pool: &SqlitePool) -> Result<Vec<MigrationStatus>> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_sqlx_migrations'")
            .fetch_optional(pool)
            .await?;
    let mut applied = HashMap::new();
    if found.is_some() {
        for row in sqlx::query("SELECT version, description FROM _sqlx_migrations").fetch_all(pool).await? {
            applied.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(status(&SQLITE, applied))
}

pub(super) async fn status_postgres(connection: &mut PgConnection) -> Result<Vec<MigrationStatus>> {
    let found: bool =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(&mut *connection).await?;
    let mut applied = HashMap::new();
    if found {
        for row in sqlx::query("SELECT version, description FROM _sqlx_migrations").fetch_all(connection).await? {
            applied.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(status(&POSTGRES, applied))
}

fn status(migrator: &Migrator, mut applied: HashMap<i64, String>) -> Vec<MigrationStatus> {
    let mut all: Vec<_> = migrator
        .iter()
        .map(|migration| MigrationStatus {
            version: migration.version,
            description: migration.description.to_string(),
            applied: applied.remove(&migration.version).is_some(),
            known: true,
        })
        .collect();
    all.extend(applied.into_iter().map(|(version, description)| MigrationStatus {
        version,
        description,
        applied: true,
        known: false,
    }));
    all.sort_by_key(|migration| migration.version);
    all
}

fn refused(error: MigrateError, database: &str) -> StoreError {
    match error {
        MigrateError::VersionMissing(version) => StoreError::Refused(format!(
            "the database {database} has schema version {version}, which this program does not know: it belongs to a newer \
             version of the server. Start that one, or restore a backup made before the upgrade into a new, empty database"
        )),
        MigrateError::VersionMismatch(version) => StoreError::Refused(format!(
            "schema version {version} of the database {database} is not the one that this program has under that number"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => StoreError::Refused(format!("migrating the database {database} failed: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_file_is_a_migration() {
        for (database, migrator) in [("sqlite", &SQLITE), ("postgres", &POSTGRES)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
            let found = Migrator::new(folder).await.expect("the folder is read");
            let all = |migrator: &Migrator| -> Vec<_> {
                migrator.iter().map(|one| (one.version, one.description.clone(), one.checksum.clone())).collect()
            };
            assert_eq!(all(migrator), all(&found), "{database}");
        }
    }
}
