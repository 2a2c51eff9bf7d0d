//! Archived data sets: what was replaced or deleted, as long as it is kept. Lists them, reads them, and brings one back.
//!
//! # What it promises
//! - Bringing a set back is one commit of the account's actor, fenced like every other: before it devices see the present
//!   data set, after it the other one, never a mixture. Sequences go on growing.
//! - What was the data set until then becomes an archived one itself, so that this can be undone too.
//! - Every device that syncs afterwards ends up with the same data, whether or not the server can read it. How the
//!   operations must look for that is `stamp`'s business and reasoned about in ADR 0012. Where it can't be
//!   promised, the set is not brought back ([`Obstacle`]).
//! - However large a set is, only a few thousand of its operations and the places of its entities are in memory at a time.

pub mod bound;
mod staging;
mod stamp;
mod summary;

pub(super) use staging::BringBackLocks;
pub use summary::ArchiveSummary;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tokio::time::Instant;

use super::{EngineError, Handle, QuotaExceeded, store_trouble, within};
use crate::protocol::limits::MAX_CLIENT_DOWNLOAD_OPS;
use crate::protocol::op::is_causal_full_state;
use crate::protocol::response::OutgoingOp;
use crate::protocol::{ImportReason, Seq, UserId, follows};
use crate::store::{ArchiveReason, ArchivedRange, FullStateRow, LogRange, Store, StoreError, SyncState};

/// Sets listed, newest first. A user makes a handful; somebody who replaces the data all day sees the newest.
const MAX_LISTED: usize = bound::MAX_SETS;
/// Full states looked at to tell the sets apart.
const MAX_FULL_STATES: usize = 1000;
/// Operations of a page when a set is read.
const PAGE_OPS: usize = 500;
/// Bytes of such a page.
const PAGE_BYTES: usize = 1024 * 1024;

/// Names an archived set of an account: its generation and its first sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveId {
    generation: i64,
    from_seq: Seq,
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.generation, self.from_seq)
    }
}

impl FromStr for ArchiveId {
    type Err = ArchiveError;

    /// What is none names no set.
    fn from_str(text: &str) -> Result<Self, ArchiveError> {
        let number = |text: &str| {
            let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            text.parse().ok().filter(|_| canonical)
        };
        let parts = text.split_once('-').and_then(|(generation, from)| Some((number(generation)?, number(from)?)));
        let (generation, from_seq) = parts.ok_or(ArchiveError::NotFound)?;
        Ok(Self { generation, from_seq })
    }
}

impl ArchiveId {
    fn of(range: &ArchivedRange) -> Self {
        Self { generation: range.generation, from_seq: range.from_seq }
    }
}

/// Why a set can't be brought back. It can be downloaded all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Its time is over: it is being deleted.
    Expired,
    /// It is the older part of a data set, given up to make room, and not a data set.
    Superseded,
    /// It does not begin with a full state, and something else has been uploaded since: devices would not know what to
    /// forget.
    NoFullState,
    /// More changes follow its newest full state than the app takes in one download.
    TooManyOperations,
    /// An old app's repair follows its newest full state. Nobody knows which of the changes before it are part of it, and
    /// the clocks that told are not kept.
    LegacyRepair,
    /// It is not encrypted, and the devices refuse what is not.
    NotEncrypted,
}

impl Obstacle {
    /// The code that clients read.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "EXPIRED",
            Self::Superseded => "SUPERSEDED",
            Self::NoFullState => "NO_FULL_STATE",
            Self::TooManyOperations => "TOO_MANY_OPERATIONS",
            Self::LegacyRepair => "LEGACY_REPAIR",
            Self::NotEncrypted => "NOT_ENCRYPTED",
        }
    }
}

/// Whether devices will need another encryption password than today's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormerPassword {
    /// No: it is not encrypted, or every change since kept the password as far as the log tells.
    NotNeeded,
    /// The log does not tell.
    Maybe,
    /// Yes.
    Needed,
}

impl FormerPassword {
    /// The word that clients read.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotNeeded => "no",
            Self::Maybe => "maybe",
            Self::Needed => "yes",
        }
    }
}

/// An archived data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its name.
    pub id: ArchiveId,
    /// Where it lies in the log, why it left the data set, when, and what it was charged.
    pub range: ArchivedRange,
    /// From when on it may be deleted, Unix milliseconds.
    pub expires_at: i64,
    /// Whether its payloads are encrypted.
    pub is_encrypted: bool,
    /// What the upload that replaced it gave as the reason.
    pub replaced_because: Option<ImportReason>,
    /// What devices will need.
    pub former_password: FormerPassword,
    /// Why it can't be brought back; `None`: it can.
    pub obstacle: Option<Obstacle>,
    /// The newest causal full state.
    start: Option<Seq>,
    /// See [`SyncState::sparse_up_to`].
    sparse_up_to: Seq,
}

impl Archive {
    /// How many operations it holds.
    #[must_use]
    pub const fn operations(&self) -> i64 {
        self.range.to_seq - self.range.from_seq + 1
    }
}

/// What has been brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BroughtBack {
    /// How many operations.
    pub operations: i64,
    /// The data set's last sequence now.
    pub latest_seq: Seq,
}

/// Why nothing was listed, read or brought back. Nothing has changed then, but for [`ArchiveError::Engine`], after which
/// the list tells.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The account has no such set (any more).
    #[error("no such archived data set")]
    NotFound,
    /// It can't be brought back.
    #[error("this data set can't be brought back")]
    NotRestorable(Obstacle),
    /// Operations are missing.
    #[error("operations of this data set are missing")]
    Incomplete,
    /// A set of this account is being brought back already.
    #[error("another data set is being brought back")]
    Running,
    /// The data set was replaced meanwhile by something else.
    #[error("the data was replaced meanwhile")]
    Outdated,
    /// It is larger than the account may store.
    #[error("quota exceeded")]
    Quota(QuotaExceeded),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<StoreError> for ArchiveError {
    fn from(error: StoreError) -> Self {
        Self::Engine(store_trouble(error))
    }
}

/// A part of the log to be read page by page, as devices get it.
#[derive(Clone)]
pub struct LogReader {
    store: Arc<dyn Store>,
    user: UserId,
    after: Seq,
    up_to: Seq,
    sparse_up_to: Seq,
}

/// Where sequences that come after `after` end. `None`: some are missing, other than numbers that belong to no operation.
fn end_of(after: Seq, sequences: impl IntoIterator<Item = Seq>, sparse_up_to: Seq) -> Option<Seq> {
    sequences.into_iter().try_fold(after, |after, seq| follows(after, seq, sparse_up_to).then_some(seq))
}

impl LogReader {
    /// Whose log it is.
    #[must_use]
    pub const fn account(&self) -> UserId {
        self.user
    }

    /// The next operations; nothing at the end.
    ///
    /// # Errors
    /// [`ArchiveError::Incomplete`] when some are missing, as when they are being deleted; or the store's trouble.
    pub async fn next_page(&mut self) -> Result<Vec<OutgoingOp>, ArchiveError> {
        if self.after >= self.up_to {
            return Ok(Vec::new());
        }
        let range = LogRange {
            user: self.user,
            after: self.after,
            up_to: self.up_to,
            exclude_client: None,
            limit: PAGE_OPS,
            max_bytes: PAGE_BYTES,
        };
        let page = self.store.read_outgoing(range).await?;
        let sequences = page.ops.iter().map(|op| op.seq);
        let end = end_of(self.after, sequences, self.sparse_up_to).ok_or(ArchiveError::Incomplete)?;
        let is_end = !page.has_more && self.up_to <= self.sparse_up_to;
        if end == self.after && !is_end {
            return Err(ArchiveError::Incomplete);
        }
        self.after = if is_end { self.up_to } else { end };
        Ok(page.ops)
    }
}

impl Handle {
    /// The archived data sets of an account, newest first, at most 100.
    ///
    /// # Errors
    /// The store's trouble.
    pub async fn archives(&self, user: UserId, deadline: Instant) -> Result<Vec<Archive>, ArchiveError> {
        let view = self.fresh_view(user, deadline).await?;
        within(deadline, self.examine(user, view.sync())).await?
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`], or the store's trouble.
    pub async fn archive(&self, user: UserId, id: ArchiveId, deadline: Instant) -> Result<Archive, ArchiveError> {
        let all = self.archives(user, deadline).await?;
        all.into_iter().find(|archive| archive.id == id).ok_or(ArchiveError::NotFound)
    }

    /// Reads an archived data set.
    #[must_use]
    pub fn read_archive(&self, user: UserId, archive: &Archive) -> LogReader {
        let ArchivedRange { from_seq, to_seq, .. } = archive.range;
        let store = Arc::clone(&self.context().store);
        LogReader { store, user, after: from_seq - 1, up_to: to_seq, sparse_up_to: archive.sparse_up_to }
    }

    /// Reads the present data set, as it is now.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn read_data_set(&self, user: UserId, deadline: Instant) -> Result<LogReader, EngineError> {
        let view = self.fresh_view(user, deadline).await?;
        let sync = view.sync();
        let store = Arc::clone(&self.context().store);
        let sparse_up_to = sync.sparse_up_to;
        Ok(LogReader { store, user, after: sync.pruned_seq, up_to: sync.last_seq, sparse_up_to })
    }

    async fn examine(&self, user: UserId, sync: &SyncState) -> Result<Vec<Archive>, ArchiveError> {
        let store = self.context().store.as_ref();
        let mut ranges = store.archived(user).await?;
        ranges.retain(|range| {
            let hidden =
                [ArchiveReason::Expired, ArchiveReason::BroughtBack, ArchiveReason::Staged, ArchiveReason::Abandoned];
            !hidden.contains(&range.reason)
        });
        ranges.truncate(MAX_LISTED);
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let full_states = store.full_states(user, 0, sync.last_seq, MAX_FULL_STATES).await?;
        let known_from = match full_states.last() {
            Some(oldest) if full_states.len() == MAX_FULL_STATES => oldest.seq,
            _ => 0,
        };
        let present = present_encryption(store, user, sync, &full_states).await?;
        let mut archives = Vec::with_capacity(ranges.len());
        for range in &ranges {
            let mut within_range: Vec<&FullStateRow> =
                full_states.iter().filter(|row| (range.from_seq..=range.to_seq).contains(&row.seq)).collect();
            let further;
            if range.from_seq < known_from {
                further = store.full_states(user, range.from_seq - 1, range.to_seq, MAX_LISTED).await?;
                within_range = further.iter().collect();
            }
            let start = within_range.iter().find(|row| is_causal_full_state(row.op_type, row.repair_base_server_seq));
            let is_encrypted = match start {
                Some(row) => row.is_payload_encrypted,
                None => is_encrypted_at(store, user, range.to_seq).await?,
            };
            // The newest causal one is not the newest one: what follows it is a repair without a base.
            let repaired = start.is_some_and(|start| within_range.iter().any(|row| row.seq > start.seq));
            let facts = Facts { sync, ranges: &ranges, full_states: &full_states, present, is_encrypted, repaired };
            archives.push(facts.judge(range, start.map(|row| row.seq), self));
        }
        Ok(archives)
    }
}

/// What a set is judged by.
struct Facts<'a> {
    sync: &'a SyncState,
    ranges: &'a [ArchivedRange],
    full_states: &'a [FullStateRow],
    /// Whether the present data set is encrypted; `None`: there is none.
    present: Option<bool>,
    is_encrypted: bool,
    /// Whether an old app's repair follows the newest causal full state.
    repaired: bool,
}

impl Facts<'_> {
    fn judge(&self, range: &ArchivedRange, start: Option<Seq>, engine: &Handle) -> Archive {
        let options = &engine.context().options;
        let kept_ms = i64::try_from(options.archive_retention.as_millis()).unwrap_or(i64::MAX);
        let expires_at = range.archived_at.saturating_add(kept_ms);
        let successor = self.full_states.iter().find(|row| row.seq == range.to_seq + 1);
        let obstacle = if expires_at <= engine.context().clock.certain_ms() {
            Some(Obstacle::Expired)
        } else if range.reason == ArchiveReason::Superseded {
            Some(Obstacle::Superseded)
        } else if !self.is_encrypted && (options.encrypted_only || self.present == Some(true)) {
            Some(Obstacle::NotEncrypted)
        } else {
            self.obstacle_of_devices(range, start)
        };
        Archive {
            id: ArchiveId::of(range),
            range: range.clone(),
            expires_at,
            is_encrypted: self.is_encrypted,
            replaced_because: successor.and_then(|row| row.import_reason),
            former_password: self.former_password(range),
            obstacle,
            start,
            sparse_up_to: self.sync.sparse_up_to,
        }
    }

    /// Whether all devices can get to the same data from here.
    fn obstacle_of_devices(&self, range: &ArchivedRange, start: Option<Seq>) -> Option<Obstacle> {
        match start {
            Some(_) if self.repaired => Some(Obstacle::LegacyRepair),
            Some(start) => {
                let in_one_download = i64::try_from(MAX_CLIENT_DOWNLOAD_OPS).unwrap_or(i64::MAX);
                (range.to_seq - start + 1 > in_one_download).then_some(Obstacle::TooManyOperations)
            }
            // Deleted a moment ago, and nothing has come since: whoever had it has it still.
            None if self.present.is_none() && range.to_seq == self.sync.last_seq => None,
            None => Some(Obstacle::NoFullState),
        }
    }

    fn former_password(&self, range: &ArchivedRange) -> FormerPassword {
        if !self.is_encrypted {
            return FormerPassword::NotNeeded;
        }
        let since = |row: &&FullStateRow| row.seq > range.to_seq;
        let changed = |row: &FullStateRow| row.import_reason == Some(ImportReason::PasswordChanged);
        if self.full_states.iter().filter(since).any(changed) || self.present == Some(false) {
            return FormerPassword::Needed;
        }
        // A wipe is what an app does that turns encryption on or changes it in other ways; and a set that was brought back
        // may be from before a change.
        let unclear = |other: &ArchivedRange| {
            let nothing_since = self.present.is_none() && other.to_seq == self.sync.last_seq;
            other.from_seq >= range.from_seq
                && matches!(other.reason, ArchiveReason::Wipe | ArchiveReason::BringBack)
                && !nothing_since
        };
        if self.ranges.iter().any(unclear) { FormerPassword::Maybe } else { FormerPassword::NotNeeded }
    }
}

/// Whether the present data set is encrypted; `None`: there is none.
async fn present_encryption(
    store: &dyn Store,
    user: UserId,
    sync: &SyncState,
    full_states: &[FullStateRow],
) -> Result<Option<bool>, StoreError> {
    if sync.last_seq == sync.base_seq {
        return Ok(None);
    }
    let newest = full_states.first().filter(|row| row.seq > sync.pruned_seq);
    Ok(Some(match newest {
        Some(row) => row.is_payload_encrypted,
        None => is_encrypted_at(store, user, sync.last_seq).await?,
    }))
}

/// Whether the operation at this place is encrypted; one that is gone counts as not.
async fn is_encrypted_at(store: &dyn Store, user: UserId, seq: Seq) -> Result<bool, StoreError> {
    let range = LogRange { user, after: seq - 1, up_to: seq, exclude_client: None, limit: 1, max_bytes: 0 };
    Ok(store.read_log(range).await?.ops.first().is_some_and(|op| op.is_payload_encrypted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for text in ["0-1", "12-345678"] {
            assert_eq!(text.parse::<ArchiveId>().expect("a name").to_string(), text);
        }
        for text in ["", "-", "1", "1-", "-1", "01-1", "1-+2", "1--2", "1-2-3", " 1-2", "1-99999999999999999999"] {
            assert!(matches!(text.parse::<ArchiveId>(), Err(ArchiveError::NotFound)), "{text}");
        }
    }
}
