//! Wrong passwords: what is said, what it costs, who is kept out and for how long.

use serde_json::json;
use supersync::accounts::{LOCK_AFTER_FAILURES, LOCK_MS, MOST_FROM_STRANGERS};

use crate::harness::Backend;
use crate::signin::authenticator::Key;
use crate::signin::world::{Answer, OTHER_PASSWORD, PASSWORD, World, world};

on_both_databases! {
    guesses_are_answered_alike_for_every_address,
    a_lock_is_for_the_network_that_guessed,
    after_a_lock_the_count_starts_at_nothing,
    the_right_password_forgets_the_wrong_ones_from_there,
    many_networks_get_no_more_guesses_than_a_few,
    a_locked_address_has_its_other_ways_in,
    twenty_guesses_at_once_get_five_tries,
    a_lock_of_a_clock_that_was_ahead_ends_with_it,
}

const WRONG: &str = "Invalid credentials";
const LOCKED: &str = "Account temporarily locked due to too many failed login attempts. Please try again later.";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

const HOME: &str = "198.51.100.7";
const AWAY: &str = "203.0.113.9";

async fn login_from(world: &World, address: &str, email: &str, password: &str) -> Answer {
    let body = json!({ "email": email, "password": password });
    world.send_from(Some(address), None, "POST", "/api/login", None, Some(&body)).await
}

async fn lock(world: &World, address: &str, email: &str) {
    for _ in 0..LOCK_AFTER_FAILURES {
        login_from(world, address, email, "a guess").await.refused(401, WRONG);
    }
    login_from(world, address, email, "a guess").await.refused(401, LOCKED);
}

async fn guesses_are_answered_alike_for_every_address(on: Backend) {
    let world = world(on).await;
    world.verified("known@b.co").await;
    world.with_key("key@b.co", &Key::es256()).await;
    world.post("/api/register", json!({"email": "unverified@b.co", "password": PASSWORD})).await.created();
    let locked = world.verified("operator@b.co").await;
    world.accounts.set_locked(locked, true).await.unwrap();
    let mut said = Vec::new();
    for email in ["known@b.co", "key@b.co", "unverified@b.co", "operator@b.co", "unknown@b.co", "KNOWN2@b.co"] {
        let mut answers = Vec::new();
        for n in 0..2 * LOCK_AFTER_FAILURES {
            let before = world.accounts.password_hashes_computed();
            // The right one, where there is one, when it is too late.
            let password = if n > LOCK_AFTER_FAILURES { PASSWORD } else { "a guess" };
            let answer = login_from(&world, AWAY, email, password).await;
            answers.push((answer.status, answer.text, world.accounts.password_hashes_computed() - before));
        }
        said.push(answers);
    }
    let expected: Vec<_> = (0..2 * LOCK_AFTER_FAILURES)
        .map(|n| if n < LOCK_AFTER_FAILURES { ("INVALID_CREDENTIALS", WRONG) } else { ("LOGIN_LOCKED", LOCKED) })
        .map(|(code, text)| (401, json!({ "code": code, "error": text }).to_string(), 1))
        .collect();
    for answers in said {
        assert_eq!(answers, expected);
    }
}

async fn a_lock_of_a_clock_that_was_ahead_ends_with_it(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    world.clock.set_by_ms(366 * DAY_MS);
    lock(&world, AWAY, "a@b.co").await;
    world.clock.set_by_ms(-366 * DAY_MS);
    login_from(&world, AWAY, "a@b.co", "a guess").await.refused(401, WRONG);
    login_from(&world, AWAY, "a@b.co", PASSWORD).await.ok();
    lock(&world, AWAY, "a@b.co").await;
}

async fn a_lock_is_for_the_network_that_guessed(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    for (attacker, beside, elsewhere) in [
        (AWAY, "203.0.113.200", HOME),
        ("2001:db8:1:2::3", "2001:db8:1:ffff::1", "2001:db8:2::1"),
        // IPv4, as a socket for both kinds sees it.
        ("::ffff:192.0.2.1", "192.0.2.200", "192.0.3.1"),
    ] {
        lock(&world, attacker, "a@b.co").await;
        login_from(&world, beside, "a@b.co", PASSWORD).await.refused(401, LOCKED);
        login_from(&world, elsewhere, "a@b.co", PASSWORD).await.ok();
        login_from(&world, elsewhere, "a@b.co", "a guess").await.refused(401, WRONG);
        login_from(&world, elsewhere, "a@b.co", PASSWORD).await.ok();
    }
    // Another account is another matter.
    world.verified("other@b.co").await;
    login_from(&world, AWAY, "other@b.co", PASSWORD).await.ok();
}

async fn after_a_lock_the_count_starts_at_nothing(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    for email in ["a@b.co", "nobody@b.co"] {
        lock(&world, AWAY, email).await;
        // What comes while it is locked makes it no longer.
        world.clock.advance_ms(LOCK_MS - 1);
        login_from(&world, AWAY, email, "a guess").await.refused(401, LOCKED);
        world.clock.advance_ms(1);
        // One wrong password in a quarter of an hour keeps nobody out.
        for _ in 0..LOCK_AFTER_FAILURES - 1 {
            login_from(&world, AWAY, email, "a guess").await.refused(401, WRONG);
        }
    }
    login_from(&world, AWAY, "a@b.co", PASSWORD).await.ok();
}

async fn the_right_password_forgets_the_wrong_ones_from_there(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    for _ in 0..3 {
        for _ in 0..LOCK_AFTER_FAILURES - 1 {
            login_from(&world, HOME, "a@b.co", "a guess").await.refused(401, WRONG);
        }
        login_from(&world, HOME, "a@b.co", PASSWORD).await.ok();
    }
    lock(&world, AWAY, "a@b.co").await;
    login_from(&world, HOME, "a@b.co", PASSWORD).await.ok();
    login_from(&world, AWAY, "a@b.co", PASSWORD).await.refused(401, LOCKED);
}

/// As many guesses as all strangers together have, from one network after the other; never so many from one that it is
/// locked.
async fn guess_from_everywhere(world: &World, email: &str) {
    for n in 0..MOST_FROM_STRANGERS {
        let address = format!("10.0.{}.1", n / (LOCK_AFTER_FAILURES - 1));
        login_from(world, &address, email, "a guess").await.refused(401, WRONG);
    }
}

async fn many_networks_get_no_more_guesses_than_a_few(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    login_from(&world, HOME, "a@b.co", PASSWORD).await.ok();
    guess_from_everywhere(&world, "nobody@b.co").await;
    login_from(&world, "10.1.0.1", "nobody@b.co", "a guess").await.refused(401, LOCKED);
    guess_from_everywhere(&world, "a@b.co").await;
    login_from(&world, "10.1.0.1", "a@b.co", PASSWORD).await.refused(401, LOCKED);
    login_from(&world, AWAY, "a@b.co", PASSWORD).await.refused(401, LOCKED);
    // The owner's own devices are where they have been.
    login_from(&world, HOME, "a@b.co", "a typo").await.refused(401, WRONG);
    login_from(&world, "198.51.100.200", "a@b.co", PASSWORD).await.ok();
    login_from(&world, AWAY, "a@b.co", PASSWORD).await.refused(401, LOCKED);
    // As long as they are signed in.
    world.accounts.revoke(user).await.unwrap();
    login_from(&world, HOME, "a@b.co", PASSWORD).await.refused(401, LOCKED);
    world.clock.advance_ms(DAY_MS);
    login_from(&world, HOME, "a@b.co", PASSWORD).await.ok();
}

async fn a_locked_address_has_its_other_ways_in(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    world.with_key("a@b.co", &key).await;
    guess_from_everywhere(&world, "a@b.co").await;
    guess_from_everywhere(&world, "nobody@b.co").await;
    lock(&world, HOME, "other@b.co").await;
    // Locked or not, somebody's or not: the same answers.
    for path in ["/api/login/magic-link", "/api/forgot-password", "/api/recover/passkey"] {
        let before = world.accounts.password_hashes_computed();
        let said = world.post(path, json!({"email": "a@b.co"})).await.ok();
        assert_eq!(world.post(path, json!({"email": "nobody@b.co"})).await.ok(), said);
        assert_eq!(world.accounts.password_hashes_computed(), before);
    }
    world.login_key("a@b.co", &key).await.ok();
    let reset = world.link("a@b.co", "reset-password").await;
    world.post("/api/reset-password", json!({"token": reset, "password": OTHER_PASSWORD})).await.ok();
    login_from(&world, AWAY, "a@b.co", OTHER_PASSWORD).await.ok();
}

async fn twenty_guesses_at_once_get_five_tries(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    for email in ["a@b.co", "nobody@b.co"] {
        let guesses = (0..20).map(|_| login_from(&world, AWAY, email, "a guess"));
        let answers = futures_util::future::join_all(guesses).await;
        let wrong = answers.iter().filter(|answer| answer.body["error"] == WRONG).count();
        let locked = answers.iter().filter(|answer| answer.body["error"] == LOCKED).count();
        assert_eq!((wrong, locked), (5, 15), "{email}");
    }
}
