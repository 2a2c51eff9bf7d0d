//! What the browser says it did: the JSON text that the authenticator signs the hash of.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{RelyingParty, WebauthnError};

/// The longest accepted text, in bytes.
const MAX_BYTES: usize = 8 * 1024;

/// The members that are checked; others are allowed. A duplicate is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClientData {
    #[serde(rename = "type")]
    ceremony: String,
    challenge: String,
    origin: String,
    #[serde(default)]
    cross_origin: Option<bool>,
    /// The origin of an embedding page.
    #[serde(default)]
    top_origin: Option<String>,
}

impl ClientData {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, WebauthnError> {
        if bytes.len() > MAX_BYTES {
            return Err(WebauthnError::ClientData);
        }
        serde_json::from_slice(bytes).map_err(|_| WebauthnError::ClientData)
    }

    pub(super) fn challenge(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(&self.challenge).ok()
    }

    /// `ceremony`: `webauthn.create` or `webauthn.get`.
    pub(super) fn check(&self, ceremony: &str, challenge: &[u8], rp: &RelyingParty) -> Result<(), WebauthnError> {
        if self.ceremony != ceremony {
            return Err(WebauthnError::Ceremony);
        }
        if self.challenge().is_none_or(|given| given != challenge) {
            return Err(WebauthnError::Challenge);
        }
        if self.origin != rp.origin {
            return Err(WebauthnError::Origin);
        }
        if self.cross_origin == Some(true) || self.top_origin.is_some() {
            return Err(WebauthnError::CrossOrigin);
        }
        Ok(())
    }
}
