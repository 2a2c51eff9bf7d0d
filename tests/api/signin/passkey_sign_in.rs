//! Signing in with a passkey: challenges, counters, what a key says of itself, and who may not.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use supersync::accounts::CHALLENGE_LIFETIME_MS;
use supersync::store::{Ceremony, Challenge};

use crate::harness::Backend;
use crate::signin::authenticator::{Key, PRESENT, SYNCED, VERIFIED};
use crate::signin::world::{GONE, PASSWORD, REFUSED, world};

on_both_databases! {
    a_key_says_whose_it_is,
    nothing_that_is_wrong_signs_in,
    a_challenge_works_once_in_time_and_for_what_it_was_made,
    nobody_voids_anothers_ceremony,
    the_counter_must_grow_unless_there_is_none,
    of_two_uses_of_one_count_one_signs_in,
    adopted_keys_sign_in_and_their_backup_flag_is_learned,
    the_key_decides_who_is_signed_in,
    an_unverified_owner_is_told_so,
    a_locked_owner_is_refused,
    the_oldest_challenges_go_when_there_are_too_many,
}

async fn nothing_that_is_wrong_signs_in(on: Backend) {
    let world = world(on).await;
    let mut key = Key::es256();
    world.with_key("a@b.co", &key).await;
    let other = Key::es256();
    let login = async |credential: Value| {
        let body = json!({"email": "a@b.co", "credential": credential});
        world.post("/api/login/passkey/verify", body).await
    };
    // A key nobody registered, and one that says it is the registered one.
    login(other.get(&world.login_options("a@b.co").await)).await.refused(401, REFUSED);
    let mut pretender = Key::es256();
    pretender.id.clone_from(&key.id);
    login(pretender.get(&world.login_options("a@b.co").await)).await.refused(401, REFUSED);
    // The right signature under other data.
    let mut tampered = key.get(&world.login_options("a@b.co").await);
    let data = URL_SAFE_NO_PAD.decode(tampered["response"]["authenticatorData"].as_str().unwrap()).unwrap();
    let counter = [&data[..33], &[0, 0, 0, 9]].concat();
    tampered["response"]["authenticatorData"] = json!(URL_SAFE_NO_PAD.encode(counter));
    login(tampered).await.refused(401, REFUSED);

    let right = (key.origin.clone(), key.rp_id.clone());
    key.origin = "http://sync.example.org".into();
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    (key.origin, key.rp_id) = (right.0.clone(), "evil.example".into());
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    (key.rp_id, key.flags) = (right.1, VERIFIED);
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    (key.flags, key.ceremony) = (PRESENT, Some("webauthn.create"));
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    (key.ceremony, key.top_origin) = (None, Some("https://sync.example.org"));
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    (key.top_origin, key.cross_origin) = (None, true);
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    (key.cross_origin, key.left_over) = (false, vec![0]);
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    (key.left_over, key.says_more) = (Vec::new(), r#""type":"webauthn.create","#);
    world.login_key("a@b.co", &key).await.refused(401, GONE);
    (key.says_more, key.signature) = ("", Some(Vec::new()));
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    key.signature = None;
    // A key that could not leave its device can't have been copied.
    key.flags = PRESENT | SYNCED;
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    key.flags = PRESENT;
    world.login_key("a@b.co", &key).await.ok();
}

async fn a_challenge_works_once_in_time_and_for_what_it_was_made(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    world.with_key("a@b.co", &key).await;
    let login = async |email: &str, credential: &Value| {
        let body = json!({"email": email, "credential": credential});
        world.post("/api/login/passkey/verify", body).await
    };
    let credential = key.get(&world.login_options("a@b.co").await);
    login("a@b.co", &credential).await.ok();
    login("a@b.co", &credential).await.refused(401, GONE);
    // Used up by what fails as well.
    let options = world.login_options("a@b.co").await;
    login("a@b.co", &Key::es256().get(&options)).await.refused(401, REFUSED);
    login("a@b.co", &key.get(&options)).await.refused(401, GONE);
    // Another address's, another ceremony's, a made-up one.
    login("other@b.co", &key.get(&world.login_options("a@b.co").await)).await.refused(401, GONE);
    login("a@b.co", &key.get(&world.register_options("a@b.co").await)).await.refused(401, GONE);
    login("a@b.co", &key.get(&json!({"challenge": URL_SAFE_NO_PAD.encode([7; 32])}))).await.refused(401, GONE);
    login("a@b.co", &key.get(&json!({"challenge": ""}))).await.refused(401, GONE);
    let options = world.login_options("a@b.co").await;
    world.clock.advance_ms(CHALLENGE_LIFETIME_MS);
    login("a@b.co", &key.get(&options)).await.refused(401, GONE);

    let register = async |email: &str, options: &Value| {
        let body = json!({"email": email, "credential": Key::es256().create(options)});
        world.post("/api/register/passkey/verify", body).await
    };
    let options = world.register_options("n@b.co").await;
    register("m@b.co", &options).await.refused(400, GONE);
    register("N@b.co", &options).await.created();
    register("n@b.co", &options).await.refused(400, GONE);
    register("n@b.co", &world.login_options("n@b.co").await).await.refused(400, GONE);
    let options = world.register_options("n@b.co").await;
    world.clock.advance_ms(CHALLENGE_LIFETIME_MS);
    register("n@b.co", &options).await.refused(400, GONE);
}

async fn nobody_voids_anothers_ceremony(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    world.with_key("a@b.co", &key).await;
    let first = world.login_options("a@b.co").await;
    for _ in 0..5 {
        world.login_options("a@b.co").await;
    }
    let body = json!({"email": "a@b.co", "credential": key.get(&first)});
    world.post("/api/login/passkey/verify", body).await.ok();
}

async fn the_counter_must_grow_unless_there_is_none(on: Backend) {
    let world = world(on).await;
    let mut key = Key::es256();
    key.counter = 5;
    world.with_key("a@b.co", &key).await;
    for (counter, fine) in [(5, false), (4, false), (0, false), (6, true), (6, false), (1_000, true), (999, false)] {
        key.counter = counter;
        let answer = world.login_key("a@b.co", &key).await;
        assert_eq!(answer.status, if fine { 200 } else { 401 }, "{counter}");
    }
    let mut none = Key::es256();
    world.with_key("none@b.co", &none).await;
    world.login_key("none@b.co", &none).await.ok();
    world.login_key("none@b.co", &none).await.ok();
    none.counter = 1;
    world.login_key("none@b.co", &none).await.ok();
    none.counter = 0;
    world.login_key("none@b.co", &none).await.refused(401, REFUSED);
}

async fn of_two_uses_of_one_count_one_signs_in(on: Backend) {
    let world = world(on).await;
    let mut key = Key::es256();
    world.with_key("a@b.co", &key).await;
    key.counter = 1;
    let (one, two) = tokio::join!(world.login_key("a@b.co", &key), world.login_key("a@b.co", &key));
    assert_eq!(one.status + two.status, 601, "{one:?} {two:?}");
}

async fn adopted_keys_sign_in_and_their_backup_flag_is_learned(on: Backend) {
    let world = world(on).await;
    for (email, mut key) in [("e@b.co", Key::es256()), ("d@b.co", Key::ed25519()), ("r@b.co", Key::rs256())] {
        key.flags = PRESENT | SYNCED;
        world.adopt(email, &key).await;
        world.login_key(email, &key).await.ok();
        let row = world.store.find_passkey(&key.id).await.unwrap().unwrap();
        assert_eq!((row.key.backup_eligible, row.last_used_at), (Some(true), Some(world.clock.now_ms())));
        world.login_key(email, &key).await.ok();
        key.flags = PRESENT;
        world.login_key(email, &key).await.refused(401, REFUSED);
    }
    let bound = Key::es256();
    world.adopt("bound@b.co", &bound).await;
    world.login_key("bound@b.co", &bound).await.ok();
    let row = world.store.find_passkey(&bound.id).await.unwrap().unwrap();
    assert_eq!(row.key.backup_eligible, Some(false));
}

async fn a_key_says_whose_it_is(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    world.with_key("a@b.co", &key).await;
    let right = key.user_handle.lock().unwrap().clone();
    let row = world.store.find_passkey(&key.id).await.unwrap().unwrap();
    assert_eq!(row.key.user_handle.map(|handle| json!(URL_SAFE_NO_PAD.encode(handle))), Some(right.clone()));
    let says = |key: &Key, handle: Value| *key.user_handle.lock().unwrap() = handle;
    for wrong in [json!(URL_SAFE_NO_PAD.encode([7; 32])), json!(""), json!("*"), json!(7), json!([])] {
        says(&key, wrong.clone());
        let answer = world.login_key("a@b.co", &key).await;
        assert_eq!(answer.status, 401, "{wrong}: {}", answer.text);
    }
    for fine in [Value::Null, right] {
        says(&key, fine);
        world.login_key("a@b.co", &key).await.ok();
    }
    // What an adopted key says first is what it is held to, of either path.
    for (email, key) in [("e@b.co", Key::es256()), ("d@b.co", Key::ed25519())] {
        world.adopt(email, &key).await;
        world.login_key(email, &key).await.ok();
        says(&key, json!(URL_SAFE_NO_PAD.encode([1; 65])));
        world.login_key(email, &key).await.refused(401, REFUSED);
        says(&key, json!(URL_SAFE_NO_PAD.encode([1; 64])));
        world.login_key(email, &key).await.ok();
        says(&key, json!(URL_SAFE_NO_PAD.encode([2; 64])));
        world.login_key(email, &key).await.refused(401, REFUSED);
        says(&key, json!(URL_SAFE_NO_PAD.encode([1; 64])));
        world.login_key(email, &key).await.ok();
    }
}

async fn the_key_decides_who_is_signed_in(on: Backend) {
    let world = world(on).await;
    let (mine, yours) = (Key::es256(), Key::rs256());
    world.with_key("me@b.co", &mine).await;
    world.with_key("you@b.co", &yours).await;
    let session = world.login_key("me@b.co", &yours).await.ok();
    assert_eq!(session["user"]["email"], "you@b.co");
    let session = world.login_key("nobody@b.co", &mine).await.ok();
    assert_eq!(session["user"]["email"], "me@b.co");
}

async fn an_unverified_owner_is_told_so(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    world.post("/api/register", json!({"email": "a@b.co", "password": PASSWORD})).await.created();
    let user = world.accounts.find("a@b.co").await.unwrap().id;
    world.store.add_passkey(user, &key.adopted(), 20).await.unwrap();
    world.login_key("a@b.co", &key).await.refused(401, "Email not verified");
}

async fn a_locked_owner_is_refused(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    let user = world.with_key("a@b.co", &key).await;
    world.accounts.set_locked(user, true).await.unwrap();
    world.login_key("a@b.co", &key).await.refused(401, REFUSED);
    world.accounts.set_locked(user, false).await.unwrap();
    world.login_key("a@b.co", &key).await.ok();
}

async fn the_oldest_challenges_go_when_there_are_too_many(on: Backend) {
    let world = world(on).await;
    let put = async |n: u8| {
        let challenge = Challenge {
            value: [n; 32],
            ceremony: Ceremony::Login,
            subject: [0; 32],
            terms_accepted_at: None,
            expires_at: 1_000,
            state: "{}".into(),
        };
        world.store.put_challenge(&challenge, 3).await.unwrap();
    };
    for n in 1..=5 {
        put(n).await;
    }
    for (n, found) in [(1, false), (2, false), (3, true), (4, true), (5, true), (5, false)] {
        let taken = world.store.take_challenge(&[n; 32], Ceremony::Login, &[0; 32], 999).await.unwrap();
        assert_eq!(taken.is_some(), found, "{n}");
    }
    put(6).await;
    assert_eq!(world.store.delete_expired_sign_in(1_000, 0).await.unwrap(), 1);
}
