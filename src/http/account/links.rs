//! Ways to sign in by mail: registering without a password, links that sign in, links that set a password (accounts
//! contract, sections 4.1, 4.3, 4.4, 8.3 and 8.4). The answers to requests for a link are the same for every address.

use axum::extract::State;
use secrecy::{ExposeSecret as _, SecretString};

use super::{NewSession, RegistrationTaken, close_sockets, registered, session, to_the_end};
use crate::http::body::JsonBody;
use crate::http::encode::{self, Answer, Message};
use crate::http::error::ApiResult;
use crate::http::fields::{Email, Registration, members};
use crate::http::sender::Client;
use crate::http::state::AppState;
use crate::store::{SessionMethod, TokenPurpose};

members! {
    /// Registers without a password.
    Applying { registration: Registration = registration() }
    /// Asks for a mail to this address.
    ToAddress { email: Email = email() }
    /// Uses a mailed link.
    ByLink { token: SecretString = token() }
    /// `POST /api/reset-password`.
    ResetPassword {
        token: SecretString = token(),
        password: SecretString = new_password("password"),
    }
}

pub async fn register(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<Applying>,
) -> ApiResult<Answer<RegistrationTaken, 201>> {
    // There is nothing that could count in this browser only, so it gets no cookie.
    let receipt = state.accounts.register(&client.applicant(request.registration), None).await?;
    registered(receipt.registered, None)
}

pub async fn request_login(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<ToAddress>,
) -> ApiResult<Answer<Message>> {
    state.accounts.request_link(TokenPurpose::MagicLogin, &request.email.address, client.language).await?;
    encode::ok(&Message { message: "If an account with that email exists, a login link has been sent." })
}

pub async fn login(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<ByLink>,
) -> ApiResult<Answer<NewSession>> {
    let origin = client.origin(SessionMethod::MagicLink);
    session(state.accounts.login_by_link(request.token.expose_secret(), &origin).await?)
}

pub async fn forgot_password(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<ToAddress>,
) -> ApiResult<Answer<Message>> {
    state.accounts.request_link(TokenPurpose::ResetPassword, &request.email.address, client.language).await?;
    encode::ok(&Message { message: "If an account with that email exists, a password reset link has been sent." })
}

pub async fn reset_password(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<ResetPassword>,
) -> ApiResult<Answer<Message>> {
    to_the_end(async move {
        let asker = client.asker();
        let user = state.accounts.reset_password(request.token.expose_secret(), &request.password, &asker).await?;
        close_sockets(&state, user);
        Ok(())
    })
    .await?;
    encode::ok(&Message { message: "Password has been reset successfully. Please log in with your new password." })
}
