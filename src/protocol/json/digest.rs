//! A fingerprint of what a JSON text means, so that two copies of a document can be compared without having both at hand.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::scan::{Malformed, Scanner, number_value, string_value};

/// Nesting beyond which nothing is fingerprinted: deeper than any payload that was ever accepted.
const MAX_DEPTH: usize = 512;

/// Equal for texts that mean the same to JavaScript: white space, order of keys, spelling of numbers and escapes do not
/// count; of members with the same key the last one does. `None`: not JSON, or nested too deep.
///
/// Memory grows with the members of the objects that are open, not with the text.
#[must_use]
pub fn json_digest(text: &str) -> Option<[u8; 32]> {
    let mut scanner = Scanner::new(text);
    let digest = read(&mut scanner, text, 0).ok()?;
    scanner.end().ok()?;
    Some(digest)
}

fn read(scanner: &mut Scanner<'_>, text: &str, depth: usize) -> Result<[u8; 32], Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed);
    }
    let mut hash = Sha256::new();
    match scanner.peek() {
        Some(b'{') => {
            scanner.open(b'{')?;
            let mut members = BTreeMap::new();
            let mut first = true;
            while let Some((key, _)) = scanner.member(&mut first)? {
                let value = read(scanner, text, depth + 1)?;
                members.insert(key, value);
            }
            hash.update(b"{");
            for (key, value) in members {
                // Of one length each, so that no two lists of members look the same.
                hash.update(Sha256::digest(key.as_bytes()));
                hash.update(value);
            }
        }
        Some(b'[') => {
            scanner.open(b'[')?;
            hash.update(b"[");
            let mut first = true;
            while scanner.element(&mut first)? {
                hash.update(read(scanner, text, depth + 1)?);
            }
        }
        _ => {
            let span = scanner.value()?;
            let raw = &text[span.start..span.end];
            match raw.as_bytes().first() {
                Some(b'"') => {
                    let (value, lone) = string_value(raw);
                    // U+FFFD for every lone surrogate would make different strings equal: those count as written.
                    hash.update(if lone { b"\\" } else { b"\"" });
                    hash.update(if lone { raw.as_bytes() } else { value.as_bytes() });
                }
                Some(b't' | b'f' | b'n') => hash.update(raw),
                _ => {
                    let number = number_value(raw);
                    // Zero has two spellings and one meaning.
                    let number = if number == 0.0 { 0.0 } else { number };
                    hash.update(b"#");
                    hash.update(number.to_bits().to_be_bytes());
                }
            }
        }
    }
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::json_digest;
    use crate::protocol::json::tree::same_json;

    #[test]
    fn what_is_no_json_has_none() {
        for text in ["", "{", "[1,]", "nul", "{\"a\":1}x", "\"", &"[".repeat(1_000)] {
            assert_eq!(json_digest(text), None, "{text}");
        }
        let deep = format!("{}{}", "[".repeat(600), "]".repeat(600));
        assert_eq!(json_digest(&deep), None);
    }

    #[test]
    fn equal_exactly_when_the_meaning_is() {
        let texts = [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1",
            "1.0",
            "1e0",
            "10e-1",
            "1e400",
            "2e999",
            "\"\"",
            "\"a\"",
            "\"\\u0061\"",
            "\"null\"",
            "\"\\ud800\"",
            "\"\u{fffd}\"",
            "[]",
            "[[]]",
            "[[],[]]",
            "[1]",
            " [ 1 ] ",
            "{}",
            "{\"a\":1}",
            "{\"a\":2,\"a\":1}",
            "{\"a\":1,\"b\":[2]}",
            "{\"b\":[2.0],\"a\":1}",
            "{\"a\":{\"b\":[2]}}",
            "[\"a\",1]",
        ];
        for a in texts {
            for b in texts {
                let same = same_json(a.as_bytes(), b.as_bytes());
                assert_eq!(json_digest(a).expect("JSON") == json_digest(b).expect("JSON"), same, "{a} {b}");
            }
        }
    }

    proptest! {
        #[test]
        fn spelling_does_not_count(keys in proptest::collection::vec("[a-c]{1,2}", 0..6), number in any::<i32>()) {
            let members: Vec<_> = keys.iter().map(|key| format!("\"{key}\":[\"{key}\",{number}]")).collect();
            let compact = format!("{{{}}}", members.join(","));
            let value: serde_json::Value = serde_json::from_str(&compact).expect("JSON");
            let pretty = serde_json::to_string_pretty(&value).expect("JSON");
            prop_assert_eq!(json_digest(&compact), json_digest(&pretty));
        }
    }
}
