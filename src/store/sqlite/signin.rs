//! Ways to sign in: see [`crate::store::signin`].

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use super::SqliteStore;
use crate::protocol::UserId;
use crate::store::error::timed_on;
use crate::store::row::bound;
use crate::store::signin::sign_in_steps;
use crate::store::{Result, SignInStore};

// A transaction that writes has the database to itself.
sign_in_steps!(SqliteConnection, "");

#[async_trait]
impl SignInStore for SqliteStore {
    async fn put_verification_link(&self, new: &VerificationLink<'_>, pace: &LinkPace) -> Result<bool> {
        timed_on("put_verification_link", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = put_verification_link(&mut tx, new, pace).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn peek_verification_link(&self, hash: &[u8; 32]) -> Result<Option<PeekedVerification>> {
        timed_on("peek_verification_link", "readers", async {
            peek_verification_link(&mut *self.readers.acquire().await?, hash).await
        })
        .await
    }

    async fn take_verification_link(
        &self,
        hash: &[u8; 32],
        now_ms: i64,
        registrant: Option<&[u8; 32]>,
        password_hash: Option<&str>,
    ) -> Result<Option<UserId>> {
        timed_on("take_verification_link", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = take_verification_link(&mut tx, hash, now_ms, registrant, password_hash).await?;
            // Dropped without a commit, the transaction undoes everything.
            if done.is_some() {
                tx.commit().await?;
            }
            Ok(done)
        })
        .await
    }

    async fn put_link(&self, link: &OneTimeToken, new_email: Option<&str>, gap_ms: i64, most: i64) -> Result<bool> {
        timed_on("put_link", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = put_link(&mut tx, link, new_email, gap_ms, most).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn take_login_link(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<UserRow>> {
        timed_on("take_login_link", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = take_login_link(&mut tx, hash, now_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn take_reset_link(&self, hash: &[u8; 32], now_ms: i64, password_hash: &str) -> Result<Option<UserId>> {
        timed_on("take_reset_link", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = take_reset_link(&mut tx, hash, now_ms, password_hash).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn take_recovery_link(&self, hash: &[u8; 32], now_ms: i64, key: &NewPasskey) -> Result<Unique<UserId>> {
        timed_on("take_recovery_link", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = take_recovery_link(&mut tx, hash, now_ms, key).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
        .await
    }

    async fn take_address_link(&self, hash: &[u8; 32], now_ms: i64, undo: &UndoLink) -> Result<Unique<AddressChange>> {
        timed_on("take_address_link", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = take_address_link(&mut tx, hash, now_ms, undo).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
        .await
    }

    async fn take_undo_link(&self, hash: &[u8; 32], now_ms: i64) -> Result<Unique<AddressChange>> {
        timed_on("take_undo_link", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = take_undo_link(&mut tx, hash, now_ms).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
        .await
    }

    async fn change_password(&self, user: UserId, password_hash: &str, others: Option<SignOut>) -> Result<bool> {
        timed_on("change_password", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = change_password(&mut tx, user, password_hash, others).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn login_standing(&self, email: &str, places: [&str; 2], now_ms: i64) -> Result<LoginStanding> {
        timed_on("login_standing", "readers", async {
            login_standing(&mut *self.readers.acquire().await?, email, places, now_ms).await
        })
        .await
    }

    async fn count_failed_login(&self, email: &str, place: &str, rule: &FailureRule, now_ms: i64) -> Result<()> {
        timed_on("count_failed_login", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            count_failed_login(&mut tx, email, place, rule, now_ms).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn forget_failed_logins(&self, email: &str, place: Option<&str>) -> Result<()> {
        timed_on("forget_failed_logins", "writer", async {
            forget_failed_logins(&mut *self.writer.acquire().await?, email, place).await
        })
        .await
    }

    async fn put_challenge(&self, challenge: &Challenge, most: i64) -> Result<()> {
        timed_on("put_challenge", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            put_challenge(&mut tx, challenge, most).await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn take_challenge(
        &self,
        value: &[u8; 32],
        ceremony: Ceremony,
        subject: &[u8; 32],
        now_ms: i64,
    ) -> Result<Option<TakenChallenge>> {
        timed_on("take_challenge", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = take_challenge(&mut tx, value, ceremony, subject, now_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn find_passkey(&self, credential_id: &[u8]) -> Result<Option<PasskeyRow>> {
        timed_on("find_passkey", "readers", async {
            find_passkey(&mut *self.readers.acquire().await?, credential_id).await
        })
        .await
    }

    async fn passkeys_of(&self, user: UserId) -> Result<Vec<PasskeyRow>> {
        timed_on("passkeys_of", "readers", async { passkeys_of(&mut *self.readers.acquire().await?, user).await }).await
    }

    async fn add_passkey(&self, user: UserId, key: &NewPasskey, most: i64) -> Result<Unique<i64>> {
        timed_on("add_passkey", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = add_passkey(&mut tx, user, key, most).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
        .await
    }

    async fn rename_passkey(&self, user: UserId, id: i64, name: &str) -> Result<bool> {
        timed_on("rename_passkey", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = rename_passkey(&mut tx, user, id, name).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn remove_passkey(&self, user: UserId, id: i64) -> Result<bool> {
        timed_on("remove_passkey", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = remove_passkey(&mut tx, user, id).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn use_passkey(&self, id: i64, used: &PasskeyUse<'_>, now_ms: i64) -> Result<bool> {
        timed_on("use_passkey", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = use_passkey(&mut tx, id, used, now_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn put_invite(&self, invite: &NewInvite) -> Result<Option<i64>> {
        timed_on("put_invite", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = put_invite(&mut tx, invite).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn invites(&self, limit: usize) -> Result<Vec<InviteRow>> {
        timed_on("invites", "readers", async { invites(&mut *self.readers.acquire().await?, bound(limit)).await }).await
    }

    async fn delete_invite(&self, id: i64) -> Result<bool> {
        timed_on("delete_invite", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = delete_invite(&mut tx, id).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn find_invite(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<InviteRow>> {
        timed_on("find_invite", "readers", async {
            find_invite(&mut *self.readers.acquire().await?, hash, now_ms).await
        })
        .await
    }

    async fn use_invite(&self, hash: &[u8; 32], user: UserId, now_ms: i64) -> Result<bool> {
        timed_on("use_invite", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = use_invite(&mut tx, hash, user, now_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn register_invited(
        &self,
        hash: &[u8; 32],
        user: &NewUser,
        passkey: Option<&NewPasskey>,
        now_ms: i64,
    ) -> Result<Unique<UserId>> {
        timed_on("register_invited", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = register_invited(&mut tx, hash, user, passkey, now_ms).await?;
            // Dropped without a commit, the transaction undoes everything.
            if let Unique::Done(_) = done {
                tx.commit().await?;
            }
            Ok(done)
        })
        .await
    }

    async fn delete_expired_sign_in(&self, now_ms: i64, long_ago_ms: i64) -> Result<u64> {
        timed_on("delete_expired_sign_in", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = delete_expired_sign_in(&mut tx, now_ms, long_ago_ms).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }
}
