//! A fresh PostgreSQL database per test.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use url::Url;

/// The variable that names a server on which databases may be created.
pub const VARIABLE: &str = "SUPERSYNC_TEST_POSTGRES_URL";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database that belongs to one test.
pub struct TestDatabase {
    admin: Url,
    name: String,
}

impl TestDatabase {
    /// Creates an empty database on the test server.
    ///
    /// # Panics
    /// When there is no test server.
    pub async fn create() -> Self {
        let admin = std::env::var(VARIABLE).unwrap_or_else(|_| {
            panic!("{VARIABLE} is not set. Run `make test`: it starts a private PostgreSQL cluster and sets it.")
        });
        let admin = Url::parse(&admin).expect("SUPERSYNC_TEST_POSTGRES_URL is a URL");
        let name = format!("supersync_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut connection = connect(&admin).await;
        // The name is made of digits and letters above.
        execute(&mut connection, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        execute(&mut connection, format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")).await;
        connection.close().await.expect("closing the admin connection");
        Self { admin, name }
    }

    /// Where the database is.
    pub fn url(&self) -> String {
        let mut url = self.admin.clone();
        url.set_path(&self.name);
        url.into()
    }

    /// A session of its own, apart from any store.
    pub async fn session(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.expect("connecting to the test database")
    }

    /// Moves the database to a tablespace of its own in an empty folder. Nobody may be connected.
    #[allow(dead_code, reason = "only test programs with a small disk use it")]
    pub async fn move_to(&self, folder: &std::path::Path) {
        let mut connection = connect(&self.admin).await;
        let (name, folder) = (&self.name, folder.display());
        execute(&mut connection, format!("CREATE TABLESPACE {name} LOCATION '{folder}'")).await;
        execute(&mut connection, format!("ALTER DATABASE {name} SET TABLESPACE {name}")).await;
        connection.close().await.expect("closing the admin connection");
    }

    /// Removes the database, whoever is still connected. A test that fails leaves its database behind for inspection;
    /// the next run with the same process id removes it.
    pub async fn remove(self) {
        let mut connection = connect(&self.admin).await;
        execute(&mut connection, format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)).await;
        execute(&mut connection, format!("DROP TABLESPACE IF EXISTS {}", self.name)).await;
        connection.close().await.expect("closing the admin connection");
    }
}

async fn connect(url: &Url) -> PgConnection {
    PgConnection::connect(url.as_str()).await.expect("connecting to the server that SUPERSYNC_TEST_POSTGRES_URL names")
}

async fn execute(connection: &mut PgConnection, sql: String) {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.expect("creating or dropping a test database");
}
