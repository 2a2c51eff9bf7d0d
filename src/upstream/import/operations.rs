//! Operations of the old server as this one has them.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::source::Source;
use crate::protocol::op::{entity_type, normalised_entity_ids};
use crate::protocol::{ImportReason, OpType, Seq, UserId, VectorClock};
use crate::store::OpTrace;
use crate::store::backup::{Row, Value};

/// Which operation, and what this server could not do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) user: UserId,
    pub(super) what: String,
}

/// An operation.
pub(super) struct Op {
    pub(super) user: UserId,
    pub(super) id: String,
    pub(super) trace: OpTrace,
    timestamp: i64,
    received_at: i64,
    is_encrypted: bool,
    reason: Option<ImportReason>,
    /// Compact JSON; empty when it was not asked for.
    payload: Vec<u8>,
}

const ENVELOPE: [&str; 16] = [
    "user_id",
    "server_seq",
    "payload_bytes",
    "client_timestamp",
    "received_at",
    "repair_base_server_seq",
    "schema_version",
    "is_payload_encrypted",
    "id",
    "client_id",
    "action_type",
    "op_type",
    "entity_type",
    "entity_id",
    "entity_ids",
    "sync_import_reason",
];

/// Every operation in the order of accounts and sequences. `with_payloads`: otherwise only those that are measured.
pub(super) fn all(source: &mut Source, with_payloads: bool) -> BoxStream<'_, Result<Result<Op, Fault>, sqlx::Error>> {
    let columns: Vec<_> = ENVELOPE.iter().map(|name| source.column("operations", name)).collect();
    let payload = if with_payloads {
        "payload::text".to_owned()
    } else {
        // What was measured need not be read.
        format!("CASE WHEN {} = 0 THEN payload::text ELSE '' END", source.column("operations", "payload_bytes"))
    };
    // Constant names only.
    let sql = format!(
        "SELECT {}, vector_clock::text, {payload} FROM operations ORDER BY user_id, server_seq",
        columns.join(", ")
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).persistent(false).fetch(&mut source.connection);
    Box::pin(rows.and_then(|row| async move { decode(&row) }))
}

fn decode(row: &PgRow) -> Result<Result<Op, Fault>, sqlx::Error> {
    let user = UserId::from(row.try_get::<i32, _>(0)?);
    let seq = Seq::from(row.try_get::<i32, _>(1)?);
    let fault = |what: &str| Ok(Err(Fault { user, what: format!("operation {seq}: {what}") }));
    let (op_type, entity): (&str, &str) = (row.try_get(11)?, row.try_get(12)?);
    let Some(op_type) = OpType::parse(op_type) else { return fault("its type is none that the app knows") };
    let Some(entity_type) = entity_type(entity) else { return fault("its entity type is none that the app knows") };
    let Ok(clock) = VectorClock::from_json(row.try_get(16)?) else { return fault("its vector clock is none") };
    let Ok(schema_version) = u8::try_from(row.try_get::<i32, _>(6)?) else {
        return fault("its schema version is out of range");
    };
    let reason = match row.try_get::<Option<&str>, _>(15)? {
        None => None,
        Some(text) => match ImportReason::parse(text) {
            Some(reason) => Some(reason),
            None => return fault("its import reason is none that the app knows"),
        },
    };
    let entity_id: Option<String> = row.try_get(13)?;
    let entity_ids: Vec<String> = row.try_get(14)?;
    let entity_ids: Vec<Arc<str>> = entity_ids.into_iter().map(Arc::from).collect();
    let payload = compact(row.try_get(17)?);
    let measured: i64 = row.try_get(2)?;
    let stored = payload.len() + clock.as_json().len();
    let storage_bytes = if measured > 0 { measured } else { i64::try_from(stored).unwrap_or(i64::MAX) };
    Ok(Ok(Op {
        user,
        id: row.try_get(8)?,
        timestamp: row.try_get(3)?,
        received_at: row.try_get(4)?,
        is_encrypted: row.try_get(7)?,
        reason,
        payload,
        trace: OpTrace {
            seq,
            client_id: row.try_get::<String, _>(9)?.into(),
            action_type: row.try_get::<String, _>(10)?.into(),
            op_type,
            entity_type,
            entity_ids: normalised_entity_ids(entity_id.as_deref(), &entity_ids),
            entity_id: entity_id.map(Arc::from),
            storage_bytes,
            clock,
            schema_version,
            repair_base_server_seq: row.try_get::<Option<i32>, _>(5)?.map(Seq::from),
        },
    }))
}

/// PostgreSQL's text of a JSON document, without the white space that it puts between tokens. The old server sends it
/// without, too.
fn compact(json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut inside, mut escaped) = (false, false);
    for byte in json.bytes() {
        if !inside && byte == b' ' {
            continue;
        }
        out.push(byte);
        inside ^= byte == b'"' && !escaped;
        escaped = inside && byte == b'\\' && !escaped;
    }
    out
}

/// The columns of [`Op::into_row`].
#[cfg(test)]
const OPERATIONS: [&str; 19] = [
    "user_id",
    "server_seq",
    "generation",
    "storage_bytes",
    "client_timestamp",
    "received_at",
    "repair_base_server_seq",
    "schema_version",
    "is_payload_encrypted",
    "op_id",
    "client_id",
    "action_type",
    "op_type",
    "entity_type",
    "entity_id",
    "entity_ids",
    "sync_import_reason",
    "vector_clock",
    "payload",
];

impl Op {
    pub(super) fn into_row(self) -> Row {
        let trace = self.trace;
        let text = |text: &str| Value::Text(text.to_owned());
        let ids: Vec<&str> = trace.entity_ids.iter().map(|id| &**id).collect();
        let ids = if ids.is_empty() { Value::Null } else { Value::Text(serde_json::json!(ids).to_string()) };
        vec![
            Value::Int(self.user),
            Value::Int(trace.seq),
            Value::Int(0),
            Value::Int(trace.storage_bytes),
            Value::Int(self.timestamp),
            Value::Int(self.received_at),
            trace.repair_base_server_seq.map_or(Value::Null, Value::Int),
            Value::Int(trace.schema_version.into()),
            Value::Bool(self.is_encrypted),
            Value::Text(self.id),
            text(&trace.client_id),
            text(&trace.action_type),
            text(trace.op_type.as_str()),
            text(trace.entity_type),
            trace.entity_id.as_deref().map_or(Value::Null, text),
            ids,
            self.reason.map_or(Value::Null, |reason| text(reason.as_str())),
            text(trace.clock.as_json()),
            Value::Bytes(self.payload),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backup::table;

    #[test]
    fn rows_have_the_columns_of_the_table() {
        let names: Vec<_> = table("operations").expect("there").columns.iter().map(|column| column.name).collect();
        assert_eq!(names, OPERATIONS);
    }

    #[test]
    fn white_space_between_tokens_goes_and_within_texts_stays() {
        let compacted = |json| String::from_utf8(compact(json)).expect("UTF-8");
        assert_eq!(
            compacted(r#"{"a": [1, 2.50, "b c"], "d\" e": "\\", "f ": " \\\" "}"#),
            r#"{"a":[1,2.50,"b c"],"d\" e":"\\","f ":" \\\" "}"#
        );
        assert_eq!(compacted("\"U2Fs dGVk\""), "\"U2Fs dGVk\"");
        assert_eq!(compacted(""), "");
    }
}
