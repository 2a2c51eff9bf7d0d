//! Passkeys: registering, signing in and recovering with one (accounts contract, sections 4.5 to 4.7 and 6), and those
//! of somebody signed in.
//!
//! A ceremony has two requests, and any instance may serve either: what the second one needs to know of the first is in
//! the store, found by the challenge itself. So nobody can void anybody else's ceremony, and an address can have
//! several under way. A challenge is used up by the first answer that names it, right or wrong.

use super::link;
use super::{AccountError, Accounts, Address, Applicant, Asker, AuthUser, Receipt, Session, SessionOrigin};
use crate::protocol::UserId;
use crate::store::{
    Ceremony, Challenge, NewPasskey, OneTimeToken, PasskeyRow, PasskeyUse, SecurityKind, SessionMethod, StoreError,
    TokenPurpose, Unique,
};
use crate::webauthn::{
    Assertion, AssertionResponse, Begun, RegistrationResponse, RelyingParty, StoredKey, Verification, WebauthnError,
    challenge_of,
};

/// How long a challenge can be used: 5 minutes (accounts contract, section 3).
pub const CHALLENGE_LIFETIME_MS: i64 = 5 * 60 * 1000;
/// How many challenges are kept; the oldest go first. At 50 per address and quarter of an hour, no single client gets
/// near it.
const MAX_CHALLENGES: i64 = 100_000;
/// How many passkeys an account has at most.
pub const MAX_PASSKEYS: i64 = 20;
/// What a passkey is called until its owner says otherwise.
const UNNAMED: &str = "Passkey";

/// What a browser needs to make a key.
pub struct Creation {
    /// What the authenticator is to sign.
    pub challenge: [u8; 32],
    /// The account's address.
    pub email: String,
    /// Keys that the authenticator must not have already.
    pub exclude: Vec<Vec<u8>>,
    /// Whether user verification is required.
    pub verification: Verification,
}

impl Accounts {
    /// Whom passkeys are made for.
    #[must_use]
    pub fn relying_party(&self) -> &RelyingParty {
        self.inner.ceremonies.relying_party()
    }

    /// Begins a registration. Never looks at the account, so the answer can't tell about it.
    ///
    /// # Errors
    /// When the applicant may not register or the database fails.
    pub async fn begin_passkey_registration(&self, who: &Applicant, as_sent: String) -> Result<Creation, AccountError> {
        let is_admin = self.admit(who).await?.makes_admin();
        let terms_accepted_at = who.terms_accepted.then(|| self.inner.clock.now_ms());
        let subject = who.address.as_str();
        self.begin_creation(Ceremony::Register, subject, as_sent, is_admin, Vec::new(), terms_accepted_at).await
    }

    /// Registers an address with a passkey, which takes effect with the link that is mailed.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn register_with_passkey(
        &self,
        who: &Applicant,
        response: &RegistrationResponse,
    ) -> Result<Receipt, AccountError> {
        let admission = self.admit(who).await?;
        let (begun, terms_accepted_at) =
            self.take_challenge(Ceremony::Register, who.address.as_str(), &response.client_data).await?;
        let key = self.new_key(&begun, response, UNNAMED)?;
        self.register_passkey(who, &admission, key, terms_accepted_at).await
    }

    /// Begins a login. The same for every address.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_passkey_login(&self, address: &Address) -> Result<[u8; 32], AccountError> {
        let begun = self.inner.ceremonies.begin_sign_in(Verification::Preferred).map_err(broken)?;
        Ok(self.put_challenge(begun, Ceremony::Login, address.as_str(), None).await?)
    }

    /// Signs in the owner of the passkey, whatever address the ceremony was begun with: people may choose among the
    /// keys that their authenticator holds.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn login_with_passkey(
        &self,
        address: &Address,
        response: &AssertionResponse,
        origin: &SessionOrigin,
    ) -> Result<Session, AccountError> {
        let result = self.try_login_with_passkey(address, response, origin).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(AccountError::ChallengeExpired) => "no_challenge",
            Err(AccountError::NotVerified) => "not_verified",
            Err(AccountError::Database(_) | AccountError::PasskeysBroken(_)) => "error",
            Err(_) => "invalid_passkey",
        };
        metrics::counter!("supersync_logins_total", "method" => "passkey", "outcome" => outcome).increment(1);
        result
    }

    async fn try_login_with_passkey(
        &self,
        address: &Address,
        response: &AssertionResponse,
        origin: &SessionOrigin,
    ) -> Result<Session, AccountError> {
        let inner = &*self.inner;
        let (begun, _) = self.take_challenge(Ceremony::Login, address.as_str(), &response.client_data).await?;
        let found = inner.store.find_passkey(&response.raw_id).await?.ok_or(AccountError::AuthenticationFailed)?;
        let owner = inner.store.user_by_id(found.user).await?.filter(|owner| owner.locked_at.is_none());
        let owner = owner.ok_or(AccountError::AuthenticationFailed)?;
        if !owner.is_verified {
            return Err(AccountError::NotVerified);
        }
        let Some(assertion) = self.check_assertion(&begun, &found, response).await? else {
            self.note(owner.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
            return Err(AccountError::AuthenticationFailed);
        };
        // Revealed only to the holder of the key.
        if owner.is_admin && !assertion.user_verified {
            self.note(owner.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
            tracing::info!(user_id = owner.id, passkey_id = found.id, "administrator's passkey without verification");
            return Err(AccountError::PasskeyUnverified);
        }
        let opened = self.open_session(&owner, origin, assertion.user_verified).await;
        opened.map_err(|error| error.without_account(AccountError::AuthenticationFailed))
    }

    /// The content of an answer to a challenge, if made with this key.
    async fn check_assertion(
        &self,
        begun: &Begun,
        found: &PasskeyRow,
        response: &AssertionResponse,
    ) -> Result<Option<Assertion>, AccountError> {
        let inner = &*self.inner;
        let stored = StoredKey {
            credential_id: &found.key.credential_id,
            public_key: &found.key.public_key,
            counter: found.key.counter,
            backup_eligible: found.key.backup_eligible,
            user_handle: found.key.user_handle.as_deref(),
        };
        let refused = |error: WebauthnError| {
            tracing::info!(user_id = found.user, passkey_id = found.id, %error, "passkey refused");
            Ok(None)
        };
        let assertion = match inner.ceremonies.sign_in(begun, &stored, response) {
            Ok(assertion) => assertion,
            Err(error) => return refused(error),
        };
        let used = PasskeyUse {
            counter: i64::from(assertion.counter),
            backup_eligible: assertion.backup_eligible,
            user_handle: response.user_handle.as_deref(),
        };
        if !inner.store.use_passkey(found.id, &used, inner.clock.now_ms()).await? {
            return refused(WebauthnError::Counter);
        }
        Ok(Some(assertion))
    }

    /// Begins a step-up by passkey. Returns the challenge and the account's keys.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_step_up(&self, user: &AuthUser) -> Result<([u8; 32], Vec<Vec<u8>>), AccountError> {
        let keys = self.inner.store.passkeys_of(user.user_id).await?;
        let begun = self.inner.ceremonies.begin_sign_in(Verification::Required).map_err(broken)?;
        let challenge = self.put_challenge(begun, Ceremony::StepUp, &subject_of(user), None).await?;
        Ok((challenge, keys.into_iter().map(|row| row.key.credential_id).collect()))
    }

    /// Completes a step-up by passkey, with user verification, and records it in the sender's session.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn step_up_by_passkey(
        &self,
        user: &AuthUser,
        response: &AssertionResponse,
        asker: &Asker,
    ) -> Result<(), AccountError> {
        let (begun, _) = self.take_challenge(Ceremony::StepUp, &subject_of(user), &response.client_data).await?;
        let found = self.inner.store.find_passkey(&response.raw_id).await?;
        let found = found.filter(|found| found.user == user.user_id).ok_or(AccountError::AuthenticationFailed)?;
        let assertion = self.check_assertion(&begun, &found, response).await?;
        if assertion.is_none_or(|assertion| !assertion.user_verified) {
            let asker = asker.by(SessionMethod::Passkey);
            self.note(user.user_id, SecurityKind::SignInFailed, &asker).await;
            return Err(AccountError::AuthenticationFailed);
        }
        self.step_up(user, SessionMethod::Passkey, true, asker).await
    }

    /// Begins a recovery by a link, which is not used up yet.
    ///
    /// # Errors
    /// When the link is no good or the database fails.
    pub async fn begin_passkey_recovery(&self, token: &str) -> Result<Creation, AccountError> {
        let link = self.recovery_link(token).await?;
        let user = self.inner.store.user_by_id(link.user).await?.ok_or(AccountError::RecoveryLinkInvalid)?;
        let subject = hex::encode(link.hash);
        self.begin_creation(Ceremony::Recover, &subject, user.email, user.is_admin, Vec::new(), None).await
    }

    /// Replaces all passkeys of an account by a new one, by a link, which is used up; voids every session and every
    /// other link. The caller closes the account's sockets.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn recover_passkey(
        &self,
        token: &str,
        response: &RegistrationResponse,
        asker: &Asker,
    ) -> Result<UserId, AccountError> {
        let link = self.recovery_link(token).await?;
        let (begun, _) = self.take_challenge(Ceremony::Recover, &hex::encode(link.hash), &response.client_data).await?;
        let key = self.new_key(&begun, response, UNNAMED)?;
        let take = self.inner.store.take_recovery_link(&link.hash, self.inner.clock.now_ms(), &key);
        match self.revoking(link.user, take).await? {
            Unique::Done(user) => {
                changed("passkey_recovered");
                tracing::info!(user_id = user, "passkeys replaced by link, sessions revoked");
                let asker = asker.by(SessionMethod::MagicLink);
                self.note(user, SecurityKind::PasskeysReplaced, &asker).await;
                Ok(user)
            }
            Unique::Gone => Err(AccountError::RecoveryLinkInvalid),
            Unique::Taken | Unique::TooMany => Err(AccountError::PasskeyRejected),
        }
    }

    async fn recovery_link(&self, token: &str) -> Result<OneTimeToken, AccountError> {
        self.peek_link(token, TokenPurpose::RecoverPasskey).await?.ok_or(AccountError::RecoveryLinkInvalid)
    }

    /// An account's passkeys, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn passkeys(&self, user: UserId) -> Result<Vec<PasskeyRow>, AccountError> {
        Ok(self.inner.store.passkeys_of(user).await?)
    }

    /// Begins adding a passkey to an account. The caller has made sure of who asks.
    ///
    /// # Errors
    /// When the account has too many or is gone, or the database fails.
    pub async fn begin_adding_passkey(&self, user: &AuthUser) -> Result<Creation, AccountError> {
        let row = self.inner.store.user_by_id(user.user_id).await?.ok_or(AccountError::NoAccount)?;
        let keys = self.inner.store.passkeys_of(user.user_id).await?;
        if i64::try_from(keys.len()).unwrap_or(i64::MAX) >= MAX_PASSKEYS {
            return Err(AccountError::TooManyPasskeys);
        }
        let exclude = keys.into_iter().map(|row| row.key.credential_id).collect();
        self.begin_creation(Ceremony::Add, &subject_of(user), row.email, row.is_admin, exclude, None).await
    }

    /// Adds a passkey to an account.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn add_passkey(
        &self,
        user: &AuthUser,
        response: &RegistrationResponse,
        name: &str,
        asker: &Asker,
    ) -> Result<i64, AccountError> {
        let (begun, _) = self.take_challenge(Ceremony::Add, &subject_of(user), &response.client_data).await?;
        let key = self.new_key(&begun, response, name)?;
        match self.inner.store.add_passkey(user.user_id, &key, MAX_PASSKEYS).await? {
            Unique::Done(id) => {
                changed("passkey_added");
                tracing::info!(user_id = user.user_id, passkey_id = id, "passkey added");
                self.note(user.user_id, SecurityKind::PasskeyAdded, asker).await;
                Ok(id)
            }
            Unique::Gone => Err(AccountError::NoAccount),
            Unique::Taken => Err(AccountError::PasskeyRejected),
            Unique::TooMany => Err(AccountError::TooManyPasskeys),
        }
    }

    /// Renames one of the account's passkeys.
    ///
    /// # Errors
    /// When there is no such one or the database fails.
    pub async fn rename_passkey(&self, user: UserId, id: i64, name: &str) -> Result<(), AccountError> {
        if self.inner.store.rename_passkey(user, id, name).await? { Ok(()) } else { Err(AccountError::NoPasskey) }
    }

    /// Removes one of the account's passkeys, unless nobody could sign in then: no other key, no password, no mail.
    /// Sessions stay.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn remove_passkey(&self, user: UserId, id: i64, asker: &Asker) -> Result<(), AccountError> {
        let row = self.inner.store.user_by_id(user).await?.ok_or(AccountError::NoAccount)?;
        let keys = self.inner.store.passkeys_of(user).await?;
        let others = keys.iter().any(|key| key.id != id);
        if !others && row.password_hash.is_none() && !self.can_mail() && keys.iter().any(|key| key.id == id) {
            return Err(AccountError::LastWayIn);
        }
        if !self.inner.store.remove_passkey(user, id).await? {
            return Err(AccountError::NoPasskey);
        }
        changed("passkey_removed");
        tracing::info!(user_id = user, passkey_id = id, "passkey removed");
        self.note(user, SecurityKind::PasskeyRemoved, asker).await;
        Ok(())
    }

    /// Begins making a key of an account.
    async fn begin_creation(
        &self,
        ceremony: Ceremony,
        subject: &str,
        email: String,
        is_admin: bool,
        exclude: Vec<Vec<u8>>,
        terms_accepted_at: Option<i64>,
    ) -> Result<Creation, AccountError> {
        // A found key must not suffice for an administrator.
        let verification = if is_admin { Verification::Required } else { Verification::Preferred };
        let begun = self.inner.ceremonies.begin_registration(&exclude, verification).map_err(broken)?;
        let challenge = self.put_challenge(begun, ceremony, subject, terms_accepted_at).await?;
        Ok(Creation { challenge, email, exclude, verification })
    }

    /// Stores a ceremony; returns its challenge.
    async fn put_challenge(
        &self,
        begun: Begun,
        ceremony: Ceremony,
        subject: &str,
        terms_accepted_at: Option<i64>,
    ) -> Result<[u8; 32], StoreError> {
        let challenge = Challenge {
            value: begun.challenge,
            ceremony,
            subject: link::hash(subject),
            terms_accepted_at,
            expires_at: self.inner.clock.now_ms() + CHALLENGE_LIFETIME_MS,
            state: begun.state,
        };
        self.inner.store.put_challenge(&challenge, MAX_CHALLENGES).await?;
        Ok(challenge.value)
    }

    /// Uses up the challenge that an answer names. Also returns when the legal documents were accepted with it.
    async fn take_challenge(
        &self,
        ceremony: Ceremony,
        subject: &str,
        client_data: &[u8],
    ) -> Result<(Begun, Option<i64>), AccountError> {
        let challenge = challenge_of(client_data).ok_or(AccountError::ChallengeExpired)?;
        let now_ms = self.inner.clock.now_ms();
        let taken = self.inner.store.take_challenge(&challenge, ceremony, &link::hash(subject), now_ms).await?;
        let taken = taken.ok_or(AccountError::ChallengeExpired)?;
        Ok((Begun { challenge, state: taken.state }, taken.terms_accepted_at))
    }

    /// The key in the answer to a challenge that has been taken.
    fn new_key(&self, begun: &Begun, response: &RegistrationResponse, name: &str) -> Result<NewPasskey, AccountError> {
        let key = self.inner.ceremonies.register(begun, response).map_err(|error| {
            tracing::info!(%error, "new passkey refused");
            AccountError::PasskeyRejected
        })?;
        Ok(NewPasskey {
            credential_id: key.credential_id,
            public_key: key.public_key,
            counter: i64::from(key.counter),
            transports: key.transports,
            backup_eligible: Some(key.backup_eligible),
            name: name.to_owned(),
            created_at: self.inner.clock.now_ms(),
            user_handle: Some(key.user_handle.to_vec()),
        })
    }
}

/// The subject of a signed-in user's challenge: the session. After its revocation no other session can use the
/// challenge.
fn subject_of(user: &AuthUser) -> String {
    format!("{} {:?}", user.user_id, user.session.map(|session| session.to_string()))
}

fn broken(error: WebauthnError) -> AccountError {
    tracing::error!(%error, "no passkey ceremony can be begun");
    AccountError::PasskeysBroken(error)
}

fn changed(kind: &'static str) {
    metrics::counter!("supersync_credential_changes_total", "kind" => kind).increment(1);
}
