//! Everything that an account holds, as one zip file: its operations, its newest full state where the server can read it,
//! and what the server knows about the account. Written while it is read: nothing of it is ever whole in memory but the
//! state.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::time::Instant;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use super::answer::{self, DeviceSeen};
use super::archives::{ReadError, next_lines};
use super::body::cover;
use super::call::Call;
use super::encode::{self, File};
use super::error::{ApiError, ApiResult};
use super::outgoing::{Part, Parts, Pieces, leaving};
use super::sender::Client;
use super::state::AppState;
use crate::accounts::{AccountSummary, SecuritySummary};
use crate::budget::PoolPermit;
use crate::engine::archive::{ArchiveSummary, LogReader};
use crate::engine::{EngineError, RestoreError, Restored};
use crate::protocol::{Seq, UserId};
use crate::store::SecurityKind;

const README: &str = "\
This is everything that a SuperSync server held for one account.

account.json       what the server knows about the account: address, storage, devices, archived data sets
state.json         the newest full state, if there is one and the server can read it (not with end-to-end encryption)
security-log.json  who signed in and what was changed, for 90 days
operations.ndjson  the account's operations in order, one JSON value per line, as devices get them

Each line is {\"serverSeq\", \"op\", \"receivedAt\"}. Times are milliseconds since 1970. With \"isPayloadEncrypted\": true the
payload is Base64 of what the app has encrypted; only the encryption password opens it.

state.json holds the data of the app under \"state\"; saved as a file of its own, the app imports it as a backup. Operations
with a higher serverSeq than its own came later.
";

pub async fn export(State(state): State<AppState>, call: Call) -> ApiResult<File<encode::Zip>> {
    let held = state.exports.acquire(call.user, 1)?;
    let (user, deadline) = (call.user, call.trace.deadline());
    let newest = newest_state(&state, user, deadline).await?;
    let account = account(&state, user, newest.as_ref(), deadline).await?;
    let reader = state.engine.read_data_set(user, deadline).await?;
    state.accounts.note(user, SecurityKind::Exported, &Client::of(call.parts(), &state).asker()).await;
    let log = state.accounts.security_log(user).await?;
    let log: Vec<_> = log.into_iter().map(SecuritySummary::from).collect();
    let log = serde_json::to_vec_pretty(&log).map_err(ApiError::internal)?;
    let whole = |bytes: Bytes| Parts::from([Part::Text(bytes)]);
    let mut files = vec![
        ("README.txt", whole(Bytes::from_static(README.as_bytes()))),
        ("account.json", whole(account)),
        ("security-log.json", whole(log.into())),
    ];
    if let Some(mut restored) = newest {
        // Like any answer that waits to be read: until it is packed.
        let mut room = state.answers.acquire(user, 0)?;
        cover(&mut room, restored.state_len())?;
        let room = Arc::new(room);
        restored.state = restored.state.iter().map(|piece| leaving(piece.clone(), Arc::clone(&room))).collect();
        files.push(("state.json", answer::restored(&restored, true)));
    }
    metrics::counter!("supersync_exports_total", "kind" => "account").increment(1);
    let pieces = Pieces::new(Arc::clone(&state.store), user, Parts::new());
    let zip = Zip::new(files, pieces, reader, state.config.timeouts.handler, held);
    Ok(File::attachment(Body::from_stream(stream::try_unfold(zip, Zip::next)), "supersync-export.zip"))
}

/// The newest full state; `None` where there is none that the server can read.
async fn newest_state(state: &AppState, user: UserId, deadline: Instant) -> ApiResult<Option<Restored>> {
    let points = state.engine.restore_points(user, 1, deadline).await?;
    let Some(point) = points.first() else { return Ok(None) };
    match state.engine.restore(user, Some(point.seq), deadline).await {
        Ok(restored) => Ok(Some(restored)),
        Err(RestoreError::Engine(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// The account as the export has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExportedAccount {
    #[serde(flatten)]
    account: AccountSummary,
    exported_at: i64,
    latest_seq: Seq,
    /// The sequence of `state.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    state_seq: Option<Seq>,
    devices: Vec<DeviceSeen>,
    archives: Vec<ArchiveSummary>,
}

async fn account(state: &AppState, user: UserId, newest: Option<&Restored>, deadline: Instant) -> ApiResult<Bytes> {
    let row = state.store.user_by_id(user).await?.ok_or(EngineError::NoAccount)?;
    let status = state.engine.status(user, deadline).await?;
    let devices = state.engine.devices(user, deadline).await?;
    let archives = state.engine.archives(user, deadline).await?;
    let account = ExportedAccount {
        account: AccountSummary::new(row, status.storage_used_bytes),
        exported_at: state.clock.now_ms(),
        latest_seq: status.latest_seq,
        state_seq: newest.map(|restored| restored.server_seq),
        devices: DeviceSeen::all(&devices),
        archives: archives.iter().map(ArchiveSummary::from).collect(),
    };
    let text = serde_json::to_vec_pretty(&account).map_err(ApiError::internal)?;
    Ok(text.into())
}

/// Where the zip's bytes wait until they are sent.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Writer = ZipWriter<StreamWriter<Sink>>;

/// A zip file in the making.
struct Zip {
    /// `None`: it is complete.
    writer: Option<Writer>,
    sink: Sink,
    /// Still to be written, the last one first.
    files: Vec<(&'static str, Parts)>,
    /// Of the file that is being written.
    pieces: Pieces,
    reader: LogReader,
    operations_begun: bool,
    patience: Duration,
    _held: PoolPermit,
}

#[derive(Debug, thiserror::Error)]
enum ZipError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Zip(#[from] zip::result::ZipError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("packing died: {0}")]
    Died(#[from] tokio::task::JoinError),
}

impl Zip {
    fn new(
        mut files: Vec<(&'static str, Parts)>,
        pieces: Pieces,
        reader: LogReader,
        patience: Duration,
        held: PoolPermit,
    ) -> Self {
        files.reverse();
        let sink = Sink::default();
        let writer = Some(ZipWriter::new_stream(sink.clone()));
        Self { writer, sink, files, pieces, reader, operations_begun: false, patience, _held: held }
    }

    /// The next bytes. A failure ends the connection without the end of the body: the file is not complete, and no program
    /// opens it.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ZipError> {
        // The packer keeps small inputs to itself for a while.
        while self.writer.is_some() {
            if let Err(error) = self.step().await {
                tracing::warn!(%error, user_id = self.reader.account(), "an export breaks off");
                return Err(error);
            }
            let bytes = self.sink.take();
            if !bytes.is_empty() {
                return Ok(Some((bytes, self)));
            }
        }
        Ok(None)
    }

    async fn step(&mut self) -> Result<(), ZipError> {
        let mut begin = None;
        let data = if self.operations_begun {
            next_lines(&mut self.reader, &mut self.pieces, self.patience).await?
        } else {
            self.pieces.next().await.map_err(ReadError::from)?
        };
        if data.is_none() && !self.operations_begun {
            let next = self.files.pop();
            self.operations_begun = next.is_none();
            let (name, parts) = next.unwrap_or(("operations.ndjson", Parts::new()));
            self.pieces.refill(parts);
            begin = Some(name);
        }
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let packing = tokio::task::spawn_blocking(move || {
            if let Some(name) = begin {
                // The sizes are not known before, so that the format for large files is used.
                let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
                writer.start_file(name, options.large_file(true))?;
            }
            if let Some(data) = data {
                writer.write_all(&data)?;
            } else if begin.is_none() {
                writer.finish()?;
                return Ok::<_, ZipError>(None);
            }
            Ok(Some(writer))
        });
        self.writer = packing.await??;
        Ok(())
    }
}
