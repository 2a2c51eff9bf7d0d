//! The fields of a row: PostgreSQL's text format of `COPY`, and its texts of values. Pure.

use std::borrow::Cow;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::IgnoredAny;

use super::error::DumpError;

/// A row, and what its columns are called.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    columns: &'a [String],
    fields: Vec<&'a [u8]>,
    line: u64,
}

impl<'a> Row<'a> {
    /// # Errors
    /// When it has not as many fields as there are columns.
    pub fn new(columns: &'a [String], text: &'a [u8], line: u64) -> Result<Self, DumpError> {
        // So many are enough to tell that there are too many.
        let fields: Vec<_> = text.split(|byte| *byte == b'\t').take(columns.len() + 1).collect();
        // A row of a table without columns is an empty line.
        if fields.len() != columns.len().max(1) {
            let more = if fields.len() > columns.len() { "more" } else { "fewer" };
            return Err(DumpError::malformed(line, format!("{more} fields than columns, which are {}", columns.len())));
        }
        Ok(Self { columns, fields, line })
    }

    fn wrong(&self, column: &str, what: &str) -> DumpError {
        DumpError::malformed(self.line, format!("the column {column} {what}"))
    }

    /// The bytes of a field. `None`: it is NULL, or the table has no such column.
    fn bytes(&self, column: &str) -> Result<Option<Cow<'a, [u8]>>, DumpError> {
        let Some(at) = self.columns.iter().position(|name| name == column) else { return Ok(None) };
        match self.fields.get(at) {
            None | Some(&b"\\N") => Ok(None),
            Some(&raw) => unescaped(raw).map(Some).ok_or_else(|| self.wrong(column, "ends with a backslash")),
        }
    }

    fn text_cow(&self, column: &str) -> Result<Option<Cow<'a, str>>, DumpError> {
        let text = match self.bytes(column)? {
            None => return Ok(None),
            Some(Cow::Borrowed(bytes)) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Some(Cow::Owned(bytes)) => String::from_utf8(bytes).ok().map(Cow::Owned),
        };
        match text {
            Some(text) if !text.contains('\0') => Ok(Some(text)),
            _ => Err(self.wrong(column, "holds what is no text in UTF-8")),
        }
    }

    fn parsed<T>(
        &self,
        column: &str,
        what: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, DumpError> {
        let Some(text) = self.text_cow(column)? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| self.wrong(column, what))
    }

    /// A value that has to be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn required<T>(&self, column: &str, value: Option<T>) -> Result<T, DumpError> {
        value.ok_or_else(|| self.wrong(column, "is empty, which it can't be"))
    }

    /// # Errors
    /// When it is no text.
    pub fn text(&self, column: &str) -> Result<Option<String>, DumpError> {
        Ok(self.text_cow(column)?.map(Cow::into_owned))
    }

    /// A value of the type `integer`.
    ///
    /// # Errors
    /// When it is none.
    pub fn int(&self, column: &str) -> Result<Option<i64>, DumpError> {
        self.parsed(column, "holds no integer of 4 bytes", |text| text.parse::<i32>().ok().map(i64::from))
    }

    /// A value of the type `bigint`.
    ///
    /// # Errors
    /// When it is none.
    pub fn big(&self, column: &str) -> Result<Option<i64>, DumpError> {
        self.parsed(column, "holds no integer of 8 bytes", |text| text.parse().ok())
    }

    /// # Errors
    /// When it is no boolean.
    pub fn bool(&self, column: &str) -> Result<Option<bool>, DumpError> {
        self.parsed(column, "holds neither t nor f", |text| match text {
            "t" => Some(true),
            "f" => Some(false),
            _ => None,
        })
    }

    /// The text of a value of the type `jsonb`.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn json(&self, column: &str) -> Result<Option<String>, DumpError> {
        let text = self.text(column)?;
        match &text {
            Some(json) if serde_json::from_str::<IgnoredAny>(json).is_err() => Err(self.wrong(column, "holds no JSON")),
            _ => Ok(text),
        }
    }

    /// A value of the type `bytea`, in hexadecimal.
    ///
    /// # Errors
    /// When it is none.
    pub fn blob(&self, column: &str) -> Result<Option<Vec<u8>>, DumpError> {
        self.parsed(column, "holds no bytes in hexadecimal", |text| hex::decode(text.strip_prefix("\\x")?).ok())
    }

    /// Whether a column has a value.
    ///
    /// # Errors
    /// When the field is malformed.
    pub fn is_there(&self, column: &str) -> Result<bool, DumpError> {
        Ok(self.bytes(column)?.is_some())
    }

    /// A value of the type `timestamp`, in UTC, as Unix milliseconds.
    ///
    /// # Errors
    /// When it is none.
    pub fn instant(&self, column: &str) -> Result<Option<i64>, DumpError> {
        self.parsed(column, "holds no time of the form 2026-01-31 12:00:00.123", |text| {
            // What else could be read as a time is no `timestamp` as PostgreSQL writes it.
            if text.as_bytes().get(10) != Some(&b' ') || text.contains(['+', 'Z', '[']) {
                return None;
            }
            let time: DateTime = text.parse().ok()?;
            Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond())
        })
    }

    /// A value of the type `text[]` with one dimension.
    ///
    /// # Errors
    /// When it is none, or a text in it is NULL.
    pub fn texts(&self, column: &str) -> Result<Option<Vec<String>>, DumpError> {
        self.parsed(column, "holds no list of texts", elements)
    }
}

/// What a field stands for. `None`: it ends within an escape.
fn unescaped(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(first) = raw.iter().position(|byte| *byte == b'\\') else { return Some(Cow::Borrowed(raw)) };
    let mut out = Vec::with_capacity(raw.len());
    out.extend_from_slice(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, after) = rest.split_first()?;
        rest = after;
        out.push(match escape {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            b'0'..=b'7' => number(escape - b'0', &mut rest, 8, 2),
            b'x' => match rest.first().and_then(|byte| digit(*byte, 16)) {
                Some(value) => {
                    rest = &rest[1..];
                    number(value, &mut rest, 16, 1)
                }
                None => b'x',
            },
            other => other,
        });
    }
    Some(Cow::Owned(out))
}

fn digit(byte: u8, radix: u32) -> Option<u8> {
    char::from(byte).to_digit(radix).and_then(|value| u8::try_from(value).ok())
}

/// Goes on with at most `more` digits. Of what does not fit into a byte the rest is lost, as in PostgreSQL.
fn number(mut value: u8, rest: &mut &[u8], radix: u8, more: usize) -> u8 {
    for _ in 0..more {
        let Some(next) = rest.first().and_then(|byte| digit(*byte, radix.into())) else { break };
        value = value.wrapping_mul(radix).wrapping_add(next);
        *rest = &rest[1..];
    }
    value
}

/// The texts of `{a,"b c"}`.
fn elements(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('{')?;
    let mut all = Vec::new();
    if rest == "}" {
        return Some(all);
    }
    loop {
        let (element, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_element(quoted)?
        } else {
            let end = rest.find([',', '}'])?;
            let (plain, after) = rest.split_at(end);
            let is_plain =
                !plain.is_empty() && !plain.contains(['"', '\\', '{']) && !plain.eq_ignore_ascii_case("null");
            is_plain.then(|| (plain.to_owned(), after))?
        };
        all.push(element);
        if after == "}" {
            return Some(all);
        }
        rest = after.strip_prefix(',')?;
    }
}

fn quoted_element(text: &str) -> Option<(String, &str)> {
    let mut element = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((element, &text[at + 1..])),
            '\\' => element.push(chars.next()?.1),
            _ => element.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn columns(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("c{n}")).collect()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_its_value() {
        let columns = columns(2);
        for text in ["", "a", "a\tb\tc"] {
            assert!(Row::new(&columns, text.as_bytes(), 7).unwrap_err().to_string().starts_with("line 7: "), "{text}");
        }
        let row = Row::new(&columns, b"secret\t\\N", 9).unwrap();
        let errors = [
            row.int("c0").unwrap_err(),
            row.big("c0").unwrap_err(),
            row.bool("c0").unwrap_err(),
            row.json("c0").unwrap_err(),
            row.blob("c0").unwrap_err(),
            row.instant("c0").unwrap_err(),
            row.texts("c0").unwrap_err(),
            row.required("c1", row.text("c1").unwrap()).unwrap_err(),
        ];
        for error in errors {
            let error = error.to_string();
            assert!(error.starts_with("line 9: the column c") && !error.contains("secret"), "{error}");
        }
        for bad in [b"a\xff\tb".as_slice(), b"a\\377\tb", b"a\\000\tb", b"a\\\tb"] {
            assert!(Row::new(&columns, bad, 1).unwrap().text("c0").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn escapes_are_those_of_postgresql() {
        for (raw, meant) in [
            (r"\b\f\n\r\t\v\\", b"\x08\x0c\n\r\t\x0b\\".as_slice()),
            (r"\101\1018\7z\x41\x4g\x414\xg", b"A\x41\x38\x07zA\x04gA4xg"),
            (r"\\N", b"\\N"),
            (r"\.\q\N.", b".qN."),
            (r"\477", b"\x3f"),
        ] {
            assert_eq!(unescaped(raw.as_bytes()).unwrap(), meant, "{raw}");
        }
        assert_eq!(unescaped(b"a\\"), None);
    }

    #[test]
    fn null_is_not_a_text() {
        let columns = columns(4);
        let row = Row::new(&columns, b"\\N\t\\\\N\t\tNULL", 1).unwrap();
        let texts = ["c0", "c1", "c2", "c3", "c4"].map(|name| row.text(name).unwrap());
        assert_eq!(texts, [None, Some("\\N".into()), Some(String::new()), Some("NULL".into()), None]);
        assert_eq!(["c0", "c2", "c4"].map(|name| row.is_there(name).unwrap()), [false, true, false]);
    }

    #[test]
    fn values_have_the_bounds_of_their_types() {
        let columns = columns(1);
        let row = |text: &'static str| Row::new(&columns, text.as_bytes(), 1).unwrap();
        assert_eq!(row("2147483647").int("c0").unwrap(), Some(2_147_483_647));
        assert!(row("2147483648").int("c0").is_err());
        assert_eq!(row("-9223372036854775808").big("c0").unwrap(), Some(i64::MIN));
        assert_eq!(row("\\\\x00ff").blob("c0").unwrap(), Some(vec![0, 255]));
        assert!(row("\\\\xfff").blob("c0").is_err());
        assert_eq!(row("1970-01-01 00:00:01.5").instant("c0").unwrap(), Some(1500));
        assert_eq!(row("2025-12-24 18:00:00.123").instant("c0").unwrap(), Some(1_766_599_200_123));
        for text in
            ["infinity", "2026-01-01", "2026-01-01 00:00:00+00", "2026-01-01T00:00:00", "0044-03-15 00:00:00 BC"]
        {
            assert!(row(text).instant("c0").is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_read_as_postgresql_writes_them() {
        let texts = |list: &[&str]| Some(list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(elements("{}"), texts(&[]));
        assert_eq!(
            elements(r#"{a,"b c","","NULL","d\"e\\f","{g},"}"#),
            texts(&["a", "b c", "", "NULL", "d\"e\\f", "{g},"])
        );
        for text in
            ["", "{", "{a", "{a,}", "{,a}", "{NULL}", "{{a}}", "{a}b", "{\"a}", "{\"a\"b}", "[0:1]={a,b}", "{a\\}"]
        {
            assert_eq!(elements(text), None, "{text}");
        }
    }

    /// As PostgreSQL writes a text.
    fn escaped(text: &str) -> String {
        let mut out = String::new();
        for char in text.chars() {
            match char {
                '\\' => out.push_str("\\\\"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                _ => out.push(char),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn every_text_comes_back(texts in prop::collection::vec("[^\0]*", 1..5)) {
            let columns = columns(texts.len());
            let line = texts.iter().map(|text| escaped(text)).collect::<Vec<_>>().join("\t");
            prop_assert!(!line.contains('\n'));
            let row = Row::new(&columns, line.as_bytes(), 1).unwrap();
            for (column, text) in columns.iter().zip(&texts) {
                prop_assert_eq!(row.text(column).unwrap(), Some(text.clone()));
            }
        }

        #[test]
        fn every_list_comes_back(texts in prop::collection::vec("\\PC*", 0..5)) {
            let quoted: Vec<_> =
                texts.iter().map(|text| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))).collect();
            prop_assert_eq!(elements(&format!("{{{}}}", quoted.join(","))), Some(texts));
        }

        #[test]
        fn no_bytes_make_it_fail_otherwise(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let columns = columns(1);
            if let Ok(row) = Row::new(&columns, &bytes, 1) {
                let _ = (row.text("c0"), row.blob("c0"), row.instant("c0"), row.texts("c0"), row.json("c0"));
            }
        }
    }
}
