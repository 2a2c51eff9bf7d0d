//! The old server's database itself: one transaction that only reads and sees one instant, that of [`Source::open`].

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::mpsc;

use super::shape::Shape;
use super::source::{
    BATCH_BYTES, BATCH_OPS, Source, SourceDevice, SourceLog, SourceMarks, SourceOp, SourcePasskey, SourcePending,
    SourceUser,
};
use super::take::LogDigest;
use super::{ImportError, transform};
use crate::protocol::UserId;
use crate::upstream::database::{self, Needed};

/// By this name the source knows our session.
const APPLICATION: &str = "supersync-import";

/// What is done there.
const NEEDED: Needed = Needed {
    tables: &[
        ("users", &["SELECT"]),
        ("operations", &["SELECT"]),
        ("user_sync_state", &["SELECT"]),
        ("sync_devices", &["SELECT"]),
        ("passkeys", &["SELECT"]),
        ("pending_passkey_registrations", &["SELECT"]),
    ],
    numbers: &["USAGE, SELECT"],
    temporary: false,
};

/// The old server's database.
#[derive(Debug)]
pub struct LiveSource {
    connection: PgConnection,
    shape: Shape,
    operations: String,
}

impl LiveSource {
    /// Connects to the database at an address as the old server has it in its `DATABASE_URL`.
    ///
    /// # Errors
    /// [`ImportError::Address`], or what kept it from connecting.
    pub async fn connect(text: &str) -> Result<Self, ImportError> {
        let address = database::address(text, APPLICATION).ok_or(ImportError::Address)?;
        let connection = database::connect(address).await?;
        Ok(Self { connection, shape: Shape::default(), operations: String::new() })
    }

    fn passkey_columns(&self, table: &str) -> String {
        let used = if self.shape.has(table, "last_used_at") { "p.last_used_at" } else { "NULL::timestamp" };
        format!(
            "p.user_id::bigint, p.credential_id, p.public_key, p.counter, p.transports, {}, {}",
            ms("p.created_at"),
            ms(used)
        )
    }
}

/// An account's operations, for [`operation`]. Constant names.
fn operations_sql(shape: &Shape) -> String {
    let column = |name| shape.sql("o", "operations", name);
    format!(
        "SELECT o.id, o.client_id, o.server_seq::bigint, o.action_type, o.op_type, o.entity_type, o.entity_id, {}, \
         o.payload::text, {}, o.vector_clock::text, o.schema_version::bigint, o.client_timestamp, o.received_at, {}, \
         {}, {}::bigint FROM operations o WHERE o.user_id = $1 ORDER BY o.server_seq",
        column("entity_ids"),
        column("payload_bytes"),
        column("is_payload_encrypted"),
        column("sync_import_reason"),
        column("repair_base_server_seq"),
    )
}

/// How many operations an account has there, and the digest of them that taking it over would give. `None`: they can't all
/// be taken. The schema is the newest.
///
/// # Errors
/// The database's.
pub async fn log_digest(connection: &mut PgConnection, user: i32) -> sqlx::Result<Option<(i64, String)>> {
    let mut digest = LogDigest::default();
    let mut rows = sqlx::query(AssertSqlSafe(operations_sql(&Shape::newest()))).bind(user).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let Ok(op) = transform::operation(operation(&row)?) else { return Ok(None) };
        digest.add(&op);
    }
    Ok(Some((digest.count, digest.done())))
}

/// An instant in UTC, as Unix milliseconds.
fn ms(sql: &str) -> String {
    format!("(extract(epoch FROM {sql}) * 1000)::bigint")
}

#[async_trait]
impl Source for LiveSource {
    async fn open(&mut self) -> Result<Vec<String>, ImportError> {
        // From here on it is seen as it is now, so everybody else has to be gone.
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut self.connection).await?;
        self.shape = Shape::of(database::columns(&mut self.connection).await?)?;
        let lacking = database::missing_rights(&mut self.connection, &NEEDED).await?;
        if !lacking.is_empty() {
            return Err(ImportError::Rights(lacking));
        }
        self.operations = operations_sql(&self.shape);
        Ok(self.shape.missing.clone())
    }

    async fn others(&mut self) -> Result<String, ImportError> {
        Ok(database::others(&mut self.connection, APPLICATION).await?)
    }

    async fn users(&mut self) -> Result<Vec<SourceUser>, ImportError> {
        let column = |name| self.shape.sql("u", "users", name);
        let sql = format!(
            "SELECT u.id::bigint, u.email, u.password_hash, u.is_verified <> 0, u.verification_token, \
             u.verification_token_expires_at, u.locked_until, u.token_version::bigint, u.terms_accepted_at, {}, {}, {}, \
             {}, {}, {}, {}, {}, COALESCE(s.last_seq, 0)::bigint, s.snapshot_data IS NOT NULL, \
             s.last_snapshot_seq::bigint, s.snapshot_at, s.snapshot_schema_version::bigint, {}::bigint, {}::text \
             FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id ORDER BY u.id",
            ms("u.created_at"),
            column("storage_quota_bytes"),
            column("reset_password_token"),
            column("reset_password_token_expires_at"),
            column("passkey_recovery_token"),
            column("passkey_recovery_token_expires_at"),
            column("login_token"),
            column("login_token_expires_at"),
            self.shape.sql("s", "user_sync_state", "latest_full_state_seq"),
            self.shape.sql("s", "user_sync_state", "latest_full_state_vector_clock"),
        );
        // Constant names.
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut self.connection);
        let mut users = Vec::new();
        while let Some(row) = rows.try_next().await? {
            users.push(SourceUser {
                id: row.try_get(0)?,
                email: row.try_get(1)?,
                password_hash: row.try_get(2)?,
                is_verified: row.try_get(3)?,
                verification_token: row.try_get(4)?,
                verification_token_expires_at: row.try_get(5)?,
                locked_until: row.try_get(6)?,
                token_version: row.try_get(7)?,
                terms_accepted_at: row.try_get(8)?,
                created_at: row.try_get(9)?,
                storage_quota_bytes: row.try_get(10)?,
                reset_password_token: row.try_get(11)?,
                reset_password_token_expires_at: row.try_get(12)?,
                passkey_recovery_token: row.try_get(13)?,
                passkey_recovery_token_expires_at: row.try_get(14)?,
                login_token: row.try_get(15)?,
                login_token_expires_at: row.try_get(16)?,
                last_seq: row.try_get(17)?,
                marks: SourceMarks {
                    has_snapshot: row.try_get(18)?,
                    snapshot_seq: row.try_get(19)?,
                    snapshot_at: row.try_get(20)?,
                    snapshot_schema_version: row.try_get(21)?,
                    full_state_seq: row.try_get(22)?,
                    full_state_clock: row.try_get(23)?,
                },
            });
        }
        Ok(users)
    }

    async fn passkeys(&mut self) -> Result<Vec<SourcePasskey>, ImportError> {
        if !self.shape.has_table("passkeys") {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT {} FROM passkeys p ORDER BY p.user_id, p.id", self.passkey_columns("passkeys"));
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut self.connection);
        let mut keys = Vec::new();
        while let Some(row) = rows.try_next().await? {
            keys.push(passkey(&row)?);
        }
        Ok(keys)
    }

    async fn pending(&mut self) -> Result<Vec<SourcePending>, ImportError> {
        if !self.shape.has_table("pending_passkey_registrations") {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT {}, p.verification_token, p.verification_token_expires_at FROM pending_passkey_registrations p \
             ORDER BY p.user_id, p.id",
            self.passkey_columns("pending_passkey_registrations")
        );
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut self.connection);
        let mut pending = Vec::new();
        while let Some(row) = rows.try_next().await? {
            pending.push(SourcePending {
                key: passkey(&row)?,
                verification_token: row.try_get(7)?,
                verification_token_expires_at: row.try_get(8)?,
            });
        }
        Ok(pending)
    }

    async fn devices(&mut self) -> Result<Vec<SourceDevice>, ImportError> {
        let sql = "SELECT user_id::bigint, client_id, last_seen_at, created_at FROM sync_devices \
                   ORDER BY user_id, client_id";
        let mut rows = sqlx::query(sql).fetch(&mut self.connection);
        let mut devices = Vec::new();
        while let Some(row) = rows.try_next().await? {
            devices.push(SourceDevice {
                user: row.try_get(0)?,
                client_id: row.try_get(1)?,
                last_seen_at: row.try_get(2)?,
                created_at: row.try_get(3)?,
            });
        }
        Ok(devices)
    }

    async fn logs(&mut self) -> Result<Vec<SourceLog>, ImportError> {
        let sql = "SELECT l.user_id::bigint, l.op_count, l.first_seq::bigint, l.last_seq::bigint, a.id, z.id \
                   FROM (SELECT user_id, count(*) AS op_count, min(server_seq) AS first_seq, max(server_seq) AS last_seq \
                   FROM operations GROUP BY user_id) l \
                   JOIN LATERAL (SELECT o.id FROM operations o \
                   WHERE o.user_id = l.user_id AND o.server_seq = l.first_seq LIMIT 1) a ON TRUE \
                   JOIN LATERAL (SELECT o.id FROM operations o \
                   WHERE o.user_id = l.user_id AND o.server_seq = l.last_seq LIMIT 1) z ON TRUE \
                   ORDER BY l.user_id";
        let mut rows = sqlx::query(sql).fetch(&mut self.connection);
        let mut logs = Vec::new();
        while let Some(row) = rows.try_next().await? {
            logs.push(SourceLog {
                user: row.try_get(0)?,
                op_count: row.try_get(1)?,
                first_seq: row.try_get(2)?,
                last_seq: row.try_get(3)?,
                first_id: row.try_get(4)?,
                last_id: row.try_get(5)?,
            });
        }
        Ok(logs)
    }

    async fn highest_number(&mut self) -> Result<UserId, ImportError> {
        let sql = "SELECT GREATEST(COALESCE((SELECT max(id) FROM users), 0)::bigint, \
                   COALESCE(pg_sequence_last_value(pg_get_serial_sequence('users', 'id')::regclass), 0))";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.connection).await?)
    }

    async fn snapshot(&mut self, user: UserId) -> Result<Option<Vec<u8>>, ImportError> {
        let sql = "SELECT snapshot_data FROM user_sync_state WHERE user_id = $1 AND snapshot_data IS NOT NULL";
        Ok(sqlx::query_scalar(sql).bind(number(user)?).fetch_optional(&mut self.connection).await?)
    }

    async fn operations(&mut self, user: UserId, to: &mpsc::Sender<Vec<SourceOp>>) -> Result<(), ImportError> {
        // Constant names.
        let mut rows =
            sqlx::query(AssertSqlSafe(self.operations.clone())).bind(number(user)?).fetch(&mut self.connection);
        let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_OPS), 0);
        while let Some(row) = rows.try_next().await? {
            let op = operation(&row)?;
            bytes += op.payload.len();
            batch.push(op);
            if batch.len() >= BATCH_OPS || bytes >= BATCH_BYTES {
                bytes = 0;
                if to.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH_OPS))).await.is_err() {
                    return Ok(());
                }
            }
        }
        if !batch.is_empty() {
            // If nobody wants it, nobody misses it.
            to.send(batch).await.ok();
        }
        Ok(())
    }
}

/// The columns are integers; another type would keep indexes from being used.
fn number(user: UserId) -> Result<i32, ImportError> {
    i32::try_from(user).map_err(|_| ImportError::NotUpstream(format!("account {user}")))
}

fn passkey(row: &PgRow) -> sqlx::Result<SourcePasskey> {
    Ok(SourcePasskey {
        user: row.try_get(0)?,
        credential_id: row.try_get(1)?,
        public_key: row.try_get(2)?,
        counter: row.try_get(3)?,
        transports: row.try_get(4)?,
        created_at: row.try_get(5)?,
        last_used_at: row.try_get(6)?,
    })
}

fn operation(row: &PgRow) -> sqlx::Result<SourceOp> {
    Ok(SourceOp {
        id: row.try_get(0)?,
        client_id: row.try_get(1)?,
        server_seq: row.try_get(2)?,
        action_type: row.try_get(3)?,
        op_type: row.try_get(4)?,
        entity_type: row.try_get(5)?,
        entity_id: row.try_get(6)?,
        entity_ids: row.try_get(7)?,
        payload: row.try_get(8)?,
        payload_bytes: row.try_get(9)?,
        vector_clock: row.try_get(10)?,
        schema_version: row.try_get(11)?,
        client_timestamp: row.try_get(12)?,
        received_at: row.try_get(13)?,
        is_payload_encrypted: row.try_get(14)?,
        sync_import_reason: row.try_get(15)?,
        repair_base_server_seq: row.try_get(16)?,
    })
}
