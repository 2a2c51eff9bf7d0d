//! Operations as the old server stores them: into its table, and what two copies are compared by.

use std::borrow::Cow;

use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use super::error::{Stop, refused, small, unstorable, unverified};
use super::jsonb::storable;
use crate::protocol::json::digest::json_digest;
use crate::protocol::{ImportReason, Seq, StoredOp};
use crate::upstream::copy_text::{list, put_escaped};
use crate::upstream::import::operations_at_head;

/// In the order of [`fields`].
const COPY: &str = "COPY operations (id, user_id, client_id, server_seq, action_type, op_type, entity_type, entity_id, \
    entity_ids, payload, payload_bytes, vector_clock, schema_version, client_timestamp, received_at, \
    is_payload_encrypted, sync_import_reason, repair_base_server_seq) FROM STDIN";

const NO_TEXT: &str = "its payload is no text";

/// Says what the columns can't hold of an operation, and whether another value can take its place.
pub(super) fn fault(op: &StoredOp) -> Result<Option<(&'static str, bool)>, String> {
    small("last sequence", op.server_seq)?;
    if let Some(base) = op.repair_base_server_seq {
        small("base of a repair", base)?;
    }
    let texts = [&op.id, &op.client_id, &op.action_type];
    let mut texts = texts.into_iter().chain(&op.entity_id).chain(&op.entity_ids);
    if texts.any(|text| text.contains('\0')) || storable(op.vector_clock.as_json()).1.is_some() {
        return Ok(Some(("an id or a name of it holds a character with the code 0", false)));
    }
    let Ok(payload) = std::str::from_utf8(&op.payload) else { return Ok(Some((NO_TEXT, false))) };
    Ok(storable(payload).1.map(|what| (what, true)))
}

/// Writes operations of one account.
pub(super) async fn copy(connection: &mut PgConnection, user: i32, ops: &[&StoredOp]) -> Result<(), Stop> {
    let (Some(first), Some(last)) = (ops.first(), ops.last()) else { return Ok(()) };
    let mut lines = Vec::new();
    for op in ops {
        for (at, field) in fields(user, op)?.iter().enumerate() {
            lines.extend_from_slice(if at == 0 { b"" } else { b"\t" });
            match field {
                Some(text) => put_escaped(&mut lines, text),
                None => lines.extend_from_slice(b"\\N"),
            }
        }
        lines.push(b'\n');
    }
    let written = async {
        let mut copy = connection.copy_in_raw(COPY).await?;
        copy.send(lines).await?;
        copy.finish().await
    };
    written.await.map_err(|error| refused(error, first.server_seq, last.server_seq))?;
    Ok(())
}

fn fields(user: i32, op: &StoredOp) -> Result<[Option<Cow<'_, str>>; 18], String> {
    let payload = std::str::from_utf8(&op.payload).map_err(|_| unstorable(op.server_seq, NO_TEXT))?;
    let text = |text| Some(Cow::Borrowed(text));
    let number = |number: i64| Some(Cow::Owned(number.to_string()));
    Ok([
        text(&*op.id),
        number(user.into()),
        text(&op.client_id),
        number(op.server_seq),
        text(&op.action_type),
        text(op.op_type.as_str()),
        text(op.entity_type),
        op.entity_id.as_deref().map(Cow::Borrowed),
        Some(list(&op.entity_ids).into()),
        Some(storable(payload).0),
        // Nothing measured is 0 there, and an operation of 0 bytes can't be.
        number(op.storage_bytes.max(1)),
        text(op.vector_clock.as_json()),
        number(op.schema_version.into()),
        number(op.timestamp),
        number(op.received_at),
        text(if op.is_payload_encrypted { "t" } else { "f" }),
        op.import_reason.map(|reason| reason.as_str().into()),
        op.repair_base_server_seq.and_then(number),
    ])
}

/// How many operations an account has, where they end, and a hash of what they mean.
#[derive(Clone, Default)]
pub(super) struct Fingerprint {
    count: u64,
    first: Seq,
    last: Seq,
    hash: Sha256,
}

impl Fingerprint {
    /// Adds an operation.
    pub(super) fn add(&mut self, op: &StoredOp) -> Result<(), String> {
        let payload = std::str::from_utf8(&op.payload).ok().and_then(|payload| json_digest(&storable(payload).0));
        let clock = json_digest(op.vector_clock.as_json());
        let (Some(payload), Some(clock)) = (payload, clock) else {
            return Err(unstorable(op.server_seq, "its payload or its clock is no JSON, or nested too deep"));
        };
        if self.count == 0 {
            self.first = op.server_seq;
        }
        self.last = op.server_seq;
        self.count += 1;
        let names = (&op.id, &op.client_id, &op.action_type, op.op_type, op.entity_type, &op.entity_id, &op.entity_ids);
        let numbers = (op.server_seq, op.schema_version, op.timestamp, op.received_at, op.repair_base_server_seq);
        let marks = (op.is_payload_encrypted, op.import_reason.map(ImportReason::as_str));
        self.hash.update(format!("{names:?}{numbers:?}{marks:?}"));
        self.hash.update(payload);
        self.hash.update(clock);
        Ok(())
    }

    /// Reads back what the target holds of an account, and compares.
    pub(super) async fn verify(self, connection: &mut PgConnection, user: i32) -> Result<(), Stop> {
        let (mut theirs, mut unreadable) = (Self::default(), None);
        let mut ops = operations_at_head(connection, &format!("user_id = {user}")).await?;
        while let Some(op) = ops.try_next().await? {
            let added = op.and_then(|op| theirs.add(&op));
            unreadable = unreadable.or(added.err());
        }
        if let Some(what) = unreadable {
            return Err(unverified(&what).into());
        }
        if (theirs.count, theirs.first, theirs.last) != (self.count, self.first, self.last) {
            return Err(unverified(&format!(
                "{} operations, {} to {}, instead of {}, {} to {}",
                theirs.count, theirs.first, theirs.last, self.count, self.first, self.last
            ))
            .into());
        }
        if theirs.hash.finalize() != self.hash.finalize() {
            return Err(unverified("an operation differs in what it says").into());
        }
        Ok(())
    }
}
