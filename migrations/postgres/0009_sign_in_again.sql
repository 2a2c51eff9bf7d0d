-- What a sign-in has to remember: the passkey library's notes, user handles, who registered, and failed log-ins.

-- The library's state of the ceremony, JSON.
ALTER TABLE webauthn_challenges ADD COLUMN state TEXT NOT NULL DEFAULT '';

-- Which user handle the key says. NULL: not known; learned when the key is next used.
ALTER TABLE passkeys ADD COLUMN user_handle BYTEA;
ALTER TABLE pending_passkeys ADD COLUMN user_handle BYTEA;

-- Of verification links. SHA-256 of the secret that the browser got which registered: what it gave counts there only.
ALTER TABLE one_time_tokens ADD COLUMN registrant BYTEA;
-- Of verification links. From which network the registration came.
ALTER TABLE one_time_tokens ADD COLUMN network TEXT;

-- Failed log-ins by address, known or not, and by network. Described in src/accounts/guesses.rs. Numbers grow, so the
-- oldest ones can be dropped without counting.
CREATE TABLE failed_logins (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- SHA-256 of the address.
    subject    BYTEA  NOT NULL,
    -- Where from; nothing: from all networks that the account does not know, together.
    network    TEXT   NOT NULL,
    failures   BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX failed_logins_subject_network_key ON failed_logins (subject, network);
CREATE INDEX failed_logins_expires_at ON failed_logins (expires_at);
