-- Accounts, their logs, and what hangs on them. The data model is described in src/store/mod.rs.
-- Times are Unix milliseconds, clocks and id lists compact JSON text, payloads the bytes that the client sent.

-- AUTOINCREMENT: tokens carry the account's number, so a number must never be given out twice.
CREATE TABLE users (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT,
    email                 TEXT    NOT NULL,
    password_hash         TEXT,
    is_verified           INTEGER NOT NULL DEFAULT 0,
    token_version         INTEGER NOT NULL DEFAULT 0,
    failed_login_attempts INTEGER NOT NULL DEFAULT 0,
    locked_until          INTEGER,
    terms_accepted_at     INTEGER,
    created_at            INTEGER NOT NULL,
    storage_quota_bytes   INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX users_email_key ON users (lower(email));

CREATE TABLE user_sync_state (
    user_id              INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    revision             INTEGER NOT NULL DEFAULT 0,
    generation           INTEGER NOT NULL DEFAULT 0,
    base_seq             INTEGER NOT NULL DEFAULT 0,
    pruned_seq           INTEGER NOT NULL DEFAULT 0,
    last_seq             INTEGER NOT NULL DEFAULT 0,
    -- The highest encrypted operation ever stored: answers "is anything encrypted here?" without reading the log.
    last_encrypted_seq   INTEGER NOT NULL DEFAULT 0,
    vector_clock         TEXT    NOT NULL DEFAULT '{}',
    full_state_seq       INTEGER,
    full_state_client_id TEXT,
    full_state_clock     TEXT,
    replacement_seq      INTEGER,
    storage_used_bytes   INTEGER NOT NULL DEFAULT 0,
    snapshot_seq         INTEGER,
    snapshot_at          INTEGER,
    snapshot_bytes       INTEGER
) STRICT;

-- A rowid table: with WITHOUT ROWID each append would rewrite leaf pages all over the file, at twice the cost.
CREATE TABLE operations (
    user_id                INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    server_seq             INTEGER NOT NULL,
    generation             INTEGER NOT NULL,
    op_id                  TEXT    NOT NULL,
    client_id              TEXT    NOT NULL,
    action_type            TEXT    NOT NULL,
    op_type                TEXT    NOT NULL,
    entity_type            TEXT    NOT NULL,
    entity_id              TEXT,
    entity_ids             TEXT,
    vector_clock           TEXT    NOT NULL,
    storage_bytes          INTEGER NOT NULL,
    client_timestamp       INTEGER NOT NULL,
    received_at            INTEGER NOT NULL,
    schema_version         INTEGER NOT NULL,
    is_payload_encrypted   INTEGER NOT NULL,
    sync_import_reason     TEXT,
    repair_base_server_seq INTEGER,
    -- Last, so that the other columns can be read without following the payload's overflow pages.
    payload                BLOB    NOT NULL,
    PRIMARY KEY (user_id, server_seq)
) STRICT;

CREATE UNIQUE INDEX operations_op_id_key ON operations (user_id, generation, op_id);

-- Full states are rare; this index stays tiny.
CREATE INDEX operations_full_states ON operations (user_id, server_seq)
    WHERE op_type IN ('SYNC_IMPORT', 'BACKUP_IMPORT', 'REPAIR');

CREATE TABLE entity_heads (
    user_id       INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    entity_type   TEXT    NOT NULL,
    entity_id     TEXT    NOT NULL,
    server_seq    INTEGER NOT NULL,
    client_id     TEXT    NOT NULL,
    vector_clock  TEXT    NOT NULL,
    is_time_delta INTEGER NOT NULL,
    PRIMARY KEY (user_id, entity_type, entity_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE sync_devices (
    user_id      INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    client_id    TEXT    NOT NULL,
    last_seen_at INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (user_id, client_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE archived_ranges (
    user_id     INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    from_seq    INTEGER NOT NULL,
    to_seq      INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    bytes       INTEGER NOT NULL,
    archived_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, from_seq)
) STRICT;

CREATE INDEX archived_ranges_archived_at ON archived_ranges (archived_at);

-- Apart from user_sync_state, whose row is rewritten by every commit.
CREATE TABLE user_snapshots (
    user_id        INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    schema_version INTEGER NOT NULL,
    data           BLOB    NOT NULL
) STRICT;

CREATE TABLE one_time_tokens (
    token_hash            BLOB    NOT NULL PRIMARY KEY,
    purpose               TEXT    NOT NULL,
    user_id               INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    pending_password_hash TEXT,
    created_at            INTEGER NOT NULL,
    expires_at            INTEGER NOT NULL
) STRICT;

CREATE INDEX one_time_tokens_user ON one_time_tokens (user_id, purpose, created_at);
CREATE INDEX one_time_tokens_expires_at ON one_time_tokens (expires_at);

CREATE TABLE leadership (
    role       TEXT    NOT NULL PRIMARY KEY,
    owner      TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
