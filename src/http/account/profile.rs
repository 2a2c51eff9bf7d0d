//! The own account: facts, password, address, security log, deletion.

use axum::extract::State;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

use super::links::ByLink;
use super::{close_sockets, delete_for_good, to_the_end};
use crate::accounts::{AccountError, AccountSummary, SecuritySummary};
use crate::engine::archive::bound::{archive_limit, kept_bytes};
use crate::http::body::JsonBody;
use crate::http::encode::{self, Answer, Message, Success};
use crate::http::error::ApiResult;
use crate::http::fields::{Email, Ignored, members};
use crate::http::sender::{Account, Client, SteppedUp};
use crate::http::state::AppState;

members! {
    /// `POST /api/account/password`.
    ChangePassword {
        new: SecretString = new_password("newPassword"),
        signs_out_others: Option<bool> = optional_bool("signOutOthers"),
    }
    /// `POST /api/account/email`.
    ChangeAddress { email: Email = email() }
}

/// The own account.
#[derive(Serialize, ToSchema)]
pub struct OwnAccount {
    #[serde(flatten)]
    account: AccountSummary,
    /// Number of its passkeys.
    passkeys: usize,
    /// Whether this server sends mails.
    mail: bool,
    /// `REGISTRATION` of this server.
    registration: &'static str,
}

pub async fn facts(State(state): State<AppState>, user: Account) -> ApiResult<Answer<OwnAccount>> {
    let facts = state.accounts.facts(user.user_id).await?;
    let sync = state.store.load_account(user.user_id).await?.ok_or(AccountError::NoAccount)?.sync;
    let archived = state.store.archived(user.user_id).await?;
    let mut account = AccountSummary::new(facts.user, sync.storage_used_bytes);
    let storage = &mut account.storage;
    // Sequences have no holes.
    storage.operations = Some(sync.last_seq - sync.pruned_seq);
    storage.archived_bytes = Some(kept_bytes(&archived));
    storage.archive_limit_bytes = Some(archive_limit(storage.quota_bytes, state.config.retention.archive_percent));
    let (mail, registration) = (state.accounts.can_mail(), state.accounts.registration_mode().as_str());
    encode::private(&OwnAccount { account, passkeys: facts.passkeys, mail, registration })
}

pub async fn change_password(
    State(state): State<AppState>,
    client: Client,
    SteppedUp(user, request): SteppedUp<ChangePassword>,
) -> ApiResult<Answer<Message>> {
    let signs_out = request.signs_out_others.unwrap_or(true);
    to_the_end(async move {
        state.accounts.change_password(&user, &request.new, signs_out, &client.asker()).await?;
        if signs_out {
            state.engine.notifier().close_revoked(user.user_id, |credential| credential.session != user.session);
        }
        Ok(())
    })
    .await?;
    encode::ok(&Message { message: "Your password has been changed." })
}

/// A link is mailed to the new address.
pub async fn request_address_change(
    State(state): State<AppState>,
    client: Client,
    SteppedUp(user, request): SteppedUp<ChangeAddress>,
) -> ApiResult<Answer<Message>> {
    state.accounts.request_address_change(user.user_id, &request.email.address, &client.asker()).await?;
    encode::ok(&Message { message: "If the address can be used, a link to confirm it has been sent there." })
}

pub async fn change_address(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<ByLink>,
) -> ApiResult<Answer<Message>> {
    state.accounts.change_address(request.token.expose_secret(), &client.asker()).await?;
    encode::ok(&Message { message: "Your email address has been changed." })
}

/// Every token is void, sockets are closed with 4003.
pub async fn undo_address(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<ByLink>,
) -> ApiResult<Answer<Message>> {
    to_the_end(async move {
        let user = state.accounts.undo_address(request.token.expose_secret(), &client.asker()).await?;
        close_sockets(&state, user);
        Ok(())
    })
    .await?;
    encode::ok(&Message {
        message: "Your former email address is back, and every device is signed out. Please set a new password.",
    })
}

/// The newest entries of the security log, newest first.
#[derive(Serialize, ToSchema)]
pub struct SecurityLog {
    events: Vec<SecuritySummary>,
}

pub async fn security_log(State(state): State<AppState>, user: Account) -> ApiResult<Answer<SecurityLog>> {
    let events = state.accounts.security_log(user.user_id).await?;
    encode::private(&SecurityLog { events: events.into_iter().map(SecuritySummary::from).collect() })
}

pub async fn delete(
    State(state): State<AppState>,
    SteppedUp(user, Ignored): SteppedUp<Ignored>,
) -> ApiResult<Answer<Success>> {
    to_the_end(async move { Ok(delete_for_good(&state, user.user_id).await?) }).await?;
    encode::success()
}
