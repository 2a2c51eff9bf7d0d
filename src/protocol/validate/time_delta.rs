//! Additive time deltas: the one payload whose plaintext the server looks into (contract, section 5.4, row 10).

use super::super::json::tree::Tree;

/// Whether a plaintext payload is a delta that devices can add up.
pub(super) fn is_valid(payload: &[u8], entity_id: Option<&str>) -> bool {
    let Some(root) = std::str::from_utf8(payload).ok().and_then(Tree::parse) else { return false };
    let inner = match root.get("actionPayload") {
        Some(inner @ Tree::Object(_)) => inner,
        _ => &root,
    };
    if !matches!(inner, Tree::Object(_)) {
        return false;
    }
    let task_fits = match (inner.get("taskId"), entity_id) {
        (Some(Tree::String(task)), Some(entity)) => *task == entity,
        (None, None) => true,
        _ => false,
    };
    let date_fits = matches!(inner.get("date"), Some(Tree::String(date)) if is_calendar_day(date));
    let duration_fits = matches!(inner.get("duration"), Some(Tree::Number(ms)) if ms.is_finite() && *ms >= 0.0);
    task_fits && date_fits && duration_fits
}

/// Whether `text` is a day of the (proleptic) Gregorian calendar as `YYYY-MM-DD`.
fn is_calendar_day(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| {
        bytes.get(range)?.iter().try_fold(0_u32, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
    };
    let (Some(year), Some(month), Some(day)) = (digits(0..4), digits(5..7), digits(8..10)) else { return false };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-' && (1..=days).contains(&day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_that_do_not_exist() {
        for day in [
            "",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-04-31",
            "2026-01-00",
            "1900-02-29",
            "2026-1-01",
            "26-01-01",
            "2026/01/01",
            "2026-01-01T",
            "2026-01-0x",
            "+026-01-01",
            "２026-01-01",
        ] {
            assert!(!is_calendar_day(day), "{day}");
        }
        for day in ["2026-11-22", "2024-02-29", "2000-02-29", "0000-01-31", "9999-12-31"] {
            assert!(is_calendar_day(day), "{day}");
        }
    }

    #[test]
    fn payloads() {
        let good = r#"{"taskId":"t","date":"2026-01-01","duration":0}"#;
        assert!(is_valid(good.as_bytes(), Some("t")));
        assert!(is_valid(br#"{"actionPayload":{"taskId":"t","date":"2026-01-01","duration":1.5},"x":1}"#, Some("t")));
        // An action payload that is no object does not count.
        assert!(is_valid(br#"{"actionPayload":[],"taskId":"t","date":"2026-01-01","duration":1}"#, Some("t")));
        assert!(!is_valid(good.as_bytes(), Some("u")));
        assert!(!is_valid(good.as_bytes(), None));
        for bad in [
            "null",
            "[]",
            "{}",
            "\"x\"",
            r#"{"taskId":"t","date":"2026-01-01","duration":-1}"#,
            r#"{"taskId":"t","date":"2026-01-01","duration":"1"}"#,
            r#"{"taskId":"t","date":"2026-01-01","duration":1e400}"#,
            r#"{"taskId":"t","date":"2026-02-30","duration":1}"#,
            r#"{"taskId":"t","duration":1}"#,
            r#"{"taskId":7,"date":"2026-01-01","duration":1}"#,
            r#"{"actionPayload":{},"taskId":"t","date":"2026-01-01","duration":1}"#,
        ] {
            assert!(!is_valid(bad.as_bytes(), Some("t")), "{bad}");
        }
    }
}
