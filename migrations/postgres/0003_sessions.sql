-- A row per sign-in, tickets for sockets, and what other processes must hear about accounts. What is new is described in
-- src/store/sessions.rs and src/store/events.rs.

ALTER TABLE users
    ADD COLUMN is_admin BOOLEAN NOT NULL DEFAULT FALSE,
    -- When the operator locked the account. Not the lock after wrong passwords, which ends by itself: that is locked_until.
    ADD COLUMN locked_at BIGINT,
    -- Of mails: a language tag. NULL = the server's.
    ADD COLUMN language TEXT,
    -- Older tokens name no session. Those issued before this instant are void.
    ADD COLUMN older_tokens_revoked_at BIGINT,
    -- When and from where one was last shown.
    ADD COLUMN older_tokens_seen_at BIGINT,
    ADD COLUMN older_tokens_address TEXT;

-- No index holds a column that changes when a session is seen, so such an update stays on its page.
CREATE TABLE sessions (
    id           BYTEA  NOT NULL PRIMARY KEY,
    user_id      BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at   BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    method       TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    user_agent   TEXT   NOT NULL,
    -- The first part of an IP address only.
    last_address TEXT
) WITH (fillfactor = 80);

CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

CREATE TABLE socket_tickets (
    ticket_hash     BYTEA  NOT NULL PRIMARY KEY,
    user_id       BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- NULL: asked for with an older token, issued at token_issued_at.
    session_id      BYTEA REFERENCES sessions (id) ON DELETE CASCADE,
    token_version   BIGINT NOT NULL,
    token_issued_at BIGINT,
    expires_at      BIGINT NOT NULL
);

CREATE INDEX socket_tickets_user ON socket_tickets (user_id, expires_at);
CREATE INDEX socket_tickets_session ON socket_tickets (session_id);

-- Not tied to users: the deletion of an account is one of the events. Times are the database's.
CREATE TABLE account_events (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id BIGINT NOT NULL,
    kind    TEXT   NOT NULL,
    at      BIGINT NOT NULL DEFAULT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
);

-- One at a time until its commit, so that numbers become visible in their order: who has read up to a number has missed
-- none below it.
CREATE FUNCTION record_account_event(account BIGINT, what TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1937075312, hashtext(current_schema()));
    INSERT INTO account_events (user_id, kind) VALUES (account, what);
END;
$$;

-- A trigger, so that no statement that takes an account's access away can forget to say so, not even one typed by hand.
CREATE FUNCTION announce_account_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM record_account_event(OLD.id, 'account_deleted');
        RETURN NULL;
    END IF;
    IF NEW.token_version <> OLD.token_version THEN
        DELETE FROM sessions WHERE user_id = NEW.id;
        UPDATE users SET older_tokens_seen_at = NULL, older_tokens_address = NULL
            WHERE id = NEW.id AND older_tokens_seen_at IS NOT NULL;
        PERFORM record_account_event(NEW.id, 'sessions_revoked');
    ELSIF NEW.older_tokens_revoked_at IS DISTINCT FROM OLD.older_tokens_revoked_at THEN
        PERFORM record_account_event(NEW.id, 'session_revoked');
    END IF;
    IF NEW.locked_at IS NULL AND OLD.locked_at IS NOT NULL THEN
        PERFORM record_account_event(NEW.id, 'account_unlocked');
    ELSIF NEW.locked_at IS DISTINCT FROM OLD.locked_at THEN
        PERFORM record_account_event(NEW.id, 'account_locked');
    END IF;
    IF NEW.storage_quota_bytes <> OLD.storage_quota_bytes THEN
        PERFORM record_account_event(NEW.id, 'quota_changed');
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER users_announce_change
    AFTER UPDATE OF token_version, older_tokens_revoked_at, locked_at, storage_quota_bytes OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION announce_account_change();
