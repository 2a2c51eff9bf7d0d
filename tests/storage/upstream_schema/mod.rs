//! The old server's database in the states that are met in the field (operations contract, section 8.5), and data for it
//! that holds what is odd there. For the tests of every way out of it and into it.
//!
//! A test program that includes this includes `tests/harness` too.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::harness::{Backend, TestDatabase};

/// What every account with a password signs in with.
pub const PASSWORD: &str = "a password of long ago";

/// The accounts of [`OldDatabase::fill_special`].
pub mod account {
    /// 40 operations of all ordinary kinds, two devices, a cached state, token version 3; texts that need escaping.
    pub const PLAIN: i64 = 101;
    /// 20 operations; from the sixth, a full state, on encrypted.
    pub const ENCRYPTED: i64 = 102;
    /// 16 operations, four of them full states; stale markers.
    pub const FULL_STATES: i64 = 103;
    /// The operations 41 to 60; the first is a full state.
    pub const PRUNED: i64 = 104;
    /// A counter at 0, no operations.
    pub const NEVER_SYNCED: i64 = 105;
    /// No counter, no operations.
    pub const NEVER_CONNECTED: i64 = 106;
    /// A counter at 500, no operations.
    pub const COUNTER_ONLY: i64 = 107;
    /// No counter, no operations, token version 1.
    pub const WIPED: i64 = 108;
    /// Of 20 numbers, 10 to 12 belong to no operation.
    pub const HOLE: i64 = 109;
    /// Of 15 numbers, 5 belongs to no operation; 10 is a full state.
    pub const HOLE_BEFORE_FULL_STATE: i64 = 110;
    /// 12 operations, the counter at 8.
    pub const COUNTER_TOO_LOW: i64 = 111;
    /// 12 operations, the counter at 15.
    pub const END_MISSING: i64 = 112;
    /// 10 operations that were not measured, and a wrong sum.
    pub const NOT_MEASURED: i64 = 113;
    /// Three passkeys: one as it is, one whose id is text, and the first one again, its id as text.
    pub const PASSKEYS: i64 = 114;
    /// Not verified, with a passkey that waits for the link `verify-115`.
    pub const PENDING_PASSKEY: i64 = 115;
    /// Not verified, with the link `verify-116`.
    pub const UNVERIFIED: i64 = 116;
    /// Not verified, with an expired link.
    pub const UNVERIFIED_EXPIRED: i64 = 117;
    /// With the link `login-118`.
    pub const LOGIN_LINK: i64 = 118;
    /// With the link `recover-119`.
    pub const RECOVERY_LINK: i64 = 119;
    /// With the link `reset-120`, and locked.
    pub const RESET_LINK: i64 = 120;
    /// 3 operations; shares its address with [`TWICE_UPPER`] but for case.
    pub const TWICE: i64 = 121;
    /// Newer, without operations.
    pub const TWICE_UPPER: i64 = 122;
    /// An address in upper case; 2 operations.
    pub const UPPER: i64 = 123;
    /// The largest quota.
    pub const QUOTA: i64 = 124;
    /// The operations 2147483630 to 2147483647, and the largest token version.
    pub const HIGHEST: i64 = 2_147_483_000;

    /// How many there are.
    pub const COUNT: i64 = 25;
    /// How many operations they have.
    pub const OPERATIONS: i64 = 184;
    /// Those whose log is damaged.
    pub const DAMAGED: [i64; 1] = [COUNTER_TOO_LOW];
}

/// A state that is met in the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Migrated to the newest schema.
    Head,
    /// Made by pushing the schema of January 2026, without any history.
    Push,
    /// Migrated up to 20260513000000.
    MigratedMay,
    /// Migrated up to 20251218000000; the history has no beginning.
    December,
    /// At the newest schema, with builds of indexes broken off.
    Interrupted,
}

impl State {
    pub const ALL: [Self; 5] = [Self::Head, Self::Push, Self::MigratedMay, Self::December, Self::Interrupted];
}

/// A database of the old server.
pub struct OldDatabase {
    database: TestDatabase,
    state: State,
}

impl OldDatabase {
    /// An empty one.
    pub async fn create(state: State) -> Self {
        let old = Self { state, ..Self::without_schema().await };
        old.run(include_str!("head.sql")).await;
        old.run(include_str!("history.sql")).await;
        match state {
            State::Head => {}
            State::Push => old.run(include_str!("push.sql")).await,
            State::MigratedMay => old.run(include_str!("may.sql")).await,
            State::December => old.run(include_str!("december.sql")).await,
            State::Interrupted => old.run(include_str!("interrupted.sql")).await,
        }
        old
    }

    /// An empty one at the newest schema, in a schema of this name instead of `public`.
    pub async fn create_in_schema(name: &str) -> Self {
        let old = Self::without_schema().await;
        old.run(&format!("CREATE SCHEMA {name}; SET search_path = {name}; {}", include_str!("head.sql"))).await;
        old
    }

    /// A database of nobody.
    pub async fn without_schema() -> Self {
        Self { database: TestDatabase::create(Backend::Postgres).await, state: State::Head }
    }

    pub fn url(&self) -> String {
        self.database.postgres().url()
    }

    /// As if this server should work on it.
    pub fn as_target(&self) -> &TestDatabase {
        &self.database
    }

    /// A session, to be closed by the test.
    pub async fn session(&self) -> PgConnection {
        self.database.postgres().session().await
    }

    /// Runs statements of the test's own.
    pub async fn run(&self, sql: &str) {
        let mut session = self.session().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut session).await.expect("the statements are right");
        session.close().await.expect("closing");
    }

    /// Rows as JSON objects.
    pub async fn rows(&self, query: &str) -> Vec<Value> {
        let mut session = self.session().await;
        let sql = format!("SELECT row_to_json(r)::text FROM ({query}) r");
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut session).await.expect("the query is right");
        session.close().await.expect("closing");
        rows.iter().map(|row| serde_json::from_str(row).expect("JSON")).collect()
    }

    /// The only row of a query.
    pub async fn row(&self, query: &str) -> Value {
        let mut rows = self.rows(query).await;
        assert_eq!(rows.len(), 1, "{query}");
        rows.remove(0)
    }

    /// Accounts from number `first` on, with this many operations each. A million operations take less than a minute.
    pub async fn fill(&self, first: u32, accounts: u32, operations: u32) {
        let sql = include_str!("fill.sql")
            .replace("$HASH$", &hash())
            .replace("$FIRST$", &first.to_string())
            .replace("$ACCOUNTS$", &accounts.to_string())
            .replace("$OPERATIONS$", &operations.to_string());
        self.run(&sql).await;
    }

    /// The accounts of [`account`].
    pub async fn fill_special(&self) {
        let mut sql = include_str!("special.sql").replace("$HASH$", &hash());
        if self.state == State::December {
            sql = sql.replace(r#""password_hash": null"#, &format!(r#""password_hash": "{}""#, hash()));
        }
        self.run(&sql).await;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(br#"{"task":{"ids":["task-1"],"entities":{}}}"#).expect("written to memory");
        let mut session = self.session().await;
        sqlx::query("UPDATE user_sync_state SET snapshot_data = $1 WHERE user_id = $2")
            .bind(gzip.finish().expect("written to memory"))
            .bind(i32::try_from(account::PLAIN).expect("small"))
            .execute(&mut session)
            .await
            .expect("the statement is right");
        session.close().await.expect("closing");
    }
}

fn hash() -> String {
    bcrypt::hash(PASSWORD, 4).expect("a hash")
}
