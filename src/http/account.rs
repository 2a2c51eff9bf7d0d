//! Account routes (accounts contract, sections 1, 2, 4, 8, 9, and our own).
//!
//! A session and what is one account's is never cached.

use axum::http::StatusCode;
use axum::response::Response;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::encode;
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

/// The answer to a registration, the same for every address (accounts contract, section 4.1). `code` is there if the
/// account can be used at once.
fn registered(done: Registered, email: Option<&str>) -> ApiResult {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        email: Option<&'a str>,
        message: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
    }
    let (message, code) = match done {
        Registered::CheckMail => ("Registration successful. Please check your email to verify your account.", None),
        Registered::Verified => {
            ("Registration successful. Your account has been automatically verified.", Some("ACCOUNT_READY"))
        }
    };
    encode::json(StatusCode::CREATED, &Body { email, message, code })
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
fn session(session: &Session) -> ApiResult<Response> {
    #[derive(Serialize)]
    struct Body<'a> {
        token: &'a str,
        user: Owner<'a>,
    }
    #[derive(Serialize)]
    struct Owner<'a> {
        email: &'a str,
        id: UserId,
    }
    let user = Owner { email: &session.email, id: session.user };
    encode::private(StatusCode::OK, &Body { token: session.token.expose_secret(), user })
}
