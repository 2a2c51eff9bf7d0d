//! Kinds of values: how a text becomes a value, and what an operator reads about it in documents and messages.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::{EncryptionPolicy, Environment, LogFormat, RegistrationMode};

/// A kind of values.
pub(super) struct Kind<T> {
    /// Type, unit and bounds, for documents.
    pub values: &'static str,
    /// The message about an invalid text.
    pub expected: &'static str,
    /// `None`: the text is invalid.
    pub parse: fn(&str) -> Option<T>,
    /// Whether values are never shown.
    pub secret: bool,
    /// Whether an invalid text is only warned about: how the Node server treats its clean-up and quota variables, so that
    /// files that worked there keep working.
    pub lenient: bool,
}

impl<T> Kind<T> {
    pub(super) const fn new(values: &'static str, expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { values, expected, parse, secret: false, lenient: false }
    }

    pub(super) const fn secret(values: &'static str, expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { secret: true, ..Self::new(values, expected, parse) }
    }

    const fn lenient(values: &'static str, expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { lenient: true, ..Self::new(values, expected, parse) }
    }
}

pub(super) const TEXT: Kind<String> = Kind::new("text", "expected a text", |text| Some(text.to_owned()));
pub(super) const SECRET: Kind<SecretString> =
    Kind::secret("secret", "expected a text", |text| Some(SecretString::from(text)));
pub(super) const PATH: Kind<PathBuf> = Kind::new("path", "expected a path", |text| Some(PathBuf::from(text)));

pub(super) const PORT: Kind<u16> =
    Kind::new("1 to 65535", "expected a port from 1 to 65535", |text| number(text, 1..=65_535));
pub(super) const COUNT: Kind<usize> =
    Kind::new("number", "expected a whole number above 0", |text| number(text, 1..=10_000_000));
pub(super) const REQUESTS: Kind<u32> =
    Kind::new("number", "expected a whole number, 0 for no limit", |text| number(text, 0..=u64::from(u32::MAX)));
pub(super) const CONNECTIONS: Kind<u32> =
    Kind::new("1 to 10000", "expected a number from 1 to 10000", |text| number(text, 1..=10_000));
pub(super) const CORES: Kind<usize> =
    Kind::new("1 to 64", "expected a number from 1 to 64", |text| number(text, 1..=64));
pub(super) const PERCENT: Kind<u32> =
    Kind::new("0 to 1000 percent", "expected a whole number from 0 to 1000", |text| number(text, 0..=1_000));
/// The Node server clamps it, like the next one (contract, operations section 2.1).
pub(super) const ROWS_PER_DELETE: Kind<usize> =
    Kind::lenient("number, at most 50000", "expected a whole number above 0", |text| {
        number(text, 1..=u64::MAX).map(|rows: usize| rows.min(50_000))
    });
pub(super) const ROWS_PER_RUN: Kind<usize> =
    Kind::lenient("number, at most 1000000", "expected a whole number above 0", |text| {
        number(text, 1..=u64::MAX).map(|rows: usize| rows.min(1_000_000))
    });

const BYTES_EXPECTED: &str = "expected a number of bytes such as 10485760 or 10MiB";
pub(super) const BYTES: Kind<usize> = Kind::new("bytes", BYTES_EXPECTED, bytes);
pub(super) const BYTES_OR_NONE: Kind<u64> = Kind::new("bytes", BYTES_EXPECTED, |text| match text {
    "0" => Some(0),
    _ => bytes(text).and_then(|bytes| u64::try_from(bytes).ok()),
});
pub(super) const QUOTA: Kind<i64> =
    Kind::lenient("bytes, digits only", "expected a number of bytes, digits only, above 0", |text| {
        number(text, 1..=i64::MAX.unsigned_abs())
    });

pub(super) const SECONDS: Kind<Duration> =
    Kind::new("seconds", "expected a number of seconds above 0 such as 60 or 0.5", seconds);
pub(super) const DELAY: Kind<Duration> =
    Kind::new("0 to 300 seconds", "expected a number of seconds from 0 to 300 such as 10", |text| {
        let seconds: f64 = text.parse().ok()?;
        (0.0..=300.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
    });
pub(super) const HOURS: Kind<Duration> =
    Kind::new("0 to 87600 hours", "expected a whole number of hours from 0 to 87600", |text| {
        number(text, 0..=87_600).map(Duration::from_hours)
    });
pub(super) const DAYS: Kind<Duration> =
    Kind::new("1 to 3650 days", "expected a whole number of days from 1 to 3650", |text| {
        number(text, 1..=3650).map(|days: u64| Duration::from_hours(24 * days))
    });

pub(super) const BOOLEAN: Kind<bool> = Kind::new("`true` or `false`", "expected true or false", boolean);
pub(super) const ENVIRONMENT: Kind<Environment> =
    Kind::new("`production` or `development`", "expected production or development", |text| match text {
        "production" => Some(Environment::Production),
        "development" => Some(Environment::Development),
        _ => None,
    });
pub(super) const ENCRYPTION: Kind<EncryptionPolicy> =
    Kind::new("`optional` or `required`", "expected optional or required", |text| match text {
        "optional" => Some(EncryptionPolicy::Optional),
        "required" => Some(EncryptionPolicy::Required),
        _ => None,
    });
pub(super) const REGISTRATION: Kind<RegistrationMode> =
    Kind::new("`open`, `invite` or `closed`", "expected open, invite or closed", |text| match text {
        "open" => Some(RegistrationMode::Open),
        "invite" => Some(RegistrationMode::Invite),
        "closed" => Some(RegistrationMode::Closed),
        _ => None,
    });
pub(super) const LOG_FORMAT: Kind<LogFormat> =
    Kind::new("`text` or `json`", "expected text or json", |text| match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    });

/// A whole number in a range.
pub(super) fn number<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten().filter(|number| range.contains(number))?;
    T::try_from(number).ok()
}

/// A number of bytes, at least one, with an optional unit.
fn bytes(text: &str) -> Option<usize> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let (digits, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), *unit))).unwrap_or((text, 1));
    let number: u64 = number(digits, 1..=u64::MAX)?;
    usize::try_from(number.checked_mul(unit)?).ok()
}

/// A time in seconds, above zero and at most ten years; fractions down to a millisecond.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    const TEN_YEARS: f64 = 315_360_000.0;
    let seconds: f64 = text.parse().ok()?;
    (0.001..=TEN_YEARS).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    text.parse().ok()
}
