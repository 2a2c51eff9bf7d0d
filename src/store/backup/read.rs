//! Rows of a backup as the program's types.

use bytes::Bytes;

use super::{Column, Row, Value};
use crate::protocol::StoredOp;
use crate::store::segment::Unpacked;
use crate::store::{Result, StoreError, row};

/// The values of a row by their names. A value of another kind than its column's is [`StoreError::Corrupt`].
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    columns: &'a [&'static Column],
    row: &'a Row,
}

impl<'a> Fields<'a> {
    /// A row that has these columns.
    #[must_use]
    pub const fn of(columns: &'a [&'static Column], row: &'a Row) -> Self {
        Self { columns, row }
    }

    /// A column that an older backup lacks holds nothing.
    fn value(&self, name: &str) -> &'a Value {
        let at = self.columns.iter().position(|column| column.name == name);
        at.and_then(|at| self.row.get(at)).unwrap_or(&Value::Null)
    }

    /// A number that may be missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn int_or_null(&self, name: &str) -> Result<Option<i64>> {
        match self.value(name) {
            Value::Null => Ok(None),
            Value::Int(number) => Ok(Some(*number)),
            _ => Err(corrupt(name)),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// When it is something else.
    pub fn int(&self, name: &str) -> Result<i64> {
        self.int_or_null(name)?.ok_or_else(|| corrupt(name))
    }

    /// A text that may be missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text_or_null(&self, name: &str) -> Result<Option<&'a str>> {
        match self.value(name) {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            _ => Err(corrupt(name)),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, name: &str) -> Result<&'a str> {
        self.text_or_null(name)?.ok_or_else(|| corrupt(name))
    }

    /// Yes or no.
    ///
    /// # Errors
    /// When it is something else.
    pub fn bool(&self, name: &str) -> Result<bool> {
        if let Value::Bool(yes) = self.value(name) { Ok(*yes) } else { Err(corrupt(name)) }
    }

    /// Bytes.
    ///
    /// # Errors
    /// When it is something else.
    pub fn bytes(&self, name: &str) -> Result<&'a [u8]> {
        if let Value::Bytes(bytes) = self.value(name) { Ok(bytes) } else { Err(corrupt(name)) }
    }
}

fn corrupt(name: &str) -> StoreError {
    StoreError::Corrupt(format!("unreadable {name}"))
}

/// A row of `operations`.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is none.
pub fn operation(fields: Fields<'_>) -> Result<StoredOp> {
    let schema_version = i16::try_from(fields.int("schema_version")?).map_err(|_| corrupt("schema_version"))?;
    Ok(StoredOp {
        server_seq: fields.int("server_seq")?,
        id: fields.text("op_id")?.into(),
        client_id: fields.text("client_id")?.into(),
        action_type: fields.text("action_type")?.into(),
        op_type: row::op_type(fields.text("op_type")?)?,
        entity_type: row::op_entity_type(fields.text("entity_type")?)?,
        entity_id: fields.text_or_null("entity_id")?.map(Into::into),
        entity_ids: row::entity_ids(fields.text_or_null("entity_ids")?)?,
        payload: Bytes::copy_from_slice(fields.bytes("payload")?),
        storage_bytes: fields.int("storage_bytes")?,
        vector_clock: row::clock(fields.text("vector_clock")?)?,
        timestamp: fields.int("client_timestamp")?,
        schema_version: row::schema_version(schema_version)?,
        is_payload_encrypted: fields.bool("is_payload_encrypted")?,
        import_reason: row::import_reason(fields.text_or_null("sync_import_reason")?)?,
        repair_base_server_seq: fields.int_or_null("repair_base_server_seq")?,
        received_at: fields.int("received_at")?,
    })
}

/// The operations of a row of `segments`, in their order.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is none, or damaged.
pub fn operations_of_segment(fields: Fields<'_>) -> Result<Vec<StoredOp>> {
    Unpacked::open(fields.bytes("data")?, fields.int("first_seq")?, fields.int("last_seq")?)?.ops().collect()
}
