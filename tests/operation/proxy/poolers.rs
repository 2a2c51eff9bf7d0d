//! The real `PgBouncer` between the server and PostgreSQL, in both of its modes.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use supersync::config::{Config, Database};
use supersync::store::{self, OpenMode, StoreError};
use tokio::task::JoinSet;

use crate::harness::{Backend, Server, TestDatabase, import, op, snapshot};
use crate::proxy::pooler::Pooler;

fn address() -> String {
    std::env::var("SUPERSYNC_TEST_POSTGRES_URL").expect("`make test` starts a PostgreSQL server")
}

/// Sends requests through the pooler, and what needs a session to PostgreSQL itself.
fn pooled(database: &mut Database, pooler: &Pooler, said: bool, direct: bool) {
    let Database::Postgres { url, direct_url, pgbouncer, .. } = database else { panic!("PostgreSQL") };
    *direct_url = direct.then(|| url.clone());
    *pgbouncer = said;
    *url = pooler.through(url.expose_secret()).into();
}

/// What devices do, on two servers that share few sessions.
async fn serves(change: impl Fn(&mut Config)) {
    let server = Server::start_with(Backend::Postgres, &change).await;
    let mut settings = server.database.settings();
    let mut config = server.config().clone();
    std::mem::swap(&mut config.database, &mut settings);
    change(&mut config);
    let beside =
        store::open_with(OpenMode::Shared, &config.database, Duration::from_mins(1)).await.expect("a second one opens");
    let mut devices = JoinSet::new();
    for _ in 0..8 {
        let account = server.account().await;
        let beside = beside.clone();
        let server_state = server.store.clone();
        devices.spawn(async move {
            for n in 1..=10 {
                let outcomes = account.upload("A", &[op("A")]).await.outcomes();
                assert_eq!(outcomes, [format!("#{n}")]);
                assert_eq!(account.download(n - 1).await.ok().seqs(), [n]);
                account.devices().await;
                let state = beside.load_account(account.id).await.expect("it works").expect("there");
                assert_eq!(state.sync.last_seq, n);
                let sessions = server_state.sessions(account.id, 0).await.expect("it works");
                assert_eq!(sessions.len(), 1);
            }
            account.snapshot(&snapshot("A")).await.ok();
            account.get("/api/sync/restore-points").await.ok();
            account.get("/api/sync/snapshot").await.ok();
            account.upload("A", &[import("A")]).await.ok();
            account.delete("/api/sync/data").await.ok();
            account.get("/api/sync/archives").await.ok();
            account.upload("A", &[op("A")]).await.ok();
        });
    }
    while let Some(done) = devices.join_next().await {
        done.expect("no request fails");
    }
    server.seal().await;
    server.sweep().await;
    assert_eq!(
        crate::harness::receive(crate::harness::http_client().get(format!("{}/readyz", server.base))).await.status,
        200
    );
    beside.close().await;
    let server = server.restart().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_behind_pgbouncer_in_transaction_mode_serves() {
    let pooler = Pooler::before(&address(), "transaction", "default_pool_size = 3").await;
    serves(|config| pooled(&mut config.database, &pooler, true, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_behind_pgbouncer_in_transaction_mode_is_found_out() {
    let pooler = Pooler::before(&address(), "transaction", "default_pool_size = 3\nserver_round_robin = 1").await;
    serves(|config| pooled(&mut config.database, &pooler, false, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_behind_pgbouncer_in_session_mode_serves() {
    let pooler = Pooler::before(&address(), "session", "default_pool_size = 60").await;
    serves(|config| pooled(&mut config.database, &pooler, false, false)).await;
}

async fn refusal(database: &Database) -> String {
    match store::open(database, Duration::from_mins(1)).await.map(|_| ()) {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_no_session_leads_to_is_refused_with_advice() {
    let database = TestDatabase::create(Backend::Postgres).await;
    for settings in ["", "default_pool_size = 1", "server_round_robin = 1"] {
        let pooler = Pooler::before(&address(), "transaction", settings).await;
        let mut behind = database.settings();
        pooled(&mut behind, &pooler, false, false);
        let text = refusal(&behind).await;
        assert!(text.contains("DATABASE_DIRECT_URL") && text.contains("pool_mode=session"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_of_another_address_is_refused() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let other = TestDatabase::create(Backend::Postgres).await;
    let pooler = Pooler::before(&address(), "transaction", "").await;
    let mut behind = database.settings();
    pooled(&mut behind, &pooler, true, true);
    let (Database::Postgres { direct_url, .. }, Database::Postgres { url, .. }) = (&mut behind, other.settings())
    else {
        panic!("PostgreSQL")
    };
    *direct_url = Some(url);
    let text = refusal(&behind).await;
    assert!(text.contains("different databases"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_refuses_the_password_is_unavailable() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let pooler = Pooler::before(&address(), "session", "auth_type = md5").await;
    let mut behind = database.settings();
    pooled(&mut behind, &pooler, false, false);
    let Database::Postgres { url, .. } = &mut behind else { panic!("PostgreSQL") };
    *url = url.expose_secret().replace("supersync@", "supersync:wrong@").into();
    let failed = store::open(&behind, Duration::from_mins(1)).await.map(|_| ());
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
}
