//! An account's log and the state around it: what is read, and what a commit changes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::segment::Segment;
use super::{Adoption, Result};
use crate::protocol::response::OutgoingOp;
use crate::protocol::{ImportReason, OpType, Seq, StoredOp, UserId, VectorClock};

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
    /// Numbers up to here may belong to no operation: the log was taken over from a server that gave numbers to operations
    /// which it then refused. 0 = every number of the data set has its operation (G1).
    pub sparse_up_to: Seq,
}

impl SyncState {
    /// Whether a number, and those before it, may belong to no operation.
    #[must_use]
    pub const fn may_lack(&self, seq: Seq) -> bool {
        seq <= self.sparse_up_to
    }

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
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
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
    /// Not a range that left the data set, but one that is being written, to become the data set ([`super::ArchiveStore`]).
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
    /// Ranges that left the data set, and older ones that the archive gives up for them.
    pub archived: Vec<ArchivedRange>,
    /// The cached state.
    pub snapshot: SnapshotChange,
    /// Segments to store in place of what holds their operations now: rows, or smaller segments.
    pub seal: Vec<Segment>,
    /// A range that was staged becomes the data set; `state` says where it lies.
    pub adoption: Option<Adoption>,
}

impl Commit {
    /// The heads to write.
    pub(super) fn heads(&self) -> impl Iterator<Item = (&EntityKey, &EntityHead)> {
        self.heads.iter().map(|(key, head)| (key, head))
    }
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
    /// At most so many bytes as clients get them, but always at least one operation.
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

/// From this size on a payload is not part of a page that is read to be sent: [`LogStore::read_payload`] reads it, piece by
/// piece.
pub const LARGE_PAYLOAD_BYTES: usize = 1 << 20;

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

/// Devices of an account that have rows: a trigger of the schema drops those seen longest ago.
pub const MAX_DEVICES: usize = 200;

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
    /// applied, but for [`super::StoreError::Unknown`]. Commits that fail alone don't fail the others; if the database refuses
    /// one for another reason than a duplicate id after others of the group have been applied, the answer is
    /// [`super::StoreError::Unknown`] too.
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

    /// The same page as [`LogStore::read_log`], for sending: what is stored as clients get it is not decoded, and payloads
    /// from [`LARGE_PAYLOAD_BYTES`] on are left out.
    async fn read_outgoing(&self, range: LogRange<'_>) -> Result<LogPage<OutgoingOp>>;

    /// One of the pieces, counted from 0, that an operation's payload is made of; each is at most
    /// [`LARGE_PAYLOAD_BYTES`] long. `None`: there are no more, or the operation is not stored as a row (any more).
    async fn read_payload(&self, user: UserId, seq: Seq, piece: usize) -> Result<Option<Bytes>>;

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
