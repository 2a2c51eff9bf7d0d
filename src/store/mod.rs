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
//! generation and counts as absent. Heads of one operation may share a row for its clock (`heads`).
//!
//! Old operations are packed into *segments* ([`segment`]); the others, full states, and what is too large are rows of
//! `operations`. `sealed_seq` says how far packing has come. An operation is either in a row or in a segment, never in
//! both: the commit that stores the segment deletes the rows. Every call that reads operations reads both.
//!
//! Every number of a data set belongs to an operation (G1), but in logs that were taken over from an old server, which gave
//! numbers to operations that it then refused: there numbers up to `sparse_up_to` may belong to none.

use std::time::Duration;

use async_trait::async_trait;

use crate::protocol::{Seq, StoredOp, UserId};

mod accounts;
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
mod heads;
mod log;
mod maintenance;
mod migrate;
mod open;
mod overview;
mod page;
pub mod peers;
pub mod postgres;
mod rebuild;
mod recount;
mod retention;
mod row;
mod security;
pub mod segment;
mod sessions;
mod signin;
pub mod sqlite;
mod usage;

pub use accounts::{AccountStore, NewUser, OneTimeToken, TokenPurpose, UserRow};
pub use adopt::AdoptStore;
pub use archives::{Adoption, ArchiveStore, StagedPart};
pub use backup::BackupStore;
pub use doctor::{DoctorStore, SchemaDifference};
pub use error::{Result, StoreError};
pub use events::{AccountEvent, EVENT_RETENTION, EventKind, EventStore};
pub use gauges::{GaugeStore, Holdings, PoolUse};
pub use log::{
    AccountState, ArchiveReason, ArchivedRange, Commit, CommitOutcome, Device, EntityHead, EntityKey, FullStateMark,
    FullStateRow, LARGE_PAYLOAD_BYTES, LEGACY_MISC, LogPage, LogRange, LogStore, MAX_DEVICES, SnapshotBlob,
    SnapshotChange, SnapshotMeta, SyncState, Touch,
};
pub use maintenance::{ArchiveSize, LastSegment, MaintenanceStore, Sealable};
pub use migrate::MigrationStatus;
pub use open::{OpenMode, existing_status, migration_status, open, open_with};
pub use overview::{AccountOverview, DatabaseFacts, OverviewStore};
pub use peers::PeerStore;
pub use rebuild::heads_of_ops;
pub use recount::{Charge, RecountStore};
pub use retention::{DueBefore, DueRows, KnownTime, RetentionRow, RetentionStore};
pub use security::{SecurityEvent, SecurityKind, SecurityStore};
pub use segment::Segment;
pub use sessions::{
    Authentication, Credential, OlderTokens, SessionId, SessionMethod, SessionRow, SessionSeen, SessionStore, SignOut,
    SocketTicket, Standing,
};
pub use signin::{
    AddressChange, Ceremony, Challenge, FailureRule, InviteRow, LinkPace, LoginStanding, NewInvite, NewPasskey,
    PasskeyRow, PasskeyUse, PeekedVerification, SignInStore, TakenChallenge, UndoLink, Unique, VerificationLink,
};
pub use usage::{KindUsage, Parts, TableSize, UsageStore};

/// How long a health check may take.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How many rows of a log one statement walks over when it leaves out a device's own operations.
const SCAN_WINDOW: Seq = 10_000;
/// About a megabyte.
const ROOM_BYTES: i64 = 1024 * 1024;
/// The role of the one instance that does housekeeping.
const SWEEPER: &str = "sweeper";

/// A leader's term in milliseconds.
fn ttl_ms(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)
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
    + SecurityStore
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
    /// Whether the database answers and takes writes, within two seconds, on a connection that requests don't compete for.
    async fn ping(&self) -> Result<()>;
    /// Writes about a megabyte where operations are stored, and takes it back: [`StoreError::Full`] if there is no room.
    async fn try_room(&self) -> Result<()>;
    /// `sqlite` or `postgres`.
    fn kind(&self) -> &'static str;
    /// Closes all connections, after a checkpoint where there is such a thing.
    async fn close(&self);
}
