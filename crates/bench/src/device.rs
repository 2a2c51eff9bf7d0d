//! A device as the load plays it: what it writes looks like what the app writes, and costs little to write.
//!
//! Half of the operations create a task, half change one that the device created before, mostly a recent one. Ids are
//! UUIDs of version 7, entities have 21-character names, the clock knows one or two other devices of the account and grows with
//! every operation. Everything follows from the seed, except times and the ids that begin with them.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use super::connection::Answer;
use super::error::{BenchError, Result};
use super::ledger::Ledger;
use super::page::Page;
use super::random::Random;
use super::target::{Account, Target};
use super::text::write_words;
use crate::client::wire::{Check as _, UploadAnswer};
use crate::protocol::Seq;

/// Smallest payload: its fixed parts need so much.
pub const MIN_PAYLOAD_BYTES: usize = 300;
/// How many of its entities a device remembers as candidates for a change.
const REMEMBERED: usize = 512;
/// Digits of `Content-Length`, so that it can be filled in afterwards.
const LENGTH_DIGITS: usize = 8;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const NANOID: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-";

/// The name of an entity.
type EntityId = [u8; 21];

/// Unix time, milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// A device of an account.
#[derive(Debug)]
pub struct Device {
    account: usize,
    start: Seq,
    /// `Host` and `Authorization`, ready to be sent.
    headers: Vec<u8>,
    token: String,
    client_id: String,
    /// Other devices that the clock knows.
    others: Vec<(String, u32)>,
    counter: u32,
    created: usize,
    entities: Vec<EntityId>,
    /// Where the next entity goes once [`REMEMBERED`] are known.
    oldest: usize,
    random: Random,
    payload_bytes: usize,
    cursor: Seq,
    in_flight: Vec<u128>,
    ledger: Ledger,
}

impl Device {
    /// A device that has never synced, of the account with this number. Devices with different seeds have different
    /// names and write different things.
    #[must_use]
    pub fn new(target: &Target, number: usize, account: &Account, seed: u64, payload_bytes: usize) -> Self {
        let mut random = Random::new(seed ^ 0x00DE_71CE);
        let client_id = client_id(&mut random);
        let others = (0..=random.below(2)).map(|_| (client_id_of_another(&mut random), 1)).collect();
        let headers = headers(target, &account.token);
        Self {
            account: number,
            start: 0,
            headers,
            token: account.token.clone(),
            client_id,
            others,
            counter: 0,
            created: 0,
            entities: Vec::new(),
            oldest: 0,
            random,
            payload_bytes: payload_bytes.max(MIN_PAYLOAD_BYTES),
            cursor: 0,
            in_flight: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The number of its account.
    #[must_use]
    pub const fn account(&self) -> usize {
        self.account
    }

    /// Where the account's log ended when the device joined.
    #[must_use]
    pub const fn start(&self) -> Seq {
        self.start
    }

    /// Joins an account whose log ends here.
    pub const fn start_at(&mut self, start: Seq) {
        self.start = start;
        self.cursor = start;
    }

    /// Goes on with the same data behind another address.
    pub fn retarget(&mut self, target: &Target) {
        self.headers = headers(target, &self.token);
    }

    /// Everything up to here has been seen.
    #[must_use]
    pub const fn cursor(&self) -> Seq {
        self.cursor
    }

    /// Goes on from here, whatever it has seen.
    pub const fn set_cursor(&mut self, cursor: Seq) {
        self.cursor = cursor;
    }

    /// How many of its operations were acknowledged.
    #[must_use]
    pub const fn acknowledged(&self) -> usize {
        self.ledger.len()
    }

    /// How many entities it has created.
    #[must_use]
    pub const fn created(&self) -> usize {
        self.created
    }

    /// The acknowledged operations so far.
    #[must_use]
    pub fn into_ledger(self) -> Ledger {
        self.ledger
    }

    /// Writes a download of everything new, at most `limit` operations.
    pub fn write_download(&self, out: &mut Vec<u8>, limit: Option<usize>) {
        let (cursor, client) = (self.cursor, &self.client_id);
        put(out, format_args!("GET /api/sync/ops?sinceSeq={cursor}"));
        if let Some(limit) = limit {
            put(out, format_args!("&limit={limit}"));
        }
        put(out, format_args!("&excludeClient={client} HTTP/1.1\r\n"));
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(b"Content-Type: application/json\r\n\r\n");
    }

    /// Writes a request without a body.
    pub fn write_get(&self, out: &mut Vec<u8>, path: &str) {
        put(out, format_args!("GET {path} HTTP/1.1\r\n"));
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the head of a request with a JSON body of so many bytes.
    pub fn write_post(&self, out: &mut Vec<u8>, path: &str, body_bytes: usize) {
        put(out, format_args!("POST {path} HTTP/1.1\r\n"));
        out.extend_from_slice(&self.headers);
        put(out, format_args!("Content-Type: application/json\r\nContent-Length: {body_bytes}\r\n\r\n"));
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
        let (client, cursor, bits) = (&self.client_id, self.cursor, self.random.bits());
        put(
            out,
            format_args!(
                "],\"clientId\":\"{client}\",\"lastKnownServerSeq\":{cursor},\"requestId\":\"ops-v1-{ops}-{now:x}-{bits:x}\"}}"
            ),
        );
        let mut length = out.len() - body_at;
        for digit in out[length_at..length_at + LENGTH_DIGITS].iter_mut().rev() {
            *digit = b"0123456789"[length % 10];
            length /= 10;
        }
    }

    fn write_op(&mut self, out: &mut Vec<u8>, now: u64) {
        let id = uuid_v7(&mut self.random, now);
        self.in_flight.push(id);
        self.counter += 1;
        // Now and then the device has seen what another one wrote.
        if self.counter.is_multiple_of(16) {
            for (_, counter) in &mut self.others {
                *counter += 1;
            }
        }
        let creates = self.entities.is_empty() || self.random.bits() & 1 == 0;
        let entity = if creates { self.new_entity() } else { self.known_entity() };
        out.extend_from_slice(b"{\"id\":\"");
        out.extend_from_slice(&uuid_text(id));
        out.extend_from_slice(b"\",\"clientId\":\"");
        out.extend_from_slice(self.client_id.as_bytes());
        let (action, op_type): (&[u8], &[u8]) =
            if creates { (b"[Task Shared] addTask", b"CRT") } else { (b"[Task Shared] updateTask", b"UPD") };
        out.extend_from_slice(b"\",\"actionType\":\"");
        out.extend_from_slice(action);
        out.extend_from_slice(b"\",\"opType\":\"");
        out.extend_from_slice(op_type);
        out.extend_from_slice(b"\",\"entityType\":\"TASK\",\"entityId\":\"");
        out.extend_from_slice(&entity);
        out.extend_from_slice(b"\",\"entityIds\":[\"");
        out.extend_from_slice(&entity);
        out.extend_from_slice(b"\"],\"payload\":");
        self.write_payload(out, entity, creates, now);
        put(out, format_args!(",\"vectorClock\":{{\"{}\":{}", self.client_id, self.counter));
        for (client, counter) in &self.others {
            put(out, format_args!(",\"{client}\":{counter}"));
        }
        put(out, format_args!("}},\"timestamp\":{now},\"schemaVersion\":4,\"isPayloadEncrypted\":false}}"));
    }

    /// Exactly as many bytes as were asked for: what is missing is written into the task's notes.
    fn write_payload(&mut self, out: &mut Vec<u8>, entity: EntityId, creates: bool, now: u64) {
        let end = out.len() + self.payload_bytes;
        let tail: &[u8] = if creates {
            out.extend_from_slice(b"{\"actionPayload\":{\"task\":{\"id\":\"");
            out.extend_from_slice(&entity);
            let done = self.random.bits().is_multiple_of(8);
            let estimate = self.random.below(48) * 300_000;
            put(
                out,
                format_args!(
                    "\",\"created\":{now},\"isDone\":{done},\"timeEstimate\":{estimate},\"timeSpentOnDay\":{{}},\
                     \"projectId\":\"INBOX_PROJECT\",\"tagIds\":[\"TODAY\"],\"subTaskIds\":[],\"title\":\""
                ),
            );
            b"\"},\"isAddToBottom\":false},\"entityChanges\":[]}"
        } else {
            out.extend_from_slice(b"{\"actionPayload\":{\"task\":{\"id\":\"");
            out.extend_from_slice(&entity);
            put(out, format_args!("\",\"changes\":{{\"modified\":{now},\"title\":\""));
            b"\"}}},\"entityChanges\":[]}"
        };
        let between = b"\",\"notes\":\"";
        let words = end - out.len() - tail.len() - between.len();
        let title = words.min(16 + self.random.below(32));
        write_words(out, title, &mut self.random);
        out.extend_from_slice(between);
        write_words(out, words - title, &mut self.random);
        out.extend_from_slice(tail);
    }

    fn new_entity(&mut self) -> EntityId {
        let entity = entity_id(&mut self.random);
        self.created += 1;
        if self.entities.len() < REMEMBERED {
            self.entities.push(entity);
        } else {
            self.entities[self.oldest] = entity;
            self.oldest = (self.oldest + 1) % REMEMBERED;
        }
        entity
    }

    /// Three of four changes are to one of the last 16 entities.
    fn known_entity(&mut self) -> EntityId {
        let known = self.entities.len();
        let recent = if self.random.bits().is_multiple_of(4) { known } else { known.min(16) };
        // How long ago it was created, counted in entities.
        let age = 1 + self.random.below(recent);
        let newest_end = if known < REMEMBERED { known } else { self.oldest + REMEMBERED };
        self.entities[(newest_end - age) % REMEMBERED]
    }

    /// Reads the answer to the last upload: everything must have been accepted, in order.
    ///
    /// # Errors
    /// [`BenchError::Answer`] otherwise.
    pub fn read_upload(&mut self, answer: Answer<'_>) -> Result<u64> {
        let body = answer.ok()?;
        let before = self.ledger.len();
        let latest = match self.ledger.record_plain(body, &self.in_flight) {
            Some(latest) => latest,
            None => self.read_unusual_upload(body, before)?,
        };
        if latest < self.cursor {
            return Err(BenchError::answer("latestSeq went back", body));
        }
        self.cursor = latest;
        Ok((self.ledger.len() - before) as u64)
    }

    /// Another spelling of the answer, or operations of other devices in it: the slow way, with all of the app's checks.
    fn read_unusual_upload(&mut self, body: &[u8], before: usize) -> Result<Seq> {
        self.ledger.truncate(before);
        let invalid = |reason: String| BenchError::answer(&reason, body);
        let answer: UploadAnswer = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
        answer.check().map_err(invalid)?;
        if answer.results.len() != self.in_flight.len() || answer.deduplicated.is_some() {
            return Err(BenchError::answer("results are not those of new operations", body));
        }
        for (id, result) in self.in_flight.iter().zip(&answer.results) {
            match result.server_seq {
                Some(seq) if result.op_id.as_bytes() == uuid_text(*id) => self.ledger.record(*id, seq),
                _ => return Err(BenchError::answer("not everything was accepted", body)),
            }
        }
        let piggyback = answer.new_ops.as_deref().unwrap_or_default();
        // The app's rule (contract, section 5.11).
        Ok(if answer.has_more_piggyback.is_some() {
            piggyback.last().map_or(self.cursor, |op| op.server_seq)
        } else {
            answer.latest_seq
        })
    }

    /// Reads the answer to a download that should bring nothing new.
    ///
    /// # Errors
    /// [`BenchError::Answer`] when it brings something.
    pub fn read_nothing_new(&mut self, answer: Answer<'_>) -> Result<()> {
        let page = Page::read(answer.ok()?)?;
        if page.ops > 0 || page.has_more || page.latest_seq != self.cursor {
            return Err(BenchError::answer("something new where nothing was written", answer.body));
        }
        Ok(())
    }

    /// Reads a page and moves the cursor to its end.
    ///
    /// # Errors
    /// [`BenchError::Answer`] when it does not lead on.
    pub fn read_page(&mut self, answer: Answer<'_>) -> Result<Page> {
        let page = Page::read(answer.ok()?)?;
        if page.latest_seq < self.cursor || (page.ops > 0 && page.first <= self.cursor) {
            return Err(BenchError::answer("a page that does not lead on", answer.body));
        }
        self.cursor = if page.has_more { page.last } else { page.latest_seq };
        Ok(page)
    }
}

fn headers(target: &Target, token: &str) -> Vec<u8> {
    format!("Host: {}\r\nAuthorization: Bearer {token}\r\n", target.host).into_bytes()
}

/// Appends formatted text.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory can't fail");
}

/// `B_` (a browser) and six characters, as the app names devices (contract, section 1).
fn client_id(random: &mut Random) -> String {
    std::iter::once('B').chain(std::iter::once('_')).chain((0..6).map(|_| base62(random))).collect()
}

/// The same with another platform's letter, so that it is never the device's own.
fn client_id_of_another(random: &mut Random) -> String {
    std::iter::once('A').chain(std::iter::once('_')).chain((0..6).map(|_| base62(random))).collect()
}

fn base62(random: &mut Random) -> char {
    char::from(BASE62[random.below(BASE62.len())])
}

/// 21 characters, as the app names entities.
fn entity_id(random: &mut Random) -> EntityId {
    let (mut first, mut second) = (random.bits(), random.bits());
    std::array::from_fn(|n| {
        let bits = if n < 10 { &mut first } else { &mut second };
        let character = NANOID[(*bits & 63) as usize];
        *bits = if n == 19 { random.bits() } else { *bits >> 6 };
        character
    })
}

/// A UUID, version 7: milliseconds, then random bits.
pub(super) fn uuid_v7(random: &mut Random, now_ms: u64) -> u128 {
    let (a, b) = (random.bits(), random.bits());
    (u128::from(now_ms) << 80) | (7 << 76) | (u128::from(a & 0xFFF) << 64) | (0b10 << 62) | u128::from(b >> 2)
}

/// Its text.
#[must_use]
pub(super) fn uuid_text(id: u128) -> [u8; 36] {
    let mut text = [0; 36];
    uuid::Uuid::from_u128(id).hyphenated().encode_lower(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;
    use crate::protocol::request::UploadRequest;

    fn device(payload_bytes: usize) -> Device {
        let target = Target::local(([127, 0, 0, 1], 1).into());
        Device::new(&target, 0, &Account { token: "t".to_owned() }, 1, payload_bytes)
    }

    fn body(request: &[u8]) -> &[u8] {
        let at = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = std::str::from_utf8(&request[..at]).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), request.len() - at);
        &request[at..]
    }

    fn answered(status: u16, body: &str) -> Answer<'_> {
        Answer { status, body: body.as_bytes() }
    }

    #[test]
    fn uploads_are_what_the_protocol_says_and_as_large_as_asked_for() {
        for payload_bytes in [MIN_PAYLOAD_BYTES, 500, 4096] {
            let mut device = device(payload_bytes);
            let mut request = Vec::new();
            device.write_upload(&mut request, 100);
            let parsed = UploadRequest::parse(&body(&request).to_vec().into()).unwrap();
            assert_eq!(parsed.ops.len(), 100);
            for op in &parsed.ops {
                assert_eq!(op.payload.as_ref().unwrap().len(), payload_bytes);
            }
        }
    }

    #[test]
    fn half_of_the_operations_change_what_the_device_created() {
        let mut device = device(300);
        let (mut created, mut changed, mut clock) = (HashSet::new(), 0, 0);
        for _ in 0..20 {
            let mut request = Vec::new();
            device.write_upload(&mut request, 100);
            let parsed: Value = serde_json::from_slice(body(&request)).unwrap();
            for op in parsed["ops"].as_array().unwrap() {
                let entity = op["entityId"].as_str().unwrap().to_owned();
                assert_eq!(op["payload"]["actionPayload"]["task"]["id"], entity.as_str());
                assert_eq!(entity.len(), 21);
                if op["opType"] == "CRT" {
                    assert!(created.insert(entity), "created twice");
                } else {
                    assert!(created.contains(&entity), "changed before it was created");
                    changed += 1;
                }
                let own = op["vectorClock"][&device.client_id].as_u64().unwrap();
                assert_eq!(own, clock + 1);
                clock = own;
                assert!((2..=3).contains(&op["vectorClock"].as_object().unwrap().len()));
            }
        }
        assert!((800..1200).contains(&changed), "{changed}");
    }

    #[test]
    fn an_upload_that_was_not_accepted_whole_is_an_error() {
        let mut device = device(300);
        device.write_upload(&mut Vec::new(), 1);
        let id = String::from_utf8(uuid_text(device.in_flight[0]).to_vec()).unwrap();
        let rejected = format!(
            r#"{{"results":[{{"opId":"{id}","accepted":false,"error":"e","errorCode":"INVALID_OP_ID"}}],"latestSeq":0}}"#
        );
        let of_another = r#"{"results":[{"opId":"x","accepted":true,"serverSeq":1}],"latestSeq":1}"#;
        let accepted = format!(r#"{{"results":[{{"opId":"{id}","accepted":true,"serverSeq":1}}],"latestSeq":1}}"#);
        for (status, body) in
            [(500, &*accepted), (200, &*rejected), (200, of_another), (200, r#"{"results":[],"latestSeq":1}"#)]
        {
            assert!(device.read_upload(answered(status, body)).is_err(), "{body}");
        }
        assert_eq!(device.cursor(), 0);
        assert_eq!(device.read_upload(answered(200, &accepted)).unwrap(), 1);
        assert_eq!(device.cursor(), 1);
        // The same with members in another order.
        device.write_upload(&mut Vec::new(), 1);
        let id = String::from_utf8(uuid_text(device.in_flight[0]).to_vec()).unwrap();
        let other = format!(r#"{{"latestSeq":2,"results":[{{"accepted":true,"serverSeq":2,"opId":"{id}"}}]}}"#);
        assert_eq!(device.read_upload(answered(200, &other)).unwrap(), 1);
        assert_eq!(device.cursor(), 2);
    }

    #[test]
    fn a_poll_that_brings_something_is_an_error() {
        let mut device = device(300);
        device.set_cursor(3);
        let nothing = r#"{"ops":[],"hasMore":false,"latestSeq":3,"serverTime":1}"#;
        device.read_nothing_new(answered(200, nothing)).unwrap();
        assert!(device.read_nothing_new(answered(200, &nothing.replace('3', "4"))).is_err());
        assert!(device.read_nothing_new(answered(401, nothing)).is_err());
    }
}
