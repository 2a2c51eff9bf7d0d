//! The sync routes (contract, sections 5 to 8).

use axum::extract::{Path, State};

use super::answer::{self, Devices, RestorePoints, SyncStatus};
use super::call::{Call, refuse};
use super::codes;
use super::encode::{self, Answer, Success};
use super::error::{ApiError, ApiResult};
use super::openapi::sync::{Page, RebuiltState, RestorePointsQuery, SnapshotUploaded, Uploaded};
use super::state::AppState;
use crate::engine::{SnapshotReply, UploadReply};
use crate::protocol::Seq;
use crate::protocol::request::{DownloadQuery, SnapshotRequest, UploadRequest};
use crate::protocol::response::encode_snapshot_response;

/// Restore points listed when the client names no limit, and at most.
const RESTORE_POINTS: usize = 30;
const MAX_RESTORE_POINTS: usize = 100;

pub async fn upload(State(state): State<AppState>, mut call: Call<UploadRequest>) -> ApiResult<Answer<Uploaded>> {
    let upload = call.parse(&state, UploadRequest::parse).await?;
    let verdict = state.limiters.uploads.hit(&call.user, state.clock.now_ms(), state.engine.processes());
    if verdict.is_some_and(|verdict| !verdict.allowed) {
        return Err(codes::RATE_LIMITED.into());
    }
    call.trace.brings(upload.ops.len());
    match state.engine.upload(call.user, upload, call.trace.deadline()).await? {
        UploadReply::Done(mut done) => {
            if !call.has_room_for(&state, &done.new_ops) {
                // What is stored is acknowledged all the same; what comes along can be asked for.
                done.new_ops.clear();
                done.has_more_piggyback = true;
            }
            let bytes = done.new_ops.iter().map(|op| op.json.len()).sum();
            call.answer_of(&state, bytes, move || answer::upload(&done)).await
        }
        UploadReply::QuotaExceeded(quota) => Err(ApiError::quota_exceeded(&quota)),
        UploadReply::EncryptionRequired => Err(codes::E2EE_REQUIRED.into()),
    }
}

pub async fn download(State(state): State<AppState>, call: Call<DownloadQuery>) -> ApiResult<Answer<Page>> {
    let query = DownloadQuery::parse(&call.query()).map_err(|error| refuse(&state, error, false))?;
    let page = state.engine.download(call.user, query, call.trace.deadline()).await?;
    let (bytes, now_ms) = (page.ops.iter().map(|op| op.json.len()).sum(), state.clock.now_ms());
    call.answer_of(&state, bytes, move || answer::download(&page, now_ms)).await
}

pub async fn upload_snapshot(
    State(state): State<AppState>,
    mut call: Call<SnapshotRequest>,
) -> ApiResult<Answer<SnapshotUploaded>> {
    let snapshot = call.parse(&state, SnapshotRequest::parse).await?;
    match state.engine.upload_snapshot(call.user, snapshot, call.trace.deadline()).await? {
        SnapshotReply::Accepted { seq, clean_slate } => {
            if clean_slate {
                state.limiters.uploads.forget(&call.user);
            }
            call.answer(&state, encode_snapshot_response(Ok(seq))).await
        }
        SnapshotReply::Rejected(rejection) => call.answer(&state, encode_snapshot_response(Err(&rejection))).await,
        SnapshotReply::ImportExists { existing_import_id } => Err(ApiError::import_exists(existing_import_id)),
        SnapshotReply::QuotaExceeded(quota) => Err(ApiError::quota_exceeded(&quota)),
        SnapshotReply::EncryptionRequired => Err(codes::E2EE_REQUIRED.into()),
    }
}

pub async fn current_state(State(state): State<AppState>, call: Call) -> ApiResult<Answer<RebuiltState>> {
    let restored = state.engine.restore(call.user, None, call.trace.deadline()).await?;
    call.answer_parts(&state, answer::restored(&restored, true)).await
}

pub async fn status(State(state): State<AppState>, call: Call) -> ApiResult<Answer<SyncStatus>> {
    let status = state.engine.status(call.user, call.trace.deadline()).await?;
    encode::ok(&SyncStatus::of(&status, state.clock.now_ms()))
}

pub async fn devices(State(state): State<AppState>, call: Call) -> ApiResult<Answer<Devices>> {
    let devices = state.engine.devices(call.user, call.trace.deadline()).await?;
    call.answer_json(&state, &Devices::of(&devices)).await
}

pub async fn wipe(State(state): State<AppState>, call: Call) -> ApiResult<Answer<Success>> {
    state.engine.wipe(call.user, call.trace.deadline()).await?;
    state.limiters.uploads.forget(&call.user);
    tracing::info!(user_id = call.user, "account data deleted by its user");
    if let Err(error) = state.accounts.announce_cleared(call.user).await {
        // It is deleted all the same, and other servers find out when they next write.
        tracing::warn!(%error, user_id = call.user, "other servers were not told that the account's data is gone");
    }
    encode::success()
}

pub async fn restore_points(
    State(state): State<AppState>,
    call: Call<RestorePointsQuery>,
) -> ApiResult<Answer<RestorePoints>> {
    let query = call.query();
    let limit = match query.iter().find(|(name, value)| name == "limit" && !value.is_empty()) {
        None => Some(RESTORE_POINTS),
        Some((_, text)) => leading_integer(text)
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| (1..=MAX_RESTORE_POINTS).contains(limit)),
    };
    let limit = limit.ok_or(codes::INVALID_LIMIT)?;
    let points = state.engine.restore_points(call.user, limit, call.trace.deadline()).await?;
    call.answer_json(&state, &RestorePoints::of(&points)).await
}

pub async fn restore(
    State(state): State<AppState>,
    Path(seq): Path<String>,
    call: Call,
) -> ApiResult<Answer<RebuiltState>> {
    let seq: Seq = leading_integer(&seq).filter(|seq| *seq >= 1).ok_or(codes::INVALID_SERVER_SEQ)?;
    let restored = state.engine.restore(call.user, Some(seq), call.trace.deadline()).await?;
    call.answer_parts(&state, answer::restored(&restored, false)).await
}

/// The integer with which the text begins, as JavaScript's `parseInt` finds it; one that is too large counts as the
/// largest.
#[must_use]
pub(super) fn leading_integer(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let (negative, text) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = &text[..text.bytes().take_while(u8::is_ascii_digit).count()];
    if digits.is_empty() {
        return None;
    }
    let value: i64 = digits.parse().unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::leading_integer;

    #[test]
    fn integers_are_read_as_far_as_they_go() {
        let cases = [
            ("12", Some(12)),
            (" 12abc", Some(12)),
            ("1.9", Some(1)),
            ("+3", Some(3)),
            ("-3", Some(-3)),
            ("abc", None),
            ("", None),
            ("-", None),
            ("99999999999999999999", Some(i64::MAX)),
        ];
        for (text, expected) in cases {
            assert_eq!(leading_integer(text), expected, "{text:?}");
        }
    }
}
