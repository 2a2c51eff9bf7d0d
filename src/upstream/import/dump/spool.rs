//! The operations of a dump, by account and `server_seq`. In a dump they are in the order in which they lie on the old
//! server's disk.
//!
//! Owns one SQLite database in a file that has no name any more as soon as it is open, so that nothing is left of it however
//! the program ends.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _};

use super::error::DumpError;
use super::rows::Place;
use crate::protocol::{Seq, UserId};
use crate::upstream::import::source::SourceLog;

/// An account's rows arrive nearly in order, so that a page for each of some thousand accounts is all that has to be held.
/// What is lost with the program needs no journal.
const SETUP: &str = "
    PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;
    CREATE TABLE operations (place INTEGER PRIMARY KEY, line INTEGER NOT NULL, row BLOB NOT NULL);
    CREATE TABLE snapshots (user INTEGER PRIMARY KEY, data BLOB NOT NULL);
    BEGIN;";

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

/// How much there is of an account's log, and its number among the accounts of the dump.
type Logs = BTreeMap<UserId, (i64, SourceLog)>;

/// Takes rows in any order.
#[derive(Debug)]
pub struct Spooler {
    database: Connection,
    logs: Logs,
}

fn work(error: rusqlite::Error) -> DumpError {
    DumpError::Work(io::Error::other(error))
}

/// The key of a row: the account's number, then `seq`, which is a 32-bit number in the old server's schema.
fn key(account: i64, seq: Seq) -> Option<i64> {
    let seq = i32::try_from(seq).ok()?;
    Some((account << 32) + i64::from(seq) - i64::from(i32::MIN))
}

impl Spooler {
    /// Keeps rows in a file in this folder.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn create(folder: &Path) -> Result<Self, DumpError> {
        let path = folder.join(format!("import-{:032x}.work", rand::random::<u128>()));
        // Readable by us alone, and gone with the program.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(DumpError::Work)?;
        let opened = Connection::open(&path).and_then(|database| database.execute_batch(SETUP).map(|()| database));
        std::fs::remove_file(&path).map_err(DumpError::Work)?;
        Ok(Self { database: opened.map_err(work)?, logs: BTreeMap::new() })
    }

    /// Takes a row.
    ///
    /// # Errors
    /// [`DumpError::Work`], [`DumpError::SameSeq`].
    pub fn put(&mut self, place: Place, line: u64, row: &[u8]) -> Result<(), DumpError> {
        let Place { user, seq, id } = place;
        let accounts = i64::try_from(self.logs.len()).unwrap_or(i64::MAX);
        let (account, log) =
            self.logs.entry(user).or_insert_with(|| (accounts, SourceLog { user, ..SourceLog::default() }));
        if log.op_count == 0 || seq < log.first_seq {
            (log.first_seq, log.first_id) = (seq, id.clone());
        }
        if log.op_count == 0 || seq > log.last_seq {
            (log.last_seq, log.last_id) = (seq, id);
        }
        log.op_count += 1;
        let key = key(*account, seq).ok_or_else(|| DumpError::malformed(line, "the column server_seq is too large"))?;
        let insert = "INSERT INTO operations (place, line, row) VALUES (?, ?, ?)";
        let mut insert = self.database.prepare_cached(insert).map_err(work)?;
        match insert.execute((key, line.cast_signed(), row)) {
            Ok(_) => Ok(()),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                let query = "SELECT line FROM operations WHERE place = ?";
                let first: i64 = self.database.query_row(query, [key], |row| row.get(0)).map_err(work)?;
                Err(DumpError::SameSeq(first.cast_unsigned(), line))
            }
            Err(error) => Err(work(error)),
        }
    }

    /// Takes an account's cached state.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn put_snapshot(&mut self, user: UserId, snapshot: &[u8]) -> Result<(), DumpError> {
        let insert = "INSERT OR REPLACE INTO snapshots (user, data) VALUES (?, ?)";
        self.database.execute(insert, (user, snapshot)).map_err(work)?;
        Ok(())
    }

    /// That was all.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn finish(self) -> Result<Spool, DumpError> {
        self.database.execute_batch("COMMIT").map_err(work)?;
        let accounts = self.logs.iter().map(|(user, (account, _))| (*user, *account)).collect();
        let logs = self.logs.into_values().map(|(_, log)| log).collect();
        Ok(Spool { database: Mutex::new(self.database), accounts, logs })
    }
}

/// Gives rows back in their order.
#[derive(Debug)]
pub struct Spool {
    database: Mutex<Connection>,
    /// The numbers of accounts in this dump.
    accounts: BTreeMap<UserId, i64>,
    logs: Vec<SourceLog>,
}

impl Spool {
    /// An account's cached state.
    ///
    /// # Errors
    /// [`DumpError::Work`].
    pub fn snapshot(&self, user: UserId) -> Result<Option<Vec<u8>>, DumpError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let query = "SELECT data FROM snapshots WHERE user = ?";
        database.query_row(query, [user], |row| row.get(0)).optional().map_err(work)
    }

    /// How much there is of every account's log, by account.
    #[must_use]
    pub fn logs(&self) -> &[SourceLog] {
        &self.logs
    }

    /// Hands an account's rows to `take` by `seq`, until it says `false`.
    ///
    /// # Errors
    /// [`DumpError::Work`], or what `take` says.
    pub fn rows(
        &self,
        user: UserId,
        mut take: impl FnMut(Spooled) -> Result<bool, DumpError>,
    ) -> Result<(), DumpError> {
        let Some(account) = self.accounts.get(&user) else { return Ok(()) };
        let first = account << 32;
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let query = "SELECT place, line, row FROM operations WHERE place BETWEEN ? AND ? ORDER BY place";
        let mut query = database.prepare_cached(query).map_err(work)?;
        let mut rows = query.query([first, first + i64::from(u32::MAX)]).map_err(work)?;
        while let Some(row) = rows.next().map_err(work)? {
            let (place, line, row): (i64, i64, _) = <_>::try_from(row).map_err(work)?;
            let seq = place - first + i64::from(i32::MIN);
            if !take(Spooled { seq, line: line.cast_unsigned(), row })? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spool(rows: &[(UserId, Seq, Vec<u8>)]) -> Result<Spool, DumpError> {
        let folder = tempfile::tempdir().unwrap();
        let mut spooler = Spooler::create(folder.path()).unwrap();
        for ((user, seq, row), line) in rows.iter().zip(1..) {
            let place = Place { user: *user, seq: *seq, id: format!("{user}/{seq}") };
            spooler.put(place, line, row)?;
            spooler.put_snapshot(*user, &[9, 9])?;
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing can be left");
        spooler.finish()
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
    fn the_same_number_twice_is_an_error_and_so_is_one_that_is_too_large() {
        let twice = spool(&[(1, 5, vec![]), (2, 5, vec![]), (1, 5, vec![])]);
        assert!(matches!(twice, Err(DumpError::SameSeq(1, 3))), "{twice:?}");
        assert!(matches!(spool(&[(1, 1 << 31, vec![])]), Err(DumpError::Malformed { line: 1, .. })));
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let error = Spooler::create(Path::new("/nonexistent/folder")).unwrap_err();
        assert!(error.to_string().starts_with("the working copy of the dump's operations: "), "{error}");
    }

    #[test]
    fn whoever_has_enough_gets_no_more() {
        let spool = spool(&[(1, 2, vec![]), (1, 1, vec![])]).unwrap();
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
    fn large_rows_come_back() {
        let large: Vec<u8> = (0..100_017).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let spool = spool(&[(1, 3, large.clone()), (1, 2, vec![]), (2, 1, vec![1])]).unwrap();
        let all = rows(&spool, 1).unwrap();
        assert_eq!(all.iter().map(|row| (row.seq, row.line)).collect::<Vec<_>>(), [(2, 2), (3, 1)]);
        assert_eq!(all[1].row, large);
    }

    proptest! {
        #[test]
        fn rows_come_back_in_their_order(
            set in prop::collection::btree_set((-2i64..5, 1i64..60), 0..200),
            seed in any::<u64>(),
        ) {
            let mut given: Vec<(UserId, Seq, Vec<u8>)> = set
                .iter()
                .map(|&(user, seq)| (user, seq, format!("{user}/{seq}").repeat(usize::try_from(seq).unwrap()).into_bytes()))
                .collect();
            given.sort_by_key(|(user, seq, _)| (*user * 60 + *seq).unsigned_abs().wrapping_mul(seed | 1).rotate_left(17));
            let spool = spool(&given).unwrap();
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
