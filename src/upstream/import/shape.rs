//! What a source has of the old server's tables, in every version met in the field (operations contract, section 8.5).

use super::ImportError;
use crate::upstream::schema::{COLUMNS, Column, Found, OURS, TABLES, column};

/// Tables that every version has.
const ESSENTIAL: [&str; 4] = ["users", "operations", "user_sync_state", "sync_devices"];

/// What a source has and what it lacks.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    found: Vec<Found>,
    /// What it lacks of what is read: tables, and columns as `table.column`.
    pub missing: Vec<String>,
}

impl Shape {
    /// Judges what was found.
    ///
    /// # Errors
    /// [`ImportError::NotUpstream`] when something essential is missing, [`ImportError::OtherType`].
    pub fn of(found: Vec<Found>) -> Result<Self, ImportError> {
        let shape = Self { found, missing: Vec::new() };
        let mut missing = Vec::new();
        if shape.has(OURS.0, OURS.1) {
            return Err(ImportError::NotUpstream(
                "it is one of this server's own; `supersync backup` reads it".to_owned(),
            ));
        }
        for table in TABLES.into_iter().filter(|table| !shape.has_table(table)) {
            if ESSENTIAL.contains(&table) {
                return Err(ImportError::NotUpstream(format!("it has no table {table}")));
            }
            missing.push(table.to_owned());
        }
        for Column { table, name, kind, default, .. } in read().filter(|column| shape.has_table(column.table)) {
            let place = format!("{table}.{name}");
            match (shape.find(table, name), default) {
                (Some(found), _) if found.kind == *kind => {}
                (Some(found), _) => {
                    return Err(ImportError::OtherType { column: place, found: found.kind.clone(), expected: kind });
                }
                (None, Some(_)) => missing.push(place),
                (None, None) => return Err(ImportError::NotUpstream(format!("it has no column {place}"))),
            }
        }
        Ok(Self { missing, ..shape })
    }

    /// That of the newest schema.
    #[must_use]
    pub fn newest() -> Self {
        let found = |column: &Column| Found {
            table: column.table.to_owned(),
            name: column.name.to_owned(),
            kind: column.kind.to_owned(),
            not_null: false,
            has_default: false,
        };
        Self { found: COLUMNS.iter().map(found).collect(), missing: Vec::new() }
    }

    /// Whether these are all columns of a table that every release has which has the table.
    #[must_use]
    pub fn has_all(table: &str, columns: &[String]) -> bool {
        read()
            .filter(|known| known.table == table && known.default.is_none())
            .all(|known| columns.iter().any(|name| name == known.name))
    }

    fn find(&self, table: &str, name: &str) -> Option<&Found> {
        self.found.iter().find(|found| found.table == table && found.name == name)
    }

    /// Whether it has a column.
    #[must_use]
    pub fn has(&self, table: &str, name: &str) -> bool {
        self.find(table, name).is_some()
    }

    /// Whether it has a table.
    #[must_use]
    pub fn has_table(&self, table: &str) -> bool {
        self.found.iter().any(|found| found.table == table)
    }

    /// SQL for a column's value: the column of the table's alias, or what stands in for it. Nothing but constants.
    #[must_use]
    pub fn sql(&self, alias: &str, table: &str, name: &str) -> String {
        match column(table, name).and_then(|known| known.default).filter(|_| !self.has(table, name)) {
            Some(default) => default.to_owned(),
            None => format!("{alias}.{name}"),
        }
    }
}

/// The columns that are read.
fn read() -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().filter(|column| column.is_read)
}
