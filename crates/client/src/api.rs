//! Typed calls: one per endpoint, answers validated, errors named.

use std::net::IpAddr;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::raw::{Answer, Body, Encoding};
use super::wire::{
    DevicesAnswer, DownloadAnswer, ErrorBody, FULL_STATES, RestoreAnswer, RestorePointsAnswer, Seq, SnapshotAnswer,
    SnapshotBody, StatusAnswer, UploadAnswer, UploadBody, WipeAnswer, client_id_fits, require,
};
use super::{ClientError, Ladder, Notices};

/// A server, an account on it, and a pool of connections. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    encoding: Encoding,
    ladder: Ladder,
}

impl Client {
    /// A client of the server at `base` (`http://HOST[:PORT]`), without an account. Opens no connection yet.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Setup`].
    pub fn new(base: &str, ladder: &Ladder) -> Result<Self, ClientError> {
        Self::from_address(base, ladder, None)
    }

    /// The same, with connections that come from this address of the machine.
    ///
    /// # Errors
    /// Like [`Client::new`].
    pub fn from_address(base: &str, ladder: &Ladder, from: Option<IpAddr>) -> Result<Self, ClientError> {
        let url = url::Url::parse(base).map_err(|error| ClientError::Address(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(ClientError::Address("expected http://HOST[:PORT] or https://HOST[:PORT]".into()));
        }
        // An error only means that the process has a TLS provider, which is all that is needed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder =
            reqwest::Client::builder().connect_timeout(ladder.connect).tcp_nodelay(true).local_address(from).no_proxy();
        if url.scheme() == "http" {
            // A machine without root certificates can still speak plain HTTP.
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            http: builder.build().map_err(ClientError::Setup)?,
            base: base.trim_end_matches('/').to_owned(),
            token: None,
            encoding: Encoding::default(),
            ladder: ladder.clone(),
        })
    }

    /// The same server and the same connections with the account of an access token.
    ///
    /// # Errors
    /// [`ClientError::Address`] when the token can't be a header.
    pub fn with_token(&self, token: &str) -> Result<Self, ClientError> {
        // What no header may hold is stripped, as the app does.
        let token: String = token.chars().filter(char::is_ascii).collect();
        HeaderValue::from_str(&token)
            .map_err(|_| ClientError::Address("the token holds characters that no header may have".into()))?;
        Ok(Self { token: Some(token), ..self.clone() })
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

    /// Sends one request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// Only what the network or the ladder says: see [`ClientError::is_network`].
    pub async fn send(&self, method: Method, path: &str, body: Option<&Body>) -> Result<Answer, ClientError> {
        let exchange = async {
            // The app names the type with every request, body or not.
            let mut request = self
                .http
                .request(method, format!("{}{path}", self.base))
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = body.put_into(request);
            }
            let response = request.send().await?;
            Ok::<_, reqwest::Error>(Answer { status: response.status(), body: response.bytes().await? })
        };
        match tokio::time::timeout(self.ladder.request, exchange).await {
            Err(_) => Err(ClientError::RequestTimeout(self.ladder.request)),
            Ok(Err(error)) if error.is_connect() && error.is_timeout() => {
                Err(ClientError::ConnectTimeout(self.ladder.connect))
            }
            // Addresses may hold tokens (the WebSocket's do), so errors never carry one.
            Ok(Err(error)) if error.is_connect() => Err(ClientError::Connect(error.without_url())),
            Ok(Err(error)) => Err(ClientError::Network(error.without_url())),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    /// Uploads operations.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn upload(&self, body: &UploadBody<'_>) -> Result<UploadAnswer, ClientError> {
        let check = |answer: &UploadAnswer| {
            answer.check()?;
            let ids = answer.results.iter().map(|result| &result.op_id);
            require(ids.eq(body.ops.iter().map(|op| &op.id)), "results are not those of the operations sent")
        };
        self.ask(Method::POST, "/api/sync/ops", "", Some(&self.body(body)), check).await
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
        let check = |answer: &DownloadAnswer| {
            answer.check()?;
            // The app aborts on a page that does not lead on.
            let leads_on = answer.ops.last().is_some_and(|op| op.server_seq > since);
            require(leads_on || !answer.has_more, "hasMore on a page that does not lead on")?;
            require(since != 0 || answer.gap_detected.is_none(), "gapDetected from the start")
        };
        let exclude = exclude_client.map(|client| format!("&excludeClient={client}")).unwrap_or_default();
        let query = format!("?sinceSeq={since}&limit={limit}{exclude}");
        self.ask(Method::GET, "/api/sync/ops", &query, None, check).await
    }

    /// Uploads a full state.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn snapshot(&self, body: &SnapshotBody) -> Result<SnapshotAnswer, ClientError> {
        let check = |answer: &SnapshotAnswer| {
            require(answer.accepted == answer.server_seq.is_some(), "serverSeq")?;
            require(answer.accepted == answer.error.is_none(), "error")
        };
        self.ask(Method::POST, "/api/sync/snapshot", "", Some(&self.body(body)), check).await
    }

    /// Full states to go back to, newest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn restore_points(&self, limit: usize) -> Result<RestorePointsAnswer, ClientError> {
        let check = |answer: &RestorePointsAnswer| {
            require(
                answer.restore_points.iter().all(|point| FULL_STATES.contains(&point.r#type)),
                "restorePoints[].type",
            )
        };
        self.ask(Method::GET, "/api/sync/restore-points", &format!("?limit={limit}"), None, check).await
    }

    /// The state as of `seq`. Tried again after [`Ladder::restore_retries`] when the network fails: it changes nothing,
    /// and it is what a user in trouble does.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn restore(&self, seq: Seq) -> Result<RestoreAnswer, ClientError> {
        let check = |answer: &RestoreAnswer| require(answer.server_seq >= 1, "serverSeq");
        let mut pauses = self.ladder.restore_retries.iter();
        loop {
            let result = self.ask(Method::GET, "/api/sync/restore", &format!("/{seq}"), None, check).await;
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
        let check = |answer: &StatusAnswer| {
            let figures = [answer.latest_seq, answer.storage_used_bytes, answer.storage_quota_bytes];
            require(figures.iter().all(|figure| *figure >= 0), "negative figure")
        };
        self.ask(Method::GET, "/api/sync/status", "", None, check).await
    }

    /// Devices of the account, newest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn devices(&self) -> Result<DevicesAnswer, ClientError> {
        let check = |answer: &DevicesAnswer| {
            require(answer.devices.iter().all(|device| client_id_fits(&device.client_id)), "devices[].clientId")
        };
        self.ask(Method::GET, "/api/sync/devices", "", None, check).await
    }

    /// Deletes the account's data.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn wipe(&self) -> Result<WipeAnswer, ClientError> {
        let check = |answer: &WipeAnswer| require(answer.success, "success");
        self.ask(Method::DELETE, "/api/sync/data", "", None, check).await
    }

    /// Opens the WebSocket of device `client_id`.
    ///
    /// # Errors
    /// [`ClientError::Socket`], [`ClientError::ConnectTimeout`].
    pub async fn notices(&self, client_id: &str) -> Result<Notices, ClientError> {
        let token = self.token.as_deref().unwrap_or_default();
        Notices::connect(&self.base, token, client_id, self.ladder.connect).await
    }

    fn body(&self, request: &impl Serialize) -> Body {
        let json = serde_json::to_vec(request).expect("requests are maps of strings to JSON");
        Body::new(&json, self.encoding)
    }

    /// A success, validated, or the error that the status stands for (contract, section 14.4). `rest` is of the path,
    /// behind what names the route.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        rest: &str,
        body: Option<&Body>,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<T, ClientError> {
        let answer = self.send(method.clone(), &format!("{route}{rest}"), body).await?;
        if !answer.status.is_success() {
            return Err(failure(&answer));
        }
        let read = serde_json::from_slice(&answer.body).map_err(|error| error.to_string());
        let checked = read.and_then(|value| check(&value).map(|()| value));
        checked.map_err(|reason| ClientError::InvalidAnswer { route: format!("{method} {route}"), reason })
    }
}

fn failure(answer: &Answer) -> ClientError {
    let status = answer.status.as_u16();
    let Ok(body) = serde_json::from_slice::<ErrorBody>(&answer.body) else {
        return match status {
            502..=504 => ClientError::Proxy(status),
            _ => ClientError::Status { status, message: "answer without an error text".into() },
        };
    };
    let message = body.message.as_ref().unwrap_or(&body.error).chars().take(80).collect();
    match answer.status {
        StatusCode::CONFLICT if body.error.contains("SYNC_IMPORT_EXISTS") => {
            ClientError::ImportExists(body.existing_import_id.unwrap_or_default())
        }
        StatusCode::SERVICE_UNAVAILABLE if body.error.contains("timeout") => ClientError::ServerTimeout(message),
        StatusCode::SERVICE_UNAVAILABLE => ClientError::ServerBusy(message),
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => ClientError::Proxy(status),
        _ => ClientError::Status { status, message },
    }
}
