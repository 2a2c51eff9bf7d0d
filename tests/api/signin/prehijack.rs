//! Somebody registers another's address, and the owner presses the button in the mail: nothing of what the stranger gave
//! opens the account.

use serde_json::{Value, json};
use supersync::accounts::{MAX_LINKS_PER_DAY, MAX_RESENDS_PER_DAY, SPARSE_LINK_GAP_MS};

use crate::harness::Backend;
use crate::signin::authenticator::Key;
use crate::signin::world::{Answer, OTHER_PASSWORD, PASSWORD, World, world};

on_both_databases! {
    what_a_stranger_registered_does_not_open_the_account,
    the_owner_may_choose_a_password_with_the_link,
    what_the_owner_registered_counts_in_the_owner_s_browser,
    a_registration_s_cookie_is_for_its_own_link,
    strangers_can_t_bar_an_address,
    the_mail_says_when_and_from_where,
    every_address_gets_a_cookie,
}

/// The link alone, as in a browser that has registered nothing; or with a cookie.
async fn verify(world: &World, cookie: Option<&str>, body: Value) -> Answer {
    world.send_from(None, cookie, "POST", "/api/verify-email", None, Some(&body)).await
}

async fn register_from(world: &World, address: &str, email: &str) {
    let body = json!({"email": email, "password": PASSWORD});
    world.send_from(Some(address), None, "POST", "/api/register", None, Some(&body)).await.created();
}

async fn what_a_stranger_registered_does_not_open_the_account(on: Backend) {
    let world = world(on).await;
    let needed = json!({"message": "Email verified successfully", "passwordNeeded": true});
    world.post("/api/register", json!({"email": "p@b.co", "password": PASSWORD})).await.created();
    let key = Key::es256();
    world.register_key("k@b.co", &key).await.created();
    for email in ["p@b.co", "k@b.co"] {
        let link = world.link(email, "verify-email").await;
        assert_eq!(verify(&world, None, json!({ "token": link })).await.ok(), needed);
        verify(&world, None, json!({ "token": link })).await.refused(400, "Invalid verification token");
        world.login(email, PASSWORD).await.refused(401, "Invalid credentials");
        world.login_key(email, &key).await.refused(401, "Authentication failed");
        // The owner of the mailbox gets in.
        world.post("/api/login/magic-link", json!({ "email": email })).await.ok();
        let login = world.link(email, "magic-login").await;
        world.post("/api/login/magic-link/verify", json!({ "token": login })).await.ok();
    }
}

async fn the_owner_may_choose_a_password_with_the_link(on: Backend) {
    let world = world(on).await;
    world.post("/api/register", json!({"email": "a@b.co", "password": PASSWORD})).await.created();
    let link = world.link("a@b.co", "verify-email").await;
    let short = verify(&world, None, json!({"token": link, "password": "short"})).await;
    assert_eq!(short.faults(), ["Password must be at least 12 characters long"]);
    let answer = verify(&world, None, json!({"token": link, "password": OTHER_PASSWORD})).await.ok();
    assert_eq!(answer, json!({"message": "Email verified successfully"}));
    world.login("a@b.co", PASSWORD).await.refused(401, "Invalid credentials");
    world.login("a@b.co", OTHER_PASSWORD).await.ok();
}

async fn what_the_owner_registered_counts_in_the_owner_s_browser(on: Backend) {
    let world = world(on).await;
    let verified = json!({"message": "Email verified successfully"});
    world.post("/api/register", json!({"email": "p@b.co", "password": PASSWORD})).await.created();
    let key = Key::es256();
    world.register_key("k@b.co", &key).await.created();
    for email in ["p@b.co", "k@b.co"] {
        let link = world.link(email, "verify-email").await;
        let cookie = world.cookie_of(&link).await;
        assert_eq!(verify(&world, cookie.as_deref(), json!({ "token": link })).await.ok(), verified);
    }
    world.login("p@b.co", PASSWORD).await.ok();
    world.login_key("k@b.co", &key).await.ok();
    // Who registered nothing to sign in with lacks nothing.
    world.post("/api/register/magic-link", json!({"email": "l@b.co"})).await.created();
    let link = world.link("l@b.co", "verify-email").await;
    assert_eq!(verify(&world, None, json!({ "token": link })).await.ok(), verified);
}

async fn a_registration_s_cookie_is_for_its_own_link(on: Backend) {
    let world = world(on).await;
    for password in [OTHER_PASSWORD, PASSWORD] {
        world.post("/api/register", json!({"email": "a@b.co", "password": password})).await.created();
    }
    let links = world.links("a@b.co", "verify-email").await;
    let (theirs, mine) = (world.cookie_of(&links[0]).await.unwrap(), world.cookie_of(&links[1]).await.unwrap());
    assert_ne!(theirs, mine);
    assert_eq!(verify(&world, Some(&theirs), json!({ "token": links[1] })).await.ok()["passwordNeeded"], true);
    world.login("a@b.co", PASSWORD).await.refused(401, "Invalid credentials");
    world.login("a@b.co", OTHER_PASSWORD).await.refused(401, "Invalid credentials");
    // Nor is the plain name good where cookies can have the safe one.
    world.post("/api/register", json!({"email": "b@b.co", "password": PASSWORD})).await.created();
    let link = world.link("b@b.co", "verify-email").await;
    let plain = world.cookie_of(&link).await.unwrap().replace("__Host-", "");
    assert_eq!(verify(&world, Some(&plain), json!({ "token": link })).await.ok()["passwordNeeded"], true);
}

async fn strangers_can_t_bar_an_address(on: Backend) {
    let world = world(on).await;
    let sent = async || world.links("a@b.co", "verify-email").await.len();
    for _ in 0..MAX_RESENDS_PER_DAY + 3 {
        register_from(&world, "203.0.113.9", "a@b.co").await;
    }
    let theirs = usize::try_from(MAX_RESENDS_PER_DAY).unwrap() + 1;
    assert_eq!(sent().await, theirs, "from one network");
    register_from(&world, "203.0.113.200", "a@b.co").await;
    assert_eq!(sent().await, theirs, "the same network");
    register_from(&world, "198.51.100.7", "a@b.co").await;
    assert_eq!(sent().await, theirs + 1, "the owner, at once");
    // From many networks.
    for n in 0..MAX_LINKS_PER_DAY {
        register_from(&world, &format!("10.0.{n}.1"), "a@b.co").await;
    }
    let most = usize::try_from(MAX_LINKS_PER_DAY).unwrap();
    assert_eq!(sent().await, most);
    register_from(&world, "198.51.100.7", "a@b.co").await;
    assert_eq!(sent().await, most);
    // There is one an hour all the same, whoever asks; and any of them is as good for the owner.
    for n in 1..=3 {
        world.clock.advance_ms(SPARSE_LINK_GAP_MS);
        for address in ["203.0.113.9", "198.51.100.7"] {
            register_from(&world, address, "a@b.co").await;
        }
        assert_eq!(sent().await, most + n);
    }
    let newest = world.link("a@b.co", "verify-email").await;
    verify(&world, None, json!({"token": newest, "password": OTHER_PASSWORD})).await.ok();
    world.login("a@b.co", OTHER_PASSWORD).await.ok();
}

async fn the_mail_says_when_and_from_where(on: Backend) {
    let world = world(on).await;
    register_from(&world, "203.0.113.9", "a@b.co").await;
    register_from(&world, "2001:db8:1:2::3", "a@b.co").await;
    world.post("/api/register/magic-link", json!({"email": "a@b.co"})).await.created();
    let mails = world.mailed().await;
    let said = |n: usize, words: &str| assert!(mails[n].1.contains(words), "{}", mails[n].1);
    said(0, " UTC from the network 203.0.113.0/24.\n");
    said(1, " UTC from the network 2001:db8:1::/48.\n");
    said(2, " UTC.\n");
    assert!(!mails[0].1.contains("203.0.113.9"));
    said(0, "The address was registered at 20");
}

async fn every_address_gets_a_cookie(on: Backend) {
    let world = world(on).await;
    world.verified("known@b.co").await;
    for _ in 0..=MAX_RESENDS_PER_DAY + 1 {
        world.post("/api/register", json!({"email": "capped@b.co", "password": PASSWORD})).await.created();
    }
    let before = world.cookies_given();
    for email in ["known@b.co", "capped@b.co", "unknown@b.co"] {
        world.post("/api/register", json!({"email": email, "password": PASSWORD})).await.created();
        world.register_key(email, &Key::es256()).await.created();
    }
    assert_eq!(world.cookies_given() - before, 6);
    world.login("known@b.co", PASSWORD).await.ok();
}
