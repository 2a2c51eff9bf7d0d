//! Why nothing was taken over.

use crate::backup::BackupError;

/// Why an import failed as a whole. The target is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The address is none.
    #[error("--from: {0}")]
    Address(String),
    /// Nobody answers there, or the database fails.
    #[error("the old server's database: {0}")]
    Source(#[from] sqlx::Error),
    /// It is something else.
    #[error("that is no database of the old server: there is no {0}")]
    NotUpstream(String),
    /// A column holds something that no version of the old server has put there.
    #[error("{column} is of type {found}, expected {expected}: this is no database that the old server has made")]
    OtherType {
        /// Which one.
        column: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Somebody works on the source.
    #[error("others are connected to the old server's database: {0}. Stop the old server, or give --rehearsal")]
    InUse(String),
    /// Some accounts can't be taken over as they are.
    #[error(
        "{0} account(s) can't be taken over, as listed above. --leave-out goes on without them; nothing was changed"
    )]
    Faults(usize),
    /// What was written is not what was read.
    #[error("the result differs from the old database: {0}")]
    Differs(String),
    /// The file in between, or the target.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The target failed.
    #[error("this server's database: {0}")]
    Store(#[from] crate::store::StoreError),
}
