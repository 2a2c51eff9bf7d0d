//! A file that `pg_dump` made of the old server's database: SQL with `COPY` blocks, as it is or compressed with gzip
//! (operations contract, sections 8.6 and 13.3).
//!
//! The file is read once, from its beginning to its end, when the import begins; everything but the operations is held
//! then, which an import does anyway. The operations go to a working copy (`spool`) about as large as they are in the
//! uncompressed dump. What is read is treated as hostile: lines, columns and values have limits, and nothing of it is
//! ever executed or shown.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use super::ImportError;
use super::shape::Shape;
use super::source::{
    BATCH_BYTES, BATCH_OPS, Source, SourceDevice, SourceLog, SourceOp, SourcePasskey, SourcePending, SourceUser,
};
use crate::protocol::UserId;
use crate::upstream::schema::{Found, TABLES, column};

mod copy;
mod error;
mod field;
mod rows;
mod spool;

pub use copy::{Copies, Header, MAX_LINE};
pub use error::DumpError;
pub use field::Row;

use spool::{Spool, Spooled, Spooler};

/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;
/// How a file begins that was compressed with gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What a dump holds of the tables that are read, but for the operations.
#[derive(Debug, Default)]
struct Contents {
    found: Vec<Found>,
    users: Vec<SourceUser>,
    passkeys: Vec<(String, SourcePasskey)>,
    pending: Vec<(String, SourcePending)>,
    devices: Vec<SourceDevice>,
    states: Vec<rows::State>,
    highest_number: UserId,
    /// Columns of the operations.
    columns: Vec<String>,
}

/// A dump that has been read. What is asked for is handed over, so once; operations as often as one likes.
#[derive(Debug)]
pub struct DumpSource {
    contents: Contents,
    spool: Arc<Spool>,
}

/// A dump that is yet to be read.
#[derive(Debug)]
pub struct Dump {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Dump {
    /// Opens the file and looks at its beginning.
    ///
    /// # Errors
    /// [`DumpError::Read`], [`DumpError::Archive`].
    pub fn open(path: &Path) -> Result<Self, DumpError> {
        let file = File::open(path).map_err(DumpError::Read)?;
        let about = file.metadata().map_err(DumpError::Read)?;
        if about.is_dir() {
            return Err(DumpError::Archive('d', "FOLDER"));
        }
        let dump = Self { path: path.to_owned(), file, length: about.len() };
        // A pipe can't be read twice; what it is will be seen when it is read.
        if about.is_file() {
            let again = File::open(&dump.path).map_err(DumpError::Read)?;
            copy::refuse_archives(&mut uncompressed(again, Arc::default()).map_err(DumpError::Read)?)?;
        }
        Ok(dump)
    }

    /// The file's length in bytes, as far as is known.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Reads it to its end, on a thread that may wait. Operations go to a file without name in `folder`. `read` is how many
    /// bytes of the file have been read.
    ///
    /// # Errors
    /// See [`DumpError`].
    pub async fn read(self, folder: PathBuf, read: Arc<AtomicU64>) -> Result<DumpSource, ImportError> {
        let work = move || {
            let mut from = uncompressed(self.file, read).map_err(DumpError::Read)?;
            copy::refuse_archives(&mut from)?;
            contents(from, &folder)
        };
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_| ImportError::Crashed)??)
    }
}

/// Counts what is read.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn uncompressed(file: File, read: Arc<AtomicU64>) -> io::Result<Box<dyn BufRead + Send>> {
    let mut from = BufReader::with_capacity(BUFFER, Counted { file, read });
    if from.fill_buf()?.starts_with(&GZIP) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(from))));
    }
    Ok(Box::new(from))
}

fn contents(from: impl BufRead, folder: &Path) -> Result<DumpSource, DumpError> {
    let mut contents = Contents::default();
    let mut spooler = Spooler::create(folder)?;
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut copies = Copies::new(from);
    while let Some(Header { table, columns, line }) = copies.next_table()? {
        if !TABLES.contains(&table.as_str()) {
            continue;
        }
        if let Some(first) = seen.insert(table.clone(), line) {
            return Err(DumpError::Twice { table, first, second: line });
        }
        contents.found.extend(columns.iter().map(|name| found(&table, name)));
        // What lacks a column that every release has is none of them: said when all is known. Its rows can't be read.
        let is_whole = Shape::has_all(&table, &columns);
        while let Some((text, line)) = copies.next_row()? {
            if !is_whole {
                continue;
            }
            let row = Row::new(&columns, text, line)?;
            match table.as_str() {
                "users" => contents.users.push(rows::user(&row)?),
                "passkeys" => contents.passkeys.push(rows::passkey(&row)?),
                "pending_passkey_registrations" => contents.pending.push(rows::pending(&row)?),
                "sync_devices" => contents.devices.push(rows::device(&row)?),
                "user_sync_state" => {
                    let mut state = rows::state(&row)?;
                    if let Some(snapshot) = state.snapshot.take() {
                        spooler.put_snapshot(state.user, &snapshot)?;
                    }
                    contents.states.push(state);
                }
                _ => {
                    spooler.put(rows::place(&row)?, line, text)?;
                }
            }
        }
        if table == "operations" {
            contents.columns = columns;
        }
    }
    contents.put_in_order();
    let highest = contents.users.last().map_or(0, |user| user.id);
    contents.highest_number = copies.last_number().map_or(highest, |number| number.max(highest));
    Ok(DumpSource { contents, spool: Arc::new(spooler.finish()?) })
}

/// A column. That its values are of the type that was expected shows when they are read.
fn found(table: &str, name: &str) -> Found {
    let kind = column(table, name).map_or("", |known| known.kind).to_owned();
    Found { table: table.to_owned(), name: name.to_owned(), kind, not_null: false, has_default: false }
}

impl Contents {
    fn put_in_order(&mut self) {
        self.users.sort_by_key(|user| user.id);
        self.passkeys.sort_by(|(a, one), (b, other)| (one.user, a).cmp(&(other.user, b)));
        self.pending.sort_by(|(a, one), (b, other)| (one.key.user, a).cmp(&(other.key.user, b)));
        self.devices.sort_by(|one, other| (one.user, &one.client_id).cmp(&(other.user, &other.client_id)));
        let states: HashMap<UserId, rows::State> = self.states.drain(..).map(|state| (state.user, state)).collect();
        for user in &mut self.users {
            if let Some(state) = states.get(&user.id) {
                user.last_seq = state.last_seq;
                user.marks = state.marks.clone();
            }
        }
    }
}

#[async_trait]
impl Source for DumpSource {
    async fn open(&mut self) -> Result<Vec<String>, ImportError> {
        Ok(Shape::of(std::mem::take(&mut self.contents.found))?.missing)
    }

    /// Nobody works on a file. Whether the old server went on after it was made can't be seen in it.
    async fn others(&mut self) -> Result<String, ImportError> {
        Ok(String::new())
    }

    async fn users(&mut self) -> Result<Vec<SourceUser>, ImportError> {
        Ok(std::mem::take(&mut self.contents.users))
    }

    async fn passkeys(&mut self) -> Result<Vec<SourcePasskey>, ImportError> {
        Ok(std::mem::take(&mut self.contents.passkeys).into_iter().map(|(_, key)| key).collect())
    }

    async fn pending(&mut self) -> Result<Vec<SourcePending>, ImportError> {
        Ok(std::mem::take(&mut self.contents.pending).into_iter().map(|(_, pending)| pending).collect())
    }

    async fn devices(&mut self) -> Result<Vec<SourceDevice>, ImportError> {
        Ok(std::mem::take(&mut self.contents.devices))
    }

    async fn logs(&mut self) -> Result<Vec<SourceLog>, ImportError> {
        Ok(self.spool.logs().to_vec())
    }

    async fn highest_number(&mut self) -> Result<UserId, ImportError> {
        Ok(self.contents.highest_number)
    }

    async fn snapshot(&mut self, user: UserId) -> Result<Option<Vec<u8>>, ImportError> {
        let spool = Arc::clone(&self.spool);
        let work = move || spool.snapshot(user);
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_| ImportError::Crashed)??)
    }

    async fn operations(&mut self, user: UserId, to: &mpsc::Sender<Vec<SourceOp>>) -> Result<(), ImportError> {
        let (spool, columns, to) = (Arc::clone(&self.spool), self.contents.columns.clone(), to.clone());
        let work = move || operations(&spool, &columns, user, &to);
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_| ImportError::Crashed)??)
    }
}

fn operations(
    spool: &Spool,
    columns: &[String],
    user: UserId,
    to: &mpsc::Sender<Vec<SourceOp>>,
) -> Result<(), DumpError> {
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_OPS), 0);
    spool.rows(user, |Spooled { line, row, .. }| {
        let op = rows::operation(&Row::new(columns, &row, line)?)?;
        bytes += op.payload.len();
        batch.push(op);
        if batch.len() < BATCH_OPS && bytes < BATCH_BYTES {
            return Ok(true);
        }
        bytes = 0;
        Ok(to.blocking_send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH_OPS))).is_ok())
    })?;
    if !batch.is_empty() {
        // If nobody wants it, nobody misses it.
        to.blocking_send(batch).ok();
    }
    Ok(())
}
