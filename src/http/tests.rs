//! The router and the listener in front of a real engine on the embedded database.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{SinkExt as _, StreamExt as _};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::routes::ROUTES;
use super::{AppState, router};
use crate::accounts::{Accounts, HashParams, Passwords};
use crate::clock::Clock;
use crate::config::{Config, Timeouts};
use crate::engine::{Handle, Options};
use crate::mail::Mailer;
use crate::store;

const NOW_MS: i64 = 1_800_000_000_000;
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

struct World {
    state: AppState,
    _folder: tempfile::TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

async fn world(settings: &[(&str, &str)], change: impl FnOnce(&mut Options)) -> World {
    let folder = tempfile::tempdir().unwrap();
    let mut variables: HashMap<String, String> =
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    variables.insert("DATA_DIR".into(), folder.path().to_str().unwrap().into());
    let config = Arc::new(Config::parse(&variables).unwrap());
    let store = store::open(&config.database, config.timeouts.statement).await.unwrap();
    let clock = Clock::manual(NOW_MS);
    let passwords = Passwords::new(HashParams { memory_kib: 8, passes: 1 }, 2);
    let mailer = Mailer::from_config(&config).unwrap();
    let accounts = Accounts::with_passwords(Arc::clone(&store), &config, clock.clone(), mailer, passwords);
    let mut options = Options::from(&*config);
    change(&mut options);
    let engine = Handle::start(Arc::clone(&store), clock.clone(), options).await.unwrap();
    World { state: AppState::new(config, engine, accounts, store, clock, Arc::default(), ROUTES), _folder: folder }
}

async fn plain_world() -> World {
    world(&[], |_| ()).await
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::new(body.into());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in headers {
        let name = header::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
    }
    request
}

impl World {
    async fn send(&self, request: Request<Body>) -> Reply {
        let response = router(self.state.clone()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(request("GET", path, &[], Body::empty())).await
    }

    async fn token(&self) -> String {
        let accounts = &self.state.accounts;
        let address = crate::accounts::Address::parse("a@example.org").unwrap();
        let user = accounts.create_verified(&address, &SecretString::from("correct horse battery")).await.unwrap();
        let session = accounts.session_for(user).await.unwrap();
        secrecy::ExposeSecret::expose_secret(&session.token).to_owned()
    }

    /// `POST /api/sync/ops` with a valid token.
    async fn post(&self, token: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let bearer = format!("Bearer {token}");
        let mut all = vec![("authorization", bearer.as_str())];
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            all.push(("content-type", "application/json"));
        }
        all.extend_from_slice(headers);
        self.send(request("POST", "/api/sync/ops", &all, body)).await
    }
}

fn upload(id: &str, client: &str) -> Vec<u8> {
    let op = json!({
        "id": id, "clientId": client, "actionType": "x", "opType": "UPD", "entityType": "TASK", "entityId": id,
        "payload": { "title": "t" }, "vectorClock": { client: 1 }, "timestamp": NOW_MS, "schemaVersion": 1,
    });
    json!({ "ops": [op], "clientId": client, "lastKnownServerSeq": 0 }).to_string().into_bytes()
}

#[tokio::test]
async fn unknown_routes_and_methods_are_a_json_404() {
    let world = plain_world().await;
    for (method, path) in
        [("GET", "/nope?x=1"), ("PUT", "/api/sync/ops"), ("POST", "/health"), ("GET", "/api/test/cleanup")]
    {
        let reply = world.send(request(method, path, &[], Body::empty())).await;
        let message = format!("Route {method}:{path} not found");
        assert_eq!(reply.status, 404, "{method} {path}");
        assert_eq!(reply.body, json!({ "message": message, "error": "Not Found", "statusCode": 404 }));
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        assert_eq!(reply.headers["content-type"], "application/json; charset=utf-8");
    }
}

#[tokio::test]
async fn probes_answer_and_readiness_ends_with_draining() {
    let world = plain_world().await;
    let health = world.get("/health").await;
    assert_eq!(
        (health.status, health.body),
        (StatusCode::OK, json!({ "status": "ok", "db": "connected", "wsConnections": 0 }))
    );
    assert!(!health.headers.contains_key("x-ratelimit-limit"));
    for probe in ["/readyz", "/readyz/reads"] {
        assert_eq!(world.get(probe).await.status, 200);
    }
    world.state.draining.cancel();
    for probe in ["/readyz", "/readyz/reads"] {
        assert_eq!(world.get(probe).await.status, 503);
    }
    assert_eq!(world.get("/livez").await.status, 200);
}

#[tokio::test]
async fn health_tells_when_the_database_is_gone() {
    let world = plain_world().await;
    world.state.store.close().await;
    let health = world.get("/health").await;
    assert_eq!(health.status, 503);
    assert_eq!(health.body, json!({ "status": "error", "db": "disconnected", "message": "Database not responsive" }));
}

#[tokio::test]
async fn preflights_are_answered_for_any_path_and_never_counted() {
    let world = world(&[("CORS_ORIGINS", "https://*.example.com")], |_| ()).await;
    let ask = |origin: &'static str| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        world.send(request("OPTIONS", "/nowhere", &headers, Body::empty()))
    };
    let allowed = ask("https://app.example.com").await;
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://app.example.com");
    assert_eq!(allowed.headers["access-control-allow-credentials"], "true");
    assert_eq!(allowed.headers["vary"], "Origin");
    assert!(!allowed.headers.contains_key("x-ratelimit-limit"));
    let foreign = ask("https://example.com").await;
    assert_eq!(foreign.status, 204);
    assert!(!foreign.headers.contains_key("access-control-allow-origin"));
    assert_eq!(world.send(request("OPTIONS", "/", &[], Body::empty())).await.status, 400);
    let reply = world.send(request("GET", "/nope", &[("origin", "https://app.example.com")], Body::empty())).await;
    assert_eq!(reply.headers["access-control-allow-origin"], "https://app.example.com");
}

#[tokio::test]
async fn too_many_requests_are_refused_per_address_in_words_that_clients_parse() {
    let world = plain_world().await;
    let from = |address: &'static str| {
        world.send(request("DELETE", "/api/sync/data", &[("x-forwarded-for", address)], Body::empty()))
    };
    for left in ["2", "1", "0"] {
        let reply = from("2001:db8::1").await;
        assert_eq!(
            (reply.status, reply.headers["x-ratelimit-remaining"].to_str().unwrap()),
            (StatusCode::UNAUTHORIZED, left)
        );
    }
    let refused = from("2001:db8::2").await;
    assert_eq!(refused.status, 429);
    assert_eq!(
        refused.body,
        json!({ "statusCode": 429, "error": "Too Many Requests", "message": "Rate limit exceeded, retry in 15 minutes" })
    );
    assert_eq!(refused.headers["retry-after"], "900");
    assert_eq!(refused.headers["x-ratelimit-limit"], "3");
    assert_eq!(from("2001:db8:0:1::1").await.status, 401);
    world.state.clock.advance_ms(900_000);
    assert_eq!(from("2001:db8::2").await.status, 401);
}

#[tokio::test]
async fn uploads_are_counted_per_user_and_a_wipe_starts_anew() {
    let world = world(&[("UPLOADS_PER_USER_PER_MINUTE", "1")], |_| ()).await;
    let token = world.token().await;
    assert_eq!(world.post(&token, &[], "{}").await.status, 400, "what is no request is not counted");
    assert_eq!(world.post(&token, &[], upload("1", "A")).await.status, 200);
    let refused = world.post(&token, &[], upload("2", "A")).await;
    assert_eq!(
        (refused.status, refused.body),
        (StatusCode::TOO_MANY_REQUESTS, json!({ "error": "Rate limited", "errorCode": "RATE_LIMITED" }))
    );
    let bearer = format!("Bearer {token}");
    let wiped = world.send(request("DELETE", "/api/sync/data", &[("authorization", &bearer)], Body::empty())).await;
    assert_eq!((wiped.status, wiped.body), (StatusCode::OK, json!({ "success": true })));
    assert_eq!(world.post(&token, &[], upload("3", "A")).await.status, 200);
}

#[tokio::test]
async fn who_asks_is_settled_before_the_body_is_read() {
    let world = plain_world().await;
    let headers = [("content-type", "application/json"), ("content-encoding", "deflate")];
    let reply = world.send(request("POST", "/api/sync/ops", &headers, "nonsense")).await;
    assert_eq!(
        (reply.status, reply.body),
        (StatusCode::UNAUTHORIZED, json!({ "error": "Missing or invalid Authorization header" }))
    );
    let reply = world.post("not.a.token", &[], "nonsense").await;
    assert_eq!((reply.status, reply.body), (StatusCode::UNAUTHORIZED, json!({ "error": "Invalid token" })));
}

#[tokio::test]
async fn bodies_come_in_every_accepted_spelling() {
    use base64::Engine as _;
    let world = plain_world().await;
    let token = world.token().await;
    let packed = |id| gzip(&upload(id, "A"));
    let wrapped = base64::engine::general_purpose::STANDARD.encode(packed("3"));
    let broken = wrapped.as_bytes().chunks(40).collect::<Vec<_>>().join(b"\r\n".as_slice());
    let replies = [
        world.post(&token, &[], upload("1", "A")).await,
        world.post(&token, &[("content-encoding", " GZip ")], packed("2")).await,
        world.post(&token, &[("content-encoding", "gzip"), ("content-transfer-encoding", "Base64")], broken).await,
        world
            .post(&token, &[("content-encoding", ""), ("content-transfer-encoding", "base64")], upload("4", "A"))
            .await,
    ];
    for (reply, seq) in replies.iter().zip(1..) {
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.body["results"][0]["serverSeq"], seq);
    }
}

#[tokio::test]
async fn bodies_that_are_none_are_refused_by_kind() {
    let world = plain_world().await;
    let token = world.token().await;
    for coding in ["deflate", "identity", "gzip, gzip"] {
        let reply = world.post(&token, &[("content-encoding", coding)], gzip(b"{}")).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.body["code"]),
            (415, &json!("FST_ERR_CTP_INVALID_MEDIA_TYPE")),
            "{coding}"
        );
        assert_eq!(reply.headers["connection"], "close");
    }
    let reply = world.post(&token, &[("content-type", "application/xml")], "<a/>").await;
    assert_eq!(reply.status, 415);
    let gzipped = [("content-encoding", "gzip")];
    for body in [b"{}".to_vec(), [gzip(b"{}"), b"x".to_vec()].concat(), gzip(b"{"), Vec::new()] {
        let reply = world.post(&token, &gzipped, body).await;
        assert_eq!(reply.status, 400);
        assert!(reply.body["error"].is_string() && reply.body.get("statusCode").is_none(), "{}", reply.body);
    }
    let reply = world.post(&token, &[], "{").await;
    assert_eq!((reply.status.as_u16(), &reply.body["error"]), (400, &json!("Bad Request")));
    for (headers, body) in [(vec![], ""), (vec![("content-type", "text/plain")], "{}"), (vec![], "[]")] {
        let reply = world.post(&token, &headers, body).await;
        assert_eq!((reply.status.as_u16(), &reply.body["error"]), (400, &json!("Validation failed")));
        assert!(reply.body["details"].is_array());
    }
}

#[tokio::test]
async fn sizes_are_enforced_on_the_wire_and_while_inflating() {
    let world = plain_world().await;
    let token = world.token().await;
    let limits = world.state.config.limits;
    let streamed =
        || Body::from_stream(futures_util::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20]))));
    let announced = limits.upload_body_bytes + 1;
    let replies = [
        world.post(&token, &[], streamed()).await,
        world.post(&token, &[("content-length", &announced.to_string())], "short").await,
    ];
    for reply in replies {
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (413, &json!("FST_ERR_CTP_BODY_TOO_LARGE")));
    }
    let bomb = gzip(&vec![b' '; limits.upload_inflated_bytes + 1]);
    let reply = world.post(&token, &[("content-encoding", "gzip")], bomb).await;
    assert_eq!((reply.status.as_u16(), reply.body), (413, json!({ "error": "Decompressed payload too large" })));
}

#[tokio::test]
async fn request_ids_are_echoed_and_large_answers_packed() {
    let world = plain_world().await;
    let token = world.token().await;
    let op = json!({
        "id": "1", "clientId": "A", "actionType": "x", "opType": "UPD", "entityType": "TASK", "entityId": "t",
        "payload": { "title": "t".repeat(2000) }, "vectorClock": {}, "timestamp": NOW_MS, "schemaVersion": 1,
    });
    let body = json!({ "ops": [op], "clientId": "A" }).to_string();
    assert_eq!(world.post(&token, &[], body).await.status, 200);
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("accept-encoding", "gzip"), ("x-request-id", "r-1")];
    let reply = world.send(request("GET", "/api/sync/ops?sinceSeq=0", &headers, Body::empty())).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-encoding"], "gzip");
    assert_eq!(reply.headers["vary"], "Origin, Accept-Encoding");
    assert_eq!(reply.headers["x-request-id"], "r-1");
    assert_eq!(reply.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn the_background_poller_of_the_android_app_gets_plain_text_and_browsers_do_not() {
    let world = plain_world().await;
    let token = world.token().await;
    let op = |id: &str| {
        json!({
            "id": id, "clientId": "A", "actionType": "x", "opType": "UPD", "entityType": "TASK", "entityId": id,
            "payload": { "title": "t".repeat(2_000_000) }, "vectorClock": {}, "timestamp": NOW_MS, "schemaVersion": 1,
        })
    };
    let small = json!({ "id": "0", "clientId": "A", "actionType": "x", "opType": "UPD", "entityType": "TASK",
        "entityId": "0", "payload": { "title": "t".repeat(2000) }, "vectorClock": {}, "timestamp": NOW_MS, "schemaVersion": 1 });
    for ops in [json!([small]), json!([op("1"), op("2")])] {
        let body = json!({ "ops": ops, "clientId": "A" }).to_string();
        assert_eq!(world.post(&token, &[], body).await.status, 200);
        // Small and large answers, and those that are packed while they are sent.
        for path in ["/api/sync/ops?sinceSeq=0&limit=100", "/api/sync/snapshot"] {
            let bearer = format!("Bearer {token}");
            let ask = |agent| {
                let headers = [("authorization", &*bearer), ("accept-encoding", "gzip"), ("user-agent", agent)];
                world.send(request("GET", path, &headers, Body::empty()))
            };
            let poller = ask("okhttp/4.12.0").await;
            assert_eq!(poller.headers.get("content-encoding"), None, "{path}");
            assert!(poller.status == 200 && poller.body.is_object(), "{path}");
            assert_eq!(ask("Mozilla/5.0 Chrome/140.0.0.0").await.headers["content-encoding"], "gzip", "{path}");
        }
    }
}

/// Keeps log lines.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_can_not_be_rebuilt_is_told_to_the_client_and_not_to_the_operator() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _listening = tracing::subscriber::set_default(subscriber);
    let world = world(&[], |options| options.max_replay_ops = 2).await;
    let token = world.token().await;
    let bearer = format!("Bearer {token}");
    let send = |method, path| world.send(request(method, path, &[("authorization", &*bearer)], Body::empty()));
    let upload_each = async |ids: &[&str]| {
        for id in ids {
            assert_eq!(world.post(&token, &[], upload(id, "A")).await.status, 200);
        }
    };
    upload_each(&["1", "2", "3"]).await;
    let mut codes = Vec::new();
    for path in ["/api/sync/snapshot", "/api/sync/restore/3"] {
        codes.push(send("GET", path).await);
    }
    assert_eq!(send("DELETE", "/api/sync/data").await.status, 200);
    codes.push(send("GET", "/api/sync/restore/2").await);
    upload_each(&["4"]).await;
    for path in ["/api/sync/snapshot", "/api/sync/restore/4"] {
        codes.push(send("GET", path).await);
    }
    for reply in codes {
        assert_eq!(reply.status, 400);
        assert!(reply.body["errorCode"].is_string(), "{}", reply.body);
    }
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("more than 2 operations"), "what the matter is can be found: {log}");
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
}

#[tokio::test]
async fn plaintext_is_refused_where_encryption_is_required() {
    let world = world(&[("ENCRYPTION_POLICY", "required")], |_| ()).await;
    let token = world.token().await;
    let reply = world.post(&token, &[], upload("1", "A")).await;
    assert_eq!((reply.status.as_u16(), &reply.body["errorCode"]), (400, &json!("E2EE_REQUIRED")));
}

#[tokio::test]
async fn test_mode_makes_plaintext_that_older_servers_stored_in_accounts_that_encrypt() {
    for policy in ["optional", "required"] {
        let test_mode = [("TEST_MODE", "true"), ("TEST_MODE_CONFIRM", "yes-i-understand-the-risks")];
        let world = world(&[&test_mode[..], &[("ENCRYPTION_POLICY", policy)]].concat(), |_| ()).await;
        let token = world.token().await;
        let import = json!({
            "id": "1", "clientId": "A", "actionType": "x", "opType": "SYNC_IMPORT", "entityType": "ALL",
            "payload": "A".repeat(40), "isPayloadEncrypted": true, "vectorClock": {}, "timestamp": NOW_MS, "schemaVersion": 1,
        });
        let import = json!({ "ops": [import], "clientId": "A" }).to_string();
        assert_eq!(world.post(&token, &[], import).await.body["results"][0]["serverSeq"], 1);
        assert_eq!(world.post(&token, &[], upload("2", "A")).await.status, 400, "{policy}");
        let upload: Value = serde_json::from_slice(&upload("2", "A")).unwrap();
        let mut op = upload["ops"][0].clone();
        op["isPayloadEncrypted"] = json!(false);
        let path = "/api/test/user/1/legacy-plaintext-ops";
        let seed = request("POST", path, &[("content-type", "application/json")], json!({ "op": op }).to_string());
        let seeded = world.send(seed).await;
        assert_eq!((seeded.status.as_u16(), &seeded.body["serverSeq"]), (201, &json!(2)), "{policy}");
    }
}

#[tokio::test]
async fn limits_and_sequences_are_read_as_javascript_reads_them() {
    let world = plain_world().await;
    let bearer = format!("Bearer {}", world.token().await);
    let get = |path: &'static str| world.send(request("GET", path, &[("authorization", &bearer)], Body::empty()));
    for path in ["/api/sync/restore-points", "/api/sync/restore-points?limit=", "/api/sync/restore-points?limit=100x"] {
        let reply = get(path).await;
        assert_eq!((reply.status, reply.body), (StatusCode::OK, json!({ "restorePoints": [] })), "{path}");
    }
    for path in [
        "/api/sync/restore-points?limit=0",
        "/api/sync/restore-points?limit=101",
        "/api/sync/restore-points?limit=x",
        "/api/sync/restore/0",
        "/api/sync/restore/abc",
        "/api/sync/restore/1",
        "/api/sync/ops?sinceSeq=-1",
    ] {
        assert_eq!(get(path).await.status, 400, "{path}");
    }
}

impl World {
    /// The same with other times.
    fn with_timeouts(self, change: impl FnOnce(&mut Timeouts)) -> Self {
        let mut config = Config::clone(&self.state.config);
        change(&mut config.timeouts);
        let (engine, accounts) = (self.state.engine.clone(), self.state.accounts.clone());
        let (store, clock) = (Arc::clone(&self.state.store), self.state.clock.clone());
        Self { state: AppState::new(Arc::new(config), engine, accounts, store, clock, Arc::default(), ROUTES), ..self }
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_is_answered_when_its_time_is_up() {
    let endless = || Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    for (handler, socket) in [(SHORT, PATIENCE), (PATIENCE, SHORT)] {
        let world = plain_world().await.with_timeouts(|times| (times.handler, times.socket) = (handler, socket));
        let token = world.token().await;
        let reply = timeout(PATIENCE, world.post(&token, &[], endless())).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body), (503, &json!({ "error": "Request timeout, please retry" })));
        assert_eq!(
            (&reply.headers["connection"], &reply.headers["retry-after"]),
            (&"close".parse().unwrap(), &"5".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn silent_connections_are_closed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = plain_world().await.with_timeouts(|times| times.socket = SHORT);
    let server = listen_as(world).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    connection.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Kept alive after the answer, and closed when nothing follows.
    timeout(PATIENCE, connection.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"GET /livez HT").await.unwrap();
    answer.clear();
    timeout(PATIENCE, half.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn requests_that_outlast_the_drain_are_cut_off() {
    use tokio::io::AsyncWriteExt as _;
    let world = plain_world().await.with_timeouts(|times| times.drain = SHORT);
    let token = world.token().await;
    let server = listen_as(world).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /api/sync/ops HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
        content-length: 10\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    server.stop.cancel();
    timeout(PATIENCE, server.served).await.unwrap().unwrap().unwrap();
    assert!(server.world.state.draining.is_cancelled());
}

/// A server on a port of its own.
struct Listening {
    world: World,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn listen(settings: &[(&str, &str)], change: impl FnOnce(&mut Options)) -> Listening {
    listen_as(world(settings, change).await).await
}

async fn listen_as(world: World) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(super::serve(listener, world.state.clone(), stop.clone()));
    Listening { world, address, stop, served }
}

impl Listening {
    async fn open(&self, query: &str) -> Client {
        let url = format!("ws://{}/api/sync/ws?{query}", self.address);
        timeout(PATIENCE, connect_async(url)).await.unwrap().unwrap().0
    }
}

async fn message(client: &mut Client) -> Value {
    loop {
        match timeout(PATIENCE, client.next()).await.expect("a message in time").unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The close code, or `None` for an end without one.
async fn ended(client: &mut Client) -> Option<u16> {
    loop {
        match timeout(PATIENCE, client.next()).await.expect("the end in time") {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

#[tokio::test]
async fn sockets_are_judged_after_the_upgrade() {
    let server = listen(&[], |_| ()).await;
    let token = server.world.token().await;
    let cases = [
        ("clientId=A".to_owned(), 4001),
        (format!("token={token}"), 4001),
        (format!("token={token}&clientId=A&clientId=B"), 4001),
        ("token=nonsense&clientId=A".to_owned(), 4003),
        (format!("token={token}&token={token}&clientId=A"), 4003),
    ];
    for (query, code) in cases {
        assert_eq!(ended(&mut server.open(&query).await).await, Some(code), "{code}");
    }
}

#[tokio::test]
async fn a_socket_hears_of_uploads_is_pinged_and_leaves_with_the_server() {
    let server = listen(&[], |options| options.notifier.ping_every = Duration::from_millis(20)).await;
    let token = server.world.token().await;
    let mut b = server.open(&format!("token={token}&clientId=B")).await;
    let hello = message(&mut b).await;
    assert_eq!((&hello["type"], &hello["timestamp"]), (&json!("connected"), &json!(NOW_MS)));
    assert_eq!(message(&mut b).await, json!({ "type": "ping", "timestamp": NOW_MS }));
    assert_eq!(server.world.post(&token, &[], upload("1", "A")).await.status, 200);
    let notice = loop {
        let message = message(&mut b).await;
        if message["type"] != "ping" {
            break message;
        }
    };
    assert_eq!(notice, json!({ "type": "new_ops", "latestSeq": 1, "timestamp": NOW_MS }));
    assert_eq!(server.world.get("/health").await.body["wsConnections"], 1);
    server.stop.cancel();
    assert_eq!(ended(&mut b).await, Some(1001));
    timeout(PATIENCE, server.served).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_socket_that_never_pongs_is_closed_and_one_that_does_is_not() {
    let server = listen(&[], |options| {
        // Long enough for a machine that is busy with other tests.
        options.notifier.ping_every = Duration::from_millis(300);
        options.notifier.pong_grace = Duration::from_millis(700);
    })
    .await;
    let token = server.world.token().await;
    // Whoever does not read does not answer pings either.
    let mut mute = server.open(&format!("token={token}&clientId=M")).await;
    let mut alive = server.open(&format!("token={token}&clientId=A")).await;
    let _hello = message(&mut alive).await;
    for _ in 0..4 {
        assert_eq!(message(&mut alive).await["type"], "ping");
        alive.send(Message::text(r#"{"type":"pong"}"#)).await.unwrap();
    }
    assert_eq!(server.world.get("/health").await.body["wsConnections"], 1);
    assert_eq!(ended(&mut mute).await, None);
}

#[tokio::test]
async fn a_client_may_not_say_much() {
    let server = listen(&[], |_| ()).await;
    let token = server.world.token().await;
    for (client, size) in [("A", 1025), ("B", 20_000), ("C", 200_000)] {
        let mut socket = server.open(&format!("token={token}&clientId={client}")).await;
        let _hello = message(&mut socket).await;
        socket.send(Message::text("not json")).await.unwrap();
        socket.send(Message::text("x".repeat(1024))).await.unwrap();
        socket.send(Message::text("x".repeat(size))).await.unwrap();
        assert_eq!(ended(&mut socket).await, Some(1009), "{size}");
    }
}

#[tokio::test]
async fn sockets_beyond_the_process_limit_are_not_upgraded() {
    let mut server = listen(&[], |_| ()).await;
    // Nobody else holds places here, so taking them all stands for as many sockets.
    let places = server.world.state.room.sockets;
    let taken = server.world.state.sockets.clone().acquire_many_owned(u32::try_from(places).unwrap()).await.unwrap();
    let url = format!("ws://{}/api/sync/ws?token=t&clientId=A", server.address);
    let error = connect_async(url).await.unwrap_err();
    let tokio_tungstenite::tungstenite::Error::Http(reply) = error else { panic!("{error}") };
    assert_eq!(reply.status().as_u16(), 503);
    assert_eq!(reply.headers()["retry-after"], "5");
    server.stop.cancel();
    drop(taken);
    timeout(PATIENCE, &mut server.served).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_get_without_upgrade_is_a_404_that_does_not_repeat_the_token() {
    let world = plain_world().await;
    let reply = world.get("/api/sync/ws?token=secret&clientId=A").await;
    assert_eq!(reply.status, 404);
    assert!(!reply.body.to_string().contains("secret"));
}
