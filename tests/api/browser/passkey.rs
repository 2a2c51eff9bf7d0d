//! With passkeys, on an authenticator of the browser's own that always agrees.

use super::*;

async fn register_with_passkey(browser: &Browser, site: &Site, email: &str) {
    browser.go("/").await;
    browser.click("#registerTab").await;
    browser.fill("#registerEmail", email).await;
    browser.click("#passkeyRegisterBtn").await;
    browser.until_text("#gateMessage", "open the link").await;
    browser.go(&site.link(email, 1).await).await;
    browser.click("main button").await;
    browser.until("document.title === 'Email Verified'").await;
}

async fn sign_in_with_passkey(browser: &Browser, email: &str) {
    browser.go("/").await;
    browser.fill("#loginEmail", email).await;
    browser.click("#passkeyLoginBtn").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_registers_signs_in_is_named_and_gets_a_second_one() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    let first = browser.add_authenticator().await;
    register_with_passkey(&browser, &site, "ada@example.org").await;
    sign_in_with_passkey(&browser, "ada@example.org").await;
    browser.until("document.getElementById('token').value.length > 100").await;
    browser.until("document.querySelectorAll('#passkeys > li').length === 1").await;

    browser.click("#passkeys button[aria-label^='Rename']").await;
    browser.fill("#dialogInput", "Laptop").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#passkeys", "Laptop").await;

    // Another device.
    browser.remove_authenticator(&first).await;
    browser.add_authenticator().await;
    browser.click("#addPasskey").await;
    browser.fill("#dialogInput", "Phone").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#passkeys", "Phone").await;
    looks::look_at(&browser, "account-passkeys").await;
    // Later: the other key proves who it is.
    site.age_sessions();
    browser.click("#passkeys button[aria-label='Remove: Laptop']").await;
    browser.click("#dialogConfirm").await;
    browser.until_visible("#proof").await;
    browser.click("#proofPasskey").await;
    browser.until("document.querySelectorAll('#passkeys > li').length === 1").await;

    browser.click("#signOut").await;
    sign_in_with_passkey(&browser, "ada@example.org").await;
    browser.until("document.getElementById('token').value.length > 100").await;
    browser.assert_quiet(&["403"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_key_gets_back_in_by_a_mailed_link() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    let lost = browser.add_authenticator().await;
    register_with_passkey(&browser, &site, "ada@example.org").await;
    browser.remove_authenticator(&lost).await;
    browser.add_authenticator().await;

    browser.go("/").await;
    browser.fill("#loginEmail", "ada@example.org").await;
    browser.click("#lostBtn").await;
    assert_eq!(browser.value("#dialogInput").await, "ada@example.org");
    browser.click("#dialogConfirm").await;
    browser.until_text("#gateMessage", "on its way").await;
    let link = site.link("ada@example.org", 2).await;
    browser.go(&link).await;
    browser.click("#recoverBtn").await;
    browser.until_text("#success", "replaced").await;

    sign_in_with_passkey(&browser, "ada@example.org").await;
    browser.until("document.getElementById('token').value.length > 100").await;
    browser.assert_quiet(&[]).await;

    // The link is used up.
    browser.go(&link).await;
    browser.click("#recoverBtn").await;
    browser.until_text("#error", "invalid or has expired").await;
    browser.assert_quiet(&["400"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_no_to_the_browser_is_told_that_nothing_happened() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    // Without any authenticator the browser would wait for one, so the person says no.
    browser.go("/").await;
    let no = "navigator.credentials.get = () => Promise.reject(new DOMException('no', 'NotAllowedError'))";
    browser.eval(&format!("void ({no})")).await;
    browser.fill("#loginEmail", "ada@example.org").await;
    browser.click("#passkeyLoginBtn").await;
    browser.until_text("#gateMessage", "Cancelled").await;
    browser.assert_quiet(&[]).await;
}
