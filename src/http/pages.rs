//! Pages for people: sign-in and account, the pages behind mailed links, administration, legal pages (accounts
//! contract, section 9; operations contract, section 2.1).
//!
//! Promises that everything is compiled in and rendered in memory; that no page has inline scripts or styles, so the
//! strict content policy of [`super::headers`] holds; that pages work under the path of `PUBLIC_URL` and, as far as
//! addresses are relative, under any other; and that opening a page changes nothing. Pages hold no account's data: their scripts fetch it with the
//! session token that the browser keeps for this tab.

use askama::Template;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::encode::{self, no_store};
use super::error::{ApiError, ApiResult};
use super::state::AppState;
use crate::config::{Config, RegistrationMode};
use crate::language::Language;

pub mod api;
pub mod assets;
pub mod legal;
pub mod link;

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// What the layout of every page needs.
pub struct Frame {
    /// Where the page's style and scripts are.
    assets: String,
    /// What stays in the address when the language is changed, with a trailing `&`.
    query: String,
    privacy: bool,
    terms: bool,
}

impl Frame {
    fn new(config: &Config, query: String) -> Self {
        let legal = &config.legal;
        // With its path, so that a page at `/sync`, without the slash that belongs there, still finds them.
        let assets = match config.base_path() {
            path if path.is_empty() => assets::folder().to_owned(),
            path => format!("{path}/{}", assets::folder()),
        };
        Self { assets, query, privacy: legal.controller.is_some(), terms: legal.terms.is_some() }
    }

    /// For the language switch.
    #[expect(clippy::unused_self, reason = "templates call methods of what they are given")]
    fn languages(&self) -> [Language; 2] {
        Language::ALL
    }
}

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    t: Language,
    frame: Frame,
    /// Whether links can be mailed.
    mail: bool,
    /// Instead of the registration form: the text that says why there is none.
    closed: Option<&'static str>,
    consent: bool,
    europe: bool,
    /// The token of an invitation, or nothing.
    invite: String,
}

#[derive(Template)]
#[template(path = "admin.html")]
struct Admin {
    t: Language,
    frame: Frame,
}

#[derive(Template)]
#[template(path = "notice.html")]
struct Notice {
    t: Language,
    frame: Frame,
    title: &'static str,
    heading: &'static str,
    words: String,
    is_error: bool,
}

pub async fn home(State(state): State<AppState>, RawQuery(query): RawQuery, headers: HeaderMap) -> ApiResult {
    front(&state, language(query.as_deref(), &headers), String::new())
}

/// The front page for somebody with an invitation.
pub async fn invited(State(state): State<AppState>, RawQuery(query): RawQuery, headers: HeaderMap) -> ApiResult {
    let t = language(query.as_deref(), &headers);
    match parameter(query.unwrap_or_default().as_bytes(), "token") {
        Some(token) => Ok(no_store(front(&state, t, token)?)),
        None => refuse(&state, t, &headers, LinkFault::NoToken),
    }
}

fn front(state: &AppState, t: Language, invite: String) -> ApiResult {
    let config = &state.config;
    let mail = config.test_mode || state.accounts.can_mail();
    let closed = match state.accounts.registration_mode() {
        _ if !invite.is_empty() => None,
        RegistrationMode::Closed => Some("register.closed"),
        RegistrationMode::Invite => Some("register.invite-only"),
        RegistrationMode::Open if mail => None,
        RegistrationMode::Open => Some("register.no-mail"),
    };
    let query = if invite.is_empty() { String::new() } else { query_of("token", &invite) };
    html(
        StatusCode::OK,
        &Home {
            t,
            frame: Frame::new(config, query),
            mail,
            closed,
            consent: config.legal.requires_consent(),
            europe: config.legal.is_in_europe(),
            invite,
        },
    )
}

/// The administration's frame. Its contents come from endpoints that only administrators may call.
pub async fn admin(State(state): State<AppState>, RawQuery(query): RawQuery, headers: HeaderMap) -> ApiResult {
    let t = language(query.as_deref(), &headers);
    html(StatusCode::OK, &Admin { t, frame: Frame::new(&state.config, String::new()) })
}

/// A page. Browsers ask again each time: which scripts it loads changes with the version of the server.
fn html(status: StatusCode, page: &impl Template) -> ApiResult {
    let text = page.render().map_err(ApiError::internal)?;
    let mut response = encode::with_type(status, HTML, Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Language"));
    Ok(response)
}

/// What is wrong with the link of a page.
#[derive(Clone, Copy, Debug)]
enum LinkFault {
    NoToken,
    Used,
    Expired,
}

impl LinkFault {
    /// The key of its text.
    const fn key(self) -> &'static str {
        match self {
            Self::NoToken => "refused.no-token",
            Self::Used => "refused.used",
            Self::Expired => "refused.expired",
        }
    }

    /// What everybody but browsers gets, as the contract has it.
    const fn plain(self) -> &'static str {
        match self {
            Self::NoToken => "Token is required",
            Self::Used => "Verification failed: Invalid verification token",
            Self::Expired => "Verification failed: Verification token has expired",
        }
    }
}

/// A page that says what is wrong with the request; a plain text for everybody but browsers (accounts contract, section
/// 9).
fn refuse(state: &AppState, t: Language, headers: &HeaderMap, fault: LinkFault) -> ApiResult {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accept.contains("text/html") {
        return Ok(no_store(encode::with_type(StatusCode::BAD_REQUEST, TEXT, Body::from(fault.plain()))));
    }
    let notice = Notice {
        t,
        frame: Frame::new(&state.config, String::new()),
        title: t.text("refused.title"),
        heading: t.text("refused.title"),
        words: t.text(fault.key()).to_owned(),
        is_error: true,
    };
    Ok(no_store(html(StatusCode::BAD_REQUEST, &notice)?))
}

/// The language that the address names, else the one that the browser prefers.
fn language(query: Option<&str>, headers: &HeaderMap) -> Language {
    let named = parameter(query.unwrap_or_default().as_bytes(), "lang");
    named.and_then(|code| Language::from_code(&code)).unwrap_or_else(|| preferred(headers))
}

/// The language that a client prefers.
pub(super) fn preferred(headers: &HeaderMap) -> Language {
    let header = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    Language::from_accept_language(header.unwrap_or_default())
}

/// The first parameter of this name that is not empty: a repeated one must not break a page.
fn parameter(form: &[u8], wanted: &str) -> Option<String> {
    let mut members = url::form_urlencoded::parse(form);
    members.find(|(name, value)| name == wanted && !value.is_empty()).map(|(_, value)| value.into_owned())
}

/// The part of a query that keeps one parameter, with a trailing `&`.
fn query_of(name: &str, value: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair(name, value);
    query.finish() + "&"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_that_is_not_empty_counts() {
        assert_eq!(parameter(b"", "token"), None);
        assert_eq!(parameter(b"token=&x=1", "token"), None);
        assert_eq!(parameter(b"x=1&token=a%22b&token=c", "token").as_deref(), Some("a\"b"));
    }

    #[test]
    fn the_address_decides_about_the_language_before_the_browser() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("de-DE,de;q=0.9"));
        assert_eq!(language(None, &headers), Language::German);
        assert_eq!(language(Some("lang=fr"), &headers), Language::German);
        assert_eq!(language(Some("token=x&lang=en"), &headers), Language::English);
        assert_eq!(language(None, &HeaderMap::new()), Language::English);
    }

    #[test]
    fn a_kept_parameter_stays_one() {
        assert_eq!(query_of("token", "a&lang=x\"<"), "token=a%26lang%3Dx%22%3C&");
    }
}
