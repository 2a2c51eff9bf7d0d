//! Why a dump can't be taken over. Names places, never values.

use std::io;

/// Why a dump can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file can't be opened or read, or what it is compressed with is damaged.
    #[error("the dump can't be read: {0}")]
    Read(io::Error),
    /// The copy of the operations can't be written or read.
    #[error("the working copy of the dump's operations: {0}")]
    Work(io::Error),
    /// It is `pg_dump`'s, but no SQL.
    #[error(
        "the dump is an archive (pg_dump -F{0}), not SQL. Make SQL of it: pg_restore -f dump.sql {1}, and import that"
    )]
    Archive(char, &'static str),
    /// It has statements where data should be.
    #[error(
        "line {0}: the dump was made with --inserts or --column-inserts; make it without: pg_dump -f dump.sql <database>"
    )]
    Inserts(u64),
    /// It is not in UTF-8.
    #[error("line {0}: the dump is not in UTF-8; make it so: pg_dump -E UTF8 -f dump.sql <database>")]
    Encoding(u64),
    /// It ends too early, or was not made by `pg_dump`.
    #[error("the dump lacks pg_dump's last line: it is not complete, or none")]
    Incomplete,
    /// It ends within a table.
    #[error("the dump ends within the table {0}: it is not complete")]
    EndsWithin(String),
    /// A line is longer than any that the old server can have made.
    #[error("line {line}: longer than {limit} bytes")]
    LineTooLong {
        /// Which.
        line: u64,
        /// How long it may be.
        limit: usize,
    },
    /// A table is there twice.
    #[error(
        "the dump has the table {table} twice, in the lines {first} and {second}; it must be of one database, and of one \
         schema of it (pg_dump -n public)"
    )]
    Twice {
        /// Which.
        table: String,
        /// Where it begins
        first: u64,
        /// and begins again.
        second: u64,
    },
    /// Two operations have the same number.
    #[error("lines {0} and {1}: two operations of one account have the same server_seq")]
    SameSeq(u64, u64),
    /// A line is not what `pg_dump` writes.
    #[error("line {line}: {what}")]
    Malformed {
        /// Which.
        line: u64,
        /// What is wrong with it, without any value.
        what: String,
    },
}

impl DumpError {
    pub(super) fn malformed(line: u64, what: impl Into<String>) -> Self {
        Self::Malformed { line, what: what.into() }
    }
}
