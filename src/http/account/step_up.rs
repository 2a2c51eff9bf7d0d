//! Proving once more who one is, in the session that asks. Every route needs a bearer token.
//!
//! | Route | Answer |
//! | --- | --- |
//! | `POST /api/account/step-up/options` | request options for the account's passkeys |
//! | `POST /api/account/step-up` `{currentPassword}` or `{credential}` | `{success: true}`; for 15 minutes nothing asks again |

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::fields::Fields;
use super::passkeys::{TIMEOUT_MS, assertion_response};
use super::{asker, no_store, sender};
use crate::accounts::PasskeyError;
use crate::http::body::JsonBody;
use crate::http::encode;
use crate::http::error::{ApiError, ApiResult};
use crate::http::state::AppState;

pub(super) fn router() -> Router<AppState> {
    Router::new().route("/api/account/step-up", post(step_up)).route("/api/account/step-up/options", post(options))
}

async fn options(State(state): State<AppState>, parts: Parts, _body: JsonBody) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let (challenge, keys) = state.accounts.begin_step_up(&user).await?;
    let allowed = |id: &Vec<u8>| json!({ "id": URL_SAFE_NO_PAD.encode(id), "type": "public-key" });
    let options = json!({
        "rpId": state.accounts.relying_party().id,
        "challenge": URL_SAFE_NO_PAD.encode(challenge),
        "timeout": TIMEOUT_MS,
        "userVerification": "required",
        "allowCredentials": keys.iter().map(allowed).collect::<Vec<Value>>(),
    });
    Ok(no_store(encode::json(StatusCode::OK, &options)))
}

async fn step_up(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let password = fields.current_password();
    let credential = if fields.has("currentPassword") { None } else { fields.credential() };
    fields.check()?;
    let user = sender(&state, &parts).await?;
    let asker = asker(&state, &parts);
    if let Some(password) = password {
        state.accounts.step_up_by_password(&user, &password, &asker).await?;
    } else if let Some(credential) = credential {
        let response = assertion_response(&credential).ok_or(PasskeyError::Authentication);
        let proven = async { state.accounts.step_up_by_passkey(&user, &response?, &asker).await };
        // 401 would say that the token is no good.
        proven.await.map_err(|error| match error {
            PasskeyError::Authentication | PasskeyError::Challenge => {
                ApiError::new(StatusCode::FORBIDDEN, error.to_string())
            }
            error => error.into(),
        })?;
    }
    Ok(encode::success())
}
