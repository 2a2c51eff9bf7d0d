//! What `supersync doctor` looks at, on a connection of its own without limits of time.
//!
//! The schema is compared with a list (`schema.txt`) instead of with one made for the purpose: a doctor makes nothing in a database
//! that is in use. A test compares the list with what the migrations make.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::sync::mpsc;

use super::backup::value;
use super::{PostgresStore, quoted};
use crate::protocol::UserId;
use crate::store::backup::{NUMBERED, names};
use crate::store::doctor::{
    COMMITS, DoctorStore, EXPIRING, NAMED_ORPHANS, NextRows, NumbersBehind, OWNED, Orphans, STUCK_SECONDS,
    SchemaDifference, SchemaState, Selection, VitalSigns, deletable, differences, median,
};
use crate::store::error::timed;
use crate::store::{Result, StoreError};

const APPLICATION: &str = "supersync-doctor";
/// The oldest version of PostgreSQL that this program is made for.
const OLDEST_VERSION: i32 = 15;
/// What the migrations make: a line for each object, as [`SCHEMA_SQL`] gives them, separated by tabs.
const SCHEMA: &str = include_str!("schema.txt");
/// Accounts whose orphans are deleted at a time.
const ORPHANED_ACCOUNTS: i64 = 100;
/// Rows of one answer, but for those with large values.
const ROWS: usize = 2_000;
const LARGE_ROWS: usize = 32;

/// Every object of the schema: its table (none for functions), its kind and name, its definition. Line breaks become
/// blanks, so that an object is a line.
pub const SCHEMA_SQL: &str = r#"
WITH ours AS (
    SELECT c.oid, c.relname FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND c.relname <> '_sqlx_migrations'
), objects AS (
    SELECT ours.relname::text AS of_table, 'column ' || ours.relname || '.' || a.attname AS object,
        format_type(a.atttypid, a.atttypmod) || COALESCE(' collate ' || l.collname, '')
        || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
        || CASE a.attidentity WHEN 'a' THEN ' identity always' WHEN 'd' THEN ' identity by default' ELSE '' END
        || COALESCE(' default ' || pg_get_expr(d.adbin, d.adrelid), '') AS definition
    FROM ours JOIN pg_attribute a ON a.attrelid = ours.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_collation l ON l.oid = a.attcollation AND l.collname <> 'default'
    UNION ALL
    SELECT ours.relname, 'index ' || i.indexrelid::regclass, pg_get_indexdef(i.indexrelid, 0, true)
    FROM ours JOIN pg_index i ON i.indrelid = ours.oid
    UNION ALL
    SELECT ours.relname, 'constraint ' || ours.relname || '.' || c.conname, pg_get_constraintdef(c.oid, true)
    FROM ours JOIN pg_constraint c ON c.conrelid = ours.oid AND c.contype IN ('p', 'u', 'f', 'c', 'x')
    UNION ALL
    SELECT ours.relname, 'trigger ' || ours.relname || '.' || t.tgname,
        pg_get_triggerdef(t.oid, true) || CASE WHEN t.tgenabled = 'O' THEN '' ELSE ' disabled' END
    FROM ours JOIN pg_trigger t ON t.tgrelid = ours.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT '', 'function ' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', md5(p.prosrc)
    FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace
)
SELECT of_table, object, regexp_replace(definition, '\s+', ' ', 'g') FROM objects ORDER BY object COLLATE "C"
"#;

/// Indexes that are not used, but for those that somebody is making at this moment.
const INVALID_INDEXES: &str = "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
     JOIN pg_class t ON t.oid = i.indrelid \
     WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace AND t.relname = ANY($1) \
     AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid) ORDER BY 1";

const SIGNS: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, \
     CASE WHEN pg_is_in_recovery() THEN 'it is a standby server' \
     WHEN current_setting('default_transaction_read_only') = 'on' THEN 'default_transaction_read_only is on' END, \
     (SELECT COALESCE(array_agg(name || '=' || setting ORDER BY name), '{}') FROM pg_settings \
     WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'), \
     (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
     current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint, \
     (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
     AND application_name NOT LIKE 'supersync-%' AND backend_type = 'client backend' AND (state = 'active' \
     AND query_start < clock_timestamp() - make_interval(secs => $1) OR state LIKE 'idle in transaction%' \
     AND state_change < clock_timestamp() - make_interval(secs => $1)))";
const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
/// Writes to the log and to no table, so that the commit that follows has something to bring to the disk.
const EMIT: &str = "SELECT pg_logical_emit_message(true, 'supersync', 'doctor')";

/// Objects of the schema by kind and name.
type Objects = BTreeMap<String, String>;

fn expected() -> (BTreeSet<&'static str>, Objects) {
    let (mut tables, mut objects) = (BTreeSet::new(), Objects::new());
    for line in SCHEMA.lines() {
        let mut parts = line.splitn(3, '\t');
        if let (Some(table), Some(object), Some(definition)) = (parts.next(), parts.next(), parts.next()) {
            tables.insert(table);
            objects.insert(object.to_owned(), definition.to_owned());
        }
    }
    tables.remove("");
    (tables, objects)
}

/// How an index is made that belongs to no constraint: from the list, or `None`.
fn creation(expected: &Objects, object: &str) -> Option<String> {
    let name = object.strip_prefix("index ")?;
    let constraint = format!(".{name}");
    let of_constraint = |object: &String| object.starts_with("constraint ") && object.ends_with(&constraint);
    if expected.keys().any(of_constraint) {
        return None;
    }
    Some(expected.get(object)?.replacen(" INDEX ", " INDEX CONCURRENTLY ", 1))
}

/// What an interrupted `REINDEX CONCURRENTLY` leaves behind.
fn is_leftover(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    stem.ends_with("_ccnew") || stem.ends_with("_ccold")
}

async fn schema_differences(connection: &mut PgConnection) -> Result<Vec<SchemaDifference>> {
    let (tables, expected) = expected();
    let mut found = Objects::new();
    for row in sqlx::query(SCHEMA_SQL).fetch_all(&mut *connection).await? {
        let (table, object, definition): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        // Others may keep tables and functions of their own beside ours.
        if tables.contains(&*table) || expected.contains_key(&object) {
            found.insert(object, definition);
        }
    }
    let mut all = differences(&expected, &found, |object| creation(&expected, object).is_some());
    let tables: Vec<&str> = tables.into_iter().collect();
    let invalid: Vec<String> = sqlx::query_scalar(INVALID_INDEXES).bind(&tables).fetch_all(connection).await?;
    for name in invalid {
        let object = format!("index {name}");
        let mendable = expected.contains_key(&object) || is_leftover(&name);
        all.retain(|difference| difference.object != object);
        all.push(SchemaDifference { state: SchemaState::Invalid, object, mendable });
    }
    Ok(all)
}

async fn vital_signs(connection: &mut PgConnection) -> Result<VitalSigns> {
    let row = sqlx::query(SIGNS).bind(STUCK_SECONDS).fetch_one(&mut *connection).await?;
    let read_only: Option<String> = row.try_get(2)?;
    let mut commits = Vec::new();
    if read_only.is_none() {
        for _ in 0..COMMITS {
            let mut tx = connection.begin().await?;
            sqlx::query(EMIT).execute(&mut *tx).await?;
            let began = Instant::now();
            tx.commit().await?;
            commits.push(began.elapsed());
        }
    }
    let asked = Instant::now();
    let now_ms = sqlx::query_scalar(NOW).fetch_one(connection).await?;
    Ok(VitalSigns {
        version: format!("PostgreSQL {}", row.try_get::<String, _>(0)?),
        is_supported: row.try_get::<i32, _>(1)? >= OLDEST_VERSION,
        read_only,
        unsafe_settings: row.try_get(3)?,
        commit: median(commits),
        now_ms,
        look: asked.elapsed(),
        connections: Some((row.try_get(4)?, row.try_get(5)?)),
        stuck: row.try_get(6)?,
        wal_bytes: None,
    })
}

#[async_trait]
impl DoctorStore for PostgresStore {
    async fn vital_signs(&self) -> Result<VitalSigns> {
        timed("vital_signs", async { vital_signs(&mut self.apart(APPLICATION).await?).await }).await
    }

    async fn schema_differences(&self) -> Result<Vec<SchemaDifference>> {
        timed("schema_differences", async { schema_differences(&mut self.apart(APPLICATION).await?).await }).await
    }

    async fn mend_schema(&self, difference: &SchemaDifference) -> Result<bool> {
        let (_, expected) = expected();
        let Some(name) = difference.object.strip_prefix("index ") else { return Ok(false) };
        // From the list, or the name of what is there, quoted.
        let sql = match difference.state {
            SchemaState::Missing => match creation(&expected, &difference.object) {
                Some(sql) => sql,
                None => return Ok(false),
            },
            SchemaState::Invalid if expected.contains_key(&difference.object) => {
                format!("REINDEX INDEX CONCURRENTLY {}", quoted(name))
            }
            SchemaState::Invalid if is_leftover(name) => format!("DROP INDEX CONCURRENTLY {}", quoted(name)),
            _ => return Ok(false),
        };
        timed("mend_schema", async {
            let mut connection = self.apart(APPLICATION).await?;
            let made = sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await;
            if made.is_err() && difference.state == SchemaState::Missing {
                // Half of an index costs every write and serves nobody. What matters is why it could not be made.
                let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", quoted(name));
                if let Err(error) = sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await {
                    tracing::warn!(%error, index = name, "an index that could not be completed is left behind");
                }
            }
            made?;
            connection.close().await?;
            Ok(true)
        })
        .await
    }

    /// The server checks its pages when it reads them; it has no such look for everybody.
    async fn damage(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn rebuild_indexes(&self) -> Result<()> {
        Err(StoreError::Refused("PostgreSQL rebuilds indexes one by one: REINDEX DATABASE CONCURRENTLY".to_owned()))
    }

    async fn orphans(&self) -> Result<Vec<Orphans>> {
        timed("orphans", async {
            let mut connection = self.apart(APPLICATION).await?;
            let mut all = Vec::new();
            for table in OWNED {
                // Constant names.
                let sql = format!(
                    "SELECT COALESCE(sum(n), 0)::bigint, COALESCE(array_agg(user_id ORDER BY user_id) \
                     FILTER (WHERE place <= $1), '{{}}') FROM (SELECT user_id, count(*) AS n, \
                     row_number() OVER (ORDER BY user_id) AS place FROM {table} t \
                     WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = t.user_id) GROUP BY user_id) orphaned"
                );
                let row = sqlx::query(AssertSqlSafe(sql)).bind(NAMED_ORPHANS).fetch_one(&mut connection).await?;
                let (rows, accounts): (i64, Vec<UserId>) = (row.try_get(0)?, row.try_get(1)?);
                if rows > 0 {
                    all.push(Orphans { table, rows, accounts });
                }
            }
            connection.close().await?;
            Ok(all)
        })
        .await
    }

    async fn delete_orphans(&self, table: &str) -> Result<u64> {
        let Some(table) = deletable(table) else { return Ok(0) };
        timed("delete_orphans", async {
            let mut connection = self.apart(APPLICATION).await?;
            // Constant names.
            let sql = format!(
                "DELETE FROM {table} t WHERE t.user_id = ANY(ARRAY(SELECT DISTINCT o.user_id FROM {table} o \
                 WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = o.user_id) LIMIT $1)) \
                 AND NOT EXISTS (SELECT 1 FROM users u WHERE u.id = t.user_id)"
            );
            let mut deleted = 0;
            loop {
                let done = sqlx::query(AssertSqlSafe(sql.clone())).bind(ORPHANED_ACCOUNTS).execute(&mut connection);
                match done.await?.rows_affected() {
                    0 => break,
                    rows => deleted += rows,
                }
            }
            connection.close().await?;
            Ok(deleted)
        })
        .await
    }

    async fn numbers_behind(&self) -> Result<Vec<NumbersBehind>> {
        timed("numbers_behind", async {
            let mut connection = self.apart(APPLICATION).await?;
            let mut all = Vec::new();
            for table in NUMBERED {
                // Constant names.
                let sql = format!(
                    "SELECT COALESCE(pg_sequence_last_value(pg_get_serial_sequence('{table}', 'id')::regclass), 0), \
                     (SELECT COALESCE(max(id), 0) FROM {table})"
                );
                let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut connection).await?;
                let (given_out, highest) = (row.try_get(0)?, row.try_get(1)?);
                if given_out < highest {
                    all.push(NumbersBehind { table, given_out, highest });
                }
            }
            connection.close().await?;
            Ok(all)
        })
        .await
    }

    async fn raise_numbers(&self, behind: NumbersBehind) -> Result<()> {
        timed("raise_numbers", async {
            let mut connection = self.apart(APPLICATION).await?;
            let sql = "SELECT setval(s, GREATEST($2, COALESCE(pg_sequence_last_value(s), 0))) \
                       FROM (SELECT pg_get_serial_sequence($1, 'id')::regclass AS s) AS numbers";
            sqlx::query(sql).bind(behind.table).bind(behind.highest).execute(&mut connection).await?;
            connection.close().await?;
            Ok(())
        })
        .await
    }

    async fn overdue(&self, before_ms: i64) -> Result<i64> {
        timed("overdue", async {
            let mut connection = self.apart(APPLICATION).await?;
            let mut rows = 0;
            for table in EXPIRING {
                // Constant names.
                let sql = format!("SELECT count(*) FROM {table} WHERE expires_at < $1");
                let count: i64 =
                    sqlx::query_scalar(AssertSqlSafe(sql)).bind(before_ms).fetch_one(&mut connection).await?;
                rows += count;
            }
            connection.close().await?;
            Ok(rows)
        })
        .await
    }

    async fn read_side_by_side(&self, tables: Vec<Selection>, asked: mpsc::Receiver<NextRows>) -> Result<()> {
        timed("read_side_by_side", async {
            let mut connection = self.apart(APPLICATION).await?;
            read_side_by_side(&mut connection, &tables, asked).await?;
            connection.close().await?;
            Ok(())
        })
        .await
    }
}

async fn read_side_by_side(
    connection: &mut PgConnection,
    tables: &[Selection],
    mut asked: mpsc::Receiver<NextRows>,
) -> Result<()> {
    let mut tx = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    for (place, Selection { table, columns }) in tables.iter().enumerate() {
        // Constant names.
        let sql = format!(
            "DECLARE c{place} NO SCROLL CURSOR FOR SELECT {} FROM {} ORDER BY {}",
            names(columns.iter().copied()),
            table.name,
            table.key_list()
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await?;
    }
    while let Some(NextRows { table: place, answer }) = asked.recv().await {
        let Some(Selection { columns, .. }) = tables.get(place) else { continue };
        let rows = if columns.iter().any(|column| column.name == "data") { LARGE_ROWS } else { ROWS };
        let sql = AssertSqlSafe(format!("FETCH {rows} FROM c{place}"));
        let rows = sqlx::query(sql).persistent(false).fetch_all(&mut *tx).await?;
        let values = rows.iter().map(|row| {
            columns.iter().enumerate().map(|(at, column)| value(row, at, column)).collect::<Result<Vec<_>>>()
        });
        // Whoever asked may be gone; then the next question does not come either.
        answer.send(values.collect::<Result<_>>()?).ok();
    }
    tx.rollback().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_tables_and_indexes() {
        let (tables, objects) = expected();
        assert!(tables.contains("operations") && !tables.contains(""));
        assert!(objects.contains_key("index sessions_user") && objects.contains_key("column users.id"));
    }

    #[test]
    fn only_indexes_without_constraint_are_made() {
        let (_, objects) = expected();
        let sql = creation(&objects, "index users_email_key").expect("an index");
        assert!(sql.starts_with("CREATE UNIQUE INDEX CONCURRENTLY users_email_key ON users USING btree"), "{sql}");
        for object in ["index users_pkey", "index invites_token_hash_key", "index nothing", "column users.id"] {
            assert_eq!(creation(&objects, object), None, "{object}");
        }
    }

    #[test]
    fn leftovers_are_known_by_their_names() {
        for name in ["a_ccnew", "a_ccold", "a_ccnew1"] {
            assert!(is_leftover(name), "{name}");
        }
        assert!(!is_leftover("a") && !is_leftover("ccnew_a"));
    }
}
