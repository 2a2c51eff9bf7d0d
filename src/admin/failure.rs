//! How a command fails: what a person reads, and the code that scripts see.

use std::fmt::{self, Display};
use std::process::ExitCode;

use metrics_exporter_prometheus::BuildError;

use crate::accounts::{AccountError, PasswordRuleError};
use crate::config::ConfigErrors;
use crate::engine::EngineError;
use crate::mail::{MailConfigError, Trouble};
use crate::protocol::UserId;
use crate::store::StoreError;
use crate::telemetry::LogError;
use crate::top::TopError;
use crate::upstream::export::ExportError;
use crate::upstream::import::ImportError;

/// The exit code of a command that failed. Wrong arguments are 2, from the parser of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It failed, for any other reason.
    Failed = 1,
    /// There is no such account, session, data set or file.
    NotFound = 3,
    /// Refused as things stand.
    Refused = 4,
    /// The database does not answer.
    DatabaseUnavailable = 5,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The code that the program ends with.
    pub exit: Exit,
    text: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, reason: impl Display) -> Self {
        Self { exit, text: reason.to_string() }
    }

    /// With [`Exit::Failed`].
    pub fn failed(reason: impl Display) -> Self {
        Self::new(Exit::Failed, reason)
    }

    /// With [`Exit::NotFound`].
    pub(super) fn not_found(reason: impl Display) -> Self {
        Self::new(Exit::NotFound, reason)
    }

    /// There is no account with this address.
    pub(super) fn no_account(email: &str) -> Self {
        Self::not_found(format!("there is no account {email}; `supersync user list` shows all"))
    }

    /// There is no account with this number.
    pub(super) fn no_account_number(user: UserId) -> Self {
        Self::not_found(format!("there is no account with the number {user}"))
    }

    /// If any account could not be done; the log says why.
    pub(super) fn unless_done(failed: u64) -> Result<(), Self> {
        match failed {
            0 => Ok(()),
            failed => Err(Self::failed(format!("{failed} account(s) failed; run the command again"))),
        }
    }

    /// With [`Exit::Refused`].
    pub(super) fn refused(reason: impl Display) -> Self {
        Self::new(Exit::Refused, reason)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        (failure.exit as u8).into()
    }
}

impl<E: CommandError> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: error.exit(), text: error.text() }
    }
}

/// An error that ends a command.
pub trait CommandError: Display {
    /// The code that the program ends with.
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    /// What a person reads.
    fn text(&self) -> String {
        self.to_string()
    }
}

impl CommandError for BuildError {}
impl CommandError for ConfigErrors {}
impl CommandError for EngineError {}
impl CommandError for LogError {}
impl CommandError for MailConfigError {}
impl CommandError for PasswordRuleError {}
impl CommandError for TopError {}
impl CommandError for Trouble {}

impl CommandError for std::io::Error {
    fn text(&self) -> String {
        format!("standard input or output: {self}")
    }
}

impl CommandError for StoreError {
    fn exit(&self) -> Exit {
        if matches!(self, Self::Refused(_)) { Exit::Refused } else { Exit::DatabaseUnavailable }
    }

    fn text(&self) -> String {
        advised(self, self)
    }
}

/// With what the operator can do about the database.
fn advised(error: &dyn Display, cause: &StoreError) -> String {
    cause.advice().map_or_else(|| error.to_string(), |advice| format!("{error}. {advice}."))
}

impl CommandError for AccountError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoAccount => Exit::NotFound,
            Self::Database(error) => error.exit(),
            Self::Hash(_) => Exit::Failed,
            _ => Exit::Refused,
        }
    }

    fn text(&self) -> String {
        if let Self::Database(error) = self { advised(self, error) } else { self.to_string() }
    }
}

impl CommandError for ExportError {
    fn exit(&self) -> Exit {
        match self {
            Self::Refused(_) => Exit::Refused,
            Self::Unreachable(_) | Self::Target(_) => Exit::DatabaseUnavailable,
            Self::Source(_) | Self::Corrupt(_) | Self::Crashed => Exit::Failed,
        }
    }
}

impl CommandError for ImportError {
    fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => error.exit(),
            Self::Source(_) => Exit::DatabaseUnavailable,
            Self::Crashed | Self::Work(_) => Exit::Failed,
            Self::Refused(_) => Exit::Refused,
        }
    }
}
