//! What the authenticator says: relying party, flags, counter, and at registration the new key (`WebAuthn` level 3,
//! section 6.1).

use minicbor::Decoder;
use sha2::{Digest as _, Sha256};

use super::{MAX_CREDENTIAL_ID_BYTES, MAX_PUBLIC_KEY_BYTES, RelyingParty, WebauthnError};

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
            let (public_key, after) = split_item(after)?;
            if public_key.len() > MAX_PUBLIC_KEY_BYTES {
                return None;
            }
            key = Some(NewKey { credential_id, public_key });
            rest = after;
        }
        if flags & HAS_EXTENSIONS != 0 {
            rest = split_item(rest)?.1;
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
        if self.flags & BACKED_UP != 0 && !self.backup_eligible() {
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
}

/// The first CBOR item, and what follows it.
fn split_item(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut decoder = Decoder::new(bytes);
    decoder.skip().ok()?;
    bytes.split_at_checked(decoder.position())
}
