//! Registering with a passkey: the shapes of what is asked and answered, and whose key an account ends up with.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::Backend;
use crate::signin::authenticator::{Key, PRESENT, RP_ID, VERIFIED};
use crate::signin::world::{BAD_KEY, GONE, PASSWORD, REFUSED, works, world};

on_both_databases! {
    options_have_exactly_the_shapes_of_the_contract,
    bodies_are_judged_as_the_contract_says,
    keys_of_both_kinds_register_and_sign_in,
    nothing_that_is_wrong_registers,
    only_the_key_of_the_clicked_link_lives,
    a_key_that_somebody_has_is_not_taken_over,
}

/// Takes out what differs each time, after a look at it.
fn without_random(mut options: Value) -> Value {
    let random = |text: &Value| URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap().len();
    assert_eq!(random(&options["challenge"]), 32);
    options["challenge"] = json!("C");
    if options.get("user").is_some() {
        assert_eq!(random(&options["user"]["id"]), 32);
        options["user"]["id"] = json!("U");
    }
    options
}

async fn options_have_exactly_the_shapes_of_the_contract(on: Backend) {
    let world = world(on).await;
    world.with_key("known@b.co", &Key::es256()).await;
    for email in ["Known@b.co", "new@b.co"] {
        assert_eq!(
            without_random(world.register_options(email).await),
            json!({
                "challenge": "C", "rp": {"name": RP_ID, "id": RP_ID},
                "user": {"id": "U", "name": email, "displayName": email},
                "pubKeyCredParams": [
                    {"alg": -7, "type": "public-key"}, {"alg": -257, "type": "public-key"},
                ],
                "timeout": 60000, "attestation": "none", "excludeCredentials": [],
                "authenticatorSelection":
                    {"residentKey": "required", "userVerification": "preferred", "requireResidentKey": true},
                "extensions": {"credProps": true}, "hints": [],
            })
        );
        assert_eq!(
            without_random(world.login_options(email).await),
            json!({"rpId": RP_ID, "challenge": "C", "timeout": 60000, "userVerification": "preferred"})
        );
    }
}

async fn bodies_are_judged_as_the_contract_says(on: Backend) {
    let world = world(on).await;
    for path in ["/api/register/passkey/verify", "/api/login/passkey/verify"] {
        let missing = world.post(path, json!({})).await;
        assert_eq!(
            missing.faults(),
            [
                "Invalid input: expected string, received undefined",
                "Invalid input: expected object, received undefined"
            ]
        );
        let wrong = world.post(path, json!({"email": "a@b.co", "credential": "x"})).await;
        assert_eq!(wrong.faults(), ["Invalid input: expected object, received string"]);
    }
    let both = world.post("/api/recover/passkey/complete", json!({"token": ""})).await;
    assert_eq!(both.faults(), ["Token is required", "Invalid input: expected object, received undefined"]);
    for credential in [json!({}), json!({"id": "x", "rawId": "y", "type": "public-key", "response": {}})] {
        let body = json!({"email": "a@b.co", "credential": credential});
        world.post("/api/register/passkey/verify", body.clone()).await.refused(400, BAD_KEY);
        world.post("/api/login/passkey/verify", body).await.refused(401, REFUSED);
    }
}

async fn keys_of_both_kinds_register_and_sign_in(on: Backend) {
    let world = world(on).await;
    for (email, mut key) in [("e@b.co", Key::es256()), ("r@b.co", Key::rs256())] {
        let answer = world.register_key(email, &key).await.created();
        assert_eq!(
            answer,
            json!({"message": "Registration successful. Please check your email to verify your account."})
        );
        world.login_key(email, &key).await.refused(401, REFUSED);
        let token = world.link(email, "verify-email").await;
        world.post("/api/verify-email", json!({ "token": token })).await.ok();
        // Whether somebody proves who it is does not matter, and may change.
        for flags in [PRESENT, PRESENT | VERIFIED, PRESENT] {
            key.flags = flags;
            let session = world.login_key(email, &key).await.ok();
            assert_eq!(session["user"]["email"], email);
            assert!(works(&world, &session).await);
        }
    }
    let mut itself = Key::es256();
    itself.attests_itself = true;
    itself.format = "packed";
    world.register_key("p@b.co", &itself).await.created();
}

async fn nothing_that_is_wrong_registers(on: Backend) {
    type Spoil = fn(&mut Key);
    let world = world(on).await;
    let wrong: [(&str, Spoil); 14] = [
        ("origin", |key| key.origin = "https://sync.example.org.evil.example".into()),
        ("port", |key| key.origin = "https://sync.example.org:444".into()),
        ("relying party", |key| key.rp_id = "example.org".into()),
        ("nobody present", |key| key.flags = VERIFIED),
        ("ceremony", |key| key.ceremony = Some("webauthn.get")),
        ("framed", |key| key.cross_origin = true),
        ("framed by", |key| key.top_origin = Some("https://evil.example")),
        ("path", |key| key.origin += "/"),
        ("user in the origin", |key| key.origin = "https://me@sync.example.org".into()),
        ("Ed25519", |key| *key = Key::ed25519()),
        ("left over", |key| key.left_over = vec![0]),
        ("extensions that are not announced", |key| key.left_over = vec![0xa0]),
        ("backed up but not eligible", |key| key.flags = PRESENT | 0x10),
        ("format", |key| key.format = "made-up"),
    ];
    for (what, spoil) in wrong {
        let mut key = Key::es256();
        spoil(&mut key);
        let answer = world.register_key("a@b.co", &key).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        answer.refused(400, BAD_KEY);
    }
    // What says something twice names no challenge.
    for twice in [r#""origin":"https://evil.example","#, r#""challenge":"AAAA","#, r#""type":"webauthn.get","#] {
        let mut key = Key::es256();
        key.says_more = twice;
        world.register_key("a@b.co", &key).await.refused(400, GONE);
    }
    // A key that should have signed, and did not; or as another algorithm's key.
    let mut unsigned = Key::es256();
    unsigned.format = "packed";
    world.register_key("a@b.co", &unsigned).await.refused(400, BAD_KEY);
    let mut itself = Key::es256();
    (itself.attests_itself, itself.format, itself.signature) = (true, "packed", Some(vec![0x30, 0]));
    world.register_key("a@b.co", &itself).await.refused(400, BAD_KEY);
    // Another credential's id.
    let options = world.register_options("a@b.co").await;
    let mut credential = Key::es256().create(&options);
    credential["id"] = json!("AAAA");
    credential["rawId"] = json!("AAAA");
    let body = json!({"email": "a@b.co", "credential": credential});
    world.post("/api/register/passkey/verify", body).await.refused(400, BAD_KEY);
    assert_eq!(world.mails().await, 0);
    assert_eq!(world.accounts.list(0, 10).await.unwrap().len(), 0);
}

async fn only_the_key_of_the_clicked_link_lives(on: Backend) {
    let world = world(on).await;
    for clicked in 0..4 {
        let email = format!("owner{clicked}@b.co");
        let keys = [Key::es256(), Key::es256()];
        for key in &keys {
            world.register_key(&email, key).await.created();
        }
        world.post("/api/register", json!({"email": email, "password": PASSWORD})).await.created();
        world.post("/api/register/magic-link", json!({ "email": email })).await.created();
        let links = world.links(&email, "verify-email").await;
        let verify = |link: &String| world.post("/api/verify-email", json!({ "token": link }));
        // All at once: one wins, whichever it is.
        let answers = if clicked == 3 {
            futures_util::future::join_all(links.iter().map(verify)).await
        } else {
            vec![verify(&links[clicked]).await]
        };
        let won: Vec<usize> = (0..answers.len()).filter(|n| answers[*n].status == 200).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        let alive = if clicked == 3 { won[0] } else { clicked };
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(world.login_key(&email, key).await.status, if n == alive { 200 } else { 401 }, "{alive} {n}");
        }
        assert_eq!(world.login(&email, PASSWORD).await.status, if alive == 2 { 200 } else { 401 });
        for link in &links {
            world.post("/api/verify-email", json!({ "token": link })).await.refused(400, "Invalid verification token");
        }
    }
}

async fn a_key_that_somebody_has_is_not_taken_over(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    world.with_key("owner@b.co", &key).await;
    let mut copy = Key::es256();
    copy.id.clone_from(&key.id);
    world.with_key("thief@b.co", &copy).await;
    world.login_key("owner@b.co", &copy).await.refused(401, REFUSED);
    let session = world.login_key("thief@b.co", &key).await.ok();
    assert_eq!(session["user"]["email"], "owner@b.co");
}
