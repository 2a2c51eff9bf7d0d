//! Privacy policy and terms of service: published only when the operator has identified themselves, or supplied the
//! text (accounts contract, section 9; operations contract, section 2.1). Nobody else's text is ever shown.

use askama::Template;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;

use super::{Frame, HTML, html, language};
use crate::config::{Config, Controller, Legal, MailDelivery};
use crate::http::body;
use crate::http::encode;
use crate::http::error::ApiResult;
use crate::http::state::AppState;
use crate::language::Language;

/// Terms are the operator's own document, which may have a style of its own. Scripts stay out.
const TERMS_POLICY: &str = "default-src 'none';style-src 'self' 'unsafe-inline';img-src 'self' data:;\
    frame-ancestors 'none';form-action 'none';base-uri 'none'";

macro_rules! policy {
    ($name:ident, $path:literal) => {
        #[derive(Template)]
        #[template(path = $path)]
        struct $name<'a> {
            t: Language,
            frame: Frame,
            who: &'a Controller,
            legal: &'a Legal,
            mails: bool,
            superseded_days: u64,
            archive_days: u64,
        }

        impl<'a> $name<'a> {
            fn new(t: Language, config: &'a Config, who: &'a Controller) -> Self {
                let retention = &config.retention;
                Self {
                    t,
                    frame: Frame::new(config, String::new()),
                    who,
                    legal: &config.legal,
                    mails: matches!(config.mail, MailDelivery::Smtp(_)),
                    superseded_days: retention.superseded.as_secs() / 86_400,
                    archive_days: retention.archive.as_secs() / 86_400,
                }
            }
        }
    };
}

policy!(English, "privacy.en.html");
policy!(German, "privacy.de.html");

pub async fn privacy(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    request: Request,
) -> ApiResult {
    let config = &state.config;
    let Some(who) = &config.legal.controller else { return Ok(body::not_found(request).await.into_response()) };
    let t = language(query.as_deref(), &headers);
    match t {
        Language::English => html(StatusCode::OK, &English::new(t, config, who)),
        Language::German => html(StatusCode::OK, &German::new(t, config, who)),
    }
}

pub async fn terms(State(state): State<AppState>, request: Request) -> ApiResult {
    let Some(text) = &state.config.legal.terms else {
        return Ok(body::not_found(request).await.into_response());
    };
    let mut response = encode::with_type(StatusCode::OK, HTML, Body::from(text.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(TERMS_POLICY));
    Ok(response)
}
