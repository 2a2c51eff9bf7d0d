//! From the engine's replies to the JSON texts of the sync routes.
//!
//! Operations and states are JSON already when they come from the engine; they are pasted, never parsed again. Optional
//! members are left out, never `null` (contract, section 2.6). Members are in alphabetical order, as they have always been.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::outgoing::{Part, Parts};

use crate::engine::{DownloadReply, Restored, Status, UploadDone};
use crate::protocol::response::{DownloadResponse, Text, UploadResponse};
use crate::protocol::{OpType, Seq};
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
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    devices_online: usize,
    #[schema(value_type = i64)]
    latest_seq: Seq,
    /// Age of the cached state, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_age: Option<i64>,
    storage_quota_bytes: i64,
    storage_used_bytes: i64,
}

impl SyncStatus {
    /// The status at this time. Another instance's clock may be ahead.
    #[must_use]
    pub fn of(status: &Status, now_ms: i64) -> Self {
        Self {
            devices_online: status.devices_online,
            latest_seq: status.latest_seq,
            snapshot_age: status.snapshot_at.map(|at| (now_ms - at).max(0)),
            storage_quota_bytes: status.storage_quota_bytes,
            storage_used_bytes: status.storage_used_bytes,
        }
    }
}

/// `GET /api/sync/devices` (contract, section 8.3).
#[derive(Debug, Serialize, ToSchema)]
pub struct Devices {
    devices: Vec<DeviceSeen>,
}

/// A device of an account.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSeen {
    client_id: String,
    last_seen_at: i64,
}

impl Devices {
    /// The devices as an answer.
    #[must_use]
    pub fn of(devices: &[Device]) -> Self {
        Self { devices: DeviceSeen::all(devices) }
    }
}

impl DeviceSeen {
    /// The devices of a list.
    #[must_use]
    pub fn all(devices: &[Device]) -> Vec<Self> {
        devices
            .iter()
            .map(|device| Self { client_id: device.client_id.clone(), last_seen_at: device.last_seen_at })
            .collect()
    }
}

/// `GET /api/sync/restore-points` (contract, section 8.5).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePoints {
    restore_points: Vec<RestorePoint>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RestorePoint {
    client_id: String,
    description: &'static str,
    #[schema(value_type = i64)]
    server_seq: Seq,
    timestamp: i64,
    r#type: &'static str,
}

impl RestorePoints {
    /// The full states as points to go back to.
    #[must_use]
    pub fn of(points: &[FullStateRow]) -> Self {
        let one = |point: &FullStateRow| RestorePoint {
            client_id: point.client_id.clone(),
            description: description(point.op_type),
            server_seq: point.seq,
            timestamp: point.timestamp,
            r#type: point.op_type.as_str(),
        };
        Self { restore_points: points.iter().map(one).collect() }
    }
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
        let text = |of: &Status| serde_json::to_string(&SyncStatus::of(of, 1000)).unwrap();
        assert_eq!(text(&of), r#"{"devicesOnline":1,"latestSeq":3,"storageQuotaBytes":20,"storageUsedBytes":10}"#);
        of.snapshot_at = Some(400);
        assert!(text(&of).contains(r#""snapshotAge":600,"#));
        of.snapshot_at = Some(1001);
        assert!(text(&of).contains(r#""snapshotAge":0,"#), "another instance's clock may be ahead");
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
