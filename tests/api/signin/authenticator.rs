//! An authenticator in software: makes keys and signs with them, in the shape in which browsers hand it on. Every part of
//! what it sends can be made wrong.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use supersync::store::NewPasskey;

pub const ORIGIN: &str = "https://sync.example.org";
pub const RP_ID: &str = "sync.example.org";

/// Somebody was there.
pub const PRESENT: u8 = 0x01;
/// And proved who it was.
pub const VERIFIED: u8 = 0x04;
/// The key may leave its device, and has.
pub const SYNCED: u8 = 0x18;

enum Signer {
    Es256(Box<EcdsaKeyPair>),
    Ed25519(Ed25519KeyPair),
    Rs256(Box<rsa::pkcs1v15::SigningKey<rsa::sha2::Sha256>>),
}

/// The start of a CBOR item.
fn head(kind: u8, n: usize) -> Vec<u8> {
    match u8::try_from(n) {
        Ok(n) if n < 24 => vec![kind << 5 | n],
        Ok(n) => vec![kind << 5 | 0x18, n],
        Err(_) => [&[kind << 5 | 0x19][..], &u16::try_from(n).unwrap().to_be_bytes()].concat(),
    }
}

fn text(text: &str) -> Vec<u8> {
    [&head(3, text.len())[..], text.as_bytes()].concat()
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [&head(2, bytes.len())[..], bytes].concat()
}

fn int(n: i16) -> Vec<u8> {
    if n < 0 { head(1, usize::try_from(-1 - n).unwrap()) } else { head(0, usize::try_from(n).unwrap()) }
}

/// A key on P-256 in COSE.
pub fn es256(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21][..], &bytes(x), &[0x22], &bytes(y)].concat()
}

/// A key of Ed25519 in COSE.
pub fn ed25519(point: &[u8]) -> Vec<u8> {
    [&[0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21][..], &bytes(point)].concat()
}

/// An RSA key in COSE.
pub fn rs256(n: &[u8], e: &[u8]) -> Vec<u8> {
    [&[0xa4, 1, 3, 3, 0x39, 1, 0, 0x20][..], &bytes(n), &[0x21], &bytes(e)].concat()
}

/// A key in an authenticator, and how it behaves.
pub struct Key {
    signer: Signer,
    pub id: Vec<u8>,
    pub flags: u8,
    pub counter: u32,
    pub origin: String,
    pub rp_id: String,
    pub ceremony: Option<&'static str>,
    pub cross_origin: bool,
    pub top_origin: Option<&'static str>,
    /// Further members of the client data, as they stand in JSON.
    pub says_more: &'static str,
    /// What it says whose key it is: what it was told when it made the key, until somebody says otherwise.
    pub user_handle: Mutex<Value>,
    /// The public key, if not its own.
    pub public: Option<Vec<u8>>,
    /// The signature, if not its own.
    pub signature: Option<Vec<u8>>,
    /// What follows the authenticator data's parts.
    pub left_over: Vec<u8>,
    /// Signs at registration too.
    pub attests_itself: bool,
    pub format: &'static str,
}

impl Key {
    pub fn es256() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
        Self::of(Signer::Es256(Box::new(pair)))
    }

    pub fn ed25519() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::of(Signer::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()))
    }

    pub fn rs256() -> Self {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        Self::of(Signer::Rs256(Box::new(rsa::pkcs1v15::SigningKey::new(key))))
    }

    fn of(signer: Signer) -> Self {
        Self {
            signer,
            id: rand::random::<[u8; 24]>().to_vec(),
            flags: PRESENT,
            counter: 0,
            origin: ORIGIN.into(),
            rp_id: RP_ID.into(),
            ceremony: None,
            cross_origin: false,
            top_origin: None,
            says_more: "",
            user_handle: Mutex::new(Value::Null),
            public: None,
            signature: None,
            left_over: Vec::new(),
            attests_itself: false,
            format: "none",
        }
    }

    /// The public key in COSE.
    pub fn cose(&self) -> Vec<u8> {
        if let Some(public) = &self.public {
            return public.clone();
        }
        match &self.signer {
            Signer::Es256(pair) => {
                let point = pair.public_key().as_ref();
                es256(&point[1..33], &point[33..])
            }
            Signer::Ed25519(pair) => ed25519(pair.public_key().as_ref()),
            Signer::Rs256(key) => {
                use rsa::traits::PublicKeyParts as _;
                let key: &rsa::RsaPrivateKey = (**key).as_ref();
                rs256(&key.n().to_bytes_be(), &key.e().to_bytes_be())
            }
        }
    }

    /// The key as the old server stored it: nothing is known about its flags.
    pub fn adopted(&self) -> NewPasskey {
        NewPasskey {
            credential_id: self.id.clone(),
            public_key: self.cose(),
            counter: i64::from(self.counter),
            transports: None,
            backup_eligible: None,
            name: "Passkey".into(),
            created_at: 1,
            user_handle: None,
        }
    }

    fn algorithm(&self) -> i16 {
        match self.signer {
            Signer::Es256(_) => -7,
            Signer::Ed25519(_) => -8,
            Signer::Rs256(_) => -257,
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        if let Some(signature) = &self.signature {
            return signature.clone();
        }
        match &self.signer {
            Signer::Es256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Signer::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Signer::Rs256(key) => {
                use rsa::signature::{SignatureEncoding as _, Signer as _};
                key.sign(message).to_vec()
            }
        }
    }

    fn client_data(&self, ceremony: &str, challenge: &str) -> Vec<u8> {
        let ceremony = self.ceremony.unwrap_or(ceremony);
        let mut data = json!({
            "type": ceremony, "challenge": challenge, "origin": self.origin, "crossOrigin": self.cross_origin,
            "other_keys_can_be_added_here": "do not compare clientDataJSON against a template",
        });
        if let Some(top_origin) = self.top_origin {
            data["topOrigin"] = top_origin.into();
        }
        data.to_string().replacen('{', &format!("{{{}", self.says_more), 1).into_bytes()
    }

    fn authenticator_data(&self, with_key: bool) -> Vec<u8> {
        let mut data = Sha256::digest(self.rp_id.as_bytes()).to_vec();
        data.push(self.flags | if with_key { 0x40 } else { 0 });
        data.extend(self.counter.to_be_bytes());
        if with_key {
            data.extend([0; 16]);
            data.extend(u16::try_from(self.id.len()).unwrap().to_be_bytes());
            data.extend(&self.id);
            data.extend(self.cose());
        }
        data.extend(&self.left_over);
        data
    }

    /// What `navigator.credentials.create()` gives for these options.
    pub fn create(&self, options: &Value) -> Value {
        self.user_handle.lock().unwrap().clone_from(&options["user"]["id"]);
        let client_data = self.client_data("webauthn.create", options["challenge"].as_str().unwrap());
        let data = self.authenticator_data(true);
        let statement = if self.attests_itself {
            let signature = self.sign(&[&data[..], &Sha256::digest(&client_data)].concat());
            [&head(5, 2)[..], &text("alg"), &int(self.algorithm()), &text("sig"), &bytes(&signature)].concat()
        } else {
            head(5, 0)
        };
        let (format, data) = (text(self.format), bytes(&data));
        let object = [&head(5, 3)[..], &text("fmt"), &format, &text("attStmt"), &statement, &text("authData"), &data];
        self.credential(&json!({
            "clientDataJSON": URL_SAFE_NO_PAD.encode(client_data),
            "attestationObject": URL_SAFE_NO_PAD.encode(object.concat()),
            "transports": ["internal", "hybrid"],
            "publicKeyAlgorithm": self.algorithm(),
        }))
    }

    /// What `navigator.credentials.get()` gives for these options.
    pub fn get(&self, options: &Value) -> Value {
        let client_data = self.client_data("webauthn.get", options["challenge"].as_str().unwrap());
        let data = self.authenticator_data(false);
        let signature = self.sign(&[&data[..], &Sha256::digest(&client_data)].concat());
        self.credential(&json!({
            "clientDataJSON": URL_SAFE_NO_PAD.encode(client_data),
            "authenticatorData": URL_SAFE_NO_PAD.encode(data),
            "signature": URL_SAFE_NO_PAD.encode(signature),
            "userHandle": *self.user_handle.lock().unwrap(),
        }))
    }

    fn credential(&self, response: &Value) -> Value {
        let id = URL_SAFE_NO_PAD.encode(&self.id);
        json!({
            "id": id, "rawId": id, "type": "public-key", "response": response,
            "authenticatorAttachment": "platform", "clientExtensionResults": {},
        })
    }
}
