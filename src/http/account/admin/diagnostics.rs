//! What is wrong with the set-up, and how to mend it: as seen in the very request that asks.
//!
//! Each check says one thing. A warning always comes with what to do; nothing here fails as a whole because one part
//! does.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use crate::config::{Config, TrustedProxies};
use crate::diagnosis::{self, Finding};
use crate::http::address::{self, Peer};
use crate::http::encode::{self, Answer};
use crate::http::error::{ApiError, ApiResult};
use crate::http::state::AppState;

/// A database that answers more slowly than this is worth a look.
const SLOW_DATABASE: Duration = Duration::from_millis(250);

/// A finding as the page reads it: whatever is not as it should be is a warning to it.
#[derive(Serialize, ToSchema)]
pub struct Check {
    id: &'static str,
    /// `ok` or `warning`.
    status: &'static str,
    found: String,
    advice: Option<String>,
}

impl From<Finding> for Check {
    fn from(finding: Finding) -> Self {
        let Finding { check: id, found, advice, .. } = finding;
        Self { id, status: if advice.is_some() { "warning" } else { "ok" }, found, advice }
    }
}

/// The state of the set-up.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostics {
    checks: Vec<Check>,
    /// Unix milliseconds.
    server_time: i64,
    seen: Seen,
}

pub async fn all(State(state): State<AppState>, parts: Parts) -> ApiResult<Answer<Diagnostics>> {
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
    let seen = Seen::of(&parts.headers, peer, address::of(&parts, &state.config.trusted_proxies));
    let config = &state.config;
    let (database, clock) = database(&state).await;
    let data_dir = config.data_dir.clone();
    let disk = tokio::task::spawn_blocking(move || diagnosis::disk(&data_dir));
    let findings = [
        public_url(&config.public_url, &seen),
        https(&config.public_url, &seen),
        proxies(config, &seen),
        clock,
        database,
        diagnosis::mail(config),
        disk.await.map_err(ApiError::internal)?,
    ];
    let checks = findings.into_iter().map(Check::from).collect();
    encode::private(&Diagnostics { checks, server_time: state.clock.now_ms(), seen })
}

/// How the request arrived.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    #[schema(value_type = Option<String>)]
    peer: Option<IpAddr>,
    #[schema(value_type = Option<String>)]
    #[serde(rename = "clientAddress")]
    client: Option<IpAddr>,
    host: Option<String>,
    forwarded_for: Option<String>,
    forwarded_proto: Option<String>,
    forwarded_host: Option<String>,
}

impl Seen {
    fn of(headers: &HeaderMap, peer: Option<IpAddr>, client: Option<IpAddr>) -> Self {
        let all = |name: &str| {
            let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        Self {
            peer,
            client,
            host: all(header::HOST.as_str()),
            forwarded_for: all("x-forwarded-for"),
            forwarded_proto: all("x-forwarded-proto"),
            forwarded_host: all("x-forwarded-host"),
        }
    }
}

/// Without the port that the scheme implies anyway.
fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn public_url(configured: &str, seen: &Seen) -> Finding {
    const ID: &str = "public-url";
    let Ok(url) = Url::parse(configured) else {
        return Finding::warning(ID, format!("PUBLIC_URL is {configured}, which is no address"), "Set PUBLIC_URL.");
    };
    let called = seen.forwarded_host.as_ref().or(seen.host.as_ref());
    let Some(called) = called else {
        return Finding::ok(ID, format!("PUBLIC_URL is {configured}; the request does not say what it called"));
    };
    let implied = match url.scheme() {
        "https" => ":443",
        _ => ":80",
    };
    let expected = authority(&url);
    if called.strip_suffix(implied).unwrap_or(called).eq_ignore_ascii_case(&expected) {
        return Finding::ok(ID, format!("PUBLIC_URL is {configured}, which matches the address in your browser"));
    }
    Finding::warning(
        ID,
        format!("PUBLIC_URL is {configured}, but you came by {called}"),
        "Links in mails begin with PUBLIC_URL. Set it to the address that you type into the browser; if it is right, make the \
         reverse proxy pass the Host header on.",
    )
}

/// Besides what is configured, how this request came.
fn https(configured: &str, seen: &Seen) -> Finding {
    let judged = diagnosis::https(configured);
    match seen.forwarded_proto.as_deref() {
        Some(proto) if configured.starts_with("https:") && !proto.eq_ignore_ascii_case("https") => Finding::warning(
            judged.check,
            format!("PUBLIC_URL is https, but this request reached the proxy by {proto}"),
            "Make the reverse proxy redirect http to https.",
        ),
        _ => judged,
    }
}

fn proxies(config: &Config, seen: &Seen) -> Finding {
    const ID: &str = "proxies";
    let trusted = &config.trusted_proxies;
    let entries = seen.forwarded_for.as_deref().map_or(0, |text| text.split(',').count());
    let name = |address: Option<IpAddr>| {
        address.map_or_else(|| "unknown".to_owned(), |address| address.to_canonical().to_string())
    };
    let found = format!(
        "your address is seen as {}, by way of {}; TRUSTED_PROXIES is {trusted}, X-Forwarded-For has {entries} entries",
        name(seen.client),
        name(seen.peer)
    );
    let advice = match trusted {
        TrustedProxies::Networks(_) => unlikely_networks(trusted, seen, entries).map(str::to_owned),
        TrustedProxies::Hops(hops) => unlikely_count(*hops, seen, entries).map(|advice| {
            format!("{advice} Better list the addresses or networks of the proxies: with a number, any client that reaches the port directly is trusted.")
        }),
    };
    match advice {
        Some(advice) => Finding::warning(ID, found, advice),
        None => Finding::ok(ID, found),
    }
}

/// What to do about networks that don't fit what is seen.
fn unlikely_networks(trusted: &TrustedProxies, seen: &Seen, entries: usize) -> Option<&'static str> {
    let peer = seen.peer?;
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    if !trusted.trusts(peer) {
        return (entries > 0).then_some(
            "Whoever passed this request on is not trusted, so the address that it reports does not count. If that is your \
             reverse proxy, all users share its address and its rate limits: add it to TRUSTED_PROXIES.",
        );
    }
    let client = seen.client.filter(|client| trusted.trusts(*client) && !is_loopback(*client))?;
    if entries == 0 && client == peer.to_canonical() {
        return Some(
            "This request came from a trusted network, but through no proxy, so who is there can pretend to come from \
             elsewhere. Narrow TRUSTED_PROXIES to the proxy's own address, or let only the proxy reach the server's port.",
        );
    }
    Some(
        "Your own address is in a network that is trusted, so who is there can pretend to come from elsewhere. If it is not \
         your address, but a gateway's, all users share it. Narrow TRUSTED_PROXIES to the proxies' own addresses, and let the \
         outermost see who connects.",
    )
}

/// What to do about a number of proxies that does not fit what is seen.
fn unlikely_count(hops: usize, seen: &Seen, entries: usize) -> Option<&'static str> {
    match (hops, entries) {
        (0, 1..) => Some(
            "Requests come through a reverse proxy, so all users share its address and its rate limits. Set TRUSTED_PROXIES to \
             the addresses of the proxies in front of the server.",
        ),
        (hops, entries) if entries > hops => Some(
            "More proxies report an address than TRUSTED_PROXIES says. If your own address is not the one above, raise it to \
             the number of proxies in front of the server.",
        ),
        (hops @ 2.., entries) if entries < hops => Some(
            "Fewer proxies report an address than TRUSTED_PROXIES says, so clients can pretend to come from elsewhere. Lower \
             it to the number of proxies in front of the server.",
        ),
        (1.., 0) if seen.peer.is_some_and(|peer| !peer.to_canonical().is_loopback()) => Some(
            "This request came through no proxy, but one is trusted, so clients can pretend to come from elsewhere. Set \
             TRUSTED_PROXIES=none, or let only the proxy reach the server's port.",
        ),
        _ => None,
    }
}

/// Database and clock: one look tells both.
async fn database(state: &AppState) -> (Finding, Finding) {
    let request = Instant::now();
    let before_ms = state.clock.now_ms();
    match state.accounts.database_facts().await {
        Ok(facts) => {
            let took = request.elapsed();
            let found = format!("{} answers within {} ms", state.store.kind(), took.as_millis());
            let database = if took > SLOW_DATABASE {
                let advice = "Look at the load of the database server and at the way to it.";
                Finding::warning("database", found, advice)
            } else {
                Finding::ok("database", found)
            };
            // It was read somewhere between.
            let difference_ms = facts.now_ms.clamp(before_ms, before_ms + millis(took)).abs_diff(facts.now_ms);
            (database, diagnosis::clock("the database", Duration::from_millis(difference_ms)))
        }
        Err(error) => {
            tracing::warn!(%error, "the database does not answer the diagnostics");
            let advice = "See the server's log for the reason; check DATABASE_URL and the database server.";
            let clock = Finding::ok("clock", "nothing to compare with");
            (Finding::warning("database", "the database does not answer", advice), clock)
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(host: &str) -> Seen {
        Seen { host: Some(host.to_owned()), ..Seen::default() }
    }

    fn is_ok(check: &Finding) -> bool {
        check.advice.is_none()
    }

    #[test]
    fn the_public_url_is_the_one_that_is_used() {
        let configured = "https://sync.example.org";
        for (host, fits) in
            [("sync.example.org", true), ("SYNC.example.org:443", true), ("10.0.0.1:1900", false), ("", false)]
        {
            assert_eq!(is_ok(&public_url(configured, &seen(host))), fits, "{host}");
        }
        assert!(is_ok(&public_url("http://localhost:1900", &seen("localhost:1900"))));
        assert!(!is_ok(&public_url("http://localhost:1900", &seen("localhost"))));
        let behind_proxy = Seen { forwarded_host: Some("sync.example.org".into()), ..seen("backend:1900") };
        assert!(is_ok(&public_url(configured, &behind_proxy)));
        assert!(!is_ok(&public_url("nonsense", &seen("x"))));
        assert!(is_ok(&public_url(configured, &Seen::default())));
    }

    #[test]
    fn a_proxy_that_takes_http_is_told() {
        let by = |proto: Option<&str>| Seen { forwarded_proto: proto.map(str::to_owned), ..Seen::default() };
        assert!(
            is_ok(&https("https://a.example", &by(None))) && is_ok(&https("https://a.example", &by(Some("https"))))
        );
        assert!(!is_ok(&https("https://a.example", &by(Some("http")))));
        assert!(!is_ok(&https("http://a.example", &by(Some("http")))));
        assert!(is_ok(&https("http://localhost:1900", &by(Some("http")))));
    }

    #[test]
    fn proxies_are_compared_with_how_a_request_comes() {
        let variables = [("DATA_DIR".to_owned(), "/nonexistent".to_owned()), ("JWT_SECRET".to_owned(), "x".repeat(32))];
        let mut config = Config::parse(&variables.into()).expect("the settings are right");
        let mut check = |trusted: &str, forwarded: Option<&str>, peer: &str| {
            config.trusted_proxies = TrustedProxies::parse(trusted).expect("valid");
            let mut headers = HeaderMap::new();
            if let Some(forwarded) = forwarded {
                headers.insert("x-forwarded-for", forwarded.parse().expect("a value"));
            }
            let peer = peer.parse().expect("an address");
            let client = address::client(&headers, peer, &config.trusted_proxies);
            is_ok(&proxies(&config, &Seen::of(&headers, Some(peer), Some(client))))
        };
        for (trusted, forwarded, peer) in [
            ("loopback", Some("1.1.1.1"), "127.0.0.1"),
            ("loopback", Some("6.6.6.6, 1.1.1.1"), "127.0.0.1"),
            ("loopback", None, "127.0.0.1"),
            ("loopback", None, "10.0.0.1"),
            ("private", Some("1.1.1.1, 10.0.0.2"), "10.0.0.1"),
            ("none", None, "10.0.0.1"),
            ("1", Some("1.1.1.1"), "10.0.0.1"),
            ("2", Some("1.1.1.1, 2.2.2.2"), "10.0.0.1"),
            ("0", None, "10.0.0.1"),
            ("1", None, "127.0.0.1"),
        ] {
            assert!(check(trusted, forwarded, peer), "{trusted} {forwarded:?} {peer}");
        }
        for (trusted, forwarded, peer) in [
            ("loopback", Some("1.1.1.1"), "10.0.0.1"),
            ("none", Some("1.1.1.1"), "10.0.0.1"),
            ("private", None, "10.0.0.1"),
            ("private", Some("172.18.0.1"), "172.18.0.3"),
            ("0", Some("1.1.1.1"), "10.0.0.1"),
            ("1", Some("1.1.1.1, 2.2.2.2"), "10.0.0.1"),
            ("2", Some("1.1.1.1"), "10.0.0.1"),
            ("1", None, "10.0.0.1"),
        ] {
            assert!(!check(trusted, forwarded, peer), "{trusted} {forwarded:?} {peer}");
        }
    }
}
