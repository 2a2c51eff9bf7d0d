//! Cross-origin access (contract of accounts, section 10.2): only the web app needs it; native apps don't ask.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::Cors;

const METHODS: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";
const REQUEST_HEADERS: &str = "Authorization, Content-Type, Content-Encoding, Content-Transfer-Encoding, X-Expected-Rev, \
    X-Force-Overwrite, X-Requested-With";
const EXPOSED: &str = "X-Rev, X-Updated-At";
const MAX_AGE_SECONDS: &str = "86400";

#[derive(Clone, Debug)]
enum Rule {
    Any,
    Exact(String),
    /// `https://` and `.example.com`, lower case; between them stands exactly one label.
    OneLabel {
        scheme: String,
        suffix: String,
    },
}

impl Rule {
    fn new(pattern: &str) -> Self {
        match pattern.split_once("://*.") {
            _ if pattern == "*" => Self::Any,
            Some((scheme, domain)) => Self::OneLabel {
                scheme: format!("{}://", scheme.to_ascii_lowercase()),
                suffix: format!(".{}", domain.to_ascii_lowercase()),
            },
            None => Self::Exact(pattern.to_owned()),
        }
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == origin,
            Self::OneLabel { scheme, suffix } => {
                let origin = origin.to_ascii_lowercase();
                let label = origin.strip_prefix(scheme.as_str()).and_then(|rest| rest.strip_suffix(suffix.as_str()));
                label.is_some_and(|label| {
                    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                })
            }
        }
    }
}

/// Which origins may call.
#[derive(Clone, Debug)]
pub struct CorsPolicy {
    enabled: bool,
    rules: Vec<Rule>,
}

impl CorsPolicy {
    /// The policy as configured.
    #[must_use]
    pub fn new(config: &Cors) -> Self {
        Self { enabled: config.enabled, rules: config.origins.iter().map(|o| Rule::new(o)).collect() }
    }

    /// The origin to name in the answer, if this request's origin may call.
    fn allowed<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.rules.iter().any(|rule| rule.matches(text)).then_some(origin)
    }

    /// Answers a preflight, whatever the path.
    fn preflight(request: &HeaderMap) -> Response {
        if !request.contains_key(header::ORIGIN) || !request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return (StatusCode::BAD_REQUEST, "Invalid Preflight Request").into_response();
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_SECONDS));
        response
    }
}

/// One `Vary` header: some caches read only the first.
fn vary_by_origin(headers: &mut HeaderMap) {
    let others: Vec<&str> = headers.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok()).collect();
    let value = match others.as_slice() {
        [] => HeaderValue::from_static("Origin"),
        others => {
            HeaderValue::from_str(&format!("Origin, {}", others.join(", "))).unwrap_or(HeaderValue::from_static("*"))
        }
    };
    headers.insert(header::VARY, value);
}

/// Answers preflights and says to all other answers' readers who may read them.
pub async fn shared(policy: &CorsPolicy, request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    if !policy.enabled {
        return next(request).await;
    }
    let allowed = policy.allowed(request.headers()).cloned();
    let mut response = if request.method() == Method::OPTIONS {
        CorsPolicy::preflight(request.headers())
    } else {
        next(request).await
    };
    let headers = response.headers_mut();
    vary_by_origin(headers);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(patterns: &[&str], origin: &str) -> bool {
        let origins = patterns.iter().map(|p| (*p).to_owned()).collect();
        let policy = CorsPolicy::new(&Cors { enabled: true, origins });
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        policy.allowed(&headers).is_some()
    }

    #[test]
    fn exact_origins_match_exactly() {
        let app = "https://app.super-productivity.com";
        assert!(allows(&[app], app));
        assert!(!allows(&[app], "https://app.super-productivity.com.evil.example"));
        assert!(!allows(&[app], "http://app.super-productivity.com"));
        assert!(!allows(&[app], "null"));
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let pattern = ["https://*.example.com"];
        assert!(allows(&pattern, "https://a-1.example.com"));
        assert!(allows(&pattern, "https://A.EXAMPLE.com"));
        assert!(!allows(&pattern, "https://example.com"));
        assert!(!allows(&pattern, "https://.example.com"));
        assert!(!allows(&pattern, "https://a.b.example.com"));
        assert!(!allows(&pattern, "https://a_b.example.com"));
        assert!(!allows(&pattern, "https://evil.example/?x=.example.com"));
        assert!(!allows(&pattern, "https://a.example.com:8443"));
        assert!(allows(&["https://*.example.com:8443"], "https://a.example.com:8443"));
    }

    #[test]
    fn a_star_matches_everything() {
        assert!(allows(&["*"], "capacitor://localhost"));
    }
}
