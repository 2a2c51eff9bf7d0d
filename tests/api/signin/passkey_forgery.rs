//! Keys with which somebody could sign in who does not have them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::harness::Backend;
use crate::signin::authenticator::{Key, ed25519, es256, rs256};
use crate::signin::world::{BAD_KEY, REFUSED, world};

on_both_databases! {
    keys_that_could_be_forged_for_don_t_register,
    adopted_keys_that_could_be_forged_for_don_t_sign_in,
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
    let options = world.register_options("a@b.co").await;
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
                world.adopt(&email, &key).await;
            } else {
                let user = world.accounts.find(&email).await.unwrap().id;
                key.id.clone_from(&world.store.passkeys_of(user).await.unwrap()[0].key.credential_id);
            }
            let answer = world.login_key(&email, &key).await;
            assert_eq!((answer.status, answer.body["error"].as_str()), (401, Some(REFUSED)), "{what}");
        }
    }
}
