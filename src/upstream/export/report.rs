//! What an export did, or would do.

use serde::Serialize;

use crate::protocol::UserId;

/// So many of a kind are named; the others are counted.
const NAMED: usize = 100;

/// What was done, or would be done.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The instant of which the written data is, Unix milliseconds.
    pub taken_at: i64,
    /// Whether a server was working on our database: what it acknowledges later is not written.
    pub server_running: bool,
    /// Accounts.
    pub accounts: Accounts,
    /// What was done to the accounts, all together.
    #[serde(flatten)]
    pub counts: Counts,
    /// Accounts with restore points that the old server can't restore: they are too far from the beginning of the numbers,
    /// above all behind a bring-back.
    pub beyond_restoring: Named<UserId>,
    /// Accounts that only the target has.
    pub missing: Missing,
    /// Whether the target's counter of account numbers was raised.
    pub numbers_raised: bool,
}

/// What was done to accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Operations.
    pub operations: Operations,
    /// Passkeys.
    pub passkeys: Rows,
    /// Devices.
    pub devices: Rows,
    /// What does not survive the way back.
    pub lost: Lost,
}

/// What became of the accounts.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Accounts {
    /// That the target did not have.
    pub added: u64,
    /// Of which something was different.
    pub changed: u64,
    /// That the target already had like this.
    pub unchanged: u64,
    /// That were left as they were, and why.
    pub failed: Named<FailedAccount>,
}

/// What became of the operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Operations {
    /// Written.
    pub added: u64,
    /// Deleted: replaced, wiped or pruned here.
    pub removed: u64,
    /// That the target already had.
    pub kept: u64,
}

/// What became of small things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rows {
    /// Written, new or other than before.
    pub written: u64,
    /// Deleted.
    pub removed: u64,
}

/// What does not survive the way back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// Accounts with a password that the old server can't check.
    pub passwords: u64,
    /// Those of them that have no passkey: they sign in with a link by mail.
    pub passwords_without_passkey: u64,
    /// Links that were mailed and not used yet.
    pub links: u64,
    /// Accounts that the operator locked here. There they are open.
    pub locks: u64,
    /// Operations of which a value was replaced.
    pub values: u64,
}

/// Accounts that only the target has.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Deleted here.
    pub deleted_here: Named<MissingAccount>,
    /// How many of those were deleted there.
    pub deleted_there: u64,
    /// Never known here.
    pub unknown: Named<MissingAccount>,
}

/// An account that only the target has.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingAccount {
    /// Its number.
    pub account: UserId,
    /// What it holds there.
    pub operations: i64,
}

/// An account that was left as it was.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedAccount {
    /// Its number.
    pub account: UserId,
    /// Why.
    pub reason: String,
}

/// The first of a kind, and how many there are.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Named<T> {
    /// How many.
    pub count: u64,
    /// The first ones.
    pub first: Vec<T>,
}

impl<T> Named<T> {
    /// One more.
    pub(super) fn add(&mut self, one: T) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(one);
        }
    }
}
