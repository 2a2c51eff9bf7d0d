//! Puts a page together from segments and rows, under the bounds of a [`LogRange`].
//!
//! A page is read in stretches, one statement each. A statement sees one state of the database, and a stretch is either
//! all that lies up to the end of the last segment that it found, with the rows in between, or rows only. Operations
//! never change, they only move from rows to segments, so stretches that follow each other make a true picture.

use std::collections::VecDeque;

use super::segment::{self, Unpacked};
use super::{LogPage, LogRange, Result, SCAN_WINDOW};
use crate::protocol::response::{OutgoingOp, encoded_len};
use crate::protocol::{Seq, StoredOp};

/// Most segments that one statement reads.
const MAX_SEGMENTS: usize = 32;

/// In what form a page holds its operations.
pub(super) trait PageOp: Sized + Send {
    /// Bytes as clients get it.
    fn bytes(&self) -> usize;
    fn of_segment(segment: &Unpacked, at: usize) -> Result<Self>;
}

impl PageOp for StoredOp {
    fn bytes(&self) -> usize {
        encoded_len(self)
    }

    fn of_segment(segment: &Unpacked, at: usize) -> Result<Self> {
        segment.op(at)
    }
}

impl PageOp for OutgoingOp {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn of_segment(segment: &Unpacked, at: usize) -> Result<Self> {
        Ok(Self::whole(segment.seq(at), segment.json(at)))
    }
}

/// What the next statement is to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) after: Seq,
    pub(super) up_to: Seq,
    /// Segments end at most here.
    pub(super) segments_up_to: Seq,
    /// At most so many segments.
    pub(super) segments: usize,
    /// At most so many rows, and one more to say that there are more.
    pub(super) rows: usize,
    /// Bytes of rows, of which each counts at least its payload, clock and entity ids.
    pub(super) bytes: usize,
}

/// A page in the making.
pub(super) struct Builder<'a, T> {
    range: LogRange<'a>,
    /// Everything up to here has been looked at.
    after: Seq,
    /// Of the stretch that is being read: its segments and where it ends.
    segments: VecDeque<(Unpacked, usize)>,
    stretch_end: Seq,
    bytes: usize,
    full: bool,
    page: LogPage<T>,
}

impl<'a, T: PageOp> Builder<'a, T> {
    pub(super) fn new(range: LogRange<'a>) -> Self {
        let after = range.after;
        let page = LogPage { ops: Vec::new(), has_more: false };
        Self { range, after, segments: VecDeque::new(), stretch_end: after, bytes: 0, full: false, page }
    }

    /// What is to be read next; `None`: the page is done.
    pub(super) fn next_stretch(&mut self) -> Option<Stretch> {
        let range = &self.range;
        if self.full || self.after >= range.up_to {
            return None;
        }
        let limit = range.limit.max(1);
        // What is left may be the device's own. When it is little, it is looked at: an empty last page costs the client a
        // request. When it is much, looking would cost a segment with every page.
        let is_little = self.after.saturating_add(Seq::try_from(limit).unwrap_or(Seq::MAX)) >= range.up_to;
        if self.page.ops.len() >= limit && !(range.exclude_client.is_some() && is_little) {
            self.page.has_more = true;
            return None;
        }
        // Leaving a device out could mean to walk over a long stretch that it wrote itself; so that happens in windows,
        // each of them a short statement, and a page that has anything ends at a window's end.
        let walked_far = self.after.saturating_sub(range.after) >= SCAN_WINDOW;
        if range.exclude_client.is_some() && walked_far && !self.page.ops.is_empty() {
            self.page.has_more = true;
            return None;
        }
        let up_to = match range.exclude_client {
            None => range.up_to,
            Some(_) => range.up_to.min(self.after.saturating_add(SCAN_WINDOW)),
        };
        let rows = limit.saturating_sub(self.page.ops.len());
        // Sequences have no holes: unless something is left out the page ends here, and no segment behind it is read.
        let is_first = self.after == range.after;
        let enough = self.after.saturating_add(Seq::try_from(rows).unwrap_or(Seq::MAX));
        let up_to = if is_first { up_to.min(enough) } else { up_to };
        self.stretch_end = up_to;
        let bytes = range.max_bytes.saturating_sub(self.bytes);
        // One for a cursor in the middle of the first.
        let segments = (rows / segment::MAX_OPS).min(bytes / segment::FULL_BYTES) + 2;
        Some(Stretch {
            after: self.after,
            up_to,
            segments_up_to: segment::last_end(up_to),
            segments: segments.min(MAX_SEGMENTS),
            rows,
            bytes,
        })
    }

    /// The stretch's segments come first, in order.
    pub(super) fn segment(&mut self, first_seq: Seq, last_seq: Seq, data: &[u8]) -> Result<()> {
        let unpacked = Unpacked::open(data, first_seq, last_seq)?;
        let skip = usize::try_from(self.after.saturating_sub(first_seq).saturating_add(1)).unwrap_or(0);
        self.stretch_end = self.range.up_to.min(last_seq);
        self.segments.push_back((unpacked, skip));
        Ok(())
    }

    /// Then its rows, in order. `false`: no more are needed.
    pub(super) fn row(&mut self, seq: Seq, op: T) -> Result<bool> {
        self.take_segments(seq)?;
        let fits = !self.full && self.admit(op.bytes());
        if fits {
            self.page.ops.push(op);
        }
        Ok(fits)
    }

    /// There is another row, which was not read because it does not fit.
    pub(super) fn unread_row(&mut self, seq: Seq) -> Result<()> {
        self.take_segments(seq)?;
        self.full = true;
        self.page.has_more = true;
        Ok(())
    }

    /// The stretch has been read to its end, or as far as the page needed it.
    pub(super) fn end_stretch(&mut self) -> Result<()> {
        self.take_segments(Seq::MAX)?;
        self.segments.clear();
        self.after = self.stretch_end;
        Ok(())
    }

    pub(super) fn finish(self) -> LogPage<T> {
        self.page
    }

    /// Takes over what the segments hold before a sequence.
    fn take_segments(&mut self, before: Seq) -> Result<()> {
        while let Some((segment, mut at)) = self.segments.pop_front() {
            while at < segment.len() {
                let seq = segment.seq(at);
                if seq >= before || self.full {
                    self.segments.push_front((segment, at));
                    return Ok(());
                }
                if seq > self.range.up_to {
                    break;
                }
                if self.range.exclude_client != Some(segment.client_id(at)) {
                    if !self.admit(segment.json(at).len()) {
                        return Ok(());
                    }
                    self.page.ops.push(T::of_segment(&segment, at)?);
                }
                at += 1;
            }
        }
        Ok(())
    }

    /// Whether the next operation fits; if not, the page is full and there is more.
    fn admit(&mut self, bytes: usize) -> bool {
        let bytes = self.bytes.saturating_add(bytes);
        let fits =
            self.page.ops.is_empty() || (self.page.ops.len() < self.range.limit && bytes <= self.range.max_bytes);
        if fits {
            self.bytes = bytes;
        } else {
            self.full = true;
            self.page.has_more = true;
        }
        fits
    }
}
