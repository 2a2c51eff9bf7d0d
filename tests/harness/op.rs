//! Requests as the app would build them, with fresh ids, so that a scenario names only what it is about.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// Time of operations that don't name one: in the past, whatever the server's clock says.
pub const SOME_TIME: i64 = 1_700_000_000_000;

/// A number that no other caller of this process gets.
pub fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A UUID that no other caller of this process gets.
pub fn fresh_uuid() -> String {
    format!("018f0000-0000-7000-8000-{:012x}", fresh())
}

/// Text with the shape of `bytes` bytes of ciphertext.
pub fn ciphertext(bytes: usize) -> String {
    STANDARD.encode(vec![0xA5; bytes])
}

/// A JSON value of `depth` nested objects around a number.
pub fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }))
}

/// An operation in the making: an update of a task of its own.
#[derive(Clone, Debug)]
pub struct Op(Map<String, Value>);

/// A valid operation of this client on an entity that nothing else touches.
pub fn op(client: &str) -> Op {
    let n = fresh();
    let Value::Object(members) = json!({
        "id": format!("op-{n}"),
        "clientId": client,
        "actionType": "[Task] Update",
        "opType": "UPD",
        "entityType": "TASK",
        "entityId": format!("task-{n}"),
        "payload": { "title": "t" },
        "vectorClock": { client: 1 },
        "timestamp": SOME_TIME,
        "schemaVersion": 4,
    }) else {
        unreachable!("the literal above is an object")
    };
    Op(members)
}

/// A full state of this client, to be sent among operations.
pub fn import(client: &str) -> Op {
    op(client)
        .with("opType", "SYNC_IMPORT")
        .with("actionType", "[SP_ALL] Load(import) all data")
        .with("entityType", "ALL")
        .without("entityId")
        .payload(json!({ "task": { "ids": [], "entities": {} } }))
}

/// An additive time delta on a task.
pub fn time_delta(client: &str, task: &str) -> Op {
    op(client)
        .with("actionType", "[TimeTracking] Sync time spent")
        .task(task)
        .payload(json!({ "taskId": task, "date": "2026-01-31", "duration": 1000 }))
}

impl Op {
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.0.insert(member.to_owned(), value.into());
        self
    }

    pub fn without(mut self, member: &str) -> Self {
        self.0.remove(member);
        self
    }

    pub fn id(self, id: &str) -> Self {
        self.with("id", id)
    }

    pub fn kind(self, op_type: &str) -> Self {
        self.with("opType", op_type)
    }

    pub fn task(self, id: &str) -> Self {
        self.entity("TASK", id)
    }

    pub fn entity(self, entity_type: &str, id: &str) -> Self {
        self.with("entityType", entity_type).with("entityId", id)
    }

    pub fn entity_ids(self, ids: &[&str]) -> Self {
        self.with("entityIds", json!(ids))
    }

    pub fn payload(self, payload: impl Into<Value>) -> Self {
        self.with("payload", payload)
    }

    pub fn clock(self, clock: Value) -> Self {
        self.with("vectorClock", clock)
    }

    pub fn at(self, timestamp: impl Into<Value>) -> Self {
        self.with("timestamp", timestamp)
    }

    pub fn schema(self, version: impl Into<Value>) -> Self {
        self.with("schemaVersion", version)
    }

    pub fn encrypted(self, payload: impl Into<Value>) -> Self {
        self.with("isPayloadEncrypted", true).payload(payload)
    }

    /// With a string payload, so that payload and clock take `bytes` bytes of quota.
    pub fn sized(self, bytes: usize) -> Self {
        let clock = self.0.get("vectorClock").map_or(0, |clock| clock.to_string().len());
        let quotes = 2;
        self.payload("x".repeat(bytes - clock - quotes))
    }

    pub fn get(&self, member: &str) -> &Value {
        self.0.get(member).unwrap_or(&Value::Null)
    }

    pub fn json(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

/// The body of an upload as current clients send it: with a request id of its own.
pub fn upload(client: &str, cursor: Option<i64>, ops: &[Op]) -> Value {
    let mut body = json!({
        "ops": ops.iter().map(Op::json).collect::<Vec<_>>(),
        "clientId": client,
        "requestId": format!("r-{}", fresh()),
    });
    if let Some(cursor) = cursor {
        body["lastKnownServerSeq"] = json!(cursor);
    }
    body
}

/// A snapshot upload in the making.
#[derive(Clone, Debug)]
pub struct Snapshot(Value);

/// A plaintext snapshot of this client that keeps what is there (`recovery`).
pub fn snapshot(client: &str) -> Snapshot {
    Snapshot(json!({
        "state": { "task": { "ids": ["a"], "entities": { "a": { "id": "a" } } } },
        "clientId": client,
        "reason": "recovery",
        "vectorClock": { client: 1 },
        "schemaVersion": 4,
        "opId": fresh_uuid(),
    }))
}

impl Snapshot {
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.0[member] = value.into();
        self
    }

    pub fn without(mut self, member: &str) -> Self {
        if let Value::Object(members) = &mut self.0 {
            members.remove(member);
        }
        self
    }

    pub fn reason(self, reason: &str) -> Self {
        self.with("reason", reason)
    }

    pub fn clock(self, clock: Value) -> Self {
        self.with("vectorClock", clock)
    }

    pub fn clean_slate(self) -> Self {
        self.with("isCleanSlate", true)
    }

    pub fn repair(self, base: i64) -> Self {
        self.with("snapshotOpType", "REPAIR").with("repairBaseServerSeq", base)
    }

    /// As old clients send a REPAIR: without a base.
    pub fn legacy_repair(self) -> Self {
        self.with("snapshotOpType", "REPAIR").with("isCleanSlate", true)
    }

    pub fn encrypted(self, bytes: usize) -> Self {
        self.with("isPayloadEncrypted", true).with("state", ciphertext(bytes))
    }

    pub fn op_id(&self) -> &str {
        self.0["opId"].as_str().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        self.0.clone()
    }
}
