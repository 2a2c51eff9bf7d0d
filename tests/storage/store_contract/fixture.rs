//! Databases, accounts and operations to test with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use supersync::config;
use supersync::protocol::{OpType, Seq, StoredOp, UserId, VectorClock};
use supersync::store::{
    Commit, CommitOutcome, EntityHead, EntityKey, LogPage, LogRange, NewUser, SnapshotChange, Store, SyncState,
};

use crate::harness::postgres::TestDatabase;

pub type Db = Arc<dyn Store>;

/// A file in a folder that goes with the test.
pub struct SqliteDatabase {
    folder: tempfile::TempDir,
}

impl SqliteDatabase {
    pub fn create() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("data").join("supersync.db")
    }

    pub async fn try_open(&self) -> supersync::store::Result<Db> {
        let database = config::Database::Sqlite { path: self.path() };
        supersync::store::open(&database, Duration::from_mins(1)).await
    }

    pub async fn open(&self) -> Db {
        self.try_open().await.expect("opening the file")
    }
}

pub fn postgres_config(database: &TestDatabase) -> config::Database {
    config::Database::Postgres {
        url: database.url().into(),
        direct_url: None,
        pgbouncer: false,
        max_connections: 4,
        acquire_timeout: Duration::from_secs(30),
        schema: None,
    }
}

pub async fn open_postgres(database: &TestDatabase) -> Db {
    supersync::store::open(&postgres_config(database), Duration::from_mins(1)).await.expect("opening the database")
}

pub fn new_user(email: &str) -> NewUser {
    NewUser {
        email: email.into(),
        password_hash: Some("hash".into()),
        is_verified: true,
        created_at: 1_000,
        terms_accepted_at: Some(1_000),
        storage_quota_bytes: 5_000_000,
    }
}

/// An account of its own for the test.
pub async fn account(db: &Db, name: &str) -> UserId {
    db.create_user(&new_user(&format!("{name}@example.org"))).await.unwrap().expect("a free address")
}

pub fn clock(entries: &[(&str, u32)]) -> VectorClock {
    VectorClock::from_entries(entries.iter().map(|(client, n)| ((*client).into(), *n)))
}

pub fn op(seq: Seq, client: &str) -> StoredOp {
    StoredOp {
        server_seq: seq,
        id: format!("op-{seq}").into(),
        client_id: client.into(),
        action_type: "[Task] Update".into(),
        op_type: OpType::Update,
        entity_type: "TASK",
        entity_id: Some(format!("t{seq}").into()),
        entity_ids: Vec::new(),
        payload: Bytes::from_static(b"{\"a\":1}"),
        storage_bytes: 20,
        vector_clock: clock(&[(client, u32::try_from(seq).unwrap())]),
        timestamp: 5_000 + seq,
        schema_version: 2,
        is_payload_encrypted: false,
        import_reason: None,
        repair_base_server_seq: None,
        received_at: 10_000 + seq,
    }
}

/// A commit that changes nothing but the revision.
pub fn empty_commit(user: UserId, state: &SyncState) -> Commit {
    Commit {
        user,
        expected_revision: state.revision,
        state: SyncState { revision: state.revision + 1, ..state.clone() },
        ops: Vec::new(),
        heads: Vec::new(),
        absent: Vec::new(),
        clear_devices: false,
        devices: Vec::new(),
        archived: Vec::new(),
        snapshot: SnapshotChange::Keep,
        seal: Vec::new(),
        adoption: None,
    }
}

/// A commit that appends these operations to the current generation, with a head for each one's entity.
pub fn append(user: UserId, state: &SyncState, ops: Vec<StoredOp>) -> Commit {
    let mut commit = empty_commit(user, state);
    commit.state.last_seq = ops.last().map_or(state.last_seq, |op| op.server_seq);
    for op in ops {
        commit.state.storage_used_bytes += op.storage_bytes;
        commit.state.clock.merge(&op.vector_clock);
        if let Some(id) = &op.entity_id {
            commit.heads.push((key(op.entity_type, id), head(&op)));
        }
        commit.ops.push((state.generation, op));
    }
    commit
}

pub fn key(entity_type: &'static str, id: &str) -> EntityKey {
    EntityKey::new(entity_type, id)
}

pub fn head(op: &StoredOp) -> EntityHead {
    EntityHead {
        seq: op.server_seq,
        client_id: op.client_id.clone(),
        clock: op.vector_clock.clone(),
        is_time_delta: false,
    }
}

pub async fn state(db: &Db, user: UserId) -> SyncState {
    db.load_account(user).await.unwrap().expect("the account").sync
}

/// Applies one commit that must succeed; returns the state afterwards.
pub async fn apply(db: &Db, commit: Commit) -> SyncState {
    let user = commit.user;
    assert_eq!(db.commit([commit].into()).await.unwrap(), [CommitOutcome::Committed]);
    state(db, user).await
}

/// Appends `count` operations of one client.
pub async fn append_many(db: &Db, user: UserId, client: &str, count: usize) -> SyncState {
    let before = state(db, user).await;
    let ops = (1..=count).map(|n| op(before.last_seq + i64::try_from(n).unwrap(), client)).collect();
    apply(db, append(user, &before, ops)).await
}

pub fn range(user: UserId, after: Seq, up_to: Seq) -> LogRange<'static> {
    LogRange { user, after, up_to, exclude_client: None, limit: 1000, max_bytes: 1 << 30 }
}

/// As clients get it.
pub fn encoded(op: &StoredOp) -> bytes::Bytes {
    let mut json = Vec::new();
    supersync::protocol::response::encode_op(op, &mut json);
    json.into()
}

pub fn seqs(page: &LogPage) -> Vec<Seq> {
    page.ops.iter().map(|op| op.server_seq).collect()
}

/// Every sequence that is stored for the account.
pub async fn stored_seqs(db: &Db, user: UserId) -> Vec<Seq> {
    seqs(&db.read_log(range(user, 0, i64::MAX)).await.unwrap())
}
