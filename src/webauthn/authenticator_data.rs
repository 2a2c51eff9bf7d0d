//! What the authenticator says: relying party, flags, counter, and at registration the new key (`WebAuthn` level 3,
//! sections 6.1 and 6.5). Parsed strictly, before the library: no trailing bytes, no duplicate CBOR labels.

use serde::Deserialize as _;
use serde_cbor_2::{Deserializer, Value};
use sha2::{Digest as _, Sha256};

use super::{MAX_CREDENTIAL_ID_BYTES, MAX_PUBLIC_KEY_BYTES, RelyingParty, WebauthnError};

/// The largest attestation object, in bytes.
const MAX_ATTESTATION_BYTES: usize = 64 * 1024;

const USER_PRESENT: u8 = 0x01;
const USER_VERIFIED: u8 = 0x04;
const BACKUP_ELIGIBLE: u8 = 0x08;
const BACKED_UP: u8 = 0x10;
const HAS_KEY: u8 = 0x40;
const HAS_EXTENSIONS: u8 = 0x80;

pub(super) struct AuthenticatorData<'a> {
    rp_id_hash: &'a [u8],
    flags: u8,
    pub(super) counter: u32,
    pub(super) key: Option<NewKey<'a>>,
}

/// A key that was made just now.
pub(super) struct NewKey<'a> {
    pub(super) credential_id: &'a [u8],
    /// COSE.
    pub(super) public_key: &'a [u8],
}

impl<'a> AuthenticatorData<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, WebauthnError> {
        Self::read(bytes).ok_or(WebauthnError::AuthenticatorData)
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (rp_id_hash, rest) = bytes.split_at_checked(32)?;
        let (&flags, rest) = rest.split_first()?;
        let (counter, mut rest) = rest.split_first_chunk::<4>()?;
        let mut key = None;
        if flags & HAS_KEY != 0 {
            let (_model, after) = rest.split_at_checked(16)?;
            let (length, after) = after.split_first_chunk::<2>()?;
            let length = usize::from(u16::from_be_bytes(*length));
            if length == 0 || length > MAX_CREDENTIAL_ID_BYTES {
                return None;
            }
            let (credential_id, after) = after.split_at_checked(length)?;
            let (_, public_key, after) = split_item(after)?;
            if public_key.len() > MAX_PUBLIC_KEY_BYTES {
                return None;
            }
            key = Some(NewKey { credential_id, public_key });
            rest = after;
        }
        if flags & HAS_EXTENSIONS != 0 {
            let (extensions, _, after) = split_item(rest)?;
            matches!(extensions, Value::Map(_)).then_some(())?;
            rest = after;
        }
        let counter = u32::from_be_bytes(*counter);
        rest.is_empty().then_some(Self { rp_id_hash, flags, counter, key })
    }

    /// Relying party, presence, and flags that don't contradict each other.
    pub(super) fn check(&self, rp: &RelyingParty) -> Result<(), WebauthnError> {
        if self.rp_id_hash != &Sha256::digest(rp.id.as_bytes())[..] {
            return Err(WebauthnError::RelyingParty);
        }
        if self.flags & USER_PRESENT == 0 {
            return Err(WebauthnError::UserNotPresent);
        }
        if self.backed_up() && !self.backup_eligible() {
            return Err(WebauthnError::BackupFlags);
        }
        Ok(())
    }

    pub(super) const fn user_verified(&self) -> bool {
        self.flags & USER_VERIFIED != 0
    }

    pub(super) const fn backup_eligible(&self) -> bool {
        self.flags & BACKUP_ELIGIBLE != 0
    }

    pub(super) const fn backed_up(&self) -> bool {
        self.flags & BACKED_UP != 0
    }
}

/// The authenticator data within an attestation object.
pub(super) fn of_attestation(object: &[u8]) -> Result<Vec<u8>, WebauthnError> {
    if object.len() > MAX_ATTESTATION_BYTES {
        return Err(WebauthnError::Attestation);
    }
    let Some((Value::Map(members), _, [])) = split_item(object) else { return Err(WebauthnError::Attestation) };
    match members.get(&Value::Text("authData".to_owned())) {
        Some(Value::Bytes(data)) => Ok(data.clone()),
        _ => Err(WebauthnError::Attestation),
    }
}

/// The first CBOR item, its bytes, and the rest. `None`: there is none, or it has duplicate labels or overlong
/// encodings.
///
/// Either makes an item shorter when re-encoded. The order of a map's entries is not checked.
pub(super) fn split_item(bytes: &[u8]) -> Option<(Value, &[u8], &[u8])> {
    let mut reader = Deserializer::from_slice(bytes);
    let item = Value::deserialize(&mut reader).ok()?;
    let (read, rest) = bytes.split_at_checked(reader.byte_offset())?;
    (serde_cbor_2::to_vec(&item).ok()?.len() == read.len()).then_some((item, read, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_or_at_length_is_no_item() {
        for (bytes, fine) in [
            (&[0xa2, 1, 2, 3, 0x26][..], true),
            // The order of entries is not checked.
            (&[0xa2, 3, 0x26, 1, 2], true),
            // Duplicate labels, with one value or two.
            (&[0xa2, 1, 2, 1, 2], false),
            (&[0xa2, 1, 2, 1, 3], false),
            // The same label in another length.
            (&[0xa2, 1, 2, 0x18, 1, 3], false),
            (&[0xa1, 0x18, 1, 2], false),
            // Within another item.
            (&[0x81, 0xa2, 1, 2, 1, 2], false),
            // Of indefinite length.
            (&[0xbf, 1, 2, 0xff], false),
            (&[0x5f, 0x41, 1, 0xff], false),
            // Cut off, and a length that nothing follows.
            (&[0xa2, 1, 2, 3], false),
            (&[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false),
            (&[0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff], false),
            (&[], false),
        ] {
            assert_eq!(split_item(bytes).is_some(), fine, "{bytes:x?}");
        }
        let (_, read, rest) = split_item(&[0xa1, 1, 2, 9, 9]).unwrap();
        assert_eq!((read, rest), (&[0xa1, 1, 2][..], &[9, 9][..]));
    }

    #[test]
    fn every_byte_of_authenticator_data_is_accounted_for() {
        let start = |flags: u8| [&[7; 32][..], &[flags], &[0, 0, 0, 1]].concat();
        assert!(AuthenticatorData::read(&start(USER_PRESENT)).is_some());
        assert!(AuthenticatorData::read(&start(USER_PRESENT)[..36]).is_none());
        assert!(AuthenticatorData::read(&[&start(USER_PRESENT)[..], &[0]].concat()).is_none(), "left over");
        assert!(AuthenticatorData::read(&start(HAS_EXTENSIONS)).is_none(), "none where some should be");
        assert!(AuthenticatorData::read(&[&start(HAS_EXTENSIONS)[..], &[0xa0]].concat()).is_some());
        assert!(AuthenticatorData::read(&[&start(HAS_EXTENSIONS)[..], &[1]].concat()).is_none(), "no map");
        assert!(AuthenticatorData::read(&[&start(HAS_EXTENSIONS)[..], &[0xa0, 0]].concat()).is_none(), "left over");
        let key = [&start(HAS_KEY)[..], &[0; 16], &[0, 1, 9], &[0xa0]].concat();
        assert_eq!(AuthenticatorData::read(&key).unwrap().key.unwrap().credential_id, [9]);
        assert!(AuthenticatorData::read(&key[..key.len() - 1]).is_none(), "no key");
        let nameless = [&start(HAS_KEY)[..], &[0; 16], &[0, 0], &[0xa0]].concat();
        assert!(AuthenticatorData::read(&nameless).is_none(), "no id");
    }
}
