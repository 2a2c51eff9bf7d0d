//! A server under a path, such as `https://example.com/sync`: proxies take the path off, or pass it on as it came. Both
//! work, since routes know nothing of it.

use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;

/// Takes the path off a request that has it. Returns the answer to a request for the path without the slash at its end,
/// where relative addresses would lead elsewhere.
pub(super) fn strip(request: &mut Request, base_path: &str) -> Option<Response> {
    if base_path.is_empty() {
        return None;
    }
    let target = request.uri().path_and_query()?.as_str();
    let rest = target.strip_prefix(base_path)?;
    if rest.is_empty() || rest.starts_with('?') {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
        let location = HeaderValue::from_str(&format!("{base_path}/{rest}")).ok()?;
        answer.headers_mut().insert(header::LOCATION, location);
        return Some(answer);
    }
    if !rest.starts_with('/') {
        return None;
    }
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(target: &str, base_path: &str) -> (String, Option<String>) {
        let mut request = Request::get(target).body(Body::empty()).expect("a request");
        let redirect = strip(&mut request, base_path);
        let location = redirect.map(|answer| answer.headers()[header::LOCATION].to_str().expect("text").to_owned());
        (request.uri().to_string(), location)
    }

    #[test]
    fn the_path_is_taken_off_and_other_paths_stay() {
        for (target, base_path, expected) in [
            ("/sync/api/sync/ops?sinceSeq=0", "/sync", "/api/sync/ops?sinceSeq=0"),
            ("/sync/", "/sync", "/"),
            ("/sync/?lang=de", "/sync", "/?lang=de"),
            ("/sync/sync/x", "/sync", "/sync/x"),
            ("/a/b/health", "/a/b", "/health"),
            ("/api/sync/ops", "/sync", "/api/sync/ops"),
            ("/syncing", "/sync", "/syncing"),
            ("/sync/health", "", "/sync/health"),
            ("http://host/sync/health", "/sync", "http://host/health"),
        ] {
            assert_eq!(stripped(target, base_path), (expected.to_owned(), None), "{target}");
        }
    }

    #[test]
    fn the_slash_at_the_end_is_asked_for() {
        assert_eq!(stripped("/sync", "/sync").1.as_deref(), Some("/sync/"));
        assert_eq!(stripped("/sync?lang=de&x=1", "/sync").1.as_deref(), Some("/sync/?lang=de&x=1"));
    }
}
