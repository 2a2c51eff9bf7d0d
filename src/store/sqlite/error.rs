//! Errors of the connections that have a thread of their own, in the shape of the driver's, so that `store::error` stays
//! the one place that says what a result code means.

use std::borrow::Cow;
use std::error::Error as StdError;

use rusqlite::ffi;
use sqlx::error::{DatabaseError, ErrorKind};

use crate::store::StoreError;
use crate::store::group::Failure;

/// What the database said: its extended result code and its words.
#[derive(Debug, thiserror::Error)]
#[error("(code: {code}) {message}")]
struct Refusal {
    code: i32,
    message: String,
}

impl DatabaseError for Refusal {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.code.to_string().into())
    }

    fn kind(&self) -> ErrorKind {
        match self.code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => ErrorKind::UniqueViolation,
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => ErrorKind::ForeignKeyViolation,
            ffi::SQLITE_CONSTRAINT_NOTNULL => ErrorKind::NotNullViolation,
            ffi::SQLITE_CONSTRAINT_CHECK => ErrorKind::CheckViolation,
            _ => ErrorKind::Other,
        }
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }
}

/// The same error as the driver would report it.
pub(super) fn as_driver_error(error: rusqlite::Error) -> sqlx::Error {
    match error {
        rusqlite::Error::SqliteFailure(cause, message) => {
            let message = message.unwrap_or_else(|| ffi::code_to_str(cause.extended_code).to_owned());
            sqlx::Error::Database(Box::new(Refusal { code: cause.extended_code, message }))
        }
        rusqlite::Error::FromSqlConversionFailure(column, ..)
        | rusqlite::Error::IntegralValueOutOfRange(column, _)
        | rusqlite::Error::Utf8Error(column, _)
        | rusqlite::Error::InvalidColumnType(column, ..) => {
            sqlx::Error::ColumnDecode { index: column.to_string(), source: Box::new(error) }
        }
        other => sqlx::Error::Decode(Box::new(other)),
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        as_driver_error(error).into()
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;

    use super::*;

    fn failure(code: i32) -> StoreError {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()
    }

    #[test]
    fn result_codes_mean_what_they_mean_for_the_driver() {
        for code in [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_BUSY_SNAPSHOT,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_CANTOPEN,
        ] {
            assert!(matches!(failure(code), StoreError::Unavailable(_)), "{code}");
        }
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            assert!(matches!(failure(code), StoreError::Full(_)), "{code}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(failure(code), StoreError::Corrupt(_)), "{code}");
        }
        for code in [ffi::SQLITE_ERROR, ffi::SQLITE_READONLY, ffi::SQLITE_TOOBIG, ffi::SQLITE_CONSTRAINT_FOREIGNKEY] {
            assert!(matches!(failure(code), StoreError::Internal(_)), "{code}");
        }
    }

    #[tokio::test]
    async fn a_refusal_reads_as_the_drivers() {
        const TABLE: &str = "CREATE TABLE operations (user_id, generation, server_seq, op_id, \
                             PRIMARY KEY (user_id, server_seq), UNIQUE (user_id, generation, op_id))";
        const FIRST: &str = "INSERT INTO operations VALUES (1, 1, 1, 'a')";
        let ours = rusqlite::Connection::open_in_memory().expect("a connection");
        let mut drivers = sqlx::SqliteConnection::connect("sqlite::memory:").await.expect("a connection");
        for sql in [TABLE, FIRST] {
            ours.execute_batch(sql).expect("it works");
            sqlx::query(sql).execute(&mut drivers).await.expect("it works");
        }
        for (sql, is_duplicate) in [
            ("INSERT INTO operations VALUES (1, 1, 2, 'a')", true),
            ("INSERT INTO operations VALUES (1, 1, 1, 'b')", false),
            ("INSERT INTO nowhere VALUES (1)", false),
        ] {
            let our = as_driver_error(ours.execute(sql, []).expect_err("refused"));
            let theirs = sqlx::query(sql).execute(&mut drivers).await.expect_err("refused");
            let (our_cause, their_cause) = (our.as_database_error(), theirs.as_database_error());
            let (our_cause, their_cause) = (our_cause.expect("a refusal"), their_cause.expect("a refusal"));
            assert_eq!(our_cause.message(), their_cause.message());
            assert_eq!(our_cause.code(), their_cause.code());
            assert_eq!(our_cause.is_unique_violation(), their_cause.is_unique_violation());
            assert_eq!(our.to_string(), theirs.to_string());
            assert_eq!(matches!(Failure::from(our), Failure::Duplicate), is_duplicate, "{sql}");
        }
    }
}
