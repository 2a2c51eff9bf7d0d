//! The pages in a real browser: registering, signing in, getting back in, leaving; and what they look like.
//!
//! Pictures of every page are written to `target/screenshots` for a person to look at.

#![allow(clippy::unwrap_used, reason = "a test that can't set its stage has failed")]

mod data;
mod driver;
mod links;
mod looks;
mod passkey;
mod password;
mod sessions;
mod site;

use driver::Browser;
use site::Site;

const PASSWORD: &str = "correct horse battery staple";

/// Registers with a password, opens the link of the mail and signs in.
async fn signed_in(browser: &Browser, site: &Site, email: &str) {
    register(browser, email).await;
    let link = site.link(email, 1).await;
    browser.go(&link).await;
    browser.click("main button").await;
    browser.until("document.title === 'Email Verified'").await;
    sign_in(browser, email, PASSWORD).await;
    browser.until("document.getElementById('token').value.length > 100").await;
}

async fn register(browser: &Browser, email: &str) {
    browser.go("/").await;
    browser.click("#registerTab").await;
    browser.fill("#registerEmail", email).await;
    browser.fill("#registerPassword", PASSWORD).await;
    browser.fill("#registerRepeat", PASSWORD).await;
    browser.click("#registerBtn").await;
    browser.until_text("#gateMessage", "open the link").await;
}

async fn sign_in(browser: &Browser, email: &str, password: &str) {
    browser.go("/").await;
    browser.fill("#loginEmail", email).await;
    browser.fill("#loginPassword", password).await;
    browser.click("#loginBtn").await;
}

/// Nothing in the page keeps anybody from using it.
async fn assert_usable(browser: &Browser, what: &str) {
    let found = browser.eval(include_str!("audit.js").trim()).await;
    let complaints: Vec<&str> = found.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert!(complaints.is_empty(), "{what}: {complaints:#?}");
}
