//! Sessions and tickets for sockets.

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

use super::SqliteStore;
use super::signin::{lock_user, void_links};
use crate::protocol::UserId;
use crate::store::error::{is_foreign_key_violation, timed_on};
use crate::store::row::{
    bound, decode_authentication, decode_session, decode_standing, decode_ticket, session_columns,
};
use crate::store::{
    Authentication, Credential, EventKind, OlderTokens, Result, SessionId, SessionRow, SessionSeen, SessionStore,
    SignOut, SocketTicket, Standing,
};

const SESSIONS: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM sessions WHERE user_id = ?1 AND expires_at > ?2 ORDER BY last_seen_at DESC, created_at DESC, id"
);
const REPLACED: &str =
    "SELECT name, authenticated_at, authenticated_how, user_verified FROM sessions WHERE id = ?1 AND user_id = ?2";
const AUTHENTICATION: &str =
    "SELECT authenticated_at, authenticated_how, user_verified FROM sessions WHERE id = ?1 AND user_id = ?2";
const AUTHENTICATE: &str = "UPDATE sessions SET authenticated_at = ?3, authenticated_how = ?4, user_verified = ?5 \
                            WHERE id = ?1 AND user_id = ?2";
const INSERT: &str = concat!(
    "INSERT INTO sessions (",
    session_columns!(),
    ") SELECT ?1, u.id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12 FROM users u WHERE u.id = ?2 AND u.locked_at IS NULL"
);
const STANDING: &str = "SELECT u.is_verified, u.locked_at IS NOT NULL, u.token_version, u.older_tokens_revoked_at, \
                        u.older_tokens_seen_at, s.created_at, s.last_seen_at FROM users u \
                        LEFT JOIN sessions s ON s.id = ?2 AND s.user_id = u.id WHERE u.id = ?1";
const TOUCH_SESSION: &str = "UPDATE sessions SET last_seen_at = max(last_seen_at, ?2), \
                             last_address = COALESCE(?3, last_address) WHERE id = ?1";
/// Nothing for tokens that are void: they may have been shown just before they were voided.
const TOUCH_OLDER_TOKENS: &str = "UPDATE users SET older_tokens_seen_at = max(COALESCE(older_tokens_seen_at, ?4), ?4), \
                                  older_tokens_address = COALESCE(?5, older_tokens_address) \
                                  WHERE id = ?1 AND token_version = ?2 \
                                  AND (older_tokens_revoked_at IS NULL OR older_tokens_revoked_at <= ?3)";
const REVOKE_OLDER_TOKENS: &str = "UPDATE users SET older_tokens_revoked_at = ?2, older_tokens_seen_at = NULL, \
                                   older_tokens_address = NULL WHERE id = ?1";

#[async_trait]
impl SessionStore for SqliteStore {
    async fn open_session(&self, session: &SessionRow, keep: usize) -> Result<bool> {
        timed_on("open_session", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            if !insert(&mut tx, session).await? {
                return Ok(false);
            }
            let dropped = sqlx::query(
                "DELETE FROM sessions WHERE user_id = ?1 AND id IN (SELECT id FROM sessions WHERE user_id = ?1 \
                 AND id <> ?2 ORDER BY last_seen_at DESC, created_at DESC, id LIMIT -1 OFFSET ?3)",
            )
            .bind(session.user)
            .bind(session.id.as_bytes().to_vec())
            .bind(bound(keep.saturating_sub(1)))
            .execute(&mut *tx)
            .await?;
            if dropped.rows_affected() > 0 {
                announce(&mut tx, session.user, EventKind::SessionRevoked).await?;
            }
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn replace_sessions(&self, session: &SessionRow, replaced: Option<SessionId>) -> Result<Option<i64>> {
        timed_on("replace_sessions", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let replaced = sqlx::query(REPLACED)
                .bind(replaced.map(|id| id.as_bytes().to_vec()))
                .bind(session.user)
                .fetch_optional(&mut *tx)
                .await?;
            let mut session = session.clone();
            if let Some(row) = replaced {
                session.name = row.try_get(0)?;
                session.authentication = decode_authentication!(&row, 1)?;
            }
            // Deletes the sessions and announces it: see the schema.
            let versions: Vec<i64> = sqlx::query_scalar(
                "UPDATE users SET token_version = token_version + 1 WHERE id = ?1 RETURNING token_version",
            )
            .bind(session.user)
            .fetch_all(&mut *tx)
            .await?;
            let Some(version) = versions.first().copied() else { return Ok(None) };
            if !insert(&mut tx, &session).await? {
                return Ok(None);
            }
            tx.commit().await?;
            Ok(Some(version))
        })
        .await
    }

    async fn standing(&self, user: UserId, session: Option<SessionId>) -> Result<Option<Standing>> {
        timed_on("session", "readers", async {
            let session = session.map(|id| id.as_bytes().to_vec());
            let row = sqlx::query(STANDING).bind(user).bind(session).fetch_optional(&self.readers).await?;
            row.map(|row| decode_standing!(&row)).transpose()
        })
        .await
    }

    async fn authentication(&self, user: UserId, session: SessionId) -> Result<Option<Authentication>> {
        timed_on("authentication", "readers", async {
            let row = sqlx::query(AUTHENTICATION).bind(session.as_bytes().to_vec()).bind(user);
            let row = row.fetch_optional(&self.readers).await?;
            row.map_or(Ok(None), |row| decode_authentication!(&row, 0))
        })
        .await
    }

    async fn authenticate_session(&self, user: UserId, session: SessionId, now: &Authentication) -> Result<bool> {
        timed_on("authenticate_session", "writer", async {
            let done = sqlx::query(AUTHENTICATE)
                .bind(session.as_bytes().to_vec())
                .bind(user)
                .bind(now.at_ms)
                .bind(now.how.as_str())
                .bind(now.user_verified)
                .execute(&mut *self.writer.acquire().await?)
                .await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    async fn sessions(&self, user: UserId, now_ms: i64) -> Result<Vec<SessionRow>> {
        timed_on("sessions", "readers", async {
            let rows = sqlx::query(SESSIONS).bind(user).bind(now_ms).fetch_all(&self.readers).await?;
            rows.iter().map(|row| decode_session!(row)).collect()
        })
        .await
    }

    async fn older_tokens(&self, user: UserId) -> Result<Option<OlderTokens>> {
        timed_on("older_tokens", "readers", async {
            let row = sqlx::query(
                "SELECT older_tokens_seen_at, older_tokens_address FROM users \
                 WHERE id = ?1 AND older_tokens_seen_at IS NOT NULL",
            )
            .bind(user)
            .fetch_optional(&self.readers)
            .await?;
            let decode =
                |row: SqliteRow| Ok(OlderTokens { last_seen_at: row.try_get(0)?, last_address: row.try_get(1)? });
            row.map(decode).transpose()
        })
        .await
    }

    async fn rename_session(&self, user: UserId, id: SessionId, name: &str) -> Result<bool> {
        timed_on("rename_session", "writer", async {
            let done = sqlx::query("UPDATE sessions SET name = ?3 WHERE id = ?2 AND user_id = ?1")
                .bind(user)
                .bind(id.as_bytes().to_vec())
                .bind(name.to_owned())
                .execute(&mut *self.writer.acquire().await?)
                .await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    async fn revoke_session(&self, user: UserId, id: SessionId) -> Result<bool> {
        timed_on("revoke_session", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            lock_user(&mut tx, user).await?;
            let done = sqlx::query("DELETE FROM sessions WHERE id = ?2 AND user_id = ?1")
                .bind(user)
                .bind(id.as_bytes().to_vec())
                .execute(&mut *tx)
                .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            void_links(&mut tx, user).await?;
            announce(&mut tx, user, EventKind::SessionRevoked).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn revoke_older_tokens(&self, user: UserId, now_ms: i64) -> Result<bool> {
        timed_on("revoke_older_tokens", "writer", async {
            let done = sqlx::query(REVOKE_OLDER_TOKENS)
                .bind(user)
                .bind(now_ms)
                .execute(&mut *self.writer.acquire().await?)
                .await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }

    async fn revoke_other_sessions(&self, user: UserId, others: SignOut) -> Result<u64> {
        timed_on("revoke_other_sessions", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let revoked = revoke_others(&mut tx, user, others).await?;
            tx.commit().await?;
            Ok(revoked)
        })
        .await
    }

    async fn touch_sessions(&self, seen: &[SessionSeen]) -> Result<()> {
        timed_on("touch_sessions", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            for SessionSeen { user, credential, at_ms, address } in seen {
                let touch = match credential.session {
                    Some(id) => sqlx::query(TOUCH_SESSION).bind(id.as_bytes().to_vec()),
                    None => sqlx::query(TOUCH_OLDER_TOKENS)
                        .bind(user)
                        .bind(credential.token_version)
                        .bind(credential.issued_at),
                };
                touch.bind(at_ms).bind(address.clone()).execute(&mut *tx).await?;
            }
            tx.commit().await?;
            self.checkpointer.wake();
            Ok(())
        })
        .await
    }

    async fn delete_expired_sessions(&self, now_ms: i64, limit: usize) -> Result<u64> {
        timed_on("delete_expired_sessions", "writer", async {
            let done = sqlx::query(
                "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < ?1 \
                 ORDER BY expires_at LIMIT ?2)",
            )
            .bind(now_ms)
            .bind(bound(limit));
            Ok(done.execute(&mut *self.writer.acquire().await?).await?.rows_affected())
        })
        .await
    }

    async fn put_ticket(&self, ticket: &SocketTicket, keep: usize) -> Result<()> {
        timed_on("put_ticket", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let Credential { session, token_version, issued_at } = ticket.credential;
            sqlx::query(
                "INSERT INTO socket_tickets (ticket_hash, user_id, session_id, token_version, token_issued_at, \
                 expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .bind(ticket.hash.to_vec())
            .bind(ticket.user)
            .bind(session.map(|id| id.as_bytes().to_vec()))
            .bind(token_version)
            .bind(issued_at)
            .bind(ticket.expires_at)
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "DELETE FROM socket_tickets WHERE ticket_hash IN (SELECT ticket_hash FROM socket_tickets \
                 WHERE user_id = ?1 AND ticket_hash <> ?2 ORDER BY expires_at DESC LIMIT -1 OFFSET ?3)",
            )
            .bind(ticket.user)
            .bind(ticket.hash.to_vec())
            .bind(bound(keep.saturating_sub(1)))
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
    }

    async fn take_ticket(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<SocketTicket>> {
        timed_on("take_ticket", "writer", async {
            let rows = sqlx::query(
                "DELETE FROM socket_tickets WHERE ticket_hash = ?1 AND expires_at > ?2 \
                 RETURNING ticket_hash, user_id, session_id, token_version, token_issued_at, expires_at",
            )
            .bind(hash.to_vec())
            .bind(now_ms)
            .fetch_all(&mut *self.writer.acquire().await?)
            .await?;
            rows.first().map(|row| decode_ticket!(row)).transpose()
        })
        .await
    }

    async fn delete_expired_tickets(&self, now_ms: i64) -> Result<u64> {
        timed_on("delete_expired_tickets", "writer", async {
            let done = sqlx::query("DELETE FROM socket_tickets WHERE expires_at < ?1").bind(now_ms);
            Ok(done.execute(&mut *self.writer.acquire().await?).await?.rows_affected())
        })
        .await
    }

    async fn set_locked(&self, user: UserId, locked_at: Option<i64>) -> Result<bool> {
        timed_on("set_locked", "writer", async {
            let done = sqlx::query("UPDATE users SET locked_at = ?2 WHERE id = ?1").bind(user).bind(locked_at);
            Ok(done.execute(&mut *self.writer.acquire().await?).await?.rows_affected() > 0)
        })
        .await
    }

    async fn set_admin(&self, user: UserId, is_admin: bool) -> Result<bool> {
        timed_on("set_admin", "writer", async {
            let done = sqlx::query("UPDATE users SET is_admin = ?2 WHERE id = ?1").bind(user).bind(is_admin);
            Ok(done.execute(&mut *self.writer.acquire().await?).await?.rows_affected() > 0)
        })
        .await
    }
}

/// Stores a session. `false`: no such account, or it is locked.
async fn insert(db: &mut SqliteConnection, session: &SessionRow) -> Result<bool> {
    let inserted = sqlx::query(INSERT)
        .bind(session.id.as_bytes().to_vec())
        .bind(session.user)
        .bind(session.name.clone())
        .bind(session.user_agent.clone())
        .bind(session.method.as_str())
        .bind(session.created_at)
        .bind(session.last_seen_at)
        .bind(session.last_address.clone())
        .bind(session.expires_at)
        .bind(session.authentication.map(|done| done.at_ms))
        .bind(session.authentication.map(|done| done.how.as_str()))
        .bind(session.authentication.is_some_and(|done| done.user_verified))
        .execute(db)
        .await;
    match inserted {
        Ok(done) => Ok(done.rows_affected() > 0),
        // Deleted at this moment.
        Err(error) if is_foreign_key_violation(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Ends the account's other sessions and voids its mailed links. Returns how many sessions went.
pub(super) async fn revoke_others(db: &mut SqliteConnection, user: UserId, others: SignOut) -> Result<u64> {
    lock_user(db, user).await?;
    let done = sqlx::query("DELETE FROM sessions WHERE user_id = ?1 AND id IS DISTINCT FROM ?2")
        .bind(user)
        .bind(others.keep.map(|id| id.as_bytes().to_vec()))
        .execute(&mut *db)
        .await?;
    if others.keep.is_some() {
        sqlx::query(REVOKE_OLDER_TOKENS).bind(user).bind(others.now_ms).execute(&mut *db).await?;
    }
    void_links(db, user).await?;
    announce(db, user, EventKind::SessionRevoked).await?;
    Ok(done.rows_affected())
}

pub(super) async fn announce(db: &mut SqliteConnection, user: UserId, kind: EventKind) -> Result<()> {
    let insert = sqlx::query("INSERT INTO account_events (user_id, kind) VALUES (?1, ?2)");
    insert.bind(user).bind(kind.as_str()).execute(db).await?;
    Ok(())
}
