//! What should stand in the old server's database, and what stands there.

use serde_json::{Value, json};
use supersync::protocol::StoredOp;

use crate::harness::{Account, Server};
use crate::old_schema::OldDatabase;

/// Tables with their keys.
const TABLES: [(&str, &str); 6] = [
    ("users", "id"),
    ("passkeys", "credential_id"),
    ("pending_passkey_registrations", "id"),
    ("operations", "user_id, server_seq"),
    ("user_sync_state", "user_id"),
    ("sync_devices", "user_id, client_id COLLATE \"C\""),
];

impl OldDatabase {
    /// Everything.
    pub async fn contents(&self) -> Vec<(&'static str, Vec<Value>)> {
        let mut contents = Vec::new();
        for (table, key) in TABLES {
            contents.push((table, self.rows(&format!("SELECT * FROM {table} ORDER BY {key}")).await));
        }
        contents
    }

    /// An account's operations.
    pub async fn operations(&self, account: &Account) -> Vec<Value> {
        self.rows(&format!("SELECT * FROM operations WHERE user_id = {} ORDER BY server_seq", account.id)).await
    }

    /// An account's state row, if it has one.
    pub async fn state(&self, account: &Account) -> Option<Value> {
        self.rows(&format!("SELECT * FROM user_sync_state WHERE user_id = {}", account.id)).await.pop()
    }

    /// An account's row.
    pub async fn user(&self, account: &Account) -> Value {
        self.row(&format!("SELECT * FROM users WHERE id = {}", account.id)).await
    }

    /// Checks that an account's data stands here as the old server would have stored it.
    pub async fn assert_holds(&self, expected: &Expected) {
        let account = &expected.account;
        assert_eq!(self.operations(account).await, expected.operations, "account {}", account.id);
        let user = self.user(account).await;
        let stored: i64 = expected.operations.iter().map(|op| op["payload_bytes"].as_i64().expect("a number")).sum();
        assert_eq!(user["storage_used_bytes"], stored);
        assert_eq!(user["email"], account.email);
        let state = self.state(account).await;
        let last = expected.operations.last().map(|op| op["server_seq"].clone());
        assert_eq!(state.map(|state| state["last_seq"].clone()), last);
        let devices = self
            .rows(&format!(
                "SELECT * FROM sync_devices WHERE user_id = {} ORDER BY client_id COLLATE \"C\"",
                account.id
            ))
            .await;
        let clients: Vec<_> = devices.iter().map(|device| device["client_id"].clone()).collect();
        assert_eq!(clients, expected.devices);
        assert!(devices.iter().all(|device| device["last_acked_seq"] == 0 && device["device_name"].is_null()));
    }
}

/// What an account holds here, in the old server's words.
pub struct Expected {
    account: Account,
    pub operations: Vec<Value>,
    devices: Vec<String>,
}

impl Expected {
    pub async fn of(server: &Server, account: &Account) -> Self {
        let after = server.state(account).await.pruned_seq;
        let up_to = server.state(account).await.last_seq;
        let range = supersync::store::LogRange {
            user: account.id,
            after,
            up_to,
            exclude_client: None,
            limit: 10_000,
            max_bytes: 1 << 30,
        };
        let page = server.store.read_log(range).await.expect("the store works");
        let mut devices = account.devices().await;
        devices.sort();
        Self {
            account: account.clone(),
            operations: page.ops.iter().map(|op| in_old_words(account.id, op)).collect(),
            devices,
        }
    }
}

fn in_old_words(user: i64, op: &StoredOp) -> Value {
    let payload: Value = serde_json::from_slice(&op.payload).expect("JSON");
    let clock: Value = serde_json::from_str(op.vector_clock.as_json()).expect("JSON");
    // Recounted, not taken over: UTF-8 of the payload as JavaScript writes it and of the clock.
    let bytes = payload.to_string().len() + clock.to_string().len();
    assert!(payload.is_string() || !op.is_payload_encrypted, "ciphertext is a text");
    json!({
        "id": &*op.id,
        "user_id": user,
        "client_id": &*op.client_id,
        "server_seq": op.server_seq,
        "action_type": &*op.action_type,
        "op_type": op.op_type.as_str(),
        "entity_type": op.entity_type,
        "entity_id": op.entity_id.as_deref(),
        "entity_ids": op.entity_ids.iter().map(|id| &**id).collect::<Vec<_>>(),
        "payload": payload,
        "payload_bytes": bytes,
        "vector_clock": clock,
        "schema_version": op.schema_version,
        "client_timestamp": op.timestamp,
        "received_at": op.received_at,
        "is_payload_encrypted": op.is_payload_encrypted,
        "sync_import_reason": op.import_reason.map(supersync::protocol::ImportReason::as_str),
        "repair_base_server_seq": op.repair_base_server_seq,
    })
}
