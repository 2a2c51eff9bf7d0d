//! How far an import is and what it did, for the operator and for scripts. Holds no addresses and nothing secret.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Serialize;

use crate::protocol::UserId;

/// How far an import is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Operations to write, and then to compare.
    pub of: AtomicU64,
    /// Operations written.
    pub written: Arc<AtomicU64>,
    /// Operations compared.
    pub compared: AtomicU64,
}

/// What became of an import.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What the source's schema lacks, because it is older; defaults stood in.
    pub missing_columns: Vec<String>,
    /// Accounts of the source.
    pub accounts: u64,
    /// Accounts taken over in this run.
    pub taken: u64,
    /// Their operations.
    pub operations: u64,
    /// Numbers that the old server gave to operations which it then refused; they stay unused.
    pub unused_numbers: u64,
    /// Accounts that have such numbers.
    pub with_unused_numbers: u64,
    /// Accounts that an earlier run took over and that the source has not changed since.
    pub unchanged: u64,
    /// Accounts that an earlier run took over and that the source has deleted since: deleted here too.
    pub removed: u64,
    /// Devices taken over.
    pub devices: u64,
    /// Passkeys taken over.
    pub passkeys: u64,
    /// Passkeys whose id was stored as text and was repaired.
    pub passkeys_repaired: u64,
    /// Passkeys that were there twice, once with the id as text.
    pub passkeys_dropped: u64,
    /// Passkeys taken over that wait for their verification link.
    pub pending_passkeys: u64,
    /// Mailed links that still work.
    pub links: u64,
    /// Mailed links that were expired or of no use any more.
    pub links_dropped: u64,
    /// Cached states taken over: the operations that they were made from are gone.
    pub snapshots: u64,
    /// Cached states that are not taken over: they are rebuilt when they are asked for.
    pub snapshots_dropped: u64,
    /// Accounts not taken over, because another one has the same address but for case.
    pub duplicates: Vec<Duplicate>,
    /// Accounts taken over with something mended.
    pub repaired: Vec<Noted>,
    /// Accounts not taken over, because something is wrong with them.
    pub left_out: Vec<Noted>,
    /// Accounts not taken over again, because they have changed both in the source and here.
    pub conflicts: Vec<Noted>,
    /// Who began to work on the source meanwhile, in words; empty if nobody. What they wrote is not here.
    pub others: String,
    /// Accounts that were compared.
    pub verified: u64,
    /// Where the source and this server differ.
    pub differences: Vec<Noted>,
}

/// An account that lost to another with the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// The account that was kept.
    pub kept: UserId,
    /// The one that was not.
    pub left_out: UserId,
    /// How many operations the latter has.
    pub operations: i64,
}

/// Something about an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Noted {
    /// The account.
    pub user: UserId,
    /// What, in words.
    pub what: String,
}

impl Report {
    /// How many things are not as they should be, mostly accounts.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.left_out.len() + self.conflicts.len() + self.differences.len() + usize::from(!self.others.is_empty())
    }

    /// Tells it. `is_comparison`: nothing was to be taken over.
    ///
    /// # Errors
    /// When the output can't be written.
    pub fn tell(&self, is_comparison: bool, output: &mut (dyn Write + Send)) -> io::Result<()> {
        if !self.missing_columns.is_empty() {
            writeln!(output, "The source's schema is older; it lacks: {}.", self.missing_columns.join(", "))?;
        }
        if !is_comparison {
            self.tell_taken(output)?;
        }
        for Duplicate { kept, left_out, operations } in &self.duplicates {
            writeln!(
                output,
                "duplicate: account {left_out} ({operations} operations) has the address of account {kept} but for case; \
                 not taken over"
            )?;
        }
        for (word, noted) in [
            ("repaired", &self.repaired),
            ("left out", &self.left_out),
            ("changed on both sides, left as it is here", &self.conflicts),
            ("different", &self.differences),
        ] {
            for Noted { user, what } in noted {
                writeln!(output, "{word}: account {user}: {what}")?;
            }
        }
        if !self.others.is_empty() {
            writeln!(
                output,
                "others have begun to work on the source meanwhile: {}. What they write is not here: stop them, then run \
                 this again.",
                self.others
            )?;
        }
        writeln!(output, "{} accounts compared, {} different.", self.verified, self.differences.len())
    }

    fn tell_taken(&self, output: &mut (dyn Write + Send)) -> io::Result<()> {
        writeln!(
            output,
            "{} accounts in the source: {} taken over with {} operations, {} unchanged since an earlier run, {} deleted.",
            self.accounts, self.taken, self.operations, self.unchanged, self.removed
        )?;
        writeln!(
            output,
            "{} devices, {} passkeys ({} with a repaired id, {} superfluous), {} waiting passkeys, {} mailed links ({} \
             of no use any more left out), {} cached states ({} left out: they are rebuilt when needed).",
            self.devices,
            self.passkeys,
            self.passkeys_repaired,
            self.passkeys_dropped,
            self.pending_passkeys,
            self.links,
            self.links_dropped,
            self.snapshots,
            self.snapshots_dropped
        )?;
        if self.unused_numbers > 0 {
            writeln!(
                output,
                "{} numbers of {} accounts belong to no operation, because the old server refused what it had given them \
                 to; they stay unused.",
                self.unused_numbers, self.with_unused_numbers
            )?;
        }
        Ok(())
    }
}
