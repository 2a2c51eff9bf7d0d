//! The statements of passwords: changing one, and counting wrong ones, so that nobody can guess on and on.

/// The functions for a connection type, see [`super::steps`].
macro_rules! guess_steps {
    ($Connection:ty) => {
        /// After a new proof of who somebody is, wrong passwords count for nothing.
        async fn end_locks(db: &mut $Connection, user: UserId) -> Result<()> {
            let email = sqlx::query_scalar::<_, String>("SELECT email FROM users WHERE id = $1").bind(user);
            if let Some(email) = email.fetch_optional(&mut *db).await? {
                forget_failed_logins(db, &email, None).await?;
            }
            Ok(())
        }

        async fn change_password(
            db: &mut $Connection,
            user: UserId,
            password_hash: &str,
            others: Option<SignOut>,
        ) -> Result<bool> {
            let set = sqlx::query(
                "UPDATE users SET password_hash = $2, failed_login_attempts = 0, locked_until = NULL WHERE id = $1",
            )
            .bind(user)
            .bind(password_hash.to_owned())
            .execute(&mut *db)
            .await?;
            if let Some(others) = others {
                super::sessions::revoke_others(db, user, others).await?;
            } else {
                void_links(db, user).await?;
            }
            end_locks(db, user).await?;
            Ok(set.rows_affected() > 0)
        }

        async fn login_standing(
            db: &mut $Connection,
            email: &str,
            places: [&str; 2],
            now_ms: i64,
        ) -> Result<LoginStanding> {
            let query = concat!("SELECT ", user_columns!(), " FROM users WHERE lower(email) = $1");
            let user = sqlx::query(query).bind(email.to_ascii_lowercase()).fetch_optional(&mut *db).await?;
            let user = user.map(|row| decode_user!(&row)).transpose()?;
            let rows = sqlx::query(
                "SELECT network, failures FROM failed_logins WHERE subject = $1 AND network IN ($2, $3) \
                 AND expires_at > $4 AND expires_at <= $5",
            )
            .bind(failure_subject(email))
            .bind(places[0].to_owned())
            .bind(places[1].to_owned())
            .bind(now_ms)
            .bind(now_ms + FAILURES_END_WITHIN_MS)
            .fetch_all(&mut *db)
            .await?;
            let mut failures = [0; 2];
            for row in rows {
                let (place, count): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
                failures[usize::from(place != places[0])] = count;
            }
            // Asked for nobody as well: the work must not tell.
            let known = sqlx::query(
                "SELECT 1 FROM sessions WHERE user_id = $1 AND last_address = $2 AND expires_at > $3 LIMIT 1",
            )
            .bind(user.as_ref().map_or(0, |user| user.id))
            .bind(places[0].to_owned())
            .bind(now_ms)
            .fetch_optional(&mut *db)
            .await?;
            Ok(LoginStanding { user, failures, knows_network: known.is_some() })
        }

        async fn count_failed_login(
            db: &mut $Connection,
            email: &str,
            place: &str,
            rule: &FailureRule,
            now_ms: i64,
        ) -> Result<()> {
            let subject = failure_subject(email);
            let counted = sqlx::query(
                "UPDATE failed_logins SET \
                 failures = CASE WHEN expires_at <= $3 OR expires_at > $7 THEN 1 ELSE failures + 1 END, \
                 expires_at = CASE WHEN expires_at <= $3 OR expires_at > $7 THEN $4 \
                 WHEN failures + 1 = $5 THEN $6 ELSE expires_at END WHERE subject = $1 AND network = $2",
            )
            .bind(subject.clone())
            .bind(place.to_owned())
            .bind(now_ms)
            .bind(now_ms + rule.remembered_ms)
            .bind(rule.lock_at)
            .bind(now_ms + rule.lock_ms)
            .bind(now_ms + FAILURES_END_WITHIN_MS)
            .execute(&mut *db)
            .await?;
            if counted.rows_affected() > 0 {
                return Ok(());
            }
            let id: i64 = sqlx::query_scalar(
                "INSERT INTO failed_logins (subject, network, failures, expires_at) VALUES ($1, $2, 1, $3) \
                 ON CONFLICT (subject, network) DO UPDATE SET failures = failed_logins.failures + 1 RETURNING id",
            )
            .bind(subject)
            .bind(place.to_owned())
            .bind(now_ms + rule.remembered_ms)
            .fetch_one(&mut *db)
            .await?;
            let old = sqlx::query("DELETE FROM failed_logins WHERE id <= $1").bind(id.saturating_sub(rule.most));
            old.execute(&mut *db).await?;
            Ok(())
        }

        async fn forget_failed_logins(db: &mut $Connection, email: &str, place: Option<&str>) -> Result<()> {
            sqlx::query("DELETE FROM failed_logins WHERE subject = $1 AND network = COALESCE($2, network)")
                .bind(failure_subject(email))
                .bind(place.map(str::to_owned))
                .execute(&mut *db)
                .await?;
            Ok(())
        }
    };
}

pub(in crate::store) use guess_steps;
