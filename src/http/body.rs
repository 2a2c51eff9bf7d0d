//! Request bodies: from the wire to JSON text, under hard caps at every step (contract, section 2.2; accounts, section
//! 1.2).
//!
//! At no time does a request hold more than its caps plus one chunk, and what it holds is taken from a budget as it
//! comes, not when it is announced. A sender that is too slow is given up. Nothing here looks into the JSON, except
//! [`JsonBody`], which the small account routes use.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::Instant;

use super::codecs::Codecs;
use super::codes;
use super::error::{ApiError, ApiResult};
use super::fields::{Fields, Members};
use super::inflate::{self, InflateError};
use super::observe;
use super::pace::{self, Pace};
use super::route::Caps;
use super::state::AppState;
use crate::budget::{PoolPermit, Refused, SMALL_BYTES};
use crate::protocol::UserId;

/// A body that comes in several pieces is gathered in a buffer of at least this size.
const GATHER_BYTES: usize = 16 * 1024;
/// Compressed bodies above this size are inflated off the threads that serve requests.
const INFLATE_ELSEWHERE_ABOVE_BYTES: usize = 64 * 1024;
/// So are those that turn out to have more in them than this.
const INFLATED_HERE_BYTES: usize = 1024 * 1024;
/// How much of an unwanted body is read and thrown away, so that a client that sends before it listens gets its answer.
const MAX_DISCARDED_BYTES: usize = 32 * 1024 * 1024;
/// And for how long.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);

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

/// The body is gzip (`true`), or plain. `None`: a list or another coding, `identity` included.
fn is_gzip(headers: &HeaderMap) -> Option<bool> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Some(false) };
    match (value.to_str().ok()?.trim(), values.next()) {
        ("", None) => Some(false),
        (coding, None) if coding.eq_ignore_ascii_case("gzip") => Some(true),
        _ => None,
    }
}

fn is_base64(headers: &HeaderMap) -> bool {
    let value = headers.get("content-transfer-encoding").and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.trim().eq_ignore_ascii_case("base64"))
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Makes `held` cover `bytes`, unless they are few.
pub(super) fn cover(held: &mut PoolPermit, bytes: usize) -> Result<(), Refused> {
    held.resize(if bytes > SMALL_BYTES { bytes } else { 0 })
}

/// A body as far as it has come. One that comes in one piece is not copied, and one that comes in many small ones keeps none
/// of the buffers that they came in.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: Vec<u8>,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    /// Adds a piece; `expected` is how long the body will be at most. Room for what has not come is not taken ahead of it,
    /// but for doubling.
    fn push(&mut self, piece: Bytes, expected: usize, held: &mut PoolPermit) -> Result<(), Refused> {
        let len = self.len() + piece.len();
        if self.len() == 0 {
            cover(held, len)?;
            self.first = piece;
            return Ok(());
        }
        if len > self.all.capacity() {
            let grown = (2 * len).max(GATHER_BYTES).min(expected.max(len));
            cover(held, self.len() + grown)?;
            let mut larger = Vec::with_capacity(grown);
            larger.extend_from_slice(&self.first);
            larger.extend_from_slice(&self.all);
            *self = Self { first: Bytes::new(), all: larger };
            cover(held, grown)?;
        }
        self.all.extend_from_slice(&piece);
        Ok(())
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.into() }
    }
}

/// Reads a body of at most `cap` bytes, with at most `idle` between two pieces, into memory that `held` covers.
///
/// # Errors
/// 413 as soon as more is announced or has come; 503 when the client falls silent or is too slow, or when there is no room;
/// 400 when it goes away.
pub async fn read(
    headers: &HeaderMap,
    mut body: Body,
    cap: usize,
    idle: Duration,
    held: &mut PoolPermit,
) -> ApiResult<Bytes> {
    let announced = content_length(headers);
    if announced.is_some_and(|length| length > cap as u64) {
        discard(headers, body).await;
        return Err(ApiError::body_too_large());
    }
    let expected = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(cap);
    let mut gathered = Gathered::default();
    let mut pace = Pace::of_body();
    loop {
        let since = Instant::now();
        let frame = match tokio::time::timeout(pace.left().min(idle), body.frame()).await {
            Err(_) => {
                pace::count_cut("slow_body");
                return Err(ApiError::deadline().closing());
            }
            Ok(None) => return Ok(gathered.into_bytes()),
            Ok(Some(Err(error))) => {
                return Err(ApiError::from(codes::BODY_INCOMPLETE).detail(error).closing());
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(piece) = frame.into_data() else { continue };
        pace.moved(piece.len(), since.elapsed());
        let refusal = if gathered.len() + piece.len() > cap {
            ApiError::body_too_large()
        } else if let Err(refused) = gathered.push(piece, expected, held) {
            ApiError::from(refused).closing()
        } else {
            continue;
        };
        // Not while what is thrown away is waited for.
        drop(gathered);
        held.shrink_to(0);
        discard(headers, body).await;
        return Err(refusal);
    }
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

/// Reads and unpacks the body of a sync route, into memory that `held` covers.
///
/// # Errors
/// 413, 415 and 400 as the contract's section 2.2 has it; 503 as [`read`] has it.
pub async fn sync_payload(
    headers: &HeaderMap,
    body: Body,
    caps: Caps,
    idle: Duration,
    codecs: &Codecs,
    mut held: PoolPermit,
) -> ApiResult<(Payload, PoolPermit)> {
    let media = media(headers);
    let Some(gzip) = is_gzip(headers).filter(|_| media != Media::Other) else {
        discard(headers, body).await;
        return Err(ApiError::unsupported_media_type());
    };
    let base64 = gzip && is_base64(headers);
    let wire = read(headers, body, if base64 { caps.wire_base64() } else { caps.wire }, idle, &mut held).await?;
    if gzip {
        if wire.is_empty() || media != Media::Json {
            return Err(codes::COMPRESSED_NOT_JSON.into());
        }
        let (text, held) = unpack(wire, base64, caps, codecs, held).await?;
        return Ok((Payload::Json { text, compressed: true }, held));
    }
    let payload = match media {
        _ if wire.is_empty() => Payload::Absent,
        Media::Json => Payload::Json { text: wire, compressed: false },
        Media::Text => Payload::Text,
        Media::Missing | Media::Other => return Err(ApiError::unsupported_media_type()),
    };
    Ok((payload, held))
}

async fn unpack(
    wire: Bytes,
    base64: bool,
    caps: Caps,
    codecs: &Codecs,
    mut held: PoolPermit,
) -> ApiResult<(Bytes, PoolPermit)> {
    if wire.len() <= INFLATE_ELSEWHERE_ABOVE_BYTES {
        let here = Caps { inflated: caps.inflated.min(INFLATED_HERE_BYTES), ..caps };
        match inflated(wire.clone(), base64, here, &mut held) {
            // Little on the wire, and much in it: once more, where it keeps nobody waiting.
            Err(InflateError::InflatedTooLarge) if here.inflated < caps.inflated => {}
            done => return Ok((done?.into(), held)),
        }
    }
    let turn = codecs.turn(held.account()).await?;
    let job = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        inflated(wire, base64, caps, &mut held).map(|text| (text, held))
    });
    let (text, held) = job.await.map_err(ApiError::internal)??;
    Ok((text.into(), held))
}

/// The text in a compressed body. What is in memory at once while it is unpacked is covered at each step.
fn inflated(wire: Bytes, base64: bool, caps: Caps, held: &mut PoolPermit) -> Result<Vec<u8>, InflateError> {
    let packed = if base64 {
        cover(held, wire.len() + wire.len() / 4 * 3)?;
        let decoded = inflate::decode_base64(&wire, caps.wire)?;
        drop(wire);
        Bytes::from(decoded)
    } else {
        wire
    };
    let text = inflate::gunzip(&packed, caps.inflated, &mut |bytes| cover(held, packed.len() + bytes))?;
    drop(packed);
    cover(held, text.capacity())?;
    Ok(text)
}

/// The members of an account route's body.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: Members> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> ApiResult<Self> {
        let (_, body) = read_json(request, state).await?;
        Fields::parse(body, state).map(Self)
    }
}

/// Refuses a request for a route that does not exist.
pub async fn not_found(request: Request) -> ApiError {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or_else(|| parts.uri.path(), |path| path.as_str());
    let error = ApiError::not_found(&parts.method, path);
    discard(&parts.headers, body).await;
    error
}

/// Whose share the bodies of account routes count to.
pub const NOBODY: UserId = 0;

/// Reads a JSON value, or nothing, as far as the route's limit allows. An empty body is nothing, whatever its type says; a
/// text is a JSON string, which then fails the route's validation.
///
/// # Errors
/// 413, 415, 400 and 503, as [`read`] has them.
pub async fn read_json(request: Request, state: &AppState) -> ApiResult<(Parts, Option<Value>)> {
    let (parts, body) = request.into_parts();
    let media = media(&parts.headers);
    if media == Media::Other {
        discard(&parts.headers, body).await;
        return Err(ApiError::unsupported_media_type());
    }
    let bytes = read_small(&parts, body, state).await?;
    let value = match media {
        _ if bytes.is_empty() => None,
        Media::Json => Some(serde_json::from_slice(&bytes).map_err(|_| ApiError::malformed_json())?),
        Media::Text => Some(String::from_utf8_lossy(&bytes).into_owned().into()),
        Media::Missing | Media::Other => return Err(ApiError::unsupported_media_type()),
    };
    Ok((parts, value))
}

/// Reads a body as far as the route's limit allows.
///
/// # Errors
/// As [`read`] has them.
pub async fn read_small(parts: &Parts, body: Body, state: &AppState) -> ApiResult<Bytes> {
    let timeouts = &state.config.timeouts;
    let limit = observe::trace(&parts.extensions, timeouts.handler).body_limit().caps(&state.config.limits);
    let mut held = state.account_bodies.acquire(NOBODY, 0)?;
    read(&parts.headers, body, limit.wire, timeouts.socket, &mut held).await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;
    use futures_util::stream::{self, StreamExt as _};

    use super::*;
    use crate::budget::{Pool, Resource};

    const IDLE: Duration = Duration::from_secs(90);

    fn pool() -> Pool {
        Pool::with_large(Resource::Bodies, 4 << 20, 1 << 18, 4 << 20)
    }

    /// Pieces that come each after this time.
    fn trickle(piece: &'static [u8], every: Duration, pieces: usize) -> Body {
        Body::from_stream(stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(every).await;
            Ok::<_, Infallible>(piece)
        }))
    }

    async fn read_into(held: &mut PoolPermit, body: Body) -> ApiResult<Bytes> {
        read(&HeaderMap::new(), body, 1 << 20, IDLE, held).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_a_byte_now_and_then_is_given_up() {
        let pool = pool();
        let mut held = pool.acquire(1, 0).unwrap();
        let started = Instant::now();
        let refused = read_into(&mut held, trickle(b"x", Duration::from_secs(1), 1000)).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!((19..=22).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
        drop(held);
        assert_eq!(pool.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_falls_silent_after_much_is_given_up_as_soon() {
        let pool = pool();
        let mut held = pool.acquire(1, 0).unwrap();
        let much = stream::once(async { Ok::<_, Infallible>(vec![0; 500_000]) }).chain(stream::pending());
        let started = Instant::now();
        assert!(read_into(&mut held, Body::from_stream(much)).await.is_err());
        assert!(started.elapsed() <= Duration::from_secs(21), "{:?}", started.elapsed());
        // And sooner where a connection may not be silent for as long.
        let (silent, idle) =
            (Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()), Duration::from_secs(1));
        let refused = read(&HeaderMap::new(), silent, 1, idle, &mut held).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(started.elapsed() <= Duration::from_secs(23), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_phone_on_a_slow_network_gets_its_body_through() {
        let pool = pool();
        let mut held = pool.acquire(1, 0).unwrap();
        // 5 KB a second in lumps, as a bad network delivers them.
        let piece: &'static [u8] = vec![b'x'; 75_000].leak();
        let body = read_into(&mut held, trickle(piece, Duration::from_secs(15), 5)).await.unwrap();
        assert_eq!(body.len(), 375_000);
    }

    #[tokio::test]
    async fn what_has_come_is_counted_and_not_what_was_announced() {
        let pool = pool();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, 1_000_000.into());
        let mut held = pool.acquire(1, 0).unwrap();
        let (piece, mut pieces) = (vec![0; 100_000], 0);
        let watched = pool.clone();
        let body = Body::from_stream(stream::iter(0..10).map(move |_| {
            // Doubling, and while it is copied the old buffer beside the new one.
            assert!(watched.held() <= (3 * pieces * 100_000).max(16 * 1024), "{} after {pieces}", watched.held());
            pieces += 1;
            Ok::<_, Infallible>(piece.clone())
        }));
        assert_eq!(read(&headers, body, 1 << 20, IDLE, &mut held).await.unwrap().len(), 1_000_000);
        assert_eq!(held.amount(), 1_000_000);
    }

    #[tokio::test]
    async fn tiny_pieces_cost_no_more_than_what_is_in_them() {
        let pool = pool();
        let mut held = pool.acquire(1, 0).unwrap();
        // As a chunk of one byte comes: a slice of a large buffer.
        let buffer = Bytes::from(vec![b'x'; 8 * 1024]);
        let pieces = (0..50_000).map(move |n| Ok::<_, Infallible>(buffer.slice(n % 8000..=n % 8000)));
        let body = read_into(&mut held, Body::from_stream(stream::iter(pieces))).await.unwrap();
        assert!(body.len() == 50_000 && body.iter().all(|byte| *byte == b'x'));
        assert!(held.amount() <= 2 * 50_000, "{}", held.amount());
    }

    #[tokio::test]
    async fn a_body_beyond_the_share_is_refused_and_its_memory_free() {
        let pool = pool();
        let _other = pool.acquire(1, 100_000).unwrap();
        let mut held = pool.acquire(1, 0).unwrap();
        let pieces = stream::iter((0..10).map(|_| Ok::<_, Infallible>(vec![0; 50_000])));
        let refused = read_into(&mut held, Body::from_stream(pieces)).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(pool.held(), 100_000);
        // What is small always passes.
        let mut held = pool.acquire(1, 0).unwrap();
        assert!(read_into(&mut held, Body::from(vec![0; SMALL_BYTES])).await.is_ok());
    }

    #[tokio::test]
    async fn a_bomb_is_unpacked_only_as_far_as_there_is_room() {
        use std::io::Write as _;
        let pool = pool();
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        bomb.write_all(&vec![0; 8 << 20]).unwrap();
        // A second member, so that the trailer says little.
        let mut bomb = bomb.finish().unwrap();
        let mut small = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        small.write_all(b"0").unwrap();
        bomb.extend(small.finish().unwrap());
        let caps = Caps { wire: 1 << 20, inflated: 16 << 20 };
        let held = pool.acquire(1, 0).unwrap();
        let refused = unpack(bomb.into(), false, caps, &Codecs::new(), held).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(pool.held(), 0);
    }
}
