//! Whether a backup can be relied on: first that the file is whole, then that what it holds satisfies what every database
//! satisfies (`engine::invariants`, for what can be seen without the engine).
//!
//! The second pass reads all tables at once, account by account, because each is in the order of accounts: memory stays
//! the same however many accounts there are.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::BackupError;
use super::cursor::Cursor;
use super::format::Header;
use super::reader::{Next, Reader};
use crate::protocol::{Seq, UserId};
use crate::store::backup::{Table, Value};
use crate::store::segment;

/// So many faults are told; the others are counted.
const TOLD: usize = 20;
/// The tables whose rows begin with the account's number.
const OF_ACCOUNTS: [&str; 8] = [
    "users",
    "user_sync_state",
    "user_snapshots",
    "archived_ranges",
    "segments",
    "operations",
    "entity_heads",
    "sync_devices",
];

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
        let place = self.places.iter().find(|(known, _)| known.name == table);
        let (table, at) = place.ok_or_else(|| std::io::Error::other("a section has vanished"))?;
        Cursor::open(path, &self.header, table, *at)
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
    let mut contents = Contents {
        cursors: Vec::new(),
        checked: Checked { header, rows, operations: 0, faults: Vec::new(), fault_count: 0, places },
    };
    for name in OF_ACCOUNTS {
        let cursor = contents.checked.cursor(path, name)?;
        contents.cursors.push(cursor);
    }
    contents.check()?;
    Ok(contents.checked)
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

/// The tables of accounts, read side by side.
struct Contents {
    cursors: Vec<Cursor>,
    checked: Checked,
}

/// What is known of an account's log while it is read.
struct Log {
    user: UserId,
    base: Seq,
    pruned: Seq,
    last: Seq,
    /// The last sequence that was seen.
    seen: Seq,
    /// The data set was seen up to here.
    complete_to: Seq,
    /// Bytes charged.
    charged: i64,
    /// The archived range that ends at or after what is looked at.
    range: Option<(Seq, Seq)>,
}

impl Contents {
    fn check(&mut self) -> Result<(), BackupError> {
        while let Some(user) = self.cursors.iter().filter_map(Cursor::user).min() {
            self.account(user)?;
        }
        Ok(())
    }

    fn fault(&mut self, user: UserId, what: &str) {
        self.checked.fault_count += 1;
        if self.checked.faults.len() < TOLD {
            self.checked.faults.push(format!("account {user}: {what}"));
        }
    }

    fn account(&mut self, user: UserId) -> Result<(), BackupError> {
        let [users, states, snapshots, _, _, _, heads, devices] = &mut self.cursors[..] else { return Ok(()) };
        let exists = users.take(user)?.is_some();
        let state = states.take(user)?;
        while snapshots.take(user)?.is_some() || heads.take(user)?.is_some() || devices.take(user)?.is_some() {}
        if !exists {
            self.fault(user, "there is data, but no such account");
        }
        let states = &self.cursors[1];
        let column = |name| state.as_ref().and_then(|row| states.named(row, name));
        let number = |name| column(name).unwrap_or(0);
        let (base, pruned, last) = (number("base_seq"), number("pruned_seq"), number("last_seq"));
        let full_state = column("full_state_seq");
        let (counter, cached) = (number("storage_used_bytes"), number("snapshot_bytes"));
        if !(0 <= base && base <= pruned && pruned <= last) {
            self.fault(user, &format!("base {base} ≤ pruned {pruned} ≤ last {last} does not hold"));
        }
        if full_state.is_some_and(|seq| seq <= pruned || seq > last) {
            self.fault(user, "the newest full state is outside of the data set");
        }
        let mut log = Log { user, base, pruned, last, seen: 0, complete_to: pruned, charged: 0, range: None };
        self.log(&mut log)?;
        if log.complete_to < last {
            self.fault(user, &format!("operations {} to {last} are missing", log.complete_to.saturating_add(1)));
        }
        let charged = log.charged.saturating_add(cached);
        if charged != counter {
            self.fault(user, &format!("{counter} bytes are charged, but {charged} are stored"));
        }
        Ok(())
    }

    /// Reads an account's operations, whether in rows or in segments, in their order.
    fn log(&mut self, log: &mut Log) -> Result<(), BackupError> {
        loop {
            let (segments, rows) = (&self.cursors[4], &self.cursors[5]);
            let of_segment = segments.peek(log.user, "first_seq");
            let of_row = rows.peek(log.user, "server_seq");
            match (of_segment, of_row) {
                (None, None) => break,
                (Some(segment), row) if row.is_none_or(|row| segment <= row) => self.segment(log)?,
                _ => self.row(log)?,
            }
        }
        while self.cursors[3].take(log.user)?.is_some() {}
        Ok(())
    }

    fn row(&mut self, log: &mut Log) -> Result<(), BackupError> {
        let cursor = &mut self.cursors[5];
        let Some(row) = cursor.take(log.user)? else { return Ok(()) };
        let seq = cursor.named(&row, "server_seq").unwrap_or(0);
        let bytes = cursor.named(&row, "storage_bytes").unwrap_or(0);
        self.checked.operations += 1;
        if log.pruned < seq && seq <= log.last {
            log.charged = log.charged.saturating_add(bytes);
        }
        self.span(log, seq, seq)
    }

    fn segment(&mut self, log: &mut Log) -> Result<(), BackupError> {
        let cursor = &mut self.cursors[4];
        let Some(row) = cursor.take(log.user)? else { return Ok(()) };
        let number = |name| cursor.named(&row, name).unwrap_or(0);
        let (first, last) = (number("first_seq"), number("last_seq"));
        let (count, bytes) = (number("op_count"), number("storage_bytes"));
        let data = cursor.columns().iter().position(|column| column.name == "data").and_then(|at| row.get(at));
        let data = if let Some(Value::Bytes(data)) = data { data.as_slice() } else { &[] };
        let whole = segment::measure(data, first, last, 0, Seq::MAX);
        let inside = segment::measure(data, first, last, log.pruned, log.last);
        match (whole, inside) {
            (Ok(whole), Ok((charged, _))) if whole == (bytes, count) => {
                log.charged = log.charged.saturating_add(charged);
            }
            (Err(error), _) | (_, Err(error)) => {
                self.fault(log.user, &format!("the segment of operations {first} to {last} is unreadable: {error}"));
            }
            _ => {
                self.fault(
                    log.user,
                    &format!("the segment of operations {first} to {last} says other sums than it has"),
                );
            }
        }
        self.checked.operations += u64::try_from(count).unwrap_or(0);
        self.span(log, first, last)
    }

    /// Operations that follow those seen.
    fn span(&mut self, log: &mut Log, first: Seq, last: Seq) -> Result<(), BackupError> {
        let user = log.user;
        if first <= log.seen || last < first {
            self.fault(user, &format!("operation {first} stands twice"));
        }
        log.seen = log.seen.max(last);
        let (from, to) = (first.max(log.pruned.saturating_add(1)), last.min(log.last));
        if from <= to {
            let due = log.complete_to.saturating_add(1);
            if from > due {
                self.fault(user, &format!("operations {due} to {} are missing", from - 1));
            }
            log.complete_to = log.complete_to.max(to);
        }
        // Of the data set's outside only what the archive knows may be there.
        if (first <= log.pruned && !self.is_archived(log, first)?)
            || (last > log.last && !self.is_archived(log, last)?)
        {
            let generation = if first <= log.base { "an older" } else { "the present" };
            self.fault(user, &format!("operations {first} to {last} of {generation} data set are in no archive"));
        }
        Ok(())
    }

    /// Whether an archived range holds a sequence. Asked for growing sequences.
    fn is_archived(&mut self, log: &mut Log, seq: Seq) -> Result<bool, BackupError> {
        while log.range.is_none_or(|(_, to)| to < seq) {
            let cursor = &mut self.cursors[3];
            let Some(row) = cursor.take(log.user)? else { return Ok(false) };
            log.range = cursor.named(&row, "from_seq").zip(cursor.named(&row, "to_seq"));
        }
        Ok(log.range.is_some_and(|(from, to)| (from..=to).contains(&seq)))
    }
}
