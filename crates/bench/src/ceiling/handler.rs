//! What HTTP and authentication cost at least: a handler that checks a token and does nothing else, served as the server
//! serves, by a process of its own.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tower::ServiceExt as _;

use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::connection::Answer;
use crate::bench::device::Device;
use crate::bench::error::{BenchError, Result};
use crate::bench::load::{self, Pace, Work};
use crate::bench::session::Session;
use crate::bench::target::{Account, Target};
use crate::bench::usage::Meter;

/// The answer: a poll's has as many bytes.
const BODY: &str = "{\"ops\":[],\"hasMore\":false,\"latestSeq\":20,\"serverTime\":1700000000000,\
                    \"capabilities\":{\"causalRepairSnapshots\":true}}";
/// As long as the server's time limit for a silent connection.
const SILENCE: Duration = Duration::from_secs(90);

/// What a token claims, as the server issues it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    user_id: i64,
    email: String,
    token_version: i64,
    iat: i64,
    exp: i64,
}

struct Keys {
    decoding: DecodingKey,
    validation: Validation,
}

/// Serves on a port of this machine until the process is ended. Its first line on standard output is its address and a
/// token that it accepts.
///
/// # Errors
/// When it can't listen or write.
pub async fn serve() -> Result<()> {
    let secret: [u8; 32] = rand::random();
    let claims = Claims {
        user_id: 1,
        email: "bench-0@example.org".to_owned(),
        token_version: 0,
        iat: 0,
        exp: i64::from(u32::MAX),
    };
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&secret))
        .map_err(|error| BenchError::Answer(format!("no token: {error}")))?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_aud = false;
    let keys = Keys { decoding: DecodingKey::from_secret(&secret), validation };
    let router = Router::new().route("/api/sync/ops", get(answer)).with_state(Arc::new(keys));

    let listening = || BenchError::io("listening");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(listening())?;
    let address = listener.local_addr().map_err(listening())?;
    let mut out = std::io::stdout();
    writeln!(out, "{address} {token}").and_then(|()| out.flush()).map_err(BenchError::io("saying where it listens"))?;
    loop {
        let (stream, _) = listener.accept().await.map_err(BenchError::io("accepting a connection"))?;
        stream.set_nodelay(true).map_err(BenchError::io("accepting a connection"))?;
        let router = router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(SILENCE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // A connection that breaks is the load's to notice.
        tokio::spawn(async { drop(connection.await) });
    }
}

async fn answer(State(keys): State<Arc<Keys>>, request: Request) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer "));
    let claims = token.and_then(|token| jsonwebtoken::decode::<Claims>(token, &keys.decoding, &keys.validation).ok());
    if claims.is_none_or(|claims| claims.claims.user_id < 1) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    ([(header::CONTENT_TYPE, json)], BODY).into_response()
}

/// The process that serves.
struct Handler {
    process: Child,
    pid: Option<u32>,
    target: Target,
    account: Account,
}

impl Handler {
    async fn start() -> Result<Self> {
        let program = std::env::current_exe().map_err(BenchError::io("finding this program"))?;
        let mut process = Command::new(program)
            .args(["bench", "empty-handler"])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(BenchError::io("starting the empty handler"))?;
        let silent = || BenchError::Answer("the empty handler does not say where it listens".to_owned());
        let mut lines = BufReader::new(process.stdout.take().ok_or_else(silent)?).lines();
        let line = lines.next_line().await.map_err(BenchError::io("starting the empty handler"))?.ok_or_else(silent)?;
        let (address, token) = line.split_once(' ').ok_or_else(silent)?;
        let address: SocketAddr = address.parse().map_err(|_| silent())?;
        let pid = process.id();
        Ok(Self { process, pid, target: Target::local(address), account: Account { token: token.to_owned() } })
    }
}

/// Sends what a poll sends.
struct EmptyPolls {
    request: Vec<u8>,
}

impl Work for EmptyPolls {
    fn next(&mut self, request: &mut Vec<u8>) -> Option<usize> {
        request.extend_from_slice(&self.request);
        Some(0)
    }

    fn answer(&mut self, _: usize, answer: Answer<'_>) -> Result<u64> {
        let body = answer.ok()?;
        if body == BODY.as_bytes() { Ok(0) } else { Err(BenchError::answer("not the empty handler", body)) }
    }
}

/// Measures it under the load of the scenario `poll`.
///
/// # Errors
/// When the process or a connection fails.
pub async fn measure(bench: &Bench) -> Result<Vec<Case>> {
    let mut handler = Handler::start().await?;
    let session = Session::foreign(handler.target.clone(), vec![handler.account.clone()]);
    let device = Device::new(&handler.target, 0, &handler.account, 1, bench.options.payload_bytes());
    let mut request = Vec::new();
    device.write_download(&mut request, None);
    let workers = |count| (0..count).map(|_| EmptyPolls { request: request.clone() }).collect::<Vec<_>>();
    let connections = bench.options.connections();
    let pace = bench.options.pace();
    let warmup = Pace { warmup: Duration::ZERO, lasts: pace.warmup, ..pace };
    load::run(&session, workers(connections), warmup).await?;
    let meter = Meter { server: handler.pid, postmaster: None };
    let before = meter.cpu();
    let (mut outcome, _) = load::run(&session, workers(connections), Pace { warmup: Duration::ZERO, ..pace }).await?;
    outcome.cpu = meter.cpu().since(&before);
    let mut case = Case::new("ceiling", "empty handler").with("connections", connections);
    case.load(&outcome);
    // One at a time: what a request costs that waits for nobody.
    let (outcome, _) = load::run(&session, workers(1), Pace { warmup: Duration::ZERO, ..pace }).await?;
    let mut one = Case::new("ceiling", "one empty request").with("connections", 1);
    one.latencies("", &outcome.total());
    handler.process.kill().await.map_err(BenchError::io("stopping the empty handler"))?;
    Ok(vec![case, one])
}
