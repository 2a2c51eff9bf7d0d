//! Ways to sign in: see [`crate::store::signin`].

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::{PostgresStore, on_connection};
use crate::protocol::UserId;
use crate::store::row::bound;
use crate::store::signin::sign_in_steps;
use crate::store::{Result, SignInStore};

sign_in_steps!(PgConnection, " FOR NO KEY UPDATE");

#[async_trait]
impl SignInStore for PostgresStore {
    async fn put_verification_link(&self, new: &VerificationLink<'_>, pace: &LinkPace) -> Result<bool> {
        on_connection!(self.requests, self.patience, "put_verification_link", |db| {
            let mut tx = db.begin().await?;
            let done = put_verification_link(&mut tx, new, pace).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn peek_verification_link(&self, hash: &[u8; 32]) -> Result<Option<PeekedVerification>> {
        on_connection!(self.requests, self.patience, "peek_verification_link", |db| {
            peek_verification_link(db, hash).await
        })
    }

    async fn take_verification_link(
        &self,
        hash: &[u8; 32],
        now_ms: i64,
        registrant: Option<&[u8; 32]>,
        password_hash: Option<&str>,
    ) -> Result<Option<UserId>> {
        on_connection!(self.requests, self.patience, "take_verification_link", |db| {
            let mut tx = db.begin().await?;
            let done = take_verification_link(&mut tx, hash, now_ms, registrant, password_hash).await?;
            // Dropped without a commit, the transaction undoes everything.
            if done.is_some() {
                tx.commit().await?;
            }
            Ok(done)
        })
    }

    async fn put_link(&self, link: &OneTimeToken, new_email: Option<&str>, gap_ms: i64, most: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "put_link", |db| {
            let mut tx = db.begin().await?;
            let done = put_link(&mut tx, link, new_email, gap_ms, most).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn take_login_link(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<UserRow>> {
        on_connection!(self.requests, self.patience, "take_login_link", |db| {
            let mut tx = db.begin().await?;
            let done = take_login_link(&mut tx, hash, now_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn take_reset_link(&self, hash: &[u8; 32], now_ms: i64, password_hash: &str) -> Result<Option<UserId>> {
        on_connection!(self.requests, self.patience, "take_reset_link", |db| {
            let mut tx = db.begin().await?;
            let done = take_reset_link(&mut tx, hash, now_ms, password_hash).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn take_recovery_link(&self, hash: &[u8; 32], now_ms: i64, key: &NewPasskey) -> Result<Unique<UserId>> {
        on_connection!(self.requests, self.patience, "take_recovery_link", |db| {
            let mut tx = db.begin().await?;
            let done = take_recovery_link(&mut tx, hash, now_ms, key).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
    }

    async fn take_address_link(&self, hash: &[u8; 32], now_ms: i64, undo: &UndoLink) -> Result<Unique<AddressChange>> {
        on_connection!(self.requests, self.patience, "take_address_link", |db| {
            let mut tx = db.begin().await?;
            let done = take_address_link(&mut tx, hash, now_ms, undo).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
    }

    async fn take_undo_link(&self, hash: &[u8; 32], now_ms: i64) -> Result<Unique<AddressChange>> {
        on_connection!(self.requests, self.patience, "take_undo_link", |db| {
            let mut tx = db.begin().await?;
            let done = take_undo_link(&mut tx, hash, now_ms).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
    }

    async fn change_password(&self, user: UserId, password_hash: &str, others: Option<SignOut>) -> Result<bool> {
        on_connection!(self.requests, self.patience, "change_password", |db| {
            let mut tx = db.begin().await?;
            let done = change_password(&mut tx, user, password_hash, others).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn login_standing(&self, email: &str, places: [&str; 2], now_ms: i64) -> Result<LoginStanding> {
        on_connection!(self.requests, self.patience, "login_standing", |db| {
            login_standing(db, email, places, now_ms).await
        })
    }

    async fn count_failed_login(&self, email: &str, place: &str, rule: &FailureRule, now_ms: i64) -> Result<()> {
        on_connection!(self.requests, self.patience, "count_failed_login", |db| {
            let mut tx = db.begin().await?;
            count_failed_login(&mut tx, email, place, rule, now_ms).await?;
            tx.commit().await?;
            Ok(())
        })
    }

    async fn forget_failed_logins(&self, email: &str, place: Option<&str>) -> Result<()> {
        on_connection!(self.requests, self.patience, "forget_failed_logins", |db| {
            forget_failed_logins(db, email, place).await
        })
    }

    async fn put_challenge(&self, challenge: &Challenge, most: i64) -> Result<()> {
        on_connection!(self.requests, self.patience, "put_challenge", |db| {
            let mut tx = db.begin().await?;
            put_challenge(&mut tx, challenge, most).await?;
            tx.commit().await?;
            Ok(())
        })
    }

    async fn take_challenge(
        &self,
        value: &[u8; 32],
        ceremony: Ceremony,
        subject: &[u8; 32],
        now_ms: i64,
    ) -> Result<Option<TakenChallenge>> {
        on_connection!(self.requests, self.patience, "take_challenge", |db| {
            let mut tx = db.begin().await?;
            let done = take_challenge(&mut tx, value, ceremony, subject, now_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn find_passkey(&self, credential_id: &[u8]) -> Result<Option<PasskeyRow>> {
        on_connection!(self.requests, self.patience, "find_passkey", |db| { find_passkey(db, credential_id).await })
    }

    async fn passkeys_of(&self, user: UserId) -> Result<Vec<PasskeyRow>> {
        on_connection!(self.requests, self.patience, "passkeys_of", |db| { passkeys_of(db, user).await })
    }

    async fn add_passkey(&self, user: UserId, key: &NewPasskey, most: i64) -> Result<Unique<i64>> {
        on_connection!(self.requests, self.patience, "add_passkey", |db| {
            let mut tx = db.begin().await?;
            let done = add_passkey(&mut tx, user, key, most).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
    }

    async fn rename_passkey(&self, user: UserId, id: i64, name: &str) -> Result<bool> {
        on_connection!(self.requests, self.patience, "rename_passkey", |db| {
            let mut tx = db.begin().await?;
            let done = rename_passkey(&mut tx, user, id, name).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn remove_passkey(&self, user: UserId, id: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "remove_passkey", |db| {
            let mut tx = db.begin().await?;
            let done = remove_passkey(&mut tx, user, id).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn use_passkey(&self, id: i64, used: &PasskeyUse<'_>, now_ms: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "use_passkey", |db| {
            let mut tx = db.begin().await?;
            let done = use_passkey(&mut tx, id, used, now_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn put_invite(&self, invite: &NewInvite) -> Result<Option<i64>> {
        on_connection!(self.requests, self.patience, "put_invite", |db| {
            let mut tx = db.begin().await?;
            let done = put_invite(&mut tx, invite).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn invites(&self, limit: usize) -> Result<Vec<InviteRow>> {
        on_connection!(self.requests, self.patience, "invites", |db| { invites(db, bound(limit)).await })
    }

    async fn delete_invite(&self, id: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "delete_invite", |db| {
            let mut tx = db.begin().await?;
            let done = delete_invite(&mut tx, id).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn find_invite(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<InviteRow>> {
        on_connection!(self.requests, self.patience, "find_invite", |db| { find_invite(db, hash, now_ms).await })
    }

    async fn use_invite(&self, hash: &[u8; 32], user: UserId, now_ms: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "use_invite", |db| {
            let mut tx = db.begin().await?;
            let done = use_invite(&mut tx, hash, user, now_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
    }

    async fn register_invited(
        &self,
        hash: &[u8; 32],
        user: &NewUser,
        passkey: Option<&NewPasskey>,
        now_ms: i64,
    ) -> Result<Unique<UserId>> {
        on_connection!(self.requests, self.patience, "register_invited", |db| {
            let mut tx = db.begin().await?;
            let done = register_invited(&mut tx, hash, user, passkey, now_ms).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
    }

    async fn delete_expired_sign_in(&self, now_ms: i64, long_ago_ms: i64) -> Result<u64> {
        on_connection!(self.housekeeping, self.patience, "delete_expired_sign_in", |db| {
            let mut tx = db.begin().await?;
            let done = delete_expired_sign_in(&mut tx, now_ms, long_ago_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
    }
}
