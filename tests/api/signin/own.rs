//! What somebody signed in sees and changes of the own account.

use serde_json::json;
use supersync::accounts::{CHANGE_ADDRESS_LIFETIME_MS, LOCK_AFTER_FAILURES, RECENT_MS};

use crate::harness::Backend;
use crate::signin::authenticator::Key;
use crate::signin::world::{OTHER_PASSWORD, PASSWORD, world, world_with};

on_both_databases! {
    the_account_says_what_it_is,
    a_password_is_changed_by_who_knows_it_or_has_just_signed_in,
    wrong_current_passwords_lock,
    an_address_is_changed_by_a_link_to_it,
    an_address_that_is_taken_is_not_told,
    an_address_that_is_taken_meanwhile_stays_whose_it_is,
    an_unverified_account_does_not_hold_an_address,
    the_allow_list_counts_for_new_addresses,
}

const SENT: &str = "If the address can be used, a link to confirm it has been sent there.";

async fn the_account_says_what_it_is(on: Backend) {
    let world = world(on).await;
    let user = world.with_key("a@b.co", &Key::es256()).await;
    let token = world.token(user).await;
    let created_at = world.accounts.find("a@b.co").await.unwrap().created_at;
    let facts = world.get_as(&token, "/api/account").await.ok();
    assert_eq!(
        facts,
        json!({
            "id": user, "email": "a@b.co", "state": "verified", "createdAt": created_at, "isAdmin": false, "hasPassword": false, "passkeys": 1,
            "storage": {
                "usedBytes": 0, "quotaBytes": facts["storage"]["quotaBytes"], "operations": 0,
                "archivedBytes": 0, "archiveLimitBytes": facts["storage"]["quotaBytes"],
            },
            "mail": true, "registration": "open",
        })
    );
    assert!(facts["storage"]["quotaBytes"].as_i64().unwrap() > 0);
    world.send("GET", "/api/account", None, None).await.refused(401, "Missing or invalid Authorization header");
}

async fn a_password_is_changed_by_who_knows_it_or_has_just_signed_in(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let token = world.signed_in("a@b.co").await;
    world.post("/api/forgot-password", json!({"email": "a@b.co"})).await.ok();
    let short = world.post_as(&token, "/api/account/password", json!({"newPassword": "short"})).await;
    assert_eq!(short.faults(), ["Password must be at least 12 characters long"]);
    assert_eq!(short.body["details"][0]["path"], json!(["newPassword"]));
    let change = |body| world.post_as(&token, "/api/account/password", body);
    change(json!({ "newPassword": OTHER_PASSWORD })).await.ok();
    world.login("a@b.co", PASSWORD).await.refused(401, "Invalid credentials");
    let mailed = world.link("a@b.co", "reset-password").await;
    let reset = world.post("/api/reset-password", json!({"token": mailed, "password": PASSWORD})).await;
    reset.refused(400, "Invalid or expired reset token");

    world.clock.advance_ms(RECENT_MS);
    let stale = change(json!({ "newPassword": PASSWORD })).await;
    stale.refused(403, "Please sign in again to do this");
    assert_eq!(stale.body["code"], "REAUTH_REQUIRED");
    let wrong = change(json!({"newPassword": PASSWORD, "currentPassword": PASSWORD})).await;
    wrong.refused(403, "The current password is wrong");
    change(json!({"newPassword": PASSWORD, "currentPassword": OTHER_PASSWORD})).await.ok();
    world.login("a@b.co", PASSWORD).await.ok();
    assert_eq!(world.get_as(&token, "/api/account").await.status, 200, "sessions stay");
}

async fn wrong_current_passwords_lock(on: Backend) {
    let world = world(on).await;
    let token = world.token(world.verified("a@b.co").await).await;
    let guess = || {
        let body = json!({"newPassword": OTHER_PASSWORD, "currentPassword": "a guess"});
        world.post_as(&token, "/api/account/password", body)
    };
    for _ in 0..LOCK_AFTER_FAILURES {
        guess().await.refused(403, "The current password is wrong");
    }
    let locked = "Account temporarily locked due to too many failed login attempts. Please try again later.";
    guess().await.refused(403, locked);
    world.login("a@b.co", PASSWORD).await.refused(401, locked);
}

async fn an_address_is_changed_by_a_link_to_it(on: Backend) {
    let world = world(on).await;
    world.verified("old@b.co").await;
    let token = world.signed_in("old@b.co").await;
    world.post("/api/login/magic-link", json!({"email": "old@b.co"})).await.ok();
    let ask = |email: &str| world.post_as(&token, "/api/account/email", json!({ "email": email }));
    assert_eq!(ask("x").await.faults(), ["Invalid email format"]);
    assert_eq!(ask("New@b.co").await.ok(), json!({ "message": SENT }));
    let link = world.link("new@b.co", "change-email").await;
    assert_eq!(world.accounts.find("old@b.co").await.unwrap().email, "old@b.co", "not yet");
    let confirm = |link: &str| world.post("/api/account/email/verify", json!({ "token": link }));
    confirm(&"0".repeat(64)).await.refused(400, "Invalid or expired link");
    confirm(&link).await.ok();
    confirm(&link).await.refused(400, "Invalid or expired link");
    world.login("old@b.co", PASSWORD).await.refused(401, "Invalid credentials");
    world.login("new@b.co", PASSWORD).await.ok();
    assert_eq!(world.get_as(&token, "/api/account").await.ok()["email"], "new@b.co");
    let old = world.link("old@b.co", "magic-login").await;
    let answer = world.post("/api/login/magic-link/verify", json!({ "token": old })).await;
    answer.refused(401, "Invalid or expired login link");

    world.clock.advance_ms(60_000);
    ask("newer@b.co").await.ok();
    let late = world.link("newer@b.co", "change-email").await;
    world.clock.advance_ms(CHANGE_ADDRESS_LIFETIME_MS);
    confirm(&late).await.refused(400, "Invalid or expired link");
    let stale = ask("newest@b.co").await;
    assert_eq!((stale.status, &stale.body["code"]), (403, &json!("REAUTH_REQUIRED")));
}

async fn an_address_that_is_taken_is_not_told(on: Backend) {
    let world = world(on).await;
    world.verified("me@b.co").await;
    let token = world.signed_in("me@b.co").await;
    world.verified("you@b.co").await;
    let answer = world.post_as(&token, "/api/account/email", json!({"email": "you@b.co"})).await;
    assert_eq!(answer.ok(), json!({ "message": SENT }));
    assert_eq!(world.mails().await, 0);
}

async fn an_address_that_is_taken_meanwhile_stays_whose_it_is(on: Backend) {
    let world = world(on).await;
    world.verified("me@b.co").await;
    let token = world.signed_in("me@b.co").await;
    world.post_as(&token, "/api/account/email", json!({"email": "you@b.co"})).await.ok();
    let link = world.link("you@b.co", "change-email").await;
    let you = world.verified("you@b.co").await;
    let answer = world.post("/api/account/email/verify", json!({ "token": link })).await;
    answer.refused(400, "Invalid or expired link");
    assert_eq!(world.accounts.find("you@b.co").await.unwrap().id, you);
    assert_eq!(world.get_as(&token, "/api/account").await.ok()["email"], "me@b.co");
}

async fn an_unverified_account_does_not_hold_an_address(on: Backend) {
    let world = world(on).await;
    world.verified("me@b.co").await;
    let token = world.signed_in("me@b.co").await;
    world.post("/api/register", json!({"email": "mine@b.co", "password": OTHER_PASSWORD})).await.created();
    world.post_as(&token, "/api/account/email", json!({"email": "mine@b.co"})).await.ok();
    let link = world.link("mine@b.co", "change-email").await;
    world.post("/api/account/email/verify", json!({ "token": link })).await.ok();
    world.login("mine@b.co", PASSWORD).await.ok();
}

async fn the_allow_list_counts_for_new_addresses(on: Backend) {
    let world = world_with(on, true, |config| config.allowed_emails = vec!["*@good.org".into()]).await;
    world.verified("me@b.co").await;
    let token = world.signed_in("me@b.co").await;
    let answer = world.post_as(&token, "/api/account/email", json!({"email": "me@bad.org"})).await;
    answer.refused(403, "This email address is not allowed on this server.");
    for path in ["/api/register/magic-link", "/api/register/passkey/options"] {
        let answer = world.post(path, json!({"email": "me@bad.org"})).await;
        answer.refused(403, "Registration is not allowed for this email address.");
    }
}
