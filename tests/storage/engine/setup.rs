//! An engine on a database of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use supersync::clock::Clock;
use supersync::engine::{Handle, Options, UploadDone, UploadReply};
use supersync::protocol::request::{DownloadQuery, SnapshotRequest, UploadRequest};
use supersync::protocol::{ErrorCode, OpType, Seq, UserId};
use supersync::store::sqlite::{SqliteOptions, SqliteStore};
use supersync::store::{NewUser, Store};
use tokio::time::Instant;

use super::faulty_store::FaultyStore;

pub const NOW: i64 = 1_700_000_000_000;

pub struct Setup {
    pub store: Arc<FaultyStore>,
    pub engine: Handle,
    pub clock: Clock,
    pub user: UserId,
    _dir: tempfile::TempDir,
}

pub fn options() -> Options {
    Options {
        memory_bytes: 64 << 20,
        actor_idle: Duration::from_mins(10),
        passivate_every: Duration::from_millis(10),
        touch_every: Duration::from_millis(10),
        max_queued_requests: 1000,
        max_queued_requests_per_user: 100,
        max_queued_bytes: 64 << 20,
        page_bytes: 8 << 20,
        max_replay_ops: 100_000,
        max_replay_state_bytes: 100 << 20,
        replay_time: Duration::from_secs(15),
        max_snapshot_blob_bytes: 50 << 20,
        device_retention: Duration::from_hours(45 * 24),
        archive_retention: Duration::from_hours(30 * 24),
        archive_percent: 100,
        disk: supersync::disk::Disk::default(),
        encrypted_only: false,
        quarantine_after: 3,
        quarantine_for: Duration::from_mins(1),
        notifier: supersync::engine::notifier::NotifierOptions::default(),
    }
}

pub async fn setup(options: Options) -> Setup {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("supersync.db");
    let inner: Arc<dyn Store> =
        Arc::new(SqliteStore::open(&path, SqliteOptions::default()).await.expect("opening the database"));
    let store = FaultyStore::new(inner);
    let clock = Clock::manual(NOW);
    let user = new_user(store.as_ref(), "first@example.com", 100 << 20).await;
    let engine = Handle::start(store.clone(), clock.clone(), options).await.expect("starting the engine");
    Setup { store, engine, clock, user, _dir: dir }
}

pub async fn new_user(store: &dyn Store, email: &str, storage_quota_bytes: i64) -> UserId {
    let user = NewUser {
        email: email.to_owned(),
        password_hash: None,
        is_verified: true,
        created_at: NOW,
        terms_accepted_at: None,
        storage_quota_bytes,
    };
    store.create_user(&user).await.expect("creating an account").expect("the address is free")
}

pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// An update of a task of its own by client A.
pub fn op(id: &str) -> Value {
    json!({
        "id": id,
        "clientId": "A",
        "actionType": "[Task] Update",
        "opType": "UPD",
        "entityType": "TASK",
        "entityId": format!("task-of-{id}"),
        "payload": {"title": "x"},
        "vectorClock": {"A": 1},
        "timestamp": NOW,
        "schemaVersion": 4,
    })
}

pub fn upload(ops: Vec<Value>) -> UploadRequest {
    let body = Value::from_iter([("ops", Value::from(ops)), ("clientId", Value::from("A"))]).to_string();
    UploadRequest::parse(&Bytes::from(body)).expect("a sound request")
}

pub fn import(op_type: OpType) -> SnapshotRequest {
    let body = json!({
        "state": {"task": {"ids": []}},
        "clientId": "A",
        "reason": "recovery",
        "vectorClock": {"A": 50},
        "schemaVersion": 4,
        "snapshotOpType": op_type.as_str(),
    });
    SnapshotRequest::parse(&Bytes::from(body.to_string())).expect("a sound request")
}

pub fn since(since_seq: Seq) -> DownloadQuery {
    DownloadQuery { since_seq, limit: 500, exclude_client: None }
}

impl Setup {
    pub async fn upload(&self, ops: Vec<Value>) -> UploadDone {
        done(self.engine.upload(self.user, upload(ops), deadline()).await.expect("the engine answers"))
    }

    pub async fn latest(&self) -> Seq {
        self.engine.download(self.user, since(0), deadline()).await.expect("the engine answers").latest_seq
    }
}

pub fn done(reply: UploadReply) -> UploadDone {
    match reply {
        UploadReply::Done(done) => done,
        refused => panic!("{refused:?}"),
    }
}

/// The sequences that were given out, or the codes.
pub fn outcomes(done: &UploadDone) -> Vec<Result<Seq, ErrorCode>> {
    done.results.iter().map(|r| r.outcome.as_ref().map(|seq| *seq).map_err(|e| e.code)).collect()
}

/// Waits until something holds that another task brings about.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} does not come about"));
}
