-- From the newest schema back to that after the migration 20260513000000.

DROP TABLE pending_passkey_registrations;
-- Each takes its indexes along.
ALTER TABLE operations DROP COLUMN entity_ids, DROP COLUMN payload_bytes, DROP COLUMN repair_base_server_seq;
ALTER TABLE users DROP COLUMN login_token, DROP COLUMN login_token_expires_at;
ALTER TABLE user_sync_state DROP COLUMN latest_state_replacement_seq;
DROP INDEX operations_user_id_server_seq_encrypted_idx;
DELETE FROM _prisma_migrations WHERE migration_name > '20260513000000';
