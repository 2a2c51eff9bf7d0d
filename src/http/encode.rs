//! Answers that say "yes": JSON, packed for clients that ask.

use std::io::Write as _;
use std::marker::PhantomData;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ApiResult};

/// The content type of every JSON answer.
pub const JSON: &str = "application/json; charset=utf-8";

/// Answers up to this size are not worth packing.
const PACK_ABOVE_BYTES: usize = 1024;

/// An answer with this JSON body, written already. The type tells the description of the interface ([`super::openapi`])
/// what is in it.
#[derive(Debug)]
pub struct Answer<T, const STATUS: u16 = 200> {
    response: Response,
    body: PhantomData<fn() -> T>,
}

impl<T, const STATUS: u16> Answer<T, STATUS> {
    /// An answer whose text was written elsewhere.
    pub(super) const fn written(response: Response) -> Self {
        Self { response, body: PhantomData }
    }

    /// The same with something done to its headers.
    pub(super) fn map(self, change: impl FnOnce(Response) -> Response) -> Self {
        Self::written(change(self.response))
    }
}

impl<T, const STATUS: u16> IntoResponse for Answer<T, STATUS> {
    fn into_response(self) -> Response {
        self.response
    }
}

/// A file of this media type.
#[derive(Debug)]
pub struct File<M> {
    response: Response,
    media_type: PhantomData<fn() -> M>,
}

/// The media type of a file.
pub trait MediaType {
    /// Its name in headers.
    const NAME: &'static str;
}

/// One JSON value per line.
#[derive(Debug)]
pub struct Ndjson;

impl MediaType for Ndjson {
    const NAME: &'static str = "application/x-ndjson";
}

/// A zip file.
#[derive(Debug)]
pub struct Zip;

impl MediaType for Zip {
    const NAME: &'static str = "application/zip";
}

/// A picture.
#[derive(Debug)]
pub struct Svg;

impl MediaType for Svg {
    const NAME: &'static str = "image/svg+xml";
}

impl<M: MediaType> File<M> {
    /// A file that no cache may keep.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self { response: no_store(with_type(StatusCode::OK, M::NAME, body)), media_type: PhantomData }
    }

    /// The same to be saved. `name` has no character that a header can't hold.
    #[must_use]
    pub fn attachment(body: Body, name: &str) -> Self {
        let mut file = Self::new(body);
        if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
            file.response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
        }
        file
    }
}

impl<M> IntoResponse for File<M> {
    fn into_response(self) -> Response {
        self.response
    }
}

/// A small JSON answer, never packed.
///
/// # Errors
/// 500 when the body can't be written as JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> ApiResult {
    let text = serde_json::to_vec(body).map_err(ApiError::internal)?;
    Ok(with_type(status, JSON, Body::from(text)))
}

/// The same with status 200.
///
/// # Errors
/// Like [`json`].
pub fn ok<T: Serialize>(body: &T) -> ApiResult<Answer<T>> {
    json(StatusCode::OK, body).map(Answer::written)
}

/// The same with status 201.
///
/// # Errors
/// Like [`json`].
pub fn created<T: Serialize>(body: &T) -> ApiResult<Answer<T, 201>> {
    json(StatusCode::CREATED, body).map(Answer::written)
}

/// A 200 that no cache may keep: it holds secrets, or what is one account's.
///
/// # Errors
/// Like [`json`].
pub fn private<T: Serialize>(body: &T) -> ApiResult<Answer<T>> {
    json(StatusCode::OK, body).map(no_store).map(Answer::written)
}

/// An answer that no cache may keep.
#[must_use]
pub fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A sentence for a person.
#[derive(Debug, Serialize, ToSchema)]
pub struct Message {
    /// In English, since clients compare it.
    pub message: &'static str,
}

/// The request was carried out.
#[derive(Debug, Serialize, ToSchema)]
pub struct Success {
    /// Always true.
    success: bool,
}

/// The answer to a request that asks for nothing but to be done.
///
/// # Errors
/// Like [`json`].
pub fn success() -> ApiResult<Answer<Success>> {
    ok(&Success { success: true })
}

/// An answer of this media type.
#[must_use]
pub fn with_type(status: StatusCode, media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Whether the client takes gzip: asks for it, and unpacks it.
///
/// The app's background poller on Android asks for gzip itself, which turns off the unpacking of its HTTP library, `OkHttp`,
/// and reads the packed bytes as text (contract, section 17.17). On the wire it can't be told from others that use `OkHttp`,
/// so none of them gets gzip. Every other released client either leaves the header to what unpacks as well (browsers,
/// Electron, the HTTP stacks of Android and iOS under the app itself), or does not send it.
#[must_use]
pub fn accepts_gzip(request: &HeaderMap) -> bool {
    !is_okhttp(request) && asks_for_gzip(request)
}

fn is_okhttp(request: &HeaderMap) -> bool {
    const NAME: &[u8] = b"okhttp/";
    let agents = request.get_all(header::USER_AGENT);
    agents.iter().any(|agent| agent.as_bytes().windows(NAME.len()).any(|part| part.eq_ignore_ascii_case(NAME)))
}

fn asks_for_gzip(request: &HeaderMap) -> bool {
    let (mut named, mut any) = (None, None);
    let values = request.get_all(header::ACCEPT_ENCODING);
    for item in values.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')) {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts
            .find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")))
            .map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0));
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            named = Some(weight > 0.0);
        } else if coding == "*" {
            any = Some(weight > 0.0);
        }
    }
    named.or(any).unwrap_or(false)
}

/// A 200 with this JSON text, packed when the client takes it (`gzip`) and it pays. For texts that are small enough to be
/// packed here and now; `outgoing` has the others.
///
/// # Errors
/// 500 when packing failed.
pub fn json_text(body: Vec<u8>, gzip: bool) -> ApiResult {
    if body.len() <= PACK_ABOVE_BYTES {
        return Ok(with_type(StatusCode::OK, JSON, Body::from(body)));
    }
    let body = Bytes::from(body);
    let packed = gzip.then(|| pack(std::slice::from_ref(&body))).transpose().map_err(ApiError::internal)?;
    let is_packed = packed.is_some();
    let mut response = with_type(StatusCode::OK, JSON, Body::from(packed.unwrap_or(body)));
    if is_packed {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Ok(response)
}

/// Gzip of texts that follow each other.
pub(super) fn pack(texts: &[Bytes]) -> std::io::Result<Bytes> {
    // Level 1 is three times as fast as level 6 and still halves JSON.
    let bytes: usize = texts.iter().map(Bytes::len).sum();
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes / 3), Compression::fast());
    for text in texts {
        encoder.write_all(text)?;
    }
    Ok(encoder.finish()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(text: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(text).unwrap());
        accepts_gzip(&headers)
    }

    #[test]
    fn gzip_is_used_only_when_asked_for() {
        assert!(!accepts_gzip(&HeaderMap::new()));
        assert!(!accepts("br, deflate"));
        assert!(!accepts("gzip;q=0, *"));
        assert!(!accepts("identity, gzip; q=0.0"));
        assert!(accepts("deflate, GZip;q=0.5"));
        assert!(accepts("*"));
    }

    #[test]
    fn clients_that_ask_for_gzip_without_unpacking_it_never_get_it() {
        let accepts = |agent: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(header::USER_AGENT, HeaderValue::from_str(agent).unwrap());
            accepts_gzip(&headers)
        };
        for poller in ["okhttp/4.12.0", "okhttp/3.14.9", "okhttp/5.0.0-alpha.14", "OkHttp/4.12.0", "x/1 (okhttp/4.9.3)"]
        {
            assert!(!accepts(poller), "{poller}");
        }
        let browser =
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
        let phone = "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 7 Build/AP2A.240905.003)";
        for other in [browser, &browser.replace("Chrome", "superProductivity/18.0.0 Chrome"), phone, "okhttp", ""] {
            assert!(accepts(other), "{other}");
        }
    }

    #[test]
    fn small_answers_stay_as_they_are() {
        for (bytes, is_packed) in [(PACK_ABOVE_BYTES, false), (PACK_ABOVE_BYTES + 1, true)] {
            let answer = json_text(vec![b' '; bytes], true).unwrap();
            assert_eq!(answer.headers().contains_key(header::CONTENT_ENCODING), is_packed, "{bytes}");
        }
    }
}
