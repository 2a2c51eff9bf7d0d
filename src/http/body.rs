//! Request bodies: from the wire to JSON text, under hard caps at every step (contract, section 2.2; accounts, section
//! 1.2).
//!
//! At no time does a request hold more than its caps plus one chunk. Nothing here looks into the JSON, except
//! [`JsonBody`], which the small account routes use.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::error::{ApiError, ApiResult};
use super::inflate::{self, InflateError};
use super::state::AppState;

/// Wire bytes of an account route's body. The contract allows 20 MiB; no account request needs more than a few KiB.
const MAX_ACCOUNT_BODY_BYTES: usize = 1024 * 1024;
/// Compressed bodies above this size are inflated off the threads that serve requests.
const INFLATE_ELSEWHERE_ABOVE_BYTES: usize = 64 * 1024;
/// How much of an unwanted body is read and thrown away, so that a client that sends before it listens gets its answer.
const MAX_DISCARDED_BYTES: usize = 32 * 1024 * 1024;
/// And for how long.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);

/// Bounds of one request's body.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Bytes on the wire, plain or binary gzip; also of the gzip after base64 decoding.
    pub wire: usize,
    /// Bytes after inflating.
    pub inflated: usize,
}

impl Caps {
    /// Wire bytes of a body whose gzip is wrapped in base64.
    pub(super) const fn wire_base64(self) -> usize {
        self.wire.div_ceil(3) * 4 + 4
    }
}

/// What a sync route received.
#[derive(Debug, PartialEq, Eq)]
pub enum Payload {
    /// JSON text, not looked at yet.
    Json {
        /// The text.
        text: Bytes,
        /// Whether it came compressed: the answer to malformed text differs.
        compressed: bool,
    },
    /// No body.
    Absent,
    /// A body that is a text, not JSON.
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Missing,
    Json,
    Text,
    Other,
}

fn media(headers: &HeaderMap) -> Media {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Media::Missing };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.is_empty() {
        Media::Missing
    } else if essence.eq_ignore_ascii_case("application/json") {
        Media::Json
    } else if essence.eq_ignore_ascii_case("text/plain") {
        Media::Text
    } else {
        Media::Other
    }
}

/// The body is gzip (`true`), or plain. Lists and every other coding are refused, `identity` included.
fn is_gzip(headers: &HeaderMap) -> ApiResult<bool> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(false) };
    let coding = value.to_str().map_err(|_| ApiError::unsupported_media_type())?.trim();
    match (coding, values.next()) {
        ("", None) => Ok(false),
        (coding, None) if coding.eq_ignore_ascii_case("gzip") => Ok(true),
        _ => Err(ApiError::unsupported_media_type()),
    }
}

fn is_base64(headers: &HeaderMap) -> bool {
    let value = headers.get("content-transfer-encoding").and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.trim().eq_ignore_ascii_case("base64"))
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Reads a body of at most `cap` bytes, with at most `idle` between two pieces.
///
/// # Errors
/// 413 as soon as more is announced or has come; 503 when the client falls silent; 400 when it goes away.
pub async fn read(headers: &HeaderMap, body: Body, cap: usize, idle: Duration) -> ApiResult<Bytes> {
    let announced = content_length(headers);
    if announced.is_some_and(|length| length > cap as u64) {
        discard(headers, body).await;
        return Err(ApiError::body_too_large());
    }
    let announced = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut body = body;
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Err(_) => return Err(ApiError::deadline().closing()),
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(ApiError::bad_request("Request body incomplete").detail(error).closing());
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(chunk) = frame.into_data() else { continue };
        if first.len() + all.len() + chunk.len() > cap {
            discard(headers, body).await;
            return Err(ApiError::body_too_large());
        }
        if all.is_empty() && first.is_empty() {
            first = chunk;
        } else {
            if all.is_empty() {
                all.reserve(announced.max(first.len() + chunk.len()));
                all.extend_from_slice(&first);
                first = Bytes::new();
            }
            all.extend_from_slice(&chunk);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Reads and throws away what is left of a body, within bounds. Closing a connection while the client is still sending
/// makes many clients report a broken connection instead of the answer.
pub async fn discard(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        // This client waits for leave to send; reading would give it.
        return;
    }
    let drain = async {
        let mut left = MAX_DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // However it ends: there is nothing more that could be done for this client.
    let _ = tokio::time::timeout(MAX_DISCARD_TIME, drain).await;
}

/// Reads and unpacks the body of a sync route.
///
/// # Errors
/// 413, 415 and 400 as the contract's section 2.2 has it.
pub async fn sync_payload(
    headers: &HeaderMap,
    body: Body,
    caps: Caps,
    idle: Duration,
    codecs: &Arc<Semaphore>,
) -> ApiResult<Payload> {
    let gzip = match is_gzip(headers) {
        Ok(gzip) => gzip,
        Err(error) => {
            discard(headers, body).await;
            return Err(error);
        }
    };
    let base64 = gzip && is_base64(headers);
    let media = media(headers);
    if media == Media::Other {
        discard(headers, body).await;
        return Err(ApiError::unsupported_media_type());
    }
    let wire = read(headers, body, if base64 { caps.wire_base64() } else { caps.wire }, idle).await?;
    if gzip {
        if wire.is_empty() || media != Media::Json {
            return Err(ApiError::bad_request("Compressed request body is not JSON"));
        }
        let text = unpack(wire, base64, caps, codecs).await?;
        return Ok(Payload::Json { text, compressed: true });
    }
    match media {
        _ if wire.is_empty() => Ok(Payload::Absent),
        Media::Json => Ok(Payload::Json { text: wire, compressed: false }),
        Media::Text => Ok(Payload::Text),
        Media::Missing | Media::Other => Err(ApiError::unsupported_media_type()),
    }
}

async fn unpack(wire: Bytes, base64: bool, caps: Caps, codecs: &Arc<Semaphore>) -> ApiResult<Bytes> {
    let elsewhere = wire.len() > INFLATE_ELSEWHERE_ABOVE_BYTES;
    let work = move || {
        if base64 {
            let decoded = inflate::decode_base64(&wire, caps.wire)?;
            drop(wire);
            inflate::gunzip(&decoded, caps.inflated)
        } else {
            inflate::gunzip(&wire, caps.inflated)
        }
    };
    let unpacked = if elsewhere {
        let permit = codecs.clone().acquire_owned().await.map_err(ApiError::internal)?;
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        job.await.map_err(ApiError::internal)?
    } else {
        work()
    };
    Ok(unpacked?.into())
}

impl From<InflateError> for ApiError {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::CompressedTooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Compressed payload too large")
            }
            InflateError::InflatedTooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Decompressed payload too large")
            }
            InflateError::Base64 => Self::bad_request("Request body is not valid base64"),
            InflateError::Gzip => Self::bad_request("Request body is not valid gzip"),
        }
    }
}

/// The body of an account route: a JSON value, or nothing. An empty body is nothing, whatever its type says; a text is
/// a JSON string, which then fails the route's validation.
#[derive(Debug)]
pub struct JsonBody(pub Option<Value>);

impl FromRequest<AppState> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        json_body(&parts.headers, body, state.config.timeouts.socket).await.map(Self)
    }
}

async fn json_body(headers: &HeaderMap, body: Body, idle: Duration) -> ApiResult<Option<Value>> {
    let media = media(headers);
    if media == Media::Other {
        discard(headers, body).await;
        return Err(ApiError::unsupported_media_type());
    }
    let bytes = read(headers, body, MAX_ACCOUNT_BODY_BYTES, idle).await?;
    match media {
        _ if bytes.is_empty() => Ok(None),
        Media::Json => serde_json::from_slice(&bytes).map(Some).map_err(|_| ApiError::malformed_json()),
        Media::Text => Ok(Some(String::from_utf8_lossy(&bytes).into_owned().into())),
        Media::Missing | Media::Other => Err(ApiError::unsupported_media_type()),
    }
}
