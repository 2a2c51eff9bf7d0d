//! What the pages look like: usable by everybody, at every width, light and dark, in both languages.

use super::*;

/// Every width and brightness, with a picture and an audit of each.
pub async fn look_at(browser: &Browser, name: &str) {
    for (width, size) in [(1280, "desktop"), (360, "phone")] {
        for (is_dark, scheme) in [(false, "light"), (true, "dark")] {
            browser.look(width, is_dark).await;
            assert_usable(browser, &format!("{name} {size} {scheme}")).await;
            browser.picture(&format!("{name}-{size}-{scheme}")).await;
        }
    }
    browser.look(1280, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_for_visitors() {
    let privacy = [
        ("PRIVACY_CONTACT_NAME", "Ada Lovelace"),
        ("PRIVACY_ADDRESS_STREET", "12 <Square>"),
        ("PRIVACY_ADDRESS_CITY", "London"),
        ("PRIVACY_ADDRESS_COUNTRY", "United Kingdom"),
        ("PRIVACY_CONTACT_EMAIL", "ada@example.org"),
        ("PRIVACY_DATA_REGION", "EU"),
    ];
    let site = Site::start(&privacy).await;
    let browser = Browser::open(&site.url).await;
    browser.go("/").await;
    look_at(&browser, "home").await;
    browser.click("#registerTab").await;
    browser.fill("#registerEmail", "nobody").await;
    browser.click("#registerBtn").await;
    look_at(&browser, "register").await;
    browser.go("/?lang=de").await;
    look_at(&browser, "home-german").await;
    for page in ["verify-email", "magic-login", "recover-passkey", "reset-password", "change-email", "invite"] {
        browser.go(&format!("/{page}?token=abc&lang=en")).await;
        look_at(&browser, page).await;
    }
    browser.go("/privacy.html").await;
    look_at(&browser, "privacy").await;
    assert!(browser.text("address").await.contains("12 <Square>"));
    browser.go("/verify-email").await;
    look_at(&browser, "refused").await;
    browser.assert_quiet(&["400 (Bad Request)"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_page() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    signed_in(&browser, &site, "ada@example.org").await;
    browser.until("!document.querySelector('[aria-busy=true]')").await;
    look_at(&browser, "account").await;
    browser.click("#showQr").await;
    browser.until("document.getElementById('qrImage').naturalWidth > 100").await;
    browser.click("#deleteAccount").await;
    browser.until_visible("#dialog").await;
    look_at(&browser, "dialog").await;
    browser.click("#dialogCancel").await;
    browser.go("/?lang=de").await;
    browser.until("!document.querySelector('[aria-busy=true]')").await;
    look_at(&browser, "account-german").await;
    browser.assert_quiet(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_language_once_chosen_stays_and_the_keyboard_is_enough() {
    let site = Site::start(&[]).await;
    let browser = Browser::open(&site.url).await;
    browser.go("/").await;
    assert_eq!(browser.eval("document.documentElement.lang").await, "en");
    browser.click("a[data-language=de]").await;
    browser.until("document.documentElement.lang === 'de'").await;
    browser.go("/").await;
    browser.until("document.documentElement.lang === 'de' && document.readyState === 'complete'").await;
    browser.go("/reset-password?token=abc").await;
    browser.until("document.documentElement.lang === 'de' && document.body.dataset.token === 'abc'").await;

    // From one tab to the next with the arrow keys.
    browser.go("/?lang=en").await;
    browser.eval("document.getElementById('loginTab').focus()").await;
    let press =
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }))";
    browser.eval(press).await;
    browser.until_visible("#registerPanel").await;
    assert_eq!(browser.eval("document.activeElement.id").await, "registerTab");
    browser.assert_quiet(&[]).await;
}
