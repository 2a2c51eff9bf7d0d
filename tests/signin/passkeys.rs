//! Registering and signing in with passkeys, and those of somebody signed in.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use supersync::accounts::{CHALLENGE_LIFETIME_MS, MAX_PASSKEYS, RECENT_MS};
use supersync::store::{Ceremony, Challenge, NewPasskey};

use crate::authenticator::{Key, PRESENT, RP_ID, SYNCED, VERIFIED, ed25519, es256, rs256};
use crate::harness::Backend;
use crate::world::{PASSWORD, World, works, world};

on_both_databases! {
    options_have_exactly_the_shapes_of_the_contract,
    bodies_are_judged_as_the_contract_says,
    keys_of_both_kinds_register_and_sign_in,
    keys_that_could_be_forged_for_don_t_register,
    adopted_keys_that_could_be_forged_for_don_t_sign_in,
    a_key_says_whose_it_is,
    an_administrator_s_key_verifies_its_user,
    nothing_that_is_wrong_registers,
    nothing_that_is_wrong_signs_in,
    a_challenge_works_once_in_time_and_for_what_it_was_made,
    nobody_voids_anothers_ceremony,
    the_counter_must_grow_unless_there_is_none,
    of_two_uses_of_one_count_one_signs_in,
    adopted_keys_sign_in_and_their_backup_flag_is_learned,
    the_key_decides_who_is_signed_in,
    an_unverified_owner_is_told_so,
    a_locked_owner_is_refused,
    only_the_key_of_the_clicked_link_lives,
    a_key_that_somebody_has_is_not_taken_over,
    keys_are_added_named_and_removed,
    a_change_needs_a_fresh_session_or_the_password,
    somebody_elses_keys_can_t_be_touched,
    the_last_way_in_stays,
    an_account_has_so_many_keys_and_no_more,
    the_oldest_challenges_go_when_there_are_too_many,
}

const GONE: &str = "Challenge expired or not found. Please try again.";
const BAD_KEY: &str = "Passkey verification failed. Please try again.";
const REFUSED: &str = "Authentication failed";

async fn register_options(world: &World, email: &str) -> Value {
    world.post("/api/register/passkey/options", json!({ "email": email })).await.ok()
}

async fn login_options(world: &World, email: &str) -> Value {
    world.post("/api/login/passkey/options", json!({ "email": email })).await.ok()
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
            without_random(register_options(&world, email).await),
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
            without_random(login_options(&world, email).await),
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
    let options = register_options(&world, "a@b.co").await;
    let mut credential = Key::es256().create(&options);
    credential["id"] = json!("AAAA");
    credential["rawId"] = json!("AAAA");
    let body = json!({"email": "a@b.co", "credential": credential});
    world.post("/api/register/passkey/verify", body).await.refused(400, BAD_KEY);
    assert_eq!(world.mails().await, 0);
    assert_eq!(world.accounts.list(0, 10).await.unwrap().len(), 0);
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
    login(other.get(&login_options(&world, "a@b.co").await)).await.refused(401, REFUSED);
    let mut pretender = Key::es256();
    pretender.id.clone_from(&key.id);
    login(pretender.get(&login_options(&world, "a@b.co").await)).await.refused(401, REFUSED);
    // The right signature under other data.
    let mut tampered = key.get(&login_options(&world, "a@b.co").await);
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
    let credential = key.get(&login_options(&world, "a@b.co").await);
    login("a@b.co", &credential).await.ok();
    login("a@b.co", &credential).await.refused(401, GONE);
    // Used up by what fails as well.
    let options = login_options(&world, "a@b.co").await;
    login("a@b.co", &Key::es256().get(&options)).await.refused(401, REFUSED);
    login("a@b.co", &key.get(&options)).await.refused(401, GONE);
    // Another address's, another ceremony's, a made-up one.
    login("other@b.co", &key.get(&login_options(&world, "a@b.co").await)).await.refused(401, GONE);
    login("a@b.co", &key.get(&register_options(&world, "a@b.co").await)).await.refused(401, GONE);
    login("a@b.co", &key.get(&json!({"challenge": URL_SAFE_NO_PAD.encode([7; 32])}))).await.refused(401, GONE);
    login("a@b.co", &key.get(&json!({"challenge": ""}))).await.refused(401, GONE);
    let options = login_options(&world, "a@b.co").await;
    world.clock.advance_ms(CHALLENGE_LIFETIME_MS);
    login("a@b.co", &key.get(&options)).await.refused(401, GONE);

    let register = async |email: &str, options: &Value| {
        let body = json!({"email": email, "credential": Key::es256().create(options)});
        world.post("/api/register/passkey/verify", body).await
    };
    let options = register_options(&world, "n@b.co").await;
    register("m@b.co", &options).await.refused(400, GONE);
    register("N@b.co", &options).await.created();
    register("n@b.co", &options).await.refused(400, GONE);
    register("n@b.co", &login_options(&world, "n@b.co").await).await.refused(400, GONE);
    let options = register_options(&world, "n@b.co").await;
    world.clock.advance_ms(CHALLENGE_LIFETIME_MS);
    register("n@b.co", &options).await.refused(400, GONE);
}

async fn nobody_voids_anothers_ceremony(on: Backend) {
    let world = world(on).await;
    let key = Key::es256();
    world.with_key("a@b.co", &key).await;
    let first = login_options(&world, "a@b.co").await;
    for _ in 0..5 {
        login_options(&world, "a@b.co").await;
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

/// A key as the old server stored it: nothing is known about its flags.
async fn adopt(world: &World, email: &str, key: &Key) {
    let user = world.verified(email).await;
    let row = NewPasskey {
        credential_id: key.id.clone(),
        public_key: key.cose(),
        counter: i64::from(key.counter),
        transports: None,
        backup_eligible: None,
        name: "Passkey".into(),
        created_at: 1,
        user_handle: None,
    };
    world.store.add_passkey(user, &row, 20).await.unwrap();
}

async fn adopted_keys_sign_in_and_their_backup_flag_is_learned(on: Backend) {
    let world = world(on).await;
    for (email, mut key) in [("e@b.co", Key::es256()), ("d@b.co", Key::ed25519()), ("r@b.co", Key::rs256())] {
        key.flags = PRESENT | SYNCED;
        adopt(&world, email, &key).await;
        world.login_key(email, &key).await.ok();
        let row = world.store.find_passkey(&key.id).await.unwrap().unwrap();
        assert_eq!((row.key.backup_eligible, row.last_used_at), (Some(true), Some(world.clock.now_ms())));
        world.login_key(email, &key).await.ok();
        key.flags = PRESENT;
        world.login_key(email, &key).await.refused(401, REFUSED);
    }
    let bound = Key::es256();
    adopt(&world, "bound@b.co", &bound).await;
    world.login_key("bound@b.co", &bound).await.ok();
    let row = world.store.find_passkey(&bound.id).await.unwrap().unwrap();
    assert_eq!(row.key.backup_eligible, Some(false));
}

/// Keys with which somebody could sign in who does not have them, in the form in which honest ones come.
fn forgeable() -> Vec<(&'static str, Vec<u8>)> {
    let modulus = |top: u8, last: u8| [&[top][..], &[0x55; 254], &[last]].concat();
    let honest = Key::es256().cose();
    let mut off_curve = honest.clone();
    *off_curve.last_mut().unwrap() ^= 1;
    let twice = [&[0xa6, 1, 2], &honest[1..]].concat();
    // The base point of P-384.
    let x = "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7";
    let y = "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f";
    let p384 = es256(&hex::decode(x).unwrap(), &hex::decode(y).unwrap());
    let p384 = [&p384[..6], &[2], &p384[7..]].concat();
    vec![
        ("off the curve", off_curve),
        ("no point", es256(&[0; 32], &[0; 32])),
        ("too large a number", es256(&[0xff; 32], &[0xff; 32])),
        ("half a point", es256(&[1; 32], &[1; 31])),
        ("exponent 1", rs256(&modulus(0xc0, 1), &[0, 0, 1])),
        ("exponent 1, short", rs256(&modulus(0xc0, 1), &[1])),
        ("exponent 2", rs256(&modulus(0xc0, 1), &[0, 0, 2])),
        ("exponent 3", rs256(&modulus(0xc0, 1), &[0, 0, 3])),
        ("exponent 65536", rs256(&modulus(0xc0, 1), &[1, 0, 0])),
        ("exponent 0", rs256(&modulus(0xc0, 1), &[0, 0, 0])),
        ("no exponent", rs256(&modulus(0xc0, 1), &[])),
        ("even modulus", rs256(&modulus(0xc0, 2), &[1, 0, 1])),
        ("short modulus", rs256(&modulus(0, 1), &[1, 0, 1])),
        ("1024 bits", rs256(&modulus(0xc0, 1)[..128], &[1, 0, 1])),
        ("a label twice", twice),
        ("another curve", p384),
        ("something after it", [&honest[..], &[0]].concat()),
        ("nothing", vec![0xa0]),
        ("no map", vec![0x80]),
    ]
}

async fn keys_that_could_be_forged_for_don_t_register(on: Backend) {
    let world = world(on).await;
    for (what, cose) in forgeable() {
        let mut key = Key::es256();
        key.public = Some(cose);
        let answer = world.register_key("a@b.co", &key).await;
        assert_eq!((answer.status, answer.body["error"].as_str()), (400, Some(BAD_KEY)), "{what}");
    }
    // Said twice in what is around the key.
    let options = register_options(&world, "a@b.co").await;
    let mut credential = Key::es256().create(&options);
    let object = URL_SAFE_NO_PAD.decode(credential["response"]["attestationObject"].as_str().unwrap()).unwrap();
    let twice = [&[0xa4][..], &object[1..], b"\x63fmt\x64none"].concat();
    credential["response"]["attestationObject"] = json!(URL_SAFE_NO_PAD.encode(twice));
    let body = json!({"email": "a@b.co", "credential": credential});
    world.post("/api/register/passkey/verify", body).await.refused(400, BAD_KEY);
    assert_eq!(world.mails().await, 0);
}

async fn adopted_keys_that_could_be_forged_for_don_t_sign_in(on: Backend) {
    let world = world(on).await;
    let number = |n: u8| [&[n][..], &[0; 31]].concat();
    let neutral = [&number(1)[..], &[0; 32]].concat();
    let mut bad = forgeable();
    let honest = Key::ed25519().cose();
    bad.extend([
        ("Ed25519, small order", ed25519(&number(1))),
        ("Ed25519, 0", ed25519(&number(0))),
        ("Ed25519, off the curve", ed25519(&number(2))),
        ("Ed25519, 1 as p + 1", ed25519(&[&[0xee][..], &[0xff; 30], &[0x7f]].concat())),
        ("Ed25519, 31 bytes", ed25519(&[7; 31])),
        ("Ed25519, a label twice", [&[0xa5, 1, 1], &honest[1..]].concat()),
        ("Ed25519, at length", [&[0xa4, 1, 1, 3, 0x38, 7], &honest[5..]].concat()),
    ]);
    for (n, (what, cose)) in bad.into_iter().enumerate() {
        let email = format!("a{n}@b.co");
        // A signature that fits the neutral point whatever was signed, and what exponents 1 to 3 make easy.
        for signature in [neutral.clone(), vec![0; 256], Vec::new()] {
            let mut key = Key::es256();
            (key.public, key.signature) = (Some(cose.clone()), Some(signature));
            if world.store.user_by_email(&email).await.unwrap().is_none() {
                adopt(&world, &email, &key).await;
            } else {
                let user = world.accounts.find(&email).await.unwrap().id;
                key.id.clone_from(&world.store.passkeys_of(user).await.unwrap()[0].key.credential_id);
            }
            let answer = world.login_key(&email, &key).await;
            assert_eq!((answer.status, answer.body["error"].as_str()), (401, Some(REFUSED)), "{what}");
        }
    }
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
        adopt(&world, email, &key).await;
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
    add(&world, &token, &other, "Other").await.created();
    world.post("/api/recover/passkey", json!({"email": "a@b.co"})).await.ok();
    let link = world.link("a@b.co", "recover-passkey").await;
    let asked = world.post("/api/recover/passkey/options", json!({ "token": link })).await.ok();
    assert_eq!(asked["options"]["authenticatorSelection"]["userVerification"], "required");
    let body = json!({"token": link, "credential": Key::es256().create(&asked["options"])});
    world.post("/api/recover/passkey/complete", body).await.refused(400, BAD_KEY);
    // Nothing of this shows in what strangers are asked for.
    assert_eq!(login_options(&world, "a@b.co").await["userVerification"], "preferred");
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
    let row = NewPasskey {
        credential_id: key.id.clone(),
        public_key: key.cose(),
        counter: 0,
        transports: None,
        backup_eligible: None,
        name: "Passkey".into(),
        created_at: 1,
        user_handle: None,
    };
    world.store.add_passkey(user, &row, 20).await.unwrap();
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

async fn add(world: &World, token: &str, key: &Key, name: &str) -> crate::world::Answer {
    let options = world.post_as(token, "/api/passkeys/options", json!({})).await.ok();
    world.post_as(token, "/api/passkeys/verify", json!({"credential": key.create(&options), "name": name})).await
}

async fn keys_are_added_named_and_removed(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let token = world.signed_in("a@b.co").await;
    let (first, mut second) = (Key::es256(), Key::es256());
    second.flags = PRESENT | SYNCED;
    let id = add(&world, &token, &first, " Laptop ").await.created()["id"].as_str().unwrap().to_owned();
    add(&world, &token, &second, "Phone").await.created();
    let options = world.post_as(&token, "/api/passkeys/options", json!({})).await.ok();
    let excluded: Vec<Value> =
        [&first, &second].map(|key| json!({"id": URL_SAFE_NO_PAD.encode(&key.id), "type": "public-key"})).into();
    assert_eq!(options["excludeCredentials"], json!(excluded));
    assert_eq!(options["user"]["name"], "a@b.co");
    add(&world, &token, &first, "Again").await.refused(400, BAD_KEY);
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
    let id = add(&world, &token, &Key::es256(), "Laptop").await.created()["id"].as_str().unwrap().to_owned();
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
    let id = add(&world, &mine, &key, "Mine").await.created()["id"].as_str().unwrap().to_owned();
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
    let world = crate::world::world_with(on, false, |_| ()).await;
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
    add(&world, token, &other, "Other").await.created();
    remove().await.ok();
    world.login_key("a@b.co", &other).await.ok();
}

async fn an_account_has_so_many_keys_and_no_more(on: Backend) {
    let world = world(on).await;
    world.verified("a@b.co").await;
    let token = world.signed_in("a@b.co").await;
    let options = world.post_as(&token, "/api/passkeys/options", json!({})).await.ok();
    for n in 0..MAX_PASSKEYS {
        add(&world, &token, &Key::es256(), &format!("Key {n}")).await.created();
    }
    let full = "This account has as many passkeys as it can have. Please remove one first.";
    world.post_as(&token, "/api/passkeys/options", json!({})).await.refused(409, full);
    let body = json!({"credential": Key::es256().create(&options), "name": "One more"});
    world.post_as(&token, "/api/passkeys/verify", body).await.refused(409, full);
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
