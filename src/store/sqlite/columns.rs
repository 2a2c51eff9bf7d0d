//! The columns of a row that a connection of ours has read, under the name that the driver's rows give them, so that
//! `store::row` decodes both.
//!
//! Text and blobs are borrowed where the caller can do with that: they lie in the page that the connection has in hand.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::store::{Result, StoreError};

/// A row.
#[derive(Clone, Copy)]
pub(super) struct Columns<'r>(pub(super) &'r Row<'r>);

/// How a column is named: by its place. A trait, so that the type of a bare number is known.
pub(super) trait Place {
    fn place(self) -> usize;
}

impl Place for usize {
    fn place(self) -> usize {
        self
    }
}

/// What a column can be read as. `None`: it holds something else.
pub(super) trait Value<'r>: Sized {
    fn read(value: ValueRef<'r>) -> Option<Self>;
}

impl<'r> Columns<'r> {
    /// Reads a column.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it holds something else, or doesn't exist.
    pub(super) fn try_get<T: Value<'r>, P: Place>(self, at: P) -> Result<T> {
        let at = at.place();
        let value = self.0.get_ref(at).ok().and_then(T::read);
        value.ok_or_else(|| StoreError::Corrupt(format!("unreadable column {at}")))
    }
}

impl<'r, T: Value<'r>> Value<'r> for Option<T> {
    fn read(value: ValueRef<'r>) -> Option<Self> {
        match value {
            ValueRef::Null => Some(None),
            value => T::read(value).map(Some),
        }
    }
}

impl Value<'_> for i64 {
    fn read(value: ValueRef<'_>) -> Option<Self> {
        value.as_i64().ok()
    }
}

impl Value<'_> for i16 {
    fn read(value: ValueRef<'_>) -> Option<Self> {
        value.as_i64().ok()?.try_into().ok()
    }
}

impl Value<'_> for bool {
    fn read(value: ValueRef<'_>) -> Option<Self> {
        value.as_i64().ok().map(|number| number != 0)
    }
}

impl<'r> Value<'r> for &'r str {
    fn read(value: ValueRef<'r>) -> Option<Self> {
        value.as_str().ok()
    }
}

impl Value<'_> for String {
    fn read(value: ValueRef<'_>) -> Option<Self> {
        value.as_str().ok().map(Self::from)
    }
}

impl<'r> Value<'r> for &'r [u8] {
    fn read(value: ValueRef<'r>) -> Option<Self> {
        value.as_blob().ok()
    }
}

impl Value<'_> for Vec<u8> {
    fn read(value: ValueRef<'_>) -> Option<Self> {
        value.as_blob().ok().map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_that_holds_something_else_is_damage() {
        let connection = rusqlite::Connection::open_in_memory().expect("a connection");
        let mut statement =
            connection.prepare("SELECT 70000, 'a', x'ff', NULL, CAST(x'ff' AS TEXT)").expect("it is SQL");
        let mut rows = statement.query([]).expect("it runs");
        let row = Columns(rows.next().expect("it runs").expect("a row"));
        assert_eq!(row.try_get::<i64, _>(0).expect("a number"), 70_000);
        assert_eq!(row.try_get::<&str, _>(1).expect("a text"), "a");
        assert_eq!(row.try_get::<&[u8], _>(2).expect("a blob"), [0xff]);
        assert_eq!(row.try_get::<Option<String>, _>(3).expect("nothing"), None);
        let damage = |error: StoreError| assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
        damage(row.try_get::<i16, _>(0).expect_err("too large"));
        damage(row.try_get::<i64, _>(1).expect_err("a text"));
        damage(row.try_get::<String, _>(2).expect_err("a blob"));
        damage(row.try_get::<i64, _>(3).expect_err("nothing"));
        damage(row.try_get::<&str, _>(4).expect_err("not UTF-8"));
        damage(row.try_get::<i64, _>(5).expect_err("no such column"));
    }
}
