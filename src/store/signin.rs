//! Ways to sign in besides a password: links by mail, passkeys, invitations.
//!
//! Everything that is used once is used in one transaction whose first statement deletes it: of two uses at once, one
//! finds nothing. What a use changes is changed in that transaction or not at all.
//!
//! A passkey given at registration is *pending*: bound to the verification link that was mailed for it. Using a link makes its
//! passkey and its password the account's only ones, for the browser that gave them; every other link's are void (accounts
//! contract, section 4.2).

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use super::{NewUser, OneTimeToken, Result, SignOut, UserRow};
use crate::protocol::UserId;

mod address;
mod guesses;
mod invites;
mod links;
mod passkeys;
mod steps;
mod verification;

pub(super) use address::address_steps;
pub(super) use guesses::guess_steps;
pub(super) use invites::{decode_invite, invite_steps};
pub(super) use links::link_steps;
pub(super) use passkeys::{PASSKEY, decode_passkey, passkey_steps};
pub(super) use steps::sign_in_steps;
pub(super) use verification::verification_steps;

/// A row that claims to be from further ahead than this was made by a clock that was wrong: no link or lock of it counts.
pub(super) const MAX_AHEAD_MS: i64 = 60 * 60 * 1000;
/// A count of wrong passwords lasts a day; one that ends later was made by a clock that was wrong.
pub(super) const FAILURES_END_WITHIN_MS: i64 = 24 * 60 * 60 * 1000 + MAX_AHEAD_MS;

/// What stands for an address where failed log-ins are counted: nobody's address is kept for being guessed at.
pub(super) fn failure_subject(email: &str) -> Vec<u8> {
    Sha256::digest(email.to_ascii_lowercase().as_bytes()).to_vec()
}

/// A passkey as an authenticator made it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NewPasskey {
    /// Unique among all accounts.
    pub credential_id: Vec<u8>,
    /// COSE, as the authenticator gave it.
    pub public_key: Vec<u8>,
    pub counter: i64,
    /// A JSON array of texts.
    pub transports: Option<String>,
    /// Whether the key may leave its device. `None`: not known yet.
    pub backup_eligible: Option<bool>,
    pub name: String,
    pub created_at: i64,
    /// Which user handle the key says. `None`: not known yet.
    pub user_handle: Option<Vec<u8>>,
}

/// What a good use of a passkey said of it.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct PasskeyUse<'a> {
    pub counter: i64,
    pub backup_eligible: bool,
    /// Kept if none was known.
    pub user_handle: Option<&'a [u8]>,
}

/// A passkey of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PasskeyRow {
    pub id: i64,
    pub user: UserId,
    pub key: NewPasskey,
    pub last_used_at: Option<i64>,
}

/// What a challenge was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceremony {
    /// Registering an account with a passkey.
    Register,
    /// Signing in.
    Login,
    /// Replacing lost passkeys.
    Recover,
    /// A further passkey of somebody signed in.
    Add,
    /// Proving once more who one is.
    StepUp,
}

impl Ceremony {
    /// The ceremony's text as stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Login => "login",
            Self::Recover => "recover",
            Self::Add => "add",
            Self::StepUp => "step_up",
        }
    }
}

/// A challenge that an authenticator is to sign.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The random bytes; what it is found by.
    pub value: [u8; 32],
    /// What it was made for.
    pub ceremony: Ceremony,
    /// SHA-256 of whom it was made for.
    pub subject: [u8; 32],
    /// When whoever began the ceremony accepted the legal documents, Unix milliseconds.
    pub terms_accepted_at: Option<i64>,
    /// Until when it can be used, Unix milliseconds.
    pub expires_at: i64,
    /// What whoever judges the answer needs to know of the question.
    pub state: String,
}

/// What a used challenge says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenChallenge {
    /// See [`Challenge::terms_accepted_at`].
    pub terms_accepted_at: Option<i64>,
    /// See [`Challenge::state`].
    pub state: String,
}

/// A link that proves an address, and what was registered with it.
#[derive(Clone, Copy, Debug)]
pub struct VerificationLink<'a> {
    /// The link, with the password.
    pub link: &'a OneTimeToken,
    /// The passkey.
    pub passkey: Option<&'a NewPasskey>,
    /// When the legal documents were accepted, Unix milliseconds.
    pub terms_accepted_at: Option<i64>,
    /// SHA-256 of the secret that the browser gets which registered.
    pub registrant: &'a [u8; 32],
    /// Where the registration came from.
    pub network: &'a str,
}

/// How many verification links an account gets: after so many since then, one in `gap_ms`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct LinkPace {
    pub since_ms: i64,
    pub most_of_network: i64,
    pub most: i64,
    pub gap_ms: i64,
}

/// What is known of a verification link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PeekedVerification {
    pub user: UserId,
    pub expires_at: i64,
    /// See [`VerificationLink::registrant`]. Links of the old server have none.
    pub registrant: Option<Vec<u8>>,
    /// Whether a password or a passkey came with it.
    pub has_credential: bool,
}

/// What is known of somebody who wants to sign in with a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginStanding {
    /// The account with the address.
    pub user: Option<UserRow>,
    /// How many wrong passwords are remembered from each of the two places that were asked for.
    pub failures: [i64; 2],
    /// Whether the account has a session that was opened or last seen in the first of them.
    pub knows_network: bool,
}

/// When wrong passwords are too many.
#[derive(Clone, Copy, Debug)]
pub struct FailureRule {
    /// At so many.
    pub lock_at: i64,
    /// From then on they are remembered so long.
    pub lock_ms: i64,
    /// Before that, so long after the first.
    pub remembered_ms: i64,
    /// Of the newest so many counts, over all addresses and places, none is lost.
    pub most: i64,
}

/// What became of a key or an address that must be unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unique<T> {
    /// Done.
    Done(T),
    /// The link is unknown, used or expired; the account is gone. Nothing was changed.
    Gone,
    /// Somebody has it already. Nothing was changed.
    Taken,
    /// There are too many already. Nothing was changed.
    TooMany,
}

/// An invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct InviteRow {
    pub id: i64,
    /// The one address that may use it.
    pub email: Option<String>,
    /// Makes its user an administrator.
    pub makes_admin: bool,
    /// Void as soon as there is an account.
    pub is_claim: bool,
    pub created_by: Option<UserId>,
    pub created_at: i64,
    pub expires_at: i64,
    pub used_at: Option<i64>,
    pub used_by: Option<UserId>,
}

/// A new invitation.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewInvite {
    /// SHA-256 of the token in its link.
    pub token_hash: [u8; 32],
    pub email: Option<String>,
    pub makes_admin: bool,
    pub is_claim: bool,
    pub created_by: Option<UserId>,
    pub created_at: i64,
    pub expires_at: i64,
}

/// The link that will undo a change of address.
#[derive(Clone, Copy, Debug)]
pub struct UndoLink {
    /// SHA-256 of its token.
    pub hash: [u8; 32],
    /// Until when it can be used, Unix milliseconds.
    pub expires_at: i64,
    /// With so many unexpired ones the address is not changed any more: otherwise the first of them, which is the
    /// owner's, would have to make room.
    pub most: i64,
}

/// An address that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressChange {
    /// Whose.
    pub user: UserId,
    /// The address that the account had.
    pub before: String,
    /// The one that it has.
    pub now: String,
}

/// Links, passkeys, challenges, invitations.
#[async_trait]
pub trait SignInStore: Send + Sync + 'static {
    /// Stores a verification link of an unverified account with the password or passkey that takes effect with it, unless
    /// the account has been verified or got too many. Also notes the link's password as the account's (so that a login
    /// with it can say what is missing) and when the legal documents were accepted.
    async fn put_verification_link(&self, new: &VerificationLink<'_>, pace: &LinkPace) -> Result<bool>;
    /// Looks at a verification link without using it.
    async fn peek_verification_link(&self, hash: &[u8; 32]) -> Result<Option<PeekedVerification>>;
    /// Uses a verification link: the account is verified; its only password is `password_hash`, else what was registered
    /// with this link if `registrant` says that it was by the same browser, else none; its only passkey is the one
    /// registered so, or none. Every other verification link of the account is void with what is bound to it. `None`:
    /// unknown, expired, used, or the account is verified already.
    async fn take_verification_link(
        &self,
        hash: &[u8; 32],
        now_ms: i64,
        registrant: Option<&[u8; 32]>,
        password_hash: Option<&str>,
    ) -> Result<Option<UserId>>;
    /// Stores a link unless the account got one for the same purpose less than `gap_ms` ago or has `most` unexpired ones.
    /// `new_email`: the address that takes effect with it.
    async fn put_link(&self, link: &OneTimeToken, new_email: Option<&str>, gap_ms: i64, most: i64) -> Result<bool>;
    /// Uses a link that signs in: forgets failed logins. `None`: no such link, or its account may not sign in.
    async fn take_login_link(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<UserRow>>;
    /// Uses a link that sets a password: sets it, token version + 1, forgets failed logins, voids the account's other links.
    async fn take_reset_link(&self, hash: &[u8; 32], now_ms: i64, password_hash: &str) -> Result<Option<UserId>>;
    /// Uses a link that replaces lost passkeys: deletes all, stores this one, token version + 1, voids the account's
    /// other links.
    async fn take_recovery_link(&self, hash: &[u8; 32], now_ms: i64, key: &NewPasskey) -> Result<Unique<UserId>>;
    /// Uses a link that changes the address; voids the account's other links, and stores one that undoes it. An
    /// unverified account with the new address, which anybody could have made, gives way.
    async fn take_address_link(&self, hash: &[u8; 32], now_ms: i64, undo: &UndoLink) -> Result<Unique<AddressChange>>;
    /// Uses a link that puts an address back: token version + 1, voids the account's other links and those that would
    /// undo later changes, and deletes passkeys that were added since. An unverified account with the address gives way.
    async fn take_undo_link(&self, hash: &[u8; 32], now_ms: i64) -> Result<Unique<AddressChange>>;
    /// Sets a password, forgets failed logins, voids the account's links, and ends the other sessions if asked to.
    /// `false`: there is no such account.
    async fn change_password(&self, user: UserId, password_hash: &str, others: Option<SignOut>) -> Result<bool>;

    /// What is known of an address (in lower case) and of two places from which somebody claims it.
    async fn login_standing(&self, email: &str, places: [&str; 2], now_ms: i64) -> Result<LoginStanding>;
    /// Counts a wrong password for an address, whether or not there is an account with it, and a place; in one step, so
    /// that of many at once none is missed.
    async fn count_failed_login(&self, email: &str, place: &str, rule: &FailureRule, now_ms: i64) -> Result<()>;
    /// Forgets the wrong passwords for an address from one place or from everywhere.
    async fn forget_failed_logins(&self, email: &str, place: Option<&str>) -> Result<()>;

    /// Stores a challenge. Of the newest `most` none is lost; older ones are.
    async fn put_challenge(&self, challenge: &Challenge, most: i64) -> Result<()>;
    /// Uses a challenge up, if it was made for this.
    async fn take_challenge(
        &self,
        value: &[u8; 32],
        ceremony: Ceremony,
        subject: &[u8; 32],
        now_ms: i64,
    ) -> Result<Option<TakenChallenge>>;

    /// The passkey with this credential id.
    async fn find_passkey(&self, credential_id: &[u8]) -> Result<Option<PasskeyRow>>;
    /// An account's passkeys, oldest first.
    async fn passkeys_of(&self, user: UserId) -> Result<Vec<PasskeyRow>>;
    /// Adds a passkey unless the account has `most`.
    async fn add_passkey(&self, user: UserId, key: &NewPasskey, most: i64) -> Result<Unique<i64>>;
    /// Renames one of the account's passkeys.
    async fn rename_passkey(&self, user: UserId, id: i64, name: &str) -> Result<bool>;
    /// Removes one of the account's passkeys.
    async fn remove_passkey(&self, user: UserId, id: i64) -> Result<bool>;
    /// Notes a use, unless the counter says that the key was copied: it must grow, or always be 0 (accounts contract,
    /// section 6.3). One statement, so that of two uses with the same count one fails.
    async fn use_passkey(&self, id: i64, used: &PasskeyUse<'_>, now_ms: i64) -> Result<bool>;

    /// Stores an invitation; a claim replaces older claims. `None`: a claim, and there is an account.
    async fn put_invite(&self, invite: &NewInvite) -> Result<Option<i64>>;
    /// Invitations, newest first, at most `limit`.
    async fn invites(&self, limit: usize) -> Result<Vec<InviteRow>>;
    /// Takes an invitation back.
    async fn delete_invite(&self, id: i64) -> Result<bool>;
    /// The invitation behind a link, used or not, if it has not expired.
    async fn find_invite(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<InviteRow>>;
    /// Uses an invitation for an account that has been registered with it; the same account may use it again.
    async fn use_invite(&self, hash: &[u8; 32], user: UserId, now_ms: i64) -> Result<bool>;
    /// Uses an invitation and makes the account in one step, verified, with this password and passkey. An unverified account
    /// with the address gives way. `Taken`: there is a verified one, or somebody has the passkey.
    async fn register_invited(
        &self,
        hash: &[u8; 32],
        user: &NewUser,
        passkey: Option<&NewPasskey>,
        now_ms: i64,
    ) -> Result<Unique<UserId>>;

    /// Deletes what has expired: challenges and pending passkeys, and invitations that had before `long_ago_ms`; and
    /// accounts made before then that were never verified and have no link left. Returns how many rows.
    async fn delete_expired_sign_in(&self, now_ms: i64, long_ago_ms: i64) -> Result<u64>;
}
