//! What one process does to an account counts in another one. Here the other one is a second set of accounts on the same
//! database, as the command line has it; that the program itself follows is shown once, with real processes.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use supersync::accounts::{Asker, SessionOrigin, SessionRef};
use supersync::store::EventKind;

use crate::harness::{Account, Backend, Ended, Server, TestDatabase, op, send_signal};

on_both_databases! {
    nothing_from_before_the_start_is_acted_on,
    a_revoked_session_ends_here_too_and_alone,
    voided_sessions_end_here_too,
    a_token_that_replaced_the_others_is_not_ended_by_their_end,
    a_deleted_account_ends_here_too,
    a_locked_account_ends_here_too,
    a_quota_set_elsewhere_counts_here,
    data_deleted_elsewhere_is_gone_here,
    many_events_are_acted_on_in_their_order,
    after_a_long_silence_sockets_must_come_back,
    the_command_line_reaches_a_running_server,
}

const REVOKED: &str = "Token was revoked. Please log in again to get a new token.";

#[track_caller]
fn refused(reply: &crate::harness::Reply, error: &str) {
    assert_eq!((reply.status, reply["error"].as_str()), (401, Some(error)), "{}", reply.text);
}

async fn status(account: &Account) -> crate::harness::Reply {
    account.get("/api/sync/status").await
}

async fn nothing_from_before_the_start_is_acted_on(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    server.accounts.set_quota(account.id, 1).await.expect("the account exists");
    let server = server.restart().await;
    assert_eq!(server.follow().await, 0);
}

async fn a_revoked_session_ends_here_too_and_alone(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let other = server.signed_in_again(&account).await;
    let (mut stays, mut goes) = (account.socket("A").await, other.socket("B").await);
    let sender = server.accounts.authenticate_token(&other.token, || None).await.expect("it counts");
    let session = SessionRef::One(sender.session.expect("no older token"));
    server.beside().await.revoke_session(account.id, session, &Asker::operator()).await.expect("there is one");
    assert_eq!(status(&other).await.status, 200, "nobody has told this process");
    assert_eq!(server.follow().await, 1);
    refused(&status(&other).await, REVOKED);
    assert_eq!(goes.ended().await, Ended::Code(4003));
    account.upload("X", &[op("X")]).await.ok();
    assert_eq!(stays.notice().await["latestSeq"], 1);
}

async fn voided_sessions_end_here_too(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    let older = Account { token: account.older_token(server.clock.now_ms()), ..account.clone() };
    let (mut one, mut two, mut theirs) =
        (account.socket("A").await, older.socket("B").await, stranger.socket("A").await);
    server.beside().await.revoke(account.id).await.expect("the account exists");
    server.follow().await;
    for socket in [&mut one, &mut two] {
        assert_eq!(socket.ended().await, Ended::Code(4003));
    }
    for gone in [&account, &older] {
        refused(&status(gone).await, REVOKED);
    }
    stranger.upload("X", &[op("X")]).await.ok();
    assert_eq!(theirs.notice().await["latestSeq"], 1);
}

async fn a_token_that_replaced_the_others_is_not_ended_by_their_end(on: Backend) {
    use secrecy::ExposeSecret as _;
    let server = Server::start(on).await;
    let account = server.account().await;
    let sender = server.accounts.authenticate_token(&account.token, || None).await.expect("it counts");
    let elsewhere = server.beside().await;
    let session = elsewhere.replace_token(&sender, &SessionOrigin::operator()).await.expect("the account exists");
    let replaced = Account { token: session.token.expose_secret().to_owned(), ..account.clone() };
    // Before this process hears of it.
    let mut socket = replaced.socket("A").await;
    server.follow().await;
    refused(&status(&account).await, REVOKED);
    replaced.upload("X", &[op("X")]).await.ok();
    assert_eq!(socket.notice().await["latestSeq"], 1);
}

async fn a_deleted_account_ends_here_too(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("X", &[op("X")]).await.ok();
    let mut socket = account.socket("A").await;
    server.beside().await.delete(account.id).await.expect("the account exists");
    server.follow().await;
    assert_eq!(socket.ended().await, Ended::Code(4003));
    refused(&status(&account).await, "Account unavailable");
    assert_eq!(server.engine.live_actors(), 0, "nothing of it is in memory");
}

async fn a_locked_account_ends_here_too(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut socket = account.socket("A").await;
    let elsewhere = server.beside().await;
    elsewhere.set_locked(account.id, true).await.expect("the account exists");
    server.follow().await;
    assert_eq!(socket.ended().await, Ended::Code(4003));
    refused(&status(&account).await, "Account unavailable");
    elsewhere.set_locked(account.id, false).await.expect("the account exists");
    server.follow().await;
    status(&account).await.ok();
}

async fn a_quota_set_elsewhere_counts_here(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("X", &[op("X").sized(1_000)]).await.ok();
    server.beside().await.set_quota(account.id, 1_500).await.expect("the account exists");
    assert_eq!(server.follow().await, 1);
    assert_eq!(account.status().await["storageQuotaBytes"], 1_500);
    account.upload("X", &[op("X").sized(1_000)]).await.expect(413);
}

async fn data_deleted_elsewhere_is_gone_here(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("X", &[op("X")]).await.ok();
    server.store.reset_log(account.id).await.expect("the store works");
    server.beside().await.announce_cleared(account.id).await.expect("the store works");
    server.follow().await;
    assert!(account.download(0).await.seqs().is_empty());
}

async fn many_events_are_acted_on_in_their_order(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let _remembered = status(&account).await;
    let elsewhere = server.beside().await;
    // More than are read at a time, in the order in which they were made.
    for _ in 0..501 {
        server.store.announce(account.id, EventKind::AccountUnlocked).await.expect("the store works");
    }
    elsewhere.revoke(account.id).await.expect("the account exists");
    assert_eq!(server.follow().await, 502);
    refused(&status(&account).await, REVOKED);
    assert_eq!(server.follow().await, 0);
}

async fn after_a_long_silence_sockets_must_come_back(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut socket = account.socket("A").await;
    server.clock.advance_ms(11 * 60 * 60 * 1000);
    server.follow().await;
    server.clock.advance_ms(13 * 60 * 60 * 1000);
    server.follow().await;
    assert_eq!(socket.ended().await, Ended::Code(1012));
    drop(account.socket("B").await);
}

/// The program with these settings.
fn supersync(database: &TestDatabase, port: u16, arguments: &[&str]) -> Command {
    let url = match database.settings() {
        supersync::config::Database::Sqlite { path } => format!("sqlite://{}", path.display()),
        supersync::config::Database::Postgres { .. } => database.postgres().url(),
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_supersync"));
    command.current_dir(database.data_dir()).env_clear().args(arguments).stdin(Stdio::null());
    command.env("DATABASE_URL", url).env("HOST", "127.0.0.1").env("PORT", port.to_string());
    command.env("JWT_SECRET", "0123456789abcdef0123456789abcdef").env("METRICS_ADDR", "off").env("LOG_LEVEL", "error");
    command
}

fn run(database: &TestDatabase, port: u16, arguments: &[&str]) -> String {
    let output = supersync(database, port, arguments).output().expect("the program runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

async fn the_command_line_reaches_a_running_server(on: Backend) {
    let database = TestDatabase::create(on).await;
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let printed = run(&database, port, &["user", "add", "me@example.org"]);
    let token = printed.lines().skip_while(|line| !line.starts_with("Access token")).nth(1).expect("a token").trim();
    let mut server = supersync(&database, port, &[]).stdout(Stdio::piped()).spawn().expect("it starts");
    let lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with('╰')), "it is ready");
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let base = format!("http://127.0.0.1:{port}");
    let account = Account { id: 1, email: "me@example.org".to_owned(), token: token.to_owned(), base, http };
    let mut socket = account.socket("A").await;
    let asked = std::time::Instant::now();
    run(&database, port, &["user", "revoke", "me@example.org"]);
    let command_took = asked.elapsed();
    assert_eq!(socket.ended().await, Ended::Code(4003));
    let took = asked.elapsed().saturating_sub(command_took);
    refused(&status(&account).await, REVOKED);
    // A poll every half second; the rest is for a busy machine.
    assert!(took < Duration::from_secs(5), "{took:?}");
    send_signal(server.id(), rustix::process::Signal::TERM);
    assert!(server.wait().expect("it ends").success());
}
