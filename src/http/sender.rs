//! What handlers get of a request's sender. Rights were checked by [`super::admit`], as the table of routes has them.

use std::convert::Infallible;
use std::net::IpAddr;
use std::ops::Deref;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;

use super::address;
use super::admit;
use super::body;
use super::error::{ApiError, ApiResult};
use super::fields::{Fields, Members, Registration};
use super::observe::{self, Trace};
use super::pages::preferred;
use super::state::AppState;
use crate::accounts::{Applicant, Asker, AuthUser, SessionOrigin};
use crate::language::Language;
use crate::store::SessionMethod;

/// The sender of a request to a route that wants a token.
#[derive(Debug)]
pub(super) struct Account(pub AuthUser);

impl Deref for Account {
    type Target = AuthUser;

    fn deref(&self) -> &AuthUser {
        &self.0
    }
}

impl Account {
    /// The sender that [`admit`] authenticated. A handler that contradicts the table of routes must not open a route.
    fn checked(trace: &Trace) -> ApiResult<&AuthUser> {
        trace.sender().ok_or_else(|| ApiError::internal("nobody has checked who sends this request"))
    }

    /// The sender where a token is enough.
    pub(super) fn of(trace: &Trace) -> ApiResult<&AuthUser> {
        if trace.access().wants_proof() {
            return Err(ApiError::internal("a route that wants a proof hands out its sender without one"));
        }
        Self::checked(trace)
    }
}

impl FromRequestParts<AppState> for Account {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> ApiResult<Self> {
        let trace = observe::trace(&parts.extensions, state.config.timeouts.handler);
        Self::of(&trace).cloned().map(Self)
    }
}

/// The sender of a request to a route that wants a proof, who has given it, and the request's members. The proof is one
/// in the session, or `currentPassword` among the members.
#[derive(Debug)]
pub(super) struct SteppedUp<T>(pub AuthUser, pub T);

impl<T: Members> FromRequest<AppState> for SteppedUp<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> ApiResult<Self> {
        let (parts, body) = body::read_json(request, state).await?;
        let trace = observe::trace(&parts.extensions, state.config.timeouts.handler);
        let mut fields = Fields::of(body, T::SHAPE, state.config.legal.requires_consent())?;
        let (password, members) = (fields.current_password(), T::read(&mut fields));
        let (password, members) = fields.complete(password.zip(members))?;
        if trace.access().is_after_body() {
            admit::authenticate(state, &parts, &trace, trace.access()).await?;
        }
        let user = Account::checked(&trace)?.clone();
        let asker = Client::of(&parts, state).asker();
        state.accounts.reauthenticate(&user, password.as_ref(), &asker).await?;
        Ok(Self(user, members))
    }
}

/// The sender of a request to a route that judges the body before the token and reads nothing from it.
#[derive(Debug)]
pub(super) struct AfterBody(pub AuthUser);

impl FromRequest<AppState> for AfterBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> ApiResult<Self> {
        let (parts, _) = body::read_json(request, state).await?;
        let trace = observe::trace(&parts.extensions, state.config.timeouts.handler);
        admit::authenticate(state, &parts, &trace, trace.access()).await?;
        Account::of(&trace).cloned().map(Self)
    }
}

/// The client, as far as the security log, mails and sessions tell of it.
#[derive(Debug)]
pub(super) struct Client {
    user_agent: Option<String>,
    address: Option<IpAddr>,
    /// The language that it prefers.
    pub language: Language,
}

impl Client {
    /// The client of this request.
    pub(super) fn of(parts: &Parts, state: &AppState) -> Self {
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        let address = address::of(parts, &state.config.trusted_proxies);
        Self { user_agent: user_agent.map(str::to_owned), address, language: preferred(&parts.headers) }
    }

    /// The origin of a change that it asks for.
    pub(super) fn asker(self) -> Asker {
        let Self { user_agent, address, language } = self;
        Asker { by: None, user_agent, address, language }
    }

    /// The origin of a session that it opens.
    pub(super) fn origin(self, method: SessionMethod) -> SessionOrigin {
        SessionOrigin { method, user_agent: self.user_agent, address: self.address }
    }

    /// The applicant of a registration.
    pub(super) fn applicant(&self, of: Registration) -> Applicant {
        let Registration { email, terms_accepted, invite } = of;
        Applicant { address: email.address, terms_accepted, invite, language: self.language, from: self.address }
    }
}

impl FromRequestParts<AppState> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        Ok(Self::of(parts, state))
    }
}
