//! What a user's device meets on its way here: the public address, and through it a WebSocket and a large upload. Needs no
//! account: this server's own refusals show that a request has arrived.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap};
use serde_json::Value;
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite;
use url::Url;

use super::millis;
use crate::clock::Clock;
use crate::config::{Config, MailDelivery};
use crate::diagnosis::{self, Finding, Verdict};
use crate::engine::notifier::Closing;
use crate::mail;

/// How long opening a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a large upload may take.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(75);
/// No more is uploaded to see whether it gets through, in bytes; the app's largest upload (contract, section 15).
const MAX_UPLOAD: usize = 30 << 20;
/// How long somebody has who refuses a body by its announced length.
const PAUSE: Duration = Duration::from_millis(500);
const PIECE: &[u8] = &[b' '; 64 << 10];
/// An answer that takes longer is worth a look.
const SLOW: Duration = Duration::from_secs(2);

/// Whether the mail server would take our mails.
pub(super) async fn mail_server(config: &Config) -> Option<Finding> {
    const ID: &str = "mail-server";
    // Without one there is nothing to ask; that was said with the settings.
    let MailDelivery::Smtp(settings) = &config.mail else { return None };
    Some(match mail::check_login(settings).await {
        Ok(()) => Finding::ok(ID, "the mail server lets us in and takes mails from SMTP_FROM"),
        Err(trouble) => {
            let advice = format!("{} `supersync mail test ADDRESS` shows each step.", trouble.advice);
            let found = trouble.to_string();
            let found = found.strip_suffix(trouble.advice).unwrap_or(&found).trim_end();
            // Some mail servers repeat the user name.
            let user = settings.user.as_deref().filter(|user| !user.is_empty());
            let found = user.map_or_else(|| found.to_owned(), |user| found.replace(user, "<user>"));
            Finding::fault(ID, found, advice)
        }
    })
}

/// Everything that goes through the public address, or through the one that the operator names.
pub(super) async fn check(named: Option<&str>, config: &Config, clock: &Clock) -> Vec<Finding> {
    let base = named.unwrap_or(&config.public_url).trim_end_matches('/');
    let http = match client(base) {
        Ok(http) => http,
        Err(error) => {
            let advice = "Give the address under which users reach the server.";
            return vec![Finding::fault("public-url", error, advice)];
        }
    };
    let asked = Instant::now();
    let answer = match ask(&http, base).await {
        Ok(answer) => answer,
        Err(error) => return vec![no_answer(base, named.is_some(), error)],
    };
    let took = asked.elapsed();
    let finding = health(&answer, took);
    let mut all = vec![];
    all.extend(date(&answer, clock.now_ms()));
    let is_ours = finding.verdict <= Verdict::Warning;
    all.insert(0, finding);
    if is_ours {
        all.push(websocket(base).await);
        all.push(upload(&http, base, config.limits.snapshot_body_bytes.min(MAX_UPLOAD)).await);
    }
    all
}

/// What a server says to `GET /health`.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// An HTTP client for the server at this address; the error says what is wrong with the address.
fn client(base: &str) -> Result<reqwest::Client, String> {
    let invalid = |reason: &dyn std::fmt::Display| format!("invalid server address: {reason}");
    let url = Url::parse(base).map_err(|error| invalid(&error))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(invalid(&"expected http://HOST[:PORT] or https://HOST[:PORT]"));
    }
    // An error only means that a provider is installed, which is all that is needed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_PATIENCE).tcp_nodelay(true).no_proxy();
    if url.scheme() == "http" {
        // A machine without root certificates can still speak plain HTTP.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| format!("HTTP client: {}", mail::with_causes(&error)))
}

async fn ask(http: &reqwest::Client, base: &str) -> reqwest::Result<Answer> {
    let asked = http.get(format!("{base}/health")).timeout(PATIENCE).send().await?;
    let (status, headers) = (asked.status(), asked.headers().clone());
    Ok(Answer { status, headers, body: asked.bytes().await? })
}

fn no_answer(base: &str, is_named: bool, error: reqwest::Error) -> Finding {
    const ID: &str = "public-url";
    let is_refused = error.is_connect() && !error.is_timeout();
    let found = format!("{base} does not answer: {}", mail::with_causes(&error.without_url()));
    let is_local = Url::parse(base).is_ok_and(|url| diagnosis::is_local(&url));
    if !is_named && is_local && is_refused {
        return Finding::note(ID, format!("no server is running at {base}, so the way to it was not looked at"));
    }
    let advice = "See whether the name leads here (DNS), the proxy runs and its certificate is valid, and ports 80 and 443 are \
                  open. Some networks don't let a machine reach its own public address: then ask from elsewhere with --url.";
    Finding::fault(ID, found, advice)
}

fn health(answer: &Answer, took: Duration) -> Finding {
    const ID: &str = "public-url";
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let took_ms = millis(took);
    match (answer.status.as_u16(), body["status"].as_str(), body["db"].as_str()) {
        (200, Some("ok"), Some("connected")) if body["testMode"] == true => Finding::warning(
            ID,
            "the server that answers runs in test mode: anybody can delete everything",
            "Remove TEST_MODE and restart it.",
        ),
        (200, Some("ok"), Some("connected")) if took > SLOW => {
            let advice = "See whether the name has an address that nobody answers at, and look at the load.";
            Finding::warning(ID, format!("the server answers, after {took_ms:.0} ms"), advice)
        }
        (200, Some("ok"), Some("connected")) => Finding::ok(ID, format!("the server answers within {took_ms:.0} ms")),
        (503, Some("error"), Some(_)) => Finding::fault(
            ID,
            "the server answers that its database does not",
            "See the server's log; check the database that it uses.",
        ),
        (status @ (502..=504), _, _) => Finding::fault(
            ID,
            format!("a proxy answers {status}: it does not reach the server"),
            "See whether the server runs, and whether the proxy's settings name its port (PORT).",
        ),
        (status, _, _) => Finding::fault(
            ID,
            format!("something else than this server answers /health with {status}"),
            "See which program answers at that address, and whether the proxy passes every path on.",
        ),
    }
}

/// What clock the answer came by.
fn date(answer: &Answer, now_ms: i64) -> Option<Finding> {
    let text = answer.headers.get(DATE)?.to_str().ok()?;
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?.as_millisecond();
    // It is cut to a second.
    let difference = now_ms.clamp(at, at.saturating_add(999)).abs_diff(now_ms);
    Some(diagnosis::clock("the server at the public address", Duration::from_millis(difference)))
}

/// A socket without a token: this server takes it, because browsers hide a refusal, and closes it with a code of its
/// own (contract, section 9).
async fn websocket(base: &str) -> Finding {
    const ID: &str = "websocket";
    const ADVICE: &str = "Make the proxy pass WebSockets on: HTTP/1.1 with the headers Upgrade and Connection. Until then devices hear of \
                          changes only when they ask.";
    let address = format!("{}/api/sync/ws?clientId=doctor", base.replacen("http", "ws", 1));
    let talk = async {
        let (mut socket, _) = tokio_tungstenite::connect_async(address).await?;
        loop {
            match socket.next().await {
                Some(Ok(tungstenite::Message::Close(frame))) => return Ok(frame.map(|frame| u16::from(frame.code))),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(None),
            }
        }
    };
    match tokio::time::timeout(PATIENCE, talk).await {
        Ok(Ok(Some(code))) if code == Closing::MISSING_TOKEN.code => {
            Finding::ok(ID, "WebSockets get through to the server")
        }
        Ok(Ok(_)) => Finding::fault(ID, "something else than this server takes WebSockets", ADVICE),
        Ok(Err(tungstenite::Error::Http(answer))) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
            Finding::note(ID, "too many sockets were opened from here lately; ask again in a minute")
        }
        Ok(Err(tungstenite::Error::Http(answer))) => {
            Finding::fault(ID, format!("a WebSocket is refused with {}", answer.status().as_u16()), ADVICE)
        }
        Ok(Err(error)) => {
            Finding::fault(ID, format!("a WebSocket does not get through: {}", mail::with_causes(&error)), ADVICE)
        }
        Err(_) => {
            let found = format!("a WebSocket gets no answer within {} s", PATIENCE.as_secs());
            Finding::fault(ID, found, ADVICE)
        }
    }
}

/// So many blanks, made as they are sent, after a pause: who refuses by the announced length does so before anything is
/// under way that could make the connection break over the answer.
struct Blanks {
    pause: Pin<Box<Sleep>>,
    left: usize,
}

impl Body for Blanks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if !self.pause.is_elapsed() && self.pause.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let size = self.left.min(PIECE.len());
        self.left -= size;
        Poll::Ready((size > 0).then(|| Ok(Frame::data(Bytes::from_static(&PIECE[..size])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left).unwrap_or(u64::MAX))
    }
}

/// An upload as large as the server takes, without a token: the server's 401 shows that all of it would get through.
async fn upload(http: &reqwest::Client, base: &str, bytes: usize) -> Finding {
    const ID: &str = "body-limit";
    const ADVICE: &str = "Raise the proxy's limit of bodies (client_max_body_size of nginx, request_body of Caddy) to SNAPSHOT_BODY_BYTES, \
                          or larger accounts can't be set up.";
    let size = bytes >> 20;
    let request = http
        .post(format!("{base}/api/sync/snapshot"))
        .header(CONTENT_TYPE, "application/json")
        .timeout(UPLOAD_PATIENCE)
        .body(reqwest::Body::wrap(Blanks { pause: Box::pin(tokio::time::sleep(PAUSE)), left: bytes }));
    match request.send().await.map(|answer| answer.status()) {
        Ok(StatusCode::UNAUTHORIZED) => Finding::ok(ID, format!("{size} MiB get through to the server")),
        Ok(StatusCode::PAYLOAD_TOO_LARGE) => {
            Finding::fault(ID, format!("a proxy refuses a body of {size} MiB"), ADVICE)
        }
        Ok(StatusCode::TOO_MANY_REQUESTS) => {
            Finding::note(ID, "too much was uploaded from here lately; ask again in a quarter of an hour")
        }
        Ok(status) => Finding::fault(ID, format!("a body of {size} MiB is answered with {}", status.as_u16()), ADVICE),
        Err(error) if error.is_timeout() => Finding::warning(
            ID,
            format!("{size} MiB take more than {} s from here", UPLOAD_PATIENCE.as_secs()),
            "The app gives up then. Look at the line; ask from elsewhere with --url.",
        ),
        Err(error) => {
            let found =
                format!("a body of {size} MiB does not get through: {}", mail::with_causes(&error.without_url()));
            Finding::fault(ID, found, ADVICE)
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        let status = StatusCode::from_u16(status).expect("a status");
        Answer { status, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn who_answers_is_told_apart() {
        let now = Duration::ZERO;
        for (status, body, verdict, words) in [
            (200, r#"{"status":"ok","db":"connected"}"#, Verdict::Ok, "answers within"),
            (200, r#"{"status":"ok","db":"connected","testMode":true}"#, Verdict::Warning, "test mode"),
            (503, r#"{"status":"error","db":"disconnected"}"#, Verdict::Fault, "its database"),
            (503, "<html>", Verdict::Fault, "a proxy answers 503"),
            (200, "<html>", Verdict::Fault, "something else"),
            (404, "", Verdict::Fault, "something else"),
        ] {
            let finding = health(&answer(status, body), now);
            assert!(finding.verdict == verdict && finding.found.contains(words), "{finding:?}");
        }
        let slow = health(&answer(200, r#"{"status":"ok","db":"connected"}"#), SLOW * 2);
        assert_eq!(slow.verdict, Verdict::Warning);
    }

    #[test]
    fn dates_are_whole_seconds() {
        let mut answer = answer(200, "");
        assert_eq!(date(&answer, 0), None);
        answer.headers.insert(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 00:16:40 GMT"));
        let verdict = |now_ms| date(&answer, now_ms).expect("a date").verdict;
        assert_eq!((verdict(1_000_999), verdict(998_000)), (Verdict::Ok, Verdict::Ok));
        assert_eq!((verdict(1_003_500), verdict(997_000)), (Verdict::Warning, Verdict::Warning));
        assert_eq!(verdict(1_100_000), Verdict::Fault);
    }
}
