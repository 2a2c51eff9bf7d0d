//! Passkeys: registering, signing in and recovering with one (accounts contract, sections 4.5 to 4.7 and 6), and those
//! of somebody signed in.
//!
//! A ceremony has two requests, and any instance may serve either: what the second one needs to know of the first is in
//! the store, found by the challenge itself. So nobody can void anybody else's ceremony, and an address can have
//! several under way. A challenge is used up by the first answer that names it, right or wrong.

use super::link::{self, RECOVER_PASSKEY};
use super::{
    Accounts, Address, Applicant, Asker, AuthUser, LinkError, ManageError, ReauthError, Receipt, RegisterError,
    Session, SessionOrigin,
};
use crate::language::Language;
use crate::mail::NoticeKind;
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
pub const MAX_CHALLENGES: i64 = 100_000;
/// How many passkeys an account has at most.
pub const MAX_PASSKEYS: i64 = 20;
/// What a passkey is called until its owner says otherwise.
const UNNAMED: &str = "Passkey";

/// Why a ceremony came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum PasskeyError {
    /// Unknown, expired, used, or made for something else.
    #[error("Challenge expired or not found. Please try again.")]
    Challenge,
    /// What the authenticator made is not right.
    #[error("Passkey verification failed. Please try again.")]
    Verification,
    /// Nobody was signed in.
    #[error("Authentication failed")]
    Authentication,
    /// An administrator's key used without user verification.
    #[error("An administrator's passkey must ask for a PIN, a fingerprint or a face. Please use one that does.")]
    Unverified,
    /// The key's owner was never verified.
    #[error("Email not verified")]
    NotVerified,
    /// The token belongs to no session (any more), so the proof can't be recorded.
    #[error("Please sign in again to do this")]
    NoSession,
    /// The recovery link is unknown, expired, or used.
    #[error("Invalid or expired recovery token")]
    Link,
    /// The account has [`MAX_PASSKEYS`].
    #[error("This account has as many passkeys as it can have. Please remove one first.")]
    TooMany,
    /// There is no such passkey of this account.
    #[error("No such passkey")]
    NoPasskey,
    /// Without the passkey nobody could sign in any more.
    #[error("This passkey is the only way to sign in to this account. Please set a password or add another one first.")]
    LastWayIn,
    /// The account is gone.
    #[error("Account unavailable")]
    NoAccount,
    /// The library can't begin a ceremony.
    #[error("Passkeys don't work on this server at the moment")]
    Broken(WebauthnError),
    /// The applicant may not register.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

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

/// A challenge that was answered.
struct Taken {
    begun: Begun,
    terms_accepted_at: Option<i64>,
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
    pub async fn begin_passkey_registration(&self, who: &Applicant, as_sent: String) -> Result<Creation, PasskeyError> {
        let verification = verification(self.admit(who).await?.makes_admin());
        let terms_accepted_at = who.terms_accepted.then(|| self.inner.clock.now_ms());
        let begun = self.begin_creation(&[], verification)?;
        let challenge = self.ask(begun, Ceremony::Register, who.address.as_str(), terms_accepted_at).await?;
        Ok(Creation { challenge, email: as_sent, exclude: Vec::new(), verification })
    }

    /// Registers an address with a passkey, which takes effect with the link that is mailed.
    ///
    /// # Errors
    /// See [`PasskeyError`].
    pub async fn register_with_passkey(
        &self,
        who: &Applicant,
        response: &RegistrationResponse,
    ) -> Result<Receipt, PasskeyError> {
        let admission = self.admit(who).await?;
        let taken = self.take(Ceremony::Register, who.address.as_str(), &response.client_data).await?;
        let key = self.new_key(&taken, response, UNNAMED)?;
        Ok(self.register_passkey(who, &admission, key, taken.terms_accepted_at).await?)
    }

    /// Begins a login. The same for every address.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_passkey_login(&self, address: &Address) -> Result<[u8; 32], PasskeyError> {
        let begun = self.inner.ceremonies.begin_sign_in(Verification::Preferred).map_err(broken)?;
        Ok(self.ask(begun, Ceremony::Login, address.as_str(), None).await?)
    }

    /// Signs in the owner of the passkey, whatever address the ceremony was begun with: people may choose among the
    /// keys that their authenticator holds.
    ///
    /// # Errors
    /// See [`PasskeyError`].
    pub async fn login_with_passkey(
        &self,
        address: &Address,
        response: &AssertionResponse,
        origin: &SessionOrigin,
    ) -> Result<Session, PasskeyError> {
        let result = self.try_login_with_passkey(address, response, origin).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(PasskeyError::Challenge) => "no_challenge",
            Err(PasskeyError::NotVerified) => "not_verified",
            Err(PasskeyError::Database(_) | PasskeyError::Broken(_)) => "error",
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
    ) -> Result<Session, PasskeyError> {
        let inner = &*self.inner;
        let taken = self.take(Ceremony::Login, address.as_str(), &response.client_data).await?;
        let found = inner.store.find_passkey(&response.raw_id).await?.ok_or(PasskeyError::Authentication)?;
        let owner = inner.store.user_by_id(found.user).await?.filter(|owner| owner.locked_at.is_none());
        let owner = owner.ok_or(PasskeyError::Authentication)?;
        if !owner.is_verified {
            return Err(PasskeyError::NotVerified);
        }
        let Some(said) = self.asserted(&taken.begun, &found, response).await? else {
            self.note(owner.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
            return Err(PasskeyError::Authentication);
        };
        // Revealed only to the holder of the key.
        if owner.is_admin && !said.user_verified {
            self.note(owner.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
            tracing::info!(user_id = owner.id, passkey_id = found.id, "administrator's passkey without verification");
            return Err(PasskeyError::Unverified);
        }
        let opened =
            self.open_verified_session(owner.id, &owner.email, owner.token_version, origin, said.user_verified);
        match opened.await {
            Ok(session) => Ok(session),
            Err(ManageError::Database(error)) => Err(error.into()),
            // Deleted or locked at this moment.
            Err(ManageError::NoAccount | ManageError::Exists | ManageError::Hash(_)) => {
                Err(PasskeyError::Authentication)
            }
        }
    }

    /// The content of an answer to a challenge, if made with this key.
    async fn asserted(
        &self,
        begun: &Begun,
        found: &PasskeyRow,
        response: &AssertionResponse,
    ) -> Result<Option<Assertion>, PasskeyError> {
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
        let said = match inner.ceremonies.sign_in(begun, &stored, response) {
            Ok(said) => said,
            Err(error) => return refused(error),
        };
        let used = PasskeyUse {
            counter: i64::from(said.counter),
            backup_eligible: said.backup_eligible,
            user_handle: response.user_handle.as_deref(),
        };
        if !inner.store.use_passkey(found.id, &used, inner.clock.now_ms()).await? {
            return refused(WebauthnError::Counter);
        }
        Ok(Some(said))
    }

    /// Begins a step-up by passkey. Returns the challenge and the account's keys.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_step_up(&self, user: &AuthUser) -> Result<([u8; 32], Vec<Vec<u8>>), PasskeyError> {
        let keys = self.inner.store.passkeys_of(user.user_id).await?;
        let begun = self.inner.ceremonies.begin_sign_in(Verification::Required).map_err(broken)?;
        let challenge = self.ask(begun, Ceremony::StepUp, &subject_of(user), None).await?;
        Ok((challenge, keys.into_iter().map(|row| row.key.credential_id).collect()))
    }

    /// Completes a step-up by passkey, with user verification, and records it in the sender's session.
    ///
    /// # Errors
    /// See [`PasskeyError`].
    pub async fn step_up_by_passkey(
        &self,
        user: &AuthUser,
        response: &AssertionResponse,
        asker: &Asker,
    ) -> Result<(), PasskeyError> {
        let taken = self.take(Ceremony::StepUp, &subject_of(user), &response.client_data).await?;
        let found = self.inner.store.find_passkey(&response.raw_id).await?;
        let found = found.filter(|found| found.user == user.user_id).ok_or(PasskeyError::Authentication)?;
        let said = self.asserted(&taken.begun, &found, response).await?;
        if said.is_none_or(|said| !said.user_verified) {
            let asker = Asker { by: Some(SessionMethod::Passkey), ..asker.clone() };
            self.note(user.user_id, SecurityKind::SignInFailed, &asker).await;
            return Err(PasskeyError::Authentication);
        }
        match self.step_up(user, SessionMethod::Passkey, true, asker).await {
            Ok(()) => Ok(()),
            Err(ReauthError::Database(error)) => Err(error.into()),
            Err(_) => Err(PasskeyError::NoSession),
        }
    }

    /// Mails a recovery link to the address if a verified account has it and a passkey; with a password too. The answer
    /// does not tell.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn request_passkey_recovery(&self, address: &Address, language: Language) -> Result<(), LinkError> {
        self.neutrally(RECOVER_PASSKEY.purpose, async {
            let user = self.inner.store.user_by_email(address.as_str()).await?;
            let Some(user) = user.filter(|user| user.is_verified && user.locked_at.is_none()) else { return Ok(false) };
            if self.inner.store.passkeys_of(user.id).await?.is_empty() {
                return Ok(false);
            }
            self.mail_link(&user, &RECOVER_PASSKEY, None, language).await
        })
        .await
    }

    /// Begins a recovery by a link, which is not used up yet.
    ///
    /// # Errors
    /// When the link is no good or the database fails.
    pub async fn begin_passkey_recovery(&self, token: &str) -> Result<Creation, PasskeyError> {
        let link = self.recovery_link(token).await?;
        let user = self.inner.store.user_by_id(link.user).await?.ok_or(PasskeyError::Link)?;
        let verification = verification(user.is_admin);
        let begun = self.begin_creation(&[], verification)?;
        let challenge = self.ask(begun, Ceremony::Recover, &hex::encode(link.hash), None).await?;
        Ok(Creation { challenge, email: user.email, exclude: Vec::new(), verification })
    }

    /// Replaces all passkeys of an account by a new one, by a link, which is used up; voids every session and every
    /// other link. The caller closes the account's sockets.
    ///
    /// # Errors
    /// See [`PasskeyError`].
    pub async fn recover_passkey(
        &self,
        token: &str,
        response: &RegistrationResponse,
        asker: &Asker,
    ) -> Result<UserId, PasskeyError> {
        let link = self.recovery_link(token).await?;
        let answered = self.take(Ceremony::Recover, &hex::encode(link.hash), &response.client_data).await?;
        let key = self.new_key(&answered, response, UNNAMED)?;
        let take = self.inner.store.take_recovery_link(&link.hash, self.inner.clock.now_ms(), &key);
        match self.revoking(link.user, take).await? {
            Unique::Done(user) => {
                changed("passkey_recovered");
                tracing::info!(user_id = user, "passkeys replaced by link, sessions revoked");
                let asker = Asker { by: Some(SessionMethod::MagicLink), ..asker.clone() };
                self.note_and_tell(user, SecurityKind::PasskeysReplaced, NoticeKind::PasskeysReplaced, &asker).await;
                Ok(user)
            }
            Unique::Gone => Err(PasskeyError::Link),
            Unique::Taken | Unique::TooMany => Err(PasskeyError::Verification),
        }
    }

    async fn recovery_link(&self, token: &str) -> Result<OneTimeToken, PasskeyError> {
        let found = self.inner.store.peek_token(&link::hash(token), TokenPurpose::RecoverPasskey).await?;
        found.filter(|found| found.expires_at > self.inner.clock.now_ms()).ok_or(PasskeyError::Link)
    }

    /// An account's passkeys, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn passkeys(&self, user: UserId) -> Result<Vec<PasskeyRow>, PasskeyError> {
        Ok(self.inner.store.passkeys_of(user).await?)
    }

    /// Begins adding a passkey to an account. The caller has made sure of who asks.
    ///
    /// # Errors
    /// When the account has too many or is gone, or the database fails.
    pub async fn begin_adding_passkey(&self, user: &AuthUser) -> Result<Creation, PasskeyError> {
        let row = self.inner.store.user_by_id(user.user_id).await?.ok_or(PasskeyError::NoAccount)?;
        let keys = self.inner.store.passkeys_of(user.user_id).await?;
        if i64::try_from(keys.len()).unwrap_or(i64::MAX) >= MAX_PASSKEYS {
            return Err(PasskeyError::TooMany);
        }
        let exclude: Vec<_> = keys.into_iter().map(|row| row.key.credential_id).collect();
        let verification = verification(row.is_admin);
        let begun = self.begin_creation(&exclude, verification)?;
        let challenge = self.ask(begun, Ceremony::Add, &subject_of(user), None).await?;
        Ok(Creation { challenge, email: row.email, exclude, verification })
    }

    /// Adds a passkey to an account.
    ///
    /// # Errors
    /// See [`PasskeyError`].
    pub async fn add_passkey(
        &self,
        user: &AuthUser,
        response: &RegistrationResponse,
        name: &str,
        asker: &Asker,
    ) -> Result<i64, PasskeyError> {
        let taken = self.take(Ceremony::Add, &subject_of(user), &response.client_data).await?;
        let key = self.new_key(&taken, response, name)?;
        match self.inner.store.add_passkey(user.user_id, &key, MAX_PASSKEYS).await? {
            Unique::Done(id) => {
                changed("passkey_added");
                tracing::info!(user_id = user.user_id, passkey_id = id, "passkey added");
                self.note_and_tell(user.user_id, SecurityKind::PasskeyAdded, NoticeKind::PasskeyAdded, asker).await;
                Ok(id)
            }
            Unique::Gone => Err(PasskeyError::NoAccount),
            Unique::Taken => Err(PasskeyError::Verification),
            Unique::TooMany => Err(PasskeyError::TooMany),
        }
    }

    /// Renames one of the account's passkeys.
    ///
    /// # Errors
    /// When there is no such one or the database fails.
    pub async fn rename_passkey(&self, user: UserId, id: i64, name: &str) -> Result<(), PasskeyError> {
        if self.inner.store.rename_passkey(user, id, name).await? { Ok(()) } else { Err(PasskeyError::NoPasskey) }
    }

    /// Removes one of the account's passkeys, unless nobody could sign in then: no other key, no password, no mail.
    /// Sessions stay.
    ///
    /// # Errors
    /// See [`PasskeyError`].
    pub async fn remove_passkey(&self, user: UserId, id: i64, asker: &Asker) -> Result<(), PasskeyError> {
        let row = self.inner.store.user_by_id(user).await?.ok_or(PasskeyError::NoAccount)?;
        let keys = self.inner.store.passkeys_of(user).await?;
        let others = keys.iter().any(|key| key.id != id);
        if !others && row.password_hash.is_none() && !self.can_mail() && keys.iter().any(|key| key.id == id) {
            return Err(PasskeyError::LastWayIn);
        }
        if !self.inner.store.remove_passkey(user, id).await? {
            return Err(PasskeyError::NoPasskey);
        }
        changed("passkey_removed");
        tracing::info!(user_id = user, passkey_id = id, "passkey removed");
        self.note_and_tell(user, SecurityKind::PasskeyRemoved, NoticeKind::PasskeyRemoved, asker).await;
        Ok(())
    }

    fn begin_creation(&self, exclude: &[Vec<u8>], verification: Verification) -> Result<Begun, PasskeyError> {
        self.inner.ceremonies.begin_registration(exclude, verification).map_err(broken)
    }

    /// Stores a ceremony; returns its challenge.
    async fn ask(
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

    /// Uses up the challenge that an answer names.
    async fn take(&self, ceremony: Ceremony, subject: &str, client_data: &[u8]) -> Result<Taken, PasskeyError> {
        let challenge = challenge_of(client_data).ok_or(PasskeyError::Challenge)?;
        let now_ms = self.inner.clock.now_ms();
        let taken = self.inner.store.take_challenge(&challenge, ceremony, &link::hash(subject), now_ms).await?;
        let taken = taken.ok_or(PasskeyError::Challenge)?;
        let begun = Begun { challenge, state: taken.state };
        Ok(Taken { begun, terms_accepted_at: taken.terms_accepted_at })
    }

    /// The key in the answer to a challenge that has been taken.
    fn new_key(&self, taken: &Taken, response: &RegistrationResponse, name: &str) -> Result<NewPasskey, PasskeyError> {
        let key = self.inner.ceremonies.register(&taken.begun, response).map_err(|error| {
            tracing::info!(%error, "new passkey refused");
            PasskeyError::Verification
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

/// A found key must not suffice for an administrator.
const fn verification(is_admin: bool) -> Verification {
    if is_admin { Verification::Required } else { Verification::Preferred }
}

fn broken(error: WebauthnError) -> PasskeyError {
    tracing::error!(%error, "no passkey ceremony can be begun");
    PasskeyError::Broken(error)
}

fn changed(kind: &'static str) {
    metrics::counter!("supersync_credential_changes_total", "kind" => kind).increment(1);
}
