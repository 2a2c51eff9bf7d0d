//! Small trees of JSON values, to compare two documents and to look into one.

use std::borrow::Cow;

use super::scan::{Malformed, Scanner, number_value, string_value};

/// Nesting beyond which no tree is built. Far above what any accepted payload has (section 5.4, row 14), and shallow
/// enough for the smallest stack.
const MAX_TREE_DEPTH: usize = 128;

/// A JSON value. Objects are sorted by key; of members with the same key the last has won.
#[derive(Debug, PartialEq)]
#[allow(missing_docs)] // the kinds of JSON
pub enum Tree<'a> {
    Null,
    Bool(bool),
    Number(f64),
    String(Cow<'a, str>),
    Array(Vec<Tree<'a>>),
    Object(Vec<(Cow<'a, str>, Tree<'a>)>),
}

impl<'a> Tree<'a> {
    /// Reads a document; `None` when it is not JSON or nested too deep for a tree.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut scanner = Scanner::new(text);
        let tree = Self::read(&mut scanner, text, 0).ok()?;
        scanner.end().ok()?;
        Some(tree)
    }

    fn read(scanner: &mut Scanner<'a>, text: &'a str, depth: usize) -> Result<Self, Malformed> {
        if depth > MAX_TREE_DEPTH {
            return Err(Malformed);
        }
        match scanner.peek() {
            Some(b'{') => {
                scanner.open(b'{')?;
                let mut members = Vec::new();
                let mut first = true;
                while let Some((key, _)) = scanner.member(&mut first)? {
                    members.push((key, Self::read(scanner, text, depth + 1)?));
                }
                // Stable, so that the last of equal keys stays last; reversed, `dedup` keeps that one.
                members.reverse();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members.dedup_by(|later, kept| later.0 == kept.0);
                Ok(Self::Object(members))
            }
            Some(b'[') => {
                scanner.open(b'[')?;
                let mut items = Vec::new();
                let mut first = true;
                while scanner.element(&mut first)? {
                    items.push(Self::read(scanner, text, depth + 1)?);
                }
                Ok(Self::Array(items))
            }
            _ => {
                let span = scanner.value()?;
                let raw = &text[span.start..span.end];
                Ok(match raw.as_bytes()[0] {
                    b'"' => {
                        let (value, lone) = string_value(raw);
                        // U+FFFD for every lone surrogate would make different strings equal: those compare as written.
                        Self::String(if lone { Cow::Borrowed(raw) } else { value })
                    }
                    b't' => Self::Bool(true),
                    b'f' => Self::Bool(false),
                    b'n' => Self::Null,
                    _ => Self::Number(number_value(raw)),
                })
            }
        }
    }

    /// The member `key` of an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.binary_search_by(|(name, _)| (**name).cmp(key)).ok().map(|at| &members[at].1)
    }
}

/// Whether two JSON texts mean the same to JavaScript: order of keys, spelling of numbers and escapes do not count.
/// Texts that no tree can be made of are equal only byte by byte.
#[must_use]
pub fn same_json(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let (Ok(a), Ok(b)) = (std::str::from_utf8(a), std::str::from_utf8(b)) else { return false };
    match (Tree::parse(a), Tree::parse(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_as_javascript_values() {
        for (a, b) in [
            (r#"{"a":1,"b":[2]}"#, r#"{ "b" : [2.0], "a": 1e0 }"#),
            (r#""\u00e4""#, r#""ä""#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("-0", "0"),
            ("1e400", "2e999"),
        ] {
            assert!(same_json(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
    }

    #[test]
    fn different_values() {
        for (a, b) in [
            ("1", "2"),
            ("[1,2]", "[2,1]"),
            ("{}", "[]"),
            ("null", "{}"),
            (r#"{"a":null}"#, "{}"),
            (r#"{"a":1,"a":2}"#, r#"{"a":1}"#),
            ("\"1\"", "1"),
            (r#""\ud800""#, r#""\ud801""#),
        ] {
            assert!(!same_json(a.as_bytes(), b.as_bytes()), "{a} {b}");
        }
    }

    #[test]
    fn nesting_does_not_exhaust_the_stack() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let spaced = format!(" {deep}");
        assert!(Tree::parse(&deep).is_none());
        assert!(same_json(deep.as_bytes(), deep.as_bytes()));
        assert!(!same_json(deep.as_bytes(), spaced.as_bytes()));
    }
}
