//! Notification sockets (contract, section 9): hints that something is new, no data.
//!
//! Everything about who may connect is decided after the upgrade, because browsers show close codes to the app and hide
//! HTTP statuses. `Origin` is not checked: native apps send none or one of their own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::address::{self, Peer};
use super::allowance::Allowance;
use super::codes;
use super::connection_limits::Connection;
use super::counted;
use super::error::{ApiError, ApiResult};
use super::state::AppState;
use crate::accounts::AuthError;
use crate::engine::notifier::{Closing, Event, Membership, NotifierOptions};
use crate::protocol::limits::MAX_ID_LEN;
use crate::protocol::{Seq, UserId};

/// An idle socket costs its buffers, 133 kB with the defaults. What clients send fits into this; a longer message is
/// read in several pieces.
const READ_BUFFER_BYTES: usize = 256;
/// Messages up to this size are read whole, so that a close frame gets through to a client that sends too much.
const HARD_MESSAGE_BYTES: usize = 16 * 1024;
/// What may wait to be sent, answers to the client's pings included; the socket of a client that does not read ends.
const MAX_UNSENT_BYTES: usize = 4 * 1024;
/// How many messages a client may send, pings and empty ones included: so many at once,
const MESSAGES_AT_ONCE: u32 = 60;
/// so many in a second,
const MESSAGES_PER_SECOND: u32 = 1;
/// and so many more for each ping of ours, which the app and its socket library both answer.
const ANSWERS_TO_PING: u32 = 4;
/// A socket of which it is not known by then whose it is is closed.
const ADMISSION_PATIENCE: Duration = Duration::from_secs(10);

/// The query of an upgrade.
#[derive(Debug, PartialEq, Eq)]
struct Credentials {
    proof: Proof,
    /// `None`: missing, repeated or no client id.
    client_id: Option<String>,
}

/// Who wants the socket: told by a session's token, or by a ticket, which is worth nothing a moment later (accounts
/// contract, section 13, point 12).
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    Missing,
    Repeated,
    Token(String),
    Ticket(String),
}

fn values(query: Option<&str>, wanted: &str) -> Vec<String> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(name, _)| name == wanted)
        .map(|(_, value)| value.into_owned())
        .collect()
}

/// The query's client id, if it has exactly one and a valid one.
pub(super) fn client_id(query: Option<&str>) -> Option<String> {
    let [id] = <[String; 1]>::try_from(values(query, "clientId")).ok()?;
    let valid = (1..=MAX_ID_LEN).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    valid.then_some(id)
}

fn credentials(query: Option<&str>) -> Credentials {
    let (tokens, tickets) = (values(query, "token"), values(query, "ticket"));
    let given: Vec<Proof> =
        tokens.into_iter().map(Proof::Token).chain(tickets.into_iter().map(Proof::Ticket)).collect();
    let proof = match <[Proof; 1]>::try_from(given) {
        Ok([Proof::Token(text) | Proof::Ticket(text)]) if text.is_empty() => Proof::Missing,
        Ok([proof]) => proof,
        Err(given) if given.is_empty() => Proof::Missing,
        Err(_) => Proof::Repeated,
    };
    Credentials { proof, client_id: client_id(query) }
}

/// A connection that becomes a socket.
pub struct Upgraded(Response);

impl IntoResponse for Upgraded {
    fn into_response(self) -> Response {
        self.0
    }
}

pub async fn upgrade(State(state): State<AppState>, request: Request) -> ApiResult<Upgraded> {
    let (mut parts, _) = request.into_parts();
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &state).await else {
        // The route exists for sockets only. The query stays out: it holds the token.
        return Err(ApiError::not_found(&parts.method, parts.uri.path()));
    };
    let Ok(place) = state.sockets.clone().try_acquire_owned() else {
        count_refused("full");
        return Err(ApiError::from(codes::BUSY).detail("all places for sockets are taken"));
    };
    let credentials = credentials(parts.uri.query());
    let address = address::of(&parts, &state.config.trusted_proxies);
    // A trusted proxy that does not say for whom it asks stands for everybody.
    let bounded = address.filter(|address| !state.config.trusted_proxies.is_among(*address));
    let permit = match bounded.map(|address| state.sockets_by_address.acquire(counted::address(address))) {
        Some(None) => {
            count_refused("address");
            return Err(ApiError::too_many("Too many sockets from this address", "1 minute", 60));
        }
        Some(permit) => permit,
        None => None,
    };
    let connection = parts.extensions.get::<Peer>().and_then(|peer| peer.1.clone());
    let upgraded = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_UNSENT_BYTES)
        .max_message_size(HARD_MESSAGE_BYTES)
        .max_frame_size(HARD_MESSAGE_BYTES)
        .on_upgrade(move |socket| async move {
            // A task of its own: the one that waited for the upgrade holds the socket several times over, for as long
            // as it lives.
            tokio::spawn(async move {
                let _places = (place, permit);
                let client = Client { address, connection };
                serve(state, socket, credentials, client).await;
            });
        });
    Ok(Upgraded(upgraded))
}

fn count_refused(reason: &'static str) {
    metrics::counter!("supersync_sockets_refused_total", "reason" => reason).increment(1);
}

/// Who has a socket, as far as the network tells.
struct Client {
    address: Option<IpAddr>,
    connection: Option<Arc<Connection>>,
}

impl Client {
    /// Whether it has sent so many bytes that nothing more is read.
    fn is_flooding(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_flooded())
    }
}

async fn serve(state: AppState, mut socket: WebSocket, credentials: Credentials, client: Client) {
    let notifier = state.engine.notifier().clone();
    let options = notifier.options();
    // What is needed only in the beginning and at the end is boxed: a socket lives for days and there are many, and
    // each holds as much as its longest phase needs.
    let patience = ADMISSION_PATIENCE.min(state.config.timeouts.handler);
    let admitted = timeout(patience, Box::pin(admit(&state, credentials, client.address)));
    let (user, membership) = match admitted.await.unwrap_or_else(|_| Err(too_slow())) {
        Ok(admitted) => admitted,
        Err(closing) => {
            count_refused(closing.label());
            if let Some(address) = client.address.filter(|_| closing.proves_nobody()) {
                state.limiters.socket_failed(address, state.clock.now_ms());
            }
            return Box::pin(close(&mut socket, closing, options.close_grace)).await;
        }
    };
    let heard = Allowance::new(MESSAGES_AT_ONCE, MESSAGES_PER_SECOND);
    let mut talk = Talk { socket, options, now_ms: &|| notifier.now_ms(), membership, client, heard };
    let end = talk.run(user).await;
    let reason = end.map_or("client", Closing::label);
    metrics::counter!("supersync_sockets_closed_total", "reason" => reason).increment(1);
    if let Some(closing) = end {
        let Talk { mut socket, membership, .. } = talk;
        // The place in the list is free as soon as the end is decided, not when the client has said goodbye.
        drop(membership);
        Box::pin(close(&mut socket, closing, options.close_grace)).await;
    }
}

async fn admit(
    state: &AppState,
    credentials: Credentials,
    address: Option<IpAddr>,
) -> Result<(UserId, Membership), Closing> {
    let Credentials { proof, client_id } = credentials;
    if proof == Proof::Missing {
        return Err(Closing::MISSING_TOKEN);
    }
    let client_id = client_id.ok_or(Closing::INVALID_CLIENT)?;
    let accounts = &state.accounts;
    let (user, credential) = match proof {
        Proof::Missing | Proof::Repeated => return Err(Closing::INVALID_TOKEN),
        Proof::Token(token) => {
            let sender = decided(accounts.authenticate_token(&token, move || address)).await?;
            (sender.user_id, sender.credential())
        }
        Proof::Ticket(ticket) => {
            let redeemed = async { Ok(accounts.redeem_ticket(&ticket).await?) };
            let (user, credential) = decided(redeemed).await?.ok_or(Closing::INVALID_TOKEN)?;
            decided(accounts.recheck(user, &credential)).await?;
            (user, credential)
        }
    };
    let membership = state.engine.notifier().join(user, &client_id, credential)?;
    // A revocation between the first look and joining would have closed every socket but this one.
    decided(accounts.recheck(user, &credential)).await?;
    Ok((user, membership))
}

async fn decided<T>(asked: impl Future<Output = Result<T, AuthError>>) -> Result<T, Closing> {
    match asked.await {
        Ok(decided) => Ok(decided),
        Err(AuthError::Database(error)) => {
            tracing::warn!(%error, route = "/api/sync/ws", "a socket could not be authenticated");
            Err(Closing::INTERNAL)
        }
        Err(_) => Err(Closing::INVALID_TOKEN),
    }
}

/// Nobody knows yet who has the socket, and nobody reads it.
fn too_slow() -> Closing {
    tracing::warn!(error = "timeout", route = "/api/sync/ws", "a socket could not be authenticated");
    Closing::INTERNAL
}

/// An open socket and what it needs to talk.
struct Talk<'a> {
    socket: WebSocket,
    options: &'a NotifierOptions,
    now_ms: &'a (dyn Fn() -> i64 + Send + Sync),
    membership: Membership,
    client: Client,
    /// How many more messages the client may send.
    heard: Allowance,
}

/// What the server says, with its members in alphabetical order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notice {
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_seq: Option<Seq>,
    timestamp: i64,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
}

/// Why talking ended: the connection is gone.
struct Gone;

impl Talk<'_> {
    /// Talks until the end; returns how to close when there still is something to close.
    async fn run(&mut self, user: UserId) -> Option<Closing> {
        let every = self.options.ping_every;
        let mut last_pong = Instant::now();
        let mut ping = interval_at(last_pong + every, every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.send_text(&Notice { user_id: Some(user), ..self.notice("connected") }).await.ok()?;
        loop {
            tokio::select! {
                event = self.membership.next() => match event {
                    Event::Close(closing) => return Some(closing),
                    Event::NewOps(latest_seq) => {
                        self.send_text(&Notice { latest_seq: Some(latest_seq), ..self.notice("new_ops") }).await.ok()?;
                    }
                },
                _ = ping.tick() => {
                    if last_pong.elapsed() > self.options.pong_grace {
                        return None;
                    }
                    // Apps see only the first, proxies and socket libraries answer only the second.
                    self.send_text(&self.notice("ping")).await.ok()?;
                    self.send(Message::Ping(bytes::Bytes::new())).await.ok()?;
                    self.heard.give(ANSWERS_TO_PING);
                }
                message = self.socket.recv() => match self.hear(message?) {
                    Heard::Pong => last_pong = Instant::now(),
                    Heard::Nothing => {}
                    Heard::TooBig => return Some(Closing::TOO_BIG),
                    Heard::TooMuch => return Some(Closing::FLOODED),
                    Heard::Goodbye => {
                        // Reading on sends the answer to the client's close frame.
                        let _ = timeout(self.options.close_grace, self.socket.recv()).await;
                        return None;
                    }
                },
            }
        }
    }

    fn hear(&mut self, message: Result<Message, axum::Error>) -> Heard {
        match message {
            Ok(Message::Text(text)) if text.len() > self.options.max_message_bytes => Heard::TooBig,
            Ok(Message::Binary(data)) if data.len() > self.options.max_message_bytes => Heard::TooBig,
            Err(_) if self.client.is_flooding() => Heard::TooMuch,
            Ok(Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_)) if !self.heard.take(1) => {
                Heard::TooMuch
            }
            Ok(Message::Text(text)) => {
                let is_pong = serde_json::from_str(&text).is_ok_and(|said: Said| said.r#type == "pong");
                if is_pong { Heard::Pong } else { Heard::Nothing }
            }
            Ok(Message::Pong(_)) => Heard::Pong,
            Ok(Message::Ping(_) | Message::Binary(_)) => Heard::Nothing,
            // The library tells a message beyond the hard bound only in words.
            Err(error) if error.to_string().contains("Space limit exceeded") => Heard::TooBig,
            Ok(Message::Close(_)) | Err(_) => Heard::Goodbye,
        }
    }

    fn notice(&self, r#type: &'static str) -> Notice {
        Notice { latest_seq: None, timestamp: (self.now_ms)(), r#type, user_id: None }
    }

    async fn send_text(&mut self, notice: &Notice) -> Result<(), Gone> {
        let text = serde_json::to_string(notice).map_err(|_| Gone)?;
        self.send(Message::text(text)).await
    }

    /// Sends; a client that takes nothing for as long as it may stay silent is gone.
    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        match timeout(self.options.pong_grace, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// What a client says.
#[derive(Deserialize)]
struct Said {
    r#type: String,
}

enum Heard {
    Pong,
    Nothing,
    TooBig,
    TooMuch,
    Goodbye,
}

/// Says goodbye and waits a moment for the client's answer: a connection that is cut with unread data in it loses the
/// close frame too.
async fn close(socket: &mut WebSocket, closing: Closing, grace: Duration) {
    let frame = CloseFrame { code: closing.code, reason: closing.reason.into() };
    let goodbye = async {
        if socket.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        loop {
            match socket.recv().await {
                None | Some(Ok(Message::Close(_))) => return,
                Some(Ok(_)) => {}
                // Unreadable data lies in the connection; give the close frame time to arrive before it is cut.
                Some(Err(_)) if matches!(closing, Closing::TOO_BIG | Closing::FLOODED) => std::future::pending().await,
                Some(Err(_)) => return,
            }
        }
    };
    // The client has had its time.
    let _ = timeout(grace, goodbye).await;
}
