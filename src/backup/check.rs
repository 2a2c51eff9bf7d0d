//! Whether a backup can be relied on: first that the file is whole, then that what it holds is in order
//! ([`super::contents`]).

use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::contents::{self, OF_ACCOUNTS};
use super::cursor::{Cursor, Source as _};
use super::error::BackupError;
use super::format::Header;
use super::reader::{Reader, Section};
use crate::store::backup::{Column, Table};

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
    places: Vec<(&'static Table, u64)>,
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
    pub(crate) fn cursor(&self, path: &Path, table: &str) -> Result<Rows, BackupError> {
        Rows::open(self.section(path, table)?)
    }

    /// A section again, from its beginning.
    fn section(&self, path: &Path, name: &str) -> Result<Section<'static>, BackupError> {
        let place = self.places.iter().find(|(table, _)| table.name == name);
        let (table, at) = place.ok_or_else(|| std::io::Error::other("a section has vanished"))?;
        Section::again(path, *at, &self.header, table)
    }
}

/// A place in a section.
pub(crate) type Rows = Cursor<Section<'static>>;

impl Rows {
    /// The columns of its rows.
    pub(crate) fn columns(&self) -> &[&'static Column] {
        &self.source.columns
    }
}

/// Reads a backup twice. `progress` counts the bytes read of it the first time. Blocks.
///
/// # Errors
/// When it can't be read, is damaged, cut off, or of another version. Faults in what it holds are no error.
pub fn check(path: &Path, progress: &AtomicU64) -> Result<Checked, BackupError> {
    let mut reader = Reader::open(path, progress)?;
    let header = reader.header.clone();
    let mut checked =
        Checked { header, rows: Vec::new(), operations: 0, faults: Vec::new(), fault_count: 0, places: Vec::new() };
    while let Some(mut section) = reader.next()? {
        let mut count = 0;
        while section.row()?.is_some() {
            count += 1;
        }
        checked.places.push((section.table, section.at));
        checked.rows.push((section.table.name, count));
        reader = section.finish()?;
    }
    let mut sections = Vec::new();
    for name in OF_ACCOUNTS {
        sections.push(checked.section(path, name)?);
    }
    checked.operations = contents::check(sections, |fault| {
        checked.fault_count += 1;
        if checked.faults.len() < TOLD {
            checked.faults.push(fault.to_string());
        }
    })?;
    Ok(checked)
}
