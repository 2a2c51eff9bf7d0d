//! Databases as they are met in the field (operations contract, section 8.5): what counts is the catalogue.

use serde_json::Value;

use super::old::Old;
use super::{imported, in_order};
use crate::harness::{Backend, Program, TestDatabase};

into_both! {
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
    let old = Old::with_data().await;
    old.sql(make).await;
    let target = TestDatabase::create(on).await;
    let report = imported(&old, &target, &[]).await;
    assert_eq!((&report["taken"], &report["operations"], &report["verified"]), (&3.into(), &60.into(), &3.into()));
    in_order(&target).await;
}

async fn made_by_pushing_the_schema_in_january(on: Backend) {
    is_taken_over(on, LATER).await;
}

async fn of_december_before_the_migrations_had_a_beginning(on: Backend) {
    let december = "\
        UPDATE users SET password_hash = '$2b$12$abc' WHERE password_hash IS NULL; \
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_there_and_back_changes_no_operation() {
    let old = Old::with_data().await;
    let target = TestDatabase::create(Backend::Sqlite).await;
    imported(&old, &target, &[]).await;
    let back = Old::empty().await;
    let done = Program::run(&target, &["export", "--upstream", "--to", &back.url()]).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let operations = async |old: &Old| -> Vec<String> {
        // What was not measured there has been measured since.
        let rows = "SELECT (to_jsonb(o) - 'payload_bytes')::text FROM operations o ORDER BY user_id, server_seq";
        let mut session = old.session().await;
        let rows = sqlx::query_scalar(rows).fetch_all(&mut session).await.expect("the query is right");
        sqlx::Connection::close(session).await.expect("closed");
        rows
    };
    let (there, here) = (operations(&old).await, operations(&back).await);
    assert_eq!(there.len(), 60);
    for (there, here) in there.iter().zip(&here) {
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(json(here), json(there));
    }
    assert_eq!(there.len(), here.len());
}
