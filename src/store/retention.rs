//! What the clean-up rests its decisions on: of every account where its data set begins and which full state is its
//! newest, of everything else how many rows are due. Looks only, but for the mark that says who is cleaning up.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::protocol::{Seq, UserId};

/// The role of the one instance whose clean-up is under way.
pub(super) const SWEEPING: &str = "sweeping";
/// Not a role: the row's `expires_at` is the last time that is known to be right.
pub(super) const RIGHT_TIME: &str = "clock";

/// What decides whether an account has operations that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionRow {
    /// The account.
    pub user: UserId,
    /// Operations up to here have left the data set.
    pub pruned_seq: Seq,
    /// The data set's last sequence.
    pub last_seq: Seq,
    /// The newest causal full state.
    pub full_state_seq: Option<Seq>,
    /// Where the cached state stands.
    pub snapshot_seq: Option<Seq>,
    /// Whether an old app's REPAIR, of which nobody knows what it covers, is in the data set.
    pub has_legacy_repair: bool,
    /// When the newest operation was received, Unix milliseconds.
    pub newest_received_at: Option<i64>,
}

/// From when on rows of each kind are due, Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct DueBefore {
    /// Devices last seen before.
    pub devices_ms: i64,
    /// Tokens, sessions, tickets and ceremonies that ended before.
    pub now_ms: i64,
    /// Accounts that nobody has verified and that were made before; invitations that ended before.
    pub unverified_ms: i64,
    /// Entries of security logs from before.
    pub security_ms: i64,
    /// How long events are kept, by the database's clock.
    pub events: Duration,
}

/// Rows that are due, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DueRows {
    pub devices: u64,
    /// One-time tokens.
    pub tokens: u64,
    /// Ceremonies, pending passkeys, invitations, failed log-ins.
    pub sign_in: u64,
    /// Accounts that were never verified.
    pub unverified: u64,
    pub sessions: u64,
    pub tickets: u64,
    /// Entries of security logs.
    pub security: u64,
    pub events: u64,
}

/// What the database knows of the time, Unix milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownTime {
    /// The last time that a clock showed which was right.
    pub right_ms: Option<i64>,
    /// The newest time in any row, looked for only while there is no `right_ms`.
    pub newest_ms: Option<i64>,
    /// The clock of the database server, where it is another program's.
    pub database_ms: Option<i64>,
}

/// Looking at what is due.
#[async_trait]
pub trait RetentionStore: Send + Sync + 'static {
    /// Accounts with numbers above `after`, ascending, at most `limit`: a few look-ups for each.
    async fn retention_rows(&self, after: UserId, limit: usize) -> Result<Vec<RetentionRow>>;
    /// What [`super::MaintenanceStore`], [`super::AccountStore`], [`super::SessionStore`], [`super::SignInStore`],
    /// [`super::SecurityStore`] and [`super::EventStore`] would delete now. Walks over those tables.
    async fn due_rows(&self, before: DueBefore) -> Result<DueRows>;
    /// Marks a clean-up as under way, or goes on with it, for about `ttl`. `false`: another instance's is.
    async fn begin_sweep(&self, owner: &str, now_ms: i64, ttl: Duration) -> Result<bool>;
    /// The clean-up that `owner` has begun is over.
    async fn end_sweep(&self, owner: &str) -> Result<()>;
    /// What the database knows of the time.
    async fn known_time(&self) -> Result<KnownTime>;
    /// Notes that a clock shows this time and is right.
    async fn note_right_time(&self, owner: &str, now_ms: i64) -> Result<()>;
}

/// The same in both databases. The last operation is a row or ends a segment.
pub(super) const RETENTION_ROWS: &str = "\
SELECT s.user_id, s.pruned_seq, s.last_seq, s.full_state_seq, s.snapshot_seq, \
EXISTS (SELECT 1 FROM operations o WHERE o.user_id = s.user_id AND o.server_seq > s.pruned_seq \
AND o.server_seq <= s.last_seq AND o.op_type = 'REPAIR' AND o.repair_base_server_seq IS NULL \
AND o.op_type IN ('SYNC_IMPORT', 'BACKUP_IMPORT', 'REPAIR')), \
COALESCE((SELECT o.received_at FROM operations o WHERE o.user_id = s.user_id AND o.server_seq = s.last_seq), \
(SELECT g.max_received_at FROM segments g WHERE g.user_id = s.user_id AND g.last_seq = s.last_seq)) \
FROM user_sync_state s WHERE s.user_id > $1 ORDER BY s.user_id LIMIT $2";

/// A turn that lasts longer than a day was taken by a clock that was wrong.
pub(super) const BEGIN_SWEEP: &str = "\
INSERT INTO leadership (role, owner, expires_at) VALUES ($1, $2, $4) \
ON CONFLICT (role) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at \
WHERE leadership.owner = excluded.owner OR leadership.expires_at <= $3 OR leadership.expires_at > $3 + 86400000";

pub(super) const END_SWEEP: &str = "DELETE FROM leadership WHERE role = $1 AND owner = $2";

pub(super) const NOTE_RIGHT_TIME: &str = "\
INSERT INTO leadership (role, owner, expires_at) VALUES ($1, $2, $3) \
ON CONFLICT (role) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at";

/// `$now` is the clock of the database server. Without a noted time the newest row tells, in tables that hold a few rows
/// per account; a device is noted with its uploads.
macro_rules! known_time_sql {
    ($now:literal) => {
        concat!(
            "SELECT (SELECT expires_at FROM leadership WHERE role = $1), \
             CASE WHEN NOT EXISTS (SELECT 1 FROM leadership WHERE role = $1) THEN (SELECT max(at) FROM \
             (SELECT max(created_at) AS at FROM users UNION ALL SELECT max(last_seen_at) FROM sessions \
             UNION ALL SELECT max(last_seen_at) FROM sync_devices \
             UNION ALL SELECT max(archived_at) FROM archived_ranges) newest) END, ",
            $now
        )
    };
}

macro_rules! decode_known_time {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::KnownTime> {
            Ok($crate::store::KnownTime {
                right_ms: row.try_get(0)?,
                newest_ms: row.try_get(1)?,
                database_ms: row.try_get(2)?,
            })
        })()
    }};
}

/// Each is the condition of the statement that deletes. `$now` names the database's clock in milliseconds.
macro_rules! due_rows_sql {
    ($now:literal) => {
        concat!(
            "SELECT (SELECT count(*) FROM sync_devices WHERE last_seen_at < $1), \
             (SELECT count(*) FROM one_time_tokens WHERE expires_at < $2), \
             (SELECT count(*) FROM webauthn_challenges WHERE expires_at <= $2) \
             + (SELECT count(*) FROM failed_logins WHERE expires_at <= $2) \
             + (SELECT count(*) FROM pending_passkeys WHERE expires_at <= $2) \
             + (SELECT count(*) FROM invites WHERE expires_at <= $3), \
             (SELECT count(*) FROM users WHERE is_verified = FALSE AND created_at <= $3 AND NOT EXISTS \
             (SELECT 1 FROM one_time_tokens t WHERE t.user_id = users.id AND t.expires_at > $2)), \
             (SELECT count(*) FROM sessions WHERE expires_at < $2), \
             (SELECT count(*) FROM socket_tickets WHERE expires_at < $2), \
             (SELECT count(*) FROM security_events WHERE at < $5), \
             (SELECT count(*) FROM account_events WHERE at <= ",
            $now,
            " - $4 AND id < (SELECT max(id) FROM account_events))"
        )
    };
}

macro_rules! decode_retention_row {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::RetentionRow> {
            Ok($crate::store::RetentionRow {
                user: row.try_get(0)?,
                pruned_seq: row.try_get(1)?,
                last_seq: row.try_get(2)?,
                full_state_seq: row.try_get(3)?,
                snapshot_seq: row.try_get(4)?,
                has_legacy_repair: row.try_get(5)?,
                newest_received_at: row.try_get(6)?,
            })
        })()
    }};
}

macro_rules! decode_due_rows {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::DueRows> {
            let count = |at: usize| -> $crate::store::Result<u64> {
                Ok(u64::try_from(row.try_get::<i64, _>(at)?).unwrap_or(0))
            };
            Ok($crate::store::DueRows {
                devices: count(0)?,
                tokens: count(1)?,
                sign_in: count(2)?,
                unverified: count(3)?,
                sessions: count(4)?,
                tickets: count(5)?,
                security: count(6)?,
                events: count(7)?,
            })
        })()
    }};
}

pub(super) use {decode_due_rows, decode_known_time, decode_retention_row, due_rows_sql, known_time_sql};
