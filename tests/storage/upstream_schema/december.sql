-- From the newest schema back to that after the migration 20251218000000, which was the second: the history had no
-- beginning yet, every account had a password, and operations had a parent.

DROP TABLE passkeys, pending_passkey_registrations;
ALTER TABLE users DROP COLUMN reset_password_token, DROP COLUMN reset_password_token_expires_at,
    DROP COLUMN passkey_recovery_token, DROP COLUMN passkey_recovery_token_expires_at,
    DROP COLUMN login_token, DROP COLUMN login_token_expires_at,
    ALTER COLUMN password_hash SET NOT NULL;
ALTER TABLE operations DROP COLUMN entity_ids, DROP COLUMN payload_bytes, DROP COLUMN repair_base_server_seq,
    DROP COLUMN sync_import_reason, ADD COLUMN parent_op_id TEXT;
ALTER TABLE user_sync_state DROP COLUMN latest_full_state_seq, DROP COLUMN latest_full_state_vector_clock,
    DROP COLUMN latest_state_replacement_seq;
DROP INDEX operations_user_id_full_state_server_seq_idx;
DROP INDEX operations_user_id_server_seq_encrypted_idx;
DROP INDEX operations_user_id_entity_type_entity_id_server_seq_idx;
CREATE INDEX operations_user_id_entity_type_entity_id_idx ON operations (user_id, entity_type, entity_id);
CREATE INDEX operations_user_id_server_seq_idx ON operations (user_id, server_seq);
CREATE TABLE tombstones (
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
    entity_type TEXT NOT NULL,
    entity_id TEXT NOT NULL,
    deleted_at BIGINT NOT NULL,
    deleted_by_op_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, entity_type, entity_id)
);
DELETE FROM _prisma_migrations WHERE migration_name NOT IN ('20251212000000', '20251218000000');
