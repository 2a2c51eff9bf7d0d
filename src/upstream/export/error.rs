//! Why there is no way back.

use crate::backup::BackupError;
use crate::protocol::Seq;
use crate::store::StoreError;

/// Why an export failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The target is not one to write to, in words. Nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It can't be reached or asked whether it is one. Nothing was changed.
    #[error("the target database does not answer: {}", told(.0))]
    Unreachable(sqlx::Error),
    /// Our own data can't be read.
    #[error("this server's data can't be read: {0}")]
    Source(#[from] BackupError),
    /// A row of our own data is damaged.
    #[error("this server's data can't be read: {0}")]
    Corrupt(#[from] StoreError),
    /// The target failed. What was written until then stays; running the command again goes on.
    #[error("the target database failed: {}. What was written until then stays; run the command again", told(.0))]
    Target(#[from] sqlx::Error),
    /// A task ended that should not have.
    #[error("a task of the export failed")]
    Crashed,
}

/// A database's error without the values in it: they may be a user's.
fn told(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} ({code})", error.message()),
            None => error.message().to_owned(),
        },
        other => other.to_string(),
    }
}

/// What ends the work on one account.
#[derive(Debug)]
pub(super) enum Stop {
    /// The account is left as it was, for this reason; others go on.
    Fault(String),
    /// Everything ends.
    Failed(ExportError),
}

impl From<String> for Stop {
    fn from(fault: String) -> Self {
        Self::Fault(fault)
    }
}

impl<E: Into<ExportError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// What is there that is not ours, and what can be done about it.
pub(super) const WENT_ON: &str =
    "the old server has gone on working after the take-over. --overwrite gives up what only the target has";

/// A number as the old server has it.
pub(super) fn small(what: &str, value: i64) -> Result<i32, String> {
    i32::try_from(value)
        .map_err(|_| format!("its {what} is {value}, and the old server knows numbers up to {} only", i32::MAX))
}

/// What the target holds after writing is something else.
pub(super) fn unverified(what: &str) -> String {
    format!("what the target holds after writing is not what this server has: {what}")
}

/// An operation that the database refused because of what it holds (data exception, constraint, limit) is the
/// account's fault; everything else ends the export.
pub(super) fn refused(error: sqlx::Error, first: Seq, last: Seq) -> Stop {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    if code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class))) {
        return Stop::Fault(format!("the target refused operations {first} to {last}: {}", told(&error)));
    }
    error.into()
}

/// So many are named.
const NAMED: usize = 20;

/// Operations that the old server can't store, and why.
#[derive(Default)]
pub(super) struct Unstorable {
    named: Vec<String>,
    count: usize,
    /// Whether an option of the command helps.
    can_be_replaced: bool,
}

impl Unstorable {
    pub(super) fn add(&mut self, seq: Seq, what: &str, can_be_replaced: bool) {
        self.count += 1;
        self.can_be_replaced |= can_be_replaced;
        if self.named.len() < NAMED {
            self.named.push(unstorable(seq, what));
        }
    }

    /// Fails if there is any.
    pub(super) fn verify(&self) -> Result<(), String> {
        if self.count == 0 {
            return Ok(());
        }
        let more = match self.count.saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; nor can {more} more of its operations"),
        };
        let remedy =
            if self.can_be_replaced { ". --replace-values writes the nearest values that it can store" } else { "" };
        Err(format!("{}{more}{remedy}", self.named.join("; ")))
    }
}

/// An operation can't be stored as the old server stores it.
pub(super) fn unstorable(seq: Seq, what: &str) -> String {
    format!("its operation {seq} can't be stored by the old server: {what}")
}
