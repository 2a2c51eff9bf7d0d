//! Traces, as a collector gets them from the program.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::harness::{Account, Backend, LONG_PATIENCE, Program, TestDatabase, fresh, http_client, op, receive};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    keys: Arc<Mutex<Vec<String>>>,
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body.clone()).expect("OTLP");
    let key = headers.get("api-key").map(|key| key.to_str().expect("a text").to_owned());
    collector.keys.lock().expect("no panic").extend(key);
    collector.bytes.lock().expect("no panic").extend_from_slice(&body);
    let spans = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    collector.spans.lock().expect("no panic").extend(spans.flat_map(|scope| scope.spans));
}

async fn account(program: &Program) -> Account {
    let http = http_client();
    let email = format!("traced-{}@example.org", fresh());
    let request = http.post(format!("{}/api/test/create-user", program.base));
    let body = json!({ "email": email, "password": "TestPassword123!" }).to_string();
    let made = receive(request.header("content-type", "application/json").body(body)).await.expect(201);
    let token = made["token"].as_str().expect("a token").to_owned();
    Account { id: made["userId"].as_i64().expect("a number"), email, token, base: program.base.clone(), http }
}

/// The span's attributes as texts.
fn attributes(span: &Span) -> HashMap<String, String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let all = span.attributes.iter().cloned();
    all.map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}

async fn a_request_its_account_and_its_commit_are_one_trace(backend: Backend) {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let routes = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });

    let database = TestDatabase::create(backend).await;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint[..]), ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a secret")];
    let program = Program::start_watched(&database, &settings).await;
    let account = account(&program).await;
    assert_eq!(account.upload("A", &[op("A"), op("A")]).await.outcomes(), ["#1", "#2"]);
    account.get("/api/sync/restore/999").await.expect(400);
    // What has not been sent yet is sent at the end.
    assert!(program.terminate().await.success());

    let spans = collector.spans.lock().expect("no panic").clone();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let request = named("POST /api/sync/ops")[0];
    let found = attributes(request);
    assert_eq!(found["http.response.status_code"], "200");
    assert_eq!(found["user_id"], account.id.to_string());
    let upload = named("upload")[0];
    let commit = named("commit")[0];
    assert_eq!(attributes(commit)["operations"], "2");
    for (inner, outer) in [(upload, request), (commit, upload)] {
        assert_eq!((&inner.trace_id, &inner.parent_span_id), (&outer.trace_id, &outer.span_id), "{}", inner.name);
        assert!(outer.start_time_unix_nano <= inner.start_time_unix_nano, "{}", inner.name);
        assert!(inner.end_time_unix_nano <= outer.end_time_unix_nano, "{}", inner.name);
    }
    let refused = named("GET /api/sync/restore/{server_seq}");
    assert_eq!(attributes(refused[0])["http.response.status_code"], "400");
    assert!(collector.keys.lock().expect("no panic").iter().all(|key| key == "a secret"));
    let bytes = collector.bytes.lock().expect("no panic").clone();
    for secret in [account.token.as_bytes(), account.email.as_bytes(), b"TestPassword123!"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "nothing secret or personal");
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_a_request_its_account_and_its_commit_are_one_trace() {
    a_request_its_account_and_its_commit_are_one_trace(Backend::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_request_its_account_and_its_commit_are_one_trace() {
    a_request_its_account_and_its_commit_are_one_trace(Backend::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_a_collector_that_is_not_there_changes_nothing() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let nobody = format!("http://127.0.0.1:{}", crate::harness::free_port());
    let program = Program::start_watched(&database, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &nobody)]).await;
    let account = account(&program).await;
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
    let stopped = timeout(LONG_PATIENCE, program.terminate()).await.expect("it does not wait for the collector");
    assert!(stopped.success());
}
