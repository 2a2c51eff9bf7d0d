//! What an old operation costs on the disk, and what the same one cost in the schema of the server that this one replaces.

use async_trait::async_trait;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use super::layout::{BATCH, vacuum, write_in_rounds};
use crate::bench::Bench;
use crate::bench::case::{Case, float};
use crate::bench::ceiling::postgres;
use crate::bench::check::compare_logs;
use crate::bench::error::Result;
use crate::bench::place::{Database, Place};
use crate::bench::scenario::Scenario;
use crate::protocol::Seq;

pub struct Disk;

/// The tables of the old server that grow with its use, with all of their indexes (contract, operations, section 8).
const OLD_SCHEMA: &str = "
CREATE TABLE users (
    id SERIAL PRIMARY KEY, email TEXT NOT NULL UNIQUE, password_hash TEXT, is_verified INT NOT NULL DEFAULT 0,
    token_version INT NOT NULL DEFAULT 0, created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    storage_quota_bytes BIGINT NOT NULL DEFAULT 104857600, storage_used_bytes BIGINT NOT NULL DEFAULT 0);
CREATE TABLE operations (
    id TEXT PRIMARY KEY, user_id INT NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    client_id TEXT NOT NULL, server_seq INT NOT NULL, action_type TEXT NOT NULL, op_type TEXT NOT NULL,
    entity_type TEXT NOT NULL, entity_id TEXT, entity_ids TEXT[] NOT NULL DEFAULT '{}', payload JSONB NOT NULL,
    payload_bytes BIGINT NOT NULL DEFAULT 0, vector_clock JSONB NOT NULL, schema_version INT NOT NULL,
    client_timestamp BIGINT NOT NULL, received_at BIGINT NOT NULL, is_payload_encrypted BOOLEAN NOT NULL DEFAULT FALSE,
    sync_import_reason TEXT, repair_base_server_seq INT);
CREATE UNIQUE INDEX ON operations (user_id, server_seq);
CREATE INDEX ON operations (user_id, entity_type, entity_id, server_seq);
CREATE INDEX ON operations (user_id, client_id);
CREATE INDEX ON operations (user_id, received_at);
CREATE INDEX ON operations USING gin (entity_ids) WITH (fastupdate = off);
CREATE INDEX ON operations (user_id, server_seq) WHERE op_type IN ('SYNC_IMPORT', 'BACKUP_IMPORT', 'REPAIR');
CREATE INDEX ON operations (user_id, server_seq) WHERE is_payload_encrypted;
CREATE INDEX ON operations (user_id, id) WHERE payload_bytes = 0;
CREATE TABLE user_sync_state (
    user_id INT PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE, last_seq INT NOT NULL DEFAULT 0,
    last_snapshot_seq INT, snapshot_data BYTEA, snapshot_at BIGINT, snapshot_schema_version INT DEFAULT 1,
    latest_full_state_seq INT, latest_full_state_vector_clock JSONB, latest_state_replacement_seq INT);
CREATE TABLE sync_devices (
    client_id TEXT NOT NULL, user_id INT NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    device_name TEXT, user_agent TEXT, last_seen_at BIGINT NOT NULL, last_acked_seq INT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL, PRIMARY KEY (user_id, client_id));
";

/// In text form, so that a payload becomes what the old server made of it.
const NEW_ROWS: &str = "
SELECT user_id, server_seq, op_id, client_id, action_type, op_type, entity_type, entity_id,
    convert_from(payload, 'UTF8') AS payload, storage_bytes, vector_clock, client_timestamp, received_at
FROM operations WHERE server_seq > $1 ORDER BY ctid";

const OLD_INSERT: &str = "
INSERT INTO operations (user_id, server_seq, id, client_id, action_type, op_type, entity_type, entity_id, payload,
    payload_bytes, vector_clock, client_timestamp, received_at, schema_version)
SELECT u, s, i, c, a, o, e, n, p::jsonb, b, v::jsonb, t, r, 4
FROM UNNEST($1::int8[], $2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::int8[], $11::text[], $12::int8[], $13::int8[]) AS x (u, s, i, c, a, o, e, n, p, b, v, t, r)";

#[async_trait(?Send)]
impl Scenario for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn about(&self) -> &'static str {
        "bytes on disk per old operation, sealed; on PostgreSQL also in the old server's schema"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let (accounts, per_account) = (options.size(20, 4), options.size(10_000, 2_000));
        let rounds = options.size(20, 4);
        let session = bench.session(accounts).await?;
        let old = match session.place().map(Place::database) {
            Some(Database::Postgres(_)) => Some(Old::create(bench, accounts).await?),
            _ => None,
        };
        let copy = async |place: &Place, above: Seq| match &old {
            Some(old) => old.copy(place, above).await,
            None => Ok(()),
        };
        let (session, group) = write_in_rounds(bench, session, rounds, per_account, copy).await?;
        let case = Case::new("disk", "old operations")
            .with("accounts", accounts)
            .with("operations", accounts * per_account)
            .with("payload_bytes", options.payload_bytes())
            .with("rounds", rounds)
            .with("batch", BATCH);
        let (mut case, devices) = group.finish(case);
        case.figures.clear();
        case.check(compare_logs(&session, devices).await?);
        let operations = accounts * per_account;
        case.disk(session.close().await?, operations);
        if let Some(old) = old {
            let bytes = float(old.finish().await?) / float(operations as u64);
            case.figure("old_schema_bytes_per_operation", "B", bytes);
            let ratio = case.value("disk_bytes_per_operation").filter(|_| bytes > 0.0).map(|ours| ours / bytes);
            case.figure("disk_ratio_to_old_schema", "", ratio);
        }
        Ok(vec![case])
    }
}

/// A database with the old server's schema.
struct Old {
    place: Place,
    empty_bytes: u64,
}

impl Old {
    async fn create(bench: &Bench, accounts: usize) -> Result<Self> {
        let place = bench.place(&[]).await?;
        let mut connection = postgres::connect(&place).await?;
        connection.execute(OLD_SCHEMA).await?;
        let accounts = i64::try_from(accounts).unwrap_or(i64::MAX);
        sqlx::query("INSERT INTO users (email) SELECT 'bench-' || n || '@example.org' FROM generate_series(1, $1) n")
            .bind(accounts)
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        let empty_bytes = place.disk_bytes().await?;
        Ok(Self { place, empty_bytes })
    }

    /// Copies the rows above this sequence in the order in which they were written.
    async fn copy(&self, from: &Place, above: Seq) -> Result<()> {
        let mut source = postgres::connect(from).await?;
        let rows = sqlx::query(NEW_ROWS).bind(above).fetch_all(&mut source).await?;
        source.close().await?;
        let mut target = postgres::connect(&self.place).await?;
        for rows in rows.chunks(1_000) {
            insert(&mut target, rows).await?;
        }
        target.close().await?;
        vacuum(&self.place).await
    }

    /// How much it has grown; removes it.
    async fn finish(self) -> Result<u64> {
        let mut connection = postgres::connect(&self.place).await?;
        for sql in [
            "INSERT INTO user_sync_state (user_id, last_seq) SELECT user_id, max(server_seq) FROM operations GROUP BY 1",
            "INSERT INTO sync_devices (client_id, user_id, last_seen_at, created_at) \
             SELECT client_id, user_id, max(received_at), min(received_at) FROM operations GROUP BY 1, 2",
        ] {
            sqlx::query(sql).execute(&mut connection).await?;
        }
        connection.close().await?;
        vacuum(&self.place).await?;
        let grown = self.place.disk_bytes().await?.saturating_sub(self.empty_bytes);
        self.place.remove().await?;
        Ok(grown)
    }
}

async fn insert(target: &mut PgConnection, rows: &[sqlx::postgres::PgRow]) -> Result<()> {
    let numbers = |name: &str| rows.iter().map(|row| row.try_get(name)).collect::<Result<Vec<i64>, sqlx::Error>>();
    let texts = |name: &str| rows.iter().map(|row| row.try_get(name)).collect::<Result<Vec<Option<String>>, _>>();
    sqlx::query(OLD_INSERT)
        .bind(numbers("user_id")?)
        .bind(numbers("server_seq")?)
        .bind(texts("op_id")?)
        .bind(texts("client_id")?)
        .bind(texts("action_type")?)
        .bind(texts("op_type")?)
        .bind(texts("entity_type")?)
        .bind(texts("entity_id")?)
        .bind(texts("payload")?)
        .bind(numbers("storage_bytes")?)
        .bind(texts("vector_clock")?)
        .bind(numbers("client_timestamp")?)
        .bind(numbers("received_at")?)
        .execute(target)
        .await?;
    Ok(())
}
