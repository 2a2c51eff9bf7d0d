//! The statements of links that change an account's address, and of those that undo it.

/// The functions for a connection type, see [`super::steps`].
macro_rules! address_steps {
    ($Connection:ty) => {
        async fn take_address_link(
            db: &mut $Connection,
            hash: &[u8; 32],
            now_ms: i64,
            undo: &UndoLink,
        ) -> Result<Unique<AddressChange>> {
            let link = delete_link(db, hash, TokenPurpose::ChangeAddress, now_ms).await?;
            let Some((user, Some(email), _)) = link else { return Ok(Unique::Gone) };
            let undo_links: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM one_time_tokens WHERE user_id = $1 AND purpose = $2 AND expires_at > $3",
            )
            .bind(user)
            .bind(TokenPurpose::UndoAddress.as_str())
            .bind(now_ms)
            .fetch_one(&mut *db)
            .await?;
            if undo_links >= undo.most {
                return Ok(Unique::TooMany);
            }
            let done = set_address(db, user, email).await?;
            if let Unique::Done(change) = &done {
                void_links(db, user).await?;
                let link = OneTimeToken {
                    hash: undo.hash,
                    purpose: TokenPurpose::UndoAddress,
                    user,
                    pending_password_hash: None,
                    created_at: now_ms,
                    expires_at: undo.expires_at,
                };
                insert_link(db, &link, Some(&change.before)).await?;
            }
            Ok(done)
        }

        async fn take_undo_link(db: &mut $Connection, hash: &[u8; 32], now_ms: i64) -> Result<Unique<AddressChange>> {
            let link = delete_link(db, hash, TokenPurpose::UndoAddress, now_ms).await?;
            let Some((user, Some(email), created_at)) = link else { return Ok(Unique::Gone) };
            let done = set_address(db, user, email).await?;
            if let Unique::Done(_) = done {
                sqlx::query("DELETE FROM passkeys WHERE user_id = $1 AND created_at >= $2")
                    .bind(user)
                    .bind(created_at)
                    .execute(&mut *db)
                    .await?;
                sqlx::query("DELETE FROM one_time_tokens WHERE user_id = $1 AND purpose = $2 AND created_at >= $3")
                    .bind(user)
                    .bind(TokenPurpose::UndoAddress.as_str())
                    .bind(created_at)
                    .execute(&mut *db)
                    .await?;
                // Ends every session and voids every other link: see the schema.
                sqlx::query(
                    "UPDATE users SET token_version = token_version + 1, failed_login_attempts = 0, \
                     locked_until = NULL WHERE id = $1",
                )
                .bind(user)
                .execute(&mut *db)
                .await?;
            }
            Ok(done)
        }

        /// Gives a verified account an address, unless another verified one has it.
        async fn set_address(db: &mut $Connection, user: UserId, email: String) -> Result<Unique<AddressChange>> {
            let before = sqlx::query_scalar("SELECT email FROM users WHERE id = $1 AND is_verified = TRUE");
            let Some(before) = before.bind(user).fetch_optional(&mut *db).await? else { return Ok(Unique::Gone) };
            sqlx::query("DELETE FROM users WHERE lower(email) = $1 AND is_verified = FALSE AND id <> $2")
                .bind(email.to_ascii_lowercase())
                .bind(user)
                .execute(&mut *db)
                .await?;
            let set = sqlx::query("UPDATE users SET email = $2 WHERE id = $1").bind(user).bind(email.clone());
            match set.execute(&mut *db).await {
                Ok(_) => Ok(Unique::Done(AddressChange { user, before, now: email })),
                Err(error) if is_unique_violation(&error) => Ok(Unique::Taken),
                Err(error) => Err(error.into()),
            }
        }
    };
}

pub(in crate::store) use address_steps;
