//! The examples of the specification itself: `WebAuthn` level 3, section "Test Vectors". And that nothing of a ceremony
//! reaches a log.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use supersync::webauthn::{
    AssertionResponse, Begun, Ceremonies, RegistrationResponse, RelyingParty, StoredKey, Verification, WebauthnError,
};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

fn ceremonies() -> Ceremonies {
    let rp = RelyingParty { id: "example.org".into(), name: "Example".into(), origin: "https://example.org".into() };
    Ceremonies::new(rp)
}

/// A ceremony that was begun with this challenge.
fn with_challenge(begun: &Begun, challenge: &[u8]) -> Begun {
    let mut state: Value = serde_json::from_str(&begun.state).unwrap();
    assert_eq!(state["challenge"], URL_SAFE_NO_PAD.encode(begun.challenge), "the library's state is as it was");
    state["challenge"] = URL_SAFE_NO_PAD.encode(challenge).into();
    Begun { challenge: challenge.try_into().unwrap_or_default(), state: state.to_string() }
}

struct Vector {
    name: String,
    vector: Value,
}

impl Vector {
    fn bytes(&self, part: &str, name: &str) -> Vec<u8> {
        hex::decode(self.vector[part][name].as_str().unwrap()).unwrap()
    }

    fn id(&self) -> Vec<u8> {
        hex::decode(self.vector["credential_id"].as_str().unwrap()).unwrap()
    }

    fn registration(&self) -> (Begun, RegistrationResponse) {
        let begun = ceremonies().begin_registration(&[], Verification::Preferred).unwrap();
        let response = RegistrationResponse {
            raw_id: self.id(),
            client_data: self.bytes("registration", "clientDataJSON"),
            attestation_object: self.bytes("registration", "attestationObject"),
            transports: None,
        };
        (with_challenge(&begun, &self.bytes("registration", "challenge")), response)
    }

    fn sign_in(&self) -> (Begun, AssertionResponse) {
        let response = AssertionResponse {
            raw_id: self.id(),
            client_data: self.bytes("authentication", "clientDataJSON"),
            authenticator_data: self.bytes("authentication", "authenticatorData"),
            signature: self.bytes("authentication", "signature"),
            user_handle: None,
        };
        let begun = ceremonies().begin_sign_in(Verification::Preferred).unwrap();
        (with_challenge(&begun, &self.bytes("authentication", "challenge")), response)
    }

    /// The key in COSE: what follows the credential's id in the attestation object. All of these have no extensions, and
    /// the authenticator data comes last.
    fn key(&self) -> Vec<u8> {
        let (object, id) = (self.bytes("registration", "attestationObject"), self.id());
        let at = object.windows(id.len()).rposition(|window| window == id).unwrap();
        object[at + id.len()..].to_vec()
    }

    fn signs_in_with(&self, key: &[u8], spoil: impl Fn(&mut AssertionResponse)) -> Result<(), WebauthnError> {
        let (begun, mut response) = self.sign_in();
        spoil(&mut response);
        let id = self.id();
        let stored =
            StoredKey { credential_id: &id, public_key: key, counter: 0, backup_eligible: None, user_handle: None };
        ceremonies().sign_in(&begun, &stored, &response).map(|_| ())
    }
}

fn vectors() -> Vec<Vector> {
    let all: Value = serde_json::from_str(include_str!("webauthn_vectors.json")).unwrap();
    let vectors = all["vectors"].as_array().unwrap().clone();
    vectors
        .into_iter()
        .map(|vector| Vector {
            name: vector["section"].as_str().unwrap().trim_start_matches("sctn-test-vectors-").to_owned(),
            vector,
        })
        .collect()
}

/// Name, whether it registers, whether it signs in.
const EXPECTED: [(&str, bool, bool); 15] = [
    ("none-es256", true, true),
    ("packed-self-es256", true, true),
    // Within another page.
    ("none-es256-crossOrigin", false, false),
    ("none-es256-topOrigin", false, false),
    ("none-es256-long-credential-id", true, true),
    ("packed-es256", true, true),
    // Kinds of keys that are not asked for. Of Ed25519, those that were made before sign in.
    ("packed-es384", false, false),
    ("packed-es512", false, false),
    // 3,482 bits, of which 3,481 are 1: no authenticator makes such keys.
    ("packed-rs256", false, false),
    ("packed-eddsa", false, true),
    ("packed-ed448", false, false),
    // Statements that nobody asks for, and that the library does not take: browsers send none of them unasked.
    ("tpm-es256", false, true),
    ("android-key-es256", false, true),
    ("apple-es256", true, true),
    ("fido-u2f-es256", true, true),
];

#[test]
fn the_specification_s_examples_are_judged_as_they_should_be() {
    let mut judged = Vec::new();
    for vector in vectors() {
        let (begun, response) = vector.registration();
        let made = ceremonies().register(&begun, &response);
        if let Ok(made) = &made {
            assert_eq!((&made.credential_id, &made.public_key), (&vector.id(), &vector.key()), "{}", vector.name);
        }
        let signed_in = vector.signs_in_with(&vector.key(), |_| ());
        if made.is_err() || signed_in.is_err() {
            println!("{}: {:?} {signed_in:?}", vector.name, made.as_ref().err());
        }
        judged.push((vector.name, made.is_ok(), signed_in.is_ok()));
    }
    let judged: Vec<_> = judged.iter().map(|(name, made, signed_in)| (name.as_str(), *made, *signed_in)).collect();
    assert_eq!(judged, EXPECTED);
}

#[test]
fn no_bit_of_an_example_can_be_changed() {
    for name in ["none-es256", "packed-eddsa"] {
        let vector = vectors().into_iter().find(|vector| vector.name == name).unwrap();
        let key = vector.key();
        let flip = |bytes: &mut Vec<u8>, bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
        let (_, response) = vector.sign_in();
        for bit in 0..8 * response.authenticator_data.len() {
            assert!(vector.signs_in_with(&key, |r| flip(&mut r.authenticator_data, bit)).is_err(), "{name} {bit}");
        }
        for bit in 0..8 * response.signature.len() {
            assert!(vector.signs_in_with(&key, |r| flip(&mut r.signature, bit)).is_err(), "{name} {bit}");
        }
        for bit in 0..8 * response.client_data.len() {
            assert!(vector.signs_in_with(&key, |r| flip(&mut r.client_data, bit)).is_err(), "{name} {bit}");
        }
        for bit in 0..8 * key.len() {
            let mut other = key.clone();
            flip(&mut other, bit);
            assert!(vector.signs_in_with(&other, |_| ()).is_err(), "{name} {bit}");
        }
    }
}

/// Takes everything at every level, and keeps where it came from.
#[derive(Clone, Default)]
struct Everything(Arc<Mutex<Vec<String>>>);

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(event.metadata().target().to_owned());
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn the_library_says_nothing_to_whatever_listens() {
    let everything = Everything::default();
    let heard = || everything.0.lock().unwrap().clone();
    tracing::subscriber::with_default(everything.clone(), || {
        for vector in vectors() {
            let (begun, response) = vector.registration();
            let _judged = ceremonies().register(&begun, &response);
            let _judged = vector.signs_in_with(&vector.key(), |_| ());
            let _judged = vector.signs_in_with(&vector.key(), |response| response.signature.clear());
            let _judged = vector.signs_in_with(&[0xa0], |_| ());
        }
        assert_eq!(heard(), Vec::<String>::new());
        tracing::trace!("after");
    });
    assert!(heard().iter().any(|target| *target == module_path!()), "it listened: {:?}", heard());
}
