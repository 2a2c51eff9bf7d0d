//! By mailed links: signing in, a forgotten password, a new address, an invitation.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_a_password_signs_in_by_link() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    browser.go("/").await;
    browser.click("#registerTab").await;
    browser.fill("#registerEmail", "ada@example.org").await;
    browser.click("#linkRegisterBtn").await;
    browser.until_text("#gateMessage", "open the link").await;
    browser.go(&site.link("ada@example.org", 1).await).await;
    browser.click("main button").await;
    browser.until("document.title === 'Email Verified'").await;

    browser.go("/").await;
    browser.fill("#loginEmail", "ada@example.org").await;
    browser.click("#magicLinkBtn").await;
    browser.until_text("#gateMessage", "on its way").await;
    let link = site.link("ada@example.org", 2).await;
    // A scanner opens it first.
    for _ in 0..2 {
        browser.go(&link).await;
    }
    browser.click("#login-btn").await;
    browser.until("document.getElementById('token')?.value.length > 100").await;
    browser.assert_quiet(&[]).await;

    // Having none, a password can be set.
    browser.until_text("#passwordSummary", "Set a password").await;
    browser.click("#passwordSummary").await;
    browser.fill("#newPassword", PASSWORD).await;
    browser.fill("#newRepeat", PASSWORD).await;
    browser.click("#passwordForm button").await;
    browser.until_text("#passwordForm .message", "changed").await;
    browser.click("#signOut").await;
    sign_in(&browser, "ada@example.org", PASSWORD).await;
    browser.until("document.getElementById('token').value.length > 100").await;

    browser.go(&link).await;
    browser.click("#login-btn").await;
    browser.until_text("#error", "invalid or has expired").await;
    browser.assert_quiet(&["401"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_and_a_new_address() {
    const NEW: &str = "an entirely different phrase";
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    signed_in(&browser, &site, "ada@example.org").await;
    browser.click("#signOut").await;
    browser.click("#forgotBtn").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#gateMessage", "on its way").await;
    browser.go(&site.link("ada@example.org", 2).await).await;
    browser.fill("#password", NEW).await;
    browser.fill("#confirmPassword", "something else").await;
    browser.click("#submitBtn").await;
    browser.until_visible("#confirmPasswordWrong").await;
    browser.fill("#confirmPassword", NEW).await;
    browser.click("#submitBtn").await;
    browser.until_text("#success", "sign in").await;
    sign_in(&browser, "ada@example.org", NEW).await;
    browser.until("document.getElementById('token').value.length > 100").await;

    browser.until_visible("#emailForm, details:has(#emailForm) summary").await;
    browser.click("details:has(#emailForm) summary").await;
    browser.fill("#newEmail", "lovelace@example.org").await;
    browser.click("#emailForm button").await;
    browser.until_text("#emailForm .message", "new address").await;
    browser.go(&site.link("lovelace@example.org", 1).await).await;
    browser.click("#change-btn").await;
    browser.until_text("#success", "changed").await;
    // The session stays, and the new address signs in.
    browser.go("/").await;
    browser.until_text("#whoami", "lovelace@example.org").await;
    browser.click("#signOut").await;
    sign_in(&browser, "lovelace@example.org", NEW).await;
    browser.until_text("#whoami", "lovelace@example.org").await;
    browser.assert_quiet(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_mail_is_claimed_by_its_first_user_and_takes_guests() {
    use secrecy::ExposeSecret as _;
    let site = Site::start(&[("MAIL_TRANSPORT", "off"), ("REGISTRATION", "invite")]).await;
    let browser = Browser::open(&site.url).await;
    browser.go("/").await;
    browser.click("#registerTab").await;
    assert!(browser.text("#registerPanel").await.contains("you need an invitation"));

    let claim = site.accounts.claim_link().await.unwrap().unwrap();
    browser.go(claim.expose_secret()).await;
    browser.fill("#registerEmail", "root@example.org").await;
    browser.fill("#registerPassword", PASSWORD).await;
    browser.fill("#registerRepeat", PASSWORD).await;
    browser.click("#registerBtn").await;
    browser.until_text("#gateMessage", "ready").await;
    sign_in(&browser, "root@example.org", PASSWORD).await;
    browser.click("#adminLink").await;

    browser.until_text("#users", "root@example.org").await;
    browser.until_text("#facts", "sqlite").await;
    browser.until("document.querySelectorAll('#checks > li.fine').length > 4").await;
    looks::look_at(&browser, "admin").await;
    browser.click("#invite").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#dialogText", "/invite?token=").await;
    let text = browser.text("#dialogText").await;
    let link = text[text.find(&site.url).unwrap()..].split_whitespace().next().unwrap().to_owned();
    browser.click("#dialogCancel").await;
    browser.until_text("#invites", "For anybody").await;

    let guest = Browser::open(&site.url).await;
    guest.go(&link).await;
    guest.fill("#registerEmail", "guest@example.org").await;
    guest.fill("#registerPassword", PASSWORD).await;
    guest.fill("#registerRepeat", PASSWORD).await;
    guest.click("#registerBtn").await;
    guest.until_text("#gateMessage", "ready").await;
    sign_in(&guest, "guest@example.org", PASSWORD).await;
    guest.until("document.getElementById('token').value.length > 100").await;
    // Somebody who is no administrator sees none of it.
    guest.go("/admin").await;
    guest.until_text("#adminMessage", "administrators").await;
    guest.assert_quiet(&["403"]).await;

    browser.fill("#query", "guest").await;
    browser.click("#search button").await;
    browser.until("document.querySelectorAll('#users tr').length === 1").await;
    browser.click("#users button[aria-label='Lock: guest@example.org']").await;
    browser.click("#dialogConfirm").await;
    browser.until_text("#users", "locked").await;
    guest.go("/").await;
    guest.until_visible("#loginForm").await;
    browser.assert_quiet(&[]).await;
}
