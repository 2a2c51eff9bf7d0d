//! Stored rows to the program's types and back: what both databases have in common.

use std::sync::Arc;

use crate::protocol::op::entity_type;
use crate::protocol::{ImportReason, OpType, VectorClock};

use super::{ArchiveReason, EntityKey, Result, StoreError, TokenPurpose};

/// The columns of an operation, in the order in which [`decode_op`] reads them.
macro_rules! op_columns {
    () => {
        $crate::store::row::op_columns!("payload")
    };
    ($payload:expr) => {
        concat!(
            "server_seq, op_id, client_id, action_type, op_type, entity_type, entity_id, entity_ids, storage_bytes, ",
            "vector_clock, client_timestamp, schema_version, is_payload_encrypted, sync_import_reason, ",
            "repair_base_server_seq, received_at, ",
            $payload
        )
    };
}

/// The columns of a state row `s`, in the order in which [`decode_state`] reads them.
macro_rules! state_columns {
    () => {
        "s.revision, s.generation, s.base_seq, s.pruned_seq, s.last_seq, s.vector_clock, s.full_state_seq, \
         s.full_state_client_id, s.full_state_clock, s.replacement_seq, s.storage_used_bytes, s.snapshot_seq, \
         s.snapshot_at, s.snapshot_bytes, s.heads_seq, s.sealed_seq, s.sealed_max_op_id, s.sparse_up_to"
    };
}

/// The columns of an account, in the order in which [`decode_user`] reads them.
macro_rules! user_columns {
    () => {
        "id, email, password_hash, is_verified, token_version, failed_login_attempts, locked_until, created_at, \
         storage_quota_bytes, is_admin, locked_at"
    };
}

/// Reads an operation's row.
macro_rules! decode_op {
    ($row:expr) => {{
        let row = $row;
        row.try_get::<Vec<u8>, _>(16)
            .map_err($crate::store::StoreError::from)
            .and_then(|payload| $crate::store::row::decode_op!(row, payload))
    }};
    ($row:expr, $payload:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::protocol::StoredOp> {
            Ok($crate::protocol::StoredOp {
                server_seq: row.try_get(0)?,
                id: row.try_get::<&str, _>(1)?.into(),
                client_id: row.try_get::<&str, _>(2)?.into(),
                action_type: row.try_get::<&str, _>(3)?.into(),
                op_type: $crate::store::row::op_type(row.try_get(4)?)?,
                entity_type: $crate::store::row::op_entity_type(row.try_get(5)?)?,
                entity_id: row.try_get::<Option<&str>, _>(6)?.map(Into::into),
                entity_ids: $crate::store::row::entity_ids(row.try_get(7)?)?,
                storage_bytes: row.try_get(8)?,
                vector_clock: $crate::store::row::clock(row.try_get(9)?)?,
                timestamp: row.try_get(10)?,
                schema_version: $crate::store::row::schema_version(row.try_get(11)?)?,
                is_payload_encrypted: row.try_get(12)?,
                import_reason: $crate::store::row::import_reason(row.try_get(13)?)?,
                repair_base_server_seq: row.try_get(14)?,
                received_at: row.try_get(15)?,
                payload: ::bytes::Bytes::from($payload),
            })
        })()
    }};
}

/// Reads a state row whose columns begin at `$at`.
macro_rules! decode_state {
    ($row:expr, $at:expr) => {{
        let row = $row;
        let at: usize = $at;
        (|| -> $crate::store::Result<$crate::store::SyncState> {
            let full_state_seq: Option<i64> = row.try_get(at + 6)?;
            let snapshot_seq: Option<i64> = row.try_get(at + 11)?;
            Ok($crate::store::SyncState {
                revision: row.try_get(at)?,
                generation: row.try_get(at + 1)?,
                base_seq: row.try_get(at + 2)?,
                pruned_seq: row.try_get(at + 3)?,
                last_seq: row.try_get(at + 4)?,
                clock: $crate::store::row::clock(row.try_get(at + 5)?)?,
                full_state: match full_state_seq {
                    None => None,
                    Some(seq) => Some($crate::store::FullStateMark {
                        seq,
                        client_id: row.try_get(at + 7)?,
                        clock: $crate::store::row::clock(row.try_get(at + 8)?)?,
                    }),
                },
                replacement_seq: row.try_get(at + 9)?,
                storage_used_bytes: row.try_get(at + 10)?,
                snapshot: match snapshot_seq {
                    None => None,
                    Some(seq) => Some($crate::store::SnapshotMeta {
                        seq,
                        at: row.try_get(at + 12)?,
                        bytes: row.try_get(at + 13)?,
                    }),
                },
                heads_seq: row.try_get(at + 14)?,
                sealed_seq: row.try_get(at + 15)?,
                sealed_max_op_id: row.try_get(at + 16)?,
                sparse_up_to: row.try_get(at + 17)?,
            })
        })()
    }};
}

/// What an account `u` with the state row `s` holds, behind its own columns, in the order in which [`decode_overview`] reads
/// it. The databases have different ways to find the greatest of several times. `$since` is the parameter that says from
/// when on growth counts. A segment that began before counts by the share of its time that came after: its operations are
/// taken to have come evenly.
macro_rules! overview_columns {
    ($since:literal, $greatest:literal) => {
        $crate::store::row::overview_columns!($since, $greatest, "", "")
    };
    ($since:literal, $greatest:literal, $known:literal, $or:literal) => {
        concat!(
            ", COALESCE(s.storage_used_bytes, 0), COALESCE(s.last_seq - s.pruned_seq, 0), ",
            "(SELECT count(*) FROM sync_devices d WHERE d.user_id = u.id), ",
            "(SELECT count(*) FROM sessions x WHERE x.user_id = u.id), NULLIF(",
            $greatest,
            "(",
            $known,
            "((SELECT max(d.last_seen_at) FROM sync_devices d WHERE d.user_id = u.id)",
            $or,
            "), ",
            $known,
            "((SELECT max(x.last_seen_at) FROM sessions x WHERE x.user_id = u.id)",
            $or,
            "), ",
            $known,
            "(u.older_tokens_seen_at",
            $or,
            ")), 0), CAST(COALESCE((SELECT sum(o.storage_bytes) FROM operations o \
             WHERE o.user_id = u.id AND o.server_seq > s.pruned_seq AND o.received_at > ",
            $since,
            "), 0) + COALESCE((SELECT sum(CASE WHEN g.since >= ",
            $since,
            " THEN g.bytes ELSE g.bytes * (g.till - ",
            $since,
            ") / (g.till - g.since) END) FROM (SELECT storage_bytes AS bytes, max_received_at AS till, \
             lag(max_received_at, 1, u.created_at) OVER (ORDER BY last_seq) AS since FROM segments \
             WHERE user_id = u.id AND last_seq > s.pruned_seq) g WHERE g.till > ",
            $since,
            "), 0) AS BIGINT) "
        )
    };
}

/// Reads an account with what it holds.
macro_rules! decode_overview {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::AccountOverview> {
            Ok($crate::store::AccountOverview {
                user: $crate::store::row::decode_user!(row)?,
                storage_used_bytes: row.try_get(11)?,
                operations: row.try_get(12)?,
                devices: row.try_get(13)?,
                sessions: row.try_get(14)?,
                last_seen_at: row.try_get(15)?,
                grown_bytes: row.try_get(16)?,
            })
        })()
    }};
}

/// Reads an account's row.
macro_rules! decode_user {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::UserRow> {
            Ok($crate::store::UserRow {
                id: row.try_get(0)?,
                email: row.try_get(1)?,
                password_hash: row.try_get(2)?,
                is_verified: row.try_get(3)?,
                token_version: row.try_get(4)?,
                failed_login_attempts: row.try_get(5)?,
                locked_until: row.try_get(6)?,
                created_at: row.try_get(7)?,
                storage_quota_bytes: row.try_get(8)?,
                is_admin: row.try_get(9)?,
                locked_at: row.try_get(10)?,
            })
        })()
    }};
}

/// Reads a head: entity key, sequence, client, clock, time delta.
macro_rules! decode_head {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<($crate::store::EntityKey, $crate::store::EntityHead)> {
            Ok((
                $crate::store::row::entity_key(row.try_get(0)?)?,
                $crate::store::EntityHead {
                    seq: row.try_get(1)?,
                    client_id: row.try_get::<&str, _>(2)?.into(),
                    clock: $crate::store::row::clock(row.try_get(3)?)?,
                    is_time_delta: row.try_get(4)?,
                },
            ))
        })()
    }};
}

/// Reads a full state: sequence, id, type, client, client's time, repair base, encrypted, import reason.
macro_rules! decode_full_state {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::FullStateRow> {
            Ok($crate::store::FullStateRow {
                seq: row.try_get(0)?,
                id: row.try_get(1)?,
                op_type: $crate::store::row::op_type(row.try_get(2)?)?,
                client_id: row.try_get(3)?,
                timestamp: row.try_get(4)?,
                repair_base_server_seq: row.try_get(5)?,
                is_payload_encrypted: row.try_get(6)?,
                import_reason: $crate::store::row::import_reason(row.try_get(7)?)?,
            })
        })()
    }};
}

/// Reads an archived range whose columns begin at `$at`: generation, first, last, reason, bytes, time.
macro_rules! decode_archive {
    ($row:expr, $at:expr) => {{
        let row = $row;
        let at: usize = $at;
        (|| -> $crate::store::Result<$crate::store::ArchivedRange> {
            Ok($crate::store::ArchivedRange {
                generation: row.try_get(at)?,
                from_seq: row.try_get(at + 1)?,
                to_seq: row.try_get(at + 2)?,
                reason: $crate::store::row::archive_reason(row.try_get(at + 3)?)?,
                bytes: row.try_get(at + 4)?,
                archived_at: row.try_get(at + 5)?,
            })
        })()
    }};
}

/// Reads an account to seal: number, generation, where to begin, last sequence, where pages begin; of the last segment the first
/// sequence, how many operations, what they are charged, and what they take.
macro_rules! decode_sealable {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::Sealable> {
            Ok($crate::store::Sealable {
                user: row.try_get(0)?,
                generation: row.try_get(1)?,
                after: row.try_get(2)?,
                last_seq: row.try_get(3)?,
                pages_after: row.try_get(4)?,
                last_segment: match row.try_get::<Option<i64>, _>(5)? {
                    None => None,
                    Some(first_seq) => Some($crate::store::LastSegment {
                        first_seq,
                        op_count: $crate::store::row::op_count(row.try_get(6)?)?,
                        storage_bytes: row.try_get(7)?,
                        packed_bytes: row.try_get(8)?,
                    }),
                },
                sparse_up_to: row.try_get(9)?,
            })
        })()
    }};
}

/// Reads a one-time token: hash, purpose, account, pending password hash, created, expires.
macro_rules! decode_token {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::OneTimeToken> {
            Ok($crate::store::OneTimeToken {
                hash: $crate::store::row::token_hash(row.try_get(0)?)?,
                purpose: $crate::store::row::token_purpose(row.try_get(1)?)?,
                user: row.try_get(2)?,
                pending_password_hash: row.try_get(3)?,
                created_at: row.try_get(4)?,
                expires_at: row.try_get(5)?,
            })
        })()
    }};
}

/// The columns of a session, in the order in which [`decode_session`] reads them.
macro_rules! session_columns {
    () => {
        "id, user_id, name, user_agent, method, created_at, last_seen_at, last_address, expires_at, authenticated_at, \
         authenticated_how, user_verified"
    };
}

/// Reads a session's row.
macro_rules! decode_session {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::SessionRow> {
            Ok($crate::store::SessionRow {
                id: $crate::store::SessionId::stored(row.try_get(0)?)?,
                user: row.try_get(1)?,
                name: row.try_get(2)?,
                user_agent: row.try_get(3)?,
                method: $crate::store::SessionMethod::stored(row.try_get(4)?)?,
                created_at: row.try_get(5)?,
                last_seen_at: row.try_get(6)?,
                last_address: row.try_get(7)?,
                expires_at: row.try_get(8)?,
                authentication: $crate::store::row::decode_authentication!(row, 9)?,
            })
        })()
    }};
}

/// Reads how somebody proved who they are, whose columns begin at `$at`: when, how, whether the user was verified.
macro_rules! decode_authentication {
    ($row:expr, $at:expr) => {{
        let row = $row;
        let at: usize = $at;
        (|| -> $crate::store::Result<Option<$crate::store::Authentication>> {
            let (Some(at_ms), Some(how)) = (row.try_get(at)?, row.try_get::<Option<&str>, _>(at + 1)?) else {
                return Ok(None);
            };
            Ok(Some($crate::store::Authentication {
                at_ms,
                how: $crate::store::SessionMethod::stored(how)?,
                user_verified: row.try_get(at + 2)?,
            }))
        })()
    }};
}

/// Reads what decides about a token: verified, locked, token version, older tokens' revocation and last sign of life; of the
/// session when it was opened and last seen.
macro_rules! decode_standing {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::Standing> {
            let (opened_at, last_seen_at): (Option<i64>, Option<i64>) = (row.try_get(5)?, row.try_get(6)?);
            Ok($crate::store::Standing {
                is_verified: row.try_get(0)?,
                is_locked: row.try_get(1)?,
                token_version: row.try_get(2)?,
                older_tokens_revoked_at: row.try_get(3)?,
                older_tokens_seen_at: row.try_get(4)?,
                session: opened_at.zip(last_seen_at),
            })
        })()
    }};
}

/// Reads a ticket: hash, account, session, token version, when the token was issued, expires.
macro_rules! decode_ticket {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::SocketTicket> {
            let session: Option<&[u8]> = row.try_get(2)?;
            Ok($crate::store::SocketTicket {
                hash: $crate::store::row::token_hash(row.try_get(0)?)?,
                user: row.try_get(1)?,
                credential: $crate::store::Credential {
                    session: session.map($crate::store::SessionId::stored).transpose()?,
                    token_version: row.try_get(3)?,
                    issued_at: row.try_get(4)?,
                },
                expires_at: row.try_get(5)?,
            })
        })()
    }};
}

/// Reads an event: number, account, kind, time.
macro_rules! decode_event {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::AccountEvent> {
            Ok($crate::store::AccountEvent {
                id: row.try_get(0)?,
                user: row.try_get(1)?,
                kind: $crate::store::EventKind::stored(row.try_get(2)?),
                at: row.try_get(3)?,
            })
        })()
    }};
}

/// Reads an entry of a security log: when, kind, method, address, device, how many times.
macro_rules! decode_security_event {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::SecurityEvent> {
            Ok($crate::store::SecurityEvent {
                at_ms: row.try_get(0)?,
                kind: $crate::store::SecurityKind::stored(row.try_get(1)?)?,
                method: row.try_get::<Option<&str>, _>(2)?.map($crate::store::SessionMethod::stored).transpose()?,
                address: row.try_get(3)?,
                device: row.try_get(4)?,
                times: row.try_get(5)?,
            })
        })()
    }};
}

/// Reads what rebuilding a state row needs of an operation; the payload stays in the database.
macro_rules! decode_trace {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::rebuild::OpTrace> {
            Ok($crate::store::rebuild::OpTrace {
                seq: row.try_get(0)?,
                client_id: row.try_get::<&str, _>(1)?.into(),
                action_type: row.try_get::<&str, _>(2)?.into(),
                op_type: $crate::store::row::op_type(row.try_get(3)?)?,
                entity_type: $crate::store::row::op_entity_type(row.try_get(4)?)?,
                entity_id: row.try_get::<Option<&str>, _>(5)?.map(Into::into),
                entity_ids: $crate::store::row::entity_ids(row.try_get(6)?)?,
                storage_bytes: row.try_get(7)?,
                clock: $crate::store::row::clock(row.try_get(8)?)?,
                schema_version: $crate::store::row::schema_version(row.try_get(9)?)?,
                repair_base_server_seq: row.try_get(10)?,
            })
        })()
    }};
}

/// The columns that [`decode_trace`] reads.
macro_rules! trace_columns {
    () => {
        "server_seq, client_id, action_type, op_type, entity_type, entity_id, entity_ids, storage_bytes, \
         vector_clock, schema_version, repair_base_server_seq"
    };
}

pub(super) use {
    decode_archive, decode_authentication, decode_event, decode_full_state, decode_head, decode_op, decode_overview,
    decode_sealable, decode_security_event, decode_session, decode_standing, decode_state, decode_ticket, decode_token,
    decode_trace, decode_user, op_columns, overview_columns, session_columns, state_columns, trace_columns,
    user_columns,
};

/// Says what stands where it can't, without the value: it may be a user's.
fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("unreadable {what}"))
}

pub(super) fn op_type(text: &str) -> Result<OpType> {
    OpType::parse(text).ok_or_else(|| corrupt("operation type"))
}

pub(super) fn op_entity_type(text: &str) -> Result<&'static str> {
    entity_type(text).ok_or_else(|| corrupt("entity type"))
}

pub(super) fn entity_key(bytes: &[u8]) -> Result<EntityKey> {
    EntityKey::from_bytes(bytes).ok_or_else(|| corrupt("entity key"))
}

pub(super) fn entity_ids(text: Option<&str>) -> Result<Vec<Arc<str>>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let ids: Vec<String> = serde_json::from_str(text).map_err(|_| corrupt("entity ids"))?;
    Ok(ids.into_iter().map(Into::into).collect())
}

/// A list of entity ids as stored: nothing when empty, as it is for nearly every operation.
pub(super) fn entity_ids_text(ids: &[impl AsRef<str>]) -> Option<String> {
    if ids.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(2 + ids.len() * 24);
    for id in ids {
        text.push(if text.is_empty() { '[' } else { ',' });
        crate::protocol::json::write_str(&mut text, id.as_ref());
    }
    text.push(']');
    Some(text)
}

pub(super) fn clock(text: &str) -> Result<VectorClock> {
    VectorClock::from_json(text).map_err(|_| corrupt("vector clock"))
}

pub(super) fn schema_version(number: i16) -> Result<u8> {
    u8::try_from(number).map_err(|_| corrupt("schema version"))
}

pub(super) fn op_count(number: i64) -> Result<usize> {
    usize::try_from(number).map_err(|_| corrupt("number of operations"))
}

pub(super) fn import_reason(text: Option<&str>) -> Result<Option<ImportReason>> {
    text.map(|text| ImportReason::parse(text).ok_or_else(|| corrupt("import reason"))).transpose()
}

pub(super) fn archive_reason(text: &str) -> Result<ArchiveReason> {
    ArchiveReason::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| corrupt("archive reason"))
}

pub(super) fn token_purpose(text: &str) -> Result<TokenPurpose> {
    [
        TokenPurpose::VerifyEmail,
        TokenPurpose::MagicLogin,
        TokenPurpose::ResetPassword,
        TokenPurpose::RecoverPasskey,
        TokenPurpose::ChangeAddress,
        TokenPurpose::UndoAddress,
    ]
    .into_iter()
    .find(|purpose| purpose.as_str() == text)
    .ok_or_else(|| corrupt("token purpose"))
}

pub(super) fn token_hash(bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| corrupt("token hash"))
}

/// A count or size as the database's integer. Values beyond it mean "no bound".
pub(super) fn bound(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
