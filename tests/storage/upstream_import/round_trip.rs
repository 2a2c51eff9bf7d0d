//! There and back: what is taken over and exported again is what it was.

use serde_json::json;

use super::{complained, failed, in_order};
use crate::harness::{Backend, Program, TestDatabase};
use crate::old_schema::{OldDatabase, State, account};

on_both_databases! {
    there_and_back_changes_nothing,
}

async fn there_and_back_changes_nothing(on: Backend) {
    let old = OldDatabase::create(State::Head).await;
    old.fill_special().await;
    let target = TestDatabase::create(on).await;
    failed(1, &old, &target, &[]).await;
    in_order(&target).await;
    let back = OldDatabase::create(State::Head).await;
    let done = Program::run(&target, &["export", "--upstream", "--to", &back.url()]).await;
    assert!(done.status.success(), "{}", complained(&done));

    // What is damaged, and the same address once more, was not taken over.
    let left_out: Vec<String> = account::DAMAGED.iter().chain(&[account::TWICE_UPPER]).map(i64::to_string).collect();
    let left_out = left_out.join(", ");
    // All but the size, which is measured again. Texts, because nothing of them may be written otherwise.
    let operations = format!(
        "SELECT id, user_id, client_id, server_seq, action_type, op_type, entity_type, entity_id, payload::text, \
         vector_clock::text, schema_version, client_timestamp, received_at, is_payload_encrypted, sync_import_reason, \
         entity_ids, repair_base_server_seq FROM operations WHERE user_id NOT IN ({left_out}) \
         ORDER BY user_id, server_seq"
    );
    let (there, here) = (old.rows(&operations).await, back.rows(&operations).await);
    assert_eq!(there.len(), usize::try_from(account::OPERATIONS).expect("small") - 12);
    assert_eq!(here, there);
    let devices = "SELECT * FROM sync_devices ORDER BY user_id, client_id";
    let users = format!(
        "SELECT id, lower(email) AS email, password_hash, is_verified, token_version, terms_accepted_at, created_at, \
         storage_quota_bytes FROM users WHERE id NOT IN ({left_out}) ORDER BY id"
    );
    assert_eq!(back.rows(&users).await, old.rows(&users).await);
    assert_ne!(back.rows(devices).await, Vec::<serde_json::Value>::new());
    let highest = json!({ "last_value": 2_147_483_001 });
    assert_eq!(back.row("SELECT last_value FROM users_id_seq").await, highest);

    // What was left out at the take-over was never deleted here, so it stays there.
    let accounts = "SELECT id FROM users ORDER BY id";
    let before = old.rows(accounts).await;
    let done = Program::run(&target, &["export", "--upstream", "--delete-missing", "--to", &old.url()]).await;
    assert!(done.status.success(), "{}", complained(&done));
    assert_eq!(old.rows(accounts).await, before);
}
