//! The one place where a database error becomes a [`StoreError`], and where calls are measured.

use std::time::Instant;

/// What went wrong in the database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Certainly not applied; trying again may help (connection refused, pool exhausted, serialisation failure, busy).
    #[error("database unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Not applied: there is no room left on the database's disk.
    #[error("the database's disk is full: {0}")]
    Full(#[source] sqlx::Error),
    /// Certainly not applied: the statement ran longer than it may and was cancelled.
    #[error("database statement timed out: {0}")]
    Timeout(#[source] sqlx::Error),
    /// The connection was lost while a commit was under way: it may have been applied or not.
    #[error("outcome unknown: {0}")]
    Unknown(#[source] sqlx::Error),
    /// A stored value can't be what it is.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// Anything else: a defect here or in the schema. Not applied.
    #[error("database error: {0}")]
    Internal(#[source] sqlx::Error),
    /// The schema is newer than this program, or another process holds the file, …: refuse to start.
    #[error("{0}")]
    Refused(String),
}

/// A store's result.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A PostgreSQL SQLSTATE or SQLite result code that says "a unique key is taken".
pub(super) fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whether the row that a new one belongs to is gone.
pub(super) fn is_foreign_key_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_foreign_key_violation)
}

/// Whether the same statement may well succeed if it is simply run again: serialisation failure and deadlock.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| matches!(code.as_str(), "40001" | "40P01"))
}

/// Whether the statement gave up waiting for a lock (PostgreSQL's `lock_timeout`).
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "55P03")
}

/// Whether the connection broke, so that the client can't know how far the server got.
pub(super) fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // The server ends the session; whether before or after the commit is not said.
        sqlx::Error::Database(_) => {
            code(error).is_some_and(|code| code.starts_with("08") || code == "57P01" || code == "57P02")
        }
        _ => false,
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|e| e.code().map(std::borrow::Cow::into_owned))
}

impl From<sqlx::Error> for StoreError {
    /// Right for everything but a commit whose connection broke; `of_commit` is for that.
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::Unavailable(error),
            sqlx::Error::ColumnDecode { index, .. } => Self::Corrupt(format!("unreadable column {index}")),
            sqlx::Error::Database(_) => match code(&error).as_deref() {
                Some("57014") => Self::Timeout(error),
                // PostgreSQL: disk_full. SQLite: FULL (13), and IOERR_SHMSIZE, which is the same for the index of its log.
                Some("53100" | "13" | "4874") => Self::Full(error),
                // PostgreSQL: serialisation, deadlock, lock timeout, read-only, session ended for its idleness, password
                // or user refused, no such database, too many connections, starting up or shutting down, out of memory.
                Some(code)
                    if matches!(
                        code,
                        "40001" | "40P01" | "55P03" | "25006" | "25P03" | "25P04" | "28P01" | "28000" | "3D000"
                    ) || code.len() == 5
                        && (code.starts_with("08") || code.starts_with("53") || code.starts_with("57P")) =>
                {
                    Self::Unavailable(error)
                }
                // SQLite: BUSY (5), LOCKED (6), IOERR (10), CANTOPEN (14), with their extended forms in the higher bits.
                Some(code)
                    if code.len() < 5 && code.parse::<u32>().is_ok_and(|n| matches!(n & 0xff, 5 | 6 | 10 | 14)) =>
                {
                    Self::Unavailable(error)
                }
                Some(code) if code.parse::<u32>().is_ok_and(|n| n == 11 || n == 26) => {
                    Self::Corrupt(format!("database file: {error}"))
                }
                _ => Self::Internal(error),
            },
            _ if is_connection_lost(&error) => Self::Unavailable(error),
            _ => Self::Internal(error),
        }
    }
}

impl StoreError {
    /// The same for a statement that commits: a broken connection leaves the outcome open.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        if is_connection_lost(&error) { Self::Unknown(error) } else { error.into() }
    }

    /// The same error, for a call of which a part has been applied.
    pub(super) fn made_unknown(self) -> Self {
        match self {
            Self::Unavailable(error)
            | Self::Full(error)
            | Self::Timeout(error)
            | Self::Unknown(error)
            | Self::Internal(error) => Self::Unknown(error),
            other => other,
        }
    }

    /// The same error, for a step whose outcome doesn't matter, because what it prepared is not used.
    pub(super) fn made_unapplied(self) -> Self {
        match self {
            Self::Unknown(error) => Self::Unavailable(error),
            other => other,
        }
    }

    /// The same error for somebody else who waited for the same statement. The driver's errors can't be copied: what
    /// is left of one is its text.
    pub(super) fn for_another(&self) -> Self {
        let copy = |error: &sqlx::Error| match error {
            sqlx::Error::PoolTimedOut => sqlx::Error::PoolTimedOut,
            sqlx::Error::PoolClosed => sqlx::Error::PoolClosed,
            other => sqlx::Error::Io(std::io::Error::other(other.to_string())),
        };
        match self {
            Self::Unavailable(error) => Self::Unavailable(copy(error)),
            Self::Full(error) => Self::Full(copy(error)),
            Self::Timeout(error) => Self::Timeout(copy(error)),
            Self::Unknown(error) => Self::Unknown(copy(error)),
            Self::Internal(error) => Self::Internal(copy(error)),
            Self::Corrupt(text) => Self::Corrupt(text.clone()),
            Self::Refused(text) => Self::Refused(text.clone()),
        }
    }

    /// What the driver said.
    pub(super) fn driver(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Unavailable(error)
            | Self::Full(error)
            | Self::Timeout(error)
            | Self::Unknown(error)
            | Self::Internal(error) => Some(error),
            Self::Corrupt(_) | Self::Refused(_) => None,
        }
    }

    /// What the operator can do about a database that can't be reached, or may not be written to.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        let Self::Unavailable(error) = self else { return None };
        Some(match (code(error).as_deref(), error) {
            (Some("28P01" | "28000"), _) => {
                "It refuses the user or the password. If the password was changed, put the new one into DATABASE_URL and \
                 restart, or give the role the one that is there"
            }
            (Some("3D000"), _) => "Create the database, or name the right one in DATABASE_URL",
            (Some("53300"), _) => "Raise max_connections in PostgreSQL, or lower connection_limit in DATABASE_URL",
            (Some("57P01" | "57P02" | "57P03"), _) => "It is starting or stopping: wait",
            (_, sqlx::Error::Io(error)) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                "During a switchover, wait. Otherwise promote a server that DATABASE_URL names, or find out why writes were \
                 stopped (a full disk?) and reset default_transaction_read_only"
            }
            (_, sqlx::Error::Io(_) | sqlx::Error::Tls(_)) => "Start it, or correct host and port in DATABASE_URL",
            _ => return None,
        })
    }

    /// Whether the database server said so.
    pub(super) fn is_answer(&self) -> bool {
        self.driver().is_none_or(|error| matches!(error, sqlx::Error::Database(_)))
    }

    /// Whether the connection on which it happened is of no use any more: it broke, the server ends it, or it leads to a
    /// server that takes no writes.
    pub(super) fn ends_connection(&self) -> bool {
        self.driver().is_some_and(|error| {
            is_connection_lost(error)
                || code(error)
                    .is_some_and(|code| code.starts_with("57P") || matches!(code.as_str(), "25006" | "25P03" | "25P04"))
        })
    }

    /// The error's kind as a metric label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Full(_) => "full",
            Self::Timeout(_) => "timeout",
            Self::Unknown(_) => "unknown",
            Self::Corrupt(_) => "corrupt",
            Self::Internal(_) => "internal",
            Self::Refused(_) => "refused",
        }
    }
}

/// Runs one call of the store on a connection of its own and records how long it took and how it ended.
pub(super) async fn timed<T>(statement: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
    timed_on(statement, "own", call).await
}

/// The same for a call on one of the store's pools.
pub(super) async fn timed_on<T>(
    statement: &'static str,
    pool: &'static str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let start = Instant::now();
    let result = call.await;
    let outcome = result.as_ref().err().map_or("ok", StoreError::label);
    metrics::histogram!("supersync_store_statement_seconds", "statement" => statement, "pool" => pool, "outcome" => outcome)
        .record(start.elapsed());
    result
}

/// Records how long somebody has waited for a connection of a pool.
pub(super) fn waited(pool: &'static str, since: Instant) {
    metrics::histogram!("supersync_store_wait_seconds", "pool" => pool).record(since.elapsed());
}
