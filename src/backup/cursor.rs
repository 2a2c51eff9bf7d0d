//! Places in tables: several can be read side by side, account by account, because each is in the order of accounts.

use crate::protocol::UserId;
use crate::store::backup::{Row, Value};

/// The rows of a table, in the order of its key.
pub trait Source {
    /// Why they can't be read.
    type Error;

    /// The next row.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    fn row(&mut self) -> Result<Option<Row>, Self::Error>;

    /// Where a row has this column, if it has it.
    fn position(&self, column: &str) -> Option<usize>;
}

/// A place in a table.
pub(crate) struct Cursor<S> {
    pub(super) source: S,
    next: Option<Row>,
}

impl<S: Source> Cursor<S> {
    pub(super) fn open(mut source: S) -> Result<Self, S::Error> {
        let next = source.row()?;
        Ok(Self { source, next })
    }

    /// Whose row is next.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.next.as_ref().and_then(|row| int(row.first()))
    }

    /// The next row, if it is this account's.
    pub(crate) fn take(&mut self, user: UserId) -> Result<Option<Row>, S::Error> {
        if self.user() == Some(user) { self.take_any() } else { Ok(None) }
    }

    /// The next row, whoever's it is; of tables that belong to no account, or are not in their order.
    pub(crate) fn take_any(&mut self) -> Result<Option<Row>, S::Error> {
        if self.next.is_none() {
            return Ok(None);
        }
        let next = self.source.row()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// A number of the next row, if it is this account's.
    pub(crate) fn peek(&self, user: UserId, column: &str) -> Option<i64> {
        self.next.as_ref().filter(|_| self.user() == Some(user)).and_then(|row| self.number(row, column))
    }

    /// A value of a row.
    pub(super) fn value<'a>(&self, row: &'a Row, column: &str) -> Option<&'a Value> {
        row.get(self.source.position(column)?)
    }

    /// A number of a row.
    pub(super) fn number(&self, row: &Row, column: &str) -> Option<i64> {
        int(self.value(row, column))
    }
}

fn int(value: Option<&Value>) -> Option<i64> {
    if let Some(Value::Int(number)) = value { Some(*number) } else { None }
}
