-- A row per sign-in, tickets for sockets, and what other processes must hear about accounts. What is new is described in
-- src/store/sessions.rs and src/store/events.rs.

ALTER TABLE users ADD COLUMN is_admin INTEGER NOT NULL DEFAULT 0;
-- When the operator locked the account. Not the lock after wrong passwords, which ends by itself: that is locked_until.
ALTER TABLE users ADD COLUMN locked_at INTEGER;
-- Of mails: a language tag. NULL = the server's.
ALTER TABLE users ADD COLUMN language TEXT;
-- Older tokens name no session. Those issued before this instant are void.
ALTER TABLE users ADD COLUMN older_tokens_revoked_at INTEGER;
-- When and from where one was last shown.
ALTER TABLE users ADD COLUMN older_tokens_seen_at INTEGER;
ALTER TABLE users ADD COLUMN older_tokens_address TEXT;

CREATE TABLE sessions (
    id           BLOB    NOT NULL PRIMARY KEY,
    user_id      INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    method       TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    user_agent   TEXT    NOT NULL,
    -- The first part of an IP address only.
    last_address TEXT
) STRICT;

CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

CREATE TABLE socket_tickets (
    ticket_hash     BLOB    NOT NULL PRIMARY KEY,
    user_id         INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- NULL: asked for with an older token, issued at token_issued_at.
    session_id      BLOB    REFERENCES sessions (id) ON DELETE CASCADE,
    token_version   INTEGER NOT NULL,
    token_issued_at INTEGER,
    expires_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX socket_tickets_user ON socket_tickets (user_id, expires_at);
CREATE INDEX socket_tickets_session ON socket_tickets (session_id);

-- Not tied to users: the deletion of an account is one of the events. AUTOINCREMENT: numbers are never given out twice,
-- even when old rows have been deleted; there is one writer at a time, so they become visible in their order.
CREATE TABLE account_events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    kind    TEXT    NOT NULL,
    at      INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT;

-- Triggers, so that no statement that takes an account's access away can forget to say so, not even one typed by hand.
CREATE TRIGGER users_announce_deletion AFTER DELETE ON users BEGIN
    INSERT INTO account_events (user_id, kind) VALUES (OLD.id, 'account_deleted');
END;

CREATE TRIGGER users_announce_revocation AFTER UPDATE OF token_version ON users
WHEN NEW.token_version <> OLD.token_version BEGIN
    DELETE FROM sessions WHERE user_id = NEW.id;
    UPDATE users SET older_tokens_seen_at = NULL, older_tokens_address = NULL WHERE id = NEW.id;
    INSERT INTO account_events (user_id, kind) VALUES (NEW.id, 'sessions_revoked');
END;

CREATE TRIGGER users_announce_older_tokens AFTER UPDATE OF older_tokens_revoked_at ON users
WHEN NEW.older_tokens_revoked_at IS NOT OLD.older_tokens_revoked_at BEGIN
    INSERT INTO account_events (user_id, kind) VALUES (NEW.id, 'session_revoked');
END;

CREATE TRIGGER users_announce_lock AFTER UPDATE OF locked_at ON users WHEN NEW.locked_at IS NOT OLD.locked_at BEGIN
    INSERT INTO account_events (user_id, kind)
    VALUES (NEW.id, CASE WHEN NEW.locked_at IS NULL THEN 'account_unlocked' ELSE 'account_locked' END);
END;

CREATE TRIGGER users_announce_quota AFTER UPDATE OF storage_quota_bytes ON users
WHEN NEW.storage_quota_bytes <> OLD.storage_quota_bytes BEGIN
    INSERT INTO account_events (user_id, kind) VALUES (NEW.id, 'quota_changed');
END;
