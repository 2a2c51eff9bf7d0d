//! The guarantees that can be checked on plain data, stated once: production assertions and tests call the same
//! functions.

use foldhash::{HashSet, HashSetExt as _};

use crate::protocol::{Seq, StoredOp};
use crate::store::{Adoption, Commit, SyncState};

/// A guarantee that does not hold, in words.
pub type Violation = String;

/// G1 and G2 on a part of a log that begins after `after`: sequences without hole or repeat, ids stored once.
///
/// # Errors
/// The first violation.
pub fn check_log<'a>(after: Seq, ops: impl IntoIterator<Item = &'a StoredOp>) -> Result<(), Violation> {
    let mut ids = HashSet::new();
    for (expected, op) in (after + 1..).zip(ops) {
        if op.server_seq != expected {
            return Err(format!("G1: expected sequence {expected}, found {}", op.server_seq));
        }
        if !ids.insert(&*op.id) {
            return Err(format!("G2: an op id stands twice, again at {expected}"));
        }
    }
    Ok(())
}

/// What holds of every state row.
///
/// # Errors
/// The first violation.
pub fn check_state(sync: &SyncState) -> Result<(), Violation> {
    let ordered = 0 <= sync.base_seq && sync.base_seq <= sync.pruned_seq && sync.pruned_seq <= sync.last_seq;
    if !ordered {
        return Err(format!("base {} ≤ pruned {} ≤ last {}", sync.base_seq, sync.pruned_seq, sync.last_seq));
    }
    if let Some(mark) = &sync.full_state
        && !(sync.pruned_seq < mark.seq && mark.seq <= sync.last_seq)
    {
        return Err(format!("full state {} outside ({}, {}]", mark.seq, sync.pruned_seq, sync.last_seq));
    }
    if sync.replacement_seq.is_some_and(|seq| seq > sync.last_seq) {
        return Err("fence beyond the last sequence".to_owned());
    }
    if sync.storage_used_bytes < 0 {
        return Err("negative storage".to_owned());
    }
    Ok(())
}

/// A data set that has been staged begins above everything that was ever given out, and nothing else comes with it.
fn check_adoption(before: &SyncState, commit: &Commit, adoption: Adoption) -> Result<(), Violation> {
    let after = &commit.state;
    if adoption.staged_from <= before.last_seq || after.last_seq < adoption.staged_from {
        return Err(format!("G1: {} to {} staged after {}", adoption.staged_from, after.last_seq, before.last_seq));
    }
    if after.base_seq != adoption.staged_from - 1 || after.generation <= before.generation || !commit.ops.is_empty() {
        return Err("a staged range becomes a data set of its own, or nothing".to_owned());
    }
    Ok(())
}

/// What holds of every commit that continues `before`: G1, G2, and that nothing but a wipe starts a data set.
///
/// # Errors
/// The first violation.
pub fn check_commit(before: &SyncState, commit: &Commit) -> Result<(), Violation> {
    let after = &commit.state;
    check_state(after)?;
    if let Some(adoption) = commit.adoption {
        check_adoption(before, commit, adoption)?;
    } else {
        check_log(before.last_seq, commit.ops.iter().map(|(_, op)| op))?;
        let appended = i64::try_from(commit.ops.len()).unwrap_or(i64::MAX);
        if after.last_seq != before.last_seq + appended {
            return Err(format!("G1: {} + {appended} operations end at {}", before.last_seq, after.last_seq));
        }
    }
    if commit.expected_revision != before.revision || after.revision != before.revision + 1 {
        return Err("the revision must grow by one".to_owned());
    }
    if after.generation < before.generation {
        return Err("a data set's number never falls".to_owned());
    }
    Ok(())
}
