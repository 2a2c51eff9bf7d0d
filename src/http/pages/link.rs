//! The pages behind mailed links (accounts contract, sections 9 and 13).
//!
//! Opening one changes nothing, because mail scanners open links: each shows a button. The page that verifies an
//! address is a plain form that needs no script; the others hand the link's token to their script in `data-token`.

use askama::Template;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode};
use secrecy::SecretString;

use super::{Frame, LinkFault, Notice, html, language, no_store, parameter, query_of, refuse};
use crate::accounts::{AccountError, PasswordRuleError, Verified, check_new_password};
use crate::http::body;
use crate::http::error::ApiResult;
use crate::http::registrant;
use crate::http::state::AppState;
use crate::language::Language;

/// A page that shows a link's token to its script or form.
pub trait LinkPage: Template {
    fn new(t: Language, frame: Frame, token: String) -> Self;
}

macro_rules! link_page {
    ($name:ident, $path:literal) => {
        #[derive(Template)]
        #[template(path = $path)]
        pub struct $name {
            t: Language,
            frame: Frame,
            token: String,
        }

        impl LinkPage for $name {
            fn new(t: Language, frame: Frame, token: String) -> Self {
                Self { t, frame, token }
            }
        }
    };
}

link_page!(MagicLogin, "magic-login.html");
link_page!(RecoverPasskey, "recover-passkey.html");
link_page!(ResetPassword, "reset-password.html");
link_page!(ChangeEmail, "change-email.html");
link_page!(UndoEmail, "undo-email.html");

/// `GET /…?token=…`.
pub async fn page<P: LinkPage>(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> ApiResult {
    let t = language(query.as_deref(), &headers);
    let Some(token) = parameter(query.unwrap_or_default().as_bytes(), "token") else {
        return refuse(&state, t, &headers, LinkFault::NoToken);
    };
    let frame = Frame::new(&state.config, query_of("token", &token));
    Ok(no_store(html(StatusCode::OK, &P::new(t, frame, token))?))
}

#[derive(Template)]
#[template(path = "verify.html")]
struct VerifyEmail {
    t: Language,
    frame: Frame,
    token: String,
    /// Another browser registered: what it gave does not count, so this one may choose a password.
    asks_for_password: bool,
    /// What is wrong with the one that was chosen.
    wrong: Option<&'static str>,
}

/// `GET /verify-email?token=…`.
pub async fn verify_email(State(state): State<AppState>, RawQuery(query): RawQuery, headers: HeaderMap) -> ApiResult {
    let t = language(query.as_deref(), &headers);
    let Some(token) = parameter(query.unwrap_or_default().as_bytes(), "token") else {
        return refuse(&state, t, &headers, LinkFault::NoToken);
    };
    let secret = registrant::shown(&headers, &state);
    let asks_for_password = !state.accounts.registered_here(&token, secret.as_ref()).await?;
    let frame = Frame::new(&state.config, query_of("token", &token));
    Ok(no_store(html(StatusCode::OK, &VerifyEmail { t, frame, token, asks_for_password, wrong: None })?))
}

/// `POST /verify-email` with the page's form.
pub async fn verify_email_confirmed(State(state): State<AppState>, request: Request) -> ApiResult {
    let (parts, body) = request.into_parts();
    let t = language(parts.uri.query(), &parts.headers);
    let form = body::read_small(&parts, body, &state).await?;
    let Some(token) = parameter(&form, "token") else {
        return refuse(&state, t, &parts.headers, LinkFault::NoToken);
    };
    let password = parameter(&form, "password");
    let wrong = match password.as_deref().map(check_new_password) {
        Some(Err(PasswordRuleError::TooShort)) => Some(t.text("verify.short")),
        Some(Err(PasswordRuleError::TooLong)) => Some(t.text("verify.long")),
        _ if password != parameter(&form, "repeat") => Some(t.text("verify.repeat")),
        _ => None,
    };
    if wrong.is_some() {
        let frame = Frame::new(&state.config, query_of("token", &token));
        let page = VerifyEmail { t, frame, token, asks_for_password: true, wrong };
        return Ok(no_store(html(StatusCode::BAD_REQUEST, &page)?));
    }
    let secret = registrant::shown(&parts.headers, &state);
    let password = password.map(SecretString::from);
    match state.accounts.verify_email(&token, secret.as_ref(), password.as_ref()).await {
        Ok(verified) => {
            let words = match verified {
                Verified::AsRegistered | Verified::NewPassword => "verified.explain",
                Verified::WithoutPassword => "verified.by-link",
            };
            let notice = Notice {
                t,
                frame: Frame::new(&state.config, String::new()),
                title: t.text("verified.title"),
                heading: t.text("verified.heading"),
                words: t.text(words).to_owned(),
                is_error: false,
            };
            Ok(no_store(html(StatusCode::OK, &notice)?))
        }
        Err(AccountError::VerificationInvalid) => refuse(&state, t, &parts.headers, LinkFault::Used),
        Err(AccountError::VerificationExpired) => refuse(&state, t, &parts.headers, LinkFault::Expired),
        Err(error) => Err(error.into()),
    }
}
