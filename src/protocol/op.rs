//! Operations: as uploaded, as validated, as stored, and as sent to clients (contract, section 3).

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::json::scan::Shape;
use super::{Seq, VectorClock};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the wire names of section 3.1
pub enum OpType {
    Create,
    Update,
    Delete,
    Move,
    Batch,
    SyncImport,
    BackupImport,
    Repair,
}

impl OpType {
    /// Every type, in the order of the contract.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Update,
        Self::Delete,
        Self::Move,
        Self::Batch,
        Self::SyncImport,
        Self::BackupImport,
        Self::Repair,
    ];

    /// The type's text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CRT",
            Self::Update => "UPD",
            Self::Delete => "DEL",
            Self::Move => "MOV",
            Self::Batch => "BATCH",
            Self::SyncImport => "SYNC_IMPORT",
            Self::BackupImport => "BACKUP_IMPORT",
            Self::Repair => "REPAIR",
        }
    }

    /// The type with this text on the wire.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == text)
    }

    /// Whether the payload is the whole app state.
    #[must_use]
    pub const fn is_full_state(self) -> bool {
        matches!(self, Self::SyncImport | Self::BackupImport | Self::Repair)
    }

    /// Whether it replaces the state for every device and so moves the upload fence.
    #[must_use]
    pub const fn is_state_replacement(self) -> bool {
        matches!(self, Self::SyncImport | Self::BackupImport)
    }
}

/// Why a full state was uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the wire names of section 3.1
pub enum ImportReason {
    PasswordChanged,
    FileImport,
    BackupRestore,
    ForceUpload,
    ServerMigration,
    Repair,
}

impl ImportReason {
    /// Every reason, in the order of the contract.
    pub const ALL: [Self; 6] = [
        Self::PasswordChanged,
        Self::FileImport,
        Self::BackupRestore,
        Self::ForceUpload,
        Self::ServerMigration,
        Self::Repair,
    ];

    /// The reason's text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PasswordChanged => "PASSWORD_CHANGED",
            Self::FileImport => "FILE_IMPORT",
            Self::BackupRestore => "BACKUP_RESTORE",
            Self::ForceUpload => "FORCE_UPLOAD",
            Self::ServerMigration => "SERVER_MIGRATION",
            Self::Repair => "REPAIR",
        }
    }

    /// The reason with this text on the wire.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

/// The entity types that the app knows (section 3.1). Rows with any other would make every device of
/// the account fail its download.
pub const ENTITY_TYPES: [&str; 21] = [
    "TASK",
    "PROJECT",
    "TAG",
    "NOTE",
    "GLOBAL_CONFIG",
    "SIMPLE_COUNTER",
    "WORK_CONTEXT",
    "TIME_TRACKING",
    "TASK_REPEAT_CFG",
    "ISSUE_PROVIDER",
    "PLANNER",
    "MENU_TREE",
    "METRIC",
    "BOARD",
    "SECTION",
    "REMINDER",
    "PLUGIN_USER_DATA",
    "PLUGIN_METADATA",
    "MIGRATION",
    "RECOVERY",
    "ALL",
];

/// The entity type with this text, as a shared constant.
#[must_use]
pub fn entity_type(text: &str) -> Option<&'static str> {
    ENTITY_TYPES.into_iter().find(|t| *t == text)
}

/// Action type of additive time deltas, which commute (section 5.8).
pub const TIME_DELTA_ACTION: &str = "[TimeTracking] Sync time spent";
/// Action type of every full state uploaded as a snapshot; clients dispatch it.
pub const LOAD_ALL_ACTION: &str = "[SP_ALL] Load(import) all data";

/// An operation of which only the structure has been checked (section 5.2): each field has the right
/// JSON type and a bounded size, its meaning is still unknown.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // section 5.2 names them
pub struct UploadedOp {
    pub id: Arc<str>,
    pub client_id: Arc<str>,
    pub action_type: Arc<str>,
    pub op_type: Arc<str>,
    pub entity_type: Arc<str>,
    pub entity_id: Option<Arc<str>>,
    pub entity_ids: Option<Vec<Arc<str>>>,
    /// Compact JSON; `None` when the member is missing (a JSON `null` is `Some("null")`).
    pub payload: Option<Bytes>,
    /// How deep and large the payload is.
    pub payload_shape: Shape,
    /// Entries in the order received; values that are no finite number are NaN.
    pub vector_clock: Vec<(Arc<str>, f64)>,
    pub timestamp: f64,
    pub schema_version: f64,
    pub is_payload_encrypted: Option<bool>,
    pub import_reason: Option<ImportReason>,
    pub repair_base_server_seq: Option<Seq>,
    /// The member that held a lone surrogate, which no database stores (section 17.4): its text here has U+FFFD
    /// instead.
    pub poisoned: Option<&'static str>,
}

/// An operation that passed semantic validation (section 5.4).
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ValidOp {
    pub id: Arc<str>,
    pub client_id: Arc<str>,
    pub action_type: Arc<str>,
    pub op_type: OpType,
    pub entity_type: &'static str,
    pub entity_id: Option<Arc<str>>,
    /// As declared, not normalised; empty when absent.
    pub entity_ids: Vec<Arc<str>>,
    /// Compact JSON.
    pub payload: Bytes,
    /// Sanitised, not pruned.
    pub vector_clock: VectorClock,
    /// As the client gave it, not clamped, in Unix milliseconds.
    pub timestamp: i64,
    pub schema_version: u8,
    pub is_payload_encrypted: bool,
    pub import_reason: Option<ImportReason>,
    pub repair_base_server_seq: Option<Seq>,
}

impl ValidOp {
    /// Whether this is an additive time delta.
    #[must_use]
    pub fn is_time_delta(&self) -> bool {
        &*self.action_type == TIME_DELTA_ACTION
    }

    /// Whether this full state says which history it covers, and so authorises fast-forward, restore
    /// points and pruning (section 1).
    #[must_use]
    pub fn is_causal_full_state(&self) -> bool {
        is_causal_full_state(self.op_type, self.repair_base_server_seq)
    }

    /// The entity ids whose latest operations it is checked against: the scalar id first, then the
    /// declared ones, without repeats.
    #[must_use]
    pub fn conflict_ids(&self) -> SmallVec<[&str; 2]> {
        let mut ids = SmallVec::with_capacity(1 + self.entity_ids.len());
        let mut seen = Seen::default();
        for id in self.entity_id.iter().chain(&self.entity_ids) {
            if seen.is_new(&ids, id) {
                ids.push(&**id);
            }
        }
        ids
    }

    /// Bytes of everything that a client may choose beside the payload: ids, names, the clock.
    #[must_use]
    pub fn metadata_bytes(&self) -> usize {
        let names = [&self.id, &self.client_id, &self.action_type];
        texts_bytes(names, self.entity_id.as_ref(), &self.entity_ids) + self.vector_clock.as_json().len()
    }

    /// The entity ids as stored (section 5.9.3): without repeats, and none when the scalar id says it
    /// all.
    #[must_use]
    pub fn stored_entity_ids(&self) -> Vec<Arc<str>> {
        normalised_entity_ids(self.entity_id.as_deref(), &self.entity_ids)
    }
}

/// Entity ids in the form in which they are stored and compared (section 5.9.3).
#[must_use]
pub fn normalised_entity_ids(entity_id: Option<&str>, entity_ids: &[Arc<str>]) -> Vec<Arc<str>> {
    if let [only] = entity_ids
        && Some(&**only) == entity_id
    {
        return Vec::new();
    }
    let mut seen = Seen::default();
    let mut texts: Vec<&str> = Vec::with_capacity(entity_ids.len());
    let mut ids = Vec::with_capacity(entity_ids.len());
    for id in entity_ids {
        if seen.is_new(&texts, id) {
            texts.push(id);
            ids.push(Arc::clone(id));
        }
    }
    if ids.len() == 1 && texts.first().copied() == entity_id { Vec::new() } else { ids }
}

/// Finds repeats in a list of ids. Nearly every operation has one or two, which are compared faster than hashed.
#[derive(Default)]
struct Seen<'a>(HashSet<&'a str>);

impl<'a> Seen<'a> {
    const FEW: usize = 8;

    /// Whether `id` is not among `before`, everything that was found new until now.
    fn is_new(&mut self, before: &[&'a str], id: &'a str) -> bool {
        if before.len() < Self::FEW {
            return !before.contains(&id);
        }
        if self.0.is_empty() {
            self.0.extend(before);
        }
        self.0.insert(id)
    }
}

/// Whether a stored operation is a causal full state.
#[must_use]
pub fn is_causal_full_state(op_type: OpType, repair_base_server_seq: Option<Seq>) -> bool {
    op_type.is_state_replacement() || (op_type == OpType::Repair && repair_base_server_seq.is_some())
}

/// An operation as it stands in the log.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct StoredOp {
    pub server_seq: Seq,
    pub id: Arc<str>,
    pub client_id: Arc<str>,
    pub action_type: Arc<str>,
    pub op_type: OpType,
    pub entity_type: &'static str,
    pub entity_id: Option<Arc<str>>,
    /// Normalised.
    pub entity_ids: Vec<Arc<str>>,
    /// Compact JSON.
    pub payload: Bytes,
    /// Bytes charged to the quota: see [`super::charge`].
    pub storage_bytes: i64,
    /// Pruned.
    pub vector_clock: VectorClock,
    /// The client's time, clamped, in Unix milliseconds.
    pub timestamp: i64,
    pub schema_version: u8,
    pub is_payload_encrypted: bool,
    pub import_reason: Option<ImportReason>,
    pub repair_base_server_seq: Option<Seq>,
    /// The server's time at acceptance, in Unix milliseconds.
    pub received_at: i64,
}

/// Bytes of texts that a client chose; of a list with the quotes and commas that are stored with it.
fn texts_bytes(names: [&Arc<str>; 3], entity_id: Option<&Arc<str>>, entity_ids: &[Arc<str>]) -> usize {
    let names: usize = names.into_iter().chain(entity_id).map(|text| text.len()).sum();
    names + entity_ids.iter().map(|id| id.len() + 3).sum::<usize>()
}

impl StoredOp {
    /// Bytes of what a client chose beside payload and clock: ids and names.
    #[must_use]
    pub fn metadata_bytes(&self) -> usize {
        texts_bytes([&self.id, &self.client_id, &self.action_type], self.entity_id.as_ref(), &self.entity_ids)
    }

    /// Whether this is a causal full state.
    #[must_use]
    pub fn is_causal_full_state(&self) -> bool {
        is_causal_full_state(self.op_type, self.repair_base_server_seq)
    }
}
