//! Why something about an account was refused.

use super::HashError;
use crate::store::StoreError;
use crate::webauthn::WebauthnError;

/// Why something about an account was refused. The texts are those of answers and of the command line.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no such account (any more), or it is locked.
    #[error("no such account")]
    NoAccount,
    /// The address of a new account belongs to one already.
    #[error("there is an account with this address already")]
    Exists,
    /// The account is no administrator's.
    #[error("Administrators only")]
    NotAdmin,

    /// The allow-list does not have the address.
    #[error("Registration is not allowed for this email address.")]
    RegistrationNotAllowed,
    /// This server can't send the link that proves an address.
    #[error(
        "Registration by e-mail is not available: this server has no mail configured. Ask its operator to create your account (supersync user add) or for an invitation."
    )]
    RegistrationNeedsMail,
    /// Nobody may register, so there is nothing to invite to either.
    #[error("Registration is closed on this server.")]
    RegistrationClosed,
    /// Only who is invited may register.
    #[error("Registration on this server needs an invitation.")]
    InviteNeeded,
    /// The invitation is unknown, expired, used, or for another address.
    #[error("Invalid or expired invitation")]
    InviteInvalid,
    /// There is no such invitation to take back.
    #[error("No such invitation")]
    NoInvite,
    /// The invitation is good, but the address has an account, or the passkey belongs to one.
    #[error("There is an account with this address already. Please sign in.")]
    Registered,

    /// No such account, no password, the wrong one, or the operator has locked the account.
    #[error("Invalid credentials")]
    InvalidCredentials,
    /// Too many wrong passwords for the address, registered or not; the right one is refused too.
    #[error("Account temporarily locked due to too many failed login attempts. Please try again later.")]
    LoginLocked,
    /// The password or the passkey was right, but the address was never proven.
    #[error("Email not verified")]
    NotVerified,

    /// This server can't send links.
    #[error("Links by e-mail are not available: this server has no mail configured. Ask its operator for help.")]
    NoMail,
    /// The verification link is unknown, or was used before.
    #[error("Invalid verification token")]
    VerificationInvalid,
    /// The verification link is too old.
    #[error("Verification token has expired")]
    VerificationExpired,
    /// The link to sign in is unknown, expired, or used; or the account may not sign in.
    #[error("Invalid or expired login link")]
    LoginLinkInvalid,
    /// The link to set a password is unknown, expired, or used.
    #[error("Invalid or expired reset token")]
    ResetLinkInvalid,
    /// The link to replace passkeys is unknown, expired, or used.
    #[error("Invalid or expired recovery token")]
    RecoveryLinkInvalid,
    /// The link to change the address is unknown, expired, or used; or somebody else has the address by now.
    #[error("Invalid or expired link")]
    AddressLinkInvalid,
    /// The address was changed [`super::MAX_ADDRESS_CHANGES`] times in a few days.
    #[error("This account's address was changed too often. Please try again in a few days.")]
    AddressChangedTooOften,
    /// The allow-list does not have the new address.
    #[error("This email address is not allowed on this server.")]
    AddressNotAllowed,

    /// There is no recent proof of identity in this session, nor a password in the request; or the token belongs to no
    /// session, so a proof can't be recorded.
    #[error("Please sign in again to do this")]
    ProofRequired,
    /// The current password is another one.
    #[error("The current password is wrong")]
    WrongPassword,
    /// Too many wrong passwords in place of the current one.
    #[error("Account temporarily locked due to too many failed login attempts. Please try again later.")]
    ProofLocked,
    /// The account has no such session (any more).
    #[error("No such session")]
    NoSession,

    /// The challenge is unknown, expired, used, or made for something else.
    #[error("Challenge expired or not found. Please try again.")]
    ChallengeExpired,
    /// What the authenticator made is not right.
    #[error("Passkey verification failed. Please try again.")]
    PasskeyRejected,
    /// The passkey signed nobody in.
    #[error("Authentication failed")]
    AuthenticationFailed,
    /// An administrator's key used without user verification.
    #[error("An administrator's passkey must ask for a PIN, a fingerprint or a face. Please use one that does.")]
    PasskeyUnverified,
    /// The account has [`super::MAX_PASSKEYS`].
    #[error("This account has as many passkeys as it can have. Please remove one first.")]
    TooManyPasskeys,
    /// There is no such passkey of this account.
    #[error("No such passkey")]
    NoPasskey,
    /// Without the passkey nobody could sign in any more.
    #[error("This passkey is the only way to sign in to this account. Please set a password or add another one first.")]
    LastWayIn,
    /// The library can't begin a ceremony.
    #[error("Passkeys don't work on this server at the moment")]
    PasskeysBroken(WebauthnError),

    /// No hash was computed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl AccountError {
    /// `other` where the account went away or was locked meanwhile.
    pub(super) fn without_account(self, other: Self) -> Self {
        if matches!(self, Self::NoAccount) { other } else { self }
    }
}
