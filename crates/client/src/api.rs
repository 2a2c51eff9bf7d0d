//! Typed calls: one per endpoint, answers validated, errors named.

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::retry_in;
use super::raw::{Answer, Body, Encoding, Raw};
use super::wire::{
    Check, DevicesAnswer, DownloadAnswer, ErrorBody, RestoreAnswer, RestorePointsAnswer, Seq, SnapshotAnswer,
    SnapshotBody, StatusAnswer, UploadAnswer, UploadBody, WipeAnswer,
};
use super::{ClientError, Ladder, Notices};

/// An account on a server, as one of its devices speaks to it. Clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    raw: Raw,
    token: String,
    encoding: Encoding,
    ladder: Ladder,
}

impl Client {
    /// A client of the server at `base` with an access token.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Setup`].
    pub fn new(base: &str, token: &str, ladder: Ladder) -> Result<Self, ClientError> {
        let raw = Raw::new(base, &ladder)?;
        Self::over(&raw, token, ladder)
    }

    /// A client that shares the connections of `raw`; for many accounts in one process.
    ///
    /// # Errors
    /// [`ClientError::Address`] when the token can't be a header.
    pub fn over(raw: &Raw, token: &str, ladder: Ladder) -> Result<Self, ClientError> {
        // What no header may hold is stripped, as the app does.
        let token: String = token.chars().filter(char::is_ascii).collect();
        Ok(Self { raw: raw.with_token(&token)?, token, encoding: Encoding::default(), ladder })
    }

    /// The same client with another encoding of uploads.
    #[must_use]
    pub fn with_encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// The time-outs in force.
    #[must_use]
    pub const fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// The untyped connection.
    #[must_use]
    pub const fn raw(&self) -> &Raw {
        &self.raw
    }

    /// Uploads operations.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn upload(&self, body: &UploadBody<'_>) -> Result<UploadAnswer, ClientError> {
        let route = "POST /api/sync/ops";
        let answer: UploadAnswer = self.post(route, "/api/sync/ops", body).await?;
        let ids = answer.results.iter().map(|result| &result.op_id);
        if ids.eq(body.ops.iter().map(|op| &op.id)) {
            Ok(answer)
        } else {
            Err(ClientError::InvalidAnswer { route, reason: "results are not those of the operations sent".into() })
        }
    }

    /// Downloads one page.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn download(
        &self,
        since: Seq,
        exclude_client: Option<&str>,
        limit: usize,
    ) -> Result<DownloadAnswer, ClientError> {
        let route = "GET /api/sync/ops";
        let exclude = exclude_client.map(|client| format!("&excludeClient={client}")).unwrap_or_default();
        let path = format!("/api/sync/ops?sinceSeq={since}&limit={limit}{exclude}");
        let answer: DownloadAnswer = self.get(route, &path).await?;
        // The app aborts on a page that does not lead on.
        let leads_on = answer.ops.last().is_some_and(|op| op.server_seq > since);
        if answer.has_more && !leads_on {
            return Err(ClientError::InvalidAnswer { route, reason: "hasMore on a page that does not lead on".into() });
        }
        if since == 0 && answer.gap_detected.is_some() {
            return Err(ClientError::InvalidAnswer { route, reason: "gapDetected from the start".into() });
        }
        Ok(answer)
    }

    /// Uploads a full state.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn snapshot(&self, body: &SnapshotBody) -> Result<SnapshotAnswer, ClientError> {
        self.post("POST /api/sync/snapshot", "/api/sync/snapshot", body).await
    }

    /// Full states to go back to, newest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn restore_points(&self, limit: usize) -> Result<RestorePointsAnswer, ClientError> {
        self.get("GET /api/sync/restore-points", &format!("/api/sync/restore-points?limit={limit}")).await
    }

    /// The state as of `seq`. Tried again after [`Ladder::restore_retries`] when the network fails: it changes nothing,
    /// and it is what a user in trouble does.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn restore(&self, seq: Seq) -> Result<RestoreAnswer, ClientError> {
        let mut pauses = self.ladder.restore_retries.iter();
        loop {
            let result = self.get("GET /api/sync/restore", &format!("/api/sync/restore/{seq}")).await;
            match (result, pauses.next()) {
                (Err(error), Some(pause)) if error.is_network() => tokio::time::sleep(*pause).await,
                (result, _) => return result,
            }
        }
    }

    /// Figures about the account.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn status(&self) -> Result<StatusAnswer, ClientError> {
        self.get("GET /api/sync/status", "/api/sync/status").await
    }

    /// Devices of the account, newest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn devices(&self) -> Result<DevicesAnswer, ClientError> {
        self.get("GET /api/sync/devices", "/api/sync/devices").await
    }

    /// Deletes the account's data.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn wipe(&self) -> Result<WipeAnswer, ClientError> {
        let answer = self.raw.send(Method::DELETE, "/api/sync/data", None).await?;
        read("DELETE /api/sync/data", &answer)
    }

    /// Opens the WebSocket of device `client_id`.
    ///
    /// # Errors
    /// [`ClientError::Socket`], [`ClientError::ConnectTimeout`].
    pub async fn notices(&self, client_id: &str) -> Result<Notices, ClientError> {
        Notices::connect(self.raw.base(), &self.token, client_id, self.ladder.connect).await
    }

    async fn get<T: DeserializeOwned + Check>(&self, route: &'static str, path: &str) -> Result<T, ClientError> {
        read(route, &self.raw.send(Method::GET, path, None).await?)
    }

    async fn post<T: DeserializeOwned + Check>(
        &self,
        route: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let json = serde_json::to_vec(body).expect("requests are maps of strings to JSON");
        read(route, &self.raw.send(Method::POST, path, Some(&Body::new(&json, self.encoding))).await?)
    }
}

/// A success, validated, or the error that the status stands for (contract, section 14.4).
fn read<T: DeserializeOwned + Check>(route: &'static str, answer: &Answer) -> Result<T, ClientError> {
    if !answer.status.is_success() {
        return Err(failure(answer));
    }
    let invalid = |reason| ClientError::InvalidAnswer { route, reason };
    let value: T = serde_json::from_slice(&answer.body).map_err(|error| invalid(error.to_string()))?;
    value.check().map_err(invalid)?;
    Ok(value)
}

fn failure(answer: &Answer) -> ClientError {
    let status = answer.status.as_u16();
    let Ok(body) = serde_json::from_slice::<ErrorBody>(&answer.body) else {
        return match status {
            502..=504 => ClientError::Proxy(status),
            _ => ClientError::Status { status, message: "answer without an error text".into(), code: None },
        };
    };
    let text = |text: &str| text.chars().take(80).collect::<String>();
    let message = text(&body.error);
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ClientError::Auth { status, message },
        StatusCode::TOO_MANY_REQUESTS => {
            let message = body.message.as_deref().map_or(message, text);
            ClientError::RateLimited { retry_in: retry_in(&message), message }
        }
        StatusCode::CONFLICT if body.error.contains("SYNC_IMPORT_EXISTS") => {
            ClientError::ImportExists { existing_import_id: body.existing_import_id.unwrap_or_default() }
        }
        StatusCode::PAYLOAD_TOO_LARGE if body.error.contains("Storage quota exceeded") => ClientError::QuotaExceeded {
            used_bytes: body.storage_used_bytes.unwrap_or_default(),
            quota_bytes: body.storage_quota_bytes.unwrap_or_default(),
        },
        StatusCode::SERVICE_UNAVAILABLE if body.error.contains("timeout") => ClientError::ServerTimeout(message),
        StatusCode::SERVICE_UNAVAILABLE => ClientError::ServerBusy(message),
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => ClientError::Proxy(status),
        _ => ClientError::Status { status, message, code: body.error_code },
    }
}
