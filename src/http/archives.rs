//! Archived data sets: the list, the download, and the way back (ADR 0012, `docs/protocol.md`). The app calls none of
//! this; the account's page and the operator do.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::call::Call;
use super::encode::{self, Answer, File, Ndjson};
use super::error::ApiResult;
use super::outgoing::{self, Broken, Parts, Pieces};
use super::sender::Client;
use super::state::AppState;
use crate::budget::PoolPermit;
use crate::engine::archive::{ArchiveError, ArchiveId, ArchiveSummary, LogReader};
use crate::protocol::Seq;
use crate::protocol::response::{Gap, OutgoingOp, Text};
use crate::store::SecurityKind;

/// The archived data sets of an account.
#[derive(Serialize, ToSchema)]
pub struct Archives {
    archives: Vec<ArchiveSummary>,
}

/// An archived data set was brought back.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BroughtBack {
    /// Always true.
    success: bool,
    /// Number of its operations.
    operations: i64,
    #[schema(value_type = i64)]
    latest_seq: Seq,
}

pub async fn list(State(state): State<AppState>, call: Call) -> ApiResult<Answer<Archives>> {
    let archives = state.engine.archives(call.user, call.trace.deadline()).await?;
    call.answer_json(&state, &Archives { archives: archives.iter().map(ArchiveSummary::from).collect() }).await
}

pub async fn download(State(state): State<AppState>, Path(id): Path<String>, call: Call) -> ApiResult<File<Ndjson>> {
    let id: ArchiveId = id.parse()?;
    let archive = state.engine.archive(call.user, id, call.trace.deadline()).await?;
    let held = state.exports.acquire(call.user, 1)?;
    let mut reader = state.engine.read_archive(call.user, &archive);
    // What is missing altogether is still told by a status.
    let pieces = Pieces::new(Arc::clone(&state.store), call.user, lines(&reader.next_page().await?));
    state.accounts.note(call.user, SecurityKind::Exported, &Client::of(call.parts(), &state).asker()).await;
    metrics::counter!("supersync_exports_total", "kind" => "archive").increment(1);
    let patience = state.config.timeouts.handler;
    let stream = stream::try_unfold(Lines { reader, pieces, patience, _held: held }, Lines::next);
    Ok(File::attachment(Body::from_stream(stream), &format!("supersync-archive-{id}.ndjson")))
}

pub async fn bring_back(
    State(state): State<AppState>,
    Path(id): Path<String>,
    call: Call,
) -> ApiResult<Answer<BroughtBack>> {
    let id: ArchiveId = id.parse()?;
    let done = state.engine.bring_back(call.user, id, call.trace.deadline()).await?;
    // As after a clean slate, devices have more to upload than usual.
    state.limiters.uploads.forget(&call.user);
    encode::ok(&BroughtBack { success: true, operations: done.operations, latest_seq: done.latest_seq })
}

/// A download that is being read.
struct Lines {
    reader: LogReader,
    pieces: Pieces,
    patience: Duration,
    _held: PoolPermit,
}

/// Why a download breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Log(#[from] ArchiveError),
    #[error(transparent)]
    Payload(#[from] Broken),
}

impl Lines {
    /// A failure ends the connection without the end of the body, so that nobody takes a part for the whole.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ReadError> {
        let next = next_lines(&mut self.reader, &mut self.pieces, self.patience).await;
        let piece = next.inspect_err(|error| tracing::warn!(%error, "a download of archived data breaks off"))?;
        Ok(piece.map(|piece| (piece, self)))
    }
}

/// The next piece of a log as lines; `None` at its end. Given up after `patience`: a download keeps others waiting.
pub async fn next_lines(
    reader: &mut LogReader,
    pieces: &mut Pieces,
    patience: Duration,
) -> Result<Option<Bytes>, ReadError> {
    let read = async {
        loop {
            if let Some(piece) = pieces.next().await? {
                return Ok(Some(piece));
            }
            let page = reader.next_page().await?;
            if page.is_empty() {
                return Ok(None);
            }
            pieces.refill(lines(&page));
        }
    };
    timeout(patience, read).await.map_err(|_| Broken::Stalled)?
}

/// Operations as lines. JSON has line breaks only between its tokens, where a space does as well; in payloads, which are
/// stored without white space, it has none.
fn lines(ops: &[OutgoingOp]) -> Parts {
    let mut text = Text::default();
    text.json.reserve(ops.iter().map(|op| op.json.len() + 1).sum());
    for op in ops {
        text.gaps.extend(op.gap.map(|(at, bytes)| Gap { at: text.json.len() + at, seq: op.seq, bytes }));
        text.json.extend(op.json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        text.json.push(b'\n');
    }
    outgoing::parts(text)
}

#[cfg(test)]
mod tests {
    use super::super::outgoing::Part;
    use super::*;

    #[test]
    fn an_operation_is_one_line_whatever_its_white_space() {
        let large = OutgoingOp { gap: Some((5, 7)), ..OutgoingOp::whole(2, Bytes::from_static(b"{\"b\":}")) };
        let ops = [OutgoingOp::whole(1, Bytes::from_static(b"{\"a\":\r\n [1,\n2]}")), large];
        let text = |text: &'static [u8]| Part::Text(Bytes::from_static(text));
        let expected = [text(b"{\"a\":   [1, 2]}\n{\"b\":"), Part::Payload { seq: 2, bytes: 7 }, text(b"}\n")];
        assert_eq!(lines(&ops), expected);
    }
}
