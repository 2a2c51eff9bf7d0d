//! Reads a backup, as hostile input: what is not exactly as the format says is refused with the place where it is.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::BackupError;
use super::format::{
    Header, MAGIC, MAX_FRAME, MAX_RECORD, MAX_SECTIONS, SectionEnd, SectionHead, Tag, VERSION, WINDOW_LOG, frame_hash,
    leb128, row,
};
use crate::store::backup::{Column, OLDEST_SCHEMA, Row, TABLES, Table, Value, schema_version, table};

/// Bytes that are unpacked ahead of the records.
const UNPACKED_AHEAD: usize = 64 << 10;

/// A file of which a part has been read: what follows is a section or the end.
pub(super) struct Reader<R: Read> {
    frames: Frames<R>,
    header: Header,
    seen: Seen,
}

/// The sections that have been read.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// How many.
    sections: u32,
    /// The first of the tables that may follow.
    next: usize,
}

/// What follows in a file.
pub(super) enum Next<R: Read> {
    /// A section.
    Section(Box<Section<R>>),
    /// Nothing: the file was read to its end and is whole.
    End,
}

/// A section of which a part has been read.
pub(super) struct Section<R: Read> {
    /// Where it begins in the file.
    pub(super) at: u64,
    /// Whose rows these are.
    pub(super) table: &'static Table,
    /// What each row has.
    pub(super) columns: Vec<&'static Column>,
    records: BufReader<zstd::stream::read::Decoder<'static, Pieces<R>>>,
    header: Header,
    seen: Seen,
    hash: Xxh3,
    rows: u64,
    bytes: u64,
    last_key: Vec<Value>,
}

impl<R: Read> Reader<R> {
    /// Reads what the file is.
    pub(super) fn open(source: R) -> Result<Self, BackupError> {
        let mut frames = Frames { source, hash: Sha256::new(), at: 0, place: "its header".to_owned() };
        let mut magic = [0; MAGIC.len()];
        match frames.take(&mut magic) {
            Err(BackupError::Cut { .. }) => return Err(BackupError::NotABackup),
            taken => taken?,
        }
        if &magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        let mut version = [0; 2];
        frames.take(&mut version)?;
        let found = u16::from_le_bytes(version);
        if found > VERSION || found == 0 {
            return Err(BackupError::NewerFormat { found, known: VERSION });
        }
        let (tag, body) = frames.frame()?;
        if tag != Tag::Header {
            return Err(frames.damaged("it does not begin with a header"));
        }
        let header: Header = serde_json::from_slice(&body).map_err(|_| frames.damaged("the header is unreadable"))?;
        let (oldest, newest) = (OLDEST_SCHEMA, schema_version());
        if !(oldest..=newest).contains(&header.schema) {
            let Header { schema: found, program, .. } = header;
            return Err(BackupError::OtherSchema { found, oldest, newest, program });
        }
        Ok(Self { frames, header, seen: Seen::default() })
    }

    pub(super) const fn header(&self) -> &Header {
        &self.header
    }

    /// Goes on to the next section, or to the end.
    pub(super) fn next(mut self) -> Result<Next<R>, BackupError> {
        "the place between two sections".clone_into(&mut self.frames.place);
        let (at, whole) = (self.frames.at, self.frames.hash.clone());
        let (tag, body) = self.frames.frame()?;
        match tag {
            Tag::Section => self.section(at, &body).map(|section| Next::Section(Box::new(section))),
            Tag::Trailer => {
                self.end(&body, &whole.finalize())?;
                Ok(Next::End)
            }
            _ => Err(self.frames.damaged("neither a section nor the end")),
        }
    }

    fn end(&mut self, body: &[u8], whole: &[u8]) -> Result<(), BackupError> {
        "its end".clone_into(&mut self.frames.place);
        if body.strip_prefix(&self.seen.sections.to_le_bytes()) != Some(whole) {
            return Err(self.frames.damaged("the checksum of the whole file does not fit"));
        }
        let missing = TABLES.iter().skip(self.seen.next).find(|table| is_due(table, self.header.schema));
        if let Some(table) = missing {
            return Err(self.frames.damaged(&format!("there is no section {}", table.name)));
        }
        match self.frames.source.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(self.frames.damaged("something follows the end")),
        }
    }

    fn section(mut self, at: u64, body: &[u8]) -> Result<Section<R>, BackupError> {
        let unreadable = |frames: &Frames<R>| frames.damaged("the head of a section is unreadable");
        let head: SectionHead = serde_json::from_slice(body).map_err(|_| unreadable(&self.frames))?;
        let place = TABLES.iter().position(|table| table.name == head.table);
        let table = table(&head.table).ok_or_else(|| self.frames.damaged("a section of an unknown table"))?;
        self.frames.place = format!("section {}", table.name);
        // In the order of the list, each once; only those that the file's schema did not have may be left out.
        let place = place.filter(|place| (self.seen.next..MAX_SECTIONS).contains(place));
        let place = place.ok_or_else(|| self.frames.damaged("sections are not in order"))?;
        if TABLES[self.seen.next..place].iter().any(|skipped| is_due(skipped, self.header.schema)) {
            return Err(self.frames.damaged("a section is missing before this one"));
        }
        let columns = columns(table, &head, self.header.schema)
            .ok_or_else(|| self.frames.damaged("it has other columns than the table"))?;
        let pieces = Pieces { frames: self.frames, piece: Vec::new(), read: 0, end: None, failed: None };
        let mut decoder = zstd::stream::read::Decoder::with_buffer(pieces)?.single_frame();
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Section {
            at,
            table,
            columns,
            records: BufReader::with_capacity(UNPACKED_AHEAD, decoder),
            header: self.header,
            seen: Seen { sections: self.seen.sections + 1, next: place + 1 },
            hash: Xxh3::new(),
            rows: 0,
            bytes: 0,
            last_key: Vec::new(),
        })
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

impl<R: Read> Section<R> {
    /// The next row; `None`: that was the last one.
    pub(super) fn row(&mut self) -> Result<Option<Row>, BackupError> {
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

    /// The bytes of the next record, without its length.
    fn record(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        let is_over = self.records.fill_buf().map(<[u8]>::is_empty);
        if is_over.map_err(|error| self.failure(&error))? {
            return Ok(None);
        }
        let mut length = Vec::with_capacity(10);
        let mut failed = None;
        let len = leb128(|| {
            let mut byte = [0];
            match self.records.read_exact(&mut byte) {
                Ok(()) => {
                    length.push(byte[0]);
                    Some(byte[0])
                }
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
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
    pub(super) fn finish(self) -> Result<Reader<R>, BackupError> {
        let found = SectionEnd { rows: self.rows, bytes: self.bytes, hash: self.hash.digest128() };
        let mut pieces = self.records.into_inner().finish();
        let stated = match pieces.end {
            Some(end) => end,
            None if pieces.read < pieces.piece.len() => {
                return Err(pieces.frames.damaged("something follows the records"));
            }
            None => match pieces.frames.frame()? {
                (Tag::SectionEnd, body) => SectionEnd::decode(&body)
                    .filter(|_| body.len() == SectionEnd::BYTES)
                    .ok_or_else(|| pieces.frames.damaged("its end is unreadable"))?,
                _ => return Err(pieces.frames.damaged("something follows the records")),
            },
        };
        if stated != found {
            return Err(pieces.frames.damaged("its rows are not those that were written"));
        }
        Ok(Reader { frames: pieces.frames, header: self.header, seen: self.seen })
    }

    fn damaged(&self, what: &str) -> BackupError {
        self.records.get_ref().get_ref().frames.damaged(what)
    }

    /// What an error while unpacking means: what kept the packed bytes from being read, or that they can't be unpacked.
    fn failure(&mut self, error: &io::Error) -> BackupError {
        let pieces = self.records.get_mut().get_mut();
        match pieces.failed.take() {
            Some(failed) => failed,
            None => pieces.frames.damaged(&format!("it can't be unpacked ({error})")),
        }
    }
}

impl<R: Read> Section<R> {
    /// A section of a file that has been read before, with the source at its beginning: its rows can be read, but not
    /// what follows them.
    pub(super) fn again(source: R, at: u64, header: &Header, table: &'static Table) -> Result<Self, BackupError> {
        let mut frames = Frames { source, hash: Sha256::new(), at, place: format!("section {}", table.name) };
        let (tag, body) = frames.frame()?;
        let next = TABLES.iter().position(|known| known.name == table.name).unwrap_or(0);
        if tag != Tag::Section {
            return Err(frames.damaged("the file has changed"));
        }
        Reader { frames, header: header.clone(), seen: Seen { sections: 0, next } }.section(at, &body)
    }
}

struct Frames<R: Read> {
    source: R,
    /// Of everything read.
    hash: Sha256,
    at: u64,
    place: String,
}

impl<R: Read> Frames<R> {
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
        self.at += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn frame(&mut self) -> Result<(Tag, Vec<u8>), BackupError> {
        let mut head = [0; 5];
        self.take(&mut head)?;
        let [tag, len @ ..] = head;
        let tag = Tag::parse(tag).ok_or_else(|| self.damaged("an unknown frame"))?;
        let len = usize::try_from(u32::from_le_bytes(len)).ok().filter(|len| *len <= MAX_FRAME);
        let mut body = vec![0; len.ok_or_else(|| self.damaged("a frame is too long"))?];
        self.take(&mut body)?;
        let mut stated = [0; 8];
        self.take(&mut stated)?;
        if u64::from_le_bytes(stated) != frame_hash(&head, &body) {
            return Err(self.damaged("a checksum does not fit"));
        }
        Ok((tag, body))
    }
}

/// The packed bytes of a section, out of its frames.
struct Pieces<R: Read> {
    frames: Frames<R>,
    piece: Vec<u8>,
    read: usize,
    end: Option<SectionEnd>,
    failed: Option<BackupError>,
}

impl<R: Read> Pieces<R> {
    fn next_piece(&mut self) -> Result<(), BackupError> {
        match self.frames.frame()? {
            (Tag::Data, body) => {
                (self.piece, self.read) = (body, 0);
                Ok(())
            }
            (Tag::SectionEnd, body) => {
                let end = SectionEnd::decode(&body).filter(|_| body.len() == SectionEnd::BYTES);
                self.end = Some(end.ok_or_else(|| self.frames.damaged("its end is unreadable"))?);
                Ok(())
            }
            _ => Err(self.frames.damaged("a section does not end")),
        }
    }
}

impl<R: Read> Read for Pieces<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Pieces<R> {
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
