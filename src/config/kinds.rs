//! Kinds of values: how a text becomes a value, and what an operator reads about it in documents and messages.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use tracing_subscriber::EnvFilter;
use url::{Position, Url};

use super::address::postgres_address;
use super::key::Kind;
use super::proxies::TrustedProxies;
use super::rates::{self, Factors};
use super::{EncryptionPolicy, Environment, LogFormat, RegistrationMode};

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
    Kind::new("`production` or `development`", "expected production or development", |text| {
        one_of(text, [("production", Environment::Production), ("development", Environment::Development)])
    });
pub(super) const ENCRYPTION: Kind<EncryptionPolicy> =
    Kind::new("`optional` or `required`", "expected optional or required", |text| {
        one_of(text, [("optional", EncryptionPolicy::Optional), ("required", EncryptionPolicy::Required)])
    });
pub(super) const REGISTRATION: Kind<RegistrationMode> =
    Kind::new("`open`, `invite` or `closed`", "expected open, invite or closed", |text| {
        let modes = [RegistrationMode::Open, RegistrationMode::Invite, RegistrationMode::Closed];
        one_of(text, modes.map(|mode| (mode.as_str(), mode)))
    });
pub(super) const LOG_FORMAT: Kind<LogFormat> = Kind::new("`text` or `json`", "expected text or json", |text| {
    one_of(text, [("text", LogFormat::Text), ("json", LogFormat::Json)])
});

/// The value with this name.
pub(super) fn one_of<T, const N: usize>(text: &str, values: [(&str, T); N]) -> Option<T> {
    values.into_iter().find(|(name, _)| *name == text).map(|(_, value)| value)
}

pub(super) const ADDRESS: Kind<IpAddr> =
    Kind::new("address", "expected an IP address such as 0.0.0.0 or ::, or localhost", |text| match text {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse().ok(),
    });
pub(super) const LISTENER: Kind<Option<SocketAddr>> =
    Kind::new("address and port, or `off`", "expected an address and port such as 127.0.0.1:9464, or off", |text| {
        if text == "off" { Some(None) } else { text.parse().ok().map(Some) }
    });
pub(super) const URL: Kind<String> =
    Kind::new("URL", "expected the http:// or https:// address under which users reach the server", |text| {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
        (url.query().is_none() && url.fragment().is_none()).then(|| String::from(url).trim_end_matches('/').to_owned())
    });
pub(super) const RP_ID: Kind<String> =
    Kind::new("domain", "expected a domain such as example.com, without scheme and port", |text| {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        plain.then(|| text.to_ascii_lowercase())
    });
pub(super) const ORIGIN: Kind<String> =
    Kind::new("origin", "expected an origin such as https://sync.example.com", |text| {
        let url = Url::parse(text).ok()?;
        let is_origin = url.has_host() && url[Position::BeforePath..].trim_matches('/').is_empty();
        is_origin.then(|| url.origin().ascii_serialization())
    });
pub(super) const ORIGINS: Kind<Vec<String>> = Kind::new(
    "list of origins",
    "expected a comma-separated list of origins such as https://app.example.com, https://*.example.com or *",
    |text| text.split(',').map(|item| origin(item.trim())).collect(),
);
pub(super) const EMAILS: Kind<Vec<String>> =
    Kind::new("list", "expected a comma-separated list of addresses or *@domain", emails);
pub(super) const LEVELS: Kind<String> = Kind::new(
    "level or filter",
    "expected error, warn, info, debug, trace or off, or a filter such as info,supersync::engine=debug",
    log_filter,
);

pub(super) const PROXIES: Kind<TrustedProxies> = Kind::new(
    "networks, or a number",
    "expected the networks of the reverse proxies, such as 127.0.0.1, ::1, 10.0.0.0/8, loopback, private or none; or, as \
                                   before, their number from 0 to 16",
    TrustedProxies::parse,
);
pub(super) const DIRECT: Kind<SecretString> =
    Kind::secret("URL, secret", "expected postgres://user:password@host:port/name (value not shown)", |text| {
        Some(postgres_address(text)?.0)
    });
pub(super) const TRANSPORT: Kind<&'static str> =
    Kind::new("`smtp`, `file`, `log` or `off`", "expected smtp, file, log or off", |text| {
        ["smtp", "file", "log", "off"].into_iter().find(|name| *name == text)
    });
pub(super) const SENDER: Kind<String> =
    Kind::new("address", "expected an address such as \"SuperSync\" <sync@example.com>", |text| {
        text.contains('@').then(|| text.to_owned())
    });

pub(super) const ENDPOINT: Kind<Url> = Kind::new(
    "URL",
    "expected the address of a collector that takes OTLP over HTTP, such as http://localhost:4318",
    endpoint,
);
pub(super) const HEADERS: Kind<Vec<(String, SecretString)>> =
    Kind::secret("list, secret", "expected names and values such as api-key=…,x-tenant=…", headers);
pub(super) const SHARE: Kind<f64> = Kind::new("0 to 1", "expected a share of all requests from 0 to 1", share);

pub(super) const FACTORS: Kind<Factors> = Kind::new(
    "`on`, `off` or factors",
    "expected on, off, a factor from 0.01 to 1000 such as 2, or factors of groups such as sign-in=4, reads=0.5 (groups: \
     sign-in, writes, reads, sockets)",
    rates::factors,
);

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

/// `*`, an origin, or an origin whose leftmost label is `*` (contract, accounts section 10.2), as browsers write it: in lower
/// case, without a port that the scheme implies, international names in their ASCII form.
fn origin(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let (scheme, host) = text.trim_end_matches('/').split_once("://")?;
    let (label, rest) = match host.strip_prefix("*.") {
        Some(rest) if !rest.contains('.') => return None,
        Some(rest) => ("any.", rest),
        None => ("", host),
    };
    // An origin has no path and no user.
    if rest.contains(['*', '/', '@', '?', '#']) {
        return None;
    }
    let url = Url::parse(&format!("{scheme}://{label}{rest}")).ok().filter(Url::has_host)?;
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let host = if label.is_empty() { host.to_owned() } else { host.replacen(label, "*.", 1) };
    Some(format!("{}://{host}", url.scheme()))
}

/// A filter with a level for everything that it does not name. A word that is no level would be taken for the name of a
/// module, and silence all others.
fn log_filter(text: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |text: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text));
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let is_known = |directive: &&str| is_level(directive.rsplit_once('=').map_or(*directive, |(_, level)| level));
    let is_filter = !directives.is_empty() && directives.iter().all(is_known);
    let default = if directives.iter().any(|directive| is_level(directive)) { "" } else { "info," };
    Some(format!("{default}{}", directives.join(","))).filter(|filter| is_filter && EnvFilter::try_new(filter).is_ok())
}

fn emails(text: &str) -> Option<Vec<String>> {
    let email = |item: &str| {
        let item = item.trim().to_lowercase();
        let (local, domain) = item.split_once('@')?;
        let fine = !local.is_empty() && !domain.is_empty() && !domain.contains(['@', '*']);
        (fine && (local == "*" || !local.contains('*'))).then_some(item)
    };
    text.split(',').map(email).collect()
}

/// The collector's address with the path for spans.
fn endpoint(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    url.path_segments_mut().ok()?.pop_if_empty().extend(["v1", "traces"]);
    Some(url)
}

fn headers(text: &str) -> Option<Vec<(String, SecretString)>> {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let is_value = value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        (is_name && is_value).then(|| (name.to_owned(), value.into()))
    };
    text.split(',').map(header).collect()
}

fn share(text: &str) -> Option<f64> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}
