//! Registering, signing in and setting a password by mailed links.

use serde_json::{Value, json};
use supersync::accounts::{
    LINK_GAP_MS, LOCK_AFTER_FAILURES, MAGIC_LOGIN_LIFETIME_MS, MAX_LINKS, RESET_PASSWORD_LIFETIME_MS,
};

use crate::harness::Backend;
use crate::signin::world::{OTHER_PASSWORD, PASSWORD, works, world, world_with};

on_both_databases! {
    bodies_are_judged_as_the_contract_says,
    an_account_without_a_password_is_made_and_signed_in_to_by_links,
    a_magic_registration_leaves_nothing_alive_that_somebody_else_gave,
    a_login_link_works_once_and_not_too_late,
    a_login_link_ends_a_lock,
    further_links_come_after_a_minute_and_up_to_five,
    links_of_a_clock_that_was_ahead_are_void_and_keep_nobody_out,
    of_two_uses_at_once_one_signs_in,
    a_link_is_for_its_purpose_only,
    a_locked_account_gets_no_link_and_its_links_are_void,
    a_reset_sets_the_password_and_voids_sessions_and_links,
    a_reset_link_works_once_and_not_too_late,
    of_two_resets_at_once_one_sets_its_password,
    an_account_without_a_password_can_get_one,
    a_verified_account_is_not_touched_by_registrations,
    a_registration_that_is_verified_meanwhile_changes_nothing,
    without_mail_the_flows_are_refused,
    accounts_that_were_never_verified_go_after_a_month,
    consent_is_wanted_where_there_is_something_to_consent_to,
}

const MONTH_MS: i64 = 30 * 24 * 60 * 60 * 1000;
const M: &str = "Registration successful. Please check your email to verify your account.";
const SENT: &str = "If an account with that email exists, a login link has been sent.";
const RESET_SENT: &str = "If an account with that email exists, a password reset link has been sent.";
const BAD_LOGIN_LINK: &str = "Invalid or expired login link";
const BAD_RESET_LINK: &str = "Invalid or expired reset token";

async fn bodies_are_judged_as_the_contract_says(on: Backend) {
    let world = world(on).await;
    for path in ["/api/register/magic-link", "/api/login/magic-link", "/api/forgot-password", "/api/recover/passkey"] {
        let missing = world.post(path, json!({})).await;
        assert_eq!(missing.faults(), ["Invalid input: expected string, received undefined"], "{path}");
        assert_eq!(world.post(path, json!({"email": "a@localhost"})).await.faults(), ["Invalid email format"]);
        let no_object = world.post(path, json!([])).await;
        assert_eq!(no_object.faults(), ["Invalid input: expected object, received array"], "{path}");
    }
    for path in ["/api/login/magic-link/verify", "/api/account/email/verify", "/api/recover/passkey/options"] {
        assert_eq!(world.post(path, json!({"token": ""})).await.faults(), ["Token is required"], "{path}");
        let number = world.post(path, json!({"token": 5})).await;
        assert_eq!(number.faults(), ["Invalid input: expected string, received number"], "{path}");
    }
    let both = world.post("/api/reset-password", json!({"token": "", "password": "short"})).await;
    assert_eq!(both.faults(), ["Token is required", "Password must be at least 12 characters long"]);
    let terms = world.post("/api/register/magic-link", json!({"email": "a@b.co", "termsAccepted": "yes"})).await;
    assert_eq!(terms.faults(), ["Invalid input: expected boolean, received string"]);
    assert_eq!(world.mails().await, 0);
}

async fn an_account_without_a_password_is_made_and_signed_in_to_by_links(on: Backend) {
    let world = world(on).await;
    let answer = world.post("/api/register/magic-link", json!({"email": "New@b.co", "termsAccepted": true})).await;
    assert_eq!(answer.created(), json!({ "message": M }));
    let ask = || world.post("/api/login/magic-link", json!({"email": "new@B.co"}));
    assert_eq!(ask().await.ok(), json!({ "message": SENT }));
    assert_eq!(world.links("new@b.co", "magic-login").await.len(), 0, "not verified yet");
    let token = world.link("new@b.co", "verify-email").await;
    world.post("/api/verify-email", json!({"token": token})).await.ok();
    world.post("/api/verify-email", json!({"token": token})).await.refused(400, "Invalid verification token");

    assert_eq!(ask().await.ok(), json!({ "message": SENT }));
    let token = world.link("new@b.co", "magic-login").await;
    let session = world.post("/api/login/magic-link/verify", json!({"token": token})).await.ok();
    let id = world.accounts.find("new@b.co").await.unwrap().id;
    assert_eq!(session["user"], json!({"id": id, "email": "new@b.co"}));
    assert!(works(&world, &session).await);
    let sessions = world.get_as(session["token"].as_str().unwrap(), "/api/sessions").await.ok();
    assert_eq!(sessions["sessions"][0]["method"], "magic_link");
    world.login("new@b.co", PASSWORD).await.refused(401, "Invalid credentials");
}

async fn a_magic_registration_leaves_nothing_alive_that_somebody_else_gave(on: Backend) {
    let world = world(on).await;
    let key = crate::signin::authenticator::Key::es256();
    world.post("/api/register", json!({"email": "o@b.co", "password": PASSWORD})).await.created();
    world.register_key("o@b.co", &key).await.created();
    world.post("/api/register/magic-link", json!({"email": "o@b.co"})).await.created();
    let links = world.links("o@b.co", "verify-email").await;
    assert_eq!(links.len(), 3);
    world.post("/api/verify-email", json!({"token": links[2]})).await.ok();
    for link in &links {
        world.post("/api/verify-email", json!({"token": link})).await.refused(400, "Invalid verification token");
    }
    world.login("o@b.co", PASSWORD).await.refused(401, "Invalid credentials");
    world.login_key("o@b.co", &key).await.refused(401, "Authentication failed");
}

async fn a_login_link_works_once_and_not_too_late(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let made_up = world.post("/api/login/magic-link/verify", json!({"token": "0".repeat(64)})).await;
    made_up.refused(401, BAD_LOGIN_LINK);
    world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok();
    let token = world.link("a@b.co", "magic-login").await;
    world.post("/api/login/magic-link/verify", json!({"token": token})).await.ok();
    world.post("/api/login/magic-link/verify", json!({"token": token})).await.refused(401, BAD_LOGIN_LINK);

    world.clock.advance_ms(LINK_GAP_MS);
    world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok();
    let late = world.link("a@b.co", "magic-login").await;
    assert_ne!(late, token);
    world.clock.advance_ms(MAGIC_LOGIN_LIFETIME_MS);
    world.post("/api/login/magic-link/verify", json!({"token": late})).await.refused(401, BAD_LOGIN_LINK);
}

async fn a_login_link_ends_a_lock(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    for _ in 0..LOCK_AFTER_FAILURES {
        world.login("a@b.co", "wrong").await.refused(401, "Invalid credentials");
    }
    assert_eq!(world.login("a@b.co", PASSWORD).await.status, 401);
    world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok();
    let token = world.link("a@b.co", "magic-login").await;
    world.post("/api/login/magic-link/verify", json!({"token": token})).await.ok();
    world.login("a@b.co", PASSWORD).await.ok();
}

async fn further_links_come_after_a_minute_and_up_to_five(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let ask = || world.post("/api/login/magic-link", json!({"email": "a@b.co"}));
    let sent = async || world.links("a@b.co", "magic-login").await;
    ask().await.ok();
    ask().await.ok();
    assert_eq!(sent().await.len(), 1);
    for _ in 0..10 {
        world.clock.advance_ms(LINK_GAP_MS);
        assert_eq!(ask().await.ok(), json!({ "message": SENT }));
    }
    let links = sent().await;
    assert_eq!(i64::try_from(links.len()).unwrap(), MAX_LINKS);
    // Each works until it is used; the first one is as good as the last.
    for link in &links {
        world.post("/api/login/magic-link/verify", json!({"token": link})).await.ok();
    }
    ask().await.ok();
    assert_eq!(sent().await.len(), links.len() + 1, "used ones don't count");
}

async fn links_of_a_clock_that_was_ahead_are_void_and_keep_nobody_out(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let ask = || world.post("/api/login/magic-link", json!({"email": "a@b.co"}));
    let sent = async || world.links("a@b.co", "magic-login").await;
    ask().await.ok();
    world.clock.set_by_ms(12 * MONTH_MS);
    for _ in 0..10 {
        world.clock.advance_ms(LINK_GAP_MS);
        ask().await.ok();
    }
    let early = sent().await;
    world.clock.set_by_ms(-12 * MONTH_MS);
    ask().await.ok();
    let links = sent().await;
    assert_eq!(links.len(), early.len() + 1);
    let login = async |link: &String| world.post("/api/login/magic-link/verify", json!({"token": link})).await;
    login(early.last().unwrap()).await.refused(401, BAD_LOGIN_LINK);
    login(&links[0]).await.ok();
    login(links.last().unwrap()).await.ok();
}

async fn of_two_uses_at_once_one_signs_in(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok();
    let token = world.link("a@b.co", "magic-login").await;
    let once = || world.post("/api/login/magic-link/verify", json!({"token": token}));
    let answers: [_; 3] = tokio::join!(once(), once(), once()).into();
    let mut statuses = answers.map(|answer| answer.status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401, 401]);
}

async fn a_link_is_for_its_purpose_only(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok();
    world.post("/api/forgot-password", json!({"email": "a@b.co"})).await.ok();
    let (login, reset) = (world.link("a@b.co", "magic-login").await, world.link("a@b.co", "reset-password").await);
    world.post("/api/login/magic-link/verify", json!({"token": reset})).await.refused(401, BAD_LOGIN_LINK);
    let body = json!({"token": login, "password": OTHER_PASSWORD});
    world.post("/api/reset-password", body).await.refused(400, BAD_RESET_LINK);
    world.post("/api/verify-email", json!({"token": login})).await.refused(400, "Invalid verification token");
    let recovery = world.post("/api/recover/passkey/options", json!({"token": reset})).await;
    recovery.refused(400, "Invalid or expired recovery token");
    world.post("/api/account/email/verify", json!({"token": reset})).await.refused(400, "Invalid or expired link");
    world.post("/api/login/magic-link/verify", json!({"token": login})).await.ok();
}

async fn a_locked_account_gets_no_link_and_its_links_are_void(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok();
    let token = world.link("a@b.co", "magic-login").await;
    world.accounts.set_locked(user, true).await.unwrap();
    world.post("/api/login/magic-link/verify", json!({"token": token})).await.refused(401, BAD_LOGIN_LINK);
    world.clock.advance_ms(LINK_GAP_MS);
    assert_eq!(world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok(), json!({"message": SENT}));
    assert_eq!(world.mails().await, 1);
}

async fn a_reset_sets_the_password_and_voids_sessions_and_links(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let token = world.token(user).await;
    for _ in 0..LOCK_AFTER_FAILURES {
        world.login("a@b.co", "wrong").await.refused(401, "Invalid credentials");
    }
    world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok();
    let answer = world.post("/api/forgot-password", json!({"email": "A@b.co"})).await;
    assert_eq!(answer.ok(), json!({ "message": RESET_SENT }));
    let reset = world.link("a@b.co", "reset-password").await;
    assert_eq!(world.get_as(&token, "/api/account").await.status, 200);
    let done = world.post("/api/reset-password", json!({"token": reset, "password": OTHER_PASSWORD})).await.ok();
    assert_eq!(done, json!({"message": "Password has been reset successfully. Please log in with your new password."}));
    let revoked = "Token was revoked. Please log in again to get a new token.";
    world.get_as(&token, "/api/account").await.refused(401, revoked);
    world.login("a@b.co", PASSWORD).await.refused(401, "Invalid credentials");
    assert!(works(&world, &world.login("a@b.co", OTHER_PASSWORD).await.ok()).await);
    let login = world.link("a@b.co", "magic-login").await;
    world.post("/api/login/magic-link/verify", json!({"token": login})).await.refused(401, BAD_LOGIN_LINK);
}

async fn a_reset_link_works_once_and_not_too_late(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let reset = |token: String| world.post("/api/reset-password", json!({"token": token, "password": OTHER_PASSWORD}));
    reset("0".repeat(64)).await.refused(400, BAD_RESET_LINK);
    world.post("/api/forgot-password", json!({"email": "a@b.co"})).await.ok();
    let token = world.link("a@b.co", "reset-password").await;
    reset(token.clone()).await.ok();
    reset(token).await.refused(400, BAD_RESET_LINK);
    world.clock.advance_ms(LINK_GAP_MS);
    world.post("/api/forgot-password", json!({"email": "a@b.co"})).await.ok();
    let late = world.link("a@b.co", "reset-password").await;
    world.clock.advance_ms(RESET_PASSWORD_LIFETIME_MS);
    let hashes = world.accounts.password_hashes_computed();
    reset(late).await.refused(400, BAD_RESET_LINK);
    assert_eq!(world.accounts.password_hashes_computed(), hashes, "a link that is no good costs no hash");
}

async fn of_two_resets_at_once_one_sets_its_password(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    world.post("/api/forgot-password", json!({"email": "a@b.co"})).await.ok();
    let token = world.link("a@b.co", "reset-password").await;
    let reset = |password: &'static str| {
        let body = json!({"token": token, "password": password});
        world.post("/api/reset-password", body)
    };
    let (one, two) = tokio::join!(reset(OTHER_PASSWORD), reset("a third good password"));
    assert_eq!(one.status + two.status, 600, "{one:?} {two:?}");
    let alive = if one.status == 200 { OTHER_PASSWORD } else { "a third good password" };
    world.login("a@b.co", alive).await.ok();
}

async fn an_account_without_a_password_can_get_one(on: Backend) {
    let world = world(on).await;
    let key = crate::signin::authenticator::Key::es256();
    world.with_key("a@b.co", &key).await;
    world.post("/api/forgot-password", json!({"email": "a@b.co"})).await.ok();
    let token = world.link("a@b.co", "reset-password").await;
    world.post("/api/reset-password", json!({"token": token, "password": PASSWORD})).await.ok();
    world.login("a@b.co", PASSWORD).await.ok();
    world.login_key("a@b.co", &key).await.ok();
}

async fn a_verified_account_is_not_touched_by_registrations(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let key = crate::signin::authenticator::Key::es256();
    assert_eq!(
        world.post("/api/register/magic-link", json!({"email": "a@b.co"})).await.created(),
        json!({"message": M})
    );
    assert_eq!(world.register_key("a@b.co", &key).await.created(), json!({"message": M}));
    assert_eq!(world.mails().await, 0);
    world.login_key("a@b.co", &key).await.refused(401, "Authentication failed");
    world.login("a@b.co", PASSWORD).await.ok();
}

async fn a_registration_that_is_verified_meanwhile_changes_nothing(on: Backend) {
    let world = world(on).await;
    for round in 0..5 {
        let email = format!("r{round}@b.co");
        world.post("/api/register", json!({"email": email, "password": PASSWORD})).await.created();
        let token = world.link(&email, "verify-email").await;
        let (again, verified) = tokio::join!(
            world.post("/api/register", json!({"email": email, "password": OTHER_PASSWORD})),
            world.post("/api/verify-email", json!({"token": token})),
        );
        again.created();
        verified.ok();
        world.login(&email, PASSWORD).await.ok();
        world.login(&email, OTHER_PASSWORD).await.refused(401, "Invalid credentials");
    }
}

async fn without_mail_the_flows_are_refused(on: Backend) {
    let world = world_with(on, false, |_| ()).await;
    world.verified("a@b.co").await;
    for email in ["a@b.co", "nobody@b.co"] {
        for path in ["/api/login/magic-link", "/api/forgot-password", "/api/recover/passkey"] {
            let answer = world.post(path, json!({ "email": email })).await;
            answer.refused(
                403,
                "Links by e-mail are not available: this server has no mail configured. Ask its operator for help.",
            );
        }
        for path in ["/api/register/magic-link", "/api/register/passkey/options"] {
            let answer = world.post(path, json!({ "email": email })).await;
            assert_eq!(answer.status, 403);
            assert!(answer.text.contains("no mail configured"), "{}", answer.text);
        }
    }
}

async fn consent_is_wanted_where_there_is_something_to_consent_to(on: Backend) {
    let world = world_with(on, true, crate::signin::world::publish_terms).await;
    let refusal = ["You must accept the linked legal documents to register"];
    for path in ["/api/register/magic-link", "/api/register/passkey/options"] {
        for terms in [json!(null), json!(false), json!("true")] {
            let answer = world.post(path, json!({"email": "a@b.co", "termsAccepted": terms})).await;
            assert_eq!(answer.faults(), refusal, "{path} {terms}");
        }
    }
    let body: Value = json!({"email": "a@b.co", "termsAccepted": true});
    world.post("/api/register/magic-link", body.clone()).await.created();
    world.post("/api/register/passkey/options", body).await.ok();
}

async fn accounts_that_were_never_verified_go_after_a_month(on: Backend) {
    let world = world(on).await;
    let register = async |email: &str| {
        world.post("/api/register/magic-link", json!({ "email": email })).await.created();
    };
    let sweep = async || {
        let now_ms = world.clock.now_ms();
        world.store.delete_expired_tokens(now_ms).await.unwrap();
        world.store.delete_expired_sign_in(now_ms, now_ms - MONTH_MS).await.unwrap()
    };
    world.verified("verified@b.co").await;
    register("forgotten@b.co").await;
    register("late@b.co").await;
    world.clock.advance_ms(MONTH_MS - 1);
    assert_eq!(sweep().await, 0, "not a moment too early");
    // A link that still works keeps its account.
    register("late@b.co").await;
    world.clock.advance_ms(1);
    assert_eq!(sweep().await, 1);
    assert!(world.accounts.find("forgotten@b.co").await.is_err());
    assert!(world.accounts.find("verified@b.co").await.is_ok());
    let link = world.link("late@b.co", "verify-email").await;
    world.post("/api/verify-email", json!({ "token": link })).await.ok();
}
