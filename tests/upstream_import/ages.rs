//! Databases as they are met in the field (operations contract, section 8.5): what counts is the catalogue.

use super::data::account;
use super::imported;
use super::old::Old;
use crate::harness::{Backend, TestDatabase};

into_both_databases! {
    made_by_pushing_the_schema_in_january,
    of_december_before_the_migrations_had_a_beginning,
    migrated_half_way,
    left_by_an_interrupted_build_of_an_index,
}

/// What came after January 2026.
const LATER: &str = "\
    ALTER TABLE operations DROP COLUMN entity_ids, DROP COLUMN payload_bytes, DROP COLUMN sync_import_reason, \
        DROP COLUMN repair_base_server_seq; \
    ALTER TABLE users DROP COLUMN login_token, DROP COLUMN login_token_expires_at; \
    ALTER TABLE user_sync_state DROP COLUMN latest_full_state_seq, DROP COLUMN latest_full_state_vector_clock, \
        DROP COLUMN latest_state_replacement_seq; \
    DROP TABLE pending_passkey_registrations; \
    CREATE INDEX operations_user_id_op_type_idx ON operations (user_id, op_type); \
    CREATE INDEX operations_user_id_server_seq_idx ON operations (user_id, server_seq);";

async fn is_taken_over(on: Backend, make: &str) {
    let old = Old::create().await;
    old.run(make).await;
    old.run(&[account(3, 40), account(9, 1)].concat()).await;
    let database = TestDatabase::create(on).await;
    let said = imported(&database, &old, &[]).await;
    assert_eq!((&said["accounts"], &said["operations"]), (&2.into(), &41.into()));
    assert!(said["rowsCompared"].as_u64().expect("a number") > 41);
    let all = crate::harness::Program::run(&database, &["backup", "--no-verify", "all.ssb"]).await;
    assert!(all.status.success());
    let checked = crate::harness::Program::run(&database, &["verify", "all.ssb"]).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

async fn made_by_pushing_the_schema_in_january(on: Backend) {
    is_taken_over(on, LATER).await;
}

async fn of_december_before_the_migrations_had_a_beginning(on: Backend) {
    let december = "\
        ALTER TABLE operations DROP COLUMN is_payload_encrypted, ADD COLUMN parent_op_id TEXT; \
        ALTER TABLE users DROP COLUMN storage_quota_bytes, DROP COLUMN storage_used_bytes, \
            DROP COLUMN reset_password_token, DROP COLUMN reset_password_token_expires_at, \
            DROP COLUMN passkey_recovery_token, DROP COLUMN passkey_recovery_token_expires_at, \
            ALTER COLUMN password_hash SET NOT NULL; \
        DROP TABLE passkeys; \
        CREATE TABLE tombstones (user_id INTEGER, entity_type TEXT, entity_id TEXT); \
        CREATE TABLE _prisma_migrations (id TEXT, migration_name TEXT, finished_at TIMESTAMPTZ, rolled_back_at TIMESTAMPTZ);";
    is_taken_over(on, &[LATER, december].concat()).await;
}

async fn migrated_half_way(on: Backend) {
    let may = "\
        ALTER TABLE operations DROP COLUMN entity_ids, DROP COLUMN repair_base_server_seq; \
        ALTER TABLE user_sync_state DROP COLUMN latest_state_replacement_seq; \
        CREATE TABLE _prisma_migrations (id TEXT, migration_name TEXT, finished_at TIMESTAMPTZ, rolled_back_at TIMESTAMPTZ); \
        INSERT INTO _prisma_migrations VALUES ('1', '20260514000001', now(), NULL), ('2', '20260613000000', NULL, now());";
    is_taken_over(on, may).await;
}

async fn left_by_an_interrupted_build_of_an_index(on: Backend) {
    let invalid = "\
        UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid IN \
            ('operations_entity_ids_gin'::regclass, 'operations_user_id_server_seq_key'::regclass);";
    is_taken_over(on, invalid).await;
}
