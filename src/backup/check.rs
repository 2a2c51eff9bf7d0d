//! Whether a backup can be relied on: first that the file is whole, then that what it holds is in order
//! ([`super::contents`]).

use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::BackupError;
use super::contents::{self, OF_ACCOUNTS, Source};
use super::cursor::Cursor;
use super::format::Header;
use super::reader::{Next, Reader, Section};
use crate::store::backup::{Row, Table};

/// So many faults are told; the others are counted.
const TOLD: usize = 20;

/// What a backup holds.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What it says of itself.
    pub header: Header,
    /// Rows by table.
    pub rows: Vec<(&'static str, u64)>,
    /// Operations, packed or not.
    pub operations: u64,
    /// The first faults, in words.
    pub faults: Vec<String>,
    /// How many faults there are.
    pub fault_count: u64,
    /// Where the sections begin.
    pub(super) places: Vec<(&'static Table, u64)>,
}

impl Checked {
    /// Rows of a table.
    #[must_use]
    pub fn rows_of(&self, table: &str) -> u64 {
        self.rows.iter().find(|(name, _)| *name == table).map_or(0, |(_, rows)| *rows)
    }

    /// The rows of a table, to be read while others are.
    ///
    /// # Errors
    /// When the file is not the one that was checked.
    pub(crate) fn cursor(&self, path: &Path, table: &str) -> Result<Cursor, BackupError> {
        Cursor::new(open(path, &self.header, &self.places, table)?)
    }
}

/// Reads a backup twice. `progress` counts the bytes read of it the first time. Blocks.
///
/// # Errors
/// When it can't be read, is damaged, cut off, or of another version. Faults in what it holds are no error.
pub fn check(path: &Path, progress: &AtomicU64) -> Result<Checked, BackupError> {
    let counted = Counted { source: File::open(path)?, progress };
    let mut reader = Reader::open(BufReader::new(counted))?;
    let header = reader.header().clone();
    let mut places = Vec::new();
    let mut rows = Vec::new();
    loop {
        let mut section = match reader.next()? {
            Next::End => break,
            Next::Section(section) => *section,
        };
        let mut count = 0;
        while section.row()?.is_some() {
            count += 1;
        }
        places.push((section.table, section.at));
        rows.push((section.table.name, count));
        reader = section.finish()?;
    }
    let mut sections = Vec::new();
    for name in OF_ACCOUNTS {
        sections.push(open(path, &header, &places, name)?);
    }
    let mut checked = Checked { header, rows, operations: 0, faults: Vec::new(), fault_count: 0, places };
    checked.operations = contents::check(sections, |fault| {
        checked.fault_count += 1;
        if checked.faults.len() < TOLD {
            checked.faults.push(fault.to_string());
        }
    })?;
    Ok(checked)
}

/// A section again, from its beginning.
fn open(
    path: &Path,
    header: &Header,
    places: &[(&'static Table, u64)],
    name: &str,
) -> Result<Section<BufReader<File>>, BackupError> {
    let place = places.iter().find(|(table, _)| table.name == name);
    let (table, at) = place.ok_or_else(|| std::io::Error::other("a section has vanished"))?;
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(*at))?;
    Section::again(BufReader::new(file), *at, header, table)
}

impl Source for Section<BufReader<File>> {
    type Error = BackupError;

    fn row(&mut self) -> Result<Option<Row>, BackupError> {
        Section::row(self)
    }

    fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|known| known.name == column)
    }
}

/// Counts what is read.
pub(super) struct Counted<'a, R: Read> {
    pub(super) source: R,
    pub(super) progress: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.source.read(out)?;
        self.progress.fetch_add(u64::try_from(read).unwrap_or(0), Ordering::Relaxed);
        Ok(read)
    }
}
