//! With a password: from nothing to a token, and out again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn registering_with_a_password_leads_to_a_token_that_works() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    register(&browser, "ada@example.org").await;

    // Before the link is opened there is nothing to sign in to.
    sign_in(&browser, "ada@example.org", PASSWORD).await;
    browser.until_text("#gateMessage", "not verified").await;
    browser.assert_quiet(&["401"]).await;

    let link = site.link("ada@example.org", 1).await;
    browser.go(&link).await;
    assert_eq!(browser.text("h1").await, "Verify your email");
    browser.click("main button").await;
    browser.until("document.title === 'Email Verified'").await;
    browser.click("main a.button").await;
    browser.until_visible("#loginForm").await;
    assert_eq!(browser.value("#loginEmail").await, "ada@example.org", "the address need not be typed again");

    sign_in(&browser, "ada@example.org", "not the password").await;
    browser.until_text("#gateMessage", "wrong").await;
    browser.assert_quiet(&["401"]).await;

    sign_in(&browser, "ada@example.org", PASSWORD).await;
    browser.until("document.getElementById('token').value.length > 100").await;
    let token = browser.value("#token").await;
    assert!(site.accounts.authenticate_token(&token, || None).await.is_ok());
    assert_eq!(browser.text("#serverAddress").await, site.url);

    browser.click("#showQr").await;
    browser.until("document.getElementById('qrImage').naturalWidth > 100").await;

    // The tab stays signed in when it is loaded again, and forgets the session when told to.
    browser.go("/").await;
    browser.until_visible("#token").await;
    browser.click("#signOut").await;
    browser.until_visible("#loginForm").await;
    assert!(browser.eval("sessionStorage.getItem('loginToken')").await.is_null());
    browser.assert_quiet(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_say_what_is_wrong_before_anything_is_sent() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    browser.go("/").await;
    browser.click("#registerTab").await;
    browser.fill("#registerEmail", "nobody").await;
    browser.fill("#registerPassword", "short").await;
    browser.fill("#registerRepeat", "shorter").await;
    browser.click("#registerBtn").await;
    for field in ["registerEmail", "registerPassword", "registerRepeat"] {
        browser.until_visible(&format!("#{field}Wrong")).await;
        let described =
            format!("document.getElementById('{field}').getAttribute('aria-describedby').includes('{field}Wrong')");
        assert_eq!(browser.eval(&described).await, true);
    }
    assert_eq!(browser.eval("document.activeElement.id").await, "registerEmail", "the first wrong field has the focus");
    browser.fill("#registerEmail", "ada@example.org").await;
    browser.click("#registerBtn").await;
    browser.until("!document.getElementById('registerEmailWrong')").await;
    browser.assert_quiet(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_the_token_and_deleting_the_account_ask_first() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    signed_in(&browser, &site, "ada@example.org").await;
    let old = browser.value("#token").await;

    browser.click("#replaceToken").await;
    browser.until_visible("#dialog").await;
    browser.click("#dialogCancel").await;
    browser.until("!document.getElementById('dialog').open").await;
    assert!(site.accounts.authenticate_token(&old, || None).await.is_ok(), "cancelling changes nothing");

    browser.click("#replaceToken").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#accountMessage", "new token").await;
    let new = browser.value("#token").await;
    assert!(site.accounts.authenticate_token(&old, || None).await.is_err());
    assert!(site.accounts.authenticate_token(&new, || None).await.is_ok());

    browser.click("#deleteAccount").await;
    browser.until_visible("#dialogInput").await;
    assert_eq!(browser.eval("document.getElementById('dialogConfirm').disabled").await, true);
    browser.fill("#dialogInput", "ada@example.org").await;
    browser.until("!document.getElementById('dialogConfirm').disabled").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#gateMessage", "deleted").await;
    assert!(site.accounts.authenticate_token(&new, || None).await.is_err());
    browser.assert_quiet(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_session_proves_once_more_who_uses_it() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    signed_in(&browser, &site, "ada@example.org").await;
    let token = browser.value("#token").await;
    site.age_sessions();
    browser.click("#deleteAccount").await;
    browser.fill("#dialogInput", "ada@example.org").await;
    browser.until("!document.getElementById('dialogConfirm').disabled").await;
    browser.click("#dialogConfirm").await;
    browser.until_visible("#proof").await;
    looks::look_at(&browser, "proof").await;
    browser.click("#proofCancel").await;
    browser.until("!document.getElementById('proof').open").await;
    browser.until_text("#dialogMessage", "One more proof").await;
    assert!(site.accounts.authenticate_token(&token, || None).await.is_ok(), "cancelling changes nothing");

    browser.click("#dialogConfirm").await;
    browser.until_visible("#proof").await;
    browser.fill("#proofPassword", "not the password").await;
    browser.click("#proofConfirm").await;
    browser.until_text("#proofMessage", "wrong").await;
    browser.fill("#proofPassword", PASSWORD).await;
    browser.click("#proofConfirm").await;
    browser.until_text("#gateMessage", "deleted").await;
    assert!(site.accounts.authenticate_token(&token, || None).await.is_err());
    browser.assert_quiet(&["403"]).await;
}
