//! Places in a backup: several tables can be read side by side, account by account, because each is in the order of accounts.

use std::fs::File;
use std::io::BufReader;

use super::BackupError;
use super::reader::Section;
use crate::protocol::UserId;
use crate::store::backup::{Column, Row, Value};

/// A place in a section.
pub(crate) struct Cursor {
    section: Section<BufReader<File>>,
    next: Option<Row>,
}

impl Cursor {
    pub(super) fn new(mut section: Section<BufReader<File>>) -> Result<Self, BackupError> {
        let next = section.row()?;
        Ok(Self { section, next })
    }

    /// Whose row is next.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.next.as_ref().and_then(|row| int(row, 0))
    }

    /// The next row, if it is this account's.
    pub(crate) fn take(&mut self, user: UserId) -> Result<Option<Row>, BackupError> {
        if self.user() != Some(user) {
            return Ok(None);
        }
        let next = self.section.row()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// The next row, whoever's it is; of tables that belong to no account, or are not in their order.
    pub(crate) fn take_any(&mut self) -> Result<Option<Row>, BackupError> {
        let next = self.section.row()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// The columns of its rows.
    pub(crate) fn columns(&self) -> &[&'static Column] {
        &self.section.columns
    }

    /// A number of the next row, if it is this account's.
    pub(crate) fn peek(&self, user: UserId, column: &str) -> Option<i64> {
        self.next.as_ref().filter(|_| self.user() == Some(user)).and_then(|row| self.named(row, column))
    }

    /// A number of a row.
    pub(super) fn named(&self, row: &Row, column: &str) -> Option<i64> {
        int(row, self.section.columns.iter().position(|known| known.name == column)?)
    }
}

fn int(row: &Row, at: usize) -> Option<i64> {
    match row.get(at) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    }
}
