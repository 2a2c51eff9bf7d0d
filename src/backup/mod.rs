//! A database in one file: written while servers run, checked, and read back into either kind of database.
//!
//! Owns the format (`docs/backup.md`) and what a file must satisfy before a database is filled from it. What is read is
//! treated as hostile: every length has a limit, memory grows only with bytes that are really there, and names in the
//! file choose among tables and columns that this program knows. Knows nothing of databases: rows come from
//! [`crate::store::backup`] and go there. Nothing here blocks the runtime's threads: files are read and written on
//! threads of their own.

mod check;
pub mod contents;
mod cursor;
mod error;
mod file;
mod format;
mod reader;
pub mod rotate;
mod writer;

pub(crate) use check::Rows;
pub use check::{Checked, check};
pub use cursor::Source;
pub use error::BackupError;
pub use file::{Draft, Progress, WORKING_COPY, Written, abandoned, is_working_copy, may_replace, restore, write};
pub use format::Header;
