//! The operations of a dump, by account and `server_seq`. In a dump they are in the order in which they lie on the old
//! server's disk.
//!
//! Owns one file, which has no name any more as soon as it is open, so that nothing is left of it however the program
//! ends. Rows are gathered up to [`RUN_BYTES`], sorted, and written as a run; an account's rows are then merged from all
//! runs that hold some. What is held is a run while it is gathered, and for every run where each of its accounts begins.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::error::DumpError;
use super::rows::Place;
use crate::protocol::{Seq, UserId};
use crate::upstream::import::source::SourceLog;

/// Bytes of rows in a run, but for the last of them.
const RUN_BYTES: usize = 64 << 20;
/// Bytes that are read of a run at a time.
const CHUNK: usize = 32 << 10;
/// What stands before a row: its `server_seq`, its line, its length.
const HEAD: usize = 8 + 8 + 8;

/// A row of `operations` as it stands in the dump, in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Its place among the account's.
    pub seq: Seq,
    /// Its line in the dump.
    pub line: u64,
    /// As it is written there.
    pub row: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Gathered {
    user: UserId,
    seq: Seq,
    line: u64,
    from: usize,
    to: usize,
}

/// Takes rows in any order.
#[derive(Debug)]
pub struct Spooler {
    file: BufWriter<File>,
    run_bytes: usize,
    written: u64,
    text: Vec<u8>,
    rows: Vec<Gathered>,
    runs: Vec<Run>,
    logs: BTreeMap<UserId, SourceLog>,
    snapshots: HashMap<UserId, Extent>,
}

/// Where something lies in the file.
#[derive(Clone, Copy, Debug)]
struct Extent {
    from: u64,
    length: usize,
}

/// Where an account's rows begin, by account, and where the last one's end.
#[derive(Debug)]
struct Run {
    begins: Vec<(UserId, u64)>,
    end: u64,
}

impl Spooler {
    /// Keeps rows in a file in this folder.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn create(folder: &Path) -> Result<Self, DumpError> {
        Self::with_runs_of(RUN_BYTES, folder)
    }

    fn with_runs_of(run_bytes: usize, folder: &Path) -> Result<Self, DumpError> {
        let file = BufWriter::new(nameless(folder).map_err(DumpError::Work)?);
        let (text, rows) = (Vec::new(), Vec::new());
        Ok(Self {
            file,
            run_bytes,
            written: 0,
            text,
            rows,
            runs: Vec::new(),
            logs: BTreeMap::new(),
            snapshots: HashMap::new(),
        })
    }

    /// Takes a row.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn put(&mut self, place: Place, line: u64, row: &[u8]) -> Result<(), DumpError> {
        let Place { user, seq, id } = place;
        let log = self.logs.entry(user).or_insert_with(|| SourceLog { user, ..SourceLog::default() });
        if log.op_count == 0 || seq < log.first_seq {
            (log.first_seq, log.first_id) = (seq, id.clone());
        }
        if log.op_count == 0 || seq > log.last_seq {
            (log.last_seq, log.last_id) = (seq, id);
        }
        log.op_count += 1;
        let from = self.text.len();
        self.text.extend_from_slice(row);
        self.rows.push(Gathered { user, seq, line, from, to: self.text.len() });
        if self.text.len() + self.rows.len() * size_of::<Gathered>() >= self.run_bytes {
            self.write_run().map_err(DumpError::Work)?;
        }
        Ok(())
    }

    /// Takes an account's cached state.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn put_snapshot(&mut self, user: UserId, snapshot: &[u8]) -> Result<(), DumpError> {
        self.file.write_all(snapshot).map_err(DumpError::Work)?;
        self.snapshots.insert(user, Extent { from: self.written, length: snapshot.len() });
        self.written += snapshot.len() as u64;
        Ok(())
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.rows.sort_unstable_by_key(|row| (row.user, row.seq));
        let mut begins: Vec<(UserId, u64)> = Vec::new();
        for row in self.rows.drain(..) {
            if begins.last().is_none_or(|(user, _)| *user != row.user) {
                begins.push((row.user, self.written));
            }
            let text = &self.text[row.from..row.to];
            self.file.write_all(&row.seq.to_le_bytes())?;
            self.file.write_all(&row.line.to_le_bytes())?;
            self.file.write_all(&(text.len() as u64).to_le_bytes())?;
            self.file.write_all(text)?;
            self.written += (HEAD + text.len()) as u64;
        }
        self.text.clear();
        // One row may have been far larger than a run.
        self.text.shrink_to(self.run_bytes);
        self.runs.push(Run { begins, end: self.written });
        Ok(())
    }

    /// That was all.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn finish(mut self) -> Result<Spool, DumpError> {
        self.write_run().map_err(DumpError::Work)?;
        let file = self.file.into_inner().map_err(|error| DumpError::Work(error.into_error()))?;
        Ok(Spool { file, runs: self.runs, logs: self.logs.into_values().collect(), snapshots: self.snapshots })
    }
}

/// Readable by us alone, and gone with the program.
fn nameless(folder: &Path) -> io::Result<File> {
    let path = folder.join(format!("import-{:032x}.work", rand::random::<u128>()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Gives rows back in their order.
#[derive(Debug)]
pub struct Spool {
    file: File,
    runs: Vec<Run>,
    logs: Vec<SourceLog>,
    snapshots: HashMap<UserId, Extent>,
}

impl Spool {
    /// An account's cached state.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn snapshot(&self, user: UserId) -> Result<Option<Vec<u8>>, DumpError> {
        let Some(Extent { from, length }) = self.snapshots.get(&user).copied() else { return Ok(None) };
        let mut snapshot = vec![0; length];
        self.file.read_exact_at(&mut snapshot, from).map_err(DumpError::Work)?;
        Ok(Some(snapshot))
    }

    /// How much there is of every account's log, by account.
    #[must_use]
    pub fn logs(&self) -> &[SourceLog] {
        &self.logs
    }

    /// Hands an account's rows to `take` by `seq`, until it says `false`.
    ///
    /// # Errors
    /// [`DumpError::Work`], [`DumpError::SameSeq`], or what `take` says.
    pub fn rows(
        &self,
        user: UserId,
        mut take: impl FnMut(Spooled) -> Result<bool, DumpError>,
    ) -> Result<(), DumpError> {
        let mut parts: Vec<Part> = self.runs.iter().filter_map(|run| run.part(user)).collect();
        let mut next = BinaryHeap::new();
        for (at, part) in parts.iter_mut().enumerate() {
            if let Some(row) = part.next(&self.file).map_err(DumpError::Work)? {
                next.push(Reverse((row.seq, row.line, at)));
                part.row = Some(row);
            }
        }
        let mut last: Option<(Seq, u64)> = None;
        while let Some(Reverse((seq, line, at))) = next.pop() {
            if let Some((_, before)) = last.filter(|(last, _)| *last == seq) {
                return Err(DumpError::SameSeq(before, line));
            }
            last = Some((seq, line));
            let following = parts[at].next(&self.file).map_err(DumpError::Work)?;
            if let Some(row) = &following {
                next.push(Reverse((row.seq, row.line, at)));
            }
            let row = std::mem::replace(&mut parts[at].row, following);
            if !take(row.expect("what is in the heap has been read"))? {
                break;
            }
        }
        Ok(())
    }
}

impl Run {
    fn part(&self, user: UserId) -> Option<Part> {
        let at = self.begins.binary_search_by_key(&user, |(user, _)| *user).ok()?;
        let end = self.begins.get(at + 1).map_or(self.end, |(_, begin)| *begin);
        Some(Part { unread: self.begins[at].1, end, buffer: Vec::new(), used: 0, row: None })
    }
}

/// What a run has of an account.
#[derive(Debug)]
struct Part {
    /// Where in the file the bytes are that have not been read,
    unread: u64,
    /// and where they end.
    end: u64,
    buffer: Vec<u8>,
    used: usize,
    /// The row that comes next.
    row: Option<Spooled>,
}

impl Part {
    fn next(&mut self, file: &File) -> io::Result<Option<Spooled>> {
        if self.used == self.buffer.len() && self.unread == self.end {
            return Ok(None);
        }
        let head: [[u8; 8]; 3] = {
            let bytes = self.bytes(file, HEAD)?;
            [0, 8, 16].map(|at| bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        let length = usize::try_from(u64::from_le_bytes(head[2])).map_err(io::Error::other)?;
        let row = self.bytes(file, length)?.to_vec();
        Ok(Some(Spooled { seq: i64::from_le_bytes(head[0]), line: u64::from_le_bytes(head[1]), row }))
    }

    /// Takes so many bytes.
    fn bytes(&mut self, file: &File, count: usize) -> io::Result<&[u8]> {
        let left = self.buffer.len() - self.used;
        if left < count {
            self.buffer.drain(..self.used);
            self.used = 0;
            let most = usize::try_from(self.end - self.unread).unwrap_or(usize::MAX);
            let more = (count - left).max(CHUNK).min(most);
            self.buffer.resize(left + more, 0);
            file.read_exact_at(&mut self.buffer[left..], self.unread)?;
            self.unread += more as u64;
        }
        let bytes = self.buffer.get(self.used..self.used + count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.used += count;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spool(run_bytes: usize, rows: &[(UserId, Seq, Vec<u8>)]) -> Spool {
        let folder = tempfile::tempdir().unwrap();
        let mut spooler = Spooler::with_runs_of(run_bytes, folder.path()).unwrap();
        for ((user, seq, row), line) in rows.iter().zip(1..) {
            let place = Place { user: *user, seq: *seq, id: format!("{user}/{seq}") };
            spooler.put(place, line, row).unwrap();
            spooler.put_snapshot(*user, &[9, 9]).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing can be left");
        spooler.finish().unwrap()
    }

    fn rows(spool: &Spool, user: UserId) -> Result<Vec<Spooled>, DumpError> {
        let mut all = Vec::new();
        spool.rows(user, |row| {
            all.push(row);
            Ok(true)
        })?;
        Ok(all)
    }

    #[test]
    fn the_same_number_twice_is_an_error_even_in_different_runs() {
        for run_bytes in [1, RUN_BYTES] {
            let spool = spool(run_bytes, &[(1, 5, vec![]), (2, 5, vec![]), (1, 5, vec![])]);
            assert!(matches!(rows(&spool, 1), Err(DumpError::SameSeq(1, 3))));
            assert_eq!(rows(&spool, 2).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let error = Spooler::create(Path::new("/nonexistent/folder")).unwrap_err();
        assert!(error.to_string().starts_with("the working copy of the dump's operations: "), "{error}");
    }

    #[test]
    fn whoever_has_enough_gets_no_more() {
        let spool = spool(1, &[(1, 2, vec![]), (1, 1, vec![])]);
        let mut seen = 0;
        spool
            .rows(1, |_| {
                seen += 1;
                Ok(false)
            })
            .unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn rows_larger_than_a_chunk_come_back() {
        let large: Vec<u8> = (0..3 * CHUNK + 17).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let spool =
            spool(RUN_BYTES, &[(1, 3, large.clone()), (1, 1, vec![7; CHUNK - HEAD]), (1, 2, vec![]), (2, 1, vec![1])]);
        let all = rows(&spool, 1).unwrap();
        assert_eq!(
            all.iter().map(|row| (row.seq, row.line, row.row.len())).collect::<Vec<_>>(),
            [(1, 2, CHUNK - HEAD), (2, 3, 0), (3, 1, large.len())]
        );
        assert_eq!(all[2].row, large);
    }

    proptest! {
        #[test]
        fn rows_come_back_in_their_order(
            set in prop::collection::btree_set((-2i64..5, 1i64..60), 0..200),
            seed in any::<u64>(),
            run_bytes in 1usize..4000,
        ) {
            let mut given: Vec<(UserId, Seq, Vec<u8>)> = set
                .iter()
                .map(|&(user, seq)| (user, seq, format!("{user}/{seq}").repeat(usize::try_from(seq).unwrap()).into_bytes()))
                .collect();
            given.sort_by_key(|(user, seq, _)| (*user * 60 + *seq).unsigned_abs().wrapping_mul(seed | 1).rotate_left(17));
            let spool = spool(run_bytes, &given);
            for user in -3..6 {
                let expected: Vec<(Seq, Vec<u8>)> = {
                    let mut rows: Vec<_> = given.iter().filter(|row| row.0 == user).map(|row| (row.1, row.2.clone())).collect();
                    rows.sort();
                    rows
                };
                let log = spool.logs().iter().find(|log| log.user == user);
                prop_assert_eq!(log.map_or(0, |log| log.op_count), i64::try_from(expected.len()).unwrap());
                if let Some(log) = log {
                    let (first, last) = (expected[0].0, expected[expected.len() - 1].0);
                    prop_assert_eq!((log.first_seq, log.last_seq), (first, last));
                    prop_assert_eq!((&log.first_id, &log.last_id), (&format!("{user}/{first}"), &format!("{user}/{last}")));
                }
                prop_assert_eq!(spool.snapshot(user).unwrap(), log.map(|_| vec![9, 9]));
                let found: Vec<_> = rows(&spool, user).unwrap().into_iter().map(|row| (row.seq, row.row)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
