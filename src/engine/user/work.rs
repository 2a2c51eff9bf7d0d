//! What an account's actor is asked to do, and what it answers.

use std::sync::Arc;

use foldhash::HashMap;

use crate::engine::retention::Prefix;
use crate::engine::view::UserView;
use crate::engine::{QuotaExceeded, SnapshotReply};
use crate::protocol::response::OpResult;
use crate::protocol::validate::{CheckedSnapshot, CheckedUpload};
use crate::protocol::{Seq, VectorClock};
use crate::store::{EntityHead, EntityKey, FullStateMark, Segment, SnapshotBlob, SnapshotMeta};

/// Operations of an account that have been looked at for packing, and what was packed of them.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// The data set.
    pub generation: i64,
    /// Where it began: everything up to here was packed, left as it is, or pruned before.
    pub after: Seq,
    /// Everything up to here is packed now, or stays a row for ever.
    pub up_to: Seq,
    /// The packed operations, ascending. The first segment may take up again the one that ended at `after`.
    pub segments: Arc<[Segment]>,
}

/// A data set that has been staged.
#[derive(Clone, Debug)]
pub struct StagedSet {
    /// The data set that it was staged beside. If another one has begun since, the wish is outdated.
    pub beside_generation: i64,
    /// Whether that one must (still) be empty.
    pub beside_empty: bool,
    /// Its own number.
    pub generation: i64,
    /// Its first sequence.
    pub from_seq: Seq,
    /// Its last sequence.
    pub to_seq: Seq,
    /// The first sequence of the archived range that it was made from.
    pub source_from: Seq,
    /// What it is charged.
    pub bytes: i64,
    /// Per client the maximum over all its clocks.
    pub clock: VectorClock,
    /// Its newest causal full state.
    pub full_state: Option<FullStateMark>,
    /// The latest operation of each of its entities.
    pub heads: HashMap<EntityKey, EntityHead>,
    /// The highest op id in its segments, if it has any.
    pub sealed_max_op_id: Option<String>,
    /// Numbers up to here may belong to no operation.
    pub sparse_up_to: Seq,
}

/// A change to an account's log.
#[derive(Debug)]
pub enum Work {
    /// `POST /api/sync/ops`.
    Upload(CheckedUpload),
    /// `POST /api/sync/snapshot`.
    Snapshot(Box<CheckedSnapshot>),
    /// `DELETE /api/sync/data`.
    Wipe,
    /// Retention: give up a superseded prefix, if the data set still begins where it does.
    Retire(Prefix),
    /// Put packed operations in the place of their rows.
    Seal(Sealing),
    /// Put a staged data set in the place of the present one.
    BringBack(Box<StagedSet>),
    /// Keep a rebuilt state for later restores.
    KeepState {
        /// The data set that it was rebuilt from.
        generation: i64,
        /// Where it stands, when, how large.
        meta: SnapshotMeta,
        /// The state.
        blob: SnapshotBlob,
    },
}

impl Work {
    /// What it is called in traces.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Upload(_) => "upload",
            Self::Snapshot(_) => "snapshot",
            Self::Wipe => "wipe",
            Self::Retire { .. } => "retire",
            Self::Seal(_) => "seal",
            Self::BringBack(_) => "bring back",
            Self::KeepState { .. } => "keep state",
        }
    }

    /// Entities that it may touch.
    #[must_use]
    pub fn entities(&self) -> usize {
        match self {
            Self::Upload(upload) => {
                upload.ops.iter().filter_map(|op| op.check.as_ref().ok()).map(|op| 1 + op.entity_ids.len()).sum()
            }
            _ => 0,
        }
    }

    /// About what a plan of it will weigh in a commit: payloads, and what else clients choose.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Upload(upload) => upload
                .ops
                .iter()
                .filter_map(|op| op.check.as_ref().ok())
                .map(|op| op.payload.len() + op.metadata_bytes())
                .sum(),
            Self::Snapshot(snapshot) => snapshot.op.as_ref().map_or(0, |op| op.payload.len()),
            Self::KeepState { blob, .. } => blob.data.len(),
            Self::Seal(sealing) => sealing.segments.iter().map(|segment| segment.data.len()).sum(),
            Self::Wipe | Self::Retire(_) => 0,
            // So heavy that it is planned alone: sequences don't go on from one side of it to the other.
            Self::BringBack(_) => usize::MAX / 2,
        }
    }
}

/// What became of an upload's operations.
#[derive(Clone, Debug)]
pub struct UploadOutcome {
    /// One per operation.
    pub results: Vec<OpResult>,
    /// From the request cache.
    pub deduplicated: bool,
    /// Refused as a whole because the client has not seen the newest state replacement: its piggyback must start with
    /// that, even if it wrote it itself.
    pub fenced: bool,
}

/// The answer to a piece of work.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Work::Upload`].
    Upload(UploadOutcome),
    /// To either upload: no room.
    Quota(QuotaExceeded),
    /// To either upload: it is not encrypted, and the newest full state is.
    EncryptionRequired,
    /// Nothing was done: too much of what the account has given up waits to be deleted.
    Busy,
    /// To [`Work::Snapshot`].
    Snapshot(SnapshotReply),
    /// To the others: whether anything changed.
    Done(bool),
}

/// An answer with the account as it was after the commit.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// The view that contains it.
    pub view: Arc<UserView>,
}
