//! Whether what a database holds is in order: what every database satisfies (`engine::invariants`, for what can be seen
//! without the engine), for a backup as for a running server.
//!
//! Reads all tables at once, account by account, because each is in the order of accounts: memory stays the same however
//! many accounts there are.

use std::fmt;

use super::cursor::{Cursor, Source};
use crate::protocol::{Seq, UserId};
use crate::store::backup::Value;
use crate::store::segment;

/// The tables that are looked at. Their rows begin with the account's number.
pub const OF_ACCOUNTS: [&str; 8] = [
    "users",
    "user_sync_state",
    "user_snapshots",
    "archived_ranges",
    "segments",
    "operations",
    "entity_heads",
    "sync_devices",
];

/// Which of their columns are looked at. Of the other tables only the account's number is.
pub const NEEDED: [(&str, &[&str]); 5] = [
    ("users", &["id"]),
    (
        "user_sync_state",
        &[
            "user_id",
            "base_seq",
            "pruned_seq",
            "last_seq",
            "full_state_seq",
            "storage_used_bytes",
            "snapshot_bytes",
            "sparse_up_to",
        ],
    ),
    ("archived_ranges", &["user_id", "from_seq", "to_seq"]),
    ("segments", &["user_id", "last_seq", "first_seq", "storage_bytes", "op_count", "data"]),
    ("operations", &["user_id", "server_seq", "storage_bytes"]),
];

/// What is wrong with an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// There is data of an account that is none.
    NoAccount,
    /// The account's own figures contradict each other.
    State,
    /// Operations of the data set are gone.
    Missing,
    /// A place in the log is taken twice.
    Repeated,
    /// Operations are neither in the data set nor in an archive.
    Stray,
    /// Packed operations can't be read, or are not what their row says.
    Segment,
    /// Other bytes are charged than are stored.
    Charged,
}

/// A fault, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The account.
    pub user: UserId,
    /// What kind of fault it is.
    pub kind: FaultKind,
    /// In words.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account {}: {}", self.user, self.what)
    }
}

/// Looks at everything in the tables of [`OF_ACCOUNTS`], given in that order, and tells each fault. Returns the number of
/// operations, packed or not. Blocks where the sources do.
///
/// # Errors
/// What keeps the tables from being read. Faults in what they hold are no error.
pub fn check<S: Source>(tables: Vec<S>, on_fault: impl FnMut(Fault)) -> Result<u64, S::Error> {
    let cursors = tables.into_iter().map(Cursor::open).collect::<Result<_, _>>()?;
    let mut contents = Contents { cursors, on_fault, operations: 0 };
    while let Some(user) = contents.cursors.iter().filter_map(Cursor::user).min() {
        contents.account(user)?;
    }
    Ok(contents.operations)
}

/// The tables of accounts, read side by side.
struct Contents<S, F> {
    cursors: Vec<Cursor<S>>,
    on_fault: F,
    operations: u64,
}

/// What is known of an account's log while it is read.
struct Log {
    user: UserId,
    base: Seq,
    pruned: Seq,
    last: Seq,
    /// Numbers up to here may belong to no operation.
    sparse_up_to: Seq,
    /// The last sequence that was seen.
    seen: Seq,
    /// The data set was seen up to here.
    complete_to: Seq,
    /// Bytes charged.
    charged: i64,
    /// The archived range that ends at or after what is looked at.
    range: Option<(Seq, Seq)>,
}

impl<S: Source, F: FnMut(Fault)> Contents<S, F> {
    fn fault(&mut self, user: UserId, kind: FaultKind, what: impl Into<String>) {
        (self.on_fault)(Fault { user, kind, what: what.into() });
    }

    fn account(&mut self, user: UserId) -> Result<(), S::Error> {
        let [users, states, snapshots, _, _, _, heads, devices] = &mut self.cursors[..] else { return Ok(()) };
        let exists = users.take(user)?.is_some();
        let state = states.take(user)?;
        while snapshots.take(user)?.is_some() || heads.take(user)?.is_some() || devices.take(user)?.is_some() {}
        if !exists {
            self.fault(user, FaultKind::NoAccount, "there is data, but no such account");
        }
        let states = &self.cursors[1];
        let column = |name| state.as_ref().and_then(|row| states.number(row, name));
        let number = |name| column(name).unwrap_or(0);
        let (base, pruned, last) = (number("base_seq"), number("pruned_seq"), number("last_seq"));
        let full_state = column("full_state_seq");
        let sparse_up_to = number("sparse_up_to");
        let (counter, cached) = (number("storage_used_bytes"), number("snapshot_bytes"));
        if !(0 <= base && base <= pruned && pruned <= last) {
            let what = format!("base {base} ≤ pruned {pruned} ≤ last {last} does not hold");
            self.fault(user, FaultKind::State, what);
        }
        if full_state.is_some_and(|seq| seq <= pruned || seq > last) {
            self.fault(user, FaultKind::State, "the newest full state is outside of the data set");
        }
        let mut log =
            Log { user, base, pruned, last, sparse_up_to, seen: 0, complete_to: pruned, charged: 0, range: None };
        self.log(&mut log)?;
        if log.complete_to < last && last > sparse_up_to {
            let first = log.complete_to.saturating_add(1);
            self.fault(user, FaultKind::Missing, format!("operations {first} to {last} are missing"));
        }
        let charged = log.charged.saturating_add(cached);
        if charged != counter {
            let what = format!("{counter} bytes are charged, but {charged} are stored");
            self.fault(user, FaultKind::Charged, what);
        }
        Ok(())
    }

    /// Reads an account's operations, whether in rows or in segments, in their order.
    fn log(&mut self, log: &mut Log) -> Result<(), S::Error> {
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

    fn row(&mut self, log: &mut Log) -> Result<(), S::Error> {
        let cursor = &mut self.cursors[5];
        let Some(row) = cursor.take(log.user)? else { return Ok(()) };
        let seq = cursor.number(&row, "server_seq").unwrap_or(0);
        let bytes = cursor.number(&row, "storage_bytes").unwrap_or(0);
        self.operations += 1;
        if log.pruned < seq && seq <= log.last {
            log.charged = log.charged.saturating_add(bytes);
        }
        self.span(log, seq, seq)
    }

    fn segment(&mut self, log: &mut Log) -> Result<(), S::Error> {
        let cursor = &mut self.cursors[4];
        let Some(row) = cursor.take(log.user)? else { return Ok(()) };
        let number = |name| cursor.number(&row, name).unwrap_or(0);
        let (first, last) = (number("first_seq"), number("last_seq"));
        let (count, bytes) = (number("op_count"), number("storage_bytes"));
        let data = if let Some(Value::Bytes(data)) = cursor.value(&row, "data") { data.as_slice() } else { &[] };
        let whole = segment::measure(data, first, last, 0, Seq::MAX);
        let inside = segment::measure(data, first, last, log.pruned, log.last);
        match (whole, inside) {
            (Ok(whole), Ok((charged, _))) if whole == (bytes, count) => {
                log.charged = log.charged.saturating_add(charged);
            }
            (Err(error), _) | (_, Err(error)) => {
                let what = format!("the segment of operations {first} to {last} is unreadable: {error}");
                self.fault(log.user, FaultKind::Segment, what);
            }
            _ => {
                let what = format!("the segment of operations {first} to {last} says other sums than it has");
                self.fault(log.user, FaultKind::Segment, what);
            }
        }
        self.operations += u64::try_from(count).unwrap_or(0);
        self.span(log, first, last)
    }

    /// Operations that follow those seen.
    fn span(&mut self, log: &mut Log, first: Seq, last: Seq) -> Result<(), S::Error> {
        let user = log.user;
        if first <= log.seen || last < first {
            self.fault(user, FaultKind::Repeated, format!("operation {first} stands twice"));
        }
        log.seen = log.seen.max(last);
        let (from, to) = (first.max(log.pruned.saturating_add(1)), last.min(log.last));
        if from <= to {
            let due = log.complete_to.saturating_add(1);
            if from > due && from - 1 > log.sparse_up_to {
                let what = format!("operations {due} to {} are missing", from - 1);
                self.fault(user, FaultKind::Missing, what);
            }
            log.complete_to = log.complete_to.max(to);
        }
        // Of the data set's outside only what the archive knows may be there.
        if (first <= log.pruned && !self.is_archived(log, first)?)
            || (last > log.last && !self.is_archived(log, last)?)
        {
            let generation = if first <= log.base { "an older" } else { "the present" };
            let what = format!("operations {first} to {last} of {generation} data set are in no archive");
            self.fault(user, FaultKind::Stray, what);
        }
        Ok(())
    }

    /// Whether an archived range holds a sequence. Asked for growing sequences.
    fn is_archived(&mut self, log: &mut Log, seq: Seq) -> Result<bool, S::Error> {
        while log.range.is_none_or(|(_, to)| to < seq) {
            let cursor = &mut self.cursors[3];
            let Some(row) = cursor.take(log.user)? else { return Ok(false) };
            log.range = cursor.number(&row, "from_seq").zip(cursor.number(&row, "to_seq"));
        }
        Ok(log.range.is_some_and(|(from, to)| (from..=to).contains(&seq)))
    }
}
