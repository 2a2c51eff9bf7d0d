//! The benchmark as its user meets it: it measures, cleans up behind itself, and does not trust the server. It starts the
//! server that lies beside it: `cargo build` makes both.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tempfile::TempDir;

/// The variable that names a server on which databases may be created.
const VARIABLE: &str = "SUPERSYNC_TEST_POSTGRES_URL";

/// The program without anything of the caller's environment, with a scratch directory of its own.
fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_supersync-bench"));
    command
        .env_clear()
        .current_dir(directory)
        .args(["--quick", "--seconds", "0.6", "--connections", "3", "--accounts", "4"])
        .args(["--directory", directory.to_str().expect("UTF-8"), "--json", "figures.json"])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn bench(directory: &TempDir, arguments: &[&str]) -> Output {
    command(directory.path(), arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn figures(directory: &TempDir) -> Value {
    let json = std::fs::read(directory.path().join("figures.json")).expect("figures were written");
    serde_json::from_slice(&json).expect("JSON")
}

/// What a complete run leaves behind, apart from figures: nothing.
fn assert_clean(directory: &TempDir) {
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("a directory").flatten().collect();
    let names: Vec<_> = left.iter().map(std::fs::DirEntry::file_name).collect();
    assert_eq!(names, ["figures.json"]);
}

fn assert_measured(output: &Output, directory: &TempDir, database: &str, scenarios: &[&str]) {
    let (said, table) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{said}{table}");
    let report = figures(directory);
    assert_eq!(report["schema"], 2);
    assert!(report["machine"]["cores"].as_u64() > Some(0));
    let cases = report["cases"].as_array().expect("cases");
    for scenario in scenarios {
        let mut of_scenario = cases.iter().filter(|case| case["scenario"] == *scenario).peekable();
        assert!(of_scenario.peek().is_some(), "{scenario} was not measured");
        for case in of_scenario {
            assert_eq!(case["database"], database);
            assert!(case["figures"]["p50_ms"].as_f64() > Some(0.0), "{case}");
            let checks = case["checks"].as_array().expect("checks");
            let is_checked = !checks.is_empty() || ["ceiling", "download"].contains(scenario);
            assert!(is_checked && checks.iter().all(|check| check["passed"] == true), "{case}");
            assert!(table.contains(case["case"].as_str().expect("a name")), "{table}");
        }
    }
    assert_clean(directory);
}

#[test]
fn measures_on_sqlite() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let scenarios = ["ceiling", "upload", "poll", "tail", "mixed", "restore", "cold", "download"];
    let output = bench(&directory, &scenarios);
    assert_measured(&output, &directory, "sqlite", &scenarios);
    let all = figures(&directory);
    let mut cases = all["cases"].as_array().expect("cases").iter();
    let upload = &cases.find(|case| case["scenario"] == "upload").expect("an upload")["figures"];
    assert!(upload["operations_per_second"].as_f64() > Some(0.0), "{upload}");
    assert!(upload["server_memory_bytes"].as_f64() > Some(1e6) && upload["server_cpu_us_per_request"].is_f64());
    assert!(upload["disk_bytes_per_operation"].as_f64() > Some(500.0), "payloads alone are larger: {upload}");
}

#[test]
fn measures_on_postgres_and_drops_its_databases() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let admin = std::env::var(VARIABLE).expect("`make test` names a PostgreSQL server");
    let scenarios = ["ceiling", "upload", "fanout"];
    let child = command(directory.path(), &["--database", &admin])
        .args(scenarios)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let scratch = format!("supersync_bench_{}_%", child.id());
    let output = child.wait_with_output().expect("the program ends");
    assert_measured(&output, &directory, "postgres", &scenarios);
    let left: i64 = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let mut connection = sqlx::PgConnection::connect(&admin).await.expect("the test server");
        let count = "SELECT count(*) FROM pg_database WHERE datname LIKE $1";
        sqlx::query_scalar(count).bind(scratch).fetch_one(&mut connection).await.expect("a count")
    });
    assert_eq!(left, 0);
}

/// What a server that can't be trusted does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// Acknowledges operations and stores all but one.
    Forgets,
    /// Stores an operation twice.
    Repeats,
    /// Stores operations in another order than it said.
    Swaps,
    /// Refuses everything.
    Refuses,
    /// Answers to operations that nobody sent.
    Confuses,
}

struct Untrustworthy {
    fault: Fault,
    /// One account's.
    log: Mutex<Vec<Value>>,
}

impl Untrustworthy {
    /// Serves one account until the test ends.
    fn start(fault: Fault) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let server = Arc::new(Self { fault, log: Mutex::default() });
        let router = Router::new().route("/api/sync/ops", get(download).post(upload)).with_state(server);
        std::thread::spawn(move || {
            tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                axum::serve(listener, router).await.expect("a server");
            });
        });
        address
    }
}

async fn upload(State(server): State<Arc<Untrustworthy>>, Json(body): Json<Value>) -> Json<Value> {
    let mut log = server.log.lock().expect("not poisoned");
    let mut results = Vec::new();
    for op in body["ops"].as_array().expect("operations") {
        let (seq, n) = (log.len() + 1, log.len());
        if server.fault == Fault::Refuses {
            results.push(json!({ "opId": op["id"], "accepted": false, "error": "no", "errorCode": "INVALID_OP_ID" }));
            continue;
        }
        let id = if server.fault == Fault::Confuses { &json!("x") } else { &op["id"] };
        results.push(json!({ "opId": id, "accepted": true, "serverSeq": seq }));
        log.push(op.clone());
        match server.fault {
            Fault::Repeats if seq == 3 => log[n]["id"] = log[0]["id"].clone(),
            Fault::Swaps if seq == 4 => log.swap(n, n - 1),
            _ => {}
        }
    }
    Json(json!({ "results": results, "latestSeq": log.len() }))
}

async fn download(
    State(server): State<Arc<Untrustworthy>>,
    Query(query): Query<HashMap<String, String>>,
) -> Json<Value> {
    let number = |name: &str| query[name].parse().expect("a number");
    let log = server.log.lock().expect("not poisoned");
    let ops: Vec<Value> = log
        .iter()
        .enumerate()
        .map(|(n, op)| json!({ "serverSeq": n + 1, "op": op, "receivedAt": 1 }))
        .skip(number("sinceSeq"))
        .filter(|op| server.fault != Fault::Forgets || op["serverSeq"] != 2)
        .take(number("limit"))
        .collect();
    let last =
        ops.last().map_or(log.len(), |op| usize::try_from(op["serverSeq"].as_u64().expect("a number")).expect("small"));
    Json(json!({ "ops": ops, "hasMore": last < log.len(), "latestSeq": log.len(), "serverTime": 1 }))
}

fn bench_untrustworthy(fault: Fault) -> Output {
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::write(directory.path().join("tokens"), "a-token\n").expect("a file");
    let url = format!("http://{}", Untrustworthy::start(fault));
    bench(&directory, &["upload", "--batch", "2", "--url", &url, "--tokens", "tokens"])
}

#[test]
fn a_foreign_server_that_keeps_its_word_passes() {
    let output = bench_untrustworthy(Fault::None);
    let (said, table) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{said}{table}");
    assert!(table.contains("upload 2 x 500 B on foreign") && table.contains("operations_per_second"), "{table}");
    assert!(!table.contains("server_cpu_us") && !table.contains("disk_bytes"), "nothing is guessed: {table}");
}

#[test]
fn a_server_that_loses_repeats_or_moves_what_it_acknowledged_fails_the_run() {
    for (fault, reason) in [
        (Fault::Forgets, "sequence 3 follows 1"),
        (Fault::Repeats, "at 3 is stored twice or was never sent"),
        (Fault::Swaps, "was acknowledged as 4 and is stored as 3"),
    ] {
        let output = bench_untrustworthy(fault);
        let (said, table) = (text(&output.stderr), text(&output.stdout));
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(table.contains("FAILED: every acknowledged operation is stored exactly once"), "{table}");
        assert!(table.contains(reason), "{table}");
        assert!(said.contains("supersync-bench: failed: upload 2 x 500 B"), "{said}");
    }
}

#[test]
fn an_answer_that_the_load_does_not_expect_ends_the_run() {
    for fault in [Fault::Refuses, Fault::Confuses] {
        let output = bench_untrustworthy(fault);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("unexpected answer: not everything was accepted"), "{said}");
    }
}

#[test]
fn a_run_that_is_impossible_says_so_in_one_line() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (arguments, reason) in [
        (&["poll", "--url", "https://example.org", "--tokens", "missing"][..], "expected http://HOST[:PORT]"),
        (&["poll", "--url", "http://127.0.0.1:1", "--tokens", "missing"][..], "reading missing"),
        (&["poll", "--database", "postgres://127.0.0.1:1/x"][..], "scratch database"),
    ] {
        let output = bench(&directory, arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("supersync-bench: ") && said.contains(reason), "{said}");
    }
}
