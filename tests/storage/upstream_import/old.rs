//! Data for the old server's database that tests can count by heart.

use serde_json::Value;

use crate::old_schema::{OldDatabase, PASSWORD, State};

impl OldDatabase {
    /// Three accounts: 1 with a password, 40 operations and two devices; 2 whose first 5 operations were pruned;
    /// 7 without operations.
    pub async fn with_data() -> Self {
        let old = Self::create(State::Head).await;
        let hash = bcrypt::hash(PASSWORD, 4).expect("a hash");
        old.run(&format!(
            "INSERT INTO users (id, email, password_hash, is_verified, token_version, created_at, storage_quota_bytes) \
             VALUES (1, 'Ann@Example.org', '{hash}', 1, 3, '2025-12-24 18:00:00.123', 5000000), \
                    (2, 'bob@example.org', NULL, 1, 0, '2026-01-01 00:00:00', 104857600), \
                    (7, 'cy@example.org', NULL, 1, 0, '2026-01-02 00:00:00', 104857600)"
        ))
        .await;
        old.ops(1, 1, 40).await;
        old.ops(2, 6, 25).await;
        old.run(
            "UPDATE operations SET op_type = 'SYNC_IMPORT', entity_type = 'ALL', entity_id = NULL, \
             action_type = '[SP_ALL] Load(import) all data', sync_import_reason = 'FILE_IMPORT' \
             WHERE (user_id, server_seq) IN ((1, 1), (2, 6)); \
             UPDATE operations SET payload = '\"Q2lwaGVydGV4dA==\"', is_payload_encrypted = TRUE, payload_bytes = 77 \
             WHERE user_id = 2 AND server_seq = 20; \
             UPDATE operations SET entity_ids = ARRAY['task-1', 'we\"ird', 'ü'] WHERE user_id = 1 AND server_seq = 12; \
             UPDATE user_sync_state SET snapshot_data = '\\x1f8b' WHERE user_id = 1; \
             INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at) \
             VALUES (1, 'A', 1760000000000, 1750000000000), (1, 'B', 1760000000001, 1750000000000)",
        )
        .await;
        old
    }

    /// Operations of an account: each an update of one of ten tasks, alternately by the devices A and B, each having seen
    /// all before it.
    pub async fn ops(&self, user: i64, from: i64, to: i64) {
        self.run(&format!(
            "INSERT INTO operations (id, user_id, client_id, server_seq, action_type, op_type, entity_type, entity_id, \
             payload, vector_clock, schema_version, client_timestamp, received_at) \
             SELECT 'op-{user}-' || lpad(n::text, 9, '0'), {user}, CASE n % 2 WHEN 0 THEN 'B' ELSE 'A' END, n, \
             '[Task] Update', 'UPD', 'TASK', 'task-' || n % 10, \
             jsonb_build_object('title', 'a: \"b\", c ' || n, 'x', jsonb_build_array(1, NULL, 2.50, 'ü')), \
             jsonb_build_object('A', (n + 1) / 2, 'B', n / 2), 2, 1760000000000 + n, 1760000000000 + n \
             FROM generate_series({from}, {to}) AS n; \
             INSERT INTO user_sync_state (user_id, last_seq) VALUES ({user}, {to}) \
             ON CONFLICT (user_id) DO UPDATE SET last_seq = {to}"
        ))
        .await;
    }

    /// An operation's payload and clock as the old server holds them.
    pub async fn stored(&self, user: i64, seq: i64) -> (Value, Value) {
        let query =
            format!("SELECT payload, vector_clock FROM operations WHERE user_id = {user} AND server_seq = {seq}");
        let mut row = self.row(&query).await;
        (row["payload"].take(), row["vector_clock"].take())
    }
}
