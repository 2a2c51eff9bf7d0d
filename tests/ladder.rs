//! The time-out ladder, end to end, with scaled-down times: whatever waits on the inside gives up first and says so through the
//! layers around it. The database is really stuck: another session holds the account's row.

mod harness;

use std::time::{Duration, Instant};

use harness::{Account, Backend, PATIENCE, Reply, Server, op, receive, upload};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything that this test lets happen.
const NEVER: Duration = Duration::from_secs(60);

/// Times from the inside out.
#[derive(Clone, Copy)]
struct Ladder {
    statement: Duration,
    client: Duration,
    handler: Duration,
    socket: Duration,
}

impl Ladder {
    /// The contract's order, about a hundred times as fast.
    const SCALED: Self = Self {
        statement: Duration::from_millis(600),
        client: Duration::from_secs(5),
        handler: Duration::from_secs(8),
        socket: Duration::from_secs(9),
    };

    async fn server(self) -> Server {
        Server::start_with(Backend::Postgres, |config| {
            config.timeouts.statement = self.statement;
            config.timeouts.handler = self.handler;
            config.timeouts.socket = self.socket;
        })
        .await
    }
}

/// Another session's lock on the account's row. Goes with [`Lock::release`] or with the connection.
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

/// How an upload went for a client that waits only so long.
enum Seen {
    Answer(Reply),
    GaveUp,
}

async fn upload_within(account: &Account, patience: Duration, body: &Value) -> (Seen, Duration) {
    let started = Instant::now();
    let request = account.http.post(format!("{}/api/sync/ops", account.base)).bearer_auth(&account.token).json(body);
    let seen = match timeout(patience, receive(request)).await {
        Ok(reply) => Seen::Answer(reply),
        Err(_) => Seen::GaveUp,
    };
    (seen, started.elapsed())
}

/// What a client takes for "try again": a text that says so, whatever the layer.
#[track_caller]
fn assert_retryable(reply: &Reply) {
    let texts: Vec<&str> = match reply.body["results"].as_array() {
        Some(results) => results
            .iter()
            .map(|result| {
                assert_eq!(result["errorCode"], "INTERNAL_ERROR", "{}", reply.text);
                result["error"].as_str().expect("a text")
            })
            .collect(),
        None => {
            assert_eq!(reply.status, 503, "{}", reply.text);
            vec![reply["error"].as_str().expect("a text")]
        }
    };
    assert!(!texts.is_empty() && texts.iter().all(|text| text.contains("please retry")), "{}", reply.text);
}

/// A server with an account that has one operation, so that it has a row and an actor.
async fn with_one_op(ladder: Ladder) -> (Server, Account) {
    let server = ladder.server().await;
    let account = server.account().await;
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
    (server, account)
}

/// After the trouble: the log has no hole, no duplicate and nothing half done, and the same upload goes through now.
async fn assert_recovered(server: &Server, account: &Account, body: &Value) {
    let again = account.post("/api/sync/ops", body).await;
    for outcome in again.outcomes() {
        assert!(outcome.starts_with('#') || outcome == "DUPLICATE_OPERATION", "{outcome}");
    }
    assert_eq!(account.download(0).await.seqs(), [1, 2, 3]);
    assert_eq!(server.rows(account).await, [1, 2, 3]);
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_statement_ends_first_and_every_layer_passes_it_on() {
    let (server, account) = with_one_op(Ladder::SCALED).await;
    let lock = Lock::on(&server, &account).await;
    let body = upload("A", None, &[op("A"), op("A")]);
    let (seen, took) = upload_within(&account, Ladder::SCALED.client, &body).await;
    let Seen::Answer(reply) = seen else { panic!("the client gave up before the statement did") };
    assert_retryable(&reply);
    assert!(took >= Ladder::SCALED.statement, "answered after {took:?}, before the statement could have ended");
    assert!(took < Ladder::SCALED.client, "{took:?}");
    // The statement is gone from the database, not only from sight: nothing of this server waits any more.
    let mut session = server.database.postgres().session().await;
    let waiting: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .fetch_one(&mut session)
    .await
    .expect("the database tells");
    assert_eq!(waiting, 0);
    assert_eq!(account.download(0).await.seqs(), [1], "reads go on, and nothing was stored");
    lock.release().await;
    assert_recovered(&server, &account, &body).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_the_statement_does_not_end_the_handler_does() {
    let ladder = Ladder { statement: NEVER, client: PATIENCE, handler: Duration::from_millis(600), socket: NEVER };
    let (server, account) = with_one_op(ladder).await;
    let lock = Lock::on(&server, &account).await;
    let body = upload("A", None, &[op("A"), op("A")]);
    let (seen, took) = upload_within(&account, ladder.client, &body).await;
    let Seen::Answer(reply) = seen else { panic!("the client gave up before the handler did") };
    assert_eq!(reply.status, 503);
    let text = reply["error"].as_str().expect("a text");
    assert!(text.contains("please retry") && text.contains("timeout"), "the text names what gave up: {text}");
    assert!(took >= ladder.handler, "{took:?}");
    assert_eq!(account.download(0).await.seqs(), [1], "reads go on");
    lock.release().await;
    assert_recovered(&server, &account, &body).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_up_leaves_nothing_half_done() {
    let ladder = Ladder { statement: NEVER, client: Duration::from_millis(300), handler: NEVER, socket: NEVER };
    let (server, account) = with_one_op(ladder).await;
    let lock = Lock::on(&server, &account).await;
    let body = upload("A", None, &[op("A"), op("A")]);
    let (seen, _) = upload_within(&account, ladder.client, &body).await;
    assert!(matches!(seen, Seen::GaveUp));
    lock.release().await;
    assert_recovered(&server, &account, &body).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_while_one_account_is_stuck() {
    let (server, account) = with_one_op(Ladder::SCALED).await;
    let stranger = server.account().await;
    let lock = Lock::on(&server, &account).await;
    let stuck = tokio::spawn({
        let (account, body) = (account.clone(), upload("A", None, &[op("A"), op("A")]));
        async move { upload_within(&account, PATIENCE, &body).await.0 }
    });
    assert_eq!(stranger.download(0).await.seqs(), Vec::<i64>::new());
    assert_eq!(stranger.status().await["latestSeq"], 0);
    // A commit that shares its group or its lane with the stuck one may have to be sent again, as any device does.
    let body = upload("S", None, &[op("S")]);
    let stored = async {
        loop {
            let reply = stranger.post("/api/sync/ops", &body).await;
            if reply.status == 200 && reply["results"][0]["accepted"] == true {
                return;
            }
            if reply.status == 200 && reply["results"][0]["errorCode"] == json!("DUPLICATE_OPERATION") {
                return;
            }
            assert_retryable(&reply);
        }
    };
    timeout(PATIENCE, stored).await.expect("the stranger's upload goes through while the other account is stuck");
    let Seen::Answer(reply) = stuck.await.expect("no panic") else { panic!("no answer for the stuck account") };
    assert_retryable(&reply);
    lock.release().await;
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_closed() {
    let ladder = Ladder { socket: Duration::from_millis(500), handler: Duration::from_millis(400), ..Ladder::SCALED };
    let (server, account) = with_one_op(ladder).await;
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
