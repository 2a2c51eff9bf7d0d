-- How somebody proved who they are in a session, each account's security log, and revocations that void everything. What
-- is new is described in src/store/sessions.rs and src/store/security.rs.

ALTER TABLE sessions
    -- When a password, a passkey or a mailed link was last given in this session. NULL: never.
    ADD COLUMN authenticated_at BIGINT,
    ADD COLUMN authenticated_how TEXT,
    -- Of passkeys: whether the authenticator verified its user.
    ADD COLUMN user_verified BOOLEAN NOT NULL DEFAULT FALSE;

UPDATE sessions SET authenticated_at = created_at, authenticated_how = method
WHERE method IN ('password', 'passkey', 'magic_link');

-- Numbers are an account's own.
CREATE TABLE security_events (
    user_id    BIGINT  NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    number     BIGINT  NOT NULL,
    -- Of several that are one entry, the last time.
    at         BIGINT  NOT NULL,
    kind       TEXT    NOT NULL,
    is_failure BOOLEAN NOT NULL,
    method     TEXT,
    -- The first part of an IP address only.
    address    TEXT,
    device     TEXT,
    times      BIGINT  NOT NULL,
    PRIMARY KEY (user_id, number)
);

CREATE INDEX security_events_at ON security_events (at);

-- A link that undoes a change of address is the one thing in the mail that stays: it is for who lost the account.
CREATE FUNCTION void_links(account BIGINT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM one_time_tokens WHERE user_id = account AND purpose <> 'undo_address';
    DELETE FROM pending_passkeys WHERE user_id = account;
END
$$;

CREATE OR REPLACE FUNCTION announce_account_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM record_account_event(OLD.id, 'account_deleted');
        RETURN NULL;
    END IF;
    IF NEW.token_version <> OLD.token_version THEN
        DELETE FROM sessions WHERE user_id = NEW.id;
        DELETE FROM socket_tickets WHERE user_id = NEW.id;
        PERFORM void_links(NEW.id);
        UPDATE users SET older_tokens_seen_at = NULL, older_tokens_address = NULL
            WHERE id = NEW.id AND older_tokens_seen_at IS NOT NULL;
        PERFORM record_account_event(NEW.id, 'sessions_revoked');
    ELSIF NEW.older_tokens_revoked_at IS DISTINCT FROM OLD.older_tokens_revoked_at THEN
        DELETE FROM socket_tickets WHERE user_id = NEW.id AND session_id IS NULL;
        PERFORM void_links(NEW.id);
        PERFORM record_account_event(NEW.id, 'session_revoked');
    END IF;
    IF NEW.locked_at IS DISTINCT FROM OLD.locked_at THEN
        DELETE FROM socket_tickets WHERE user_id = NEW.id;
        PERFORM void_links(NEW.id);
        IF NEW.locked_at IS NULL THEN
            PERFORM record_account_event(NEW.id, 'account_unlocked');
        ELSE
            PERFORM record_account_event(NEW.id, 'account_locked');
        END IF;
    END IF;
    IF NEW.storage_quota_bytes <> OLD.storage_quota_bytes THEN
        PERFORM record_account_event(NEW.id, 'quota_changed');
    END IF;
    RETURN NULL;
END
$$;
