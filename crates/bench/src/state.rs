//! Full states: what an import carries.

use std::io::Write as _;

use super::device::{Device, now_ms};
use super::random::Random;
use super::text::write_words;

/// Bytes of a task's notes: few members per byte, because a state may have 500,000 of them (contract, section 5.4).
const NOTES_BYTES: usize = 2000;

/// A request that uploads a full state, again and again under another id.
#[derive(Debug)]
pub struct Import {
    request: Vec<u8>,
    /// Where the operation's id stands.
    id_at: usize,
    random: Random,
}

impl Import {
    /// A full state of about so many bytes, from this device.
    #[must_use]
    pub fn new(device: &Device, bytes: usize) -> Self {
        let mut random = Random::new(0x1A_57A7E);
        let client = device.client_id();
        let mut body = format!(
            "{{\"clientId\":\"{client}\",\"reason\":\"recovery\",\"vectorClock\":{{\"{client}\":1}},\"schemaVersion\":4,\
             \"isPayloadEncrypted\":false,\"snapshotOpType\":\"BACKUP_IMPORT\",\"syncImportReason\":\"BACKUP_RESTORE\",\
             \"isCleanSlate\":false,\"opId\":\""
        )
        .into_bytes();
        let id_in_body = body.len();
        body.extend_from_slice(&[b'0'; 36]);
        body.extend_from_slice(b"\",\"state\":");
        write_state(&mut body, bytes, &mut random);
        body.push(b'}');
        let mut request = Vec::with_capacity(body.len() + 1024);
        device.write_post(&mut request, "/api/sync/snapshot", body.len());
        let id_at = request.len() + id_in_body;
        request.extend_from_slice(&body);
        Self { request, id_at, random }
    }

    /// The request, under an id of its own.
    pub fn renewed(&mut self) -> &[u8] {
        let id = super::device::uuid_v7(&mut self.random, now_ms());
        self.request[self.id_at..self.id_at + 36].copy_from_slice(&super::device::uuid_text(id));
        &self.request
    }
}

/// Appends a state of about so many bytes: tasks in a project.
fn write_state(out: &mut Vec<u8>, bytes: usize, random: &mut Random) {
    let end = out.len() + bytes;
    let now = now_ms();
    out.extend_from_slice(b"{\"task\":{\"entities\":{");
    let mut count = 0;
    while count == 0 || out.len() + NOTES_BYTES < end {
        if count > 0 {
            out.push(b',');
        }
        write!(
            out,
            "\"task-{count}\":{{\"id\":\"task-{count}\",\"created\":{now},\"isDone\":false,\"projectId\":\"INBOX_PROJECT\",\"title\":\""
        )
        .expect("writing to memory can't fail");
        write_words(out, 40, random);
        out.extend_from_slice(b"\",\"notes\":\"");
        write_words(out, NOTES_BYTES.min(bytes), random);
        out.extend_from_slice(b"\"}");
        count += 1;
    }
    out.extend_from_slice(b"}},\"project\":{\"entities\":{\"INBOX_PROJECT\":{\"id\":\"INBOX_PROJECT\"}}}}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::target::{Account, Target};
    use crate::protocol::request::SnapshotRequest;

    #[test]
    fn an_import_is_a_valid_request_with_another_id_each_time() {
        let target = Target::local(([127, 0, 0, 1], 1).into());
        let device = Device::new(&target, 0, &Account { token: "t".to_owned() }, 1, 300);
        let mut import = Import::new(&device, 100_000);
        let mut ids = Vec::new();
        for _ in 0..2 {
            let request = import.renewed().to_vec();
            let at = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            assert!(
                String::from_utf8_lossy(&request[..at]).contains(&format!("Content-Length: {}", request.len() - at))
            );
            let parsed = SnapshotRequest::parse(&request[at..].to_vec().into()).unwrap();
            let state = parsed.state.unwrap().len();
            assert!((95_000..105_000).contains(&state), "{state}");
            ids.push(parsed.op_id.unwrap());
        }
        assert_ne!(ids[0], ids[1]);
    }
}
