//! The operations of a dump, by account and `server_seq`. In a dump they are in the order in which they lie on the old
//! server's disk.
//!
//! Owns one SQLite database in a file that has no name any more as soon as it is open, so that nothing is left of it however
//! the program ends.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _};

use crate::protocol::{Seq, UserId};
use crate::upstream::copy_text::Row;
use crate::upstream::import::error::ImportError;
use crate::upstream::import::rows::SourceLog;

/// An account's rows arrive nearly in order, so that a page for each of some thousand accounts is all that has to be held.
/// What is lost with the program needs no journal.
const SETUP: &str = "
    PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;
    CREATE TABLE operations (place INTEGER PRIMARY KEY, line INTEGER NOT NULL, row BLOB NOT NULL);
    CREATE TABLE snapshots (user INTEGER PRIMARY KEY, data BLOB NOT NULL);
    BEGIN;";

/// Takes rows in any order, and gives them back in theirs.
#[derive(Debug)]
pub struct Spool {
    database: Mutex<Connection>,
    logs: BTreeMap<UserId, SourceLog>,
}

/// The key of a row. Accounts and sequences are 32-bit numbers in the old server's schema.
fn place(user: UserId, seq: Seq) -> i64 {
    (user << 32) + seq - i64::from(i32::MIN)
}

impl Spool {
    /// Keeps rows in a file in this folder.
    pub fn create(folder: &Path) -> Result<Self, ImportError> {
        let path = folder.join(format!("import-{:032x}.work", rand::random::<u128>()));
        // Readable by us alone, and gone with the program.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(ImportError::Work)?;
        let opened = Connection::open(&path).and_then(|database| database.execute_batch(SETUP).map(|()| database));
        std::fs::remove_file(&path).map_err(ImportError::Work)?;
        Ok(Self { database: Mutex::new(opened?), logs: BTreeMap::new() })
    }

    /// Takes a row of `operations`, which stands in this line as this text.
    pub fn put(&mut self, row: &Row, text: &[u8], line: u64) -> Result<(), ImportError> {
        let user = row.required(Row::int, "user_id")?;
        let (seq, id) = (row.required(Row::int, "server_seq")?, row.required(Row::text, "id")?);
        let log = self.logs.entry(user).or_insert_with(|| SourceLog { user, ..SourceLog::default() });
        if log.op_count == 0 || seq < log.first_seq {
            (log.first_seq, log.first_id) = (seq, id.clone());
        }
        if log.op_count == 0 || seq > log.last_seq {
            (log.last_seq, log.last_id) = (seq, id);
        }
        log.op_count += 1;
        let database = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut insert = database.prepare_cached("INSERT INTO operations (place, line, row) VALUES (?, ?, ?)")?;
        match insert.execute((place(user, seq), line.cast_signed(), text)) {
            Ok(_) => Ok(()),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                let query = "SELECT line FROM operations WHERE place = ?";
                let first: i64 = database.query_row(query, [place(user, seq)], |row| row.get(0))?;
                Err(ImportError::Refused(format!(
                    "lines {first} and {line}: two operations of one account have the same server_seq"
                )))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes an account's cached state.
    pub fn put_snapshot(&mut self, user: UserId, snapshot: &[u8]) -> Result<(), ImportError> {
        let database = self.database.get_mut().unwrap_or_else(PoisonError::into_inner);
        database.execute("INSERT OR REPLACE INTO snapshots (user, data) VALUES (?, ?)", (user, snapshot))?;
        Ok(())
    }

    /// Ends with the last row. Gives back how much there is of every account's log.
    pub fn finish(&mut self) -> Result<BTreeMap<UserId, SourceLog>, ImportError> {
        self.database.get_mut().unwrap_or_else(PoisonError::into_inner).execute_batch("COMMIT")?;
        Ok(std::mem::take(&mut self.logs))
    }

    /// An account's cached state.
    pub fn snapshot(&self, user: UserId) -> Result<Option<Vec<u8>>, ImportError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let query = "SELECT data FROM snapshots WHERE user = ?";
        Ok(database.query_row(query, [user], |row| row.get(0)).optional()?)
    }

    /// Hands an account's rows and their lines to `take` by sequence, until it says `false`.
    pub fn rows(
        &self,
        user: UserId,
        mut take: impl FnMut(&[u8], u64) -> Result<bool, ImportError>,
    ) -> Result<(), ImportError> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let query = "SELECT line, row FROM operations WHERE place BETWEEN ? AND ? ORDER BY place";
        let mut query = database.prepare_cached(query)?;
        let mut rows = query.query([place(user, i32::MIN.into()), place(user, i32::MAX.into())])?;
        while let Some(row) = rows.next()? {
            let line: i64 = row.get(0)?;
            let text = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            if !take(text, line.cast_unsigned())? {
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

    /// Rows of all sizes.
    fn text(user: UserId, seq: Seq) -> String {
        format!("{user}\t{seq}\t{user}/{seq}\t{}", "x".repeat(usize::try_from(seq * seq).unwrap()))
    }

    fn spool(rows: &[(UserId, Seq)]) -> Result<(Spool, BTreeMap<UserId, SourceLog>), ImportError> {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(folder.path()).unwrap();
        let columns = ["user_id", "server_seq", "id", "payload"].map(str::to_owned);
        for ((user, seq), line) in rows.iter().zip(1..) {
            let text = text(*user, *seq);
            spool.put(&Row::new(&columns, text.as_bytes(), line)?, text.as_bytes(), line)?;
            spool.put_snapshot(*user, &[9, 9])?;
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing can be left");
        let logs = spool.finish()?;
        Ok((spool, logs))
    }

    #[test]
    fn the_same_number_twice_is_an_error() {
        let twice = spool(&[(1, 5), (2, 5), (1, 5)]).unwrap_err().to_string();
        assert!(twice.starts_with("lines 1 and 3: two operations"), "{twice}");
    }

    #[test]
    fn a_folder_that_is_not_there_is_said() {
        let error = Spool::create(Path::new("/nonexistent/folder")).unwrap_err();
        assert!(error.to_string().starts_with("the working copy of the dump's operations: "), "{error}");
    }

    #[test]
    fn whoever_has_enough_gets_no_more() {
        let (spool, _) = spool(&[(1, 2), (1, 1)]).unwrap();
        let mut seen = 0;
        let take = |_: &[u8], _| {
            seen += 1;
            Ok(false)
        };
        spool.rows(1, take).unwrap();
        assert_eq!(seen, 1);
    }

    proptest! {
        #[test]
        fn rows_come_back_in_their_order(
            set in prop::collection::btree_set((-2i64..5, 1i64..60), 0..200),
            seed in any::<u64>(),
        ) {
            let mut given: Vec<(UserId, Seq)> = set.iter().copied().collect();
            given.sort_by_key(|(user, seq)| (*user * 60 + *seq).unsigned_abs().wrapping_mul(seed | 1).rotate_left(17));
            let (spool, logs) = spool(&given).unwrap();
            for user in -3..6 {
                let of_user: Vec<Seq> = set.iter().filter(|row| row.0 == user).map(|row| row.1).collect();
                let id = |seq: Option<&Seq>| format!("{user}/{}", seq.unwrap());
                let expected = (!of_user.is_empty()).then(|| SourceLog {
                    user,
                    op_count: i64::try_from(of_user.len()).unwrap(),
                    first_seq: of_user[0],
                    last_seq: of_user[of_user.len() - 1],
                    first_id: id(of_user.first()),
                    last_id: id(of_user.last()),
                });
                prop_assert_eq!(logs.get(&user), expected.as_ref());
                prop_assert_eq!(spool.snapshot(user).unwrap(), expected.map(|_| vec![9, 9]));
                let mut found = Vec::new();
                let take = |row: &[u8], line| {
                    found.push((String::from_utf8_lossy(row).into_owned(), line));
                    Ok(true)
                };
                spool.rows(user, take).unwrap();
                let line = |seq| given.iter().zip(1..).find(|(row, _)| **row == (user, seq)).unwrap().1;
                let expected: Vec<_> =
                    of_user.iter().map(|seq| (text(user, *seq), line(*seq))).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
