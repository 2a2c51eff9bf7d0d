//! The page behind a verification link (accounts contract, sections 9 and 13).
//!
//! Opening it changes nothing, because mail scanners open links: it shows a button, and only the button's POST
//! verifies. A plain form needs no script. Its address is relative, so the page works under a path prefix too.

use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::no_store;
use crate::accounts::VerifyError;
use crate::http::body;
use crate::http::encode;
use crate::http::error::{ApiError, ApiResult};
use crate::http::state::AppState;
use crate::mail::escape_html;

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
/// The form holds one short token.
const MAX_FORM_BYTES: usize = 4 * 1024;

/// `GET /verify-email?token=…`.
pub(super) async fn verify_email(RawQuery(query): RawQuery) -> Response {
    match token_of(query.unwrap_or_default().as_bytes()) {
        None => text(StatusCode::BAD_REQUEST, "Token is required"),
        Some(token) => page(
            "Verify your email",
            "Verify your email",
            &format!(
                "<p>One click is left to verify your SuperSync account.</p>\n\
                 <form method=\"post\" action=\"verify-email\">\n\
                 <input type=\"hidden\" name=\"token\" value=\"{}\">\n\
                 <button type=\"submit\">Verify email</button>\n</form>\n\
                 <p>If you did not register, close this page.</p>",
                escape_html(&token)
            ),
        ),
    }
}

/// `POST /verify-email` with the page's form.
pub(super) async fn verify_email_confirmed(State(state): State<AppState>, request: Request) -> ApiResult {
    let (parts, body) = request.into_parts();
    let form = body::read(&parts.headers, body, MAX_FORM_BYTES, state.config.timeouts.socket).await?;
    let Some(token) = token_of(&form) else { return Ok(text(StatusCode::BAD_REQUEST, "Token is required")) };
    match state.accounts.verify_email(&token).await {
        Ok(()) => Ok(page(
            "Email Verified",
            "Email Verified!",
            "<p>Your account is ready. You can now sign in.</p>\n<p><a href=\"./\">Go to SuperSync</a></p>",
        )),
        Err(error @ (VerifyError::Invalid | VerifyError::Expired)) => {
            Ok(text(StatusCode::BAD_REQUEST, &format!("Verification failed: {error}")))
        }
        Err(VerifyError::Database(error)) => Err(ApiError::from(error)),
    }
}

/// The first `token` that is not empty.
fn token_of(form: &[u8]) -> Option<String> {
    let mut members = url::form_urlencoded::parse(form);
    members.find(|(name, value)| name == "token" && !value.is_empty()).map(|(_, value)| value.into_owned())
}

fn page(title: &str, heading: &str, content: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>body{{font-family:sans-serif;max-width:32rem;margin:4rem auto;padding:0 1rem;text-align:center}}\
         button{{font-size:1rem;padding:.75rem 1.5rem}}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n{content}\n</body>\n</html>\n"
    );
    no_store(encode::with_type(StatusCode::OK, HTML, Body::from(html)))
}

fn text(status: StatusCode, text: &str) -> Response {
    no_store(encode::with_type(status, TEXT, Body::from(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_counts_and_an_empty_one_is_none() {
        assert_eq!(token_of(b""), None);
        assert_eq!(token_of(b"token=&x=1"), None);
        assert_eq!(token_of(b"x=1&token=a%22b&token=c").as_deref(), Some("a\"b"));
    }
}
