//! Passwords and tokens: register, log in, verify, replace the token (accounts contract, sections 4 and 8).

use axum::extract::State;
use axum::http::HeaderMap;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

use super::{NewSession, RegistrationTaken, close_sockets, registered, session, to_the_end};
use crate::accounts::Verified;
use crate::http::body::JsonBody;
use crate::http::encode::{self, Answer};
use crate::http::error::ApiResult;
use crate::http::fields::{Email, Registration, members};
use crate::http::registrant;
use crate::http::sender::{AfterBody, Client};
use crate::http::state::AppState;
use crate::store::SessionMethod;

members! {
    /// `POST /api/register`.
    Register {
        email: Email = email(),
        password: SecretString = new_password("password"),
        terms_accepted: bool = consent(),
        invite: Option<SecretString> = invite(),
    }
    /// `POST /api/login`.
    Login {
        email: Email = email(),
        password: SecretString = password(),
    }
    /// `POST /api/verify-email`. What was registered counts if the request shows the cookie that the registration's answer
    /// set; else `password` does, and without one the account has none.
    VerifyEmail {
        token: SecretString = token(),
        password: Option<SecretString> = optional_new_password(),
    }
}

/// The address of an account was verified.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressVerified {
    message: &'static str,
    /// True, or absent: the account has no password, since the registration's did not count.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    password_needed: bool,
}

pub async fn register(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<Register>,
) -> ApiResult<Answer<RegistrationTaken, 201>> {
    let Register { email, password, terms_accepted, invite } = request;
    let as_sent = email.as_sent.clone();
    let applicant = client.applicant(Registration { email, terms_accepted, invite });
    let receipt = state.accounts.register(&applicant, Some(&password)).await?;
    let answer = registered(receipt.registered, Some(as_sent))?;
    Ok(answer.map(|response| registrant::hand_out(response, &state, &receipt.secret)))
}

pub async fn login(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<Login>,
) -> ApiResult<Answer<NewSession>> {
    let origin = client.origin(SessionMethod::Password);
    session(state.accounts.login(&request.email.address, &request.password, &origin).await?)
}

pub async fn verify_email(
    State(state): State<AppState>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<VerifyEmail>,
) -> ApiResult<Answer<AddressVerified>> {
    let secret = registrant::shown(&headers, &state);
    let verified =
        state.accounts.verify_email(request.token.expose_secret(), secret.as_ref(), request.password.as_ref()).await?;
    let password_needed = verified == Verified::WithoutPassword;
    encode::ok(&AddressVerified { message: "Email verified successfully", password_needed })
}

/// Voids every session of the account, gives out a new one and closes every socket, the caller's too: which device a
/// socket belongs to is only its own word. The body says nothing that matters.
pub async fn replace_token(
    State(state): State<AppState>,
    client: Client,
    AfterBody(user): AfterBody,
) -> ApiResult<Answer<NewSession>> {
    let origin = client.origin(SessionMethod::Replaced);
    let replaced = to_the_end(async move {
        let replaced = state.accounts.replace_token(&user, &origin).await?;
        close_sockets(&state, user.user_id);
        Ok(replaced)
    });
    session(replaced.await?)
}
