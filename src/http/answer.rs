//! The JSON texts of the sync routes' answers.
//!
//! Put together by hand: operations come encoded from the engine and are pasted, never parsed again. Optional members are
//! left out, never `null` (contract, section 2.6).

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::engine::{DownloadReply, Restored, Status, UploadDone};
use crate::protocol::json::write_str;
use crate::protocol::response::{OpResult, Rejection};
use crate::protocol::{OpType, Seq};
use crate::store::{Device, FullStateRow};

/// Joins encoded operations as a JSON array.
fn push_ops(out: &mut Vec<u8>, ops: &[Bytes]) {
    out.push(b'[');
    for (i, op) in ops.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(op);
    }
    out.push(b']');
}

fn room_for(ops: &[Bytes]) -> usize {
    ops.iter().map(|op| op.len() + 1).sum::<usize>() + 512
}

fn push_rejection(out: &mut String, rejection: &Rejection) {
    out.push_str("\"accepted\":false,\"error\":");
    write_str(out, &rejection.message);
    // Writing to a String can't fail.
    let _ = write!(out, ",\"errorCode\":\"{}\"", rejection.code.as_str());
    if let Some(clock) = &rejection.existing_clock {
        out.push_str(",\"existingClock\":");
        clock.write_json(out);
    }
}

fn push_results(out: &mut String, results: &[OpResult]) {
    out.push('[');
    for (i, result) in results.iter().enumerate() {
        out.push_str(if i > 0 { ",{\"opId\":" } else { "{\"opId\":" });
        write_str(out, &result.op_id);
        out.push(',');
        match &result.outcome {
            Ok(seq) => {
                let _ = write!(out, "\"accepted\":true,\"serverSeq\":{seq}");
            }
            Err(rejection) => push_rejection(out, rejection),
        }
        out.push('}');
    }
    out.push(']');
}

/// What became of an upload (contract, section 5.11).
#[must_use]
pub fn upload(done: &UploadDone) -> Vec<u8> {
    let mut head = String::from("{\"results\":");
    push_results(&mut head, &done.results);
    let _ = write!(head, ",\"latestSeq\":{}", done.latest_seq);
    if done.has_more_piggyback {
        head.push_str(",\"hasMorePiggyback\":true");
    }
    if done.deduplicated {
        head.push_str(",\"deduplicated\":true");
    }
    let mut out = head.into_bytes();
    if !done.new_ops.is_empty() {
        out.reserve_exact(room_for(&done.new_ops));
        out.extend_from_slice(b",\"newOps\":");
        push_ops(&mut out, &done.new_ops);
    }
    out.push(b'}');
    out
}

/// A page of operations (contract, section 6).
#[must_use]
pub fn download(page: &DownloadReply, now_ms: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(room_for(&page.ops));
    out.extend_from_slice(b"{\"ops\":");
    push_ops(&mut out, &page.ops);
    let mut tail = format!(",\"hasMore\":{},\"latestSeq\":{}", page.has_more, page.latest_seq);
    if page.gap_detected {
        tail.push_str(",\"gapDetected\":true");
    }
    if let Some(clock) = &page.snapshot_vector_clock {
        tail.push_str(",\"snapshotVectorClock\":");
        clock.write_json(&mut tail);
    }
    if let Some(seq) = page.latest_snapshot_seq {
        let _ = write!(tail, ",\"latestSnapshotSeq\":{seq}");
    }
    // Without this capability clients refuse to upload repairs.
    let _ = write!(tail, ",\"serverTime\":{now_ms},\"capabilities\":{{\"causalRepairSnapshots\":true}}}}");
    out.extend_from_slice(tail.as_bytes());
    out
}

/// A stored snapshot (contract, section 7.2).
#[must_use]
pub fn snapshot_accepted(seq: Seq) -> Vec<u8> {
    format!("{{\"accepted\":true,\"serverSeq\":{seq}}}").into_bytes()
}

/// A refused snapshot (contract, section 7.2).
#[must_use]
pub fn snapshot_rejected(rejection: &Rejection) -> Vec<u8> {
    let mut out = String::from("{");
    push_rejection(&mut out, rejection);
    out.push('}');
    out.into_bytes()
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
pub fn restored(restored: &Restored, with_schema: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(restored.state.len() + 128);
    out.extend_from_slice(b"{\"state\":");
    out.extend_from_slice(&restored.state);
    let mut tail = format!(",\"serverSeq\":{},\"generatedAt\":{}", restored.server_seq, restored.generated_at);
    if with_schema {
        let _ = write!(tail, ",\"schemaVersion\":{}", restored.schema_version);
    }
    tail.push('}');
    out.extend_from_slice(tail.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use crate::protocol::{ErrorCode, VectorClock};

    use super::*;

    fn parsed(text: &[u8]) -> Value {
        serde_json::from_slice(text).unwrap()
    }

    fn clock() -> VectorClock {
        VectorClock::from_entries([("A".into(), 3)])
    }

    #[test]
    fn an_upload_tells_each_outcome_and_leaves_out_what_is_not() {
        let conflict =
            Rejection { existing_clock: Some(clock()), ..Rejection::new(ErrorCode::ConflictConcurrent, "a \"b\"") };
        let mut done = UploadDone {
            results: vec![
                OpResult { op_id: "o\n1".into(), outcome: Ok(7) },
                OpResult { op_id: "o2".into(), outcome: Err(conflict) },
            ],
            deduplicated: false,
            new_ops: Vec::new(),
            has_more_piggyback: false,
            latest_seq: 7,
        };
        let results = json!([
            { "opId": "o\n1", "accepted": true, "serverSeq": 7 },
            { "opId": "o2", "accepted": false, "error": "a \"b\"", "errorCode": "CONFLICT_CONCURRENT", "existingClock": { "A": 3 } },
        ]);
        assert_eq!(parsed(&upload(&done)), json!({ "results": results, "latestSeq": 7 }));
        done.new_ops = vec![Bytes::from_static(b"{\"serverSeq\":5}"), Bytes::from_static(b"{\"serverSeq\":6}")];
        (done.deduplicated, done.has_more_piggyback) = (true, true);
        assert_eq!(
            parsed(&upload(&done)),
            json!({
                "results": results, "latestSeq": 7, "hasMorePiggyback": true, "deduplicated": true,
                "newOps": [{ "serverSeq": 5 }, { "serverSeq": 6 }],
            })
        );
    }

    #[test]
    fn a_page_holds_no_null() {
        let mut page = DownloadReply {
            ops: Vec::new(),
            has_more: false,
            latest_seq: 0,
            gap_detected: false,
            snapshot_vector_clock: None,
            latest_snapshot_seq: None,
        };
        let always = json!({
            "ops": [], "hasMore": false, "latestSeq": 0, "serverTime": 9, "capabilities": { "causalRepairSnapshots": true },
        });
        assert_eq!(parsed(&download(&page, 9)), always);
        page.ops = vec![Bytes::from_static(b"1"), Bytes::from_static(b"2")];
        (page.has_more, page.latest_seq, page.gap_detected) = (true, 4, true);
        (page.snapshot_vector_clock, page.latest_snapshot_seq) = (Some(clock()), Some(2));
        assert_eq!(
            parsed(&download(&page, 9)),
            json!({
                "ops": [1, 2], "hasMore": true, "latestSeq": 4, "gapDetected": true, "snapshotVectorClock": { "A": 3 },
                "latestSnapshotSeq": 2, "serverTime": 9, "capabilities": { "causalRepairSnapshots": true },
            })
        );
    }

    #[test]
    fn snapshots_and_states() {
        assert_eq!(parsed(&snapshot_accepted(3)), json!({ "accepted": true, "serverSeq": 3 }));
        let refused = Rejection::new(ErrorCode::RepairStale, "stale");
        assert_eq!(
            parsed(&snapshot_rejected(&refused)),
            json!({ "accepted": false, "error": "stale", "errorCode": "REPAIR_STALE" })
        );
        let state =
            Restored { state: Bytes::from_static(b"{\"task\":{}}"), server_seq: 4, generated_at: 5, schema_version: 2 };
        let plain = json!({ "state": { "task": {} }, "serverSeq": 4, "generatedAt": 5 });
        assert_eq!(parsed(&restored(&state, false)), plain);
        assert_eq!(parsed(&restored(&state, true))["schemaVersion"], 2);
    }
}
