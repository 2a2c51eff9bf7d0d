//! Archived data sets as they are shown: one shape for the API, the export and the command line.

use serde::Serialize;
use utoipa::ToSchema;

use super::Archive;
use crate::protocol::{ImportReason, Seq};

/// An archived data set. Times are Unix milliseconds.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveSummary {
    /// Its name for programs.
    pub id: String,
    /// Why it left the data set.
    pub reason: &'static str,
    /// The import reason of the upload that replaced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_because: Option<&'static str>,
    /// When it left.
    pub archived_at: i64,
    /// From when on it may be deleted.
    pub expires_at: i64,
    /// How many it holds.
    pub operations: i64,
    /// Bytes charged for it.
    pub bytes: i64,
    /// Where it lay.
    #[schema(value_type = i64)]
    pub from_seq: Seq,
    /// The last sequence of it.
    #[schema(value_type = i64)]
    pub to_seq: Seq,
    /// Whether its payloads are encrypted.
    pub is_encrypted: bool,
    /// Whether devices will need another encryption password than today's.
    pub former_password: &'static str,
    /// Whether it can be brought back.
    pub restorable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<&'static str>,
}

impl From<&Archive> for ArchiveSummary {
    fn from(archive: &Archive) -> Self {
        let range = &archive.range;
        Self {
            id: archive.id.to_string(),
            reason: range.reason.as_str(),
            replaced_because: archive.replaced_because.map(ImportReason::as_str),
            archived_at: range.archived_at,
            expires_at: archive.expires_at,
            operations: archive.operations(),
            bytes: range.bytes,
            from_seq: range.from_seq,
            to_seq: range.to_seq,
            is_encrypted: archive.is_encrypted,
            former_password: archive.former_password.as_str(),
            restorable: archive.obstacle.is_none(),
            obstacle: archive.obstacle.map(super::Obstacle::as_str),
        }
    }
}
