//! A file that `pg_dump` made of the old server's database: SQL with `COPY` blocks, as it is or compressed with gzip
//! (operations contract, sections 8.6 and 13.3).
//!
//! The file is read once, from its beginning to its end, when the import begins; everything but the operations is held
//! then, which an import does anyway. The operations go to a working copy (`spool`) about as large as they are in the
//! uncompressed dump. What is read is treated as hostile: lines, columns and values have limits, and nothing of it is
//! ever executed or shown.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use super::error::ImportError;
use super::rows::{self, SourceOp, Tables};
use super::shape;
use super::source::{Batch, Source};
use crate::protocol::UserId;
use crate::upstream::copy_text::Row;
use crate::upstream::schema::{Found, TABLES, columns_read};

mod copy;
mod spool;

pub use copy::{Copies, Header, MAX_LINE};

use spool::Spool;

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;
/// How a file begins that was compressed with gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A dump that is yet to be read.
pub struct Dump {
    from: Box<dyn BufRead + Send>,
    /// The file's length in bytes, as far as is known.
    pub length: u64,
    /// The file again, at the same place: how far it has been read.
    pub place: Arc<File>,
}

/// A dump that has been read. Its tables are handed over, so once; operations as often as one likes.
#[derive(Debug)]
pub struct DumpSource {
    tables: Tables,
    /// Columns of the operations.
    columns: Arc<[String]>,
    spool: Arc<Spool>,
}

impl Dump {
    /// Opens the file and looks at its beginning.
    ///
    /// # Errors
    /// When it can't be read, or is of another kind.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let unreadable = |error: io::Error| ImportError::unreadable(&error);
        let file = File::open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        if about.is_dir() {
            return Err(copy::archive('d', "FOLDER").into());
        }
        let place = Arc::new(file.try_clone().map_err(unreadable)?);
        let mut from = BufReader::with_capacity(BUFFER, file);
        let is_packed = from.fill_buf().map_err(unreadable)?.starts_with(&GZIP);
        let mut from: Box<dyn BufRead + Send> = if is_packed {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(from)))
        } else {
            Box::new(from)
        };
        copy::refuse_archives(from.fill_buf().map_err(unreadable)?)?;
        Ok(Self { from, length: about.len(), place })
    }

    /// Reads it to its end, on a thread that may wait. Operations go to a file without name in `folder`.
    ///
    /// # Errors
    /// When it is not what `pg_dump` writes of the old server's tables, or the working copy can't be written.
    pub async fn read(self, folder: PathBuf) -> Result<DumpSource, ImportError> {
        let work = move || contents(self.from, &folder);
        tokio::task::spawn_blocking(work).await.map_err(|_| ImportError::Crashed)?
    }
}

fn contents(from: impl BufRead, folder: &Path) -> Result<DumpSource, ImportError> {
    let (mut tables, mut found, mut operations) = (Tables::default(), Vec::new(), Vec::new());
    let mut spool = Spool::create(folder)?;
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut copies = Copies::new(from);
    while let Some(Header { table, columns, line }) = copies.next_table()? {
        if !TABLES.contains(&table.as_str()) {
            continue;
        }
        if let Some(first) = seen.insert(table.clone(), line) {
            return Err(ImportError::Refused(format!(
                "the dump has the table {table} twice, in the lines {first} and {line}; it must be of one database, and of \
                 one schema of it (pg_dump -n public)"
            )));
        }
        found.extend(columns.iter().map(|name| found_column(&table, name)));
        // What lacks a column that every release has is none of them: said when all is known. Its rows can't be read.
        let is_whole = shape::has_all(&table, &columns);
        while let Some((text, line)) = copies.next_row()? {
            if !is_whole {
                continue;
            }
            let row = Row::new(&columns, text, line)?;
            tables.add(&table, &row)?;
            if table == "operations" {
                spool.put(&row, text, line)?;
            } else if table == "user_sync_state"
                && let Some(snapshot) = row.blob("snapshot_data")?
            {
                spool.put_snapshot(row.required(Row::int, "user_id")?, &snapshot)?;
            }
        }
        if table == "operations" {
            operations = columns;
        }
    }
    tables.missing = shape::missing(&found)?;
    tables.logs = spool.finish()?;
    tables.finish(copies.last_number());
    Ok(DumpSource { tables, columns: operations.into(), spool: Arc::new(spool) })
}

/// A column. That its values are of the type that was expected shows when they are read.
fn found_column(table: &str, name: &str) -> Found {
    let known = columns_read(table).find(|column| column.name == name);
    let kind = known.map_or("", |known| known.kind).to_owned();
    Found { table: table.to_owned(), name: name.to_owned(), kind, not_null: false, has_default: false }
}

#[async_trait]
impl Source for DumpSource {
    /// Nobody works on a file. Whether the old server went on after it was made can't be seen in it.
    async fn others(&mut self) -> Result<String, ImportError> {
        Ok(String::new())
    }

    async fn open(&mut self) -> Result<Tables, ImportError> {
        Ok(std::mem::take(&mut self.tables))
    }

    async fn snapshot(&mut self, user: UserId) -> Result<Option<Vec<u8>>, ImportError> {
        let spool = Arc::clone(&self.spool);
        let work = move || spool.snapshot(user);
        tokio::task::spawn_blocking(work).await.map_err(|_| ImportError::Crashed)?
    }

    async fn operations(&mut self, user: UserId, to: &mpsc::Sender<Vec<SourceOp>>) -> Result<(), ImportError> {
        let (spool, columns, to) = (Arc::clone(&self.spool), Arc::clone(&self.columns), to.clone());
        let work = move || {
            let mut batch = Batch::default();
            spool.rows(user, |row, line| {
                let op = rows::operation(&Row::new(&columns, row, line)?)?;
                Ok(batch.add(op).is_none_or(|full| to.blocking_send(full).is_ok()))
            })?;
            // If nobody wants it, nobody misses it.
            to.blocking_send(batch.rest()).ok();
            Ok(())
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| ImportError::Crashed)?
    }
}
