//! Proving once more who one is, in the session that asks: for 15 minutes nothing asks again.

use axum::extract::State;
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::passkeys::{RequestOptions, assertion_response};
use crate::accounts::AccountError;
use crate::http::body::JsonBody;
use crate::http::codes;
use crate::http::encode::{self, Answer, Success};
use crate::http::error::ApiResult;
use crate::http::fields::{Fields, Ignored, Members};
use crate::http::openapi::outline::Outline;
use crate::http::sender::{Account, Client};
use crate::http::state::AppState;

/// `POST /api/account/step-up`.
pub enum Proof {
    Password(SecretString),
    Passkey(Map<String, Value>),
}

impl Members for Proof {
    fn describe(outline: &mut Outline) {
        outline.current_password();
        outline.optional_credential();
    }

    fn read(fields: &mut Fields) -> Option<Self> {
        if fields.has("currentPassword") {
            return fields.current_password()?.map(Self::Password);
        }
        fields.credential().map(Self::Passkey)
    }
}

pub async fn options(
    State(state): State<AppState>,
    user: Account,
    _body: JsonBody<Ignored>,
) -> ApiResult<Answer<RequestOptions>> {
    let (challenge, keys) = state.accounts.begin_step_up(&user).await?;
    let options = RequestOptions::new(state.accounts.relying_party(), &challenge, "required");
    encode::private(&options.among(&keys))
}

pub async fn step_up(
    State(state): State<AppState>,
    client: Client,
    user: Account,
    JsonBody(proof): JsonBody<Proof>,
) -> ApiResult<Answer<Success>> {
    let asker = client.asker();
    match proof {
        Proof::Password(password) => state.accounts.step_up_by_password(&user, &password, &asker).await?,
        Proof::Passkey(credential) => {
            let response = assertion_response(&credential).ok_or(AccountError::AuthenticationFailed);
            let proven = async { state.accounts.step_up_by_passkey(&user, &response?, &asker).await };
            proven.await.map_err(codes::of_step_up)?;
        }
    }
    encode::success()
}
