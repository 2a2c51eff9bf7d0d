//! From variables to [`Config`]: one function per concern, each reading its variables and noting what is wrong.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::webauthn::RelyingParty;

use super::given::is_of_service;
use super::kinds::ADDRESS;
use super::reader::{Given, Reader};
use super::{
    Config, ConfigErrors, Cors, Environment, Limits, Loaded, RateLimits, Retention, Timeouts, TraceExport,
    TrustedProxies, database, legal, mail, retired, secret, settings,
};

/// After which the released app gives up on one request (contract, operations section 3).
const CLIENT_ABORT: Duration = Duration::from_secs(75);

const HTTPS: &str = "in production expected the https:// address under which users reach the server";

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
    let environment = r.get(&settings::SUPERSYNC_ENV);
    let host = host(r);
    let port = r.get(&settings::PORT);
    let data_dir = r.get(&settings::DATA_DIR);
    let public_url = public_url(r, environment, port);
    let database = database::read(r, &data_dir);
    let relying_party = relying_party(r, &public_url);
    let mail = mail::read(r, environment, &data_dir, &public_url);
    let test_mode = test_mode(r, environment);
    let mut config = Config {
        environment,
        host,
        port,
        public_url,
        database,
        cors: cors(r, environment),
        allowed_emails: r.optional(&settings::ALLOWED_EMAILS).unwrap_or_default(),
        mail,
        legal: legal::read(r, &data_dir),
        registration: r.get(&settings::REGISTRATION),
        relying_party,
        encryption_policy: r.get(&settings::ENCRYPTION_POLICY),
        test_mode,
        trusted_proxies: trusted_proxies(r),
        metrics_addr: r.get(&settings::METRICS_ADDR),
        backup_dir: r.optional(&settings::BACKUP_DIR),
        traces: traces(r),
        log_format: r.get(&settings::LOG_FORMAT),
        log_filter: r.get(&settings::LOG_LEVEL),
        rate_limits: rate_limits(r, test_mode),
        timeouts: Timeouts::read(r),
        limits: Limits::read(r),
        retention: Retention::read(r),
        data_dir,
        jwt_secret: SecretString::default(),
    };
    retired::apply(r, &mut config);
    check_timeouts(r, &config.timeouts);
    check_limits(r, &config.limits);
    // Last: it writes a file, which is not worth doing for a configuration that is refused.
    config.jwt_secret = jwt_secret(r, environment, &config.data_dir, missing_secret);
    let all: Vec<_> = settings::variables().collect();
    let (settings, warnings) = reader.finish(&all, retired::all().map(|retired| retired.name))?;
    Ok(Loaded { config, settings, warnings })
}

/// Our own prefix leaves no room for typing errors; other names may be anybody's.
fn names(r: &mut Reader<'_>) {
    for (name, text) in r.names() {
        if let Some((_, reason)) = settings::WITHOUT_EFFECT.iter().find(|(known, _)| *known == name) {
            if !text.trim().is_empty() {
                r.warn(format!("{name} has no effect: {reason}"));
            }
        } else if name.starts_with("SUPERSYNC_")
            && settings::find(name).is_none()
            && !settings::is_of_others(name)
            && !is_of_service(name, text)
        {
            // Many of our settings don't have the prefix that was typed.
            let bare = name.trim_start_matches("SUPERSYNC_");
            let distance = |known: &str| strsim::levenshtein(name, known).min(strsim::levenshtein(bare, known));
            let similar = settings::variables().map(|known| (distance(known.name), known.name)).min();
            let hint =
                similar.filter(|(distance, _)| *distance <= 4).map(|(_, known)| format!("; did you mean {known}?"));
            r.problem_elsewhere(name, format!("there is no such variable{}", hint.unwrap_or_default()));
        }
    }
}

fn host(r: &mut Reader<'_>) -> IpAddr {
    // Empty is not unset here (contract, operations section 2.1).
    if r.verbatim(&settings::HOST).is_some_and(|text| text.trim().is_empty()) {
        r.problem(&settings::HOST, format!("{}; remove it for the default", ADDRESS.expected));
    }
    // Who leaves test mode on by mistake is at least not open to the network.
    let is_test_mode = r.text(&settings::TEST_MODE) == Some("true");
    let default = if is_test_mode { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let host = r.optional(&settings::HOST).unwrap_or(IpAddr::V4(default));
    r.show(&settings::HOST, host.to_string());
    host
}

fn trusted_proxies(r: &mut Reader<'_>) -> TrustedProxies {
    let trusted = r.get(&settings::TRUSTED_PROXIES);
    if let Some(warning) = trusted.warning() {
        r.warn(warning);
    }
    trusted
}

fn public_url(r: &mut Reader<'_>, environment: Environment, port: u16) -> String {
    let key = &settings::PUBLIC_URL;
    let given = r.optional(key);
    if environment == Environment::Production {
        if r.text(key).is_none() {
            r.problem(key, format!("is not set; {HTTPS}"));
        } else if given.as_ref().is_some_and(|url| !url.starts_with("https:")) {
            r.problem(key, HTTPS);
        }
    }
    let url = given.unwrap_or_else(|| format!("http://localhost:{port}"));
    r.show(key, url.clone());
    url
}

/// Passkeys are bound to the id for ever, so it is worth a warning when it can't work.
fn relying_party(r: &mut Reader<'_>, public_url: &str) -> RelyingParty {
    let url = Url::parse(public_url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or("localhost").to_owned();
    let origin = url.map_or_else(|| public_url.to_owned(), |url| url.origin().ascii_serialization());
    let id = r.optional(&settings::WEBAUTHN_RP_ID).unwrap_or(host);
    let name = r.optional(&settings::WEBAUTHN_RP_NAME).unwrap_or_else(|| id.clone());
    let origin = r.optional(&settings::WEBAUTHN_ORIGIN).unwrap_or(origin);
    let domain = Url::parse(&origin).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    if domain != id && !domain.ends_with(&format!(".{id}")) {
        r.problem(
            &settings::WEBAUTHN_RP_ID,
            format!("expected {domain} or a domain that it is part of: browsers refuse passkeys otherwise"),
        );
    }
    if domain.parse::<Ipv4Addr>().is_ok() || domain.starts_with('[') {
        r.warn("PUBLIC_URL: browsers make no passkeys for an IP address; use a name".to_owned());
    } else if origin.starts_with("http://") && domain != "localhost" {
        r.warn("PUBLIC_URL: browsers make no passkeys without https, but for localhost".to_owned());
    }
    r.show(&settings::WEBAUTHN_RP_ID, id.clone());
    r.show(&settings::WEBAUTHN_RP_NAME, name.clone());
    r.show(&settings::WEBAUTHN_ORIGIN, origin.clone());
    RelyingParty { id, name, origin }
}

fn jwt_secret(r: &mut Reader<'_>, environment: Environment, data_dir: &Path, missing: MissingSecret) -> SecretString {
    let key = &settings::JWT_SECRET;
    // As given: white space is part of the key (contract, accounts section 5.1).
    if let Some(text) = r.verbatim(key).filter(|text| !text.is_empty()) {
        let chars = text.chars().count();
        if chars < secret::MIN_CHARS {
            r.problem(key, format!("has {chars} characters; expected at least {}", secret::MIN_CHARS));
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
            key,
            format!(
                "is not set; in production expected at least {} random characters, for example from: openssl rand -hex 32",
                secret::MIN_CHARS
            ),
        );
    } else if !r.has_problems() && missing == MissingSecret::Make {
        match secret::kept_in(data_dir) {
            Ok(secret) => return SecretString::from(secret),
            Err(error) => r.problem(
                key,
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
    let enabled = r.verbatim(&settings::CORS_ENABLED).is_none_or(|text| text == "true");
    let origins = r.get(&settings::CORS_ORIGINS);
    if origins.iter().any(|origin| origin == "*") {
        if environment == Environment::Production {
            r.problem(&settings::CORS_ORIGINS, "* is refused in production; list the origins");
        } else {
            r.warn("CORS_ORIGINS: * lets every web page call the API");
        }
    }
    Cors { enabled, origins }
}

fn test_mode(r: &mut Reader<'_>, environment: Environment) -> bool {
    let (mode, confirm) = (&settings::TEST_MODE, &settings::TEST_MODE_CONFIRM);
    if r.text(mode) != Some("true") {
        return false;
    }
    if environment == Environment::Production {
        r.problem(mode, "is refused in production; remove it");
    }
    if r.text(confirm) != Some("yes-i-understand-the-risks") {
        r.problem(
            confirm,
            "expected yes-i-understand-the-risks, because TEST_MODE opens routes that delete everything",
        );
    }
    r.warn("TEST_MODE: anybody who reaches this server can create users and delete all data");
    true
}

fn rate_limits(r: &mut Reader<'_>, test_mode: bool) -> RateLimits {
    let (factors, uploads_per_user) = (r.get(&settings::RATE_LIMITS), r.get(&settings::UPLOADS_PER_USER_PER_MINUTE));
    let limits = RateLimits::new(factors, uploads_per_user);
    // Test mode drives one server from one address as fast as it can (contract, operations section 6).
    RateLimits { per_address: limits.per_address && !test_mode, ..limits }
}

/// A layer that gives up first must be able to report through those around it. Out of order works, but badly.
fn check_timeouts(r: &mut Reader<'_>, timeouts: &Timeouts) {
    if timeouts.statement >= CLIENT_ABORT {
        r.warn(
            "REQUEST_TIMEOUT_SECONDS: the app gives up after 75 s and never learns what a longer statement did; a statement \
             has three quarters of a request's time",
        );
    }
    if timeouts.statement >= timeouts.handler {
        r.warn(
            "STATEMENT_TIMEOUT_SECONDS is not below REQUEST_TIMEOUT_SECONDS: a blocked statement outlives its request",
        );
    }
    if timeouts.handler >= timeouts.socket {
        r.warn("REQUEST_TIMEOUT_SECONDS is not below SOCKET_TIMEOUT_SECONDS: a slow request loses its connection");
    }
}

fn check_limits(r: &mut Reader<'_>, limits: &Limits) {
    if limits.max_queued_bytes < limits.upload_inflated_bytes.max(limits.snapshot_inflated_bytes) {
        r.problem(
            &settings::MAX_QUEUED_BYTES,
            "expected at least twice SNAPSHOT_BODY_BYTES, or the largest request can never be served",
        );
    }
}

/// The exporter's settings, if there is a collector.
fn traces(r: &mut Reader<'_>) -> Option<TraceExport> {
    let endpoint = r.optional(&settings::OTEL_EXPORTER_OTLP_ENDPOINT);
    let headers = r.optional(&settings::OTEL_EXPORTER_OTLP_HEADERS).unwrap_or_default();
    if !headers.is_empty() {
        r.show(&settings::OTEL_EXPORTER_OTLP_HEADERS, "***");
    }
    let service = r.get(&settings::OTEL_SERVICE_NAME);
    let share = r.get(&settings::OTEL_TRACES_SAMPLER_ARG);
    Some(TraceExport { endpoint: endpoint?, headers, service, share })
}
