//! The passkeys of somebody signed in, and what an administrator's must do.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use supersync::accounts::{MAX_PASSKEYS, RECENT_MS};

use crate::harness::Backend;
use crate::signin::authenticator::{Key, PRESENT, SYNCED, VERIFIED};
use crate::signin::world::{BAD_KEY, GONE, PASSWORD, REFUSED, world};

on_both_databases! {
    an_administrator_s_key_verifies_its_user,
    keys_are_added_named_and_removed,
    a_change_needs_a_fresh_session_or_the_password,
    somebody_elses_keys_can_t_be_touched,
    the_last_way_in_stays,
    an_account_has_so_many_keys_and_no_more,
}

async fn an_administrator_s_key_verifies_its_user(on: Backend) {
    const UNVERIFIED: &str =
        "An administrator's passkey must ask for a PIN, a fingerprint or a face. Please use one that does.";
    let world = world(on).await;
    let mut key = Key::es256();
    let user = world.with_key("a@b.co", &key).await;
    world.login_key("a@b.co", &key).await.ok();
    world.accounts.set_admin(user, true).await.unwrap();
    world.login_key("a@b.co", &key).await.refused(401, UNVERIFIED);
    // Only to who has the key.
    let mut pretender = Key::es256();
    pretender.id.clone_from(&key.id);
    world.login_key("a@b.co", &pretender).await.refused(401, REFUSED);
    key.flags = PRESENT | VERIFIED;
    let session = world.login_key("a@b.co", &key).await.ok();

    // Keys that can't are not added.
    let token = session["token"].as_str().unwrap().to_owned();
    let options = world.post_as(&token, "/api/passkeys/options", json!({})).await.ok();
    assert_eq!(options["authenticatorSelection"]["userVerification"], "required");
    let mut other = Key::es256();
    let body = json!({"credential": other.create(&options), "name": "Other"});
    world.post_as(&token, "/api/passkeys/verify", body).await.refused(400, BAD_KEY);
    other.flags = PRESENT | VERIFIED;
    world.add_key(&token, &other, "Other").await.created();
    world.post("/api/recover/passkey", json!({"email": "a@b.co"})).await.ok();
    let link = world.link("a@b.co", "recover-passkey").await;
    let asked = world.post("/api/recover/passkey/options", json!({ "token": link })).await.ok();
    assert_eq!(asked["options"]["authenticatorSelection"]["userVerification"], "required");
    let body = json!({"token": link, "credential": Key::es256().create(&asked["options"])});
    world.post("/api/recover/passkey/complete", body).await.refused(400, BAD_KEY);
    // Nothing of this shows in what strangers are asked for.
    assert_eq!(world.login_options("a@b.co").await["userVerification"], "preferred");
}

async fn keys_are_added_named_and_removed(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let token = world.signed_in("a@b.co").await;
    let (first, mut second) = (Key::es256(), Key::es256());
    second.flags = PRESENT | SYNCED;
    let id = world.add_key(&token, &first, " Laptop ").await.created()["id"].as_str().unwrap().to_owned();
    world.add_key(&token, &second, "Phone").await.created();
    let options = world.post_as(&token, "/api/passkeys/options", json!({})).await.ok();
    let excluded: Vec<Value> =
        [&first, &second].map(|key| json!({"id": URL_SAFE_NO_PAD.encode(&key.id), "type": "public-key"})).into();
    assert_eq!(options["excludeCredentials"], json!(excluded));
    assert_eq!(options["user"]["name"], "a@b.co");
    world.add_key(&token, &first, "Again").await.refused(400, BAD_KEY);
    world.login_key("a@b.co", &second).await.ok();

    let keys = world.get_as(&token, "/api/passkeys").await.ok()["passkeys"].clone();
    assert_eq!(
        (&keys[0]["name"], &keys[0]["synced"], &keys[0]["lastUsedAt"]),
        (&json!("Laptop"), &json!(false), &Value::Null)
    );
    assert_eq!((&keys[1]["name"], &keys[1]["synced"]), (&json!("Phone"), &json!(true)));
    assert_eq!(keys[1]["lastUsedAt"], world.clock.now_ms());
    assert_eq!(keys[0]["transports"], json!(["internal", "hybrid"]));
    let path = format!("/api/passkeys/{id}");
    world.send("PATCH", &path, Some(&token), Some(&json!({"name": "Old laptop"}))).await.ok();
    assert_eq!(world.get_as(&token, "/api/passkeys").await.ok()["passkeys"][0]["name"], "Old laptop");
    world.send("DELETE", &path, Some(&token), None).await.ok();
    world.send("DELETE", &path, Some(&token), None).await.refused(404, "No such passkey");
    world.send("DELETE", "/api/passkeys/x", Some(&token), None).await.refused(404, "No such passkey");
    world.login_key("a@b.co", &first).await.refused(401, REFUSED);
    for (method, path) in [("GET", "/api/passkeys"), ("POST", "/api/passkeys/options"), ("DELETE", path.as_str())] {
        let answer = world.send(method, path, None, Some(&json!({}))).await;
        answer.refused(401, "Missing or invalid Authorization header");
    }
}

async fn a_change_needs_a_fresh_session_or_the_password(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let token = world.signed_in("a@b.co").await;
    let id = world.add_key(&token, &Key::es256(), "Laptop").await.created()["id"].as_str().unwrap().to_owned();
    let path = format!("/api/passkeys/{id}");
    world.clock.advance_ms(RECENT_MS);
    for body in [json!({}), json!({"currentPassword": null})] {
        let answer = world.send("DELETE", &path, Some(&token), Some(&body)).await;
        answer.refused(403, "Please sign in again to do this");
        assert_eq!(answer.body["code"], "REAUTH_REQUIRED");
        let answer = world.post_as(&token, "/api/passkeys/options", body).await;
        assert_eq!(answer.body["code"], "REAUTH_REQUIRED");
    }
    let wrong = json!({"currentPassword": "not the password"});
    world.post_as(&token, "/api/passkeys/options", wrong).await.refused(403, "The current password is wrong");
    let right = json!({ "currentPassword": PASSWORD });
    world.post_as(&token, "/api/passkeys/options", right.clone()).await.ok();
    world.send("DELETE", &path, Some(&token), Some(&right)).await.ok();
}

async fn somebody_elses_keys_can_t_be_touched(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    world.verified("me@b.co").await;
    world.verified("you@b.co").await;
    let (mine, yours) = (world.signed_in("me@b.co").await, world.signed_in("you@b.co").await);
    let id = world.add_key(&mine, &key, "Mine").await.created()["id"].as_str().unwrap().to_owned();
    let path = format!("/api/passkeys/{id}");
    world.send("DELETE", &path, Some(&yours), None).await.refused(404, "No such passkey");
    let rename = world.send("PATCH", &path, Some(&yours), Some(&json!({"name": "Yours"}))).await;
    rename.refused(404, "No such passkey");
    assert_eq!(world.get_as(&yours, "/api/passkeys").await.ok()["passkeys"], json!([]));
    // A ceremony that somebody else began.
    let options = world.post_as(&mine, "/api/passkeys/options", json!({})).await.ok();
    let body = json!({"credential": Key::es256().create(&options), "name": "Stolen"});
    world.post_as(&yours, "/api/passkeys/verify", body).await.refused(400, GONE);
    world.login_key("me@b.co", &key).await.ok();
}

async fn the_last_way_in_stays(on: Backend) {
    let world = crate::signin::world::world_with(on, false, |_| ()).await;
    let link = world.accounts.claim_link().await.unwrap().unwrap();
    let invite = secrecy::ExposeSecret::expose_secret(&link).rsplit_once('=').unwrap().1.to_owned();
    let mut key = Key::es256();
    key.flags = PRESENT | VERIFIED;
    let options = world.post("/api/register/passkey/options", json!({"email": "a@b.co", "invite": invite})).await.ok();
    let body = json!({"email": "a@b.co", "invite": invite, "credential": key.create(&options)});
    world.post("/api/register/passkey/verify", body).await.created();
    let session = world.login_key("a@b.co", &key).await.ok();
    let token = session["token"].as_str().unwrap();
    let id = world.get_as(token, "/api/passkeys").await.ok()["passkeys"][0]["id"].as_str().unwrap().to_owned();
    let remove = || async { world.send("DELETE", &format!("/api/passkeys/{id}"), Some(token), None).await };
    assert_eq!(remove().await.status, 409);
    let mut other = Key::es256();
    other.flags = PRESENT | VERIFIED;
    world.add_key(token, &other, "Other").await.created();
    remove().await.ok();
    world.login_key("a@b.co", &other).await.ok();
}

async fn an_account_has_so_many_keys_and_no_more(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let token = world.signed_in("a@b.co").await;
    let options = world.post_as(&token, "/api/passkeys/options", json!({})).await.ok();
    for n in 0..MAX_PASSKEYS {
        world.add_key(&token, &Key::es256(), &format!("Key {n}")).await.created();
    }
    let full = "This account has as many passkeys as it can have. Please remove one first.";
    world.post_as(&token, "/api/passkeys/options", json!({})).await.refused(409, full);
    let body = json!({"credential": Key::es256().create(&options), "name": "One more"});
    world.post_as(&token, "/api/passkeys/verify", body).await.refused(409, full);
}
