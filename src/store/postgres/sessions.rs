//! Sessions and tickets for sockets.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::signin::{lock_user, void_links};
use super::{Pool, PostgresStore, on_connection, placed, sql};
use crate::protocol::UserId;
use crate::store::error::is_foreign_key_violation;
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
    " FROM sessions WHERE user_id = $1 AND expires_at > $2 ORDER BY last_seen_at DESC, created_at DESC, id"
);
const REPLACED: &str =
    "SELECT name, authenticated_at, authenticated_how, user_verified FROM sessions WHERE id = $1 AND user_id = $2";
const AUTHENTICATION: &str =
    "SELECT authenticated_at, authenticated_how, user_verified FROM sessions WHERE id = $1 AND user_id = $2";
const AUTHENTICATE: &str = "UPDATE sessions SET authenticated_at = $3, authenticated_how = $4, user_verified = $5 \
                            WHERE id = $1 AND user_id = $2";
const INSERT: &str = concat!(
    "INSERT INTO sessions (",
    session_columns!(),
    ") SELECT $1, u.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM users u WHERE u.id = $2 AND u.locked_at IS NULL"
);

#[async_trait]
impl SessionStore for PostgresStore {
    async fn open_session(&self, session: &SessionRow, keep: usize) -> Result<bool> {
        on_connection!(self.requests, self.patience, "open_session", |db| {
            let mut tx = db.begin().await?;
            if !insert(&mut tx, session).await? {
                return Ok(false);
            }
            let dropped = sqlx::query(
                "DELETE FROM sessions WHERE user_id = $1 AND id IN (SELECT id FROM sessions WHERE user_id = $1 \
                 AND id <> $2 ORDER BY last_seen_at DESC, created_at DESC, id OFFSET $3)",
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
    }

    async fn replace_sessions(&self, session: &SessionRow, replaced: Option<SessionId>) -> Result<Option<i64>> {
        on_connection!(self.requests, self.patience, "replace_sessions", |db| {
            let mut tx = db.begin().await?;
            // First the account's row: who voids sessions at the same time waits here.
            let locked = sqlx::query("SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE").bind(session.user);
            if locked.fetch_optional(&mut *tx).await?.is_none() {
                return Ok(None);
            }
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
                "UPDATE users SET token_version = token_version + 1 WHERE id = $1 RETURNING token_version",
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
    }

    async fn standing(&self, user: UserId, session: Option<SessionId>) -> Result<Option<Standing>> {
        let (pool, patience) = (self.requests.clone(), self.patience);
        self.standings.ask((user, session), move |asked| find_standings(pool.clone(), patience, asked)).await
    }

    async fn authentication(&self, user: UserId, session: SessionId) -> Result<Option<Authentication>> {
        on_connection!(self.requests, self.patience, "authentication", |db| {
            let row = sqlx::query(AUTHENTICATION).bind(session.as_bytes().to_vec()).bind(user);
            let row = row.fetch_optional(&mut *db).await?;
            row.map_or(Ok(None), |row| decode_authentication!(&row, 0))
        })
    }

    async fn authenticate_session(&self, user: UserId, session: SessionId, now: &Authentication) -> Result<bool> {
        on_connection!(self.requests, self.patience, "authenticate_session", |db| {
            let done = sqlx::query(AUTHENTICATE)
                .bind(session.as_bytes().to_vec())
                .bind(user)
                .bind(now.at_ms)
                .bind(now.how.as_str())
                .bind(now.user_verified)
                .execute(&mut *db)
                .await?;
            Ok(done.rows_affected() > 0)
        })
    }

    async fn sessions(&self, user: UserId, now_ms: i64) -> Result<Vec<SessionRow>> {
        on_connection!(self.requests, self.patience, "sessions", |db| {
            let rows = sqlx::query(SESSIONS).bind(user).bind(now_ms).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_session!(row)).collect()
        })
    }

    async fn older_tokens(&self, user: UserId) -> Result<Option<OlderTokens>> {
        on_connection!(self.requests, self.patience, "older_tokens", |db| {
            let row = sqlx::query(
                "SELECT older_tokens_seen_at, older_tokens_address FROM users \
                 WHERE id = $1 AND older_tokens_seen_at IS NOT NULL",
            )
            .bind(user)
            .fetch_optional(&mut *db)
            .await?;
            let decode = |row: sqlx::postgres::PgRow| {
                Ok(OlderTokens { last_seen_at: row.try_get(0)?, last_address: row.try_get(1)? })
            };
            row.map(decode).transpose()
        })
    }

    async fn rename_session(&self, user: UserId, id: SessionId, name: &str) -> Result<bool> {
        on_connection!(self.requests, self.patience, "rename_session", |db| {
            let done = sqlx::query("UPDATE sessions SET name = $3 WHERE id = $2 AND user_id = $1")
                .bind(user)
                .bind(id.as_bytes().to_vec())
                .bind(name.to_owned())
                .execute(&mut *db)
                .await?;
            Ok(done.rows_affected() > 0)
        })
    }

    async fn revoke_session(&self, user: UserId, id: SessionId) -> Result<bool> {
        on_connection!(self.requests, self.patience, "revoke_session", |db| {
            let mut tx = db.begin().await?;
            lock_user(&mut tx, user).await?;
            let done = sqlx::query("DELETE FROM sessions WHERE id = $2 AND user_id = $1")
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
    }

    async fn revoke_older_tokens(&self, user: UserId, now_ms: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "revoke_older_tokens", |db| {
            let done = sqlx::query(sql::REVOKE_OLDER_TOKENS).bind(user).bind(now_ms).execute(&mut *db).await?;
            Ok(done.rows_affected() > 0)
        })
    }

    async fn revoke_other_sessions(&self, user: UserId, others: SignOut) -> Result<u64> {
        on_connection!(self.requests, self.patience, "revoke_other_sessions", |db| {
            let mut tx = db.begin().await?;
            let revoked = revoke_others(&mut tx, user, others).await?;
            tx.commit().await?;
            Ok(revoked)
        })
    }

    async fn touch_sessions(&self, seen: &[SessionSeen]) -> Result<()> {
        on_connection!(self.requests, self.patience, "touch_sessions", |db| {
            let (mut ids, mut times, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
            for seen in seen {
                if let Some(id) = seen.credential.session {
                    ids.push(id.as_bytes().to_vec());
                    times.push(seen.at_ms);
                    addresses.push(seen.address.clone());
                }
            }
            if !ids.is_empty() {
                sqlx::query(sql::TOUCH_SESSIONS).bind(ids).bind(times).bind(addresses).execute(&mut *db).await?;
            }
            for seen in seen.iter().filter(|seen| seen.credential.session.is_none()) {
                sqlx::query(sql::TOUCH_OLDER_TOKENS)
                    .bind(seen.user)
                    .bind(seen.credential.token_version)
                    .bind(seen.credential.issued_at)
                    .bind(seen.at_ms)
                    .bind(seen.address.clone())
                    .execute(&mut *db)
                    .await?;
            }
            Ok(())
        })
    }

    async fn delete_expired_sessions(&self, now_ms: i64, limit: usize) -> Result<u64> {
        on_connection!(self.housekeeping, self.patience, "delete_expired_sessions", |db| {
            let done = sqlx::query(
                "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 \
                 ORDER BY expires_at LIMIT $2)",
            )
            .bind(now_ms)
            .bind(bound(limit));
            Ok(done.execute(&mut *db).await?.rows_affected())
        })
    }

    async fn put_ticket(&self, ticket: &SocketTicket, keep: usize) -> Result<()> {
        on_connection!(self.requests, self.patience, "put_ticket", |db| {
            let mut tx = db.begin().await?;
            let Credential { session, token_version, issued_at } = ticket.credential;
            sqlx::query(
                "INSERT INTO socket_tickets (ticket_hash, user_id, session_id, token_version, token_issued_at, \
                 expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
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
                 WHERE user_id = $1 AND ticket_hash <> $2 ORDER BY expires_at DESC OFFSET $3)",
            )
            .bind(ticket.user)
            .bind(ticket.hash.to_vec())
            .bind(bound(keep.saturating_sub(1)))
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
    }

    async fn take_ticket(&self, hash: &[u8; 32], now_ms: i64) -> Result<Option<SocketTicket>> {
        on_connection!(self.requests, self.patience, "take_ticket", |db| {
            let rows = sqlx::query(
                "DELETE FROM socket_tickets WHERE ticket_hash = $1 AND expires_at > $2 \
                 RETURNING ticket_hash, user_id, session_id, token_version, token_issued_at, expires_at",
            )
            .bind(hash.to_vec())
            .bind(now_ms)
            .fetch_all(&mut *db)
            .await?;
            rows.first().map(|row| decode_ticket!(row)).transpose()
        })
    }

    async fn delete_expired_tickets(&self, now_ms: i64) -> Result<u64> {
        on_connection!(self.housekeeping, self.patience, "delete_expired_tickets", |db| {
            let done = sqlx::query("DELETE FROM socket_tickets WHERE expires_at < $1").bind(now_ms);
            Ok(done.execute(&mut *db).await?.rows_affected())
        })
    }

    async fn set_locked(&self, user: UserId, locked_at: Option<i64>) -> Result<bool> {
        on_connection!(self.requests, self.patience, "set_locked", |db| {
            let done = sqlx::query("UPDATE users SET locked_at = $2 WHERE id = $1").bind(user).bind(locked_at);
            Ok(done.execute(&mut *db).await?.rows_affected() > 0)
        })
    }

    async fn set_admin(&self, user: UserId, is_admin: bool) -> Result<bool> {
        on_connection!(self.requests, self.patience, "set_admin", |db| {
            let done = sqlx::query("UPDATE users SET is_admin = $2 WHERE id = $1").bind(user).bind(is_admin);
            Ok(done.execute(&mut *db).await?.rows_affected() > 0)
        })
    }
}

/// Stores a session. `false`: no such account, or it is locked.
async fn insert(db: &mut PgConnection, session: &SessionRow) -> Result<bool> {
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
pub(super) async fn revoke_others(db: &mut PgConnection, user: UserId, others: SignOut) -> Result<u64> {
    lock_user(db, user).await?;
    let done = sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND id IS DISTINCT FROM $2")
        .bind(user)
        .bind(others.keep.map(|id| id.as_bytes().to_vec()))
        .execute(&mut *db)
        .await?;
    if others.keep.is_some() {
        sqlx::query(sql::REVOKE_OLDER_TOKENS).bind(user).bind(others.now_ms).execute(&mut *db).await?;
    }
    void_links(db, user).await?;
    announce(db, user, EventKind::SessionRevoked).await?;
    Ok(done.rows_affected())
}

/// The last statement of a transaction: from here to its end no other transaction announces anything.
pub(super) async fn announce(db: &mut PgConnection, user: UserId, kind: EventKind) -> Result<()> {
    sqlx::query("SELECT record_account_event($1, $2)").bind(user).bind(kind.as_str()).execute(db).await?;
    Ok(())
}

/// What decides about several tokens, in their order.
async fn find_standings(
    pool: Pool,
    patience: Duration,
    asked: Vec<(UserId, Option<SessionId>)>,
) -> Result<Vec<Result<Option<Standing>>>> {
    on_connection!(pool, patience, "session", |db| {
        let mut found: Vec<Result<Option<Standing>>> = asked.iter().map(|_| Ok(None)).collect();
        let users: Vec<UserId> = asked.iter().map(|(user, _)| *user).collect();
        // No session has an empty number.
        let sessions: Vec<Vec<u8>> =
            asked.iter().map(|(_, session)| session.map_or_else(Vec::new, |id| id.as_bytes().to_vec())).collect();
        for row in sqlx::query(sql::STANDINGS).bind(users).bind(sessions).fetch_all(&mut *db).await? {
            *placed(&mut found, row.try_get(7)?)? = decode_standing!(&row).map(Some);
        }
        Ok(found)
    })
}
