//! What answers, their work and their time tell about an address; what logs hold; limits per client.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use supersync::accounts::MAX_RESENDS_PER_DAY;
use supersync::config::RateLimit;

use crate::harness::{Backend, Server};
use crate::signin::authenticator::Key;
use crate::signin::world::{OTHER_PASSWORD, PASSWORD, World, world};

on_both_databases! {
    neutral_answers_are_the_same_for_every_address,
    the_time_of_an_answer_tells_nothing_of_an_address,
    a_capped_address_gets_no_mail_and_the_cap_decays,
    each_route_has_a_limit_per_client,
}

const ADDRESSES: [&str; 4] = ["verified@b.co", "unverified@b.co", "capped@b.co", "unknown@b.co"];

/// Verified with a passkey, unverified, unverified with no mails left, and none.
async fn stage(on: Backend) -> World {
    let world = world(on).await;
    world.with_key(ADDRESSES[0], &Key::es256()).await;
    world.post("/api/register/magic-link", json!({"email": ADDRESSES[1]})).await.created();
    for _ in 0..=MAX_RESENDS_PER_DAY {
        world.post("/api/register/magic-link", json!({"email": ADDRESSES[2]})).await.created();
    }
    world
}

async fn neutral_answers_are_the_same_for_every_address(on: Backend) {
    let world = stage(on).await;
    // (route, whose mail it is)
    let routes = [
        ("/api/login/magic-link", vec![0]),
        ("/api/forgot-password", vec![0]),
        ("/api/recover/passkey", vec![0]),
        ("/api/register/magic-link", vec![1]),
        ("/api/register/passkey/verify", vec![1]),
        ("/api/register", vec![1, 3]),
    ];
    for (path, mailed) in routes {
        let mut answers = Vec::new();
        for (n, email) in ADDRESSES.into_iter().enumerate() {
            // An unknown address is known after a registration, so each route has one of its own.
            let own = format!("unknown{}@b.co", path.replace(['/', '-'], ""));
            let email = if n == 3 && path != "/api/register" { own.as_str() } else { email };
            let body = body(&world, path, email).await;
            let (mails, hashes) = (world.mails().await, world.accounts.password_hashes_computed());
            let mut answer = world.post(path, body).await;
            if let Some(as_sent) = answer.body.get_mut("email") {
                *as_sent = Value::Null;
            }
            answers.push((answer.status, answer.body, world.accounts.password_hashes_computed() - hashes));
            let expected = mailed.contains(&n) || (n == 3 && path.starts_with("/api/register"));
            assert_eq!(world.mails().await - mails, usize::from(expected), "{path} {email}");
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{path}: {answers:?}");
        assert!(matches!(answers[0].0, 200 | 201), "{path}: {answers:?}");
    }
}

async fn body(world: &World, path: &str, email: &str) -> Value {
    if !path.ends_with("passkey/verify") {
        return json!({"email": email, "password": OTHER_PASSWORD});
    }
    let asked = world.post("/api/register/passkey/options", json!({ "email": email })).await.ok();
    json!({"email": email, "credential": Key::es256().create(&asked)})
}

/// What else the machine does only ever makes an answer slower, so the fastest of several is what the work takes.
async fn the_time_of_an_answer_tells_nothing_of_an_address(on: Backend) {
    const ROUNDS: usize = 7;
    const PATHS: [&str; 7] = [
        "/api/login",
        "/api/login/magic-link",
        "/api/forgot-password",
        "/api/recover/passkey",
        "/api/register/magic-link",
        "/api/register/passkey/verify",
        "/api/register",
    ];
    let world = stage(on).await;
    let mut fastest = [[Duration::MAX; 4]; PATHS.len()];
    for round in 0..ROUNDS {
        // Fresh addresses: one that has just been asked for does less.
        for (path, fastest) in PATHS.iter().zip(&mut fastest) {
            let own = |kind: &str| format!("{kind}{round}{}@b.co", path.replace(['/', '-'], ""));
            let (verified, unverified) = (own("verified"), own("unverified"));
            world.with_key(&verified, &Key::es256()).await;
            world.post("/api/register/magic-link", json!({ "email": unverified })).await.created();
            // Wrong passwords would lock an address that is used each time.
            let capped = if *path == "/api/login" { unverified.clone() } else { ADDRESSES[2].to_owned() };
            for (email, fastest) in [verified, unverified, capped, own("unknown")].iter().zip(fastest) {
                let body = body(&world, path, email).await;
                let began = Instant::now();
                world.post(path, body).await;
                *fastest = began.elapsed().min(*fastest);
            }
        }
    }
    for (path, times) in PATHS.iter().zip(fastest) {
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(most.saturating_sub(*least) < Duration::from_millis(4), "{path}: {times:?}");
        // Every answer waits for the same floor, which covers what the work differs by.
        assert!(*path == "/api/login" || *least >= Duration::from_millis(50), "{path}: {times:?}");
    }
}

async fn a_capped_address_gets_no_mail_and_the_cap_decays(on: Backend) {
    let world = stage(on).await;
    let capped = async || world.links(ADDRESSES[2], "verify-email").await.len();
    let most = capped().await;
    world.register_key(ADDRESSES[2], &Key::es256()).await.created();
    world.post("/api/register", json!({"email": ADDRESSES[2], "password": PASSWORD})).await.created();
    assert_eq!(capped().await, most, "all ways to register count together");
    world.clock.advance_ms(24 * 60 * 60 * 1000 + 1);
    world.register_key(ADDRESSES[2], &Key::es256()).await.created();
    assert_eq!(capped().await, most + 1);
}

async fn each_route_has_a_limit_per_client(on: Backend) {
    let server = Server::start_with(on, |config| {
        let limit = RateLimit { max: 2, window: Duration::from_mins(15) };
        config.rate_limits.per_address = true;
        let limits = &mut config.rate_limits;
        (limits.sign_in, limits.forgot_password, limits.reset_password, limits.credentials) =
            (limit, limit, limit, limit);
        (limits.register, limits.login, limits.verify_email) = (limit, limit, limit);
        (limits.replace_token, limits.delete_account) = (limit, limit);
    })
    .await;
    let account = server.account().await;
    for path in [
        "/api/register/magic-link",
        "/api/register/passkey/options",
        "/api/register/passkey/verify",
        "/api/login/magic-link",
        "/api/login/magic-link/verify",
        "/api/login/passkey/options",
        "/api/login/passkey/verify",
        "/api/recover/passkey",
        "/api/recover/passkey/options",
        "/api/recover/passkey/complete",
        "/api/forgot-password",
        "/api/reset-password",
        "/api/account/password",
        "/api/account/email",
        "/api/account/email/verify",
        "/api/passkeys/options",
        "/api/invites",
        "/api/register",
        "/api/login",
        "/api/verify-email",
        // Ends the token, and a request with a bad one counts as well.
        "/api/replace-token",
    ] {
        for expected in [false, false, true] {
            let reply = account.post(path, &json!({})).await;
            assert_eq!(reply.status == 429, expected, "{path}: {}", reply.text);
            if expected {
                assert_eq!(reply["message"], "Rate limit exceeded, retry in 15 minutes", "{path}");
            }
        }
    }
    for expected in [false, false, true] {
        let reply = account.delete("/api/account").await;
        assert_eq!(reply.status == 429, expected, "{}", reply.text);
    }
}

/// Keeps everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// On one thread, so that everything is logged where this test listens.
#[tokio::test]
async fn logs_hold_no_tokens_addresses_or_passwords() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _listening = tracing::subscriber::set_default(subscriber.finish());
    let world = world(Backend::Sqlite).await;
    let (email, key) = ("secretive@b.co", Key::es256());
    let mut secrets = vec![email.to_owned(), "secretive".to_owned(), PASSWORD.to_owned(), OTHER_PASSWORD.to_owned()];

    world.register_key(email, &key).await.created();
    world.post("/api/register", json!({"email": email, "password": PASSWORD})).await.created();
    world.post("/api/register/magic-link", json!({ "email": email })).await.created();
    let verify = world.links(email, "verify-email").await;
    world.post("/api/verify-email", json!({"token": verify[0]})).await.ok();
    world.post("/api/verify-email", json!({"token": verify[1]})).await.refused(400, "Invalid verification token");
    world.login(email, OTHER_PASSWORD).await.refused(401, "Invalid credentials");
    let session = world.login_key(email, &key).await.ok();
    let asked = world.post("/api/login/passkey/options", json!({ "email": email })).await.ok();
    secrets.push(asked["challenge"].as_str().unwrap().to_owned());
    let mut pretender = Key::es256();
    pretender.id.clone_from(&key.id);
    let bad = json!({"email": email, "credential": pretender.get(&asked)});
    world.post("/api/login/passkey/verify", bad).await.refused(401, "Authentication failed");
    let token = session["token"].as_str().unwrap().to_owned();
    for path in ["/api/login/magic-link", "/api/forgot-password", "/api/recover/passkey"] {
        world.post(path, json!({ "email": email })).await.ok();
    }
    let magic = world.link(email, "magic-login").await;
    let second = world.post("/api/login/magic-link/verify", json!({ "token": magic })).await.ok();
    let recovery = world.link(email, "recover-passkey").await;
    let asked = world.post("/api/recover/passkey/options", json!({ "token": recovery })).await.ok();
    let body = json!({"token": recovery, "credential": Key::es256().create(&asked["options"])});
    world.post("/api/recover/passkey/complete", body).await.ok();
    world.clock.advance_ms(60_000);
    world.post("/api/forgot-password", json!({ "email": email })).await.ok();
    let reset = world.link(email, "reset-password").await;
    world.post("/api/reset-password", json!({"token": reset, "password": PASSWORD})).await.ok();
    let third = world.login(email, PASSWORD).await.ok();
    let third = third["token"].as_str().unwrap();
    let body = json!({"newPassword": OTHER_PASSWORD, "currentPassword": PASSWORD});
    world.post_as(third, "/api/account/password", body).await.ok();
    world.post_as(third, "/api/account/email", json!({"email": "hidden@b.co"})).await.ok();
    let change = world.link("hidden@b.co", "change-email").await;
    world.post("/api/account/email/verify", json!({ "token": change })).await.ok();
    let user = world.accounts.find("hidden@b.co").await.unwrap().id;
    world.accounts.set_admin(user, true).await.unwrap();
    let made = world.post_as(third, "/api/invites", json!({"email": "guest@b.co"})).await.created();
    let invite = made["link"].as_str().unwrap().rsplit_once('=').unwrap().1.to_owned();
    let body = json!({"email": "guest@b.co", "password": PASSWORD, "invite": invite});
    world.post("/api/register", body).await.created();

    secrets.extend(verify);
    secrets.extend([token, magic, recovery, reset, change, invite, third.to_owned()]);
    secrets.extend(["hidden@b.co".to_owned(), "guest@b.co".to_owned()]);
    secrets.push(second["token"].as_str().unwrap().to_owned());
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("passkey refused") && text.contains("address changed by link"), "it listened");
    for secret in secrets {
        // At this level the database driver shows statements, never what is bound to them.
        assert!(!text.contains(&secret), "the log has {secret}");
    }
}
