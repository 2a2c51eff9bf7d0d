//! One account's log, from the source's batches into portions.

use std::io::{BufReader, Read as _};

use flate2::read::GzDecoder;
use serde::de::IgnoredAny;
use tokio::sync::mpsc;

use super::digest::LogDigest;
use super::error::ImportError;
use super::reading::Reading;
use super::transform::Account;
use crate::protocol::{Seq, StoredOp, UserId, VectorClock};
use crate::store::SnapshotMeta;
use crate::store::adopt::{AdoptionRow, Log, Portion, UNDER_WAY};

/// Operations of a portion, about,
const PORTION_OPS: u64 = 5_000;
/// and bytes of their payloads.
const PORTION_BYTES: usize = 8 << 20;
/// What a cached state may unpack to (sync contract, section 10.4).
const MAX_STATE_BYTES: u64 = 100 << 20;

/// Where portions go: to the writer, or, when nothing is to be written, nowhere.
#[derive(Debug, Default)]
pub(super) struct Sink {
    to: Option<mpsc::Sender<Portion>>,
    /// Accounts that are complete.
    batch: Portion,
    bytes: usize,
    /// The account at hand.
    current: Portion,
    current_bytes: usize,
    row: Option<AdoptionRow>,
    /// A part of the account at hand is on its way already.
    is_split: bool,
}

impl Sink {
    pub(super) fn to(writer: mpsc::Sender<Portion>) -> Self {
        Self { to: Some(writer), ..Self::default() }
    }

    /// An account begins. `replaces`: there is something of it, which goes with the first part of what is written.
    pub(super) fn begin(&mut self, row: &AdoptionRow, replaces: bool) {
        self.current = Portion::default();
        self.current.remove.extend(replaces.then_some(row.user));
        self.current_bytes = 0;
        self.row = Some(row.clone());
        self.is_split = false;
    }

    /// What is known of the account so far.
    pub(super) fn portion(&mut self) -> &mut Portion {
        &mut self.current
    }

    fn snapshot(&mut self, user: UserId, schema_version: i64, data: Vec<u8>) {
        if self.to.is_some() {
            self.current_bytes += data.len();
            self.current.put_snapshot(user, schema_version, data);
        }
    }

    async fn op(&mut self, account: &Account, op: &StoredOp) -> Result<(), ImportError> {
        if self.to.is_none() {
            return Ok(());
        }
        self.current.put_op(account.user.id, op);
        self.current_bytes += op.payload.len();
        if self.current.operations() >= PORTION_OPS || self.current_bytes >= PORTION_BYTES {
            self.send_batch().await?;
            let mut part = std::mem::take(&mut self.current);
            self.current_bytes = 0;
            // So that the next run knows what to delete if this one is broken off.
            if let Some(row) = self.row.as_ref().filter(|_| !self.is_split) {
                part.put_adoption(row);
            }
            self.is_split = true;
            self.send(part).await?;
        }
        Ok(())
    }

    /// The account is not taken after all. What there was of it stays, if nothing has been written yet.
    pub(super) fn give_up(&mut self, user: UserId) {
        self.current = Portion::default();
        if self.is_split {
            self.batch.remove.push(user);
        }
    }

    /// The account is complete.
    pub(super) async fn end(&mut self, row: &AdoptionRow) -> Result<(), ImportError> {
        let mut current = std::mem::take(&mut self.current);
        current.put_adoption(row);
        self.batch.append(current);
        self.bytes += self.current_bytes;
        if self.batch.operations() >= PORTION_OPS || self.bytes >= PORTION_BYTES || self.batch.rows() >= PORTION_OPS * 4
        {
            self.send_batch().await?;
        }
        Ok(())
    }

    /// Sends what is left. That the import is under way is true no more.
    pub(super) async fn finish(&mut self) -> Result<(), ImportError> {
        self.send_batch().await?;
        self.send(Portion { remove: vec![UNDER_WAY], ..Portion::default() }).await
    }

    async fn send_batch(&mut self) -> Result<(), ImportError> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.send(batch).await }
    }

    async fn send(&mut self, portion: Portion) -> Result<(), ImportError> {
        match &self.to {
            // The writer says why it does not take any more.
            Some(to) => to.send(portion).await.map_err(|_| ImportError::Crashed),
            None => Ok(()),
        }
    }
}

/// A log that was taken.
#[derive(Debug)]
pub(super) struct TakenLog {
    pub(super) log: Log,
    pub(super) digest: String,
    pub(super) op_count: i64,
    /// How many operations the digest is of.
    pub(super) compared: i64,
    /// Whether its cached state was taken too.
    pub(super) has_snapshot: bool,
    /// Why it was not, although what is gone from the log is nowhere else.
    pub(super) unusable_snapshot: Option<&'static str>,
}

/// Takes an account's log as far as it is to be taken. The digest is that of the operations above `digest_after`. What in it
/// can't be taken comes back in words.
pub(super) async fn log(
    account: &Account,
    reading: Option<Reading>,
    sink: &mut Sink,
    digest_after: Seq,
) -> Result<Result<TakenLog, String>, ImportError> {
    let extent = &account.log;
    let marks = &account.user.marks;
    let (snapshot, operations) = reading.map_or((None, None), |reading| (reading.snapshot, Some(reading.operations)));
    let (snapshot, mut unusable_snapshot) = match snapshot {
        Some(data) if !is_state(&data) => (None, Some("its cached state can't be read and is left out")),
        other => (other, None),
    };
    let mut snapshot = snapshot.zip(marks.snapshot_seq);
    let is_empty = account.op_count() == 0;
    let begin = match &snapshot {
        Some((_, seq)) if is_empty => *seq,
        _ if is_empty => account.last_seq(),
        _ => extent.first_seq - 1,
    };
    let (mut log, mut digest) = (Log::after(begin, is_empty && snapshot.is_none()), LogDigest::default());
    let mut op_count = 0;
    if let Some(mut reading) = operations {
        while let Some(batch) = reading.recv().await {
            for op in batch {
                let op = match op {
                    Ok(op) => op,
                    Err(what) => return Ok(Err(what)),
                };
                if op_count == 0 && op.is_causal_full_state() {
                    // Nothing of what was before it is needed.
                    (snapshot, unusable_snapshot) = (None, None);
                }
                op_count += 1;
                log.add(&op);
                if op.server_seq > digest_after {
                    digest.add(&op);
                }
                sink.op(account, &op).await?;
            }
        }
        if op_count != extent.op_count {
            // The reader says why.
            return Err(ImportError::Crashed);
        }
        log.skip_to(account.last_seq());
    }
    // It names more than an operation's clock, which is cut when it is stored, and than what is left of the log.
    if let (Some(seq), Some(clock)) = (marks.full_state_seq, &marks.full_state_clock)
        && let Ok(clock) = VectorClock::from_json(clock)
    {
        log.covers(seq, &clock);
    }
    let has_snapshot = snapshot.is_some();
    if let Some((data, seq)) = snapshot {
        let bytes = i64::try_from(data.len()).unwrap_or(i64::MAX);
        log.start_from(SnapshotMeta { seq, at: marks.snapshot_at.unwrap_or(account.user.created_at), bytes });
        sink.snapshot(account.user.id, marks.snapshot_schema_version.unwrap_or(1), data);
    }
    let (compared, digest) = (digest.count, digest.done());
    Ok(Ok(TakenLog { log, digest, op_count, compared, has_snapshot, unusable_snapshot }))
}

/// Whether it can be unpacked, within what a state may take, and is JSON.
fn is_state(data: &[u8]) -> bool {
    let limited = GzDecoder::new(data).take(MAX_STATE_BYTES);
    serde_json::from_reader::<_, IgnoredAny>(BufReader::new(limited)).is_ok()
}
