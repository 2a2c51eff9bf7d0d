//! Why an import could not be made.

use std::io;

use crate::store::StoreError;
use crate::upstream::copy_text::Malformed;

/// Why nothing, or not all, was taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source is not one to take from, or our database not one to fill. In words, without any value.
    #[error("{0}")]
    Refused(String),
    /// The source can't be reached or read.
    #[error("the source: {0}")]
    Source(#[from] sqlx::Error),
    /// The copy of a dump's operations can't be written or read.
    #[error("the working copy of the dump's operations: {0}")]
    Work(io::Error),
    /// Our database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part of the import ended without saying why.
    #[error("the import broke off")]
    Crashed,
}

impl From<Malformed> for ImportError {
    fn from(what: Malformed) -> Self {
        Self::Refused(what)
    }
}

impl From<rusqlite::Error> for ImportError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Work(io::Error::other(error))
    }
}

impl ImportError {
    /// A dump can't be opened or read, or what it is compressed with is damaged.
    pub(super) fn unreadable(error: &io::Error) -> Self {
        Self::Refused(format!("the dump can't be read: {error}"))
    }
}
