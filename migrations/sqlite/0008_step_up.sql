-- How somebody proved who they are in a session, each account's security log, and revocations that void everything. What
-- is new is described in src/store/sessions.rs and src/store/security.rs.

-- When a password, a passkey or a mailed link was last given in this session. NULL: never.
ALTER TABLE sessions ADD COLUMN authenticated_at INTEGER;
ALTER TABLE sessions ADD COLUMN authenticated_how TEXT;
-- Of passkeys: whether the authenticator verified its user.
ALTER TABLE sessions ADD COLUMN user_verified INTEGER NOT NULL DEFAULT 0;

UPDATE sessions SET authenticated_at = created_at, authenticated_how = method
WHERE method IN ('password', 'passkey', 'magic_link');

-- Numbers are an account's own.
CREATE TABLE security_events (
    user_id    INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    -- Of several that are one entry, the last time.
    at         INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    is_failure INTEGER NOT NULL,
    method     TEXT,
    -- The first part of an IP address only.
    address    TEXT,
    device     TEXT,
    times      INTEGER NOT NULL,
    PRIMARY KEY (user_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX security_events_at ON security_events (at);

-- A link that undoes a change of address is the one thing in the mail that stays: it is for who lost the account.
DROP TRIGGER users_announce_revocation;
CREATE TRIGGER users_announce_revocation AFTER UPDATE OF token_version ON users
WHEN NEW.token_version <> OLD.token_version BEGIN
    DELETE FROM sessions WHERE user_id = NEW.id;
    DELETE FROM socket_tickets WHERE user_id = NEW.id;
    DELETE FROM one_time_tokens WHERE user_id = NEW.id AND purpose <> 'undo_address';
    DELETE FROM pending_passkeys WHERE user_id = NEW.id;
    UPDATE users SET older_tokens_seen_at = NULL, older_tokens_address = NULL WHERE id = NEW.id;
    INSERT INTO account_events (user_id, kind) VALUES (NEW.id, 'sessions_revoked');
END;

DROP TRIGGER users_announce_older_tokens;
CREATE TRIGGER users_announce_older_tokens AFTER UPDATE OF older_tokens_revoked_at ON users
WHEN NEW.older_tokens_revoked_at IS NOT OLD.older_tokens_revoked_at BEGIN
    DELETE FROM socket_tickets WHERE user_id = NEW.id AND session_id IS NULL;
    DELETE FROM one_time_tokens WHERE user_id = NEW.id AND purpose <> 'undo_address';
    DELETE FROM pending_passkeys WHERE user_id = NEW.id;
    INSERT INTO account_events (user_id, kind) VALUES (NEW.id, 'session_revoked');
END;

DROP TRIGGER users_announce_lock;
CREATE TRIGGER users_announce_lock AFTER UPDATE OF locked_at ON users WHEN NEW.locked_at IS NOT OLD.locked_at BEGIN
    DELETE FROM socket_tickets WHERE user_id = NEW.id;
    DELETE FROM one_time_tokens WHERE user_id = NEW.id AND purpose <> 'undo_address';
    DELETE FROM pending_passkeys WHERE user_id = NEW.id;
    INSERT INTO account_events (user_id, kind)
    VALUES (NEW.id, CASE WHEN NEW.locked_at IS NULL THEN 'account_unlocked' ELSE 'account_locked' END);
END;
