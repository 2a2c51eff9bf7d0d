//! The old server's database itself: one transaction that only reads and sees one instant, that of [`Source::open`].
//!
//! Its rows come as `COPY` writes them, the same that stand in a dump.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sqlx::postgres::PgConnection;
use tokio::sync::mpsc;

use super::digest::LogDigest;
use super::error::ImportError;
use super::rows::{self, SourceLog, SourceOp, Tables};
use super::shape;
use super::source::{Batch, Source};
use crate::protocol::UserId;
use crate::upstream::copy_text::{Malformed, Row};
use crate::upstream::database;
use crate::upstream::schema::{TABLES, columns_read, find};

/// By this name the source knows our session.
const APPLICATION: &str = "supersync-import";

/// The old server's database.
#[derive(Debug)]
pub struct LiveSource {
    connection: PgConnection,
    /// The columns of `operations` that are there.
    columns: Vec<String>,
}

impl LiveSource {
    /// Connects to the database at an address as the old server has it in its `DATABASE_URL`.
    ///
    /// # Errors
    /// When it is no address, or what kept it from connecting.
    pub async fn connect(text: &str) -> Result<Self, ImportError> {
        let address = database::address(text, APPLICATION).ok_or_else(|| {
            ImportError::Refused(
                "--from: expected postgres://user:password@host:port/name with % @ / : ? # of the password \
                 percent-encoded, or a file that pg_dump made (value not shown)"
                    .to_owned(),
            )
        })?;
        Ok(Self { connection: database::connect(address).await?, columns: Vec::new() })
    }
}

/// What `read` makes of the rows of a query: `rest` follows its `FROM`. To be taken to the end, or the connection can't be
/// used any more. Nothing but constants and numbers goes into the statement.
async fn copy_out<'c, T: 'c>(
    connection: &'c mut PgConnection,
    columns: &[String],
    rest: &str,
    mut read: impl FnMut(&Row) -> Result<T, Malformed> + Send + 'c,
) -> sqlx::Result<BoxStream<'c, sqlx::Result<T>>> {
    // Cached states are large, and asked for one by one.
    let selected = columns.iter().map(|name| match name.as_str() {
        "snapshot_data" => "CASE WHEN snapshot_data IS NOT NULL THEN ''::bytea END",
        name => name,
    });
    let selected = selected.collect::<Vec<_>>().join(", ");
    let lines = connection.copy_out_raw(&format!("COPY (SELECT {selected} FROM {rest}) TO STDOUT")).await?;
    let (columns, mut number) = (columns.to_vec(), 0);
    let rows = lines.map(move |line| {
        let line = line?;
        number += 1;
        let row = Row::new(&columns, line.strip_suffix(b"\n").unwrap_or(&line), number);
        row.and_then(|row| read(&row)).map_err(|what| sqlx::Error::Decode(what.into()))
    });
    Ok(rows.boxed())
}

/// Operations as taking them over gives them, by `server_seq`. To be taken to the end, or the connection can't be used any
/// more.
async fn operations_of<'c>(
    connection: &'c mut PgConnection,
    columns: &[String],
    condition: &str,
) -> sqlx::Result<BoxStream<'c, sqlx::Result<SourceOp>>> {
    copy_out(connection, columns, &format!("operations WHERE {condition} ORDER BY server_seq"), rows::operation).await
}

/// The same where the schema is the newest.
///
/// # Errors
/// The database's.
pub async fn operations_at_head<'c>(
    connection: &'c mut PgConnection,
    condition: &str,
) -> sqlx::Result<BoxStream<'c, sqlx::Result<SourceOp>>> {
    let columns: Vec<_> = columns_read("operations").map(|column| column.name.to_owned()).collect();
    operations_of(connection, &columns, condition).await
}

/// How many operations an account has there, and the digest of them that taking it over would give. `None`: they can't all
/// be taken. The schema is the newest.
///
/// # Errors
/// The database's.
pub async fn log_digest(connection: &mut PgConnection, user: i32) -> sqlx::Result<Option<(i64, String)>> {
    let mut digest = LogDigest::default();
    let mut is_whole = true;
    let mut ops = operations_at_head(connection, &format!("user_id = {user}")).await?;
    while let Some(op) = ops.try_next().await? {
        match op {
            Ok(op) => digest.add(&op),
            Err(_) => is_whole = false,
        }
    }
    Ok(is_whole.then(|| (digest.count, digest.done())))
}

#[async_trait]
impl Source for LiveSource {
    async fn others(&mut self) -> Result<String, ImportError> {
        Ok(database::others(&mut self.connection, APPLICATION).await?)
    }

    async fn open(&mut self) -> Result<Tables, ImportError> {
        let connection = &mut self.connection;
        // From here on it is seen as it is now, so everybody else has to be gone.
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *connection).await?;
        let found = database::columns(connection).await?;
        let mut tables = Tables { missing: shape::missing(&found)?, ..Tables::default() };
        let needed = TABLES.map(|table| (table, &["SELECT"][..]));
        let lacking = database::missing_rights(connection, &needed, &["USAGE, SELECT"], false).await?;
        if !lacking.is_empty() {
            let lacking = lacking.join("; ");
            return Err(ImportError::Refused(format!("the role of --from lacks rights in the source: {lacking}")));
        }
        for table in TABLES {
            let there = columns_read(table).filter(|column| find(&found, table, column.name).is_some());
            let columns: Vec<_> = there.map(|column| column.name.to_owned()).collect();
            if table == "operations" {
                self.columns = columns;
            } else if !columns.is_empty() {
                let mut rows = copy_out(connection, &columns, table, |row| tables.add(table, row)).await?;
                while let Some(()) = rows.try_next().await? {}
            }
        }
        let sql = "SELECT l.user_id::bigint, l.op_count, l.first_seq::bigint, l.last_seq::bigint, a.id, z.id \
                   FROM (SELECT user_id, count(*) AS op_count, min(server_seq) AS first_seq, max(server_seq) AS last_seq \
                   FROM operations GROUP BY user_id) l \
                   JOIN LATERAL (SELECT o.id FROM operations o \
                   WHERE o.user_id = l.user_id AND o.server_seq = l.first_seq LIMIT 1) a ON TRUE \
                   JOIN LATERAL (SELECT o.id FROM operations o \
                   WHERE o.user_id = l.user_id AND o.server_seq = l.last_seq LIMIT 1) z ON TRUE";
        let mut rows = sqlx::query_as(sql).fetch(&mut *connection);
        while let Some((user, op_count, first_seq, last_seq, first_id, last_id)) = rows.try_next().await? {
            tables.logs.insert(user, SourceLog { user, op_count, first_seq, last_seq, first_id, last_id });
        }
        drop(rows);
        let sql = "SELECT pg_sequence_last_value(pg_get_serial_sequence('users', 'id')::regclass)";
        tables.finish(sqlx::query_scalar(sql).fetch_one(connection).await?);
        Ok(tables)
    }

    async fn snapshot(&mut self, user: UserId) -> Result<Option<Vec<u8>>, ImportError> {
        let sql = "SELECT snapshot_data FROM user_sync_state WHERE user_id = $1::int AND snapshot_data IS NOT NULL";
        Ok(sqlx::query_scalar(sql).bind(user).fetch_optional(&mut self.connection).await?)
    }

    async fn operations(&mut self, user: UserId, to: &mpsc::Sender<Vec<SourceOp>>) -> Result<(), ImportError> {
        let condition = format!("user_id = {user}");
        let mut ops = operations_of(&mut self.connection, &self.columns, &condition).await?;
        let mut batch = Batch::default();
        while let Some(op) = ops.try_next().await? {
            if let Some(full) = batch.add(op) {
                // If nobody wants it, nobody misses it.
                to.send(full).await.ok();
            }
        }
        to.send(batch.rest()).await.ok();
        Ok(())
    }
}
