//! Checks keys and signatures of existing Ed25519 keys; new ones are not made. Everything else is checked by
//! [`super::ceremonies`], as for all keys.

use ring::signature::{ED25519, UnparsedPublicKey};

use super::WebauthnError;

/// An Ed25519 key in COSE, up to the point: `{1: 1 (OKP), 3: -8 (EdDSA), -1: 6 (Ed25519), -2: h'…'}`. This is its only
/// canonical encoding (CTAP 2.1, section 8), without optional members.
const START: [u8; 10] = [0xa4, 0x01, 0x01, 0x03, 0x27, 0x20, 0x06, 0x21, 0x58, 0x20];

/// The y coordinates, little-endian, of the eight points of small order: they have so few multiples that signatures
/// can be forged. (The points' x coordinates differ in sign only.)
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    number(1),
    // p - 1.
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

const fn number(n: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = n;
    bytes
}

/// An Ed25519 key.
pub(super) struct AdoptedEd25519<'a>(&'a [u8; 32]);

impl<'a> AdoptedEd25519<'a> {
    /// `None`: the key is of another kind, or not canonically encoded.
    pub(super) fn of(cose: &'a [u8]) -> Option<Self> {
        cose.strip_prefix(&START)?.try_into().ok().map(Self)
    }

    /// Whether the signature is valid. ring rejects keys off the curve.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), WebauthnError> {
        if !is_sound(self.0) {
            return Err(WebauthnError::PublicKey);
        }
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).map_err(|_| WebauthnError::Signature)
    }
}

/// Whether the bytes are canonical, below p = 2^255 - 19, and no point of small order.
fn is_sound(point: &[u8; 32]) -> bool {
    let mut y = *point;
    // The top bit is the sign of x.
    y[31] &= 0x7f;
    let is_canonical = y[31] != 0x7f || y[1..31].iter().any(|byte| *byte != 0xff) || y[0] < 0xed;
    is_canonical && !SMALL_ORDER.contains(&y)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn cose(point: &[u8]) -> Vec<u8> {
        [&START[..], point].concat()
    }

    fn refused(point: &[u8; 32], signature: &[u8; 64]) -> bool {
        // Many messages: a signature that fits one multiple of eight fits one in eight of them.
        (0..64_u8).all(|n| AdoptedEd25519::of(&cose(point)).unwrap().verify(&[n], signature).is_err())
    }

    #[test]
    fn an_honest_key_signs_and_only_in_its_one_form() {
        let pair = Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref());
        let pair = pair.unwrap();
        let (key, signature) = (cose(pair.public_key().as_ref()), pair.sign(b"x"));
        let verify = |message: &[u8]| AdoptedEd25519::of(&key).unwrap().verify(message, signature.as_ref());
        verify(b"x").unwrap();
        assert!(matches!(verify(b"y"), Err(WebauthnError::Signature)));
        let point = pair.public_key().as_ref();
        let mut others = vec![key[..41].to_vec(), [&key[..], &[0]].concat(), point.to_vec(), Vec::new()];
        // Members in another order, one twice, an optional one, another curve or algorithm.
        others.push([&[0xa4, 3, 0x27, 1, 1, 0x20, 6, 0x21, 0x58, 0x20], point].concat());
        others.push([&[0xa5, 1, 1, 1, 1, 3, 0x27, 0x20, 6, 0x21, 0x58, 0x20], point].concat());
        others.push([&[0xa5, 1, 1, 3, 0x27, 4, 0x80, 0x20, 6, 0x21, 0x58, 0x20], point].concat());
        others.push([&[0xa4, 1, 1, 3, 0x27, 0x20, 4, 0x21, 0x58, 0x20], point].concat());
        others.push([&[0xa4, 1, 1, 3, 0x26, 0x20, 6, 0x21, 0x58, 0x20], point].concat());
        for other in others {
            assert!(AdoptedEd25519::of(&other).is_none(), "{other:x?}");
        }
    }

    #[test]
    fn keys_of_small_order_fit_no_signature() {
        // R is the neutral point and S is 0: for such keys ring finds that in order.
        let mut signature = [0; 64];
        signature[0] = 1;
        let neutral = number(1);
        UnparsedPublicKey::new(&ED25519, neutral).verify(b"anything", &signature).expect("why this test exists");
        for y in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut point = y;
                point[31] |= sign;
                assert!(refused(&point, &signature), "{point:x?}");
                let fits = |n: u8| UnparsedPublicKey::new(&ED25519, point).verify(&[n], &signature).is_ok();
                // 0, p - 1 and the two of order eight: for some messages without this check.
                assert!(y == neutral || (0..=255).any(fits), "not of small order: {point:x?}");
            }
        }
    }

    #[test]
    fn numbers_have_one_form() {
        let mut signature = [0; 64];
        signature[0] = 1;
        // p + 1, which is 1 again; p, which is 0; the highest numbers.
        for low in [0xee, 0xed, 0xef, 0xff] {
            for high in [0x7f, 0xff] {
                let mut point = [0xff; 32];
                (point[0], point[31]) = (low, high);
                assert!(!is_sound(&point) && refused(&point, &signature), "{point:x?}");
            }
        }
        let mut largest = [0xff; 32];
        (largest[0], largest[31]) = (0xeb, 0x7f);
        assert!(is_sound(&largest), "p - 2");
    }

    #[test]
    fn points_off_the_curve_fit_no_signature() {
        // y = 2 belongs to no point.
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(is_sound(&number(2)) && refused(&number(2), &signature));
    }
}
