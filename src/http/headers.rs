//! Headers that every answer carries to protect browsers (contract of accounts, section 10.1).

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;

const POLICY: &str = "default-src 'self';script-src 'self';style-src 'self';img-src 'self' data:;\
    font-src 'self';object-src 'none';frame-ancestors 'none';form-action 'self';base-uri 'self';script-src-attr 'none'";
const POLICY_HTTPS: &str = "default-src 'self';script-src 'self';style-src 'self';img-src 'self' data:;\
    font-src 'self';object-src 'none';frame-ancestors 'none';form-action 'self';base-uri 'self';script-src-attr 'none';\
    upgrade-insecure-requests";

/// Headers that an answer has beside these.
const OTHER_HEADERS: usize = 9;

/// The headers, put together once.
#[derive(Clone, Debug)]
pub struct SecurityHeaders(Vec<(HeaderName, HeaderValue)>);

impl SecurityHeaders {
    /// The headers of a server at `public_url`. What commits a browser to https is left out unless that is where the
    /// server lives: on a plain-http network it would make the pages unreachable.
    #[must_use]
    pub fn new(public_url: &str) -> Self {
        let https = public_url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let mut all = vec![
            (header::CONTENT_SECURITY_POLICY, if https { POLICY_HTTPS } else { POLICY }),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            (HeaderName::from_static("origin-agent-cluster"), "?1"),
            (header::X_DNS_PREFETCH_CONTROL, "off"),
            (HeaderName::from_static("x-download-options"), "noopen"),
            (HeaderName::from_static("x-permitted-cross-domain-policies"), "none"),
            (header::X_XSS_PROTECTION, "0"),
        ];
        if https {
            all.push((header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains"));
        }
        Self(all.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect())
    }

    fn apply(&self, headers: &mut HeaderMap) {
        // Also what the layers around add: growing step by step would move all of them several times.
        headers.reserve(self.0.len() + OTHER_HEADERS);
        for (name, value) in &self.0 {
            // A page may have a stricter policy of its own.
            headers.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Adds the headers, and forbids caching of API answers: they hold an account's data or a session.
pub async fn protected(
    security: &SecurityHeaders,
    request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let mut response = next(request).await;
    let headers = response.headers_mut();
    security.apply(headers);
    if is_api {
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        SecurityHeaders::new(url).apply(&mut headers);
        headers
    }

    #[test]
    fn only_an_https_server_commits_browsers_to_https() {
        let (plain, secure) = (of("http://nas.local:1900"), of("https://sync.example.com"));
        assert!(!plain.contains_key(header::STRICT_TRANSPORT_SECURITY));
        assert!(!plain[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("upgrade-insecure-requests"));
        assert_eq!(secure[header::STRICT_TRANSPORT_SECURITY], "max-age=31536000; includeSubDomains");
        assert!(secure[header::CONTENT_SECURITY_POLICY].to_str().unwrap().ends_with(";upgrade-insecure-requests"));
    }

    #[test]
    fn both_kinds_differ_in_nothing_else() {
        let (plain, secure) = (of("http://nas.local"), of("https://sync.example.com"));
        assert_eq!(format!("{POLICY};upgrade-insecure-requests"), POLICY_HTTPS);
        assert_eq!(plain.len() + 1, secure.len());
        assert_eq!(plain[header::REFERRER_POLICY], "no-referrer");
        assert_eq!(plain[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
