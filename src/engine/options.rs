//! The engine's bounds.

use std::time::Duration;

use crate::config::{Config, EncryptionPolicy};
use crate::disk::Disk;

use super::notifier::NotifierOptions;

/// Seldom enough that a crowd of polls becomes few statements, and often enough that other instances hardly notice.
const TOUCH_EVERY: Duration = Duration::from_secs(1);

/// Far less than the client of a restore waits, so that others get a turn.
const REPLAY_TIME: Duration = Duration::from_secs(15);

/// What the engine may use and how long it keeps what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes kept in memory for all accounts; above it the least recently used idle ones go.
    pub memory_bytes: usize,
    /// An actor without work for so long is stopped.
    pub actor_idle: Duration,
    /// How often idle actors are looked for.
    pub passivate_every: Duration,
    /// How often the devices that have polled are written down.
    pub touch_every: Duration,
    /// Requests admitted at once, in all.
    pub max_queued_requests: usize,
    /// Requests admitted at once for one account.
    pub max_queued_requests_per_user: usize,
    /// Payload bytes admitted at once.
    pub max_queued_bytes: usize,
    /// Bytes of a page or piggyback.
    pub page_bytes: usize,
    /// Operations replayed for one restore.
    pub max_replay_ops: usize,
    /// Bytes of a state while it is replayed.
    pub max_replay_state_bytes: usize,
    /// How long a replay may take.
    pub replay_time: Duration,
    /// Compressed bytes of a cached state.
    pub max_snapshot_blob_bytes: usize,
    /// Devices not seen for so long are not listed.
    pub device_retention: Duration,
    /// How long what was replaced or deleted is kept.
    pub archive_retention: Duration,
    /// And how much of it, in hundredths of the account's quota.
    pub archive_percent: u32,
    /// The database's disk: with too little room new data is refused.
    pub disk: Disk,
    /// Whether only encrypted data is taken.
    pub encrypted_only: bool,
    /// Crashes of one account's actor within [`Options::quarantine_for`] after which the account is quarantined.
    pub quarantine_after: u32,
    /// How long a quarantine lasts.
    pub quarantine_for: Duration,
    /// Socket timings.
    pub notifier: NotifierOptions,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            memory_bytes: config.limits.account_memory_bytes,
            actor_idle: config.limits.actor_idle,
            passivate_every: (config.limits.actor_idle / 20).clamp(Duration::from_millis(100), Duration::from_secs(5)),
            touch_every: TOUCH_EVERY,
            max_queued_requests: config.limits.max_queued_requests,
            max_queued_requests_per_user: config.limits.max_queued_requests_per_user,
            max_queued_bytes: config.limits.max_queued_bytes,
            page_bytes: config.limits.page_bytes,
            max_replay_ops: config.limits.max_replay_ops,
            max_replay_state_bytes: config.limits.max_replay_state_bytes,
            replay_time: REPLAY_TIME,
            max_snapshot_blob_bytes: config.limits.max_snapshot_blob_bytes,
            device_retention: config.retention.superseded,
            archive_retention: config.retention.archive,
            archive_percent: config.retention.archive_percent,
            disk: Disk::of(config),
            encrypted_only: config.encryption_policy == EncryptionPolicy::Required,
            quarantine_after: 3,
            quarantine_for: Duration::from_mins(1),
            notifier: NotifierOptions {
                max_sockets_per_user: config.limits.max_sockets_per_user,
                ..NotifierOptions::default()
            },
        }
    }
}
