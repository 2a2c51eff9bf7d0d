//! A page of a download, as far as the load looks at it.

use super::error::{BenchError, Result};
use crate::client::wire::{Check as _, DownloadAnswer, ServerOp};
use crate::protocol::Seq;

/// What a page of a download holds, read from its two ends: a load can't afford to read all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many operations, if their sequence has no holes; the log check after the run sees that it has none.
    pub ops: u64,
    /// The first operation's sequence; 0 without operations.
    pub first: Seq,
    /// The last one's.
    pub last: Seq,
    /// Whether more pages follow.
    pub has_more: bool,
    /// The account's counter.
    pub latest_seq: Seq,
}

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// [`BenchError::Answer`] when it is none, or says that history is missing.
    pub fn read(body: &[u8]) -> Result<Self> {
        let page = match Self::read_ends(body) {
            Some(page) => page,
            None => Self::read_all(body)?,
        };
        if page.has_more && page.ops == 0 {
            return Err(BenchError::answer("more to come after an empty page", body));
        }
        Ok(page)
    }

    /// `None`: spelled otherwise than expected.
    fn read_ends(body: &[u8]) -> Option<Self> {
        const OP: &[u8] = b"{\"serverSeq\":";
        let rest = body.strip_prefix(b"{\"ops\":[")?;
        let (first, last, end) = if rest.starts_with(b"]") {
            (0, 0, rest)
        } else {
            let first = leading_number(rest.strip_prefix(OP)?)?.0;
            let last_at = rest.windows(OP.len()).rposition(|window| window == OP)?;
            let last = leading_number(&rest[last_at + OP.len()..])?.0;
            let end_at = rest.windows(3).rposition(|window| window == b"}],")?;
            (first, last, &rest[end_at + 1..])
        };
        let rest = end.strip_prefix(b"],\"hasMore\":")?;
        let (has_more, rest) = match rest.strip_prefix(b"true") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix(b"false")?),
        };
        let (latest_seq, rest) = leading_number(rest.strip_prefix(b",\"latestSeq\":")?)?;
        if rest.starts_with(b",\"gapDetected\"") {
            return None;
        }
        let ops = if first == 0 { 0 } else { u64::try_from(last - first + 1).ok()? };
        Some(Self { ops, first, last, has_more, latest_seq })
    }

    fn read_all(body: &[u8]) -> Result<Self> {
        let invalid = |reason: String| BenchError::answer(&reason, body);
        let answer: DownloadAnswer = serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
        answer.check().map_err(invalid)?;
        if answer.gap_detected.is_some() {
            return Err(BenchError::answer("history is missing", body));
        }
        let seq = |op: Option<&ServerOp>| op.map_or(0, |op| op.server_seq);
        Ok(Self {
            ops: answer.ops.len() as u64,
            first: seq(answer.ops.first()),
            last: seq(answer.ops.last()),
            has_more: answer.has_more,
            latest_seq: answer.latest_seq,
        })
    }
}

/// The number with which `bytes` begins, and the rest.
pub(super) fn leading_number(bytes: &[u8]) -> Option<(Seq, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 16 {
        return None;
    }
    let number = bytes[..digits].iter().fold(0, |number: Seq, digit| number * 10 + Seq::from(digit - b'0'));
    Some((number, &bytes[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read_from_both_ends() {
        let op = |seq: i64| {
            format!(
                r#"{{"serverSeq":{seq},"op":{{"id":"i","clientId":"c","actionType":"a","opType":"UPD","entityType":"TASK","entityId":"e","payload":{{"a":[{{"b":1}}],"c":1}},"vectorClock":{{}},"timestamp":1,"schemaVersion":4,"isPayloadEncrypted":false}},"receivedAt":1}}"#
            )
        };
        let tail = r#""hasMore":true,"latestSeq":9,"serverTime":1,"capabilities":{"causalRepairSnapshots":true}}"#;
        let plain = format!(r#"{{"ops":[{},{}],{tail}"#, op(4), op(5));
        let expected = Page { ops: 2, first: 4, last: 5, has_more: true, latest_seq: 9 };
        assert_eq!(Page::read_ends(plain.as_bytes()), Some(expected));
        assert_eq!(Page::read_all(plain.as_bytes()).unwrap(), expected);
        let empty = format!(r#"{{"ops":[],{tail}"#);
        assert!(Page::read(empty.as_bytes()).is_err());
        let gap = plain.replace(r#""serverTime""#, r#""gapDetected":true,"serverTime""#);
        assert!(Page::read(gap.as_bytes()).is_err());
        assert!(Page::read(b"{}").is_err());
    }
}
