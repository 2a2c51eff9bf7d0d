//! Who has held a token for a while proves once more who they are, wherever the table of routes says so.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use supersync::accounts::{LOCK_AFTER_FAILURES, RECENT_MS};
use supersync::http::route::Route;
use supersync::http::routes::ROUTES;

use crate::harness::Backend;
use crate::signin::authenticator::{Key, PRESENT, VERIFIED};
use crate::signin::matrix::body;
use crate::signin::world::{Answer, PASSWORD, World, world};

on_both_databases! {
    every_route_asks_each_kind_of_session_for_what_the_table_says,
    the_current_password_stands_in_on_every_route_that_asks,
    a_password_given_once_counts_for_a_while_in_that_session_only,
    wrong_passwords_prove_nothing_and_lock,
    a_passkey_counts_if_its_user_was_verified,
    a_challenge_is_for_the_session_that_asked,
    an_older_token_proves_nothing_by_itself,
    a_replaced_token_is_no_fresher_than_what_it_replaced,
}

/// How the sender came by the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    FreshPassword,
    FreshLink,
    FreshVerifiedKey,
    UnverifiedKey,
    OldPassword,
    ReplacedFresh,
    ReplacedOld,
    Operator,
    WithoutSession,
}

const KINDS: [Kind; 9] = [
    Kind::FreshPassword,
    Kind::FreshLink,
    Kind::FreshVerifiedKey,
    Kind::UnverifiedKey,
    Kind::OldPassword,
    Kind::ReplacedFresh,
    Kind::ReplacedOld,
    Kind::Operator,
    Kind::WithoutSession,
];

impl Kind {
    fn has_just_proven(self) -> bool {
        matches!(self, Self::FreshPassword | Self::FreshLink | Self::FreshVerifiedKey | Self::ReplacedFresh)
    }
}

fn token_of(session: &Value) -> String {
    session["token"].as_str().expect("a session has a token").to_owned()
}

async fn replaced(world: &World, token: &str) -> String {
    token_of(&world.post_as(token, "/api/replace-token", json!({})).await.ok())
}

/// A token of the old server: it names no session.
fn without_session(world: &World, user: i64, email: &str) -> String {
    let iat = world.clock.now_ms() / 1000;
    let claims = json!({ "userId": user, "email": email, "tokenVersion": 0, "iat": iat });
    let key = EncodingKey::from_secret(b"a secret of the tests, long enough to be one");
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

async fn token(world: &World, user: i64, email: &str, kind: Kind) -> String {
    let by_password = async || token_of(&world.login(email, PASSWORD).await.ok());
    match kind {
        Kind::FreshPassword => by_password().await,
        Kind::FreshLink => {
            world.post("/api/login/magic-link", json!({ "email": email })).await.ok();
            let link = world.link(email, "magic-login").await;
            token_of(&world.post("/api/login/magic-link/verify", json!({ "token": link })).await.ok())
        }
        Kind::FreshVerifiedKey | Kind::UnverifiedKey => {
            let mut key = Key::es256();
            let proven = by_password().await;
            world.add_key(&proven, &key, "key").await.created();
            key.flags = if kind == Kind::UnverifiedKey { PRESENT } else { PRESENT | VERIFIED };
            token_of(&world.login_key(email, &key).await.ok())
        }
        Kind::OldPassword => {
            let token = by_password().await;
            world.clock.advance_ms(RECENT_MS);
            token
        }
        Kind::ReplacedFresh => replaced(world, &by_password().await).await,
        Kind::ReplacedOld => {
            let token = by_password().await;
            world.clock.advance_ms(RECENT_MS);
            replaced(world, &token).await
        }
        Kind::Operator => world.token(user).await,
        Kind::WithoutSession => without_session(world, user, email),
    }
}

fn checked() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| route.access.wants_token())
}

async fn ask(world: &World, token: &str, route: &Route, password: Option<&str>) -> Answer {
    let path = route.path.replace("{id}", "999999").replace("{server_seq}", "1");
    let mut body = body(route.path);
    if let Some(password) = password {
        body["currentPassword"] = password.into();
    }
    let body = (route.method.as_str() != "GET").then_some(&body);
    world.send(route.method.as_str(), &path, Some(token), body).await
}

/// A verified account.
async fn account(world: &World, number: usize) -> (i64, String) {
    let email = format!("user{number}@b.co");
    (world.verified(&email).await, email)
}

fn wants_proof(answer: &Answer) -> bool {
    answer.status == 403 && answer.body["code"] == "REAUTH_REQUIRED"
}

async fn every_route_asks_each_kind_of_session_for_what_the_table_says(on: Backend) {
    let world = world(on).await;
    let mut number = 0;
    for route in checked() {
        let mut welcome = None;
        for kind in KINDS {
            number += 1;
            let (user, email) = account(&world, number).await;
            let token = token(&world, user, &email, kind).await;
            // Only now: administrators don't get in by a passkey that did not verify its user.
            world.accounts.set_admin(user, true).await.unwrap();
            let answer = ask(&world, &token, route, None).await;
            // For administrators the authenticator must have verified its user.
            let is_weak = route.access.wants_admin() && kind == Kind::UnverifiedKey;
            let is_refused = is_weak || route.access.wants_proof() && !kind.has_just_proven();
            let what = format!("{} {} {kind:?}: {}", route.method.as_str(), route.path, answer.text);
            assert_eq!(wants_proof(&answer), is_refused, "{what}");
            if !is_refused {
                assert_ne!(answer.status, 401, "{what}");
                // The same for each that gets in.
                assert_eq!(answer.status, *welcome.get_or_insert(answer.status), "{what}");
            }
        }
    }
}

async fn the_current_password_stands_in_on_every_route_that_asks(on: Backend) {
    let world = world(on).await;
    for (number, route) in checked().filter(|route| route.access.wants_proof()).enumerate() {
        let (user, email) = account(&world, number).await;
        world.accounts.set_admin(user, true).await.unwrap();
        for kind in [Kind::OldPassword, Kind::Operator, Kind::WithoutSession] {
            let token = token(&world, user, &email, kind).await;
            ask(&world, &token, route, Some("not the password")).await.refused(403, "The current password is wrong");
        }
        let token = token(&world, user, &email, Kind::WithoutSession).await;
        let answer = ask(&world, &token, route, Some(PASSWORD)).await;
        assert!(![401, 403].contains(&answer.status), "{route:?}: {}", answer.text);
    }
}

async fn a_password_given_once_counts_for_a_while_in_that_session_only(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let (token, other) = (world.token(user).await, world.token(user).await);
    let options = |token: String| {
        let world = &world;
        async move { world.post_as(&token, "/api/passkeys/options", json!({})).await }
    };
    assert!(wants_proof(&options(token.clone()).await));
    let proof = json!({ "currentPassword": PASSWORD });
    assert_eq!(world.post_as(&token, "/api/account/step-up", proof).await.ok(), json!({ "success": true }));
    options(token.clone()).await.ok();
    assert!(wants_proof(&options(other).await));
    // At any server on the database; SQLite serves one at a time.
    if on == Backend::Postgres {
        let beside = world.beside().await;
        beside.post_as(&token, "/api/passkeys/options", json!({})).await.ok();
    }
    world.clock.advance_ms(RECENT_MS);
    assert!(wants_proof(&options(token).await));
}

async fn wrong_passwords_prove_nothing_and_lock(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let token = world.token(user).await;
    let give = |password: &str| world.post_as(&token, "/api/account/step-up", json!({ "currentPassword": password }));
    assert_eq!(give("").await.faults(), ["Password is required"]);
    let nothing = world.post_as(&token, "/api/account/step-up", json!({})).await;
    assert_eq!(nothing.faults(), ["Invalid input: expected object, received undefined"]);
    for _ in 0..LOCK_AFTER_FAILURES {
        give("a guess").await.refused(403, "The current password is wrong");
    }
    assert_eq!(give(PASSWORD).await.status, 403, "locked");
    assert!(wants_proof(&world.post_as(&token, "/api/passkeys/options", json!({})).await));
    assert_eq!(world.get_as(&token, "/api/account").await.status, 200, "the session stays");
}

async fn a_passkey_counts_if_its_user_was_verified(on: Backend) {
    let world = world(on).await;
    let (mut key, mut strange) = (Key::es256(), Key::es256());
    let user = world.with_key("a@b.co", &key).await;
    world.with_key("b@b.co", &strange).await;
    let token = world.token(user).await;
    let step_up = async |key: &Key| {
        let options = world.post_as(&token, "/api/account/step-up/options", json!({})).await.ok();
        assert_eq!(options["userVerification"], "required");
        assert_eq!(options["allowCredentials"].as_array().map(Vec::len), Some(1));
        world.post_as(&token, "/api/account/step-up", json!({ "credential": key.get(&options) })).await
    };
    key.flags = PRESENT;
    step_up(&key).await.refused(403, "Authentication failed");
    strange.flags = PRESENT | VERIFIED;
    step_up(&strange).await.refused(403, "Authentication failed");
    assert!(wants_proof(&world.send("DELETE", "/api/account", Some(&token), None).await));
    key.flags = PRESENT | VERIFIED;
    step_up(&key).await.ok();
    world.send("DELETE", "/api/account", Some(&token), None).await.ok();
}

async fn a_challenge_is_for_the_session_that_asked(on: Backend) {
    let world = world(on).await;
    let mut key = Key::es256();
    let user = world.with_key("a@b.co", &key).await;
    key.flags = PRESENT | VERIFIED;
    let (one, two) = (world.token(user).await, world.token(user).await);
    let options = world.post_as(&one, "/api/account/step-up/options", json!({})).await.ok();
    let body = json!({ "credential": key.get(&options) });
    let answer = world.post_as(&two, "/api/account/step-up", body).await;
    answer.refused(403, "Challenge expired or not found. Please try again.");
    let proven = token_of(&world.login_key("a@b.co", &key).await.ok());
    let options = world.post_as(&proven, "/api/passkeys/options", json!({})).await.ok();
    let body = json!({ "credential": Key::es256().create(&options), "name": "mine" });
    let answer = world.post_as(&two, "/api/passkeys/verify", body).await;
    answer.refused(400, "Challenge expired or not found. Please try again.");
}

async fn an_older_token_proves_nothing_by_itself(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let token = without_session(&world, user, "a@b.co");
    // There is no session to note it in.
    let answer = world.post_as(&token, "/api/account/step-up", json!({ "currentPassword": PASSWORD })).await;
    assert!(wants_proof(&answer), "{}", answer.text);
    let new = json!({ "newPassword": "another good password" });
    assert!(wants_proof(&world.post_as(&token, "/api/account/password", new.clone()).await));
    // Nor does what replaces it.
    let token = replaced(&world, &token).await;
    assert!(wants_proof(&world.post_as(&token, "/api/account/password", new).await));
}

async fn a_replaced_token_is_no_fresher_than_what_it_replaced(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let token = token_of(&world.login("a@b.co", PASSWORD).await.ok());
    world.clock.advance_ms(RECENT_MS - 1);
    let token = replaced(&world, &token).await;
    world.post_as(&token, "/api/passkeys/options", json!({})).await.ok();
    world.clock.advance_ms(1);
    assert!(wants_proof(&world.post_as(&token, "/api/passkeys/options", json!({})).await));
}
