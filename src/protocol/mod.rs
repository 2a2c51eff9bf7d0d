//! The wire contract as plain data: operations, vector clocks, requests, answers, codes, limits.
//!
//! Pure: no I/O, no clock, no async. Wire names (JSON members, codes) live here and nowhere else.

pub mod charge;
pub mod clock;
pub mod code;
pub mod identity;
pub mod json;
pub mod limits;
pub mod op;
pub mod request;
pub mod response;
pub mod validate;

pub use clock::{Ordering as ClockOrdering, VectorClock};
pub use code::ErrorCode;
pub use op::{ImportReason, OpType, StoredOp, UploadedOp, ValidOp};

/// An account's number. Positive.
pub type UserId = i64;
/// A position in an account's log. The first operation gets 1; 0 means "nothing yet".
pub type Seq = i64;

/// Whether nothing is missing between two operations of a log: `seq` comes right after `after`, or only numbers up to
/// `sparse_up_to` are between them, which may belong to no operation.
#[must_use]
pub const fn follows(after: Seq, seq: Seq, sparse_up_to: Seq) -> bool {
    seq > after && (seq - after == 1 || seq - 1 <= sparse_up_to)
}
