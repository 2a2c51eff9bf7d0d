//! Answers, and the pieces they are made of. Optional members are left out, never `null`: released
//! clients fail the whole sync on a `null` (contract, section 2.6).

use serde::Serialize;
use serde_json::{Map, Value};

use super::{ErrorCode, Seq, VectorClock};

/// One reason why a request failed structural validation: at least `code`, `message` and `path`.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Issue(pub Map<String, Value>);

impl Issue {
    /// Whether the value at least has the right type, so that rules across members can be looked at.
    pub(super) fn keeps_type(&self) -> bool {
        !matches!(self.0.get("code").and_then(Value::as_str), Some("invalid_type" | "invalid_value"))
    }
}

/// What became of one uploaded operation.
#[derive(Clone, Debug, PartialEq)]
pub struct OpResult {
    /// The id as sent, even when it is invalid.
    pub op_id: String,
    /// Its place in the log, or why it has none.
    pub outcome: Result<Seq, Rejection>,
}

/// Why an operation was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// The code that clients act on.
    pub code: ErrorCode,
    /// A text for people. For permanent codes it must hold none of the words that clients take for
    /// "try again" (section 14.5).
    pub message: String,
    /// For conflicts: the clock of the operation that won.
    pub existing_clock: Option<VectorClock>,
}

impl Rejection {
    /// A refusal without a clock.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), existing_clock: None }
    }
}
pub fn encode_op(_op: &super::StoredOp, _out: &mut Vec<u8>) {
    todo!()
}
