//! Numbers for people.

/// Three significant digits at least, never more than three after the point, thousands apart.
#[must_use]
pub fn fixed(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() {
        "–".to_owned()
    } else if size == 0.0 {
        "0".to_owned()
    } else if size >= 100.0 {
        grouped(number)
    } else if size >= 10.0 {
        format!("{number:.1}")
    } else if size >= 1.0 {
        format!("{number:.2}")
    } else {
        format!("{number:.3}")
    }
}

/// A whole number with thousands apart.
#[must_use]
pub fn grouped(number: f64) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    let digits = format!("{:.0}", number.abs());
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    if number < 0.0 && digits != "0" {
        text.push('-');
    }
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_the_size() {
        let cases = [
            (0.0, "0"),
            (0.0421, "0.042"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1_234_567.0, "1,234,567"),
            (-1_234.0, "-1,234"),
            (f64::NAN, "–"),
        ];
        for (number, text) in cases {
            assert_eq!(fixed(number), text);
        }
        assert_eq!(grouped(-0.2), "0");
        assert_eq!(grouped(999.6), "1,000");
    }
}
