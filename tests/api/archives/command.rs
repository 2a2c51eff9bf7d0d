//! The operator's commands, beside a running server.

use std::sync::Arc;

use supersync::admin::data::{self, DataCommand};
use supersync::admin::{Exit, Failure};

use super::{archives, contents_since, essence, id_of};
use crate::harness::{Backend, Server, import, op, snapshot};

on_both_databases! {
    the_operator_lists_and_brings_back_beside_the_server,
}

async fn run(server: &Server, command: DataCommand) -> Result<String, Failure> {
    let mut output = Vec::new();
    let store = Arc::clone(&server.store);
    data::run(command, store, server.config(), server.clock.clone(), &mut std::io::empty(), &mut output).await?;
    Ok(String::from_utf8(output).expect("text"))
}

async fn the_operator_lists_and_brings_back_beside_the_server(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    let before = contents_since(&account, 0).await;
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let mut socket = account.socket("A").await;
    let email = account.email.clone();
    let listed = run(&server, DataCommand::Archives { email: email.clone(), json: false }).await.expect("a list");
    let id = id_of(&archives(&account).await[0]);
    assert!(listed.lines().nth(1).is_some_and(|line| line.starts_with(&id) && line.ends_with("  yes")), "{listed}");

    let listed = run(&server, DataCommand::Archives { email: email.clone(), json: true }).await.expect("a list");
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((&listed[0]["id"], &listed[0]["restorable"]), (&id.clone().into(), &true.into()), "{listed}");

    let back = |email: &str, id: &str| DataCommand::BringBack { email: email.to_owned(), id: id.to_owned() };
    let nobody = ("nobody@example.org", &*id, "there is no account nobody@example.org");
    let nothing = ["", "x", "9-9"].map(|wrong| (&*email, wrong, "the account has no archived data set"));
    for (email, id, reason) in nothing.into_iter().chain([nobody]) {
        let failure = run(&server, back(email, id)).await.expect_err("there is none");
        assert!(failure.exit == Exit::NotFound && failure.to_string().starts_with(reason), "{failure}");
    }
    let said = run(&server, back(&email, &id)).await.expect("it comes back");
    assert!(said.starts_with("2 operations"), "{said}");
    // The server hears of it, and tells its devices.
    assert!(server.follow().await > 0);
    let notice = socket.message().await;
    assert_eq!(notice["latestSeq"], server.state(&account).await.last_seq);
    assert_eq!(essence(&contents_since(&account, 0).await), essence(&before));
    assert!(account.upload("A", &[op("A")]).await.outcomes()[0].starts_with('#'));
}
