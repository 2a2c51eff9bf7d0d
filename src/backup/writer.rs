//! Writes a backup from a stream of rows.

use std::io::{self, BufWriter, IntoInnerError, Write};

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::error::BackupError;
use super::format::{
    FRAME, Header, LEVEL, MAGIC, SectionEnd, SectionHead, VERSION, WINDOW_LOG, frame_hash, record, tag,
};
use crate::store::backup::{Column, Row, Table};

/// A file in the making.
pub(super) struct Writer<W: Write> {
    target: W,
    /// Of everything written.
    hash: Sha256,
    sections: u32,
}

/// A section in the making.
pub(super) struct Section<W: Write> {
    encoder: zstd::stream::write::Encoder<'static, BufWriter<DataFrames<W>>>,
    columns: Vec<&'static Column>,
    hash: Xxh3,
    rows: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub(super) fn new(target: W, header: &Header) -> Result<Self, BackupError> {
        let mut writer = Self { target, hash: Sha256::new(), sections: 0 };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.frame(tag::HEADER, &json(header)?)?;
        Ok(writer)
    }

    /// Begins a section.
    pub(super) fn section(mut self, table: &Table, columns: Vec<&'static Column>) -> Result<Section<W>, BackupError> {
        let described = columns.iter().map(|c| (c.name.to_owned(), c.kind.as_str().to_owned(), c.nullable)).collect();
        let head = SectionHead { table: table.name.to_owned(), columns: described };
        self.frame(tag::SECTION, &json(&head)?)?;
        self.sections += 1;
        let frames = BufWriter::with_capacity(FRAME, DataFrames(self));
        let mut encoder = zstd::stream::write::Encoder::new(frames, LEVEL)?;
        encoder.window_log(WINDOW_LOG)?;
        Ok(Section { encoder, columns, hash: Xxh3::new(), rows: 0, bytes: 0 })
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<W, BackupError> {
        let body = [&self.sections.to_le_bytes()[..], &self.hash.clone().finalize()].concat();
        self.frame(tag::TRAILER, &body)?;
        Ok(self.target)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.target.write_all(bytes)
    }

    fn frame(&mut self, tag: u8, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len()).map_err(|_| io::Error::other("a frame is too large"))?;
        let head = [&[tag][..], &len.to_le_bytes()].concat();
        self.put(&head)?;
        self.put(body)?;
        self.put(&frame_hash(&head, body).to_le_bytes())
    }
}

impl<W: Write> Section<W> {
    /// Adds a row.
    pub(super) fn row(&mut self, row: &Row) -> Result<(), BackupError> {
        let Some(record) = record(&self.columns, row) else {
            return Err(io::Error::other("a row of the database does not fit into the format").into());
        };
        self.hash.update(&record);
        self.rows += 1;
        self.bytes += u64::try_from(record.len()).unwrap_or(u64::MAX);
        self.encoder.write_all(&record)?;
        Ok(())
    }

    /// Ends the section.
    pub(super) fn finish(self) -> Result<Writer<W>, BackupError> {
        let mut writer = self.encoder.finish()?.into_inner().map_err(IntoInnerError::into_error)?.0;
        let end = SectionEnd { rows: self.rows, bytes: self.bytes, hash: self.hash.digest128() };
        writer.frame(tag::SECTION_END, &end.encode())?;
        Ok(writer)
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec(value).map_err(|error| io::Error::from(error).into())
}

/// What is compressed, as frames. The buffer before it decides how large they are.
struct DataFrames<W: Write>(Writer<W>);

impl<W: Write> Write for DataFrames<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(FRAME)];
        self.0.frame(tag::DATA, piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
