//! Replacing lost passkeys by a mailed link, and ceremonies that two servers share.

use serde_json::{Value, json};
use supersync::accounts::{CHALLENGE_LIFETIME_MS, RECOVER_PASSKEY_LIFETIME_MS};

use crate::harness::Backend;
use crate::signin::authenticator::Key;
use crate::signin::world::{PASSWORD, World, world};

on_both_databases! {
    a_new_key_replaces_the_lost_ones,
    a_recovery_link_works_once_and_not_too_late,
    a_recovery_challenge_is_for_its_link,
    of_two_recoveries_at_once_one_sets_its_key,
    a_key_that_somebody_has_can_t_be_used,
    only_who_has_a_passkey_gets_a_link_with_a_password_too,
}

const BAD_LINK: &str = "Invalid or expired recovery token";

async fn recovery(world: &World, email: &str) -> String {
    let answer = world.post("/api/recover/passkey", json!({ "email": email })).await.ok();
    assert_eq!(answer, json!({"message": "If an account with that email exists, a recovery link has been sent."}));
    world.link(email, "recover-passkey").await
}

async fn options(world: &World, token: &str) -> Value {
    world.post("/api/recover/passkey/options", json!({ "token": token })).await.ok()
}

async fn complete(world: &World, token: &str, key: &Key, options: &Value) -> crate::signin::world::Answer {
    let body = json!({"token": token, "credential": key.create(&options["options"])});
    world.post("/api/recover/passkey/complete", body).await
}

async fn a_new_key_replaces_the_lost_ones(on: Backend) {
    let world = world(on).await;
    let (lost, new) = (Key::es256(), Key::es256());
    let user = world.with_key("a@b.co", &lost).await;
    let session = world.token(user).await;
    world.post("/api/login/magic-link", json!({"email": "a@b.co"})).await.ok();
    let token = recovery(&world, "a@b.co").await;
    let asked = options(&world, &token).await;
    assert_eq!(asked["email"], "a@b.co");
    assert_eq!(
        asked["options"]["authenticatorSelection"],
        json!({"residentKey": "preferred", "userVerification": "preferred", "requireResidentKey": false})
    );
    assert_eq!(asked["options"]["user"]["name"], "a@b.co");
    let done = complete(&world, &token, &new, &asked).await.ok();
    let message = "Passkey has been reset successfully. You can now log in with your new passkey.";
    assert_eq!(done, json!({ "message": message }));
    let revoked = "Token was revoked. Please log in again to get a new token.";
    world.get_as(&session, "/api/account").await.refused(401, revoked);
    world.login_key("a@b.co", &lost).await.refused(401, "Authentication failed");
    world.login_key("a@b.co", &new).await.ok();
    let login = world.link("a@b.co", "magic-login").await;
    let answer = world.post("/api/login/magic-link/verify", json!({ "token": login })).await;
    answer.refused(401, "Invalid or expired login link");
}

async fn a_recovery_link_works_once_and_not_too_late(on: Backend) {
    let world = world(on).await;
    world.with_key("a@b.co", &Key::es256()).await;
    let made_up = "0".repeat(64);
    world.post("/api/recover/passkey/options", json!({ "token": made_up })).await.refused(400, BAD_LINK);
    let body = json!({"token": made_up, "credential": {}});
    world.post("/api/recover/passkey/complete", body).await.refused(400, BAD_LINK);
    let token = recovery(&world, "a@b.co").await;
    let (first, second) = (options(&world, &token).await, options(&world, &token).await);
    complete(&world, &token, &Key::es256(), &first).await.ok();
    complete(&world, &token, &Key::es256(), &second).await.refused(400, BAD_LINK);

    world.clock.advance_ms(60_000);
    let token = recovery(&world, "a@b.co").await;
    world.clock.advance_ms(RECOVER_PASSKEY_LIFETIME_MS - 1);
    let late = options(&world, &token).await;
    world.clock.advance_ms(1);
    complete(&world, &token, &Key::es256(), &late).await.refused(400, BAD_LINK);
    world.post("/api/recover/passkey/options", json!({ "token": token })).await.refused(400, BAD_LINK);
}

async fn a_recovery_challenge_is_for_its_link(on: Backend) {
    let world = world(on).await;
    world.with_key("a@b.co", &Key::es256()).await;
    world.with_key("b@b.co", &Key::es256()).await;
    let (a, b) = (recovery(&world, "a@b.co").await, recovery(&world, "b@b.co").await);
    let gone = "Challenge expired or not found. Please try again.";
    let of_b = options(&world, &b).await;
    complete(&world, &a, &Key::es256(), &of_b).await.refused(400, gone);
    let register = world.post("/api/register/passkey/options", json!({"email": "a@b.co"})).await.ok();
    complete(&world, &a, &Key::es256(), &json!({ "options": register })).await.refused(400, gone);
    let mut evil = Key::es256();
    evil.origin = "https://evil.example".into();
    let of_a = options(&world, &a).await;
    complete(&world, &a, &evil, &of_a).await.refused(400, "Passkey verification failed. Please try again.");
    let late = options(&world, &a).await;
    world.clock.advance_ms(CHALLENGE_LIFETIME_MS);
    complete(&world, &a, &Key::es256(), &late).await.refused(400, gone);
    // What failed did not use the link up.
    let of_a = options(&world, &a).await;
    complete(&world, &a, &Key::es256(), &of_a).await.ok();
}

async fn of_two_recoveries_at_once_one_sets_its_key(on: Backend) {
    let world = world(on).await;
    world.with_key("a@b.co", &Key::es256()).await;
    let token = recovery(&world, "a@b.co").await;
    let (first, second) = (options(&world, &token).await, options(&world, &token).await);
    let (one, two) = (Key::es256(), Key::es256());
    let (a, b) = tokio::join!(complete(&world, &token, &one, &first), complete(&world, &token, &two, &second));
    assert_eq!(a.status + b.status, 600, "{a:?} {b:?}");
    let (alive, dead) = if a.status == 200 { (one, two) } else { (two, one) };
    world.login_key("a@b.co", &alive).await.ok();
    world.login_key("a@b.co", &dead).await.refused(401, "Authentication failed");
}

async fn a_key_that_somebody_has_can_t_be_used(on: Backend) {
    let world = world(on).await;
    let (mine, yours) = (Key::es256(), Key::es256());
    world.with_key("me@b.co", &mine).await;
    world.with_key("you@b.co", &yours).await;
    let token = recovery(&world, "me@b.co").await;
    let asked = options(&world, &token).await;
    let handle = yours.user_handle.lock().unwrap().clone();
    let answer = complete(&world, &token, &yours, &asked).await;
    answer.refused(400, "Passkey verification failed. Please try again.");
    // Authenticators have another key for it, and this one is as it was.
    *yours.user_handle.lock().unwrap() = handle;
    assert_eq!(world.login_key("me@b.co", &mine).await.ok()["user"]["email"], "me@b.co", "nothing was changed");
    assert_eq!(world.login_key("me@b.co", &yours).await.ok()["user"]["email"], "you@b.co");
}

async fn only_who_has_a_passkey_gets_a_link_with_a_password_too(on: Backend) {
    let world = world(on).await;
    world.verified("password@b.co").await;
    world.with_key("both@b.co", &Key::es256()).await;
    world.post("/api/forgot-password", json!({"email": "both@b.co"})).await.ok();
    let reset = world.link("both@b.co", "reset-password").await;
    world.post("/api/reset-password", json!({"token": reset, "password": PASSWORD})).await.ok();
    world.post("/api/recover/passkey", json!({"email": "password@b.co"})).await.ok();
    assert_eq!(world.links("password@b.co", "recover-passkey").await.len(), 0);
    recovery(&world, "both@b.co").await;
}

/// SQLite serves one server at a time.
#[tokio::test]
async fn postgres_two_servers_share_ceremonies() {
    let here = world(Backend::Postgres).await;
    let there = here.beside().await;
    let key = Key::es256();
    let asked = here.post("/api/register/passkey/options", json!({"email": "a@b.co"})).await.ok();
    let body = json!({"email": "a@b.co", "credential": key.create(&asked)});
    there.post("/api/register/passkey/verify", body).await.created();
    let token = there.link("a@b.co", "verify-email").await;
    here.post("/api/verify-email", json!({ "token": token })).await.ok();

    let asked = there.post("/api/login/passkey/options", json!({"email": "a@b.co"})).await.ok();
    let body = json!({"email": "a@b.co", "credential": key.get(&asked)});
    here.post("/api/login/passkey/verify", body.clone()).await.ok();
    let again = there.post("/api/login/passkey/verify", body).await;
    again.refused(401, "Challenge expired or not found. Please try again.");

    let token = recovery(&here, "a@b.co").await;
    let asked = options(&there, &token).await;
    complete(&here, &token, &Key::rs256(), &asked).await.ok();
    assert_eq!(there.login_key("a@b.co", &key).await.status, 401);
}
