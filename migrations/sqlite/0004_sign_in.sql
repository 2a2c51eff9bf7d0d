-- Ways to sign in besides a password: passkeys, links by mail, invitations. What is new is described in
-- src/store/signin.rs.

-- The address that takes effect when the link is used; only of links that change an address.
ALTER TABLE one_time_tokens ADD COLUMN new_email TEXT;

CREATE TABLE passkeys (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id         INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    credential_id   BLOB    NOT NULL,
    -- COSE, byte for byte as the authenticator gave it.
    public_key      BLOB    NOT NULL,
    counter         INTEGER NOT NULL,
    -- A JSON array of texts.
    transports      TEXT,
    -- NULL: taken over from the old server, which did not store it; learned when the key is next used.
    backup_eligible INTEGER,
    name            TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    last_used_at    INTEGER
) STRICT;

CREATE UNIQUE INDEX passkeys_credential_id_key ON passkeys (credential_id);
CREATE INDEX passkeys_user ON passkeys (user_id);

-- Keys that take effect with the verification link that was mailed for them, and only with that one.
CREATE TABLE pending_passkeys (
    token_hash      BLOB    NOT NULL PRIMARY KEY,
    user_id         INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    credential_id   BLOB    NOT NULL,
    public_key      BLOB    NOT NULL,
    counter         INTEGER NOT NULL,
    transports      TEXT,
    backup_eligible INTEGER,
    name            TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX pending_passkeys_user ON pending_passkeys (user_id);
CREATE INDEX pending_passkeys_expires_at ON pending_passkeys (expires_at);

-- Numbers grow, so the oldest ones can be dropped without counting.
CREATE TABLE webauthn_challenges (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    challenge         BLOB   NOT NULL UNIQUE,
    ceremony          TEXT   NOT NULL,
    -- SHA-256 of whom the ceremony is for.
    subject           BLOB   NOT NULL,
    terms_accepted_at INTEGER,
    expires_at        INTEGER NOT NULL
) STRICT;

CREATE INDEX webauthn_challenges_expires_at ON webauthn_challenges (expires_at);

CREATE TABLE invites (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    token_hash  BLOB    NOT NULL UNIQUE,
    -- Whoever registers with it must use this address.
    email       TEXT,
    makes_admin INTEGER NOT NULL,
    -- The claim link of a server without accounts: void as soon as there is one.
    is_claim    INTEGER NOT NULL,
    created_by  INTEGER REFERENCES users (id) ON DELETE SET NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    used_at     INTEGER,
    used_by     INTEGER REFERENCES users (id) ON DELETE SET NULL
) STRICT;

CREATE INDEX invites_expires_at ON invites (expires_at);
