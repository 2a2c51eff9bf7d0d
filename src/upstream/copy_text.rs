//! PostgreSQL's text format of `COPY`, in which its tables are read and written: the fields of a row, and the texts of
//! values. Pure.

use std::borrow::Cow;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::de::IgnoredAny;

/// What is wrong with a row, in words: with its line and its column, never with its value.
pub type Malformed = String;

/// A row, and what its columns are called. What a column holds that the table does not have is as if it were NULL.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    columns: &'a [String],
    fields: Vec<&'a [u8]>,
    line: u64,
}

impl<'a> Row<'a> {
    /// The row that `text`, a line without its end, says.
    ///
    /// # Errors
    /// When it has not as many fields as there are columns.
    pub fn new(columns: &'a [String], text: &'a [u8], line: u64) -> Result<Self, Malformed> {
        // So many are enough to tell that there are too many.
        let fields: Vec<_> = text.split(|byte| *byte == b'\t').take(columns.len() + 1).collect();
        // A row of a table without columns is an empty line.
        if fields.len() != columns.len().max(1) {
            let more = if fields.len() > columns.len() { "more" } else { "fewer" };
            return Err(format!("line {line}: {more} fields than columns, which are {}", columns.len()));
        }
        Ok(Self { columns, fields, line })
    }

    fn wrong(&self, column: &str, what: &str) -> Malformed {
        format!("line {}: the column {column} {what}", self.line)
    }

    /// The bytes of a field.
    fn bytes(&self, column: &str) -> Result<Option<Cow<'a, [u8]>>, Malformed> {
        let Some(at) = self.columns.iter().position(|name| name == column) else { return Ok(None) };
        match self.fields.get(at) {
            None | Some(&b"\\N") => Ok(None),
            Some(&raw) => unescaped(raw)
                .map(Some)
                .ok_or_else(|| self.wrong(column, "holds a backslash that pg_dump does not write")),
        }
    }

    fn parsed<T>(
        &self,
        column: &str,
        what: &str,
        parse: impl FnOnce(Cow<'a, str>) -> Option<T>,
    ) -> Result<Option<T>, Malformed> {
        let text = match self.bytes(column)? {
            None => return Ok(None),
            Some(Cow::Borrowed(bytes)) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Some(Cow::Owned(bytes)) => String::from_utf8(bytes).ok().map(Cow::Owned),
        };
        let text = text.filter(|text| !text.contains('\0'));
        let text = text.ok_or_else(|| self.wrong(column, "holds what is no text in UTF-8"))?;
        parse(text).map(Some).ok_or_else(|| self.wrong(column, what))
    }

    /// A value that has to be there, read by one of the methods below.
    ///
    /// # Errors
    /// When it is not there, or is none of the kind.
    pub fn required<T>(
        &self,
        read: fn(&Self, &str) -> Result<Option<T>, Malformed>,
        column: &str,
    ) -> Result<T, Malformed> {
        read(self, column)?.ok_or_else(|| self.wrong(column, "is empty, which it can't be"))
    }

    /// # Errors
    /// When it is no text.
    pub fn text(&self, column: &str) -> Result<Option<String>, Malformed> {
        self.parsed(column, "", |text| Some(text.into_owned()))
    }

    /// A value of the type `integer`.
    ///
    /// # Errors
    /// When it is none.
    pub fn int(&self, column: &str) -> Result<Option<i64>, Malformed> {
        self.parsed(column, "holds no integer of 4 bytes", |text| text.parse::<i32>().ok().map(i64::from))
    }

    /// A value of the type `bigint`.
    ///
    /// # Errors
    /// When it is none.
    pub fn big(&self, column: &str) -> Result<Option<i64>, Malformed> {
        self.parsed(column, "holds no integer of 8 bytes", |text| text.parse().ok())
    }

    /// # Errors
    /// When it is no boolean.
    pub fn bool(&self, column: &str) -> Result<Option<bool>, Malformed> {
        self.parsed(column, "holds neither t nor f", |text| match &*text {
            "t" => Some(true),
            "f" => Some(false),
            _ => None,
        })
    }

    /// The text of a value of the type `jsonb`.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn json(&self, column: &str) -> Result<Option<String>, Malformed> {
        let is_json = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
        self.parsed(column, "holds no JSON", |text| is_json(&text).then(|| text.into_owned()))
    }

    /// A value of the type `bytea`, in hexadecimal.
    ///
    /// # Errors
    /// When it is none.
    pub fn blob(&self, column: &str) -> Result<Option<Vec<u8>>, Malformed> {
        self.parsed(column, "holds no bytes in hexadecimal", |text| hex::decode(text.strip_prefix("\\x")?).ok())
    }

    /// Whether a column has a value.
    ///
    /// # Errors
    /// When the field is malformed.
    pub fn is_there(&self, column: &str) -> Result<bool, Malformed> {
        Ok(self.bytes(column)?.is_some())
    }

    /// A value of the type `timestamp`, in UTC, as Unix milliseconds.
    ///
    /// # Errors
    /// When it is none.
    pub fn instant(&self, column: &str) -> Result<Option<i64>, Malformed> {
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
    pub fn texts(&self, column: &str) -> Result<Option<Vec<String>>, Malformed> {
        self.parsed(column, "holds no list of texts", |text| elements(&text))
    }
}

/// The letters that PostgreSQL escapes the characters from this one on with. Beside them it escapes the backslash alone.
const LETTERS: &[u8] = b"btnvfr";
const FIRST_ESCAPED: u8 = 0x08;

/// What a field stands for. `None`: it holds another escape.
fn unescaped(raw: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !raw.contains(&b'\\') {
        return Some(Cow::Borrowed(raw));
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                letter => (FIRST_ESCAPED..).zip(LETTERS).find(|(_, known)| **known == letter)?.0,
            },
            byte => byte,
        });
    }
    Some(Cow::Owned(out))
}

/// Appends a text as a field holds it.
pub fn put_escaped(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte.checked_sub(FIRST_ESCAPED).and_then(|at| LETTERS.get(usize::from(at))) {
            Some(letter) => out.extend([b'\\', *letter]),
            None if byte == b'\\' => out.extend(b"\\\\"),
            None => out.push(byte),
        }
    }
}

/// Texts as a value of the type `text[]`.
#[must_use]
pub fn list(texts: &[impl AsRef<str>]) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    format!("{{{}}}", texts.iter().map(|text| quoted(text.as_ref())).collect::<Vec<_>>().join(","))
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
            assert!(Row::new(&columns, text.as_bytes(), 7).unwrap_err().starts_with("line 7: "), "{text}");
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
            row.required(Row::text, "c1").unwrap_err(),
        ];
        for error in errors {
            assert!(error.starts_with("line 9: the column c") && !error.contains("secret"), "{error}");
        }
        for bad in [b"a\xff\tb".as_slice(), b"a\0\tb", b"a\\\tb"] {
            assert!(Row::new(&columns, bad, 1).unwrap().text("c0").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn escapes_are_those_of_postgresql() {
        let all = br"\b\f\n\r\t\v\\\\N";
        assert_eq!(unescaped(all).unwrap(), b"\x08\x0c\n\r\t\x0b\\\\N".as_slice());
        for other in [r"a\", r"\\\", r"\101", r"\x41", r"\."] {
            assert_eq!(unescaped(other.as_bytes()), None, "{other}");
        }
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

    proptest! {
        #[test]
        fn every_text_comes_back(texts in prop::collection::vec("[^\0]*", 1..5)) {
            let columns = columns(texts.len());
            let mut line = Vec::new();
            for text in &texts {
                put_escaped(&mut line, text);
                line.push(b'\t');
            }
            line.pop();
            prop_assert!(!line.contains(&b'\n'));
            let row = Row::new(&columns, &line, 1).unwrap();
            for (column, text) in columns.iter().zip(&texts) {
                prop_assert_eq!(row.text(column).unwrap(), Some(text.clone()));
            }
        }

        #[test]
        fn every_list_comes_back(texts in prop::collection::vec("\\PC*", 0..5)) {
            prop_assert_eq!(elements(&list(&texts)), Some(texts));
        }
    }
}
