//! Account routes (accounts contract, sections 1, 2, 4, 8, 9, and our own).
//!
//! A session and what is one account's is never cached.

use secrecy::ExposeSecret as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::encode::{self, Answer};
use super::error::{ApiError, ApiResult};
use super::state::AppState;
use crate::accounts::{AccountError, Registered, Session};
use crate::protocol::UserId;

pub mod admin;
pub mod credentials;
pub mod invites;
pub mod links;
pub mod passkeys;
pub mod profile;
pub mod qr;
pub mod sessions;
pub mod step_up;

/// WebSocket close code for "your session is void" (contract, section 9).
const CLOSE_REVOKED: u16 = 4003;

/// What became of a registration.
#[derive(Serialize, ToSchema)]
pub struct RegistrationTaken {
    /// As it was sent; only with a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    message: &'static str,
    /// `ACCOUNT_READY` if the account can be used at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

/// A new session.
#[derive(Serialize, ToSchema)]
pub struct NewSession {
    token: String,
    user: SessionOwner,
}

/// The account of a new session.
#[derive(Serialize, ToSchema)]
pub struct SessionOwner {
    email: String,
    #[schema(value_type = i64)]
    id: UserId,
}

/// The answer to a registration, the same for every address (accounts contract, section 4.1).
fn registered(done: Registered, email: Option<String>) -> ApiResult<Answer<RegistrationTaken, 201>> {
    let (message, code) = match done {
        Registered::CheckMail => ("Registration successful. Please check your email to verify your account.", None),
        Registered::Verified => {
            ("Registration successful. Your account has been automatically verified.", Some("ACCOUNT_READY"))
        }
    };
    encode::created(&RegistrationTaken { email, message, code })
}

/// Deletes an account with all that this server holds of it: its rows, open sockets and what is cached.
async fn delete_for_good(state: &AppState, user: UserId) -> Result<(), AccountError> {
    state.accounts.delete(user).await?;
    state.engine.notifier().close_user(user, CLOSE_REVOKED, "Account deleted");
    state.engine.forget(user);
    Ok(())
}

/// Closes every socket of an account whose tokens are void.
fn close_sockets(state: &AppState, user: UserId) {
    state.engine.notifier().close_user(user, CLOSE_REVOKED, "Token revoked");
}

/// Runs `work` to its end even if the client goes away meanwhile: a revocation without closed sockets would be half of
/// one.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = ApiResult<T>> + Send + 'static) -> ApiResult<T> {
    tokio::spawn(work).await.map_err(ApiError::internal)?
}

/// A new session, as clients get it.
fn session(session: Session) -> ApiResult<Answer<NewSession>> {
    let Session { token, user, email, .. } = session;
    encode::private(&NewSession { token: token.expose_secret().to_owned(), user: SessionOwner { email, id: user } })
}
