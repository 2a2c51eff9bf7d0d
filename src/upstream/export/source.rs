//! Our side: the rows of a backup, and its accounts, one after the other, each with its operations in their order.
//!
//! Reads the tables side by side on a thread of its own; memory is bounded by a segment and a batch, however much there is.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use tokio::sync::mpsc;

use super::error::ExportError;
use crate::backup::{Checked, Rows};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::backup::{Fields, Value, operation, operations_of_segment};

/// Pieces under way at a time.
const QUEUE: usize = 4;

/// Operations of one batch at most,
const BATCH_OPS: usize = 500;
/// and bytes of their payloads, but for the last of them.
const BATCH_BYTES: usize = 1 << 20;

/// An account, without its operations.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) id: UserId,
    pub(super) email: String,
    pub(super) password_hash: Option<String>,
    pub(super) is_verified: bool,
    pub(super) token_version: i64,
    pub(super) failed_login_attempts: i64,
    pub(super) locked_until: Option<i64>,
    pub(super) terms_accepted_at: Option<i64>,
    /// Unix milliseconds, as all times here.
    pub(super) created_at: i64,
    pub(super) storage_quota_bytes: i64,
    /// Whether the operator locked it.
    pub(super) is_locked: bool,
    /// There is no data set if this is
    pub(super) base_seq: Seq,
    /// the last sequence. Otherwise what is left of it comes after this
    pub(super) pruned_seq: Seq,
    /// and up to this.
    pub(super) last_seq: Seq,
    /// Up to where its cached state is complete.
    pub(super) snapshot_seq: Option<Seq>,
    /// The newest causal full state, and the clock of everything up to it, as JSON.
    pub(super) full_state: Option<(Seq, String)>,
    pub(super) devices: Vec<Device>,
}

impl Account {
    /// Whether it has no data. Its sequence may be above 0 all the same.
    pub(super) const fn is_empty(&self) -> bool {
        self.base_seq >= self.last_seq
    }

    /// Up to where a cached state is complete that was taken over: it stands for operations that are nowhere else. Others
    /// the old server rebuilds.
    pub(super) fn kept_snapshot(&self) -> Option<Seq> {
        self.snapshot_seq.filter(|_| self.pruned_seq > self.base_seq)
    }
}

/// A device of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) client_id: String,
    pub(super) last_seen_at: i64,
    pub(super) created_at: i64,
}

/// An account as it is read.
pub(super) struct Reading {
    pub(super) account: Account,
    /// Numbers and ids of operations that the data set no longer holds, as far as they are known. They come before the
    /// operations: to be taken first, or given up.
    pub(super) archived: mpsc::Receiver<Vec<(Seq, Arc<str>)>>,
    /// The operations of the data set, some at a time. Last comes `None`: without that some are missing.
    pub(super) operations: mpsc::Receiver<Option<Vec<StoredOp>>>,
}

/// A backup, from which several things are read one after the other.
pub(super) struct Source {
    pub(super) checked: Arc<Checked>,
    pub(super) file: Arc<Path>,
}

impl Source {
    /// Has accounts with their data read on a thread of its own while `work` takes them.
    pub(super) async fn accounts(
        &self,
        work: impl AsyncFnOnce(mpsc::Receiver<Reading>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        self.read(QUEUE, accounts, work).await
    }

    /// The same with rows of a table: these columns of each, as a JSON object in which bytes are as PostgreSQL writes them.
    pub(super) async fn rows(
        &self,
        queue: usize,
        table: &'static str,
        columns: &'static [&'static str],
        work: impl AsyncFnOnce(mpsc::Receiver<Json>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        self.read(queue, move |checked, file, to| rows(checked, file, table, columns, to), work).await
    }

    async fn read<T: Send + 'static>(
        &self,
        queue: usize,
        read: impl FnOnce(&Checked, &Path, &mpsc::Sender<T>) -> Result<(), ExportError> + Send + 'static,
        work: impl AsyncFnOnce(mpsc::Receiver<T>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let (to, from) = mpsc::channel(queue);
        let (checked, file) = (Arc::clone(&self.checked), Arc::clone(&self.file));
        let reading = tokio::task::spawn_blocking(move || read(&checked, &file, &to));
        let worked = work(from).await;
        // Why the stream ended early explains what the other side says of that.
        reading.await.map_err(|_| ExportError::Crashed)??;
        worked
    }
}

fn rows(
    checked: &Checked,
    path: &Path,
    table: &str,
    columns: &[&str],
    to: &mpsc::Sender<Json>,
) -> Result<(), ExportError> {
    let mut rows = checked.cursor(path, table)?;
    let places: Vec<_> =
        columns.iter().map(|name| rows.columns().iter().position(|known| known.name == *name)).collect();
    while let Some(row) = rows.take_any()? {
        let value = |place: &Option<usize>| match place.and_then(|at| row.get(at)) {
            None | Some(Value::Null) => Json::Null,
            Some(Value::Int(number)) => (*number).into(),
            Some(Value::Bool(yes)) => (*yes).into(),
            Some(Value::Text(text)) => text.as_str().into(),
            Some(Value::Bytes(bytes)) => format!("\\x{}", hex::encode(bytes)).into(),
        };
        let object: Map<_, _> = columns.iter().map(|&name| name.to_owned()).zip(places.iter().map(value)).collect();
        if to.blocking_send(object.into()).is_err() {
            break;
        }
    }
    Ok(())
}

fn accounts(checked: &Checked, path: &Path, to: &mpsc::Sender<Reading>) -> Result<(), ExportError> {
    let open = |table| checked.cursor(path, table);
    let (mut users, mut states) = (open("users")?, open("user_sync_state")?);
    let (mut devices, mut segments, mut rows) = (open("sync_devices")?, open("segments")?, open("operations")?);
    while let Some(row) = users.take_any()? {
        let mut account = user(Fields::of(users.columns(), &row))?;
        let id = account.id;
        for other in [&mut states, &mut devices, &mut segments, &mut rows] {
            skip_to(other, id)?;
        }
        while let Some(row) = states.take(id)? {
            let fields = Fields::of(states.columns(), &row);
            account.base_seq = fields.int("base_seq")?;
            account.pruned_seq = fields.int("pruned_seq")?;
            account.snapshot_seq = fields.int_or_null("snapshot_seq")?;
            account.last_seq = fields.int("last_seq")?;
            let clock = fields.text_or_null("full_state_clock")?.map(str::to_owned);
            account.full_state = fields.int_or_null("full_state_seq")?.zip(clock);
        }
        while let Some(row) = devices.take(id)? {
            let fields = Fields::of(devices.columns(), &row);
            account.devices.push(Device {
                client_id: fields.text("client_id")?.to_owned(),
                last_seen_at: fields.int("last_seen_at")?,
                created_at: fields.int("created_at")?,
            });
        }
        let (pruned_seq, last_seq) = (account.pruned_seq, account.last_seq);
        let (archive, archived) = mpsc::channel(QUEUE);
        let (data_set, operations) = mpsc::channel(QUEUE);
        if to.blocking_send(Reading { account, archived, operations }).is_err() {
            return Ok(());
        }
        let mut archive = Some(archive);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(ops) = next_operations(&mut segments, &mut rows, id, pruned_seq, last_seq)? {
            for op in ops.into_iter().filter(|op| op.server_seq <= last_seq) {
                if op.server_seq <= pruned_seq {
                    // Not everybody wants to know.
                    archive.as_ref().map(|archive| archive.blocking_send(vec![(op.server_seq, op.id)]));
                    continue;
                }
                archive = None;
                bytes += op.payload.len();
                batch.push(op);
                if batch.len() >= BATCH_OPS || bytes >= BATCH_BYTES {
                    bytes = 0;
                    // If nobody takes any more, the next account comes.
                    data_set.blocking_send(Some(std::mem::take(&mut batch))).ok();
                }
            }
        }
        drop(archive);
        data_set.blocking_send(Some(batch)).ok();
        data_set.blocking_send(None).ok();
    }
    Ok(())
}

/// The next operations of an account, which are those of a segment or one by itself, in their order. `None`: there are no
/// more.
fn next_operations(
    segments: &mut Rows,
    rows: &mut Rows,
    id: UserId,
    pruned_seq: Seq,
    last_seq: Seq,
) -> Result<Option<Vec<StoredOp>>, ExportError> {
    match (segments.peek(id, "first_seq"), rows.peek(id, "server_seq")) {
        (Some(segment), row) if row.is_none_or(|row| segment <= row) => {
            let Some(row) = segments.take(id)? else { return Ok(None) };
            let fields = Fields::of(segments.columns(), &row);
            if segment > last_seq {
                return Ok(Some(Vec::new()));
            }
            let is_archived = fields.int("last_seq")? <= pruned_seq;
            match operations_of_segment(fields) {
                // The check has told of it, and it is not to be written.
                Err(_) if is_archived => Ok(Some(Vec::new())),
                unpacked => Ok(Some(unpacked?)),
            }
        }
        _ => {
            let Some(row) = rows.take(id)? else { return Ok(None) };
            Ok(Some(vec![operation(Fields::of(rows.columns(), &row))?]))
        }
    }
}

fn user(fields: Fields<'_>) -> Result<Account, ExportError> {
    Ok(Account {
        id: fields.int("id")?,
        email: fields.text("email")?.to_owned(),
        password_hash: fields.text_or_null("password_hash")?.map(str::to_owned),
        is_verified: fields.bool("is_verified")?,
        token_version: fields.int("token_version")?,
        failed_login_attempts: fields.int("failed_login_attempts")?,
        locked_until: fields.int_or_null("locked_until")?,
        terms_accepted_at: fields.int_or_null("terms_accepted_at")?,
        created_at: fields.int("created_at")?,
        storage_quota_bytes: fields.int("storage_quota_bytes")?,
        is_locked: fields.int_or_null("locked_at")?.is_some(),
        base_seq: 0,
        pruned_seq: 0,
        last_seq: 0,
        snapshot_seq: None,
        full_state: None,
        devices: Vec::new(),
    })
}

/// Leaves out rows without account; there are none in a backup that is in order.
fn skip_to(rows: &mut Rows, id: UserId) -> Result<(), ExportError> {
    while rows.user().is_some_and(|user| user < id) {
        rows.take_any()?;
    }
    Ok(())
}
