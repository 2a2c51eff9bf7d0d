//! Reads a backup, as hostile input: what is not exactly as the format says is refused with the place where it is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::cursor::Source;
use super::error::BackupError;
use super::format::{
    Header, MAGIC, MAX_FRAME, MAX_RECORD, SectionEnd, SectionHead, VERSION, WINDOW_LOG, frame_hash, leb128, row, tag,
};
use crate::store::backup::{Column, OLDEST_SCHEMA, Row, TABLES, Table, Value, schema_version, table};

/// Bytes that are unpacked ahead of the records.
const UNPACKED_AHEAD: usize = 64 << 10;

/// A file of which a part has been read: what follows is a section or the end.
pub(super) struct Reader<'a> {
    source: BufReader<File>,
    /// Counts the bytes read.
    progress: Option<&'a AtomicU64>,
    /// Of everything read.
    hash: Sha256,
    at: u64,
    place: String,
    /// What the file is.
    pub(super) header: Header,
    /// How many sections have been read.
    sections: u32,
    /// The first of the tables that may follow.
    next: usize,
}

/// A section of which a part has been read.
pub(crate) struct Section<'a> {
    /// Where it begins in the file.
    pub(super) at: u64,
    /// Whose rows these are.
    pub(super) table: &'static Table,
    /// What each row has.
    pub(super) columns: Vec<&'static Column>,
    records: BufReader<zstd::stream::read::Decoder<'static, Pieces<'a>>>,
    hash: Xxh3,
    rows: u64,
    bytes: u64,
    last_key: Vec<Value>,
}

impl<'a> Reader<'a> {
    /// Reads what the file is.
    pub(super) fn open(path: &Path, progress: &'a AtomicU64) -> Result<Self, BackupError> {
        let header = Header::default();
        let mut reader = Self::at(path, 0, "its header".to_owned(), header)?;
        reader.progress = Some(progress);
        let mut magic = [0; MAGIC.len()];
        match reader.take(&mut magic) {
            Err(BackupError::Cut { .. }) => return Err(BackupError::NotABackup),
            taken => taken?,
        }
        if &magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        let mut version = [0; 2];
        reader.take(&mut version)?;
        let found = u16::from_le_bytes(version);
        if found > VERSION || found == 0 {
            return Err(BackupError::NewerFormat(found));
        }
        let (kind, body) = reader.frame()?;
        if kind != tag::HEADER {
            return Err(reader.damaged("it does not begin with a header"));
        }
        reader.header = serde_json::from_slice(&body).map_err(|_| reader.damaged("the header is unreadable"))?;
        if !(OLDEST_SCHEMA..=schema_version()).contains(&reader.header.schema) {
            let Header { schema: found, program, .. } = reader.header;
            return Err(BackupError::OtherSchema { found, program });
        }
        Ok(reader)
    }

    fn at(path: &Path, at: u64, place: String, header: Header) -> Result<Self, BackupError> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        let source = BufReader::new(file);
        Ok(Self { source, progress: None, hash: Sha256::new(), at, place, header, sections: 0, next: 0 })
    }

    /// Goes on to the next section. `None`: the file was read to its end and is whole.
    pub(super) fn next(mut self) -> Result<Option<Section<'a>>, BackupError> {
        "the place between two sections".clone_into(&mut self.place);
        let (at, whole) = (self.at, self.hash.clone());
        match self.frame()? {
            (tag::SECTION, body) => self.section(at, &body).map(Some),
            (tag::TRAILER, body) => self.end(&body, &whole.finalize()).map(|()| None),
            _ => Err(self.damaged("neither a section nor the end")),
        }
    }

    fn end(&mut self, body: &[u8], whole: &[u8]) -> Result<(), BackupError> {
        "its end".clone_into(&mut self.place);
        if body.strip_prefix(&self.sections.to_le_bytes()) != Some(whole) {
            return Err(self.damaged("the checksum of the whole file does not fit"));
        }
        let missing = TABLES.iter().skip(self.next).find(|table| is_due(table, self.header.schema));
        if let Some(table) = missing {
            return Err(self.damaged(&format!("there is no section {}", table.name)));
        }
        match self.source.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(self.damaged("something follows the end")),
        }
    }

    fn section(mut self, at: u64, body: &[u8]) -> Result<Section<'a>, BackupError> {
        let head: SectionHead =
            serde_json::from_slice(body).map_err(|_| self.damaged("the head of a section is unreadable"))?;
        let table = table(&head.table).ok_or_else(|| self.damaged("a section of an unknown table"))?;
        self.place = format!("section {}", table.name);
        // In the order of the list, each once; only those that the file's schema did not have may be left out.
        let place = TABLES.iter().position(|known| known.name == table.name);
        let place = place.filter(|place| *place >= self.next);
        let place = place.ok_or_else(|| self.damaged("sections are not in order"))?;
        if TABLES[self.next..place].iter().any(|skipped| is_due(skipped, self.header.schema)) {
            return Err(self.damaged("a section is missing before this one"));
        }
        let columns = columns(table, &head, self.header.schema)
            .ok_or_else(|| self.damaged("it has other columns than the table"))?;
        (self.sections, self.next) = (self.sections + 1, place + 1);
        let pieces = Pieces { reader: self, piece: Vec::new(), read: 0, end: None, failed: None };
        let mut decoder = zstd::stream::read::Decoder::with_buffer(pieces)?.single_frame();
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Section {
            at,
            table,
            columns,
            records: BufReader::with_capacity(UNPACKED_AHEAD, decoder),
            hash: Xxh3::new(),
            rows: 0,
            bytes: 0,
            last_key: Vec::new(),
        })
    }

    fn damaged(&self, what: &str) -> BackupError {
        BackupError::Damaged { at: self.at, place: self.place.clone(), what: what.to_owned() }
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        match self.source.read_exact(bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(BackupError::Cut { at: self.at, place: self.place.clone() });
            }
            read => read?,
        }
        self.hash.update(&*bytes);
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.at += len;
        if let Some(progress) = self.progress {
            progress.fetch_add(len, Ordering::Relaxed);
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let mut head = [0; 5];
        self.take(&mut head)?;
        let [kind, len @ ..] = head;
        if !tag::ALL.contains(&kind) {
            return Err(self.damaged("an unknown frame"));
        }
        let len = usize::try_from(u32::from_le_bytes(len)).ok().filter(|len| *len <= MAX_FRAME);
        let mut body = vec![0; len.ok_or_else(|| self.damaged("a frame is too long"))?];
        self.take(&mut body)?;
        let mut stated = [0; 8];
        self.take(&mut stated)?;
        if u64::from_le_bytes(stated) != frame_hash(&head, &body) {
            return Err(self.damaged("a checksum does not fit"));
        }
        Ok((kind, body))
    }
}

/// Whether a file of this schema has the table.
fn is_due(table: &Table, schema: i64) -> bool {
    table.columns.first().is_some_and(|column| column.since <= schema)
}

/// The columns of a section: those of the table in their order, without those that the file's schema did not have.
fn columns(table: &'static Table, head: &SectionHead, schema: i64) -> Option<Vec<&'static Column>> {
    let due: Vec<_> = table.columns.iter().filter(|column| column.since <= schema).collect();
    let named = |(column, (name, kind, nullable)): (&&Column, &(String, String, bool))| {
        column.name == name && column.kind.as_str() == kind && column.nullable == *nullable
    };
    (due.len() == head.columns.len() && due.iter().zip(&head.columns).all(named)).then_some(due)
}

impl<'a> Section<'a> {
    /// A section of a file that has been read before: its rows can be read, but not what follows them.
    pub(super) fn again(path: &Path, at: u64, header: &Header, table: &'static Table) -> Result<Self, BackupError> {
        let mut reader = Reader::at(path, at, format!("section {}", table.name), header.clone())?;
        reader.next = TABLES.iter().position(|known| known.name == table.name).unwrap_or(0);
        match reader.frame()? {
            (tag::SECTION, body) => reader.section(at, &body),
            _ => Err(reader.damaged("the file has changed")),
        }
    }

    /// The bytes of the next record, without its length.
    fn record(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        let is_over = self.records.fill_buf().map(<[u8]>::is_empty);
        if is_over.map_err(|error| self.failure(&error))? {
            return Ok(None);
        }
        let (mut length, mut failed) = (Vec::with_capacity(10), None);
        let len = leb128(|| {
            let mut byte = [0];
            failed = self.records.read_exact(&mut byte).err();
            length.push(byte[0]);
            failed.is_none().then_some(byte[0])
        });
        if let Some(error) = failed {
            return Err(self.failure(&error));
        }
        let limit = u64::try_from(MAX_RECORD).unwrap_or(u64::MAX);
        let len = len.filter(|len| *len <= limit).ok_or_else(|| self.damaged("a record is too long"))?;
        let mut record = Vec::new();
        // Grows with what is really there, whatever the length says.
        let read = self.records.by_ref().take(len).read_to_end(&mut record);
        let read = read.map_err(|error| self.failure(&error))?;
        if u64::try_from(read).ok() != Some(len) {
            return Err(self.damaged("a record ends early"));
        }
        self.hash.update(&length);
        self.hash.update(&record);
        self.bytes += len + u64::try_from(length.len()).unwrap_or(u64::MAX);
        Ok(Some(record))
    }

    /// Ends the section, all rows of which have been read.
    pub(super) fn finish(self) -> Result<Reader<'a>, BackupError> {
        let found = SectionEnd { rows: self.rows, bytes: self.bytes, hash: self.hash.digest128() };
        let mut pieces = self.records.into_inner().finish();
        // What unpacks the records need not have seen that they are over.
        if pieces.end.is_none() && pieces.read == pieces.piece.len() {
            pieces.next_piece()?;
        }
        match pieces.end {
            Some(stated) if stated == found => Ok(pieces.reader),
            Some(_) => Err(pieces.reader.damaged("its rows are not those that were written")),
            None => Err(pieces.reader.damaged("something follows the records")),
        }
    }

    fn damaged(&self, what: &str) -> BackupError {
        self.records.get_ref().get_ref().reader.damaged(what)
    }

    /// What an error while unpacking means: what kept the packed bytes from being read, or that they can't be unpacked.
    fn failure(&mut self, error: &io::Error) -> BackupError {
        let pieces = self.records.get_mut().get_mut();
        match pieces.failed.take() {
            Some(failed) => failed,
            None => pieces.reader.damaged(&format!("it can't be unpacked ({error})")),
        }
    }
}

impl Source for Section<'_> {
    type Error = BackupError;

    /// The next row; `None`: that was the last one.
    fn row(&mut self) -> Result<Option<Row>, BackupError> {
        let Some(record) = self.record()? else { return Ok(None) };
        let row = row(&self.columns, &record).ok_or_else(|| self.damaged("a record is not a row of the table"))?;
        let key = &row[..self.table.key];
        if !self.last_key.is_empty() && key <= self.last_key.as_slice() {
            return Err(self.damaged("rows are not in order"));
        }
        self.last_key = key.to_vec();
        self.rows += 1;
        Ok(Some(row))
    }

    fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|known| known.name == column)
    }
}

/// The packed bytes of a section, out of its frames.
struct Pieces<'a> {
    reader: Reader<'a>,
    piece: Vec<u8>,
    read: usize,
    end: Option<SectionEnd>,
    failed: Option<BackupError>,
}

impl Pieces<'_> {
    fn next_piece(&mut self) -> Result<(), BackupError> {
        match self.reader.frame()? {
            (tag::DATA, body) => (self.piece, self.read) = (body, 0),
            (tag::SECTION_END, body) => {
                let end = SectionEnd::decode(&body);
                self.end = Some(end.ok_or_else(|| self.reader.damaged("its end is unreadable"))?);
            }
            _ => return Err(self.reader.damaged("a section does not end")),
        }
        Ok(())
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.read == self.piece.len() && self.end.is_none() {
            if let Err(error) = self.next_piece() {
                self.failed = Some(error);
                return Err(io::Error::other("the packed bytes can't be read"));
            }
        }
        Ok(&self.piece[self.read..])
    }

    fn consume(&mut self, read: usize) {
        self.read = (self.read + read).min(self.piece.len());
    }
}
