//! `kill -9` while a data set is being brought back: afterwards there is the one or the other, whole.

use reqwest::Method;
use serde_json::{Value, json};
use supersync_client::raw::{Body, Encoding};

use super::{bring_back, contents_since, essence, newest_id};
use crate::harness::{Account, Backend, Program, TestDatabase, import, op, snapshot};

on_both_databases! {
    killed_in_the_middle_of_it,
}

const LIVES: usize = 12;
const UPLOADS: usize = 30;

async fn create_account(program: &Program) -> Account {
    let credentials = json!({ "email": "crash@example.org", "password": "a long passphrase" });
    let body = Body::new(credentials.to_string().as_bytes(), Encoding::Plain);
    let answer = program.client().send(Method::POST, "/api/test/create-user", Some(&body)).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let token = answer["token"].as_str().expect("a token").to_owned();
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    Account { id: 1, email: "crash@example.org".to_owned(), token, base: program.base.clone(), http }
}

async fn killed_in_the_middle_of_it(on: Backend) {
    let database = TestDatabase::create(on).await;
    let mut program = Program::start(&database).await;
    let mut account = create_account(&program).await;
    account.upload("A", &[import("A")]).await.ok();
    for _ in 0..UPLOADS {
        account.upload("A", &(0..100).map(|_| op("A")).collect::<Vec<_>>()).await.ok();
    }
    let large = essence(&contents_since(&account, 0).await);
    account.snapshot(&snapshot("B").clean_slate()).await.ok();
    let small = essence(&contents_since(&account, 0).await);
    let mut came_back = 0;
    for life in 0..LIVES {
        let id = newest_id(&account).await;
        let asked = tokio::spawn({
            let account = account.clone();
            // The answer may never come.
            async move {
                let path = format!("{}/api/sync/archives/{id}/restore", account.base);
                let _ = account.http.post(path).bearer_auth(&account.token).send().await;
            }
        });
        // Each life ends twice as many answers later than the one before; the last one does not end before its time.
        for _ in 0..1 << life {
            if asked.is_finished() {
                break;
            }
            account.status().await;
        }
        while life == LIVES - 1 && !asked.is_finished() {
            account.status().await;
        }
        program.kill().await;
        asked.await.expect("no panic");
        program = Program::start(&database).await;
        account.base.clone_from(&program.base);
        let now = essence(&contents_since(&account, 0).await);
        if now == large {
            came_back += 1;
            account.snapshot(&snapshot("B").clean_slate()).await.ok();
        } else {
            assert_eq!(now, small, "neither the one nor the other");
        }
        let last = account.status().await["latestSeq"].as_i64().expect("a number");
        assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), [format!("#{}", last + 1)]);
        account.snapshot(&snapshot("B").clean_slate()).await.ok();
        // What is to be brought back next is the large set again, which is not the newest in the archive any more.
        let archives = super::archives(&account).await;
        let large_one = archives.iter().find(|archive| archive["operations"].as_i64() > Some(100));
        assert!(large_one.is_some(), "it is in the archive again: {archives:?}");
        bring_back(&account, &super::id_of(large_one.expect("it is there"))).await.ok();
        assert_eq!(essence(&contents_since(&account, 0).await), large);
        account.snapshot(&snapshot("B").clean_slate()).await.ok();
    }
    eprintln!("{came_back} of {LIVES} were done before the end");
    assert!(came_back > 0, "the last one was");
    program.kill().await;
}
