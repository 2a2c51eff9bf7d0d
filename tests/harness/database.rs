//! The database under a test server: new and empty, gone with the test.

use std::path::PathBuf;
use std::time::Duration;

use supersync::config::Database;
use tempfile::TempDir;

use super::postgres;

/// Which database a scenario runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

/// Makes one test per database of each function: `sqlite::name` and `postgres::name`.
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    Box::pin(super::$name($crate::harness::Backend::Sqlite)).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    Box::pin(super::$name($crate::harness::Backend::Postgres)).await;
                }
            )+
        }
    };
}

/// An empty database and a data directory of the test's own.
pub struct TestDatabase {
    directory: TempDir,
    postgres: Option<postgres::TestDatabase>,
}

impl TestDatabase {
    pub async fn create(backend: Backend) -> Self {
        let postgres = match backend {
            Backend::Sqlite => None,
            Backend::Postgres => Some(postgres::TestDatabase::create().await),
        };
        Self { directory: tempfile::tempdir().expect("a temporary directory"), postgres }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The PostgreSQL database; for tests that run on nothing else.
    pub fn postgres(&self) -> &postgres::TestDatabase {
        self.postgres.as_ref().expect("a PostgreSQL database")
    }

    /// Changes it behind everybody's back, whatever refers to what.
    pub async fn tamper(&self, sql: &str) {
        match self.settings() {
            Database::Sqlite { path } => {
                let connection = rusqlite::Connection::open(path).expect("it opens");
                let sql = format!("PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = OFF; {sql}");
                connection.execute_batch(&sql).expect("valid SQL");
            }
            Database::Postgres { .. } => {
                let mut session = self.postgres().session().await;
                let sql = format!("SET session_replication_role = replica; {sql}");
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut session).await.expect("valid SQL");
            }
        }
    }

    pub fn settings(&self) -> Database {
        match &self.postgres {
            None => Database::Sqlite { path: self.directory.path().join("supersync.db") },
            Some(database) => Database::Postgres {
                url: database.url().into(),
                direct_url: None,
                pgbouncer: false,
                max_connections: 8,
                acquire_timeout: Duration::from_secs(10),
                schema: None,
            },
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(database) = self.postgres.take() else { return };
        // A thread and a runtime of its own: the test's runtime may be shutting down, and can't be blocked on here.
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(database.remove());
        });
        if removed.join().is_err() {
            eprintln!("a test's database was left behind");
        }
    }
}
