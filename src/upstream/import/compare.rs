//! Whether a database holds what it was given: two streams of rows, side by side.

use tokio::sync::mpsc;

use super::ImportError;
use crate::store::backup::{Piece, Row, Table};

/// A stream of rows, one by one.
struct Rows {
    from: mpsc::Receiver<Piece>,
    table: Option<&'static Table>,
    ready: std::vec::IntoIter<Row>,
}

impl Rows {
    const fn new(from: mpsc::Receiver<Piece>, ready: std::vec::IntoIter<Row>) -> Self {
        Self { from, table: None, ready }
    }

    /// The next row with its table. `None`: that was all; `Err`: the stream broke off.
    async fn next(&mut self) -> Result<Option<(&'static Table, Row)>, ()> {
        loop {
            if let (Some(table), Some(row)) = (self.table, self.ready.next()) {
                return Ok(Some((table, row)));
            }
            match self.from.recv().await {
                Some(Piece::Begin(_)) => {}
                Some(Piece::Table(table, _)) => self.table = Some(table),
                Some(Piece::Rows(rows)) => self.ready = rows.into_iter(),
                Some(Piece::End) => return Ok(None),
                None => return Err(()),
            }
        }
    }
}

/// Compares two streams to their ends. `Ok(None)`: one of them broke off, which its own side explains.
pub(super) async fn compare(
    given: mpsc::Receiver<Piece>,
    held: mpsc::Receiver<Piece>,
) -> Result<Option<u64>, ImportError> {
    let (mut given, mut held) = (Rows::new(given, Vec::new().into_iter()), Rows::new(held, Vec::new().into_iter()));
    let mut rows = 0;
    loop {
        let (Ok(of_given), Ok(of_held)) = (given.next().await, held.next().await) else { return Ok(None) };
        let (table, differs) = match (of_given, of_held) {
            (None, None) => return Ok(Some(rows)),
            (Some((table, given)), Some((other, held))) => (table, table.name != other.name || given != held),
            (Some((table, _)), None) | (None, Some((table, _))) => (table, true),
        };
        rows += 1;
        if differs {
            return Err(ImportError::Differs(format!("row {rows}, in {}", table.name)));
        }
    }
}
