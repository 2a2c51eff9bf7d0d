//! Answers on their way out.
//!
//! An answer that is larger than [`SMALL_BYTES`] holds a part of a budget until its last byte has been handed to the
//! system: the memory itself carries it, so that nothing that is still waiting to be written is forgotten. Large payloads
//! are not in memory at all; they are read from the store piece by piece while they are sent. An answer has
//! [`SENDING_TIME`]; how slow a reader may be meanwhile is the connection's business ([`super::idle`]).

use std::collections::VecDeque;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::body::cover;
use super::encode;
use super::error::{ApiError, ApiResult};
use super::pace;
use super::state::AppState;
use crate::budget::{PoolPermit, SMALL_BYTES};
use crate::protocol::response::Text;
use crate::protocol::{Seq, UserId};
use crate::store::{LARGE_PAYLOAD_BYTES, Store, StoreError};

/// How long it may take until an answer has left: the app has given up long before, after 75 seconds.
const SENDING_TIME: Duration = Duration::from_mins(2);
/// What is handed over at once: the usual page of 500 operations.
const SLICE_BYTES: usize = 512 * 1024;
/// Answers up to this size are packed as a whole, larger ones while they are sent.
const PACK_WHOLE_BYTES: usize = 1024 * 1024;
/// Larger answers are packed off the threads that serve requests.
const PACK_ELSEWHERE_ABOVE_BYTES: usize = 64 * 1024;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// It is there.
    Text(Bytes),
    /// An operation's payload, to be read when its turn comes.
    Payload {
        /// Whose.
        seq: Seq,
        /// Its size.
        bytes: usize,
    },
}

/// An answer's parts, in order.
pub type Parts = VecDeque<Part>;

/// A text's parts.
pub fn parts(text: Text) -> Parts {
    let mut rest = Bytes::from(text.json);
    let mut parts = Parts::with_capacity(2 * text.gaps.len() + 1);
    let mut done = 0;
    for gap in text.gaps {
        parts.push_back(Part::Text(rest.split_to(gap.at - done)));
        parts.push_back(Part::Payload { seq: gap.seq, bytes: gap.bytes });
        done = gap.at;
    }
    parts.push_back(Part::Text(rest));
    parts
}

/// Bytes in memory, and bytes that are read while they are sent.
fn sizes(parts: &Parts) -> (usize, usize) {
    parts.iter().fold((0, 0), |(here, there), part| match part {
        Part::Text(text) => (here + text.len(), there),
        Part::Payload { bytes, .. } => (here, there + bytes),
    })
}

/// The parts that are in memory.
fn texts(parts: &Parts) -> Vec<Bytes> {
    parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(text.clone()) } else { None }).collect()
}

/// What an answer takes for payloads that are read while it is sent.
pub const fn reading(is_large: bool) -> usize {
    if is_large { 2 * LARGE_PAYLOAD_BYTES } else { 0 }
}

/// Why sending broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// What was to be sent has been deleted or replaced meanwhile.
    #[error("an operation is gone that was being sent")]
    Gone,
    /// It could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The reader took too long.
    #[error("the answer was not read in time")]
    Slow,
    /// The store took too long.
    #[error("what was to be sent could not be read in time")]
    Stalled,
    /// It could not be packed.
    #[error("packing failed: {0}")]
    Packing(BoxError),
}

/// Parts as pieces of a bounded size.
pub struct Pieces {
    store: Arc<dyn Store>,
    account: UserId,
    parts: Parts,
    reading: Option<Reading>,
}

/// A payload that is being read.
struct Reading {
    seq: Seq,
    piece: usize,
    left: usize,
}

impl Pieces {
    /// Pieces of these parts.
    pub fn new(store: Arc<dyn Store>, account: UserId, parts: Parts) -> Self {
        Self { store, account, parts, reading: None }
    }

    /// Goes on with these parts once there are no more.
    pub fn refill(&mut self, parts: Parts) {
        self.parts.extend(parts);
    }

    /// The next piece, never an empty one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(reading) = self.reading.as_mut().filter(|reading| reading.left > 0) {
                let piece = self.store.read_payload(self.account, reading.seq, reading.piece).await?;
                let piece = piece.filter(|piece| piece.len() <= reading.left).ok_or(Broken::Gone)?;
                reading.piece += 1;
                reading.left -= piece.len();
                return Ok(Some(piece));
            }
            self.reading = None;
            match self.parts.pop_front() {
                None => return Ok(None),
                Some(Part::Payload { seq, bytes }) => self.reading = Some(Reading { seq, piece: 0, left: bytes }),
                Some(Part::Text(mut text)) if text.len() > SLICE_BYTES => {
                    let piece = text.split_to(SLICE_BYTES);
                    self.parts.push_front(Part::Text(text));
                    return Ok(Some(piece));
                }
                Some(Part::Text(text)) if text.is_empty() => {}
                Some(Part::Text(text)) => return Ok(Some(text)),
            }
        }
    }
}

/// Bytes that carry what they hold of a budget, wherever they wait.
struct Leaving {
    bytes: Bytes,
    _held: Arc<PoolPermit>,
}

impl AsRef<[u8]> for Leaving {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes that hold a part of a budget until the last of them is gone.
pub fn leaving(bytes: Bytes, held: Arc<PoolPermit>) -> Bytes {
    Bytes::from_owner(Leaving { bytes, _held: held })
}

/// A 200 with this JSON text, packed when the client takes it (`gzip`).
///
/// # Errors
/// 503 when the account, or all together, have too many answers that wait to be read; 500 when packing failed.
pub async fn answer(state: &AppState, mut held: PoolPermit, mut parts: Parts, gzip: bool) -> ApiResult {
    let (here, there) = sizes(&parts);
    let account = held.account();
    if there == 0 && here <= SLICE_BYTES && parts.len() > 1 {
        parts = [Part::Text(texts(&parts).concat().into())].into();
    }
    let reading = reading(there > 0);
    cover(&mut held, here + reading)?;
    let mut packer = None;
    let mut is_gzip = false;
    if gzip && there == 0 && here <= PACK_WHOLE_BYTES {
        // An account that has many packed at once gets the others as they are.
        if let Some(whole) = pack_whole(state, account, &parts, here).await? {
            parts = [Part::Text(whole)].into();
            is_gzip = true;
        }
    } else if gzip {
        packer = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        is_gzip = true;
    }
    let (here, there) = sizes(&parts);
    cover(&mut held, here + reading)?;
    let body = match parts.front() {
        Some(Part::Text(text)) if parts.len() == 1 && here <= SLICE_BYTES && packer.is_none() => {
            let is_small = text.len() <= SMALL_BYTES;
            Body::from(if is_small { text.clone() } else { leaving(text.clone(), Arc::new(held)) })
        }
        _ => {
            let length = packer.is_none().then_some(here + there);
            let pieces = Pieces::new(Arc::clone(&state.store), account, parts);
            let until = Instant::now() + SENDING_TIME;
            let sending = Sending { pieces, packer, held: Arc::new(held), until, state: state.clone(), is_over: false };
            let stream = stream::try_unfold(sending, Sending::next).boxed();
            Body::new(Measured { stream, left: length.map(|length| u64::try_from(length).unwrap_or(u64::MAX)) })
        }
    };
    let mut response = encode::with_type(StatusCode::OK, encode::JSON, body);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if is_gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// `None`: not now.
async fn pack_whole(state: &AppState, account: UserId, parts: &Parts, bytes: usize) -> ApiResult<Option<Bytes>> {
    let texts = texts(parts);
    if bytes <= PACK_ELSEWHERE_ABOVE_BYTES {
        return encode::pack(&texts).map(Some).map_err(ApiError::internal);
    }
    let Ok(turn) = state.codecs.turn(account).await else { return Ok(None) };
    let packing = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        encode::pack(&texts)
    });
    packing.await.map_err(ApiError::internal)?.map(Some).map_err(ApiError::internal)
}

/// An answer that is being sent.
struct Sending {
    pieces: Pieces,
    packer: Option<GzEncoder<Vec<u8>>>,
    held: Arc<PoolPermit>,
    until: Instant,
    state: AppState,
    is_over: bool,
}

impl Sending {
    /// A failure ends the connection without the end of the answer, so that nobody takes a part for the whole.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Broken> {
        while !self.is_over {
            let next = if Instant::now() > self.until {
                pace::count_cut("slow_reader");
                Err(Broken::Slow)
            } else {
                timeout_at(self.until, self.pieces.next()).await.unwrap_or(Err(Broken::Stalled))
            };
            let piece = next.inspect_err(|error| tracing::info!(%error, "an answer breaks off"))?;
            self.is_over = piece.is_none();
            let bytes = match self.packer.take() {
                None => piece.unwrap_or_default(),
                Some(packer) => self.pack(packer, piece).await?,
            };
            if !bytes.is_empty() {
                return Ok(Some((leaving(bytes, Arc::clone(&self.held)), self)));
            }
        }
        Ok(None)
    }

    /// What comes out of the packer for a piece; what was left in it at the end.
    async fn pack(&mut self, mut packer: GzEncoder<Vec<u8>>, piece: Option<Bytes>) -> Result<Bytes, Broken> {
        let _running = self.state.codecs.running().await;
        let packing = tokio::task::spawn_blocking(move || {
            let Some(piece) = piece else { return packer.finish().map(|rest| (None, rest)) };
            packer.write_all(&piece)?;
            let out = std::mem::take(packer.get_mut());
            Ok((Some(packer), out))
        });
        let (packer, out) = packing
            .await
            .map_err(|died| Broken::Packing(died.into()))?
            .map_err(|error: std::io::Error| Broken::Packing(error.into()))?;
        self.packer = packer;
        Ok(out.into())
    }
}

/// A body whose length is known, if it is.
struct Measured {
    stream: BoxStream<'static, Result<Bytes, Broken>>,
    left: Option<u64>,
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        this.stream.poll_next_unpin(cx).map_ok(|bytes| {
            if let Some(left) = &mut this.left {
                *left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            }
            Frame::data(bytes)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
