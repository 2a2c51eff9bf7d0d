//! The query of a download (contract, section 6).

use serde_json::Value;

use super::super::limits::{DOWNLOAD_DEFAULT_LIMIT, DOWNLOAD_MAX_LIMIT};
use super::schema::{At, CLIENT_ID, Checker};
use super::{DownloadQuery, RequestError};

impl DownloadQuery {
    /// Reads decoded name-value pairs in the order received. Unknown names are ignored; a known name that is repeated
    /// fails.
    ///
    /// # Errors
    /// [`RequestError::Invalid`].
    pub fn parse(query: &[(String, String)]) -> Result<Self, RequestError> {
        let mut check = Checker::new("");
        let since = At::root("sinceSeq");
        // Missing counts as "not a number", as does a list of values.
        let since_value = Some(single(query, since.field).map_or(f64::NAN, |text| text.map_or(f64::NAN, js_number)));
        let since_seq = check.integer(since_value, 0, None, since);
        let limit = At::root("limit");
        let limit_value = single(query, limit.field).map(|text| text.map_or(f64::NAN, js_number));
        let max = i64::try_from(DOWNLOAD_MAX_LIMIT).unwrap_or(i64::MAX);
        let limit = limit_value.and_then(|value| check.integer(Some(value), 1, Some(max), limit));
        let client = At::root("excludeClient");
        let exclude_client = match single(query, client.field) {
            None => None,
            Some(None) => {
                check.wrong_type("string", client.path());
                None
            }
            Some(Some(text)) => {
                check.text(text, CLIENT_ID, || vec![Value::from(client.field)]).then(|| text.to_owned())
            }
        };
        match since_seq {
            Some(since_seq) if check.issues.is_empty() => Ok(Self {
                since_seq,
                limit: limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(DOWNLOAD_DEFAULT_LIMIT),
                exclude_client,
            }),
            _ => Err(check.into_error()),
        }
    }
}

/// The value of a name: outer `None` when it is missing, inner `None` when it is repeated.
fn single<'a>(query: &'a [(String, String)], name: &str) -> Option<Option<&'a str>> {
    let mut values = query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let first = values.next()?;
    Some(if values.next().is_some() { None } else { Some(first) })
}

/// JavaScript's `Number(text)`.
#[must_use]
fn js_number(text: &str) -> f64 {
    let text = text.trim_matches(super::super::validate::is_js_space);
    if text.is_empty() {
        return 0.0;
    }
    let radix = |digits: &str, radix: u32| {
        let mut value = 0.0;
        for c in digits.chars() {
            let Some(digit) = c.to_digit(radix) else { return f64::NAN };
            value = value * f64::from(radix) + f64::from(digit);
        }
        if digits.is_empty() { f64::NAN } else { value }
    };
    match text.get(..2) {
        Some("0x" | "0X") => return radix(&text[2..], 16),
        Some("0o" | "0O") => return radix(&text[2..], 8),
        Some("0b" | "0B") => return radix(&text[2..], 2),
        _ => {}
    }
    match text {
        "Infinity" | "+Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        // Rust also reads words such as "inf" and "nan".
        _ if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E')) => {
            text.parse().unwrap_or(f64::NAN)
        }
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<DownloadQuery, Vec<Value>> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        DownloadQuery::parse(&pairs).map_err(|error| match error {
            RequestError::Invalid(issues) => issues.into_iter().map(|issue| Value::Object(issue.0)).collect(),
            other => panic!("{other:?}"),
        })
    }

    fn bare(issues: Vec<Value>) -> Vec<Value> {
        issues
            .into_iter()
            .map(|mut issue| {
                issue.as_object_mut().unwrap().remove("message").unwrap();
                issue
            })
            .collect()
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "numbers that were read, not computed")]
    fn numbers_are_read_as_javascript_reads_them() {
        for (text, value) in
            [("", 0.0), (" 5 ", 5.0), ("5.0", 5.0), ("5e0", 5.0), ("0x10", 16.0), ("0b11", 3.0), ("0o17", 15.0)]
        {
            assert_eq!(js_number(text), value, "{text:?}");
        }
        for (text, value) in
            [("\u{feff}\u{a0}7\n", 7.0), ("+3", 3.0), ("-0", 0.0), (".5", 0.5), ("5.", 5.0), ("007", 7.0)]
        {
            assert_eq!(js_number(text), value, "{text:?}");
        }
        for text in ["abc", "1 2", "0x", "0xg", "-0x1", "inf", "nan", "NaN", "infinity", "1_000", "1e", "--1", "1n"] {
            assert!(js_number(text).is_nan(), "{text:?}");
        }
        assert_eq!(js_number("Infinity"), f64::INFINITY);
    }

    #[test]
    fn good_queries() {
        let query =
            parse(&[("sinceSeq", "7"), ("limit", "1000"), ("excludeClient", "B_a7Kx9Z"), ("other", "x")]).unwrap();
        assert_eq!(query, DownloadQuery { since_seq: 7, limit: 1000, exclude_client: Some("B_a7Kx9Z".into()) });
        let query = parse(&[("sinceSeq", "")]).unwrap();
        assert_eq!(query, DownloadQuery { since_seq: 0, limit: DOWNLOAD_DEFAULT_LIMIT, exclude_client: None });
        assert_eq!(parse(&[("sinceSeq", "9007199254740991")]).unwrap().since_seq, 9_007_199_254_740_991);
    }

    #[test]
    fn scenario_44_bad_queries() {
        let nan =
            serde_json::json!({"code": "invalid_type", "expected": "number", "received": "NaN", "path": ["sinceSeq"]});
        assert_eq!(bare(parse(&[]).unwrap_err()), std::slice::from_ref(&nan));
        assert_eq!(bare(parse(&[("sinceSeq", "abc")]).unwrap_err()), std::slice::from_ref(&nan));
        assert_eq!(bare(parse(&[("sinceSeq", "1"), ("sinceSeq", "1")]).unwrap_err()), [nan]);
        assert_eq!(
            bare(parse(&[("sinceSeq", "1.5")]).unwrap_err()),
            [serde_json::json!({"code": "invalid_type", "expected": "int", "format": "safeint", "path": ["sinceSeq"]})]
        );
        assert_eq!(
            bare(parse(&[("sinceSeq", "-1"), ("limit", "0")]).unwrap_err()),
            [
                serde_json::json!({"code": "too_small", "origin": "number", "minimum": 0, "inclusive": true, "path": ["sinceSeq"]}),
                serde_json::json!({"code": "too_small", "origin": "number", "minimum": 1, "inclusive": true, "path": ["limit"]})
            ]
        );
        for pairs in [
            [("sinceSeq", "1"), ("limit", "1001")],
            [("sinceSeq", "1"), ("limit", "")],
            [("sinceSeq", "1"), ("limit", "2.5")],
            [("sinceSeq", "1"), ("excludeClient", "bad id")],
            [("sinceSeq", "1"), ("excludeClient", "")],
            [("sinceSeq", "9007199254740992"), ("limit", "1")],
        ] {
            assert!(parse(&pairs).is_err(), "{pairs:?}");
        }
        assert!(parse(&[("sinceSeq", "1"), ("excludeClient", "a"), ("excludeClient", "a")]).is_err());
        assert_eq!(parse(&[("sinceSeq", "0"), ("excludeClient", "")]).unwrap_err().len(), 2);
    }
}
