//! Sessions: seen, named, and ended where they are used.

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// Signs in as another program would.
async fn sign_in_elsewhere(site: &Site, email: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{}/api/login", site.url)).json(&json!({ "email": email, "password": PASSWORD }));
    let answer: Value = request.header("User-Agent", "SuperPhone/1.0").send().await.unwrap().json().await.unwrap();
    answer["token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_loses_its_socket_at_once() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    signed_in(&browser, &site, "ada@example.org").await;
    let phone = sign_in_elsewhere(&site, "ada@example.org").await;
    let address = format!("{}/api/sync/ws?token={phone}&clientId=phone", site.url.replacen("http", "ws", 1));
    let (mut socket, _) = connect_async(address).await.unwrap();

    browser.go("/").await;
    browser.until("document.querySelectorAll('#sessions > li').length === 2").await;
    assert!(browser.text("#sessions").await.contains("this one"));
    // The other one is the one without the mark.
    let other = "[...document.querySelectorAll('#sessions > li')].find((row) => !row.querySelector('.tag'))";
    browser.eval(&format!("{other}.querySelector('button').click()")).await;
    browser.fill("#dialogInput", "Telephone <b>").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#sessions", "Telephone <b>").await;

    browser.click("#sessions button[aria-label='Revoke: Telephone <b>']").await;
    browser.until_visible("#dialog").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#accountMessage", "is signed out").await;
    let closed = loop {
        if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
            break frame.unwrap();
        }
    };
    assert_eq!(u16::from(closed.code), 4003);
    assert!(site.accounts.authenticate_token(&phone, || None).await.is_err());
    browser.until("document.querySelectorAll('#sessions > li').length === 1").await;
    browser.assert_quiet(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_session_was_revoked_elsewhere_goes_back_to_the_start() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    signed_in(&browser, &site, "ada@example.org").await;
    // Otherwise this page would notice, instead of the next one.
    browser.until("document.getElementById('whoami').textContent && !document.querySelector('[aria-busy=true]')").await;
    let token = browser.value("#token").await;
    let user = site.accounts.authenticate_token(&token, || None).await.unwrap();
    site.accounts.revoke(user.user_id).await.unwrap();
    browser.go("/").await;
    browser.until_text("#gateMessage", "signed out").await;
    browser.until_visible("#loginForm").await;
    assert!(browser.eval("sessionStorage.getItem('loginToken')").await.is_null());
    browser.assert_quiet(&["401", "404"]).await;
}
