//! The list of what is backed up is the schema.

use std::collections::BTreeSet;

use sqlx::Row as _;
use supersync::store;
use supersync::store::backup::{Kind, LEFT_OUT, TABLES};

use crate::harness::{Backend, TestDatabase};

/// Table, column, kind, whether it may be missing.
type Columns = BTreeSet<(String, String, &'static str, bool)>;

/// What the list says, with kinds as a database has them.
fn listed(kind: fn(Kind) -> &'static str) -> Columns {
    let mut all = Columns::new();
    for table in TABLES {
        for column in table.columns {
            all.insert((table.name.to_owned(), column.name.to_owned(), kind(column.kind), column.nullable));
        }
    }
    all
}

async fn migrated(on: Backend) -> TestDatabase {
    let database = TestDatabase::create(on).await;
    let store = store::open(&database.settings(), std::time::Duration::from_mins(1)).await.expect("it opens");
    store.close().await;
    database
}

fn is_ours(table: &str) -> bool {
    !LEFT_OUT.contains(&table)
        && !["_sqlx_migrations", "sqlite_sequence", "payload_parts", "request_counts"].contains(&table)
}

#[tokio::test]
async fn every_column_of_postgres_is_listed() {
    let database = migrated(Backend::Postgres).await;
    let mut session = database.postgres().session().await;
    let rows = sqlx::query(
        "SELECT table_name::text, column_name::text, data_type::text, is_nullable = 'YES' \
         FROM information_schema.columns WHERE table_schema = 'public'",
    );
    let mut found = Columns::new();
    for row in rows.fetch_all(&mut session).await.expect("it reads") {
        let (table, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let kind =
            ["bigint", "integer", "smallint", "boolean", "text", "bytea"].into_iter().find(|known| *known == kind);
        if is_ours(&table) {
            found.insert((table, column, kind.expect("a known type"), row.get(3)));
        }
    }
    let kind = |kind| match kind {
        Kind::Small => "smallint",
        Kind::Int => "integer",
        Kind::Big => "bigint",
        Kind::Bool => "boolean",
        Kind::Text => "text",
        Kind::Bytes => "bytea",
    };
    assert_eq!(found, listed(kind));
}

#[tokio::test]
async fn every_column_of_sqlite_is_listed() {
    let database = migrated(Backend::Sqlite).await;
    let path = database.data_dir().join("supersync.db");
    let connection = rusqlite::Connection::open(path).expect("it opens");
    let mut statement = connection
        .prepare(
            "SELECT m.name, p.name, p.type, p.\"notnull\" = 0 AND p.pk = 0 FROM sqlite_schema m, pragma_table_info(m.name) p \
             WHERE m.type = 'table'",
        )
        .expect("it reads");
    let mut found = Columns::new();
    let mut rows = statement.query([]).expect("it reads");
    while let Some(row) = rows.next().expect("it reads") {
        let [table, column, kind]: [String; 3] = [0, 1, 2].map(|at| row.get(at).expect("text"));
        let is_payload_part = (&*table, &*column) == ("operations", "payload_id");
        if is_ours(&table) && !is_payload_part {
            let kind = ["INTEGER", "TEXT", "BLOB"].into_iter().find(|known| *known == kind);
            found.insert((table, column, kind.expect("a known type"), row.get(3).expect("a flag")));
        }
    }
    let kind = |kind| match kind {
        Kind::Small | Kind::Int | Kind::Big | Kind::Bool => "INTEGER",
        Kind::Text => "TEXT",
        Kind::Bytes => "BLOB",
    };
    assert_eq!(found, listed(kind));
}
