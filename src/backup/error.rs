//! What can be wrong with a backup.

use std::io;

use super::format::VERSION;
use crate::store::StoreError;
use crate::store::backup::{OLDEST_SCHEMA, schema_version};

/// Why a backup can't be made, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file can't be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not begin as a backup does.
    #[error("this is no backup made by `supersync backup`")]
    NotABackup,
    /// Its format is of a later program.
    #[error(
        "the backup has format {0}, and this program knows formats up to {VERSION}: use a newer version of the program"
    )]
    NewerFormat(u16),
    /// Its rows are of another version of the schema.
    #[error(
        "the backup was made with schema version {found}; this program restores versions {OLDEST_SCHEMA} to {}. Restore it \
         with the version of the program that made it ({program}), then start this one",
        schema_version()
    )]
    OtherSchema {
        /// The file's.
        found: i64,
        /// What made the file.
        program: String,
    },
    /// It ends before its end.
    #[error("the backup is cut off: it ends at byte {at}, in {place}")]
    Cut {
        /// Where.
        at: u64,
        /// In which part.
        place: String,
    },
    /// A part of it is not as it was written.
    #[error("the backup is damaged at about byte {at}, in {place}: {what}")]
    Damaged {
        /// Where.
        at: u64,
        /// In which part.
        place: String,
        /// How that shows.
        what: String,
    },
    /// What it holds breaks the rules that every database satisfies.
    #[error("the backup is whole, but what it holds is not in order: {0} fault(s), listed above")]
    Faults(u64),
    /// The database is not empty.
    #[error("the database holds {0} account(s); only an empty one is filled. --replace deletes them first")]
    NotEmpty(i64),
    /// Somebody works on the database.
    #[error("the database is in use by a server or another command; stop it first")]
    InUse,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A task ended that should not have.
    #[error("a task of the backup failed")]
    Crashed,
}
