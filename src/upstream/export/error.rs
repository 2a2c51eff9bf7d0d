//! Why there is no way back.

use std::fmt::{self, Display, Formatter};

use crate::backup::BackupError;
use crate::protocol::{Seq, UserId};
use crate::store::StoreError;

/// Why an export failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The target is not one to write to. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Our own data can't be read.
    #[error("this server's data can't be read: {0}")]
    Source(#[from] BackupError),
    /// A row of our own data is damaged.
    #[error("this server's data can't be read: {0}")]
    Corrupt(#[from] StoreError),
    /// The target failed. What was written until then stays; running the command again goes on.
    #[error("the target database failed: {}. What was written until then stays; run the command again", told(.0))]
    Target(sqlx::Error),
    /// A task ended that should not have.
    #[error("a task of the export failed")]
    Crashed,
}

/// Why the target is not one to write to.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is no address.
    #[error(
        "--to: expected postgres://user:password@host:port/name, with % @ / : ? # of the password percent-encoded (value not shown)"
    )]
    Address,
    /// It can't be reached or asked.
    #[error("the target database does not answer: {}", told(.0))]
    Unreachable(#[from] sqlx::Error),
    /// It is one of ours.
    #[error("the target is a database of this server, not of the old one")]
    Ours,
    /// It is something else.
    #[error("the target is no database of the old server: it has no tables users and operations")]
    NotUpstream,
    /// Its schema is not the newest.
    #[error(
        "the target's schema is older than the newest one of the old server; it lacks {missing}. The old server's own \
         migrations (up to {migration}) bring it: run them there (`npx prisma migrate deploy`), then this command again"
    )]
    Older {
        /// Columns.
        missing: String,
        /// The newest migration that brings one of them.
        migration: &'static str,
    },
    /// Its schema is newer than what is known here.
    #[error(
        "the target's schema is newer than what this program knows: {column} must be given a value. A newer version of \
         this program may know it"
    )]
    Newer {
        /// Which one.
        column: String,
    },
    /// Account numbers that were given out here could be given out there again.
    #[error("the target has no sequence users_id_seq, from which the old server numbers its accounts")]
    NoNumbers,
    /// The role may not do what is to be done.
    #[error("the role of --to lacks rights in the target: {}", .0.join("; "))]
    Rights(Vec<String>),
    /// A column holds something else.
    #[error("the target's column {column} is of type {found}, not {expected}: this is not the old server's schema")]
    OtherType {
        /// Which one.
        column: String,
        /// The type that it has.
        found: String,
        /// The type that it should have.
        expected: &'static str,
    },
    /// Somebody works on it.
    #[error(
        "the target database is in use by {0}. Stop the old server and whatever else works on it; --force goes on all the \
         same"
    )]
    InUse(String),
    /// The same command runs elsewhere.
    #[error("another export into this database is running")]
    Busy,
}

impl From<sqlx::Error> for ExportError {
    fn from(error: sqlx::Error) -> Self {
        Self::Target(error)
    }
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

/// Why one account was left as it was.
#[derive(Debug, thiserror::Error)]
pub enum AccountFault {
    /// A number of it does not fit into the old schema.
    #[error("its {what} is {value}, and the old server knows numbers up to 2147483647 only")]
    Number {
        /// Of what.
        what: &'static str,
        /// The number.
        value: i64,
    },
    /// In the target the number belongs to somebody else.
    #[error(
        "in the target this number belongs to another account, made at another time: the old server has gone on working \
         after the take-over"
    )]
    OtherAccount,
    /// The address is taken.
    #[error("in the target its address belongs to account {holder}{}", if *.is_missing {
        ", which was deleted here; --delete-missing deletes it there"
    } else {
        ""
    })]
    Address {
        /// Whose it is.
        holder: i32,
        /// Whether we don't have that account.
        is_missing: bool,
    },
    /// A passkey belongs to somebody else.
    #[error("in the target a passkey of it belongs to another account")]
    Passkey,
    /// The target has operations that we never had.
    #[error("the target's operation {seq} is none that this server has: {}", WENT_ON)]
    Diverged {
        /// The first one.
        seq: Seq,
    },
    /// What the target has comes before all that we have, but is not known to have been here.
    #[error(
        "the target's operations up to {seq} are none that this server is known to have had: its numbering has started \
         again there after the take-over, or nothing is left here to compare them with. --overwrite gives them up"
    )]
    Restarted {
        /// The last one.
        seq: Seq,
    },
    /// The target has a passkey that we never had.
    #[error("in the target it has a passkey that this server never had: {}", WENT_ON)]
    NewPasskey,
    /// It was deleted here, and the old server has worked on it.
    #[error(
        "it was deleted here, but what the target holds of it is not what was taken over: the old server has gone on \
         working, or an earlier export has written there. --delete-missing deletes it only with --overwrite"
    )]
    DeletedHere,
    /// Its address was verified there.
    #[error("in the target its address has been verified, which it is not here: {}", WENT_ON)]
    Verified,
    /// Its tokens were revoked there.
    #[error("in the target its tokens have been revoked, which are good here: {}", WENT_ON)]
    Revoked,
    /// An op id is taken. The old server has one space of ids for all accounts.
    #[error("its operation {seq} has the id {id}, which in the target belongs to {}", match .holder {
        Some(holder) => format!("account {holder}: the old server can't store an id twice"),
        None => "another operation of the same account".to_owned(),
    })]
    Collision {
        /// Where it stands in this account.
        seq: Seq,
        /// The id.
        id: String,
        /// Whose it is there.
        holder: Option<UserId>,
    },
    /// Operations can't be stored as the old server stores them.
    #[error("its {0}")]
    Unstorable(#[from] Unstorable),
    /// The database refused something.
    #[error("the target refused operations {first} to {last}: {what}")]
    Refused {
        /// From here on
        first: Seq,
        /// up to here.
        last: Seq,
        /// What it said, without values.
        what: String,
    },
    /// What was written is not what stands there.
    #[error("what the target holds after writing is not what this server has: {0}")]
    Unverified(String),
}

/// What is there that is not ours, and what can be done about it.
const WENT_ON: &str =
    "the old server has gone on working after the take-over. --overwrite gives up what only the target has";

/// So many are named.
const NAMED: usize = 20;

/// Operations that the old server can't store, and why.
#[derive(Clone, Debug, Default, thiserror::Error)]
pub struct Unstorable {
    first: Vec<(Seq, &'static str)>,
    count: u64,
    /// Whether an option of the command helps.
    pub(super) can_be_replaced: bool,
}

impl Unstorable {
    pub(super) fn add(&mut self, seq: Seq, what: &'static str) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push((seq, what));
        }
    }

    pub(super) const fn is_some(&self) -> bool {
        self.count > 0
    }
}

impl Display for Unstorable {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        for (at, (seq, what)) in self.first.iter().enumerate() {
            let before = if at == 0 { "" } else { "; its " };
            write!(out, "{before}operation {seq} can't be stored by the old server: {what}")?;
        }
        let more = self.count.saturating_sub(self.first.len() as u64);
        if more > 0 {
            write!(out, "; nor can {more} more of its operations")?;
        }
        if self.can_be_replaced {
            write!(out, ". --replace-values writes the nearest values that it can store")?;
        }
        Ok(())
    }
}

/// What ends the work on one account.
#[derive(Debug)]
pub(super) enum Stop {
    /// The account is left as it was; others go on.
    Fault(AccountFault),
    /// Everything ends.
    Failed(ExportError),
}

impl From<AccountFault> for Stop {
    fn from(fault: AccountFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ExportError> for Stop {
    fn from(error: ExportError) -> Self {
        Self::Failed(error)
    }
}

/// An operation that the database refused because of what it holds (data exception, constraint, limit) is the
/// account's fault; everything else ends the export.
pub(super) fn refused(error: sqlx::Error, first: Seq, last: Seq) -> Stop {
    let is_fault = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)));
    if is_fault { AccountFault::Refused { first, last, what: told(&error) }.into() } else { error.into() }
}
