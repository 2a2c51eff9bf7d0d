//! Our side: the accounts of a backup, one after the other, each with its operations in their order.
//!
//! Reads the tables side by side on a thread of its own; memory is bounded by a segment and a batch, however much there is.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::ExportError;
use crate::backup::{Checked, Cursor};
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::backup::{Fields, operation, operations_of_segment};

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
    /// the old server makes anew.
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

/// A passkey.
#[derive(Clone, Debug)]
pub(super) struct Passkey {
    pub(super) user: UserId,
    pub(super) credential_id: Vec<u8>,
    pub(super) public_key: Vec<u8>,
    pub(super) counter: i64,
    pub(super) transports: Option<String>,
    pub(super) created_at: i64,
    pub(super) last_used_at: Option<i64>,
}

/// What is kept of a link that was mailed.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) user: UserId,
    /// SHA-256 of the token.
    pub(super) token_hash: Vec<u8>,
    pub(super) expires_at: i64,
}

/// A piece of the stream: an account, then what is known of operations that its data set no longer holds, then its
/// operations; at last the end.
#[derive(Debug)]
pub(super) enum Piece {
    Account(Box<Account>),
    Archived(Vec<(Seq, Arc<str>)>),
    Operations(Vec<StoredOp>),
    End,
}

/// Reads all passkeys. Stops early when nobody takes them any more.
pub(super) fn passkeys(checked: &Checked, path: &Path, to: &mpsc::Sender<Passkey>) -> Result<(), ExportError> {
    let mut rows = checked.cursor(path, "passkeys")?;
    while let Some(row) = rows.take_any()? {
        let fields = Fields::of(rows.columns(), &row);
        let passkey = Passkey {
            user: fields.int("user_id")?,
            credential_id: fields.bytes("credential_id")?.to_owned(),
            public_key: fields.bytes("public_key")?.to_owned(),
            counter: fields.int("counter")?,
            transports: fields.text_or_null("transports")?.map(str::to_owned),
            created_at: fields.int("created_at")?,
            last_used_at: fields.int_or_null("last_used_at")?,
        };
        if to.blocking_send(passkey).is_err() {
            break;
        }
    }
    Ok(())
}

/// Reads what is kept of links that have not been used, registrations with a passkey among them.
pub(super) fn links(checked: &Checked, path: &Path, to: &mpsc::Sender<Link>) -> Result<(), ExportError> {
    for table in ["one_time_tokens", "pending_passkeys"] {
        let mut rows = checked.cursor(path, table)?;
        while let Some(row) = rows.take_any()? {
            let fields = Fields::of(rows.columns(), &row);
            let link = Link {
                user: fields.int("user_id")?,
                token_hash: fields.bytes("token_hash")?.to_owned(),
                expires_at: fields.int("expires_at")?,
            };
            if to.blocking_send(link).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads all accounts without their data.
pub(super) fn users(checked: &Checked, path: &Path, to: &mpsc::Sender<Account>) -> Result<(), ExportError> {
    let mut rows = checked.cursor(path, "users")?;
    while let Some(row) = rows.take_any()? {
        if to.blocking_send(user(Fields::of(rows.columns(), &row))?).is_err() {
            break;
        }
    }
    Ok(())
}

/// Reads all accounts with their data.
pub(super) fn accounts(checked: &Checked, path: &Path, to: &mpsc::Sender<Piece>) -> Result<(), ExportError> {
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
        let data_set = account.pruned_seq + 1..=account.last_seq;
        if to.blocking_send(Piece::Account(Box::new(account))).is_err() {
            return Ok(());
        }
        let mut batch = Batch { archived: Vec::new(), ops: Vec::new(), bytes: 0, to };
        loop {
            let of_segment = segments.peek(id, "first_seq");
            let of_row = rows.peek(id, "server_seq");
            let ops = match (of_segment, of_row) {
                (None, None) => break,
                (Some(segment), row) if row.is_none_or(|row| segment <= row) => {
                    let Some(row) = segments.take(id)? else { break };
                    let fields = Fields::of(segments.columns(), &row);
                    if segment > *data_set.end() {
                        continue;
                    }
                    let is_archived = fields.int("last_seq")? < *data_set.start();
                    match operations_of_segment(fields) {
                        // The check has told of it, and it is not to be written.
                        Err(_) if is_archived => continue,
                        unpacked => unpacked?,
                    }
                }
                _ => {
                    let Some(row) = rows.take(id)? else { break };
                    vec![operation(Fields::of(rows.columns(), &row))?]
                }
            };
            for op in ops.into_iter().filter(|op| op.server_seq <= *data_set.end()) {
                let is_taken = if data_set.contains(&op.server_seq) { batch.add(op) } else { batch.add_archived(&op) };
                if !is_taken {
                    return Ok(());
                }
            }
        }
        if !batch.send() {
            return Ok(());
        }
    }
    to.blocking_send(Piece::End).ok();
    Ok(())
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
fn skip_to(rows: &mut Cursor, id: UserId) -> Result<(), ExportError> {
    while rows.user().is_some_and(|user| user < id) {
        rows.take_any()?;
    }
    Ok(())
}

/// Operations on their way. Those of archives come first.
struct Batch<'a> {
    archived: Vec<(Seq, Arc<str>)>,
    ops: Vec<StoredOp>,
    bytes: usize,
    to: &'a mpsc::Sender<Piece>,
}

impl Batch<'_> {
    /// `false`: nobody takes any more.
    fn add(&mut self, op: StoredOp) -> bool {
        self.bytes += op.payload.len();
        self.ops.push(op);
        (self.ops.len() < BATCH_OPS && self.bytes < BATCH_BYTES) || self.send()
    }

    fn add_archived(&mut self, op: &StoredOp) -> bool {
        self.archived.push((op.server_seq, Arc::clone(&op.id)));
        self.archived.len() < BATCH_OPS || self.send()
    }

    fn send(&mut self) -> bool {
        self.bytes = 0;
        let (archived, ops) = (std::mem::take(&mut self.archived), std::mem::take(&mut self.ops));
        (archived.is_empty() || self.to.blocking_send(Piece::Archived(archived)).is_ok())
            && (ops.is_empty() || self.to.blocking_send(Piece::Operations(ops)).is_ok())
    }
}
