//! Passkeys: registering, signing in and recovering with one (accounts contract, sections 4.5 to 4.7 and 6), and those
//! of somebody signed in.
//!
//! A ceremony has two requests, and any instance may serve either: what the second one needs to know of the first is in the
//! store, found by the challenge itself. So nobody can void anybody else's ceremony, and an address can have several under
//! way. A challenge is used up by the first answer that names it, right or wrong.

use super::link::{self, RECOVER_PASSKEY};
use super::{
    Accounts, Address, Applicant, Asker, AuthUser, LinkError, ManageError, ReauthError, RegisterError, Registered,
    Session, SessionOrigin,
};
use crate::language::Language;
use crate::mail::NoticeKind;
use crate::protocol::UserId;
use crate::store::{
    Ceremony, Challenge, NewPasskey, OneTimeToken, PasskeyRow, SecurityKind, SessionMethod, StoreError, TakenChallenge,
    TokenPurpose, Unique,
};
use crate::webauthn::{
    self, Assertion, AssertionResponse, RegistrationResponse, RelyingParty, StoredKey, WebauthnError, challenge_of,
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
    /// The key's owner was never verified.
    #[error("Email not verified")]
    NotVerified,
    /// The token belongs to no session (any more), so there is nothing to note it in.
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
}

impl Accounts {
    /// Whom passkeys are made for.
    #[must_use]
    pub fn relying_party(&self) -> &RelyingParty {
        &self.inner.relying_party
    }

    /// Begins a registration. Never looks at the account, so the answer can't tell about it.
    ///
    /// # Errors
    /// When the applicant may not register or the database fails.
    pub async fn begin_passkey_registration(&self, who: &Applicant) -> Result<[u8; 32], PasskeyError> {
        self.admit(who).await?;
        let terms_accepted_at = who.terms_accepted.then(|| self.inner.clock.now_ms());
        Ok(self.challenge(Ceremony::Register, who.address.as_str(), terms_accepted_at).await?)
    }

    /// Registers an address with a passkey, which takes effect with the link that is mailed.
    ///
    /// # Errors
    /// See [`PasskeyError`].
    pub async fn register_with_passkey(
        &self,
        who: &Applicant,
        response: &RegistrationResponse,
    ) -> Result<Registered, PasskeyError> {
        let admission = self.admit(who).await?;
        let taken = self.take(Ceremony::Register, who.address.as_str(), &response.client_data).await?;
        let key = self.new_key(response, UNNAMED)?;
        Ok(self.register_passkey(who, &admission, key, taken.terms_accepted_at).await?)
    }

    /// Begins a login. The same for every address.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_passkey_login(&self, address: &Address) -> Result<[u8; 32], PasskeyError> {
        Ok(self.challenge(Ceremony::Login, address.as_str(), None).await?)
    }

    /// Signs in the owner of the passkey, whatever address the ceremony was begun with: people may choose among the keys
    /// that their authenticator holds.
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
            Err(PasskeyError::Database(_)) => "error",
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
        self.take(Ceremony::Login, address.as_str(), &response.client_data).await?;
        let found = inner.store.find_passkey(&response.raw_id).await?.ok_or(PasskeyError::Authentication)?;
        let owner = inner.store.user_by_id(found.user).await?.filter(|owner| owner.locked_at.is_none());
        let owner = owner.ok_or(PasskeyError::Authentication)?;
        if !owner.is_verified {
            return Err(PasskeyError::NotVerified);
        }
        let Some(said) = self.asserted(&found, response).await? else {
            self.note(owner.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
            return Err(PasskeyError::Authentication);
        };
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

    /// What the answer to a challenge that has been taken says, if it was made with this key.
    async fn asserted(
        &self,
        found: &PasskeyRow,
        response: &AssertionResponse,
    ) -> Result<Option<Assertion>, PasskeyError> {
        let inner = &*self.inner;
        let stored = StoredKey {
            credential_id: &found.key.credential_id,
            public_key: &found.key.public_key,
            counter: found.key.counter,
            backup_eligible: found.key.backup_eligible,
        };
        // The challenge is the right one: it was found by what the client data says.
        let challenge = challenge_of(&response.client_data).ok_or(PasskeyError::Challenge)?;
        let refused = |error: WebauthnError| {
            tracing::info!(user_id = found.user, passkey_id = found.id, %error, "passkey refused");
            Ok(None)
        };
        let said = match webauthn::verify_assertion(&inner.relying_party, &challenge, &stored, response) {
            Ok(said) => said,
            Err(error) => return refused(error),
        };
        let (counter, now_ms) = (i64::from(said.counter), inner.clock.now_ms());
        if !inner.store.use_passkey(found.id, counter, said.backup_eligible, now_ms).await? {
            return refused(WebauthnError::Counter);
        }
        Ok(Some(said))
    }

    /// Begins proving once more, by a passkey, who the sender is. Returns the challenge and the keys that will do.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_step_up(&self, user: &AuthUser) -> Result<([u8; 32], Vec<Vec<u8>>), PasskeyError> {
        let keys = self.inner.store.passkeys_of(user.user_id).await?;
        let challenge = self.challenge(Ceremony::StepUp, &subject_of(user), None).await?;
        Ok((challenge, keys.into_iter().map(|row| row.key.credential_id).collect()))
    }

    /// Notes in the sender's session that its owner has just proven, by a passkey of the account whose authenticator made
    /// sure of its user, who they are.
    ///
    /// # Errors
    /// See [`PasskeyError`].
    pub async fn step_up_by_passkey(
        &self,
        user: &AuthUser,
        response: &AssertionResponse,
        asker: &Asker,
    ) -> Result<(), PasskeyError> {
        self.take(Ceremony::StepUp, &subject_of(user), &response.client_data).await?;
        let found = self.inner.store.find_passkey(&response.raw_id).await?;
        let found = found.filter(|found| found.user == user.user_id).ok_or(PasskeyError::Authentication)?;
        let said = self.asserted(&found, response).await?;
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

    /// Mails a recovery link to the address if a verified account has it and a passkey; with a password too. The answer does
    /// not tell.
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
        let challenge = self.challenge(Ceremony::Recover, &hex::encode(link.hash), None).await?;
        Ok(Creation { challenge, email: user.email, exclude: Vec::new() })
    }

    /// Replaces all passkeys of an account by a new one, by a link, which is used up; voids every session and every other link.
    /// The caller closes the account's sockets.
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
        self.take(Ceremony::Recover, &hex::encode(link.hash), &response.client_data).await?;
        let key = self.new_key(response, UNNAMED)?;
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
        let challenge = self.challenge(Ceremony::Add, &subject_of(user), None).await?;
        let exclude = keys.into_iter().map(|row| row.key.credential_id).collect();
        Ok(Creation { challenge, email: row.email, exclude })
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
        self.take(Ceremony::Add, &subject_of(user), &response.client_data).await?;
        let key = self.new_key(response, name)?;
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

    async fn challenge(
        &self,
        ceremony: Ceremony,
        subject: &str,
        terms_accepted_at: Option<i64>,
    ) -> Result<[u8; 32], StoreError> {
        let value = rand::random::<[u8; 32]>();
        let expires_at = self.inner.clock.now_ms() + CHALLENGE_LIFETIME_MS;
        let challenge = Challenge { value, ceremony, subject: link::hash(subject), terms_accepted_at, expires_at };
        self.inner.store.put_challenge(&challenge, MAX_CHALLENGES).await?;
        Ok(value)
    }

    /// Uses up the challenge that an answer names.
    async fn take(
        &self,
        ceremony: Ceremony,
        subject: &str,
        client_data: &[u8],
    ) -> Result<TakenChallenge, PasskeyError> {
        let value = challenge_of(client_data).ok_or(PasskeyError::Challenge)?;
        let now_ms = self.inner.clock.now_ms();
        let taken = self.inner.store.take_challenge(&value, ceremony, &link::hash(subject), now_ms).await?;
        taken.ok_or(PasskeyError::Challenge)
    }

    /// The key in the answer to a challenge that has been taken.
    fn new_key(&self, response: &RegistrationResponse, name: &str) -> Result<NewPasskey, PasskeyError> {
        let challenge = challenge_of(&response.client_data).ok_or(PasskeyError::Challenge)?;
        let key = webauthn::verify_registration(&self.inner.relying_party, &challenge, response).map_err(|error| {
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
        })
    }
}

/// Whom the challenge of somebody signed in is for: the session that asks. What was given to one that has been revoked since
/// is of no use to another.
fn subject_of(user: &AuthUser) -> String {
    format!("{} {:?}", user.user_id, user.session.map(|session| session.to_string()))
}

fn changed(kind: &'static str) {
    metrics::counter!("supersync_credential_changes_total", "kind" => kind).increment(1);
}
