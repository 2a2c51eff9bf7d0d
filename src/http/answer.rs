//! From the engine's replies to the JSON texts of the sync routes.
//!
//! Operations and states are JSON already when they come from the engine; they are pasted, never parsed again. Optional
//! members are left out, never `null` (contract, section 2.6).

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use super::outgoing::{Part, Parts};

use crate::engine::{DownloadReply, Restored, Status, UploadDone};
use crate::protocol::OpType;
use crate::protocol::response::{DownloadResponse, Text, UploadResponse};
use crate::store::{Device, FullStateRow};

/// What became of an upload.
#[must_use]
pub fn upload(done: &UploadDone) -> Text {
    let response = UploadResponse {
        results: &done.results,
        new_ops: &done.new_ops,
        latest_seq: done.latest_seq,
        has_more_piggyback: done.has_more_piggyback,
        deduplicated: done.deduplicated,
    };
    response.encode()
}

/// A page of operations.
#[must_use]
pub fn download(page: &DownloadReply, now_ms: i64) -> Text {
    let response = DownloadResponse {
        ops: &page.ops,
        has_more: page.has_more,
        latest_seq: page.latest_seq,
        gap_detected: page.gap_detected,
        snapshot_vector_clock: page.snapshot_vector_clock.as_ref(),
        latest_snapshot_seq: page.latest_snapshot_seq,
        server_time: now_ms,
    };
    response.encode()
}

/// `GET /api/sync/status` (contract, section 8.2).
#[must_use]
pub fn status(status: &Status, now_ms: i64) -> Value {
    let mut body = json!({
        "latestSeq": status.latest_seq,
        "devicesOnline": status.devices_online,
        "storageUsedBytes": status.storage_used_bytes,
        "storageQuotaBytes": status.storage_quota_bytes,
    });
    if let Some(at) = status.snapshot_at {
        body["snapshotAge"] = (now_ms - at).max(0).into();
    }
    body
}

/// `GET /api/sync/devices` (contract, section 8.3).
#[must_use]
pub fn devices(devices: &[Device]) -> Value {
    let one = |device: &Device| json!({ "clientId": device.client_id, "lastSeenAt": device.last_seen_at });
    json!({ "devices": devices.iter().map(one).collect::<Vec<_>>() })
}

/// `GET /api/sync/restore-points` (contract, section 8.5).
#[must_use]
pub fn restore_points(points: &[FullStateRow]) -> Value {
    let one = |point: &FullStateRow| {
        json!({
            "serverSeq": point.seq,
            "timestamp": point.timestamp,
            "type": point.op_type.as_str(),
            "clientId": point.client_id,
            "description": description(point.op_type),
        })
    };
    json!({ "restorePoints": points.iter().map(one).collect::<Vec<_>>() })
}

const fn description(op_type: OpType) -> &'static str {
    match op_type {
        OpType::BackupImport => "Backup restore",
        OpType::Repair => "Auto-repair",
        _ => "Full sync import",
    }
}

/// A rebuilt state (contract, sections 8.1 and 8.6); `with_schema` adds the state's schema version.
#[must_use]
pub fn restored(restored: &Restored, with_schema: bool) -> Parts {
    let mut tail = format!(",\"serverSeq\":{},\"generatedAt\":{}", restored.server_seq, restored.generated_at);
    if with_schema {
        // Writing to a String can't fail.
        let _ = write!(tail, ",\"schemaVersion\":{}", restored.schema_version);
    }
    tail.push('}');
    let state = restored.state.iter().cloned();
    let texts = std::iter::once(Bytes::from_static(b"{\"state\":")).chain(state).chain([Bytes::from(tail)]);
    texts.map(Part::Text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(parts: Parts) -> String {
        let texts = parts.into_iter().map(|part| match part {
            Part::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            Part::Payload { .. } => panic!("it is all there"),
        });
        texts.collect()
    }

    #[test]
    fn a_status_without_a_cached_state_has_no_age() {
        let mut of = Status {
            latest_seq: 3,
            devices_online: 1,
            snapshot_at: None,
            storage_used_bytes: 10,
            storage_quota_bytes: 20,
        };
        let always = json!({ "latestSeq": 3, "devicesOnline": 1, "storageUsedBytes": 10, "storageQuotaBytes": 20 });
        assert_eq!(status(&of, 1000), always);
        of.snapshot_at = Some(400);
        assert_eq!(status(&of, 1000)["snapshotAge"], 600);
        of.snapshot_at = Some(1001);
        assert_eq!(status(&of, 1000)["snapshotAge"], 0, "another instance's clock may be ahead");
    }

    #[test]
    fn a_states_bytes_are_pasted() {
        let state = [Bytes::from_static(b"{\"task\":"), Bytes::from_static(b"{\"n\":1.50}}")].into();
        let of = Restored { state, server_seq: 4, generated_at: 5, schema_version: 2 };
        assert_eq!(text(restored(&of, false)), r#"{"state":{"task":{"n":1.50}},"serverSeq":4,"generatedAt":5}"#);
        assert_eq!(
            text(restored(&of, true)),
            r#"{"state":{"task":{"n":1.50}},"serverSeq":4,"generatedAt":5,"schemaVersion":2}"#
        );
    }
}
