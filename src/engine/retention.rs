//! Which operations of an account may go (contract, sections 11.4, 17.5). The one place that decides: the clean-up acts on
//! the verdict, its forecast shows it.
//!
//! What is superseded by the newest causal full state goes when all of it is older than the retention, whole or not at
//! all. A cached state that stands before that full state moves the boundary back to the newest full state that it still
//! needs. The full state itself and what follows it stay for ever.

use crate::protocol::op::is_causal_full_state;
use crate::protocol::{Seq, UserId};
use crate::store::{RetentionRow, Store, StoreError, SyncState};

/// Operations that are given up because of their age count as archived then: due at once, before everything else.
pub(super) const EXPIRED_AT: i64 = 0;
/// Full states looked through for the one that a cached state rests on.
const MAX_FULL_STATES: usize = 1000;

/// Where an account's data set begins and what may supersede its older part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) user: UserId,
    pruned_seq: Seq,
    last_seq: Seq,
    full_state_seq: Option<Seq>,
    snapshot_seq: Option<Seq>,
}

impl Standing {
    pub(super) fn of(user: UserId, sync: &SyncState) -> Self {
        Self {
            user,
            pruned_seq: sync.pruned_seq,
            last_seq: sync.last_seq,
            full_state_seq: sync.full_state.as_ref().map(|mark| mark.seq),
            snapshot_seq: sync.snapshot.map(|snapshot| snapshot.seq),
        }
    }
}

impl From<&RetentionRow> for Standing {
    fn from(row: &RetentionRow) -> Self {
        let RetentionRow { user, pruned_seq, last_seq, full_state_seq, snapshot_seq, .. } = *row;
        Self { user, pruned_seq, last_seq, full_state_seq, snapshot_seq }
    }
}

/// The part of a data set that is superseded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The data set begins after this sequence.
    pub after: Seq,
    /// What supersedes it: everything up to here, but not this.
    pub full_state_seq: Seq,
    /// Its operations.
    pub operations: u64,
    /// What they are charged, in bytes.
    pub bytes: i64,
}

/// Why an account's operations all stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kept {
    /// It has none.
    Empty,
    /// It has no causal full state: nothing is superseded.
    NoFullState,
    /// Its only full states are an old app's repairs, and nobody knows what they cover.
    LegacyRepair,
    /// Its newest full state is its first operation.
    FirstSequence,
    /// What was superseded has gone already.
    NothingBefore,
    /// The cached state still needs what came before the newest full state.
    CachedState,
    /// Something superseded is younger than the retention.
    TooYoung,
}

impl Kept {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Empty,
        Self::NoFullState,
        Self::LegacyRepair,
        Self::FirstSequence,
        Self::NothingBefore,
        Self::CachedState,
        Self::TooYoung,
    ];

    /// The reason's name, for scripts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NoFullState => "no-full-state",
            Self::LegacyRepair => "legacy-repair",
            Self::FirstSequence => "first-sequence",
            Self::NothingBefore => "nothing-before",
            Self::CachedState => "cached-state",
            Self::TooYoung => "too-young",
        }
    }

    /// The reason in words.
    #[must_use]
    pub const fn explained(self) -> &'static str {
        match self {
            Self::Empty => "no operations",
            Self::NoFullState => "no full state, so nothing is superseded",
            Self::LegacyRepair => "only an old app's repair, and it is not clear what it covers",
            Self::FirstSequence => "the newest full state is the first operation",
            Self::NothingBefore => "what was superseded has gone already",
            Self::CachedState => "the cached state rests on operations before the newest full state",
            Self::TooYoung => "something superseded is younger than the retention",
        }
    }
}

/// What becomes of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Prune(Prefix),
    Keep(Kept),
}

/// Decides. Operations received since `cutoff_ms` are too young.
pub(super) async fn judge(store: &dyn Store, standing: Standing, cutoff_ms: i64) -> Result<Verdict, StoreError> {
    let Standing { user, pruned_seq, last_seq, full_state_seq, snapshot_seq } = standing;
    if last_seq <= pruned_seq {
        return Ok(Verdict::Keep(Kept::Empty));
    }
    let Some(newest) = full_state_seq else { return Ok(Verdict::Keep(Kept::NoFullState)) };
    if newest <= pruned_seq + 1 {
        return Ok(Verdict::Keep(if newest == 1 { Kept::FirstSequence } else { Kept::NothingBefore }));
    }
    let boundary = match snapshot_seq {
        Some(at) if at < newest => {
            let rows = store.full_states(user, pruned_seq, at, MAX_FULL_STATES).await?;
            let needed = rows.iter().find(|row| is_causal_full_state(row.op_type, row.repair_base_server_seq));
            match needed {
                Some(row) if row.seq > pruned_seq + 1 => row.seq,
                _ => return Ok(Verdict::Keep(Kept::CachedState)),
            }
        }
        _ => newest,
    };
    if store.received_since(user, pruned_seq, boundary - 1, cutoff_ms).await? {
        return Ok(Verdict::Keep(Kept::TooYoung));
    }
    let (bytes, operations) = store.measure(user, pruned_seq, boundary - 1).await?;
    let operations = u64::try_from(operations).unwrap_or(0);
    Ok(Verdict::Prune(Prefix { after: pruned_seq, full_state_seq: boundary, operations, bytes }))
}
