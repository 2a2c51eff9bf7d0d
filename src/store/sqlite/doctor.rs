//! What `supersync doctor` looks at, on connections of its own: a read transaction sees one instant whatever is committed
//! meanwhile.
//!
//! The schema is compared with one that the migrations make in memory.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use rusqlite::{Connection, params};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::mpsc;

use super::backup::{on_thread, select, value};
use super::{SqliteStore, open_direct, open_reader};
use crate::store::backup::NUMBERED;
use crate::store::doctor::{
    COMMITS, DoctorStore, EXPIRING, NAMED_ORPHANS, NextRows, NumbersBehind, OWNED, Orphans, SchemaDifference,
    SchemaState, Selection, VitalSigns, deletable, differences, median,
};
use crate::store::error::timed;
use crate::store::{Result, StoreError, migrate};

/// How long a lock of a server beside us is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rows of one answer, but for those with large values.
const ROWS: usize = 2_000;
const LARGE_ROWS: usize = 32;

/// Every object of the schema: its kind and name, its definition. What was made by hand may be written differently.
const SCHEMA_SQL: &str = "\
    SELECT 'column ' || m.name || '.' || p.name, p.type || CASE WHEN p.\"notnull\" THEN ' not null' ELSE '' END \
    || CASE WHEN p.pk THEN ' key ' || p.pk ELSE '' END || COALESCE(' default ' || p.dflt_value, '') \
    FROM sqlite_schema m, pragma_table_info(m.name) p WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' \
    UNION ALL SELECT type || ' ' || name, sql FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL \
    UNION ALL SELECT 'constraint ' || m.name || '.' || f.\"from\", f.\"table\" || '.' || f.\"to\" || ' ' || f.on_delete \
    FROM sqlite_schema m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table'";

/// Objects of a schema by kind and name.
type Objects = BTreeMap<String, String>;

fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the migrations make.
async fn expected() -> Result<Objects> {
    let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
    let mut connection: SqliteConnection = options.connect().await?;
    migrate::run_sqlite(&mut connection, Path::new(":memory:")).await?;
    let rows = sqlx::query(SCHEMA_SQL).fetch_all(&mut connection).await?;
    let objects = rows.iter().map(|row| Ok((row.try_get(0)?, one_line(row.try_get(1)?)))).collect::<Result<_>>()?;
    connection.close().await?;
    Ok(objects)
}

fn found(connection: &Connection) -> Result<Objects> {
    let mut statement = connection.prepare(SCHEMA_SQL)?;
    let mut rows = statement.query([])?;
    let mut objects = Objects::new();
    while let Some(row) = rows.next()? {
        objects.insert(row.get(0)?, one_line(&row.get::<_, String>(1)?));
    }
    Ok(objects)
}

/// How long it takes to bring something to the disk that the file lies on.
fn commit_time(path: &Path) -> std::io::Result<Duration> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = folder.join(format!(".supersync-doctor-{}", std::process::id()));
    let measure = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&probe)?;
        let mut times = Vec::with_capacity(COMMITS);
        for _ in 0..COMMITS {
            file.write_all(&[0; 4096])?;
            let began = Instant::now();
            file.sync_data()?;
            times.push(began.elapsed());
        }
        Ok::<_, std::io::Error>(median(times).unwrap_or_default())
    };
    let measured = measure();
    match std::fs::remove_file(&probe) {
        Err(error) if measured.is_ok() => Err(error),
        _ => measured,
    }
}

fn vital_signs(path: &Path) -> Result<VitalSigns> {
    let connection = open_reader(path, PATIENCE)?;
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    let unsafe_settings =
        if journal.eq_ignore_ascii_case("wal") { Vec::new() } else { vec![format!("journal_mode={journal}")] };
    let (commit, read_only) = match OpenOptions::new().write(true).open(path).and_then(|_| commit_time(path)) {
        Ok(time) => (Some(time), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let now = SystemTime::now();
    let asked = Instant::now();
    connection.query_row("SELECT count(*) FROM leadership", [], |_| Ok(()))?;
    let look = asked.elapsed();
    // It runs in this process, by this machine's clock.
    let now_ms = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(VitalSigns {
        version: format!("SQLite {}", rusqlite::version()),
        is_supported: true,
        read_only,
        unsafe_settings,
        commit,
        now_ms: i64::try_from(now_ms).unwrap_or(i64::MAX),
        look,
        connections: None,
        stuck: 0,
        wal_bytes: Some(std::fs::metadata(wal).map_or(0, |file| file.len())),
    })
}

fn damage(path: &Path) -> Result<Vec<String>> {
    let connection = open_reader(path, PATIENCE)?;
    let mut all = Vec::new();
    // Ends by itself after a hundred faults.
    let mut statement = connection.prepare("PRAGMA integrity_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let said: String = row.get(0)?;
        if said != "ok" {
            all.push(said);
        }
    }
    // Rows without account are looked for by themselves.
    let mut statement = connection.prepare(
        "SELECT \"table\", parent, count(*) FROM pragma_foreign_key_check \
         WHERE parent <> 'users' OR \"table\" = 'invites' GROUP BY 1, 2 ORDER BY 1, 2",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (table, parent, count): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        all.push(format!("{count} rows of {table} refer to rows of {parent} that are not there"));
    }
    Ok(all)
}

fn orphans(path: &Path) -> Result<Vec<Orphans>> {
    let connection = open_reader(path, PATIENCE)?;
    let mut all = Vec::new();
    for table in OWNED {
        // Constant names.
        let of = format!("FROM {table} t WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = t.user_id)");
        let rows: i64 = connection.query_row(&format!("SELECT count(*) {of}"), [], |row| row.get(0))?;
        if rows > 0 {
            let sql = format!("SELECT DISTINCT t.user_id {of} ORDER BY 1 LIMIT ?1");
            let mut statement = connection.prepare(&sql)?;
            let accounts = statement.query_map([NAMED_ORPHANS], |row| row.get(0))?.collect::<Result<_, _>>()?;
            all.push(Orphans { table, rows, accounts });
        }
    }
    Ok(all)
}

fn numbers_behind(path: &Path) -> Result<Vec<NumbersBehind>> {
    let connection = open_reader(path, PATIENCE)?;
    let mut all = Vec::new();
    for table in NUMBERED {
        // Constant names.
        let sql = format!(
            "SELECT (SELECT COALESCE(max(seq), 0) FROM sqlite_sequence WHERE name = '{table}'), \
             (SELECT COALESCE(max(id), 0) FROM {table})"
        );
        let (given_out, highest) = connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if given_out < highest {
            all.push(NumbersBehind { table, given_out, highest });
        }
    }
    Ok(all)
}

fn overdue(path: &Path, before_ms: i64) -> Result<i64> {
    let connection = open_reader(path, PATIENCE)?;
    let mut rows = 0;
    for table in EXPIRING {
        // Constant names.
        let sql = format!("SELECT count(*) FROM {table} WHERE expires_at < ?1");
        rows += connection.query_row(&sql, [before_ms], |row| row.get::<_, i64>(0))?;
    }
    Ok(rows)
}

fn read_side_by_side(path: &Path, tables: &[Selection], mut asked: mpsc::Receiver<NextRows>) -> Result<()> {
    let mut connection = open_reader(path, PATIENCE)?;
    let tx = connection.transaction()?;
    let mut statements = Vec::new();
    for Selection { table, columns } in tables {
        statements.push(tx.prepare(&select(table, columns))?);
    }
    let mut cursors = Vec::new();
    for statement in &mut statements {
        cursors.push(Some(statement.query([])?));
    }
    while let Some(NextRows { table: place, answer }) = asked.blocking_recv() {
        let (Some(Selection { columns, .. }), Some(cursor)) = (tables.get(place), cursors.get_mut(place)) else {
            continue;
        };
        let most = if columns.iter().any(|column| column.name == "data") { LARGE_ROWS } else { ROWS };
        let mut batch = Vec::new();
        while let Some(rows) = cursor {
            // To step on behind the end would begin again.
            let Some(row) = rows.next()? else {
                *cursor = None;
                break;
            };
            let values = columns.iter().enumerate().map(|(at, column)| value(row.get_ref(at)?, column));
            batch.push(values.collect::<Result<Vec<_>>>()?);
            if batch.len() == most {
                break;
            }
        }
        // Whoever asked may be gone; then the next question does not come either.
        answer.send(batch).ok();
    }
    Ok(())
}

#[async_trait]
impl DoctorStore for SqliteStore {
    async fn vital_signs(&self) -> Result<VitalSigns> {
        let path = self.path.clone();
        timed("vital_signs", on_thread(move || vital_signs(&path))).await
    }

    async fn schema_differences(&self) -> Result<Vec<SchemaDifference>> {
        let path = self.path.clone();
        timed("schema_differences", async {
            let expected = expected().await?;
            let found = on_thread(move || found(&open_reader(&path, PATIENCE)?)).await?;
            Ok(differences(&expected, &found, |object| object.starts_with("index ")))
        })
        .await
    }

    async fn mend_schema(&self, difference: &SchemaDifference) -> Result<bool> {
        if difference.state != SchemaState::Missing || !difference.object.starts_with("index ") {
            return Ok(false);
        }
        let Some(sql) = expected().await?.remove(&difference.object) else { return Ok(false) };
        let path = self.path.clone();
        timed("mend_schema", on_thread(move || Ok(open_direct(&path, PATIENCE)?.execute_batch(&sql)?))).await?;
        Ok(true)
    }

    async fn damage(&self) -> Result<Vec<String>> {
        let path = self.path.clone();
        timed("damage", on_thread(move || damage(&path))).await
    }

    async fn rebuild_indexes(&self) -> Result<()> {
        let path = self.path.clone();
        timed("rebuild_indexes", on_thread(move || Ok(open_direct(&path, PATIENCE)?.execute_batch("REINDEX")?))).await
    }

    async fn orphans(&self) -> Result<Vec<Orphans>> {
        let path = self.path.clone();
        timed("orphans", on_thread(move || orphans(&path))).await
    }

    async fn delete_orphans(&self, table: &str) -> Result<u64> {
        let Some(table) = deletable(table) else { return Ok(0) };
        let path = self.path.clone();
        let delete = move || {
            // Constant names.
            let sql = format!("DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = user_id)");
            let rows = open_direct(&path, PATIENCE)?.execute(&sql, [])?;
            Ok::<_, StoreError>(u64::try_from(rows).unwrap_or(u64::MAX))
        };
        timed("delete_orphans", on_thread(delete)).await
    }

    async fn numbers_behind(&self) -> Result<Vec<NumbersBehind>> {
        let path = self.path.clone();
        timed("numbers_behind", on_thread(move || numbers_behind(&path))).await
    }

    async fn raise_numbers(&self, behind: NumbersBehind) -> Result<()> {
        let path = self.path.clone();
        let raise = move || {
            let mut connection = open_direct(&path, PATIENCE)?;
            let tx = connection.transaction()?;
            tx.execute(
                "DELETE FROM sqlite_sequence WHERE name = ?1 AND seq < ?2",
                params![behind.table, behind.highest],
            )?;
            tx.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT ?1, ?2 \
                 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)",
                params![behind.table, behind.highest],
            )?;
            tx.commit()?;
            Ok(())
        };
        timed("raise_numbers", on_thread(raise)).await
    }

    async fn overdue(&self, before_ms: i64) -> Result<i64> {
        let path = self.path.clone();
        timed("overdue", on_thread(move || overdue(&path, before_ms))).await
    }

    async fn read_side_by_side(&self, tables: Vec<Selection>, asked: mpsc::Receiver<NextRows>) -> Result<()> {
        let path = self.path.clone();
        timed("read_side_by_side", on_thread(move || read_side_by_side(&path, &tables, asked))).await
    }
}
