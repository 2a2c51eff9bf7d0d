//! The time-out ladder, end to end, with scaled-down times: whatever waits on the inside gives up first and says so
//! through the layers around it. The database is really stuck: another session holds the account's row.

use std::time::{Duration, Instant};

use crate::harness::{Account, Backend, Log, PATIENCE, Reply, Server, op};
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection};
use supersync_client::{Change, Client, ClientError, Device, Ladder, OpType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything that this test lets happen.
const NEVER: Duration = Duration::from_mins(1);

/// Times from the inside out.
#[derive(Clone, Copy)]
struct Times {
    statement: Duration,
    request: Duration,
    handler: Duration,
    socket: Duration,
    sync_wait: Duration,
}

/// The contract's proportions, about ten times as fast, but for the statement's: it is the one to wait for.
const SCALED: Times = Times {
    statement: Duration::from_millis(600),
    request: Duration::from_millis(7_500),
    handler: Duration::from_secs(8),
    socket: Duration::from_secs(9),
    sync_wait: Duration::from_secs(9),
};
/// Nothing ends by itself.
const ENDLESS: Times = Times { statement: NEVER, request: NEVER, handler: NEVER, socket: NEVER, sync_wait: NEVER };

/// Another session's lock on the account's row.
struct Lock(PgConnection);

impl Lock {
    async fn on(server: &Server, account: &Account) -> Self {
        let mut session = server.database.postgres().session().await;
        sqlx::query("BEGIN").execute(&mut session).await.expect("a transaction");
        let locked = sqlx::query("SELECT user_id FROM user_sync_state WHERE user_id = $1 FOR UPDATE")
            .bind(account.id)
            .fetch_all(&mut session)
            .await
            .expect("the lock");
        assert_eq!(locked.len(), 1, "the account has a row to lock");
        Self(session)
    }

    async fn release(mut self) {
        sqlx::query("ROLLBACK").execute(&mut self.0).await.expect("the lock goes");
        self.0.close().await.expect("the session ends");
    }
}

/// A server, an account with one operation whose row is locked, and a device with two changes to upload.
struct Stuck {
    server: Server,
    account: Account,
    lock: Lock,
    device: Device,
}

async fn with_one_op(times: Times) -> (Server, Account) {
    let server = Server::start_with(Backend::Postgres, |config| {
        config.timeouts.statement = times.statement;
        config.timeouts.handler = times.handler;
        config.timeouts.socket = times.socket;
    })
    .await;
    let account = server.account().await;
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
    (server, account)
}

impl Stuck {
    async fn new(times: Times) -> Self {
        let (server, account) = with_one_op(times).await;
        let ladder = Ladder { request: times.request, sync_wait: times.sync_wait, ..Ladder::default() };
        let client =
            Client::new(&account.base, &ladder).expect("a client").with_token(&account.token).expect("a token");
        let mut device = Device::new(client, "B");
        for n in 0..2 {
            device.change(Change {
                action_type: "[Task] Update".to_owned(),
                op_type: OpType::Update,
                entity_type: "TASK".to_owned(),
                entity_id: Some(format!("changed-{n}")),
                entity_ids: Vec::new(),
                payload: RawValue::from_string("{}".to_owned()).expect("JSON"),
                is_payload_encrypted: false,
            });
        }
        let lock = Lock::on(&server, &account).await;
        Self { server, account, lock, device }
    }

    /// Syncs in vain; says why and after how long.
    async fn fail_to_sync(&mut self) -> (ClientError, Duration) {
        let started = Instant::now();
        let error = timeout(PATIENCE, self.device.sync()).await.expect("some layer gives up").expect_err("it is stuck");
        assert_eq!(self.device.pending(), 2, "nothing is lost on the device");
        (error, started.elapsed())
    }

    /// Ends the trouble. Then the same device gets through by itself, and the log holds everything once and nothing
    /// half done.
    async fn recovers(mut self) {
        self.lock.release().await;
        let report = self.device.sync().await.expect("the server has recovered by itself");
        assert_eq!((report.accepted.len() + report.duplicates.len(), self.device.pending()), (2, 0), "{report:?}");
        assert_eq!(self.account.download(0).await.seqs(), [1, 2, 3]);
        assert_eq!(self.server.rows(&self.account).await, [1, 2, 3]);
        assert_eq!(self.account.upload("A", &[op("A")]).await.outcomes(), ["#4"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_statement_ends_first_and_every_layer_passes_it_on() {
    let mut stuck = Stuck::new(SCALED).await;
    let started = Instant::now();
    let report = timeout(PATIENCE, stuck.device.sync()).await.expect("some layer gives up").expect("an answer");
    let took = started.elapsed();
    assert_eq!((report.deferred.len(), report.accepted.len(), stuck.device.pending()), (2, 0, 2), "{report:?}");
    assert!(took >= SCALED.statement && took < SCALED.request, "{took:?}");
    assert_rolled_back(&stuck.account.upload("A", &[op("A")]).await);
    // The statement is gone from the database, not only from sight: nothing of this server waits any more.
    let mut session = stuck.server.database.postgres().session().await;
    let waiting: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .fetch_one(&mut session)
    .await
    .expect("the database tells");
    assert_eq!(waiting, 0);
    assert_eq!(stuck.account.download(0).await.seqs(), [1], "reads go on, and nothing was stored");
    stuck.recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_too_long_gives_up_before_the_handler() {
    let mut stuck = Stuck::new(Times { request: Duration::from_millis(500), ..ENDLESS }).await;
    let (error, _) = stuck.fail_to_sync().await;
    assert!(matches!(error, ClientError::RequestTimeout(_)), "{error}");
    stuck.recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_neither_statement_nor_client_ends_the_handler_does() {
    let times = Times { handler: Duration::from_millis(600), ..ENDLESS };
    let mut stuck = Stuck::new(times).await;
    let (error, took) = stuck.fail_to_sync().await;
    let ClientError::ServerTimeout(text) = &error else { panic!("not the server's word: {error}") };
    assert!(text.contains("please retry"), "{text}");
    assert!(took >= times.handler, "{took:?}");
    assert_eq!(stuck.account.download(0).await.seqs(), [1], "reads go on");
    stuck.recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_nothing_else_ends_the_wait_for_the_sync_does() {
    let mut stuck = Stuck::new(Times { sync_wait: Duration::from_millis(500), ..ENDLESS }).await;
    let (error, _) = stuck.fail_to_sync().await;
    assert!(matches!(error, ClientError::SyncWaitTimeout(_)), "{error}");
    stuck.recovers().await;
}

/// The transaction's failure as the contract wants it told (section 5.10): every operation stays with the device, to be
/// sent again.
#[track_caller]
fn assert_rolled_back(reply: &Reply) {
    assert!(reply.outcomes().iter().all(|outcome| outcome == "INTERNAL_ERROR"), "{}", reply.text);
    for result in reply["results"].as_array().expect("results") {
        let text = result["error"].as_str().expect("a text");
        assert!(text.contains("timeout") && text.contains("please retry"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_while_one_account_is_stuck() {
    // Nothing ends by itself: who waited behind the stuck account would wait for ever.
    let (server, account) = with_one_op(ENDLESS).await;
    let mut strangers = Vec::new();
    for _ in 0..4 {
        // Accounts are spread over the committer's lanes by number, so some of these share the stuck one's.
        strangers.push(server.account().await);
    }
    let lock = Lock::on(&server, &account).await;
    let stuck = tokio::spawn({
        let account = account.clone();
        async move { account.upload("A", &[op("A"), op("A")]).await }
    });
    for round in 1..=3 {
        for stranger in &strangers {
            let reply =
                timeout(PATIENCE, stranger.upload("S", &[op("S")])).await.expect("nobody waits for a stranger's lock");
            assert_eq!(reply.outcomes(), [format!("#{round}")]);
        }
    }
    assert!(!stuck.is_finished(), "it still waits for the lock");
    lock.release().await;
    assert_eq!(stuck.await.expect("an answer for the stuck account").outcomes(), ["#2", "#3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_closed() {
    let times = Times { socket: Duration::from_millis(500), handler: Duration::from_millis(400), ..SCALED };
    let (server, account) = with_one_op(times).await;
    let host = account.base.trim_start_matches("http://").to_owned();
    let half_a_head = "POST /api/sync/ops HTTP/1.1\r\nHost: x\r\n".to_owned();
    let half_a_body = format!(
        "POST /api/sync/ops HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n{{\"ops\":[",
        account.token
    );
    for (what, sent) in [("nothing", String::new()), ("half a head", half_a_head), ("half a body", half_a_body)] {
        let mut stream = TcpStream::connect(&host).await.expect("a connection");
        stream.write_all(sent.as_bytes()).await.expect("the bytes leave");
        let mut answer = Vec::new();
        // A reset is an end as well.
        let _ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends in time");
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.starts_with("HTTP/1.1 2"), "{what}: {answer}");
    }
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#2"]);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_are_logged_and_counted_even_if_the_client_hangs_up() {
    let log = Log::of_process();
    let metrics = supersync::telemetry::metrics::install().expect("the first one in this process");
    let server = Server::start_with(Backend::Postgres, |config| {
        config.timeouts.statement = SCALED.statement;
        config.timeouts.slow_request = Duration::from_millis(300);
    })
    .await;
    let account = server.account().await;
    account.upload("A", &[op("A")]).await;
    assert!(log.lines_with("slow request").is_empty(), "nothing was slow yet");

    let lock = Lock::on(&server, &account).await;
    assert_rolled_back(&account.upload("A", &[op("A")]).await);
    // This one does not wait for the end.
    timeout(Duration::from_millis(450), account.upload("A", &[op("A")])).await.expect_err("it is stuck");
    let twice = async {
        while log.lines_with("slow request").len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, twice).await.expect("both are written down");
    lock.release().await;

    let lines = log.lines_with("slow request");
    for (line, status) in lines.iter().zip(["status=\"200\"", "status=\"abandoned\""]) {
        assert!(line.contains("WARN") && line.contains(status), "{line}");
        for part in
            [format!("user_id={}", account.id), "route=\"/api/sync/ops\"".to_owned(), "phase=\"engine\"".to_owned()]
        {
            assert!(line.contains(&part), "{part} in {line}");
        }
    }
    assert!(log.lines_with(&account.token).is_empty(), "no token in the log");
    let counted = metrics.render();
    assert!(counted.contains("supersync_slow_requests_total{route=\"/api/sync/ops\"} 2"), "{counted}");
}
