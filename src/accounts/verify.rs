//! Proving an address by its mailed link (accounts contract, section 4.2).

use secrecy::{ExposeSecret as _, SecretString};

use super::queue::Caller;
use super::{AccountError, Accounts, Asker, link};
use crate::store::{PeekedVerification, SecurityKind, SessionMethod, StoreError};

/// The credentials of a verified account, besides mailed links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Those registered, if any.
    AsRegistered,
    /// The password given now.
    NewPassword,
    /// None: the registered ones came from another browser.
    WithoutPassword,
}

impl Accounts {
    /// Uses a verification link up: the account is verified. The link's registered credentials count if `secret` is
    /// that of the registering browser ([`super::Receipt`]); a `password` given now counts in any case, and has passed
    /// [`super::check_new_password`]. All other credentials become void.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn verify_email(
        &self,
        token: &str,
        secret: Option<&SecretString>,
        password: Option<&SecretString>,
    ) -> Result<Verified, AccountError> {
        let inner = &*self.inner;
        let hash = link::hash(token);
        let found = inner.store.peek_verification_link(&hash).await?.ok_or(AccountError::VerificationInvalid)?;
        let now_ms = inner.clock.now_ms();
        if found.expires_at <= now_ms {
            return Err(AccountError::VerificationExpired);
        }
        // An account that the operator has verified meanwhile keeps its password: a link that anybody could have asked
        // for must not replace it.
        if inner.store.user_by_id(found.user).await?.is_none_or(|user| user.is_verified) {
            return Err(AccountError::VerificationInvalid);
        }
        let password_hash = match password {
            Some(password) => Some(inner.passwords.admit(Caller::Anybody)?.hash(password).await?),
            None => None,
        };
        let registrant = secret.map(|secret| link::hash(secret.expose_secret()));
        let take = inner.store.take_verification_link(&hash, now_ms, registrant.as_ref(), password_hash.as_deref());
        self.revoking(found.user, take).await?.ok_or(AccountError::VerificationInvalid)?;
        metrics::counter!("supersync_verifications_total").increment(1);
        let verified = if password.is_some() {
            Verified::NewPassword
        } else if counts(&found, registrant.as_ref()) {
            Verified::AsRegistered
        } else {
            Verified::WithoutPassword
        };
        tracing::info!(user_id = found.user, ?verified, "address verified");
        let asker = Asker::default().by(SessionMethod::MagicLink);
        self.note(found.user, SecurityKind::AddressVerified, &asker).await;
        Ok(verified)
    }

    /// Whether the link's registered credentials count with this secret; also `true` for an invalid link, which fails
    /// when used.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn registered_here(&self, token: &str, secret: Option<&SecretString>) -> Result<bool, StoreError> {
        let found = self.inner.store.peek_verification_link(&link::hash(token)).await?;
        let registrant = secret.map(|secret| link::hash(secret.expose_secret()));
        Ok(found.is_none_or(|found| counts(&found, registrant.as_ref())))
    }
}

/// Whether the link's credentials, if any, count with the secret of this hash.
fn counts(link: &PeekedVerification, registrant: Option<&[u8; 32]>) -> bool {
    !link.has_credential || registrant.is_some_and(|given| link.registrant.as_deref() == Some(given))
}
