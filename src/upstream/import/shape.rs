//! What a source has of the old server's tables, in every version met in the field (operations contract, section 8.5).

use super::error::ImportError;
use crate::upstream::schema::{Found, INIT, OURS, TABLES, columns_read, find};

/// What a source lacks of what is read: tables, and columns as `table.column`.
///
/// # Errors
/// When something essential is missing, or of another type.
pub fn missing(found: &[Found]) -> Result<Vec<String>, ImportError> {
    let other = |what: String| ImportError::Refused(format!("the source is not the old server's database: {what}"));
    if find(found, OURS.0, OURS.1).is_some() {
        return Err(other("it is one of this server's own; `supersync backup` reads it".to_owned()));
    }
    let mut missing = Vec::new();
    for table in TABLES.into_iter().filter(|table| !has_table(found, table)) {
        if columns_read(table).any(|column| column.since == INIT) {
            return Err(other(format!("it has no table {table}")));
        }
        missing.push(table.to_owned());
    }
    for column in TABLES.into_iter().filter(|table| has_table(found, table)).flat_map(columns_read) {
        let place = format!("{}.{}", column.table, column.name);
        match find(found, column.table, column.name) {
            Some(there) if there.kind == column.kind => {}
            Some(there) => {
                return Err(ImportError::Refused(format!(
                    "the source's column {place} is of type {}, but {} was expected; nothing was taken over",
                    there.kind, column.kind
                )));
            }
            None if column.is_younger_than_its_table() => missing.push(place),
            None => return Err(other(format!("it has no column {place}"))),
        }
    }
    Ok(missing)
}

/// Whether these are all columns of a table that every release has which has the table.
pub fn has_all(table: &str, names: &[String]) -> bool {
    let mut essential = columns_read(table).filter(|column| !column.is_younger_than_its_table());
    essential.all(|column| names.iter().any(|name| name == column.name))
}

fn has_table(found: &[Found], table: &str) -> bool {
    found.iter().any(|found| found.table == table)
}
