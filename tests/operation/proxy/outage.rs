//! A database that fails over, goes silent or refuses, behind a network that fails: the server says so at once, serves what
//! it has in memory, and goes on by itself when it is over.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use sqlx::AssertSqlSafe;
use supersync::config::{Config, Database};
use supersync::store::{self, StoreError};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::harness::{
    Account, Backend, LONG_PATIENCE, Mode, Program, Reply, Server, TestDatabase, Wire, free_port, http_client, op,
    receive,
};

/// Writes are back within this time after a failover.
const BACK: Duration = Duration::from_secs(30);

fn address() -> String {
    std::env::var("SUPERSYNC_TEST_POSTGRES_URL").expect("`make test` starts a PostgreSQL server")
}

/// A server on an address that is made from the database's own. Uploads are tried as often as it takes.
async fn server_at(change: impl FnOnce(&str) -> String) -> Server {
    let configure = |config: &mut Config| {
        config.rate_limits.uploads_per_user.max = 0;
        redirect(&mut config.database, change);
    };
    Server::start_with(Backend::Postgres, configure).await
}

/// A server whose way to the database can fail.
async fn behind_a_wire() -> (Wire, Server) {
    let wire = Wire::to(&address(), Mode::Open).await;
    let server = server_at(|url| wire.through(url)).await;
    (wire, server)
}

fn redirect(database: &mut Database, change: impl FnOnce(&str) -> String) {
    let Database::Postgres { url, .. } = database else { panic!("PostgreSQL") };
    *url = change(url.expose_secret()).into();
}

async fn probe(base: &str, path: &str) -> Reply {
    receive(http_client().get(format!("{base}{path}"))).await
}

/// Uploads until it is accepted, and says how long that took. Whatever is refused meanwhile says that it may be tried again.
async fn accepted(account: &Account, within: Duration) -> Duration {
    let start = Instant::now();
    let accepting = async {
        loop {
            let reply = account.upload("A", &[op("A")]).await;
            if reply.status == 200 && reply.outcomes()[0].starts_with('#') {
                return;
            }
            may_be_tried_again(&reply);
        }
    };
    timeout(within, accepting).await.expect("writes are back in time");
    start.elapsed()
}

fn may_be_tried_again(reply: &Reply) {
    if reply.status == 200 {
        assert_eq!(reply.outcomes(), ["INTERNAL_ERROR"]);
    } else {
        assert_eq!(reply.status, 503, "{}", reply.text);
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
    }
}

/// Waits until a probe answers with this status.
async fn until(base: &str, path: &str, status: u16, within: Duration) {
    let answered = async { while probe(base, path).await.status != status {} };
    timeout(within, answered).await.unwrap_or_else(|_| panic!("{path} answers {status} in time"));
}

async fn run(database: &TestDatabase, sql: String) {
    let mut session = database.postgres().session().await;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.expect("valid SQL");
}

fn name(database: &TestDatabase) -> String {
    database.postgres().url().rsplit('/').next().expect("a name").to_owned()
}

/// Ends every session of the server, as a failover does.
async fn end_sessions(database: &TestDatabase) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
               AND pid <> pg_backend_pid()";
    run(database, end.to_owned()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_takes_no_writes_for_a_while_is_written_to_again_by_itself() {
    let server = server_at(str::to_owned).await;
    let (account, cold) = (server.account().await, server.account().await);
    account.upload("A", &[op("A")]).await.ok();
    let database = name(&server.database);
    run(&server.database, format!("ALTER DATABASE {database} SET default_transaction_read_only = on")).await;
    end_sessions(&server.database).await;
    until(&server.base, "/readyz", 503, BACK).await;
    for _ in 0..10 {
        may_be_tried_again(&account.upload("A", &[op("A")]).await);
    }
    // Balancers keep it, for it reads.
    assert_eq!(probe(&server.base, "/readyz/reads").await.status, 200);
    assert_eq!(account.download(0).await.ok().seqs(), [1]);
    cold.devices().await;
    let mut session = server.database.postgres().session().await;
    for sql in ["SET default_transaction_read_only = off", &format!("ALTER DATABASE {database} RESET ALL")] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.expect("valid SQL");
    }
    accepted(&account, BACK).await;
    accepted(&cold, BACK).await;
    until(&server.base, "/readyz", 200, BACK).await;
    // From now on every one is accepted: no connection is left that writes nothing.
    for _ in 0..50 {
        assert!(account.upload("A", &[op("A")]).await.outcomes()[0].starts_with('#'));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_sessions_that_are_ended_cost_a_pause_at_most() {
    let server = server_at(str::to_owned).await;
    let account = server.account().await;
    for _ in 0..5 {
        accepted(&account, BACK).await;
        end_sessions(&server.database).await;
        assert!(accepted(&account, BACK).await < Duration::from_secs(5));
        account.devices().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_connections_that_have_gone_silent_are_replaced_within_the_request() {
    let (wire, server) = behind_a_wire().await;
    let account = server.account().await;
    account.upload("A", &[op("A")]).await.ok();
    let mut reads = JoinSet::new();
    for _ in 0..8 {
        let account = account.clone();
        reads.spawn(async move { account.devices().await });
    }
    reads.join_all().await;
    // They rest for longer than they are trusted unasked; nothing tells when that is.
    tokio::time::sleep(Duration::from_secs(6)).await;
    wire.lose_connections();
    let start = Instant::now();
    let mut reads = JoinSet::new();
    for _ in 0..20 {
        let account = account.clone();
        reads.spawn(async move { account.devices().await });
    }
    let uploading = account.upload("A", &[op("A")]).await;
    assert!(uploading.outcomes()[0].starts_with('#'), "{uploading:?}");
    assert_eq!(reads.join_all().await.len(), 20);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    until(&server.base, "/readyz", 200, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_statements_that_are_lost_on_the_way_are_given_up_in_seconds() {
    let (wire, server) = behind_a_wire().await;
    let account = server.account().await;
    for _ in 0..3 {
        // Just used, so trusted.
        accepted(&account, BACK).await;
        account.devices().await;
        wire.lose_connections();
        let start = Instant::now();
        let reading = account.get("/api/sync/devices").await;
        assert!(reading.status == 200 || reading.status == 503, "{reading:?}");
        accepted(&account, BACK).await;
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        account.devices().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_has_gone_silent_is_told_at_once_and_found_again() {
    let (wire, server) = behind_a_wire().await;
    let (account, cold) = (server.account().await, server.account().await);
    account.upload("A", &[op("A")]).await.ok();
    for mode in [Mode::Silent, Mode::Closed] {
        wire.set(mode);
        if mode == Mode::Silent {
            // What is sent now never arrives.
            wire.lose_connections();
        }
        let start = Instant::now();
        let change = [op("A")];
        let (uploading, reading, ready) =
            tokio::join!(account.upload("A", &change), cold.get("/api/sync/devices"), probe(&server.base, "/readyz"),);
        may_be_tried_again(&uploading);
        assert_eq!((reading.status, ready.status), (503, 503), "{mode:?}");
        assert!(start.elapsed() < Duration::from_secs(20), "{mode:?}: {:?}", start.elapsed());
        // What is known is said at once, but for who tries again.
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(cold.get("/api/sync/devices").await.status, 503);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{mode:?}: {:?}", start.elapsed());
        // From memory, if nobody else can have changed anything: a silence may be this server's alone.
        let from_memory = if mode == Mode::Closed { 200 } else { 503 };
        assert_eq!(account.get("/api/sync/ops?sinceSeq=1").await.status, from_memory, "{mode:?}");
        assert_eq!(probe(&server.base, "/readyz/reads").await.status, from_memory, "{mode:?}");
        assert_eq!(probe(&server.base, "/livez").await.status, 200);
        wire.set(Mode::Open);
        until(&server.base, "/readyz", 200, Duration::from_secs(10)).await;
        // It also looks who else is there before it answers again.
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        let answers = async {
            while cold.get("/api/sync/devices").await.status != 200 || !server.engine.trusts_memory() {
                pace.tick().await;
            }
        };
        timeout(Duration::from_secs(10), answers).await.expect("it answers again");
        // Whether the upload was stored is known only now.
        account.download(1).await.ok();
    }
    assert_eq!(account.status().await["latestSeq"], 1, "what was refused was not stored");
    accepted(&account, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_second_server_is_heard_again_after_its_line_has_gone_silent() {
    let (wire, server) = behind_a_wire().await;
    let account = server.account().await;
    account.upload("A", &[op("A")]).await.ok();
    let direct = store::open(&server.database.settings(), Duration::from_mins(1)).await.expect("it opens");
    let clock = server.clock.clone();
    let options = supersync::engine::Options::from(server.config());
    let other = supersync::engine::Handle::start(direct, clock, options).await.expect("it starts");
    wire.lose_connections();
    let trusts = async {
        while !(server.engine.trusts_memory() && other.trusts_memory()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG_PATIENCE, trusts).await.expect("they hear each other again");
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_refuses_the_user_is_unavailable_until_it_does_not() {
    let role = format!("supersync_test_{}", std::process::id());
    let server = {
        let database = TestDatabase::create(Backend::Postgres).await;
        run(&database, format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} SUPERUSER LOGIN")).await;
        server_at(|url| url.replace("supersync@", &format!("{role}@"))).await
    };
    let account = server.account().await;
    account.upload("A", &[op("A")]).await.ok();
    run(&server.database, format!("ALTER ROLE {role} NOLOGIN")).await;
    end_sessions(&server.database).await;
    until(&server.base, "/readyz", 503, BACK).await;
    for _ in 0..5 {
        may_be_tried_again(&account.upload("A", &[op("A")]).await);
        let reading = account.get("/api/sync/devices").await;
        assert_eq!(reading.status, 503, "{reading:?}");
        assert!(reading.header("retry-after").is_some(), "{reading:?}");
    }
    run(&server.database, format!("ALTER ROLE {role} LOGIN")).await;
    accepted(&account, BACK).await;
    until(&server.base, "/readyz", 200, BACK).await;
    let (database, _) = server.stop().await;
    run(&database, format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_down_at_the_start_is_waited_for() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let wire = Wire::to(&address(), Mode::Closed).await;
    let url = wire.through(&database.postgres().url());
    let port = free_port();
    let base = format!("http://127.0.0.1:{port}");
    let starting = async {
        let settings = [("DATABASE_URL", &*url)];
        let program = Program::start_at(&database, port, &settings).await;
        assert_eq!(probe(&base, "/readyz").await.status, 200);
        assert!(program.terminate().await.success());
    };
    let meanwhile = async {
        let listening = async { while http_client().get(format!("{base}/livez")).send().await.is_err() {} };
        timeout(LONG_PATIENCE, listening).await.expect("it answers probes");
        for mode in [Mode::Closed, Mode::Silent] {
            wire.set(mode);
            assert_eq!(probe(&base, "/livez").await.status, 200);
            for path in ["/readyz", "/readyz/reads", "/health"] {
                let reply = probe(&base, path).await;
                assert_eq!(reply.status, 503, "{path}");
                assert_eq!(reply["status"], "error", "{path}");
            }
            let reply = probe(&base, "/api/sync/status").await;
            assert_eq!(reply.status, 503);
            assert!(reply.header("retry-after").is_some());
        }
        wire.set(Mode::Open);
    };
    timeout(LONG_PATIENCE, async { tokio::join!(starting, meanwhile) }).await.expect("it serves in the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_on_several_hosts_is_found_where_it_takes_writes() {
    let (one, two) = (Wire::to(&address(), Mode::Closed).await, Wire::to(&address(), Mode::Open).await);
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", one.port, two.port);
    let server = server_at(|given| {
        let url = url::Url::parse(given).expect("a URL");
        format!("postgres://{}@{hosts}{}", url.username(), url.path())
    })
    .await;
    let account = server.account().await;
    accepted(&account, BACK).await;
    assert_eq!(one.made(), 0);
    for (from, to) in [(&two, &one), (&one, &two)] {
        let before = to.made();
        from.set(Mode::Silent);
        to.set(Mode::Open);
        accepted(&account, BACK).await;
        account.devices().await;
        until(&server.base, "/readyz", 200, BACK).await;
        assert!(to.made() > before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_not_utf_8_is_refused() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let other = format!("{}_latin1", name(&database));
    for encoding in ["LATIN1", "SQL_ASCII"] {
        run(&database, format!("CREATE DATABASE {other} TEMPLATE template0 ENCODING '{encoding}'")).await;
        let mut settings = database.settings();
        redirect(&mut settings, |url| format!("{url}_latin1"));
        let refused = store::open(&settings, Duration::from_mins(1)).await.map(|_| ());
        let Err(StoreError::Refused(text)) = refused else { panic!("{encoding}: {refused:?}") };
        assert!(text.contains(encoding) && text.contains("ENCODING 'UTF8'"), "{text}");
        run(&database, format!("DROP DATABASE {other} WITH (FORCE)")).await;
    }
}
