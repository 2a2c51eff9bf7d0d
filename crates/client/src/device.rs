//! A device of an account: what it has not uploaded yet, what it has seen, and how it syncs.

use std::collections::VecDeque;

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::wire::{
    Clock, ImportReason, NewOp, OpResult, OpType, SCHEMA_VERSION, Seq, ServerOp, SnapshotAnswer, SnapshotBody,
    UploadBody,
};
use super::{Client, ClientError};

/// Operations in one upload, as the app sends them (contract, section 14.1).
const CHUNK: usize = 25;
/// How often a change that lost a race is repeated before the device gives up (contract, section 14.3).
const CONFLICT_ROUNDS: u8 = 3;
/// Pages of one download (contract, section 15).
const MAX_PAGES: usize = 1000;
/// Operations of a page (contract, section 15).
const PAGE: usize = 500;

/// A change made on the device.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // contract, section 5.2
pub struct Change {
    pub action_type: String,
    pub op_type: OpType,
    pub entity_type: String,
    pub entity_id: Option<String>,
    pub entity_ids: Vec<String>,
    pub payload: Box<RawValue>,
    pub is_payload_encrypted: bool,
}

/// An operation that is not uploaded yet.
#[derive(Clone, Debug)]
struct Pending {
    op: NewOp,
    conflicts: u8,
}

/// What a sync did.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// Operations that the server has taken: id and place in the log.
    pub accepted: Vec<(String, Seq)>,
    /// Operations that the server had already.
    pub duplicates: Vec<String>,
    /// Operations that stay pending for the next sync.
    pub deferred: Vec<String>,
    /// Operations that lost a race: their id, and the id under which the change will be sent again, unless the device
    /// gave up.
    pub conflicts: Vec<(String, Option<String>)>,
    /// Operations that are refused for good, with the code.
    pub rejected: Vec<(String, String)>,
    /// How many operations of other devices arrived.
    pub received: usize,
    /// Whether the server had lost or dropped history, so that everything was downloaded again.
    pub restarted: bool,
}

/// A device.
#[derive(Debug)]
pub struct Device {
    /// The connection. Another one may lead to the same data set by another address or token.
    pub client: Client,
    client_id: String,
    clock: Clock,
    cursor: Seq,
    pending: VecDeque<Pending>,
    inbox: Vec<ServerOp>,
}

impl Device {
    /// A device that has never synced.
    #[must_use]
    pub fn new(client: Client, client_id: &str) -> Self {
        Self {
            client,
            client_id: client_id.to_owned(),
            clock: Clock::new(),
            cursor: 0,
            pending: VecDeque::new(),
            inbox: Vec::new(),
        }
    }

    /// The device's name.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Everything up to here has been seen.
    #[must_use]
    pub const fn cursor(&self) -> Seq {
        self.cursor
    }

    /// What the device has seen of whom.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How many operations wait to be uploaded.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Operations of other devices that arrived since the last call, in order. After a restart they start over.
    pub fn take_inbox(&mut self) -> Vec<ServerOp> {
        std::mem::take(&mut self.inbox)
    }

    /// Records a change; it is uploaded with the next sync. Returns the operation's id.
    pub fn change(&mut self, change: Change) -> String {
        let op = NewOp {
            id: uuid::Uuid::now_v7().to_string(),
            client_id: self.client_id.clone(),
            action_type: change.action_type,
            op_type: change.op_type,
            entity_type: change.entity_type,
            entity_id: change.entity_id,
            entity_ids: change.entity_ids,
            payload: change.payload,
            vector_clock: self.tick(),
            timestamp: now_ms(),
            schema_version: SCHEMA_VERSION,
            is_payload_encrypted: change.is_payload_encrypted,
            sync_import_reason: None,
        };
        let id = op.id.clone();
        self.pending.push_back(Pending { op, conflicts: 0 });
        id
    }

    /// Uploads what is pending, takes what came with the answers, downloads the rest. When it fails, what was done so
    /// far stays done and the next sync goes on from there.
    ///
    /// # Errors
    /// Any [`ClientError`]; [`ClientError::SyncWaitTimeout`] when it took too long as a whole.
    pub async fn sync(&mut self) -> Result<SyncReport, ClientError> {
        let wait = self.client.ladder().sync_wait;
        let result = tokio::time::timeout(wait, self.sync_without_limit()).await;
        result.map_err(|_| ClientError::SyncWaitTimeout(wait))?
    }

    async fn sync_without_limit(&mut self) -> Result<SyncReport, ClientError> {
        let mut report = SyncReport::default();
        if !self.upload_pending(&mut report).await? {
            self.download_rest(&mut report).await?;
        }
        Ok(report)
    }

    /// Uploads chunk after chunk. Returns whether everything of the other devices came with the answers.
    async fn upload_pending(&mut self, report: &mut SyncReport) -> Result<bool, ClientError> {
        let mut todo = self.pending.len();
        let mut all_here = false;
        while todo > 0 {
            let ops: Vec<NewOp> = self.pending.iter().take(todo.min(CHUNK)).map(|pending| pending.op.clone()).collect();
            todo -= ops.len();
            let request_id = request_id(&ops);
            let known = self.cursor;
            let answer = self
                .client
                .upload(&UploadBody {
                    ops: &ops,
                    client_id: &self.client_id,
                    last_known_server_seq: Some(known),
                    request_id: Some(&request_id),
                })
                .await?;
            let new_ops = answer.new_ops.unwrap_or_default();
            let has_more = answer.has_more_piggyback.is_some();
            // Contract, section 5.11: with more to come the cursor must not jump over what has not come.
            self.cursor =
                if has_more { new_ops.last().map_or(known, |op| op.server_seq) } else { known.max(answer.latest_seq) };
            // A counter behind our own cursor means lost history, which only a download tells.
            all_here = !has_more && answer.latest_seq >= known;
            report.received += new_ops.len();
            self.take(new_ops);
            // Rejections come after the piggybacked operations, which may explain them.
            for result in answer.results {
                self.settle(result, report);
            }
            if !report.deferred.is_empty() {
                // What comes later may build on what has to wait.
                return Ok(false);
            }
        }
        Ok(all_here)
    }

    /// What a result means for the operation (contract, section 14.3).
    fn settle(&mut self, result: OpResult, report: &mut SyncReport) {
        let Some(at) = self.pending.iter().position(|pending| pending.op.id == result.op_id) else { return };
        if let Some("INTERNAL_ERROR" | "STORAGE_QUOTA_EXCEEDED") = result.error_code.as_deref() {
            report.deferred.push(result.op_id);
            return;
        }
        let Some(pending) = self.pending.remove(at) else { return };
        match (result.server_seq, result.error_code) {
            (Some(seq), _) => report.accepted.push((result.op_id, seq)),
            (None, Some(code)) if code == "DUPLICATE_OPERATION" => {
                report.duplicates.push(result.op_id);
            }
            (None, Some(code)) if code.starts_with("CONFLICT_") => {
                merge(&mut self.clock, &result.existing_clock.unwrap_or_default());
                report.conflicts.push((result.op_id, self.redo(pending)));
            }
            (None, code) => report.rejected.push((result.op_id, code.unwrap_or_default())),
        }
    }

    /// Repeats a change that lost a race, on top of everything seen by now.
    fn redo(&mut self, lost: Pending) -> Option<String> {
        if lost.conflicts == CONFLICT_ROUNDS {
            return None;
        }
        let id = uuid::Uuid::now_v7().to_string();
        let op = NewOp { id: id.clone(), vector_clock: self.tick(), timestamp: now_ms(), ..lost.op };
        self.pending.push_back(Pending { op, conflicts: lost.conflicts + 1 });
        Some(id)
    }

    /// Downloads until there is no more. A gap leads back to the start, once.
    async fn download_rest(&mut self, report: &mut SyncReport) -> Result<(), ClientError> {
        let (mut since, mut ops, mut clock) = (self.cursor, Vec::new(), Clock::new());
        for _ in 0..MAX_PAGES {
            let page = self.client.download(since, Some(&self.client_id), PAGE).await?;
            if page.gap_detected.is_some() {
                // What the server has is all there is: forget where we were. A gap from 0 is refused as invalid.
                (since, report.restarted) = (0, true);
                ops.clear();
                clock.clear();
                continue;
            }
            if let Some(snapshot_clock) = page.snapshot_vector_clock {
                merge(&mut clock, &snapshot_clock);
            }
            since = page.ops.last().map_or(since, |op| op.server_seq);
            ops.extend(page.ops);
            if !page.has_more {
                report.received += ops.len();
                merge(&mut self.clock, &clock);
                self.take(ops);
                self.cursor = page.latest_seq;
                return Ok(());
            }
        }
        Err(ClientError::InvalidAnswer {
            route: "GET /api/sync/ops".into(),
            reason: format!("more than {MAX_PAGES} pages"),
        })
    }

    fn take(&mut self, ops: Vec<ServerOp>) {
        for op in &ops {
            merge(&mut self.clock, &op.op.vector_clock);
        }
        self.inbox.extend(ops);
    }

    /// Uploads the whole state as a `SYNC_IMPORT` and, when accepted, moves the cursor to it. A clean slate replaces
    /// everything that the account has; otherwise it is the account's `initial` state. `op_id` must be the same at a
    /// retry.
    ///
    /// # Errors
    /// Any [`ClientError`]; [`ClientError::ImportExists`] when somebody else was first.
    pub async fn upload_snapshot(
        &mut self,
        op_id: &str,
        state: Box<RawValue>,
        is_payload_encrypted: bool,
        is_clean_slate: bool,
    ) -> Result<SnapshotAnswer, ClientError> {
        let vector_clock = self.tick();
        let answer = self
            .client
            .snapshot(&SnapshotBody {
                state,
                client_id: self.client_id.clone(),
                reason: if is_clean_slate { "recovery" } else { "initial" },
                vector_clock,
                schema_version: SCHEMA_VERSION,
                is_payload_encrypted,
                sync_import_reason: Some(if is_clean_slate {
                    ImportReason::ForceUpload
                } else {
                    ImportReason::ServerMigration
                }),
                op_id: op_id.to_owned(),
                is_clean_slate,
                snapshot_op_type: OpType::SyncImport,
                request_id: Some(format!("snapshot-v1-{}", digest([self.client_id.as_bytes(), op_id.as_bytes()]))),
            })
            .await?;
        if let Some(seq) = answer.server_seq {
            self.cursor = seq;
            // What was pending is part of the state.
            self.pending.clear();
        }
        Ok(answer)
    }

    /// Deletes the account's data; this device starts over.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn wipe(&mut self) -> Result<(), ClientError> {
        self.client.wipe().await?;
        self.cursor = 0;
        self.inbox.clear();
        Ok(())
    }

    /// Counts one more change of this device. Returns the clock with it.
    fn tick(&mut self) -> Clock {
        *self.clock.entry(self.client_id.clone()).or_default() += 1;
        self.clock.clone()
    }
}

/// The id of an upload: the same for the same operations, whatever their ciphertext, so that a retry after a lost
/// answer is recognised (contract, section 14.1).
fn request_id(ops: &[NewOp]) -> String {
    let parts = ops.iter().flat_map(|op| {
        let payload = if op.is_payload_encrypted { "" } else { op.payload.get() };
        [op.id.as_bytes(), payload.as_bytes()]
    });
    format!("ops-v1-{}-{}", ops.len(), digest(parts))
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..20])
}

fn merge(clock: &mut Clock, other: &Clock) {
    for (client, counter) in other {
        let mine = clock.entry(client.clone()).or_default();
        *mine = (*mine).max(*counter);
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
