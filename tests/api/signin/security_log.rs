//! The security log: what it tells, what it must not hold, and that nobody can fill it.

use serde_json::{Value, json};
use supersync::accounts::{Asker, JOINS_WITHIN_MS, LOCK_AFTER_FAILURES, MAX_SECURITY_EVENTS, MAX_SECURITY_FAILURES};
use supersync::store::SecurityKind;

use crate::harness::Backend;
use crate::signin::authenticator::{Key, PRESENT, VERIFIED};
use crate::signin::world::{OTHER_PASSWORD, PASSWORD, World, world};

on_both_databases! {
    it_tells_what_was_done_and_by_what,
    failures_from_one_place_are_one_entry,
    failures_from_everywhere_push_nothing_else_out,
    it_has_no_more_entries_than_it_may_and_none_that_are_old,
    it_is_in_the_export_and_goes_with_the_account,
    nothing_in_it_is_an_address_or_a_token,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

async fn log(world: &World, token: &str) -> Vec<Value> {
    let answer = world.get_as(token, "/api/account/security-log").await.ok();
    answer["events"].as_array().expect("a list").clone()
}

fn kinds(events: &[Value]) -> Vec<(&str, Option<&str>)> {
    events.iter().rev().map(|event| (event["kind"].as_str().unwrap(), event["method"].as_str())).collect()
}

async fn log_in(world: &World) -> String {
    world.login("a@b.co", PASSWORD).await.ok()["token"].as_str().unwrap().to_owned()
}

async fn it_tells_what_was_done_and_by_what(on: Backend) {
    let world = world(on).await;
    world.post("/api/register", json!({ "email": "a@b.co", "password": PASSWORD })).await.created();
    let link = world.link("a@b.co", "verify-email").await;
    world.post("/api/verify-email", json!({ "token": link })).await.ok();
    world.login("a@b.co", "not the password").await.refused(401, "Invalid credentials");
    let token = log_in(&world).await;
    let mut key = Key::es256();
    key.flags = PRESENT | VERIFIED;
    world.add_key(&token, &key, "key").await.created();
    world.login_key("a@b.co", &key).await.ok();
    world.post_as(&token, "/api/account/password", json!({ "newPassword": OTHER_PASSWORD })).await.ok();
    let user = world.accounts.find("a@b.co").await.unwrap().id;
    world.accounts.set_admin(user, true).await.unwrap();
    world.get_as(&token, "/api/account/export").await;
    let replaced = world.post_as(&token, "/api/replace-token", json!({})).await.ok();
    let token = replaced["token"].as_str().unwrap();
    let events = log(&world, token).await;
    assert_eq!(
        kinds(&events),
        [
            ("address_verified", Some("magic_link")),
            ("sign_in_failed", Some("password")),
            ("signed_in", Some("password")),
            ("passkey_added", None),
            ("signed_in", Some("passkey")),
            ("password_changed", None),
            ("admin_given", Some("operator")),
            ("exported", None),
            ("token_replaced", Some("replaced")),
        ]
    );
    assert!(events.iter().all(|event| event["times"] == 1 && event["at"] == world.clock.now_ms()), "{events:?}");
    // Nobody else's business.
    let other = world.verified("b@b.co").await;
    let theirs = world.token(other).await;
    assert_eq!(kinds(&log(&world, &theirs).await), [("signed_in", Some("operator"))]);
}

async fn failures_from_one_place_are_one_entry(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let token = log_in(&world).await;
    for _ in 0..LOCK_AFTER_FAILURES {
        world.login("a@b.co", "not the password").await.refused(401, "Invalid credentials");
    }
    let events = log(&world, &token).await;
    assert_eq!(kinds(&events), [("signed_in", Some("password")), ("sign_in_failed", Some("password"))]);
    assert_eq!(events[0]["times"], LOCK_AFTER_FAILURES);
    world.clock.advance_ms(JOINS_WITHIN_MS);
    world.login("a@b.co", "not the password").await.refused(401, "Invalid credentials");
    let events = log(&world, &token).await;
    assert_eq!((events.len(), &events[0]["times"]), (3, &json!(1)), "after an hour it is another one");
}

async fn failures_from_everywhere_push_nothing_else_out(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let token = log_in(&world).await;
    for n in 0..=u8::try_from(MAX_SECURITY_FAILURES).unwrap() {
        let asker = Asker { address: Some([10, 0, n, 1].into()), ..Asker::default() };
        world.accounts.note(user, SecurityKind::SignInFailed, &asker).await;
    }
    let events = log(&world, &token).await;
    assert_eq!(events.len(), MAX_SECURITY_FAILURES + 1);
    assert_eq!(events.iter().filter(|event| event["kind"] == "signed_in").count(), 1);
    assert!(!events.iter().any(|event| event["address"] == "10.0.0.0/24"), "the oldest one went");
}

async fn it_has_no_more_entries_than_it_may_and_none_that_are_old(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let token = world.token(user).await;
    for _ in 0..=MAX_SECURITY_EVENTS {
        world.clock.advance_ms(1);
        world.accounts.note(user, SecurityKind::SteppedUp, &Asker::default()).await;
    }
    let events = log(&world, &token).await;
    assert_eq!(events.len(), MAX_SECURITY_EVENTS);
    assert!(events.iter().all(|event| event["kind"] == "stepped_up"));
    assert!(events.windows(2).all(|two| two[0]["at"].as_i64() > two[1]["at"].as_i64()), "newest first");
    let before = world.clock.now_ms() - 90 * DAY_MS;
    assert_eq!(world.store.delete_old_security_events(before, 1000).await.unwrap(), 0);
    let all = u64::try_from(MAX_SECURITY_EVENTS).unwrap();
    let later = world.clock.now_ms() + 1;
    assert_eq!(world.store.delete_old_security_events(later, 100).await.unwrap(), 100, "a few at a time");
    assert_eq!(world.store.delete_old_security_events(later, 1000).await.unwrap(), all - 100);
    assert!(log(&world, &token).await.is_empty());
}

async fn it_is_in_the_export_and_goes_with_the_account(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let token = log_in(&world).await;
    let zip = world.bytes_as(&token, "/api/account/export").await;
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
    let file = zip.by_name("security-log.json").unwrap();
    let exported: Value = serde_json::from_reader(file).unwrap();
    assert_eq!(exported, json!(log(&world, &token).await));
    assert_eq!(exported[0]["kind"], "exported");
    world.accounts.delete(user).await.unwrap();
    assert!(world.accounts.security_log(user).await.unwrap().is_empty());
    // What comes too late has nowhere to go.
    world.accounts.note(user, SecurityKind::SignInFailed, &Asker::default()).await;
    assert!(world.accounts.security_log(user).await.unwrap().is_empty());
}

async fn nothing_in_it_is_an_address_or_a_token(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let token = log_in(&world).await;
    for address in ["192.0.2.77", "2001:db8:1:2:3:4:5:6", "::ffff:198.51.100.9"] {
        let asker = Asker {
            address: Some(address.parse().unwrap()),
            user_agent: Some(format!("curl/8.5.0 {token} a@b.co")),
            ..Asker::default()
        };
        world.accounts.note(user, SecurityKind::PasskeyAdded, &asker).await;
    }
    let answer = world.get_as(&token, "/api/account/security-log").await;
    let addresses: Vec<_> =
        answer.body["events"].as_array().unwrap()[..3].iter().map(|event| &event["address"]).collect();
    assert_eq!(addresses, ["198.51.100.0/24", "2001:db8:1::/48", "192.0.2.0/24"]);
    assert_eq!(answer.body["events"][0]["device"], "curl");
    for secret in [token.as_str(), "a@b.co", "192.0.2.77", "198.51.100.9", "db8:1:2"] {
        assert!(!answer.text.contains(secret), "{secret}");
    }
}
