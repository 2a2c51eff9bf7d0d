-- The old server's schema at its newest, as its migrations leave it.

CREATE TABLE users (
    id SERIAL PRIMARY KEY,
    email TEXT NOT NULL,
    password_hash TEXT,
    is_verified INTEGER NOT NULL DEFAULT 0,
    verification_token TEXT,
    verification_token_expires_at BIGINT,
    verification_resend_count INTEGER NOT NULL DEFAULT 0,
    failed_login_attempts INTEGER NOT NULL DEFAULT 0,
    locked_until BIGINT,
    token_version INTEGER NOT NULL DEFAULT 0,
    terms_accepted_at BIGINT,
    created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    storage_quota_bytes BIGINT NOT NULL DEFAULT 104857600,
    storage_used_bytes BIGINT NOT NULL DEFAULT 0,
    reset_password_token TEXT,
    reset_password_token_expires_at BIGINT,
    passkey_recovery_token TEXT,
    passkey_recovery_token_expires_at BIGINT,
    login_token TEXT,
    login_token_expires_at BIGINT
);
CREATE UNIQUE INDEX users_email_key ON users (email);
CREATE INDEX users_verification_token_idx ON users (verification_token);
CREATE INDEX users_reset_password_token_idx ON users (reset_password_token);
CREATE INDEX users_passkey_recovery_token_idx ON users (passkey_recovery_token);
CREATE INDEX users_login_token_idx ON users (login_token);

CREATE TABLE passkeys (
    id TEXT PRIMARY KEY,
    credential_id BYTEA NOT NULL,
    public_key BYTEA NOT NULL,
    counter BIGINT NOT NULL DEFAULT 0,
    transports TEXT,
    created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_used_at TIMESTAMP(3),
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE UNIQUE INDEX passkeys_credential_id_key ON passkeys (credential_id);
CREATE INDEX passkeys_user_id_idx ON passkeys (user_id);

CREATE TABLE pending_passkey_registrations (
    id TEXT PRIMARY KEY,
    verification_token TEXT NOT NULL,
    verification_token_expires_at BIGINT NOT NULL,
    credential_id BYTEA NOT NULL,
    public_key BYTEA NOT NULL,
    counter BIGINT NOT NULL DEFAULT 0,
    transports TEXT,
    created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE UNIQUE INDEX pending_passkey_registrations_verification_token_key
    ON pending_passkey_registrations (verification_token);
CREATE INDEX pending_passkey_registrations_user_id_idx ON pending_passkey_registrations (user_id);

CREATE TABLE operations (
    id TEXT PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    client_id TEXT NOT NULL,
    server_seq INTEGER NOT NULL,
    action_type TEXT NOT NULL,
    op_type TEXT NOT NULL,
    entity_type TEXT NOT NULL,
    entity_id TEXT,
    payload JSONB NOT NULL,
    vector_clock JSONB NOT NULL,
    schema_version INTEGER NOT NULL,
    client_timestamp BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    is_payload_encrypted BOOLEAN NOT NULL DEFAULT FALSE,
    sync_import_reason TEXT,
    payload_bytes BIGINT NOT NULL DEFAULT 0,
    entity_ids TEXT[] NOT NULL DEFAULT '{}',
    repair_base_server_seq INTEGER
);
CREATE UNIQUE INDEX operations_user_id_server_seq_key ON operations (user_id, server_seq);
CREATE INDEX operations_user_id_entity_type_entity_id_server_seq_idx
    ON operations (user_id, entity_type, entity_id, server_seq);
CREATE INDEX operations_user_id_client_id_idx ON operations (user_id, client_id);
CREATE INDEX operations_user_id_received_at_idx ON operations (user_id, received_at);
CREATE INDEX operations_entity_ids_gin ON operations USING GIN (entity_ids) WITH (fastupdate = off);
CREATE INDEX operations_user_id_full_state_server_seq_idx ON operations (user_id, server_seq)
    WHERE op_type IN ('SYNC_IMPORT', 'BACKUP_IMPORT', 'REPAIR');
CREATE INDEX operations_user_id_server_seq_encrypted_idx ON operations (user_id, server_seq)
    WHERE is_payload_encrypted = true;
CREATE INDEX operations_payload_bytes_unbackfilled_idx ON operations (user_id, id) WHERE payload_bytes = 0;

CREATE TABLE user_sync_state (
    user_id INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    last_seq INTEGER NOT NULL DEFAULT 0,
    last_snapshot_seq INTEGER,
    snapshot_data BYTEA,
    snapshot_at BIGINT,
    snapshot_schema_version INTEGER DEFAULT 1,
    latest_full_state_seq INTEGER,
    latest_full_state_vector_clock JSONB,
    latest_state_replacement_seq INTEGER
);

CREATE TABLE sync_devices (
    client_id TEXT NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    device_name TEXT,
    user_agent TEXT,
    last_seen_at BIGINT NOT NULL,
    last_acked_seq INTEGER NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, client_id)
);
