//! Database statements per request, exactly, on both databases. "Warm" is an account that is in memory, "cold" one that
//! is not, nor its session.

use std::time::Duration;

use super::harness::{Backend, Server, import, op, snapshot, upload};
use super::recorder::Statements;

/// The account's session is believed for so long (accounts contract, section 5.3).
const SESSION_FORGOTTEN_MS: i64 = 31_000;
/// A poll is recorded as a sign of life so long after the last one (contract, section 11.5).
const DEVICE_DUE_MS: i64 = 121_000;

async fn costs(backend: Backend) {
    let statements = Statements::default();
    let _watching = statements.watch();
    // Devices are written down when this test says so, not in between.
    let server = Server::start_setup(backend, |setup| setup.options.touch_every = Duration::from_hours(1)).await;
    let account = server.account().await;
    let mut wrong = Vec::new();
    let mut expect = |what: &str, expected: &[&str]| {
        let seen = statements.take();
        if seen != expected {
            wrong.push(format!("{what}: expected {expected:?}, saw {seen:?}"));
        }
    };
    let poll = async |cursor: i64| account.get(&format!("/api/sync/ops?sinceSeq={cursor}&excludeClient=B")).await.ok();
    statements.take();

    poll(0).await;
    expect("cold poll", &["load_account", "session"]);
    server.engine.record_devices().await;
    expect("its device, in the background", &["touch_devices"]);
    poll(0).await;
    expect("warm poll", &[]);
    server.clock.advance_ms(SESSION_FORGOTTEN_MS);
    poll(0).await;
    expect("poll with a session that must be looked up again", &["session"]);
    server.clock.advance_ms(DEVICE_DUE_MS);
    poll(0).await;
    expect("poll that is a sign of life", &["session"]);
    server.engine.record_devices().await;
    expect("its device, in the background", &["touch_devices"]);
    server.engine.record_devices().await;
    expect("no device to write down", &[]);

    let first = [op("A"), op("A")];
    account.upload("A", &first).await.ok();
    expect("first upload", &["commit"]);
    account.upload("A", &[op("A")]).await.ok();
    expect("upload", &["commit"]);
    account.upload("A", &[op("A"), op("A")]).await.ok();
    expect("upload of several", &["commit"]);
    account.upload_from("A", 5, &[op("A")]).await.ok();
    expect("upload of a device that has everything", &["commit"]);
    account.upload("A", &first).await.ok();
    expect("operations again", &["find_ops"]);
    let mut request = upload("A", None, &[op("A")]);
    request["requestId"] = "the-request".into();
    account.post("/api/sync/ops", &request).await.ok();
    expect("upload with a request id", &["commit"]);
    account.post("/api/sync/ops", &request).await.ok();
    expect("the same request again", &[]);

    assert_eq!(poll(5).await.seqs(), [6, 7]);
    expect("tail", &[]);
    assert_eq!(account.download(0).await.seqs(), [1, 2, 3, 4, 5, 6, 7]);
    expect("whole log out of the tail", &[]);

    let socket = account.socket("B").await;
    expect("socket", &[]);
    drop(socket);

    // As after a passivation.
    server.engine.forget(account.id);
    poll(7).await;
    expect("poll of an account that is not in memory", &["load_account"]);
    account.download(0).await;
    expect("page that is not in the tail", &["read_log"]);
    account.upload("A", &[op("A")]).await.ok();
    expect("upload of an account whose heads are not in memory", &["commit", "heads_of_log"]);
    server.engine.forget(account.id);
    account.upload("A", &[op("A")]).await.ok();
    expect("upload of an account that is not in memory", &["commit", "heads_of_log", "load_account"]);

    account.snapshot(&snapshot("A")).await.ok();
    expect("full state", &["commit", "find_ops"]);
    account.upload("A", &[import("A")]).await.ok();
    expect("full state among operations", &["commit", "find_ops"]);
    account.upload("A", &[op("A")]).await.ok();
    expect("upload after a full state", &["commit"]);
    account.get("/api/sync/status").await.ok();
    expect("status", &["devices"]);
    // Whether the full state is encrypted is looked up once.
    server.engine.forget(account.id);
    account.upload("A", &[op("A")]).await.ok();
    expect("first upload after a full state", &["commit", "full_states", "heads_of_log", "load_account"]);
    account.upload("A", &[op("A")]).await.ok();
    expect("the next one", &["commit"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn sqlite_statements_per_request() {
    costs(Backend::Sqlite).await;
}

#[tokio::test]
async fn postgres_statements_per_request() {
    costs(Backend::Postgres).await;
}
