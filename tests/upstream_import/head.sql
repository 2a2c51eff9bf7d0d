CREATE TABLE users (
    id SERIAL PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
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
CREATE TABLE passkeys (
    id TEXT PRIMARY KEY,
    credential_id BYTEA NOT NULL UNIQUE,
    public_key BYTEA NOT NULL,
    counter BIGINT NOT NULL DEFAULT 0,
    transports TEXT,
    created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_used_at TIMESTAMP(3),
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE pending_passkey_registrations (
    id TEXT PRIMARY KEY,
    verification_token TEXT NOT NULL UNIQUE,
    verification_token_expires_at BIGINT NOT NULL,
    credential_id BYTEA NOT NULL,
    public_key BYTEA NOT NULL,
    counter BIGINT NOT NULL DEFAULT 0,
    transports TEXT,
    created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE operations (
    id TEXT PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    client_id TEXT NOT NULL,
    server_seq INTEGER NOT NULL,
    action_type TEXT NOT NULL,
    op_type TEXT NOT NULL,
    entity_type TEXT NOT NULL,
    entity_id TEXT,
    entity_ids TEXT[] NOT NULL DEFAULT '{}',
    payload JSONB NOT NULL,
    payload_bytes BIGINT NOT NULL DEFAULT 0,
    vector_clock JSONB NOT NULL,
    schema_version INTEGER NOT NULL,
    client_timestamp BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    is_payload_encrypted BOOLEAN NOT NULL DEFAULT FALSE,
    sync_import_reason TEXT,
    repair_base_server_seq INTEGER
);
CREATE UNIQUE INDEX operations_user_id_server_seq_key ON operations (user_id, server_seq);
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
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    client_id TEXT NOT NULL,
    device_name TEXT,
    user_agent TEXT,
    last_seen_at BIGINT NOT NULL,
    last_acked_seq INTEGER NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, client_id)
);
