//! A device as the load plays it: what it writes looks like what the app writes, and costs little to write.
//!
//! Half of the operations create a task, half change one that the device created before, mostly a recent one. Ids are
//! UUIDs of version 7, entities have 21-character names, the clock knows one or two other devices of the account and
//! grows with every operation. Everything follows from the seed, except times and the ids that begin with them.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Deserialize;
use supersync_client::Seq;
use uuid::Uuid;

use crate::connection::{Answer, unexpected};
use crate::text::write_words;

/// Smallest payload: its fixed parts need so much.
pub const MIN_PAYLOAD_BYTES: usize = 300;
/// How many of its entities a device remembers as candidates for a change.
const REMEMBERED: usize = 512;
/// Digits of `Content-Length`, so that it can be filled in afterwards.
const LENGTH_DIGITS: usize = 8;
const ALPHABET: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-";

/// Unix time, milliseconds.
pub fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

fn name<const N: usize>(random: &mut StdRng) -> [u8; N] {
    std::array::from_fn(|_| ALPHABET[random.random_range(0..ALPHABET.len())])
}

/// A device of an account.
pub struct Device {
    /// The number of its account.
    pub account: usize,
    /// Where the account's log ended when the device joined.
    pub start: Seq,
    /// Everything up to here has been seen.
    pub cursor: Seq,
    /// Whether the last page was the log's last one.
    pub at_end: bool,
    /// How many entities it has created.
    pub created: usize,
    pub client_id: String,
    /// Acknowledged operations, in the order of their acknowledgement.
    pub acknowledged: Vec<(Uuid, Seq)>,
    /// `Host` and `Authorization`, ready to be sent.
    headers: Vec<u8>,
    /// Other devices that the clock knows.
    others: Vec<String>,
    counter: usize,
    entities: Vec<[u8; 21]>,
    random: StdRng,
    payload_bytes: usize,
    in_flight: Vec<Uuid>,
}

impl Device {
    /// A device that has never synced, of the account with this number. Devices with different seeds have different
    /// names and write different things.
    pub fn new(account: usize, headers: Vec<u8>, seed: u64, payload_bytes: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut client_id = |platform| format!("{platform}_{}", String::from_utf8_lossy(&name::<6>(&mut random)));
        let (own, others) = (client_id('B'), vec![client_id('A'), client_id('I')]);
        Self {
            account,
            start: 0,
            cursor: 0,
            at_end: true,
            created: 0,
            client_id: own,
            acknowledged: Vec::new(),
            headers,
            others,
            counter: 0,
            entities: Vec::new(),
            random,
            payload_bytes: payload_bytes.max(MIN_PAYLOAD_BYTES),
            in_flight: Vec::new(),
        }
    }

    /// Writes a download of everything new, at most `limit` operations.
    pub fn write_download(&self, out: &mut Vec<u8>, limit: Option<usize>) {
        put(out, format_args!("GET /api/sync/ops?sinceSeq={}", self.cursor));
        if let Some(limit) = limit {
            put(out, format_args!("&limit={limit}"));
        }
        put(out, format_args!("&excludeClient={} HTTP/1.1\r\n", self.client_id));
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(b"Content-Type: application/json\r\n\r\n");
    }

    /// Writes an upload of `ops` new operations.
    pub fn write_upload(&mut self, out: &mut Vec<u8>, ops: usize) {
        let now = now_ms();
        out.extend_from_slice(b"POST /api/sync/ops HTTP/1.1\r\n");
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(b"Content-Type: application/json\r\nContent-Length: ");
        let length_at = out.len();
        out.extend_from_slice(&[b'0'; LENGTH_DIGITS]);
        out.extend_from_slice(b"\r\n\r\n");
        let body_at = out.len();
        self.in_flight.clear();
        out.extend_from_slice(b"{\"ops\":[");
        for n in 0..ops {
            if n > 0 {
                out.push(b',');
            }
            self.write_op(out, now);
        }
        let (client, cursor, bits) = (&self.client_id, self.cursor, self.random.random::<u64>());
        put(
            out,
            format_args!(
                "],\"clientId\":\"{client}\",\"lastKnownServerSeq\":{cursor},\"requestId\":\"ops-v1-{ops}-{bits:x}\"}}"
            ),
        );
        let length = format!("{:0LENGTH_DIGITS$}", out.len() - body_at);
        out[length_at..length_at + LENGTH_DIGITS].copy_from_slice(length.as_bytes());
    }

    fn write_op(&mut self, out: &mut Vec<u8>, now: u64) {
        let id = uuid::Builder::from_unix_timestamp_millis(now, &self.random.random()).into_uuid();
        self.in_flight.push(id);
        self.counter += 1;
        let creates = self.entities.is_empty() || self.random.random();
        let entity = if creates { self.new_entity() } else { self.known_entity() };
        let entity = str::from_utf8(&entity).unwrap_or_default();
        let (action, op_type) = if creates { ("addTask", "CRT") } else { ("updateTask", "UPD") };
        put(
            out,
            format_args!(
                "{{\"id\":\"{id}\",\"clientId\":\"{client}\",\"actionType\":\"[Task Shared] {action}\",\
                 \"opType\":\"{op_type}\",\"entityType\":\"TASK\",\"entityId\":\"{entity}\",\
                 \"entityIds\":[\"{entity}\"],\"payload\":",
                client = self.client_id
            ),
        );
        self.write_payload(out, entity, creates, now);
        put(out, format_args!(",\"vectorClock\":{{\"{}\":{}", self.client_id, self.counter));
        // Now and then the device has seen what another one wrote.
        let seen = self.counter / 16 + 1;
        for other in &self.others {
            put(out, format_args!(",\"{other}\":{seen}"));
        }
        put(out, format_args!("}},\"timestamp\":{now},\"schemaVersion\":4,\"isPayloadEncrypted\":false}}"));
    }

    /// Exactly as many bytes as were asked for: what is missing is written into the task's notes.
    fn write_payload(&mut self, out: &mut Vec<u8>, entity: &str, creates: bool, now: u64) {
        let end = out.len() + self.payload_bytes;
        put(out, format_args!("{{\"actionPayload\":{{\"task\":{{\"id\":\"{entity}\","));
        let tail: &[u8] = if creates {
            let estimate = self.random.random_range(0..48) * 300_000;
            put(
                out,
                format_args!(
                    "\"created\":{now},\"isDone\":false,\"timeEstimate\":{estimate},\"timeSpentOnDay\":{{}},\
                     \"projectId\":\"INBOX_PROJECT\",\"tagIds\":[\"TODAY\"],\"subTaskIds\":[],\"title\":\""
                ),
            );
            b"\"},\"isAddToBottom\":false},\"entityChanges\":[]}"
        } else {
            put(out, format_args!("\"changes\":{{\"modified\":{now},\"title\":\""));
            b"\"}}},\"entityChanges\":[]}"
        };
        let between = b"\",\"notes\":\"";
        let words = end - out.len() - tail.len() - between.len();
        let title = words.min(self.random.random_range(16..48));
        write_words(out, title, &mut self.random);
        out.extend_from_slice(between);
        write_words(out, words - title, &mut self.random);
        out.extend_from_slice(tail);
    }

    fn new_entity(&mut self) -> [u8; 21] {
        let entity = name(&mut self.random);
        if self.entities.len() < REMEMBERED {
            self.entities.push(entity);
        } else {
            self.entities[self.created % REMEMBERED] = entity;
        }
        self.created += 1;
        entity
    }

    /// Three of four changes are to one of the last 16 entities.
    fn known_entity(&mut self) -> [u8; 21] {
        let known = self.entities.len();
        let recent = if self.random.random_range(0..4) == 0 { known } else { known.min(16) };
        let age = self.random.random_range(1..=recent);
        self.entities[(self.created - age) % REMEMBERED]
    }

    /// Reads the answer to the last upload, in which everything must have been accepted; says how many operations.
    pub fn read_upload(&mut self, answer: Answer<'_>) -> Result<u64> {
        let body = answer.ok()?;
        let read: Uploaded<'_> = serde_json::from_slice(body).with_context(|| unexpected("no upload", body))?;
        ensure!(
            read.results.len() == self.in_flight.len() && read.deduplicated.is_none(),
            unexpected("results are not those of new operations", body)
        );
        for (id, result) in self.in_flight.iter().zip(&read.results) {
            let seq = result.server_seq.filter(|_| result.accepted && result.op_id.parse() == Ok(*id));
            self.acknowledged.push((*id, seq.with_context(|| unexpected("not everything was accepted", body))?));
        }
        // The app's rule (contract, section 5.11).
        let latest = if read.has_more_piggyback.is_some() {
            read.new_ops.last().map_or(self.cursor, |op| op.server_seq)
        } else {
            read.latest_seq
        };
        ensure!(latest >= self.cursor, unexpected("latestSeq went back", body));
        self.cursor = latest;
        Ok(read.results.len() as u64)
    }

    /// Reads a page, moves the cursor to its end, and says how many operations it holds. With `expected` the page must
    /// hold so many and be the last one.
    pub fn read_page(&mut self, answer: Answer<'_>, expected: Option<u64>) -> Result<u64> {
        let body = answer.ok()?;
        let page = Page::read(body)?;
        let ends = page.ops.first().zip(page.ops.last()).map(|(first, last)| (first.server_seq, last.server_seq));
        let ops = ends.map_or(0, |(first, last)| u64::try_from(last - first + 1).unwrap_or_default());
        let leads_on = page.latest_seq >= self.cursor && ends.is_none_or(|(first, _)| first > self.cursor);
        ensure!(leads_on && (ops > 0 || !page.has_more), unexpected("a page that does not lead on", body));
        if let Some(expected) = expected {
            ensure!(ops == expected && !page.has_more, unexpected("not what was written", body));
            ensure!(expected > 0 || page.latest_seq == self.cursor, unexpected("something new", body));
        }
        self.at_end = !page.has_more;
        self.cursor = ends.filter(|_| page.has_more).map_or(page.latest_seq, |(_, last)| last);
        Ok(ops)
    }
}

/// What the load looks at in the answer to an upload.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Uploaded<'a> {
    #[serde(borrow)]
    results: Vec<OpResult<'a>>,
    latest_seq: Seq,
    #[serde(default)]
    new_ops: Vec<Numbered>,
    has_more_piggyback: Option<bool>,
    deduplicated: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpResult<'a> {
    op_id: &'a str,
    accepted: bool,
    server_seq: Option<Seq>,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Numbered {
    server_seq: Seq,
}

/// A page of a download: of its operations only the first and the last one are sure to be there.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Page {
    ops: Vec<Numbered>,
    has_more: bool,
    latest_seq: Seq,
    gap_detected: Option<bool>,
}

impl Page {
    /// Reads a page from its two ends: a load can't afford to read all of it. The check after the run sees that no log
    /// has a hole.
    fn read(body: &[u8]) -> Result<Self> {
        const OP: &[u8] = b"{\"serverSeq\":";
        let ends = body.strip_prefix(b"{\"ops\":[").filter(|rest| rest.starts_with(OP)).and_then(|rest| {
            let first = leading_number(&rest[OP.len()..])?;
            let last_at = rest.windows(OP.len()).rposition(|window| window == OP)? + OP.len();
            let end_at = rest.windows(3).rposition(|window| window == b"}],")? + 3;
            Some((first, leading_number(&rest[last_at..])?, &rest[end_at..]))
        });
        let mut page: Self = match &ends {
            // What follows the operations is read like a page without any.
            Some((.., end)) => serde_json::from_slice(&[b"{\"ops\":[],", *end].concat()),
            None => serde_json::from_slice(body),
        }
        .with_context(|| unexpected("no page", body))?;
        ensure!(page.gap_detected.is_none(), unexpected("history is missing", body));
        if let Some((first, last, _)) = ends {
            page.ops = [first, last].map(|server_seq| Numbered { server_seq }).into();
        }
        Ok(page)
    }
}

fn leading_number(text: &[u8]) -> Option<Seq> {
    let digits = text.iter().position(|byte| !byte.is_ascii_digit())?;
    str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory can't fail");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use supersync::protocol::request::UploadRequest;

    use super::*;

    fn device(payload_bytes: usize) -> Device {
        Device::new(0, Vec::new(), 1, payload_bytes)
    }

    fn answered(status: u16, body: &str) -> Answer<'_> {
        Answer { status, body: body.as_bytes() }
    }

    #[test]
    fn uploads_are_what_the_protocol_says_and_half_of_them_change_what_was_created() {
        for payload_bytes in [MIN_PAYLOAD_BYTES, 500, 4096] {
            let (mut device, mut created, mut changed) = (device(payload_bytes), HashSet::new(), 0);
            for _ in 0..10 {
                let mut request = Vec::new();
                device.write_upload(&mut request, 100);
                let at = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
                let head = String::from_utf8_lossy(&request[..at]);
                assert!(head.contains(&format!("Content-Length: {:08}", request.len() - at)), "{head}");
                let parsed = UploadRequest::parse(&request[at..].to_vec().into()).unwrap();
                assert_eq!(parsed.ops.len(), 100);
                for op in &parsed.ops {
                    assert_eq!(op.payload.as_ref().unwrap().len(), payload_bytes);
                    let entity = op.entity_id.clone().unwrap();
                    if &*op.op_type == "CRT" {
                        assert!(created.insert(entity), "created twice");
                    } else {
                        assert!(created.contains(&entity), "changed before it was created");
                        changed += 1;
                    }
                }
            }
            assert!((400..600).contains(&changed), "{changed}");
        }
    }

    #[test]
    fn pages_are_read_from_their_ends_or_whole() {
        let op = |seq| format!(r#"{{"serverSeq":{seq},"op":{{"payload":{{"a":[{{"b":1}}],"c":2}}}},"receivedAt":3}}"#);
        let page = format!(r#"{{"ops":[{},{}],"hasMore":true,"latestSeq":9,"serverTime":1}}"#, op(4), op(5));
        let ops = [4, 5].map(|server_seq| Numbered { server_seq }).into();
        let expected = Page { ops, has_more: true, latest_seq: 9, gap_detected: None };
        assert_eq!(Page::read(page.as_bytes()).unwrap(), expected);
        let other = format!(r#"{{"hasMore":true,"latestSeq":9,"ops":[{},{}]}}"#, op(4), op(5));
        assert_eq!(Page::read(other.as_bytes()).unwrap(), expected);
        assert!(Page::read(page.replace("\"serverTime\"", "\"gapDetected\":true,\"x\"").as_bytes()).is_err());
        let nothing = r#"{"ops":[],"hasMore":false,"latestSeq":3,"serverTime":1}"#;
        let mut device = device(300);
        device.cursor = 3;
        assert_eq!(device.read_page(answered(200, nothing), Some(0)).unwrap(), 0);
        assert!(device.read_page(answered(200, &nothing.replace('3', "4")), Some(0)).is_err());
        assert!(device.read_page(answered(401, nothing), Some(0)).is_err());
        assert!(device.read_page(answered(200, &nothing.replace('3', "2")), None).is_err(), "it went back");
    }
}
