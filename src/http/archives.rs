//! Archived data sets: the list, the download, and the way back (ADR 0012, `docs/protocol.md`). The app calls none of
//! this; the account's page and the operator do.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::account::asker;
use super::call::Call;
use super::encode;
use super::error::{ApiError, ApiResult};
use super::outgoing::{self, Broken, Parts, Pieces};
use super::state::AppState;
use crate::budget::Held;
use crate::engine::archive::{Archive, ArchiveError, ArchiveId, LogReader, Obstacle};
use crate::protocol::response::{Gap, OutgoingOp, Text};
use crate::protocol::{ErrorCode, ImportReason};
use crate::store::SecurityKind;

/// The media type of one JSON value per line.
const NDJSON: &str = "application/x-ndjson";

/// The routes.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/api/sync/archives", get(list))
        .route("/api/sync/archives/{id}", get(download))
        .route("/api/sync/archives/{id}/restore", post(bring_back))
}

async fn list(State(state): State<AppState>, request: Request) -> ApiResult {
    let call = Call::authenticate(&state, request).await?;
    let archives = state.engine.archives(call.user, call.trace.deadline()).await?;
    call.answer(&state, json!({ "archives": facts(&archives) }).to_string().into_bytes()).await
}

async fn download(State(state): State<AppState>, Path(id): Path<String>, request: Request) -> ApiResult {
    let call = Call::authenticate(&state, request).await?;
    let id: ArchiveId = id.parse()?;
    let archive = state.engine.archive(call.user, id, call.trace.deadline()).await?;
    let held = state.exports.take(call.user, 1)?;
    let mut reader = state.engine.read_archive(call.user, &archive);
    // What is missing altogether is still told by a status.
    let pieces = Pieces::new(Arc::clone(&state.store), call.user, lines(&reader.next_page().await?));
    state.accounts.note(call.user, SecurityKind::Exported, &asker(&state, call.parts())).await;
    metrics::counter!("supersync_exports_total", "kind" => "archive").increment(1);
    let patience = state.config.timeouts.handler;
    let stream = stream::try_unfold(Lines { reader, pieces, patience, _held: held }, Lines::next);
    Ok(attachment(Body::from_stream(stream), NDJSON, &format!("supersync-archive-{id}.ndjson")))
}

async fn bring_back(State(state): State<AppState>, Path(id): Path<String>, request: Request) -> ApiResult {
    let call = Call::authenticate(&state, request).await?;
    let id: ArchiveId = id.parse()?;
    let done = state.engine.bring_back(call.user, id, call.trace.deadline()).await?;
    // As after a clean slate, devices have more to upload than usual.
    state.limiters.uploads.forget(&call.user);
    let body = json!({ "success": true, "operations": done.operations, "latestSeq": done.latest_seq });
    Ok(encode::json(StatusCode::OK, &body))
}

/// A download that is being read.
struct Lines {
    reader: LogReader,
    pieces: Pieces,
    patience: Duration,
    _held: Held,
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
pub(super) async fn next_lines(
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

/// A file to be saved. `name` has no character that a header can't hold.
pub(super) fn attachment(body: Body, media_type: &'static str, name: &str) -> Response {
    let mut response = encode::with_type(StatusCode::OK, media_type, body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    response
}

/// The sets as JSON.
pub(super) fn facts(archives: &[Archive]) -> Vec<Value> {
    archives.iter().map(fact).collect()
}

fn fact(archive: &Archive) -> Value {
    let mut fact = json!({
        "id": archive.id.to_string(),
        "reason": archive.range.reason.as_str(),
        "archivedAt": archive.range.archived_at,
        "expiresAt": archive.expires_at,
        "operations": archive.operations(),
        "bytes": archive.range.bytes,
        "fromSeq": archive.range.from_seq,
        "toSeq": archive.range.to_seq,
        "isEncrypted": archive.is_encrypted,
        "formerPassword": archive.former_password.as_str(),
        "restorable": archive.obstacle.is_none(),
    });
    if let Some(reason) = archive.replaced_because {
        fact["replacedBecause"] = ImportReason::as_str(reason).into();
    }
    if let Some(obstacle) = archive.obstacle {
        fact["obstacle"] = obstacle.as_str().into();
    }
    fact
}

const fn explanation(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Expired => "This data set is being deleted: its time is over",
        Obstacle::Superseded => "This is the older part of a data set, not a data set",
        Obstacle::NoFullState => "This data set holds no full state, and other data has been uploaded since",
        Obstacle::TooManyOperations => "More changes follow the newest full state than the app takes in one download",
        Obstacle::LegacyRepair => "An old app's repair follows the newest full state: it is not clear what it covers",
        Obstacle::NotEncrypted => "This data set is not encrypted, and the devices would refuse it",
    }
}

impl From<ArchiveError> for ApiError {
    fn from(error: ArchiveError) -> Self {
        let conflict = |text: &str, code| Self::with_code(StatusCode::CONFLICT, text, code);
        match error {
            ArchiveError::NotFound => {
                Self::with_code(StatusCode::NOT_FOUND, "No such archived data set", ErrorCode::ArchiveNotFound)
            }
            ArchiveError::NotRestorable(obstacle) => {
                conflict(explanation(obstacle), ErrorCode::ArchiveNotRestorable).extra("obstacle", obstacle.as_str())
            }
            ArchiveError::Incomplete => {
                conflict("Operations of this data set are missing", ErrorCode::ArchiveNotRestorable)
                    .extra("obstacle", "INCOMPLETE")
            }
            ArchiveError::Running => {
                conflict("Another data set is being brought back, please retry", ErrorCode::BringBackRunning)
            }
            ArchiveError::Outdated => {
                conflict("The data was replaced meanwhile; nothing was changed", ErrorCode::DataSetChanged)
            }
            ArchiveError::Quota(quota) => Self::quota_exceeded(&quota),
            ArchiveError::Engine(error) => error.into(),
        }
    }
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
