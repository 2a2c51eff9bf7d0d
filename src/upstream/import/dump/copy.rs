//! A dump in SQL as `pg_dump` writes it: the tables' data as `COPY … FROM stdin` blocks, one row a line.
//!
//! Owns the lines and what separates tables from everything else. What is between the blocks is SQL, of which only
//! single lines are looked at, as `pg_dump` writes each of those on one line: a text over several lines that holds
//! such a line would be taken for it. Nothing is held but a line, and no line may be longer than [`MAX_LINE`].

use std::io::{BufRead, Read as _};

use crate::upstream::import::error::ImportError;

/// The longest line, in bytes. A cached state has at most 50 MiB, in hexadecimal twice that; a payload at most 20 MiB, of
/// which escaping can make seven times as much.
pub const MAX_LINE: usize = 256 << 20;
/// Columns of one table (PostgreSQL's own limit).
const MAX_COLUMNS: usize = 1600;
/// The last comment of every dump.
const LAST_COMMENT: &[u8] = b"-- PostgreSQL database dump complete";

/// Where a table's data begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The table, without its schema.
    pub table: String,
    /// The columns of its rows.
    pub columns: Vec<String>,
    /// The line of the statement.
    pub line: u64,
}

/// Reads a dump from its beginning to its end.
#[derive(Debug)]
pub struct Copies<R> {
    from: R,
    limit: usize,
    buffer: Vec<u8>,
    line: u64,
    /// Whether the line had an end.
    is_whole: bool,
    /// The table whose rows come next.
    within: Option<String>,
    is_complete: bool,
    /// What the sequence of the accounts' numbers has given out last.
    last_number: Option<i64>,
}

impl<R: BufRead> Copies<R> {
    /// Of what is not compressed any more.
    pub fn new(from: R) -> Self {
        Self {
            from,
            limit: MAX_LINE,
            buffer: Vec::new(),
            line: 0,
            is_whole: false,
            within: None,
            is_complete: false,
            last_number: None,
        }
    }

    /// Goes on to the next table; rows that have not been asked for are passed over. `None`: that was the last one.
    ///
    /// # Errors
    /// When it is not what `pg_dump` writes.
    pub fn next_table(&mut self) -> Result<Option<Header>, ImportError> {
        while self.within.is_some() {
            self.next_row()?;
        }
        while self.advance()? {
            let line = self.line;
            let text = self.buffer.as_slice();
            if text.starts_with(b"COPY ") {
                if let Some(header) = header(text, line)? {
                    self.within = Some(header.table.clone());
                    return Ok(Some(header));
                }
            } else if text.starts_with(b"INSERT INTO ") {
                return Err(ImportError::Refused(format!(
                    "line {line}: the dump was made with --inserts or --column-inserts; make it without: \
                     pg_dump -f dump.sql <database>"
                )));
            } else if text.starts_with(b"SET client_encoding") {
                if text != b"SET client_encoding = 'UTF8';" {
                    return Err(other_encoding(line));
                }
            } else if text.starts_with(LAST_COMMENT) {
                self.is_complete = true;
            } else if text.starts_with(b"SELECT pg_catalog.setval(") {
                self.last_number = setval(text).or(self.last_number);
            }
        }
        if self.is_complete {
            return Ok(None);
        }
        Err(ImportError::Refused("the dump lacks pg_dump's last line: it is not complete, or none".to_owned()))
    }

    /// The next row of the table, as it is written, and its line. `None`: that was the last one.
    ///
    /// # Errors
    /// When it is not what `pg_dump` writes.
    pub fn next_row(&mut self) -> Result<Option<(&[u8], u64)>, ImportError> {
        let Some(table) = self.within.take() else { return Ok(None) };
        // A row that has no end may have lost more than that.
        if !self.advance()? || !self.is_whole {
            return Err(ImportError::Refused(format!("the dump ends within the table {table}: it is not complete")));
        }
        if self.buffer == b"\\." {
            return Ok(None);
        }
        self.within = Some(table);
        Ok(Some((&self.buffer, self.line)))
    }

    /// The last number that `users_id_seq` has given out, as far as the dump says it; complete after the last table.
    pub const fn last_number(&self) -> Option<i64> {
        self.last_number
    }

    /// Takes a line without its end. `false`: there is none.
    fn advance(&mut self) -> Result<bool, ImportError> {
        self.buffer.clear();
        self.line += 1;
        let most = self.limit + 2;
        let read = (&mut self.from)
            .take(u64::try_from(most).unwrap_or(u64::MAX))
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| ImportError::unreadable(&error))?;
        self.is_whole = self.buffer.last() == Some(&b'\n');
        if self.is_whole {
            self.buffer.pop();
            // Within a row this is written `\r`; so it comes from a program that has changed the ends of the lines.
            if self.buffer.last() == Some(&b'\r') {
                self.buffer.pop();
            }
        }
        if self.buffer.len() > self.limit {
            return Err(ImportError::Refused(format!("line {}: longer than {} bytes", self.line, self.limit)));
        }
        Ok(read > 0)
    }
}

/// `COPY schema.table (column, …) FROM stdin;`
fn header(text: &[u8], line: u64) -> Result<Option<Header>, ImportError> {
    let Some(text) = text.strip_suffix(b" FROM stdin;") else { return Ok(None) };
    let wrong = || ImportError::Refused(format!("line {line}: a COPY statement that pg_dump does not write"));
    let text = text.strip_prefix(b"COPY ").ok_or_else(wrong)?;
    let mut rest = std::str::from_utf8(text).map_err(|_| other_encoding(line))?;
    let mut table = name(&mut rest).ok_or_else(wrong)?;
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        table = name(&mut rest).ok_or_else(wrong)?;
    }
    rest = rest.trim_start().strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(wrong)?;
    let mut columns: Vec<String> = Vec::new();
    while !rest.is_empty() {
        if !columns.is_empty() {
            rest = rest.strip_prefix(", ").ok_or_else(wrong)?;
        }
        let column = name(&mut rest).ok_or_else(wrong)?;
        if columns.len() == MAX_COLUMNS || columns.contains(&column) {
            return Err(wrong());
        }
        columns.push(column);
    }
    Ok(Some(Header { table, columns, line }))
}

/// Takes a name off: as it is, or in quotation marks.
fn name(rest: &mut &str) -> Option<String> {
    if let Some(mut quoted) = rest.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (part, after) = quoted.split_once('"')?;
            name.push_str(part);
            if let Some(more) = after.strip_prefix('"') {
                name.push('"');
                quoted = more;
            } else {
                *rest = after;
                return (!name.is_empty()).then_some(name);
            }
        }
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    *rest = after;
    (!name.is_empty()).then(|| name.to_owned())
}

/// `SELECT pg_catalog.setval('schema.users_id_seq', 41, true);`
fn setval(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix("SELECT pg_catalog.setval('")?;
    let (sequence, rest) = text.split_once("', ")?;
    if sequence.rsplit('.').next()?.trim_matches('"') != "users_id_seq" {
        return None;
    }
    let (number, is_given) = rest.strip_suffix(");")?.split_once(", ")?;
    (is_given == "true").then(|| number.parse().ok()).flatten()
}

fn other_encoding(line: u64) -> ImportError {
    let make = "make it so: pg_dump -E UTF8 -f dump.sql <database>";
    ImportError::Refused(format!("line {line}: the dump is not in UTF-8; {make}"))
}

/// Says what a file is by its beginning.
pub fn refuse_archives(beginning: &[u8]) -> Result<(), String> {
    if beginning.starts_with(b"PGDMP") {
        return Err(archive('c', "old.dump"));
    }
    // Where the header of a tar file says what it is.
    if beginning.get(257..262) == Some(b"ustar") {
        return Err(archive('t', "old.tar"));
    }
    Ok(())
}

/// It is `pg_dump`'s, but no SQL.
pub fn archive(format: char, name: &str) -> String {
    format!(
        "the dump is an archive (pg_dump -F{format}), not SQL. Make SQL of it: pg_restore -f dump.sql {name}, and import that"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "--\n-- PostgreSQL database dump complete\n--\n";

    fn all(text: &str) -> Result<Vec<(Header, Vec<String>)>, ImportError> {
        let mut copies = Copies { limit: 100, ..Copies::new(text.as_bytes()) };
        let mut tables = Vec::new();
        while let Some(header) = copies.next_table()? {
            let mut rows = Vec::new();
            while let Some((row, _)) = copies.next_row()? {
                rows.push(String::from_utf8_lossy(row).into_owned());
            }
            tables.push((header, rows));
        }
        Ok(tables)
    }

    #[test]
    fn what_is_no_complete_dump_is_refused() {
        for (text, why) in [
            ("", "lacks pg_dump's last line"),
            ("CREATE TABLE users ();\n", "lacks pg_dump's last line"),
            ("COPY public.users (id) FROM stdin;\n1\n", "ends within the table users"),
            ("COPY public.users (id) FROM stdin;\n1\n\\.", "ends within the table users"),
            ("COPY public.users (id) FROM stdin;\n1\n\\.\n", "lacks pg_dump's last line"),
            ("\nINSERT INTO public.users VALUES (1);\n", "line 2: the dump was made with --inserts"),
            ("SET client_encoding = 'LATIN1';\n", "line 1: the dump is not in UTF-8"),
            ("COPY public. (id) FROM stdin;\n", "line 1: a COPY statement"),
            ("COPY a.b (id, id) FROM stdin;\n", "line 1: a COPY statement"),
            ("COPY a.b (id, ) FROM stdin;\n", "line 1: a COPY statement"),
            ("COPY a.b (id name) FROM stdin;\n", "line 1: a COPY statement"),
            ("COPY a.b (\"id) FROM stdin;\n", "line 1: a COPY statement"),
            ("COPY a.b FROM stdin;\n", "line 1: a COPY statement"),
            ("COPY FROM stdin;\n", "line 1: a COPY statement"),
        ] {
            let error = all(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_line_has_a_limit_wherever_it_is() {
        let long = "x".repeat(101);
        for text in [long.clone(), format!("COPY t (a) FROM stdin;\n{long}\n\\.\n{END}")] {
            assert!(all(&text).unwrap_err().to_string().ends_with(": longer than 100 bytes"));
        }
        let just = format!("COPY t (a) FROM stdin;\n{}\n\\.\n{END}", "x".repeat(100));
        assert_eq!(all(&just).unwrap()[0].1[0].len(), 100);
    }

    #[test]
    fn tables_and_rows_come_as_they_are() {
        let text = format!(
            "SET client_encoding = 'UTF8';\nCOPY public.a (id, \"or\"\"der\", t) FROM stdin;\n1\t\\N\tx\n\n\\.\n\n\
             COPY \"Old Data\".\"B\" () FROM stdin;\n\\.\nCOPY b TO stdout;\n{END}\\unrestrict x\n"
        );
        let tables = all(&text).unwrap();
        let header = |table: &str, columns: &[&str], line| Header {
            table: table.to_owned(),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            line,
        };
        assert_eq!(tables[0], (header("a", &["id", "or\"der", "t"], 2), vec!["1\t\\N\tx".to_owned(), String::new()]));
        assert_eq!(tables[1], (header("B", &[], 7), vec![]));
        assert_eq!(tables.len(), 2);
        assert_eq!(all(&text.replace('\n', "\r\n")).unwrap(), tables);
    }

    #[test]
    fn rows_that_nobody_wants_are_passed_over_and_the_last_number_is_that_of_the_accounts() {
        for (line, number) in [
            ("SELECT pg_catalog.setval('public.users_id_seq', 41, true);", Some(41)),
            ("SELECT pg_catalog.setval('\"Old\".users_id_seq', 2147483001, true);", Some(2_147_483_001)),
            ("SELECT pg_catalog.setval('public.users_id_seq', 1, false);", None),
            ("SELECT pg_catalog.setval('public.other_seq', 41, true);", None),
            ("SELECT pg_catalog.setval('public.users_id_seq', many, true);", None),
        ] {
            let text = format!(
                "COPY a (x) FROM stdin;\nCOPY c (x) FROM stdin;\n\\.\nCOPY b (x) FROM stdin;\n1\n\\.\n{line}\n{END}"
            );
            let mut copies = Copies::new(text.as_bytes());
            assert_eq!(copies.next_table().unwrap().unwrap().table, "a");
            assert_eq!(copies.next_table().unwrap().unwrap().table, "b");
            assert_eq!(copies.next_table().unwrap(), None);
            assert!(copies.next_row().unwrap().is_none());
            assert_eq!(copies.last_number(), number, "{line}");
        }
    }
}
