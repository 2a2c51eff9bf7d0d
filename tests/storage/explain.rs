//! No statement's cost depends on other accounts, nor on the length of an account's own history: asked of PostgreSQL's
//! planner, on a million operations, with the plans that are made once for all accounts.

#![expect(clippy::unwrap_used, reason = "a test that fails should panic")]

use std::time::Duration;

use crate::harness::postgres::TestDatabase;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use supersync::{config, store};

/// One account with half of everything, twenty thousand others that share the rest.
const FILL: [&str; 10] = [
    "SET synchronous_commit = off",
    "INSERT INTO users (email, is_verified, created_at, storage_quota_bytes)
     SELECT 'u' || n || '@example.org', TRUE, 0, 1000000 FROM generate_series(1, 20001) n",
    "INSERT INTO user_sync_state (user_id, last_seq) SELECT id, 500 FROM users ON CONFLICT DO NOTHING",
    "INSERT INTO operations (user_id, server_seq, generation, storage_bytes, client_timestamp, received_at,
         schema_version, is_payload_encrypted, op_id, client_id, action_type, op_type, entity_type, entity_id,
         vector_clock, payload)
     SELECT CASE WHEN n <= 500000 THEN 1 ELSE 2 + n % 20000 END, CASE WHEN n <= 500000 THEN n ELSE n / 20000 END,
         0, 60, n, n, 2, FALSE, 'op-' || n, 'client' || n % 3, '[Task] Update',
         CASE WHEN n % 10000 = 0 THEN 'SYNC_IMPORT' ELSE 'UPD' END, 'TASK', 'e' || n % 50000, '{\"A\":1}', '\\x7b7d'
     FROM generate_series(1, 1000000) n",
    "INSERT INTO segments (user_id, first_seq, last_seq, generation, storage_bytes, max_received_at, op_count,
         min_op_id, max_op_id, op_id_hashes, data)
     SELECT CASE WHEN n <= 2000 THEN 1 ELSE 2 + n % 20000 END, n * 500 - 499, n * 500, 0, 1, n, 500,
         'op-' || (n * 500 - 499), 'op-' || (n * 500), '\\x00', '\\x00' FROM generate_series(1, 42000) n",
    "INSERT INTO entity_heads (user_id, server_seq, is_time_delta, entity_key, client_id, vector_clock)
     SELECT CASE WHEN n <= 100000 THEN 1 ELSE 2 + n % 20000 END, n, FALSE, decode(md5('e' || n), 'hex'), 'A', '{\"A\":1}'
     FROM generate_series(1, 200000) n",
    "INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at)
     SELECT u.id, 'client' || n, n, n FROM users u, generate_series(1, 3) n",
    "INSERT INTO sessions (id, user_id, created_at, last_seen_at, expires_at, method, name, user_agent)
     SELECT decode(md5(u.id || '-' || n), 'hex'), u.id, n, n, n, 'password', 'x', 'x'
     FROM users u, generate_series(1, 3) n",
    "INSERT INTO archived_ranges (user_id, from_seq, to_seq, generation, reason, bytes, archived_at)
     SELECT u.id, n, n, 0, 'wipe', 1, n FROM users u, generate_series(1, 3) n",
    "INSERT INTO user_snapshots (user_id, schema_version, data) SELECT id, 4, '\\x00' FROM users",
];

const TABLES: [&str; 7] =
    ["operations", "segments", "entity_heads", "sync_devices", "sessions", "user_sync_state", "user_snapshots"];

/// Statements that go over accounts on purpose, in order of the primary key.
const OVER_ACCOUNTS: [&str; 5] = ["prunable_accounts", "sealable_accounts", "retention_rows", "charges", "kinds"];

async fn filled() -> (TestDatabase, PgConnection) {
    let database = TestDatabase::create().await;
    let config = config::Database::Postgres {
        url: database.url().into(),
        direct_url: None,
        pgbouncer: false,
        max_connections: 2,
        acquire_timeout: Duration::from_secs(30),
        schema: None,
    };
    store::open(&config, Duration::from_mins(1)).await.unwrap().close().await;
    let mut session = database.session().await;
    for sql in FILL {
        sqlx::query(sql).execute(&mut session).await.unwrap();
    }
    sqlx::query("VACUUM ANALYZE").execute(&mut session).await.unwrap();
    sqlx::query("SET plan_cache_mode = force_generic_plan").execute(&mut session).await.unwrap();
    (database, session)
}

/// The generic plan of a statement: prepared with parameters that nobody knows, so NULL will do for all of them.
async fn plan(session: &mut PgConnection, name: &str, sql: &str) -> Value {
    let prepare = format!("PREPARE {name} AS {sql}");
    sqlx::raw_sql(AssertSqlSafe(prepare))
        .execute(&mut *session)
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let parameters: i32 =
        sqlx::query_scalar("SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1")
            .bind(name)
            .fetch_one(&mut *session)
            .await
            .unwrap();
    let nulls = vec!["NULL"; usize::try_from(parameters).unwrap()].join(", ");
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE {name}({nulls})");
    let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(session).await.unwrap();
    let text: String = rows.iter().map(|row| row.try_get_unchecked::<String, _>(0).unwrap()).collect();
    serde_json::from_str::<Value>(&text).unwrap()[0]["Plan"].take()
}

/// Every node of a plan.
fn nodes(plan: &Value) -> Vec<&Value> {
    let mut all = vec![plan];
    let mut next = 0;
    while next < all.len() {
        if let Some(children) = all[next]["Plans"].as_array() {
            all.extend(children);
        }
        next += 1;
    }
    all
}

fn text<'a>(node: &'a Value, key: &str) -> &'a str {
    node[key].as_str().unwrap_or("")
}

/// What is wrong with a plan.
fn complaints(name: &str, plan: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut touched = false;
    for node in nodes(plan) {
        let kind = text(node, "Node Type");
        let table = text(node, "Relation Name");
        if kind == "Seq Scan" && TABLES.contains(&table) {
            complaints.push(format!("{name}: reads all of {table}"));
        }
        if kind == "Index Scan" || kind == "Index Only Scan" || kind == "Bitmap Index Scan" {
            touched = true;
            let condition = text(node, "Index Cond");
            // Only the table's own user_id, bound to a value, narrows the search to one account.
            if !OVER_ACCOUNTS.contains(&name) && !leads_with_account(condition) {
                let index = text(node, "Index Name");
                complaints.push(format!("{name}: searches {index} by {condition:?}"));
            }
        }
    }
    touched |= nodes(plan).iter().any(|node| node["Conflict Arbiter Indexes"].is_array());
    if !touched {
        complaints.push(format!("{name}: uses no index at all, so this test looks at the wrong thing"));
    }
    complaints
}

fn leads_with_account(condition: &str) -> bool {
    ["(user_id = ", "((user_id = ", "(id = ", "((id = "].iter().any(|start| condition.starts_with(start))
}

#[tokio::test]
async fn postgres_searches_by_account_in_every_hot_statement() {
    let (database, mut session) = filled().await;
    let mut wrong = Vec::new();
    for (name, sql) in store::postgres::statements() {
        let plan = plan(&mut session, name, sql).await;
        let found = complaints(name, &plan);
        if !found.is_empty() {
            wrong.extend(found);
            wrong.push(format!("{plan:#}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    session.close().await.unwrap();
    database.remove().await;
}
