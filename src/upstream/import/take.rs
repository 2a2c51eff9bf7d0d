//! One account's log, from the source's batches into portions.

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::transform::{self, Account, Take};
use super::{ImportError, Reading};
use crate::protocol::response::encode_op;
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::adopt::{AdoptionRow, Log, Portion};

/// Operations of a portion, about,
const PORTION_OPS: u64 = 5_000;
/// and bytes of their payloads.
const PORTION_BYTES: usize = 8 << 20;

/// Identifies operations: what clients get of each, in their order, and what it is charged.
#[derive(Debug, Default)]
pub(super) struct LogDigest {
    digest: Sha256,
    text: Vec<u8>,
    /// How many there were.
    pub(super) count: i64,
}

impl LogDigest {
    pub(super) fn add(&mut self, op: &StoredOp) {
        self.text.clear();
        encode_op(op, &mut self.text);
        self.digest.update((self.text.len() as u64).to_le_bytes());
        self.digest.update(&self.text);
        self.digest.update(op.storage_bytes.to_le_bytes());
        self.count += 1;
    }

    pub(super) fn done(self) -> String {
        hex::encode(self.digest.finalize())
    }
}

/// Where portions go: to the writer, or, when nothing is to be written, nowhere.
#[derive(Debug)]
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
    pub(super) fn new(to: Option<mpsc::Sender<Portion>>, first: Portion) -> Self {
        Self { to, batch: first, bytes: 0, current: Portion::default(), current_bytes: 0, row: None, is_split: false }
    }

    /// An account begins.
    pub(super) fn begin(&mut self, row: &AdoptionRow) {
        self.current = Portion::default();
        self.current_bytes = 0;
        self.row = Some(row.clone());
        self.is_split = false;
    }

    /// What is known of the account so far.
    pub(super) fn portion(&mut self) -> &mut Portion {
        &mut self.current
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

    /// Nothing that has been written of the account's log counts.
    fn restart(&mut self, account: &Account) {
        self.current = Portion::default();
        self.current_bytes = 0;
        if std::mem::take(&mut self.is_split) {
            self.current.remove.push(account.user.id);
        }
    }

    /// The account is not taken after all.
    pub(super) fn give_up(&mut self, user: UserId) {
        let current = std::mem::take(&mut self.current);
        self.batch.remove.extend(current.remove);
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

    /// Sends what is left.
    pub(super) async fn finish(&mut self) -> Result<(), ImportError> {
        self.send_batch().await
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
    /// What was mended, in words.
    pub(super) repair: Option<String>,
}

/// What became of a log.
#[derive(Debug)]
pub(super) enum Outcome {
    Taken(Box<TakenLog>),
    /// Something in it can't be taken, in words.
    Faulty(String),
    /// The source ended early.
    BrokenOff,
}

/// Takes an account's log as `account.take` says.
pub(super) async fn log(account: &Account, reading: Option<Reading>, sink: &mut Sink) -> Result<Outcome, ImportError> {
    let extent = account.log;
    let nothing = || (Log::after(account.last_seq(), true), LogDigest::default());
    let (mut log, mut digest) = match account.take {
        Take::Nothing => nothing(),
        _ if extent.op_count == 0 => nothing(),
        _ => (Log::after(extent.first_seq - 1, false), LogDigest::default()),
    };
    let (mut read, mut next) = (0, extent.first_seq);
    // Behind a hole nothing is taken until a full state says that nothing of what was before it is needed.
    let mut is_waiting = false;
    let mut repair = account.fault.clone();
    if let Some(mut reading) = reading {
        while let Some(batch) = reading.recv().await {
            for op in batch {
                let op = match transform::operation(op) {
                    Ok(op) => op,
                    Err(what) => {
                        drain(reading).await;
                        return Ok(Outcome::Faulty(what));
                    }
                };
                read += 1;
                is_waiting |= op.server_seq != next;
                next = op.server_seq + 1;
                if is_waiting {
                    if !op.is_causal_full_state() {
                        continue;
                    }
                    is_waiting = false;
                    sink.restart(account);
                    (log, digest) = (Log::after(op.server_seq - 1, false), LogDigest::default());
                    repair = account.fault.as_ref().map(|fault| restarted(fault, op.server_seq));
                }
                log.add(&op);
                digest.add(&op);
                sink.op(account, &op).await?;
            }
        }
        if read != extent.op_count {
            return Ok(Outcome::BrokenOff);
        }
    }
    if is_waiting {
        sink.restart(account);
        (log, digest) = nothing();
    }
    if is_waiting || account.take == Take::Nothing {
        repair = account.fault.as_ref().map(|fault| format!("{fault}; taken over without operations"));
    }
    let op_count = digest.count;
    Ok(Outcome::Taken(Box::new(TakenLog { log, digest: digest.done(), op_count, repair })))
}

fn restarted(fault: &str, seq: Seq) -> String {
    format!("{fault}; taken over from the full state {seq} on")
}

/// The next account's operations come after this one's.
async fn drain(mut reading: Reading) {
    while reading.recv().await.is_some() {}
}
