//! Answers on the wire: packed for clients that ask, and marked with their request's id.

use std::io::Read as _;

use flate2::read::GzDecoder;
use reqwest::Method;

use crate::harness::{Backend, Op, Server, op};

on_both_databases! {
    answers_name_their_request_and_are_not_kept_by_caches,
    the_background_poller_of_the_android_app_gets_plain_text_and_browsers_get_the_same_packed,
}

const BROWSER: &str = "Mozilla/5.0 Chrome/140.0.0.0";

fn large(bytes: usize) -> Op {
    op("A").payload(serde_json::json!({ "title": "t".repeat(bytes) }))
}

async fn answers_name_their_request_and_are_not_kept_by_caches(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let headers = [("accept-encoding", "gzip"), ("x-request-id", "r-1")];
    let ask = || account.send(Method::GET, "/api/sync/ops?sinceSeq=0", &headers, Vec::new());
    let small = ask().await.ok();
    assert_eq!(small.header("content-encoding"), None, "not worth it");
    account.upload_one("A", &large(2000)).await.ok();
    let large = ask().await.ok();
    assert_eq!(large.headers["content-encoding"], "gzip");
    assert_eq!(large.headers["vary"], "Origin, Accept-Encoding");
    for reply in [small, large] {
        assert_eq!(reply.headers["x-request-id"], "r-1");
        assert_eq!(reply.headers["cache-control"], "no-store");
    }
}

async fn the_background_poller_of_the_android_app_gets_plain_text_and_browsers_get_the_same_packed(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    // Answers that are packed as a whole, and such as are packed while they are sent.
    for ops in [vec![large(2000)], vec![large(2_000_000), large(2_000_000)]] {
        account.upload("A", &ops).await.ok();
        for path in ["/api/sync/ops?sinceSeq=0&limit=100", "/api/sync/snapshot"] {
            let headers = [("accept-encoding", "gzip"), ("user-agent", "okhttp/4.12.0")];
            let poller = account.send(Method::GET, path, &headers, Vec::new()).await.ok();
            assert_eq!(poller.header("content-encoding"), None, "{path}");
            assert_eq!(poller.headers["vary"], "Origin, Accept-Encoding", "{path}");
            assert!(poller.body.is_object(), "{path}");
            let browser = account.http.get(format!("{}{path}", account.base)).bearer_auth(&account.token);
            let browser = browser.header("accept-encoding", "gzip").header("user-agent", BROWSER).send().await;
            let browser = browser.expect("an answer");
            assert_eq!(browser.headers()["content-encoding"], "gzip", "{path}");
            let (packed, mut text) = (browser.bytes().await.expect("it arrives whole"), String::new());
            GzDecoder::new(&packed[..]).read_to_string(&mut text).expect("gzip");
            assert!(text == poller.text, "{path}");
        }
    }
}
