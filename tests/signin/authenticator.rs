//! An authenticator in software: makes keys and signs with them, in the shape in which browsers hand it on. Every part of
//! what it sends can be made wrong.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::Encoder;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

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
            attests_itself: false,
            format: "none",
        }
    }

    /// The public key in COSE.
    pub fn cose(&self) -> Vec<u8> {
        let mut cbor = Encoder::new(Vec::new());
        match &self.signer {
            Signer::Es256(pair) => {
                let point = pair.public_key().as_ref();
                cbor.map(5).unwrap().i8(1).unwrap().i8(2).unwrap().i8(3).unwrap().i8(-7).unwrap();
                cbor.i8(-1).unwrap().i8(1).unwrap().i8(-2).unwrap().bytes(&point[1..33]).unwrap();
                cbor.i8(-3).unwrap().bytes(&point[33..]).unwrap();
            }
            Signer::Ed25519(pair) => {
                cbor.map(4).unwrap().i8(1).unwrap().i8(1).unwrap().i8(3).unwrap().i8(-8).unwrap();
                cbor.i8(-1).unwrap().i8(6).unwrap().i8(-2).unwrap().bytes(pair.public_key().as_ref()).unwrap();
            }
            Signer::Rs256(key) => {
                use rsa::traits::PublicKeyParts as _;
                let key: &rsa::RsaPrivateKey = (**key).as_ref();
                let (n, e) = (key.n().to_bytes_be(), key.e().to_bytes_be());
                cbor.map(4).unwrap().i8(1).unwrap().i8(3).unwrap().i8(3).unwrap().i16(-257).unwrap();
                cbor.i8(-1).unwrap().bytes(&n).unwrap().i8(-2).unwrap().bytes(&e).unwrap();
            }
        }
        cbor.into_writer()
    }

    fn algorithm(&self) -> i16 {
        match self.signer {
            Signer::Es256(_) => -7,
            Signer::Ed25519(_) => -8,
            Signer::Rs256(_) => -257,
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
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
        let data = json!({
            "type": ceremony, "challenge": challenge, "origin": self.origin, "crossOrigin": self.cross_origin,
            "other_keys_can_be_added_here": "do not compare clientDataJSON against a template",
        });
        data.to_string().into_bytes()
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
        data
    }

    /// What `navigator.credentials.create()` gives for these options.
    pub fn create(&self, options: &Value) -> Value {
        let client_data = self.client_data("webauthn.create", options["challenge"].as_str().unwrap());
        let data = self.authenticator_data(true);
        let mut cbor = Encoder::new(Vec::new());
        cbor.map(3).unwrap().str("fmt").unwrap().str(self.format).unwrap().str("attStmt").unwrap();
        if self.attests_itself {
            let signature = self.sign(&[&data[..], &Sha256::digest(&client_data)].concat());
            cbor.map(2).unwrap().str("alg").unwrap().i16(self.algorithm()).unwrap();
            cbor.str("sig").unwrap().bytes(&signature).unwrap();
        } else {
            cbor.map(0).unwrap();
        }
        cbor.str("authData").unwrap().bytes(&data).unwrap();
        self.credential(&json!({
            "clientDataJSON": URL_SAFE_NO_PAD.encode(client_data),
            "attestationObject": URL_SAFE_NO_PAD.encode(cbor.into_writer()),
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
            "userHandle": null,
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
