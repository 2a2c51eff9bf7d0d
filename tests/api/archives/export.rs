//! Everything of an account in one zip file.

use std::io::{Cursor, Read as _};

use serde_json::{Value, json};
use zip::ZipArchive;

use super::contents_since;
use crate::harness::{Account, Backend, Server, ciphertext, import, op, snapshot};

on_both_databases! {
    an_export_holds_everything,
    what_is_encrypted_is_exported_as_it_is,
    an_empty_account_has_an_export,
}

struct Export(ZipArchive<Cursor<Vec<u8>>>);

impl Export {
    async fn of(account: &Account) -> Self {
        let request = account.http.get(format!("{}/api/account/export", account.base)).bearer_auth(&account.token);
        let response = request.send().await.expect("the server answers");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/zip");
        assert_eq!(response.headers()["content-disposition"], "attachment; filename=\"supersync-export.zip\"");
        let bytes = response.bytes().await.expect("it arrives whole");
        Self(ZipArchive::new(Cursor::new(bytes.to_vec())).expect("a zip file"))
    }

    fn names(&self) -> Vec<String> {
        self.0.file_names().map(|name| name.expect("a name").into_owned()).collect()
    }

    fn text(&mut self, name: &str) -> String {
        let mut text = String::new();
        self.0.by_name(name).expect("it is there").read_to_string(&mut text).expect("sound text");
        text
    }

    fn json(&mut self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).expect("JSON")
    }

    fn operations(&mut self) -> Vec<Value> {
        let text = self.text("operations.ndjson");
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["op"].clone()).collect()
    }
}

async fn an_export_holds_everything(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    for _ in 0..7 {
        account.upload("A", &(0..100).map(|_| op("A").sized(2_000)).collect::<Vec<_>>()).await.ok();
    }
    server.seal().await;
    account.upload("A", &[op("A").sized(1_200_000)]).await.ok();
    let mut export = Export::of(&account).await;
    let names = export.names();
    assert_eq!(names, ["README.txt", "account.json", "security-log.json", "state.json", "operations.ndjson"]);
    assert!(export.text("README.txt").contains("operations.ndjson"));
    assert_eq!(export.operations(), contents_since(&account, 0).await);
    let state = export.json("state.json");
    let expected = json!({ "task": { "ids": ["a"], "entities": { "a": { "id": "a" } } } });
    assert_eq!((&state["state"], &state["serverSeq"]), (&expected, &json!(2)));
    let facts = export.json("account.json");
    assert_eq!((&facts["id"], &facts["email"]), (&json!(account.id), &json!(account.email)));
    assert_eq!((&facts["latestSeq"], &facts["stateSeq"]), (&json!(703), &json!(2)));
    assert_eq!(facts["storage"]["usedBytes"], account.status().await["storageUsedBytes"]);
    assert_eq!(facts["devices"][0]["clientId"], "A");
    assert_eq!(facts["archives"][0]["operations"], 1);
}

async fn what_is_encrypted_is_exported_as_it_is(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.snapshot(&snapshot("A").encrypted(40)).await.ok();
    let ops = [op("A").encrypted(ciphertext(30)), import("A").encrypted(ciphertext(40))];
    account.upload("A", &ops).await.ok();
    account.snapshot(&snapshot("A").encrypted(50)).await.ok();
    let mut export = Export::of(&account).await;
    assert_eq!(export.names(), ["README.txt", "account.json", "security-log.json", "operations.ndjson"]);
    assert_eq!(export.operations().len(), 4, "also what the newest full state supersedes");
    assert!(export.json("account.json").get("stateSeq").is_none());
}

async fn an_empty_account_has_an_export(on: Backend) {
    let server = Server::start(on).await;
    let mut export = Export::of(&server.account().await).await;
    assert_eq!(export.names(), ["README.txt", "account.json", "security-log.json", "operations.ndjson"]);
    assert_eq!(export.operations(), Vec::<Value>::new());
}
