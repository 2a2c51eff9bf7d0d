//! Why an import could not be made.

use super::DumpError;
use crate::store::StoreError;

/// Why nothing, or not all, was taken over.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The address is none.
    #[error(
        "--from: expected postgres://user:password@host:port/name with % @ / : ? # of the password percent-encoded, or a file that pg_dump made (value not shown)"
    )]
    Address,
    /// The source is a dump that can't be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The source can't be reached or read.
    #[error("the source: {0}")]
    Source(#[from] sqlx::Error),
    /// The source is not the old server's database.
    #[error("the source is not the old server's database: {0}")]
    NotUpstream(String),
    /// A column has another type than every known version of the old server gives it.
    #[error("the source's column {column} is of type {found}, but {expected} was expected; nothing was taken over")]
    OtherType {
        /// Table and column.
        column: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The role may not read what is to be read.
    #[error("the role of --from lacks rights in the source: {}", .0.join("; "))]
    Rights(Vec<String>),
    /// Somebody works on the source.
    #[error(
        "others work on the source: {0}. Stop the old server first, or what it writes from now on is lost; \
         --rehearsal takes over what there is all the same"
    )]
    SourceInUse(String),
    /// Somebody works on our database.
    #[error("a server or a command works on this server's database; stop it first")]
    TargetInUse,
    /// Our database has accounts of its own.
    #[error(
        "this server's database has {0} account(s) that were not taken over from this source; import into an empty \
         database"
    )]
    ForeignAccounts(u64),
    /// Our database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part of the import ended without saying why.
    #[error("the import broke off")]
    Crashed,
}
