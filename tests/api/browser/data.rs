//! What is synced: seen, downloaded, wiped, and brought back.

use serde_json::{Value, json};

use super::*;

/// A device that speaks to the server with the page's token.
struct Device {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Device {
    fn new(site: &Site, token: String) -> Self {
        Self { http: reqwest::Client::builder().no_proxy().build().unwrap(), url: site.url.clone(), token }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token).json(&body);
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    /// Uploads a full state and a change after it.
    async fn upload(&self) {
        let state = json!({
            "clientId": "laptop", "reason": "initial", "vectorClock": { "laptop": 1 }, "schemaVersion": 4,
            "state": { "task": { "ids": ["t1"], "entities": { "t1": { "id": "t1", "title": "Water the plants" } } } },
        });
        assert_eq!(self.post("/api/sync/snapshot", state).await["accepted"], true);
        let op = json!({
            "id": "op-2", "clientId": "laptop", "actionType": "[Task] Add Task", "opType": "CRT", "entityType": "TASK",
            "entityId": "t2", "payload": { "task": { "id": "t2", "title": "Read" } }, "vectorClock": { "laptop": 2 },
            "timestamp": 1_760_000_000_000_i64, "schemaVersion": 4,
        });
        let body = json!({ "clientId": "laptop", "lastKnownServerSeq": 1, "requestId": "r1", "ops": [op] });
        let answer = self.post("/api/sync/ops", body).await;
        assert_eq!(answer["results"][0]["accepted"], true, "{answer}");
    }

    /// The titles that a device joining now ends up with.
    async fn titles(&self) -> String {
        let request = self.http.get(format!("{}/api/sync/snapshot", self.url)).bearer_auth(&self.token);
        request.send().await.unwrap().text().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_data_set_comes_back_by_two_clicks() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    signed_in(&browser, &site, "ada@example.org").await;
    let device = Device::new(&site, browser.value("#token").await);
    device.upload().await;
    assert!(device.titles().await.contains("Water the plants"));

    browser.go("/").await;
    browser.until_text("#devices", "laptop").await;
    browser.until_text("#points", "by laptop").await;
    browser.until_text("#operations", "2").await;
    browser.click("#points button").await;
    browser.click("#exportAll").await;
    browser.until("!document.querySelector('[aria-busy=true]')").await;

    browser.click("#resetData").await;
    browser.fill("#dialogInput", "reset").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#accountMessage", "was reset").await;
    assert!(!device.titles().await.contains("Water the plants"));

    browser.until_text("#archives", "Data was reset").await;
    browser.click("#archives button[aria-label^='Download']").await;
    browser.until("!document.querySelector('[aria-busy=true]')").await;
    looks::look_at(&browser, "account-with-data").await;
    browser.click("#archives button[aria-label^='Bring back']").await;
    browser.until_visible("#dialog").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#accountMessage", "Brought back").await;
    let titles = device.titles().await;
    assert!(titles.contains("Water the plants") && titles.contains("Read"), "{titles}");
    browser.assert_quiet(&[]).await;
}
