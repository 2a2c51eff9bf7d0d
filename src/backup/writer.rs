//! Writes a backup from a stream of rows.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::BackupError;
use super::format::{
    FRAME, Header, LEVEL, MAGIC, SectionEnd, SectionHead, Tag, VERSION, WINDOW_LOG, frame_hash, record,
};
use crate::store::backup::{Column, Row, Table};

/// A file in the making.
pub(super) struct Writer<W: Write> {
    frames: Frames<W>,
    sections: u32,
}

/// A section in the making.
pub(super) struct Section<W: Write> {
    encoder: zstd::stream::write::Encoder<'static, Pieces<W>>,
    sections: u32,
    columns: Vec<&'static Column>,
    hash: Xxh3,
    rows: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub(super) fn new(target: W, header: &Header) -> Result<Self, BackupError> {
        let mut frames = Frames { target, hash: Sha256::new() };
        frames.put(MAGIC)?;
        frames.put(&VERSION.to_le_bytes())?;
        frames.frame(Tag::Header, &json(header)?)?;
        Ok(Self { frames, sections: 0 })
    }

    /// Begins a section.
    pub(super) fn section(mut self, table: &Table, columns: Vec<&'static Column>) -> Result<Section<W>, BackupError> {
        let described = columns.iter().map(|c| (c.name.to_owned(), c.kind.as_str().to_owned(), c.nullable)).collect();
        let head = SectionHead { table: table.name.to_owned(), columns: described };
        self.frames.frame(Tag::Section, &json(&head)?)?;
        let pieces = Pieces { frames: self.frames, pending: Vec::with_capacity(FRAME) };
        let mut encoder = zstd::stream::write::Encoder::new(pieces, LEVEL)?;
        encoder.window_log(WINDOW_LOG)?;
        Ok(Section { encoder, sections: self.sections + 1, columns, hash: Xxh3::new(), rows: 0, bytes: 0 })
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<W, BackupError> {
        let mut body = self.sections.to_le_bytes().to_vec();
        body.extend_from_slice(&self.frames.hash.clone().finalize());
        self.frames.frame(Tag::Trailer, &body)?;
        Ok(self.frames.target)
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
        let mut pieces = self.encoder.finish()?;
        pieces.cut()?;
        let mut frames = pieces.frames;
        let end = SectionEnd { rows: self.rows, bytes: self.bytes, hash: self.hash.digest128() };
        frames.frame(Tag::SectionEnd, &end.encode())?;
        Ok(Writer { frames, sections: self.sections })
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec(value).map_err(|error| io::Error::from(error).into())
}

struct Frames<W: Write> {
    target: W,
    /// Of everything written.
    hash: Sha256,
}

impl<W: Write> Frames<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.target.write_all(bytes)
    }

    fn frame(&mut self, tag: Tag, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len()).map_err(|_| io::Error::other("a frame is too large"))?;
        let mut head = vec![tag.byte()];
        head.extend(len.to_le_bytes());
        self.put(&head)?;
        self.put(body)?;
        self.put(&frame_hash(&head, body).to_le_bytes())
    }
}

/// Cuts what is compressed into frames.
struct Pieces<W: Write> {
    frames: Frames<W>,
    pending: Vec<u8>,
}

impl<W: Write> Pieces<W> {
    fn cut(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.frames.frame(Tag::Data, &self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }
}

impl<W: Write> Write for Pieces<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = bytes.len().min(FRAME - self.pending.len());
        self.pending.extend_from_slice(&bytes[..now]);
        if self.pending.len() == FRAME {
            self.cut()?;
        }
        Ok(now)
    }

    /// Frames are cut when they are full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
