//! Durable storage: one trait, two databases, one contract.
//!
//! # What a store promises
//! - [`LogStore::commit`] applies each [`Commit`] of a group completely or not at all, and only if the account's
//!   revision still is the one that the commit was planned on. When it returns, what it reports as
//!   committed survives `kill -9` of the server and of the database.
//! - No statement's cost depends on other accounts' data, nor on the length of the account's own history.
//!
//! # The data model
//! An account's log is one sequence for ever. Its *data set* is the part with `pruned_seq < seq ≤ last_seq`. A clean
//! slate or a wipe starts a new *generation*: `base_seq` and `pruned_seq` move up to `last_seq`, and the
//! operations below become an archived range ([`ArchivedRange`]) that is deleted after a while. Nothing is copied or
//! deleted at that moment, so it is as cheap for a million operations as for one. An op id is unique within
//! (account, generation). `entity_heads` hold the latest operation per entity among those up to `heads_seq`; the few
//! after it are in the log only ([`LogStore::heads_of_log`]). A head with `seq ≤ base_seq` belongs to an older
//! generation and counts as absent.
//!
//! Old operations are packed into *segments* ([`segment`]); the others, full states, and what is too large are rows of
//! `operations`. `sealed_seq` says how far packing has come. An operation is either in a row or in a segment, never in
//! both: the commit that stores the segment deletes the rows. Every call that reads operations reads both.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::config;
use crate::protocol::{ImportReason, OpType, Seq, StoredOp, UserId, VectorClock};

pub mod adopt;
mod archives;
pub mod backup;
mod discard;
pub mod doctor;
mod error;
mod events;
mod gather;
mod gauges;
mod group;
mod migrate;
mod overview;
mod page;
pub mod peers;
pub mod postgres;
mod rebuild;
mod recount;
mod retention;
mod row;
pub mod segment;
mod sessions;
mod signin;
pub mod sqlite;
mod usage;

pub use adopt::AdoptStore;
pub use archives::{Adoption, ArchiveStore, StagedPart};
pub use backup::BackupStore;
pub use doctor::{DoctorStore, SchemaDifference};
pub use events::{AccountEvent, EVENT_RETENTION, EventKind, EventStore};
pub use gauges::{GaugeStore, Holdings, PoolUse};
pub use migrate::MigrationStatus;
pub use overview::{AccountOverview, DatabaseFacts, OverviewStore};
pub use peers::PeerStore;
pub use rebuild::heads_of_ops;
pub use recount::{Charge, RecountStore};
pub use retention::{DueBefore, DueRows, RetentionRow, RetentionStore};
pub use segment::Segment;
pub use sessions::{
    Credential, OlderTokens, SessionId, SessionMethod, SessionRow, SessionSeen, SessionStore, SocketTicket, Standing,
};
pub use signin::{
    Ceremony, Challenge, InviteRow, NewInvite, NewPasskey, PasskeyRow, SignInStore, TakenChallenge, Unique,
};
pub use usage::{KindUsage, Parts, TableSize, UsageStore};

/// How long a health check may take.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How many rows of a log one statement walks over when it leaves out a device's own operations.
const SCAN_WINDOW: Seq = 10_000;
/// The role of the one instance that does housekeeping.
const SWEEPER: &str = "sweeper";

/// A leader's term in milliseconds.
fn ttl_ms(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)
}

/// Which versions of the schema the configured database has, and which it lacks. Changes nothing.
///
/// # Errors
/// What kept the database from being read.
pub async fn migration_status(database: &config::Database) -> Result<Vec<MigrationStatus>> {
    match database {
        config::Database::Sqlite { path } => sqlite::SqliteStore::migration_status(path).await,
        config::Database::Postgres { url, schema, .. } => {
            postgres::PostgresStore::migration_status(url, schema.as_deref()).await
        }
    }
}

/// Opens the configured database for a command that may run beside a server.
///
/// # Errors
/// Like [`open`], but a server that has the embedded database open is no hindrance.
pub async fn open_beside(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    match database {
        config::Database::Sqlite { path } => {
            Ok(Arc::new(sqlite::SqliteStore::open_beside(path, sqlite::SqliteOptions::default()).await?))
        }
        config::Database::Postgres { .. } => open(database, statement_timeout).await,
    }
}

/// Opens the configured database to look at it: it must have every migration of this program and no other, and nothing is
/// made or migrated.
///
/// # Errors
/// [`StoreError::Refused`] when the database is of another version; otherwise what kept it from being opened.
pub async fn open_to_look(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    match database {
        config::Database::Sqlite { path } => {
            Ok(Arc::new(sqlite::SqliteStore::open_to_look(path, sqlite::SqliteOptions::default()).await?))
        }
        config::Database::Postgres { .. } => {
            if !migration_status(database).await?.iter().all(|migration| migration.applied && migration.known) {
                return Err(StoreError::Refused("the database is of another version".to_owned()));
            }
            // Nothing is left to migrate.
            open(database, statement_timeout).await
        }
    }
}

/// Opens the configured database and brings its schema up to date.
///
/// `statement_timeout` is enforced by PostgreSQL, which stops the statement; the embedded database runs in this process
/// and has nobody to wait for.
///
/// # Errors
/// [`StoreError::Refused`] when the database must not be used as it is, otherwise what kept it from being opened.
pub async fn open(database: &config::Database, statement_timeout: Duration) -> Result<Arc<dyn Store>> {
    match database {
        config::Database::Sqlite { path } => {
            Ok(Arc::new(sqlite::SqliteStore::open(path, sqlite::SqliteOptions::default()).await?))
        }
        config::Database::Postgres { url, max_connections, acquire_timeout, schema } => {
            let options = postgres::PostgresOptions {
                url: url.clone(),
                max_connections: *max_connections,
                acquire_timeout: *acquire_timeout,
                schema: schema.clone(),
                statement_timeout,
            };
            Ok(Arc::new(postgres::PostgresStore::connect(options).await?))
        }
    }
}

/// What went wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Certainly not applied; trying again may help (connection refused, pool exhausted, serialisation failure, busy).
    #[error("database unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Certainly not applied: the statement ran longer than it may and was cancelled.
    #[error("database statement timed out: {0}")]
    Timeout(#[source] sqlx::Error),
    /// The connection was lost while a commit was under way: it may have been applied or not.
    #[error("outcome unknown: {0}")]
    Unknown(#[source] sqlx::Error),
    /// A stored value can't be what it is.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// Anything else: a defect here or in the schema. Not applied.
    #[error("database error: {0}")]
    Internal(#[source] sqlx::Error),
    /// The schema is newer than this program, or another process holds the file, …: refuse to start.
    #[error("{0}")]
    Refused(String),
}

/// A store's result.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The newest causal full state of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct FullStateMark {
    /// Its place in the log.
    pub seq: Seq,
    /// The device that uploaded it.
    pub client_id: String,
    /// Its own unpruned clock merged with the clocks of everything before it.
    pub clock: VectorClock,
}

/// The cached plaintext state of an account, without the state itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The operation up to which it is complete.
    pub seq: Seq,
    /// When it was made, Unix milliseconds.
    pub at: i64,
    /// Its size as stored.
    pub bytes: i64,
}

/// Everything about an account's log that planning an append needs: one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyncState {
    /// Grows by one with each commit: the fence against a second writer.
    pub revision: i64,
    /// The data set's number; grows with each clean slate and wipe.
    pub generation: i64,
    /// The last sequence of the previous generation. `last_seq == base_seq` means that the data set is empty.
    pub base_seq: Seq,
    /// Operations up to here have been removed from the data set (≥ `base_seq`).
    pub pruned_seq: Seq,
    /// The highest sequence ever given out. Never decreases.
    pub last_seq: Seq,
    /// Per client the maximum over all clocks stored in this data set.
    pub clock: VectorClock,
    /// The newest causal full state.
    pub full_state: Option<FullStateMark>,
    /// The newest state replacement: the upload fence. 0 = none, `None` = not resolved yet.
    pub replacement_seq: Option<Seq>,
    /// Bytes charged to the quota.
    pub storage_used_bytes: i64,
    /// The cached state.
    pub snapshot: Option<SnapshotMeta>,
    /// The stored heads take account of every operation up to here, and of none after it.
    pub heads_seq: Seq,
    /// Operations of the log up to here are in segments, but for those that are never packed.
    pub sealed_seq: Seq,
    /// No sealed operation of this generation has a greater op id; `None` = none is sealed.
    pub sealed_max_op_id: Option<String>,
}

impl SyncState {
    /// The last sequence as clients see it: 0 while the data set is empty, although the counter stands higher after a
    /// wipe (contract, section 17.1).
    #[must_use]
    pub const fn latest_seq(&self) -> Seq {
        if self.last_seq == self.base_seq { 0 } else { self.last_seq }
    }
}

/// An account's state with what surrounds it.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountState {
    /// The log's state row.
    pub sync: SyncState,
    /// How many bytes the account may store.
    pub storage_quota_bytes: i64,
}

/// Stands for an entity of an account: the first half of the SHA-256 of its type and id. Short and of one length
/// whatever the id, and nobody can find two entities with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityKey([u8; 16]);

impl EntityKey {
    /// The key of an entity. `entity_type` is one of the protocol's, or [`LEGACY_MISC`]: none holds a zero byte.
    #[must_use]
    pub fn new(entity_type: &'static str, entity_id: &str) -> Self {
        let digest = Sha256::new().chain_update(entity_type).chain_update([0]).chain_update(entity_id).finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(half)
    }

    /// As stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From what is stored.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Pseudo entity type under which the newest `GLOBAL_CONFIG`/`misc` operation with a schema version below 2 is kept as
/// well (its settings moved to `tasks` later; contract, section 5.8).
pub const LEGACY_MISC: &str = "GLOBAL_CONFIG@1";

/// The latest operation that touched an entity: what a newcomer must dominate.
#[derive(Clone, Debug, PartialEq)]
pub struct EntityHead {
    /// Place in the log.
    pub seq: Seq,
    /// Who wrote it.
    pub client_id: Arc<str>,
    /// Its stored clock.
    pub clock: VectorClock,
    /// Whether it was an additive time delta.
    pub is_time_delta: bool,
}

/// A contiguous part of the log that is no longer in the data set but can be brought back until it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedRange {
    /// The generation it belonged to.
    pub generation: i64,
    /// First sequence.
    pub from_seq: Seq,
    /// Last sequence.
    pub to_seq: Seq,
    /// Why it was taken out of the data set.
    pub reason: ArchiveReason,
    /// Bytes that its operations were charged.
    pub bytes: i64,
    /// When, Unix milliseconds.
    pub archived_at: i64,
}

/// Why operations left the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveReason {
    /// A clean-slate upload replaced them.
    CleanSlate,
    /// The user deleted the account's data.
    Wipe,
    /// They were superseded by a full state and had reached the age at which such operations are deleted: due at once.
    Expired,
    /// They were superseded by a full state and freed when the quota ran out.
    Superseded,
    /// An older data set was brought back in their place.
    BringBack,
    /// They were brought back under new sequences, so that this copy is due at once.
    BroughtBack,
    /// Not a range that left the data set, but one that is being written, to become the data set ([`ArchiveStore`]).
    Staged,
    /// What was being written is not wanted any more: due at once.
    Abandoned,
}

impl ArchiveReason {
    /// The reason's text as stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CleanSlate => "clean_slate",
            Self::Wipe => "wipe",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::BringBack => "bring_back",
            Self::BroughtBack => "brought_back",
            Self::Staged => "staged",
            Self::Abandoned => "abandoned",
        }
    }

    /// Every reason.
    pub(crate) const ALL: [Self; 8] = [
        Self::CleanSlate,
        Self::Wipe,
        Self::Expired,
        Self::Superseded,
        Self::BringBack,
        Self::BroughtBack,
        Self::Staged,
        Self::Abandoned,
    ];
}

/// A cached state to write.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotBlob {
    /// Gzip of the state's compact JSON.
    pub data: Vec<u8>,
    /// The schema version of the state.
    pub schema_version: u8,
}

/// What to do with the cached state.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SnapshotChange {
    /// Leave it.
    #[default]
    Keep,
    /// Replace it; `Commit::state.snapshot` says seq, time, size.
    Set(SnapshotBlob),
    /// Remove it.
    Clear,
}

/// One account's atomic change: what the state machine planned.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The account.
    pub user: UserId,
    /// The revision on which it was planned. Another revision in the database: nothing is applied.
    pub expected_revision: i64,
    /// The state row afterwards; its revision is `expected_revision + 1`.
    pub state: SyncState,
    /// Operations to append, in order; all of `state.generation` unless `generations` says otherwise.
    pub ops: Vec<(i64, StoredOp)>,
    /// Heads to write, one per key. `state.heads_seq` says which operations the stored ones then reflect.
    pub heads: Vec<(EntityKey, EntityHead)>,
    /// Entities that the plan takes to have no stored head above `state.base_seq`. If one has, nothing is applied, as if
    /// the revision were another.
    pub absent: Vec<EntityKey>,
    /// Forget all devices first.
    pub clear_devices: bool,
    /// Devices seen: client id and Unix milliseconds.
    pub devices: Vec<(String, i64)>,
    /// Ranges that left the data set.
    pub archived: Vec<ArchivedRange>,
    /// The cached state.
    pub snapshot: SnapshotChange,
    /// Segments to store in place of what holds their operations now: rows, or smaller segments.
    pub seal: Vec<Segment>,
    /// A range that was staged becomes the data set; `state` says where it lies.
    pub adoption: Option<Adoption>,
}

/// What became of one commit of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Applied and durable.
    Committed,
    /// Not applied: the account is at another revision, or gone, or an entity that was to be absent has a head. Load
    /// again and plan again.
    Stale,
    /// Not applied: an op id is stored already in that generation.
    DuplicateId,
    /// Not applied: somebody else holds the account's row locked, and the others of the group must not wait for that.
    /// See [`LogStore::commit_patiently`].
    Contended,
}

/// A range of an account's log to read: `after < seq ≤ up_to`, ascending.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct LogRange<'a> {
    pub user: UserId,
    pub after: Seq,
    pub up_to: Seq,
    /// Leave out what this device wrote.
    pub exclude_client: Option<&'a str>,
    /// At most so many operations.
    pub limit: usize,
    /// At most so many bytes of payload, but always at least one operation.
    pub max_bytes: usize,
}

/// A page of the log.
#[derive(Clone, Debug)]
pub struct LogPage<T = StoredOp> {
    /// The operations, ascending.
    pub ops: Vec<T>,
    /// Whether the range may hold more. Without `exclude_client` it is exact for a range that ends where the log does, or
    /// before; with it, the rest may turn out to be that device's own, because a page that has something does not walk on
    /// just to find out.
    pub has_more: bool,
}

/// An operation on its way to a client.
#[derive(Clone, Debug, PartialEq)]
pub enum OutgoingOp {
    /// Still to be encoded.
    Row(StoredOp),
    /// Its place in the log, and its JSON as clients get it.
    Encoded(Seq, Bytes),
}

impl OutgoingOp {
    /// Its place in the log.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        match self {
            Self::Row(op) => op.server_seq,
            Self::Encoded(seq, _) => *seq,
        }
    }

    /// Bytes of payload that are still to be encoded.
    #[must_use]
    pub fn bytes_to_encode(&self) -> usize {
        match self {
            Self::Row(op) => op.payload.len(),
            Self::Encoded(..) => 0,
        }
    }
}

/// A full state in the log, without its payload.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct FullStateRow {
    pub seq: Seq,
    pub id: String,
    pub op_type: OpType,
    pub client_id: String,
    pub timestamp: i64,
    pub repair_base_server_seq: Option<Seq>,
    pub is_payload_encrypted: bool,
    pub import_reason: Option<ImportReason>,
}

/// A device of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Device {
    pub client_id: String,
    /// Unix milliseconds.
    pub last_seen_at: i64,
}

/// A sign of life of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Touch {
    pub user: UserId,
    pub client_id: Box<str>,
    /// Unix milliseconds.
    pub at_ms: i64,
}

impl Touch {
    /// Of this device at this time, Unix milliseconds.
    #[must_use]
    pub fn new(user: UserId, client_id: &str, at_ms: i64) -> Self {
        Self { user, client_id: client_id.into(), at_ms }
    }
}

/// The log of every account.
#[async_trait]
pub trait LogStore: Send + Sync + 'static {
    /// How many committer lanes for ordinary commits make sense (writers that can work at once).
    fn lanes(&self) -> usize;

    /// Whether large commits get a lane of their own.
    fn has_bulk_lane(&self) -> bool;

    /// The account's state; creates the state row when only the account exists. `None`: no such account.
    async fn load_account(&self, user: UserId) -> Result<Option<AccountState>>;

    /// Applies a group of commits of different accounts. One outcome per commit, in order. An error means that none was
    /// applied, but for [`StoreError::Unknown`]. Commits that fail alone don't fail the others; if the database refuses
    /// one for another reason than a duplicate id after others of the group have been applied, the answer is
    /// [`StoreError::Unknown`] too.
    async fn commit(&self, group: Arc<[Commit]>) -> Result<Vec<CommitOutcome>>;

    /// Whether committing is work for the processor of the one who waits for it. Then a lane is best a thread of its own
    /// that calls [`LogStore::commit_here`]: no other task delays it between two groups.
    fn commits_block(&self) -> bool {
        false
    }

    /// Like [`LogStore::commit`], but where [`LogStore::commits_block`] it blocks the calling thread.
    async fn commit_here(&self, group: &Arc<[Commit]>) -> Result<Vec<CommitOutcome>> {
        self.commit(Arc::clone(group)).await
    }

    /// Applies one commit, waiting for locks as long as a statement may take. For commits that were
    /// [`CommitOutcome::Contended`].
    async fn commit_patiently(&self, commit: &Commit) -> Result<Vec<CommitOutcome>> {
        self.commit([commit.clone()].into()).await
    }

    /// The operations of this generation with these ids, in any order.
    async fn find_ops(&self, user: UserId, generation: i64, ids: &[String]) -> Result<Vec<StoredOp>>;

    /// The heads of these entities with `seq > above`.
    async fn load_heads(&self, user: UserId, above: Seq, keys: &[EntityKey]) -> Result<Vec<(EntityKey, EntityHead)>>;

    /// All heads with `seq > above` if there are at most `limit`, else `None`.
    async fn load_all_heads(
        &self,
        user: UserId,
        above: Seq,
        limit: usize,
    ) -> Result<Option<Vec<(EntityKey, EntityHead)>>>;

    /// The heads that the operations with `after < seq ≤ up_to` make: the newest of each entity. Reads unsealed
    /// operations only.
    async fn heads_of_log(&self, user: UserId, after: Seq, up_to: Seq) -> Result<Vec<(EntityKey, EntityHead)>>;

    /// Reads a part of the log. One statement walks over a bounded number of rows. With `exclude_client` several follow
    /// each other until something is found: an empty page means that there is nothing.
    async fn read_log(&self, range: LogRange<'_>) -> Result<LogPage>;

    /// The same page as [`LogStore::read_log`], for sending: what is stored as clients get it is not decoded.
    async fn read_outgoing(&self, range: LogRange<'_>) -> Result<LogPage<OutgoingOp>>;

    /// Full states with `after < seq ≤ up_to`, newest first, legacy REPAIRs included.
    async fn full_states(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<Vec<FullStateRow>>;

    /// The charged bytes and number of the operations with `after < seq ≤ up_to`, counted from what is stored.
    async fn measure(&self, user: UserId, after: Seq, up_to: Seq) -> Result<(i64, i64)>;

    /// Whether an operation with `after < seq ≤ up_to` was received at or after `since_ms`.
    async fn received_since(&self, user: UserId, after: Seq, up_to: Seq, since_ms: i64) -> Result<bool>;

    /// The cached state.
    async fn load_snapshot(&self, user: UserId) -> Result<Option<(SnapshotMeta, SnapshotBlob)>>;

    /// Records that devices were seen, each at most once in the list; later times win. One whose account is gone is left
    /// out.
    async fn touch_devices(&self, seen: &[Touch]) -> Result<()>;

    /// Devices seen at or after `since_ms`, newest first.
    async fn devices(&self, user: UserId, since_ms: i64, limit: usize) -> Result<Vec<Device>>;

    /// Ranges in the archive, newest first.
    async fn archived(&self, user: UserId) -> Result<Vec<ArchivedRange>>;
}

/// An account with operations that may be packed into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealable {
    /// The account.
    pub user: UserId,
    /// Its data set.
    pub generation: i64,
    /// What may be packed begins after this sequence.
    pub after: Seq,
    /// The data set's last sequence.
    pub last_seq: Seq,
    /// A device that joins reads what comes after this sequence: the newest full state and its followers, or everything.
    pub pages_after: Seq,
    /// The segment that ends at `after`, if one does.
    pub last_segment: Option<LastSegment>,
}

/// The newest segment of a log, without its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSegment {
    /// Its first sequence.
    pub first_seq: Seq,
    /// How many operations it holds.
    pub op_count: usize,
    /// Bytes that they are charged.
    pub storage_bytes: i64,
    /// Bytes that it takes, with what is needed to find operations in it.
    pub packed_bytes: i64,
}

/// Housekeeping over all accounts, in bounded steps.
#[async_trait]
pub trait MaintenanceStore: Send + Sync + 'static {
    /// Accounts whose data set may have a prunable prefix: those with a causal full state above `pruned_seq + 1`, ids
    /// above `after`, ascending.
    async fn prunable_accounts(&self, after: UserId, limit: usize) -> Result<Vec<UserId>>;

    /// Accounts, ids above `after`, ascending, in whose data set at least `min_run` operations have not been looked at
    /// for packing, the `min_run`-th of them received before `before_ms`. With `only` at most that account.
    async fn sealable_accounts(
        &self,
        after: UserId,
        only: Option<UserId>,
        min_run: Seq,
        before_ms: i64,
        limit: usize,
    ) -> Result<Vec<Sealable>>;

    /// Deletes operations with `after < seq ≤ up_to`, at most `limit`, lowest first. Returns how many; 0 = there are
    /// none left. The range must have left the data set: no commit may change it any more.
    async fn delete_ops(&self, user: UserId, after: Seq, up_to: Seq, limit: usize) -> Result<u64>;

    /// Archived ranges older than `before_ms`: account and range, oldest first, then by account and place, at most
    /// `limit`.
    async fn expired_archives(&self, before_ms: i64, limit: usize) -> Result<Vec<(UserId, ArchivedRange)>>;

    /// Forgets an archived range whose operations have been deleted, and heads of that account that belong to older
    /// generations.
    async fn drop_archive(&self, user: UserId, range: &ArchivedRange) -> Result<()>;

    /// Deletes devices not seen since `before_ms`, at most `limit`. Returns how many.
    async fn delete_stale_devices(&self, before_ms: i64, limit: usize) -> Result<u64>;

    /// Tries to become the one instance that does housekeeping for about `ttl`. `owner` names this process.
    async fn try_lead(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool>;
}

/// An account's row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct UserRow {
    pub id: UserId,
    pub email: String,
    pub password_hash: Option<String>,
    pub is_verified: bool,
    pub token_version: i64,
    pub failed_login_attempts: i64,
    pub locked_until: Option<i64>,
    pub created_at: i64,
    pub storage_quota_bytes: i64,
    /// May use the pages and routes of the administrator.
    pub is_admin: bool,
    /// When the operator locked the account, Unix milliseconds.
    pub locked_at: Option<i64>,
}

/// A new account.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewUser {
    pub email: String,
    pub password_hash: Option<String>,
    pub is_verified: bool,
    pub created_at: i64,
    pub terms_accepted_at: Option<i64>,
    pub storage_quota_bytes: i64,
}

/// What a one-time token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPurpose {
    /// Proves the address given at registration; carries the password hash that takes effect with it.
    VerifyEmail,
    /// Signs in.
    MagicLogin,
    /// Sets a new password.
    ResetPassword,
    /// Replaces a lost passkey.
    RecoverPasskey,
    /// Gives the account another address.
    ChangeAddress,
}

impl TokenPurpose {
    /// The purpose's text as stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify_email",
            Self::MagicLogin => "magic_login",
            Self::ResetPassword => "reset_password",
            Self::RecoverPasskey => "recover_passkey",
            Self::ChangeAddress => "change_address",
        }
    }
}

/// A one-time token: only its hash is stored.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct OneTimeToken {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    pub purpose: TokenPurpose,
    pub user: UserId,
    /// The password hash that takes effect when the token is used.
    pub pending_password_hash: Option<String>,
    pub created_at: i64,
    pub expires_at: i64,
}

/// Accounts.
#[async_trait]
pub trait AccountStore: Send + Sync + 'static {
    /// Creates an account with an empty log. `Ok(None)`: the address (in lower case) is taken.
    async fn create_user(&self, user: &NewUser) -> Result<Option<UserId>>;
    /// By address, whatever its case.
    async fn user_by_email(&self, email: &str) -> Result<Option<UserRow>>;
    /// By number.
    async fn user_by_id(&self, id: UserId) -> Result<Option<UserRow>>;
    /// Accounts with ids above `after`, ascending.
    async fn list_users(&self, after: UserId, limit: usize) -> Result<Vec<UserRow>>;
    /// Deletes the account and everything that hangs on it. `false`: there was none.
    async fn delete_user(&self, id: UserId) -> Result<bool>;
    /// Deletes every account (test mode).
    async fn delete_all_users(&self) -> Result<()>;
    /// Counts one failed login in one atomic step; at the `lock_at`-th and each one after it locks until `lock_until`.
    async fn count_failed_login(&self, id: UserId, lock_at: i64, lock_until: i64) -> Result<()>;
    /// Forgets failed logins and a lock.
    async fn clear_failed_logins(&self, id: UserId) -> Result<()>;
    /// Sets the password hash; with `revoke` the token version grows too. Returns the token version.
    async fn set_password(&self, id: UserId, hash: &str, revoke: bool) -> Result<Option<i64>>;
    /// Marks the address as proven.
    async fn set_verified(&self, id: UserId) -> Result<bool>;
    /// Token version + 1: every token given out before is void. Returns the new one.
    async fn bump_token_version(&self, id: UserId) -> Result<Option<i64>>;
    /// Sets the quota.
    async fn set_quota(&self, id: UserId, bytes: i64) -> Result<bool>;
    /// Stores a one-time token.
    async fn put_token(&self, token: &OneTimeToken) -> Result<()>;
    /// How many tokens of that purpose were given out for the account since `since_ms` and have been neither used nor
    /// removed after their expiry.
    async fn count_tokens(&self, user: UserId, purpose: TokenPurpose, since_ms: i64) -> Result<i64>;
    /// Uses a token up: it, and for [`TokenPurpose::VerifyEmail`] in the same transaction marks the account verified,
    /// installs the pending password hash and the pending passkey (or none) and voids the account's other verification
    /// tokens and what is bound to them. `None`: unknown, expired, used, or the account is verified already.
    async fn take_token(&self, hash: &[u8; 32], purpose: TokenPurpose, now_ms: i64) -> Result<Option<OneTimeToken>>;
    /// Looks at a token without using it.
    async fn peek_token(&self, hash: &[u8; 32], purpose: TokenPurpose) -> Result<Option<OneTimeToken>>;
    /// Deletes tokens that expired before `now_ms`. Returns how many.
    async fn delete_expired_tokens(&self, now_ms: i64) -> Result<u64>;
}

/// Raw access that only test mode's routes and tests use (`operations.md`, section 7).
#[async_trait]
pub trait TestStore: Send + Sync + 'static {
    /// Empties the account's log, devices and archive, resets the sequence and the byte counter to 0.
    async fn reset_log(&self, user: UserId) -> Result<()>;
    /// Deletes operations with `seq > after` and recomputes the state row from what is left, with the revision grown.
    /// Returns how many.
    async fn truncate_log(&self, user: UserId, after: Seq) -> Result<u64>;
    /// The newest operations, optionally of one type, newest first.
    async fn newest_ops(&self, user: UserId, op_type: Option<&str>, limit: usize) -> Result<Vec<StoredOp>>;
}

/// Everything a database does for us.
#[async_trait]
pub trait Store:
    LogStore
    + AccountStore
    + AdoptStore
    + ArchiveStore
    + BackupStore
    + DoctorStore
    + SessionStore
    + SignInStore
    + EventStore
    + OverviewStore
    + GaugeStore
    + PeerStore
    + MaintenanceStore
    + RecountStore
    + RetentionStore
    + UsageStore
    + TestStore
{
    /// Whether the database answers, within two seconds, on a connection that requests don't compete for.
    async fn ping(&self) -> Result<()>;
    /// `sqlite` or `postgres`.
    fn kind(&self) -> &'static str;
    /// Closes all connections, after a checkpoint where there is such a thing.
    async fn close(&self);
}
