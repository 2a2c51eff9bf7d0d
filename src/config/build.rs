//! From variables to [`Config`]: one function per concern, each reading its variables and noting what is wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tracing_subscriber::EnvFilter;
use url::{Position, Url};

use crate::webauthn::RelyingParty;

use super::given::{Given, is_of_service};
use super::reader::{ConfigErrors, Reader, bytes, days, delay, hours, number, seconds};
use super::{
    Config, Cors, EncryptionPolicy, Environment, Limits, Loaded, LogFormat, RateLimit, RateLimits, RegistrationMode,
    Retention, Timeouts, TrustedProxies, database, legal, mail, proxies, secret, table,
};

/// After which the released app gives up on one request (contract, operations section 3).
const CLIENT_ABORT: Duration = Duration::from_secs(75);
const COUNT: &str = "expected a whole number above 0";
const BYTES: &str = "expected a number of bytes such as 10485760 or 10MiB";
const SECONDS: &str = "expected a number of seconds above 0 such as 60 or 0.5";
const DELAY: &str = "expected a number of seconds from 0 to 300 such as 10";
const DAYS: &str = "expected a whole number of days from 1 to 3650";
const HOURS: &str = "expected a whole number of hours from 0 to 87600";

/// What to do when nobody gave a secret and none is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissingSecret {
    /// Use the one in the data directory, made if need be.
    Make,
    /// Leave it empty: nothing will be signed.
    Leave,
}

pub(super) fn load(given: &Given, missing_secret: MissingSecret) -> Result<Loaded, ConfigErrors> {
    let mut reader = Reader::new(given);
    let r = &mut reader;
    names(r);
    let environment = environment(r);
    let host = host(r);
    let port = r.value("PORT", "expected a port from 1 to 65535", number(1..=65_535));
    let data_dir = PathBuf::from(r.value("DATA_DIR", "expected a path", |text| Some(text.to_owned())));
    let public_url = public_url(r, environment, port);
    let database = database::read(r, &data_dir);
    let relying_party = relying_party(r, &public_url);
    let mail = mail::read(r, environment, &data_dir, &public_url);
    let config = Config {
        environment,
        host,
        port,
        public_url,
        database,
        cors: cors(r, environment),
        allowed_emails: allowed_emails(r),
        mail,
        legal: legal::read(r, &data_dir),
        registration: r.value("REGISTRATION", "expected open, invite or closed", |text| match text {
            "open" => Some(RegistrationMode::Open),
            "invite" => Some(RegistrationMode::Invite),
            "closed" => Some(RegistrationMode::Closed),
            _ => None,
        }),
        relying_party,
        encryption_policy: r.value("ENCRYPTION_POLICY", "expected optional or required", |text| match text {
            "optional" => Some(EncryptionPolicy::Optional),
            "required" => Some(EncryptionPolicy::Required),
            _ => None,
        }),
        test_mode: test_mode(r, environment),
        trusted_proxies: trusted_proxies(r),
        metrics_addr: r.value("METRICS_ADDR", "expected an address and port such as 127.0.0.1:9464, or off", |text| {
            if text == "off" { Some(None) } else { text.parse::<SocketAddr>().ok().map(Some) }
        }),
        backup_dir: r.text("BACKUP_DIR").map(PathBuf::from),
        traces: super::traces::traces(r),
        log_format: r.value("LOG_FORMAT", "expected text or json", |text| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        }),
        log_filter: r.value(
            "LOG_LEVEL",
            "expected error, warn, info, debug, trace or off, or a filter such as info,supersync::engine=debug",
            log_filter,
        ),
        rate_limits: rate_limits(r),
        timeouts: timeouts(r),
        limits: limits(r),
        retention: retention(r),
        // Last: it writes a file, which is not worth doing for a configuration that is refused.
        jwt_secret: jwt_secret(r, environment, &data_dir, missing_secret),
        data_dir,
    };
    let (settings, warnings) = reader.finish()?;
    Ok(Loaded { config, settings, warnings })
}

/// Our own prefix leaves no room for typing errors; other names may be anybody's.
fn names(r: &mut Reader<'_>) {
    for name in r.names() {
        if let Some(reason) = table::tolerated(name) {
            if r.text(name).is_some() && !reason.starts_with("used by") && !reason.starts_with("set by") {
                r.warn(format!("{name} has no effect: {reason}"));
            }
        } else if name.starts_with("SUPERSYNC_")
            && !table::variables().any(|variable| variable.name == name)
            && !is_of_service(name, r.verbatim(name).unwrap_or_default())
        {
            let similar = table::variables()
                .map(|variable| variable.name)
                // Many of our variables don't have the prefix that was typed.
                .map(|known| {
                    let bare = name.trim_start_matches("SUPERSYNC_");
                    (distance(name, known).min(distance(bare, known)), known)
                })
                .min()
                .filter(|(distance, _)| *distance <= 4);
            let hint = similar.map_or(String::new(), |(_, known)| format!("; did you mean {known}?"));
            r.problem(name, format!("there is no such variable{hint}"));
        }
    }
}

/// How many letters must be added, removed or changed to get from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

fn environment(r: &mut Reader<'_>) -> Environment {
    let named = r.optional("SUPERSYNC_ENV", "expected production or development", |text| match text {
        "production" => Some(Environment::Production),
        "development" => Some(Environment::Development),
        _ => None,
    });
    let node =
        if r.text("NODE_ENV") == Some("production") { Environment::Production } else { Environment::Development };
    let environment = named.unwrap_or(node);
    r.show("SUPERSYNC_ENV", if environment == Environment::Production { "production" } else { "development" });
    environment
}

fn host(r: &mut Reader<'_>) -> IpAddr {
    const EXPECTED: &str = "expected an IP address such as 0.0.0.0 or ::, or localhost";
    // Empty is not unset here (contract, operations section 2.1).
    if r.verbatim("HOST").is_some_and(|text| text.trim().is_empty()) {
        r.problem("HOST", format!("{EXPECTED}; remove it for the default"));
    }
    let given = r.optional("HOST", EXPECTED, |text| match text {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse().ok(),
    });
    // Who leaves test mode on by mistake is at least not open to the network.
    let is_test_mode = r.text("TEST_MODE") == Some("true");
    let host = given.unwrap_or(IpAddr::V4(if is_test_mode { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED }));
    r.show("HOST", host.to_string());
    host
}

fn trusted_proxies(r: &mut Reader<'_>) -> TrustedProxies {
    let trusted = r.value("TRUSTED_PROXIES", proxies::EXPECTED, TrustedProxies::parse);
    if let Some(warning) = trusted.warning() {
        r.warn(warning);
    }
    trusted
}

fn public_url(r: &mut Reader<'_>, environment: Environment, port: u16) -> String {
    let production = environment == Environment::Production;
    let expected = if production {
        "in production expected the https:// address under which users reach the server"
    } else {
        "expected the http:// or https:// address under which users reach the server"
    };
    let given = r.optional("PUBLIC_URL", expected, |text| {
        let url = Url::parse(text).ok()?;
        let scheme = url.scheme() == "https" || (url.scheme() == "http" && !production);
        (scheme && url.has_host() && url.query().is_none() && url.fragment().is_none())
            .then(|| String::from(url).trim_end_matches('/').to_owned())
    });
    if production && r.text("PUBLIC_URL").is_none() {
        r.problem("PUBLIC_URL", format!("is not set; {expected}"));
    }
    let url = given.unwrap_or_else(|| format!("http://localhost:{port}"));
    r.show("PUBLIC_URL", url.clone());
    url
}

/// Passkeys are bound to the id for ever, so it is worth a warning when it can't work.
fn relying_party(r: &mut Reader<'_>, public_url: &str) -> RelyingParty {
    let url = Url::parse(public_url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or("localhost").to_owned();
    let origin = url.map_or_else(|| public_url.to_owned(), |url| url.origin().ascii_serialization());
    let id = r.optional("WEBAUTHN_RP_ID", "expected a domain such as example.com, without scheme and port", |text| {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        plain.then(|| text.to_ascii_lowercase())
    });
    let id = id.unwrap_or(host);
    let name = r.text("WEBAUTHN_RP_NAME").map_or_else(|| id.clone(), str::to_owned);
    let given = r.optional("WEBAUTHN_ORIGIN", "expected an origin such as https://sync.example.com", |text| {
        let url = Url::parse(text).ok()?;
        let is_origin = url.has_host() && url[Position::BeforePath..].trim_matches('/').is_empty();
        is_origin.then(|| url.origin().ascii_serialization())
    });
    let origin = given.unwrap_or(origin);
    let domain = Url::parse(&origin).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    if domain != id && !domain.ends_with(&format!(".{id}")) {
        r.problem(
            "WEBAUTHN_RP_ID",
            format!("expected {domain} or a domain that it is part of: browsers refuse passkeys otherwise"),
        );
    }
    if domain.parse::<Ipv4Addr>().is_ok() || domain.starts_with('[') {
        r.warn("PUBLIC_URL: browsers make no passkeys for an IP address; use a name".to_owned());
    } else if origin.starts_with("http://") && domain != "localhost" {
        r.warn("PUBLIC_URL: browsers make no passkeys without https, but for localhost".to_owned());
    }
    r.show("WEBAUTHN_RP_ID", id.clone());
    r.show("WEBAUTHN_RP_NAME", name.clone());
    r.show("WEBAUTHN_ORIGIN", origin.clone());
    RelyingParty { id, name, origin }
}

fn jwt_secret(r: &mut Reader<'_>, environment: Environment, data_dir: &Path, missing: MissingSecret) -> SecretString {
    // As given: white space is part of the key (contract, accounts section 5.1).
    if let Some(text) = r.verbatim("JWT_SECRET").filter(|text| !text.is_empty()) {
        let chars = text.chars().count();
        if chars < secret::MIN_CHARS {
            r.problem("JWT_SECRET", format!("has {chars} characters; expected at least {}", secret::MIN_CHARS));
        } else if secret::secrets_of(text).len() == 1 && secret::looks_like_several(text) {
            r.warn(format!(
                "JWT_SECRET: holds white space, but not every part has {} characters, so all of it is one secret",
                secret::MIN_CHARS
            ));
        }
        return SecretString::from(text);
    }
    if environment == Environment::Production {
        r.problem(
            "JWT_SECRET",
            format!(
                "is not set; in production expected at least {} random characters, for example from: openssl rand -hex 32",
                secret::MIN_CHARS
            ),
        );
    } else if !r.has_problems() && missing == MissingSecret::Make {
        match secret::kept_in(data_dir) {
            Ok(secret) => return SecretString::from(secret),
            Err(error) => r.problem(
                "JWT_SECRET",
                format!(
                    "is not set, and {} can't be used to keep a generated one: {error}",
                    data_dir.join(secret::FILE).display()
                ),
            ),
        }
    }
    SecretString::default()
}

fn cors(r: &mut Reader<'_>, environment: Environment) -> Cors {
    // Only the text `true` enables, and empty is not unset here (contract, operations section 2.1).
    let enabled = r.verbatim("CORS_ENABLED").is_none_or(|text| text == "true");
    let origins = r.value(
        "CORS_ORIGINS",
        "expected a comma-separated list of origins such as https://app.example.com, https://*.example.com or *",
        |text| text.split(',').map(|item| origin(item.trim())).collect::<Option<Vec<_>>>(),
    );
    if origins.iter().any(|origin| origin == "*") {
        if environment == Environment::Production {
            r.problem("CORS_ORIGINS", "* is refused in production; list the origins");
        } else {
            r.warn("CORS_ORIGINS: * lets every web page call the API");
        }
    }
    Cors { enabled, origins }
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

fn allowed_emails(r: &mut Reader<'_>) -> Vec<String> {
    let list = r.optional("ALLOWED_EMAILS", "expected a comma-separated list of addresses or *@domain", |text| {
        text.split(',')
            .map(|item| {
                let item = item.trim().to_lowercase();
                let (local, domain) = item.split_once('@')?;
                let fine = !local.is_empty() && !domain.is_empty() && !domain.contains(['@', '*']);
                (fine && (local == "*" || !local.contains('*'))).then_some(item)
            })
            .collect::<Option<Vec<_>>>()
    });
    list.unwrap_or_default()
}

fn test_mode(r: &mut Reader<'_>, environment: Environment) -> bool {
    if r.text("TEST_MODE") != Some("true") {
        return false;
    }
    if environment == Environment::Production {
        r.problem("TEST_MODE", "is refused in production; remove it");
    }
    if r.text("TEST_MODE_CONFIRM") != Some("yes-i-understand-the-risks") {
        r.problem(
            "TEST_MODE_CONFIRM",
            "expected yes-i-understand-the-risks, because TEST_MODE opens routes that delete everything",
        );
    }
    r.warn("TEST_MODE: anybody who reaches this server can create users and delete all data");
    true
}

fn rate_limits(r: &mut Reader<'_>) -> RateLimits {
    fn limit(r: &mut Reader<'_>, name: &str, minutes: u64) -> RateLimit {
        let max = r.value(name, "expected a whole number, 0 for no limit", number(0..=u64::from(u32::MAX)));
        RateLimit { max, window: Duration::from_secs(minutes * 60) }
    }
    let on = r.value("RATE_LIMITS", "expected on or off", |text| match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    });
    RateLimits {
        // Test mode drives one server from one address as fast as it can (contract, operations section 6).
        per_address: on && r.text("TEST_MODE") != Some("true"),
        uploads_per_user: limit(r, "UPLOADS_PER_USER_PER_MINUTE", 1),
        upload: limit(r, "RATE_LIMIT_UPLOADS_PER_MINUTE", 1),
        download: limit(r, "RATE_LIMIT_DOWNLOADS_PER_MINUTE", 1),
        snapshot: limit(r, "RATE_LIMIT_SNAPSHOTS_PER_15_MINUTES", 15),
        status: limit(r, "RATE_LIMIT_STATUS_PER_MINUTE", 1),
        devices: limit(r, "RATE_LIMIT_DEVICES_PER_MINUTE", 1),
        wipe: limit(r, "RATE_LIMIT_WIPES_PER_15_MINUTES", 15),
        restore_points: limit(r, "RATE_LIMIT_RESTORE_POINTS_PER_MINUTE", 1),
        restore: limit(r, "RATE_LIMIT_RESTORES_PER_5_MINUTES", 5),
        ws: limit(r, "RATE_LIMIT_WS_PER_MINUTE", 1),
        other: limit(r, "RATE_LIMIT_OTHER_PER_15_MINUTES", 15),
        register: limit(r, "RATE_LIMIT_REGISTER_PER_15_MINUTES", 15),
        login: limit(r, "RATE_LIMIT_LOGIN_PER_15_MINUTES", 15),
        verify_email: limit(r, "RATE_LIMIT_VERIFY_EMAIL_PER_15_MINUTES", 15),
        sign_in: limit(r, "RATE_LIMIT_SIGN_IN_PER_15_MINUTES", 15),
        forgot_password: limit(r, "RATE_LIMIT_FORGOT_PASSWORD_PER_15_MINUTES", 15),
        reset_password: limit(r, "RATE_LIMIT_RESET_PASSWORD_PER_15_MINUTES", 15),
        credentials: limit(r, "RATE_LIMIT_CREDENTIALS_PER_15_MINUTES", 15),
        replace_token: limit(r, "RATE_LIMIT_REPLACE_TOKEN_PER_15_MINUTES", 15),
        delete_account: limit(r, "RATE_LIMIT_DELETE_ACCOUNT_PER_15_MINUTES", 15),
        sessions: limit(r, "RATE_LIMIT_SESSIONS_PER_15_MINUTES", 15),
        ws_ticket: limit(r, "RATE_LIMIT_WS_TICKETS_PER_MINUTE", 1),
        admin: limit(r, "RATE_LIMIT_ADMIN_PER_15_MINUTES", 15),
    }
}

fn timeouts(r: &mut Reader<'_>) -> Timeouts {
    let timeouts = Timeouts {
        statement: r.value("STATEMENT_TIMEOUT_SECONDS", SECONDS, seconds),
        handler: r.value("REQUEST_TIMEOUT_SECONDS", SECONDS, seconds),
        socket: r.value("SOCKET_TIMEOUT_SECONDS", SECONDS, seconds),
        slow_request: r.value("SLOW_REQUEST_SECONDS", SECONDS, seconds),
        linger: r.value("SHUTDOWN_DELAY_SECONDS", DELAY, delay),
        drain: r.value("SHUTDOWN_TIMEOUT_SECONDS", SECONDS, seconds),
    };
    // Whatever gives up first must be able to report through the layers around it. Out of order works, but badly.
    if timeouts.statement >= CLIENT_ABORT {
        r.warn("STATEMENT_TIMEOUT_SECONDS: the app gives up after 75 s and never learns what a longer statement did");
    }
    if timeouts.statement >= timeouts.handler {
        r.warn(
            "STATEMENT_TIMEOUT_SECONDS is not below REQUEST_TIMEOUT_SECONDS: a blocked statement outlives its request",
        );
    }
    if timeouts.handler >= timeouts.socket {
        r.warn("REQUEST_TIMEOUT_SECONDS is not below SOCKET_TIMEOUT_SECONDS: a slow request loses its connection");
    }
    timeouts
}

fn limits(r: &mut Reader<'_>) -> Limits {
    let count = number(1..=10_000_000);
    let limits = Limits {
        upload_body_bytes: r.value("UPLOAD_BODY_BYTES", BYTES, bytes),
        upload_inflated_bytes: r.value("UPLOAD_INFLATED_BYTES", BYTES, bytes),
        snapshot_body_bytes: r.value("SNAPSHOT_BODY_BYTES", BYTES, bytes),
        snapshot_inflated_bytes: r.value("SNAPSHOT_INFLATED_BYTES", BYTES, bytes),
        page_bytes: r.value("PAGE_BYTES", BYTES, bytes),
        default_quota_bytes: r.lenient(
            "SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES",
            "expected a number of bytes, digits only, above 0",
            number(1..=i64::MAX.unsigned_abs()),
        ),
        min_free_disk_bytes: r.value("MIN_FREE_DISK_BYTES", BYTES, |text| match text {
            "0" => Some(0),
            _ => bytes(text).and_then(|bytes| u64::try_from(bytes).ok()),
        }),
        account_memory_bytes: r.value("ACCOUNT_MEMORY_BYTES", BYTES, bytes),
        actor_idle: r.value("ACTOR_IDLE_SECONDS", SECONDS, seconds),
        max_queued_requests: r.value("MAX_QUEUED_REQUESTS", COUNT, &count),
        max_queued_requests_per_user: r.value("MAX_QUEUED_REQUESTS_PER_USER", COUNT, &count),
        max_queued_bytes: r.value("MAX_QUEUED_BYTES", BYTES, bytes),
        max_sockets_per_user: r.value("MAX_SOCKETS_PER_USER", COUNT, &count),
        max_sockets: r.value("MAX_SOCKETS", COUNT, &count),
        max_replay_ops: r.value("MAX_REPLAY_OPS", COUNT, &count),
        max_replay_state_bytes: r.value("MAX_REPLAY_STATE_BYTES", BYTES, bytes),
        max_snapshot_blob_bytes: r.value("MAX_SNAPSHOT_BLOB_BYTES", BYTES, bytes),
        password_hash_parallelism: r.value(
            "PASSWORD_HASH_PARALLELISM",
            "expected a number from 1 to 64",
            number(1..=64),
        ),
    };
    for (body, name) in [
        (limits.upload_inflated_bytes, "UPLOAD_INFLATED_BYTES"),
        (limits.snapshot_inflated_bytes, "SNAPSHOT_INFLATED_BYTES"),
    ] {
        if limits.max_queued_bytes < body {
            r.problem(
                "MAX_QUEUED_BYTES",
                format!("expected at least {name}, or the largest request can never be served"),
            );
        }
    }
    limits
}

fn retention(r: &mut Reader<'_>) -> Retention {
    let digits = "expected a whole number above 0";
    // The Node server clamps these two (contract, operations section 2.1).
    let delete_batch =
        r.lenient("OLD_OPS_CLEANUP_DELETE_BATCH_SIZE", digits, number::<usize>(1..=u64::MAX)).min(50_000);
    let max_deleted_per_run =
        r.lenient("OLD_OPS_CLEANUP_MAX_DELETED_PER_RUN", digits, number::<usize>(1..=u64::MAX)).min(1_000_000);
    Retention {
        superseded: r.value("SUPERSEDED_OPS_RETENTION_DAYS", DAYS, days),
        archive: r.value("ARCHIVE_DAYS", DAYS, days),
        archive_percent: r.value("ARCHIVE_QUOTA_PERCENT", "expected a whole number from 0 to 1000", number(0..=1_000)),
        seal_after: r.value("SEAL_AFTER_HOURS", HOURS, hours),
        first_sweep: r.value("FIRST_SWEEP_SECONDS", SECONDS, seconds),
        sweep_every: r.value("SWEEP_INTERVAL_SECONDS", SECONDS, seconds),
        delete_batch,
        max_deleted_per_run,
    }
}
