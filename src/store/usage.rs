//! Where the room goes: the largest accounts, the kinds of operations, what each part of the database takes.
//!
//! For a command that an operator runs now and then. What the accounts' own counters and the segments' columns say is
//! read for all of them; operations themselves only of so many accounts at a time, so that no statement walks over a table
//! that grows with everybody's history.

use async_trait::async_trait;

use super::Result;
use crate::protocol::UserId;

/// Instants from which on growth is counted, newest first, Unix milliseconds.
pub type Since = [i64; 3];

/// What the parts of the data sets and of the archive add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Accounts that have ever synced.
    pub accounts: i64,
    /// Operations of all data sets.
    pub operations: i64,
    /// Those of them that are not packed, at most.
    pub unpacked_operations: i64,
    /// Bytes charged to quotas.
    pub charged_bytes: i64,
    /// Segments, of data sets and of the archive.
    pub segments: i64,
    /// Operations in them.
    pub segment_operations: i64,
    /// Bytes that those are charged.
    pub segment_charged_bytes: i64,
    /// Bytes that the segments take.
    pub segment_bytes: i64,
    /// Ranges in the archive.
    pub archives: i64,
    /// Operations in them, as the ranges say.
    pub archive_operations: i64,
    /// Bytes that they were charged.
    pub archive_bytes: i64,
    /// Cached states.
    pub snapshots: i64,
    /// Bytes that those take.
    pub snapshot_bytes: i64,
}

/// A table with its indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Its name.
    pub name: String,
    /// How many rows it has, as the database estimates; `None`: it does not say.
    pub rows: Option<i64>,
    /// Bytes on the disk.
    pub bytes: i64,
}

/// Operations of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindUsage {
    /// The operation's type.
    pub op_type: String,
    /// The type of what it is about.
    pub entity_type: String,
    /// Whether the payloads are encrypted.
    pub encrypted: bool,
    /// How many there are.
    pub operations: i64,
    /// Bytes that they are charged.
    pub bytes: i64,
    /// Those of the bytes that came since each of the instants.
    pub grown_bytes: [i64; 3],
}

/// Reading what uses the space.
#[async_trait]
pub trait UsageStore: Send + Sync + 'static {
    /// The accounts that are charged most, first the one with the most.
    async fn largest_accounts(&self, limit: usize) -> Result<Vec<UserId>>;
    /// What the parts add up to. Walks over accounts, segments without opening them, and ranges.
    async fn parts(&self) -> Result<Parts>;
    /// How large the tables are, largest first. `None`: finding out means to read the whole file, which is larger than
    /// `read_at_most` bytes.
    async fn table_sizes(&self, read_at_most: i64) -> Result<Option<Vec<TableSize>>>;
    /// The next accounts that have synced, after `after`, at most `limit`: the last one's number, and how many operations of
    /// all of them are not packed, at most. `None`: there are no more.
    async fn next_accounts(&self, after: UserId, limit: usize) -> Result<Option<(UserId, i64)>>;
    /// The kinds of operations that are not packed, of the data sets of accounts with `after < number ≤ up_to`.
    async fn kinds(&self, after: UserId, up_to: UserId, since: Since) -> Result<Vec<KindUsage>>;
    /// The kinds of those of the newest `each` operations that are not packed, of the `accounts` seen last.
    async fn kinds_of_newest(&self, accounts: usize, each: usize, since: Since) -> Result<Vec<KindUsage>>;
    /// Bytes charged for what is packed, by when it came. A segment that began before an instant counts by the share of its
    /// time that came after. Reads no operation.
    async fn packed_growth(&self, since: Since) -> Result<[i64; 3]>;
}

/// `$greatest` is the function of that meaning.
macro_rules! parts_sql {
    ($greatest:literal) => {
        concat!(
            "SELECT s.accounts, s.operations, s.unpacked, s.charged, g.segments, g.operations, g.charged, g.bytes, \
             a.archives, a.operations, a.bytes, s.snapshots, s.snapshot_bytes FROM \
             (SELECT count(*) AS accounts, CAST(COALESCE(sum(last_seq - pruned_seq), 0) AS BIGINT) AS operations, \
             CAST(COALESCE(sum(last_seq - ",
            $greatest,
            "(sealed_seq, pruned_seq)), 0) AS BIGINT) AS unpacked, \
             CAST(COALESCE(sum(storage_used_bytes), 0) AS BIGINT) AS charged, count(snapshot_seq) AS snapshots, \
             CAST(COALESCE(sum(CASE WHEN snapshot_seq IS NULL THEN 0 ELSE snapshot_bytes END), 0) AS BIGINT) \
             AS snapshot_bytes FROM user_sync_state) s, \
             (SELECT count(*) AS segments, CAST(COALESCE(sum(op_count), 0) AS BIGINT) AS operations, \
             CAST(COALESCE(sum(storage_bytes), 0) AS BIGINT) AS charged, \
             CAST(COALESCE(sum(length(data) + length(op_id_hashes)), 0) AS BIGINT) AS bytes FROM segments) g, \
             (SELECT count(*) AS archives, CAST(COALESCE(sum(to_seq - from_seq + 1), 0) AS BIGINT) AS operations, \
             CAST(COALESCE(sum(bytes), 0) AS BIGINT) AS bytes FROM archived_ranges) a"
        )
    };
}

macro_rules! next_accounts_sql {
    ($greatest:literal) => {
        concat!(
            "SELECT max(user_id), CAST(COALESCE(sum(last_seq - ",
            $greatest,
            "(sealed_seq, pruned_seq)), 0) AS BIGINT) FROM (SELECT user_id, last_seq, sealed_seq, pruned_seq \
             FROM user_sync_state WHERE user_id > $1 ORDER BY user_id LIMIT $2) s"
        )
    };
}

/// What is counted of each kind of the operations `o`; the instants are `$1`, `$2`, `$3`.
macro_rules! kind_columns {
    () => {
        "SELECT o.op_type, o.entity_type, o.is_payload_encrypted, count(*), \
         CAST(COALESCE(sum(o.storage_bytes), 0) AS BIGINT), \
         CAST(COALESCE(sum(CASE WHEN o.received_at > $1 THEN o.storage_bytes END), 0) AS BIGINT), \
         CAST(COALESCE(sum(CASE WHEN o.received_at > $2 THEN o.storage_bytes END), 0) AS BIGINT), \
         CAST(COALESCE(sum(CASE WHEN o.received_at > $3 THEN o.storage_bytes END), 0) AS BIGINT) "
    };
}

pub(super) const LARGEST_ACCOUNTS: &str =
    "SELECT user_id FROM user_sync_state ORDER BY storage_used_bytes DESC, user_id LIMIT $1";

pub(super) const KINDS: &str = concat!(
    kind_columns!(),
    "FROM user_sync_state s JOIN operations o ON o.user_id = s.user_id AND o.server_seq > s.pruned_seq \
     AND o.server_seq <= s.last_seq WHERE s.user_id > $4 AND s.user_id <= $5 GROUP BY 1, 2, 3"
);

pub(super) const KINDS_OF_NEWEST: &str = concat!(
    kind_columns!(),
    "FROM (SELECT user_id FROM sync_devices GROUP BY user_id ORDER BY max(last_seen_at) DESC LIMIT $4) d \
     JOIN user_sync_state s ON s.user_id = d.user_id JOIN operations o ON o.user_id = s.user_id \
     AND o.server_seq > s.pruned_seq AND o.server_seq > s.last_seq - $5 AND o.server_seq <= s.last_seq GROUP BY 1, 2, 3"
);

macro_rules! growth_since {
    ($since:literal) => {
        concat!(
            "CAST(COALESCE(sum(CASE WHEN g.till <= ",
            $since,
            " THEN 0 WHEN g.since >= ",
            $since,
            " THEN g.bytes ELSE g.bytes * (g.till - ",
            $since,
            ") / (g.till - g.since) END), 0) AS BIGINT)"
        )
    };
}

pub(super) const PACKED_GROWTH: &str = concat!(
    "SELECT ",
    growth_since!("$1"),
    ", ",
    growth_since!("$2"),
    ", ",
    growth_since!("$3"),
    " FROM (SELECT g.storage_bytes AS bytes, g.max_received_at AS till, lag(g.max_received_at, 1, u.created_at) \
     OVER (PARTITION BY g.user_id ORDER BY g.last_seq) AS since FROM segments g JOIN users u ON u.id = g.user_id \
     JOIN user_sync_state s ON s.user_id = g.user_id AND g.last_seq > s.pruned_seq AND g.last_seq <= s.last_seq) g \
     WHERE g.till > $3"
);

macro_rules! decode_parts {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::Parts> {
            Ok($crate::store::Parts {
                accounts: row.try_get(0)?,
                operations: row.try_get(1)?,
                unpacked_operations: row.try_get(2)?,
                charged_bytes: row.try_get(3)?,
                segments: row.try_get(4)?,
                segment_operations: row.try_get(5)?,
                segment_charged_bytes: row.try_get(6)?,
                segment_bytes: row.try_get(7)?,
                archives: row.try_get(8)?,
                archive_operations: row.try_get(9)?,
                archive_bytes: row.try_get(10)?,
                snapshots: row.try_get(11)?,
                snapshot_bytes: row.try_get(12)?,
            })
        })()
    }};
}

macro_rules! decode_kind {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::KindUsage> {
            Ok($crate::store::KindUsage {
                op_type: row.try_get(0)?,
                entity_type: row.try_get(1)?,
                encrypted: row.try_get(2)?,
                operations: row.try_get(3)?,
                bytes: row.try_get(4)?,
                grown_bytes: [row.try_get(5)?, row.try_get(6)?, row.try_get(7)?],
            })
        })()
    }};
}

pub(super) use {decode_kind, decode_parts, next_accounts_sql, parts_sql};
