//! A secret in an `HttpOnly` cookie that ties the browser of a registration to the mailed link. Registered credentials
//! count only with it ([`crate::accounts::Receipt`]); the link alone proves the address only.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use secrecy::{ExposeSecret as _, SecretString};

use super::state::AppState;
use crate::accounts::VERIFY_EMAIL_LIFETIME_MS;

/// With this prefix browsers guarantee that this host itself set the cookie, over HTTPS.
const NAME: &str = "__Host-registration";
/// Without HTTPS.
const PLAIN_NAME: &str = "registration";

fn is_secure(state: &AppState) -> bool {
    state.config.public_url.starts_with("https://")
}

/// Sets the cookie in the answer to a registration, for the lifetime of the link.
pub(super) fn hand_out(mut response: Response, state: &AppState, secret: &SecretString) -> Response {
    let (name, secure) = if is_secure(state) { (NAME, "; Secure") } else { (PLAIN_NAME, "") };
    let (secret, seconds) = (secret.expose_secret(), VERIFY_EMAIL_LIFETIME_MS / 1000);
    // Lax: the link is opened from a mail program, which is another site.
    let cookie = format!("{name}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The secret in a request's cookie.
pub(super) fn shown(headers: &HeaderMap, state: &AppState) -> Option<SecretString> {
    let name = if is_secure(state) { NAME } else { PLAIN_NAME };
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, secret)| secret.to_owned().into())
}
