//! Public keys in COSE (RFC 9052, RFC 9053) and signatures by them.

use minicbor::Decoder;
use minicbor::data::Type;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

use super::WebauthnError;

const EDDSA: i64 = -8;
const ES256: i64 = -7;
const RS256: i64 = -257;

/// A public key.
pub(super) enum PublicKey<'a> {
    Ed25519(&'a [u8]),
    /// The point, uncompressed.
    P256([u8; 65]),
    Rsa {
        n: &'a [u8],
        e: &'a [u8],
    },
}

/// The members of a COSE key that any of the three kinds has. What -1 means depends on the kind: a curve or a modulus.
#[derive(Default)]
struct Members<'a> {
    kind: Option<i64>,
    algorithm: Option<i64>,
    curve: Option<i64>,
    modulus: Option<&'a [u8]>,
    second: Option<&'a [u8]>,
    third: Option<&'a [u8]>,
}

impl<'a> PublicKey<'a> {
    pub(super) fn parse(cose: &'a [u8]) -> Result<Self, WebauthnError> {
        let members = members(cose).ok_or(WebauthnError::PublicKey)?;
        Self::of(&members).ok_or(WebauthnError::PublicKey)
    }

    fn of(members: &Members<'a>) -> Option<Self> {
        match (members.kind?, members.algorithm?) {
            (1, EDDSA) if members.curve == Some(6) => members.second.filter(|x| x.len() == 32).map(Self::Ed25519),
            (2, ES256) if members.curve == Some(1) => {
                let (x, y): (&[u8; 32], &[u8; 32]) =
                    (members.second?.try_into().ok()?, members.third?.try_into().ok()?);
                let mut point = [4; 65];
                point[1..33].copy_from_slice(x);
                point[33..].copy_from_slice(y);
                Some(Self::P256(point))
            }
            (3, RS256) => {
                let (n, e) = (positive(members.modulus?), positive(members.second?));
                (n.len() >= 256 && !e.is_empty()).then_some(Self::Rsa { n, e })
            }
            _ => None,
        }
    }

    /// Whether the key's owner signed this.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), WebauthnError> {
        match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
            Self::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature),
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
        }
        .map_err(|_| WebauthnError::Signature)
    }

    /// The COSE number of the algorithm.
    pub(super) const fn algorithm(&self) -> i64 {
        match self {
            Self::Ed25519(_) => EDDSA,
            Self::P256(_) => ES256,
            Self::Rsa { .. } => RS256,
        }
    }
}

fn members(cose: &[u8]) -> Option<Members<'_>> {
    let mut decoder = Decoder::new(cose);
    let mut members = Members::default();
    for _ in 0..decoder.map().ok()?? {
        let label = decoder.i64().ok()?;
        match label {
            1 => members.kind = Some(decoder.i64().ok()?),
            3 => members.algorithm = Some(decoder.i64().ok()?),
            -1 if decoder.datatype().ok()? == Type::Bytes => members.modulus = Some(decoder.bytes().ok()?),
            -1 => members.curve = Some(decoder.i64().ok()?),
            -2 => members.second = Some(decoder.bytes().ok()?),
            -3 => members.third = Some(decoder.bytes().ok()?),
            _ => decoder.skip().ok()?,
        }
    }
    (decoder.position() == cose.len()).then_some(members)
}

/// A number's bytes without leading zeros, as ring wants them.
fn positive(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}
