//! What stands in an old server's database.

use super::old::Old;

/// A verified account with a password, `TestPassword123!`.
pub const PASSWORD: &str = "TestPassword123!";

/// Its hash, as the old server stored it.
pub fn hash() -> String {
    bcrypt::hash(PASSWORD, 4).expect("a hash")
}

/// A user's row.
pub fn user(id: i64, email: &str) -> String {
    let hash = hash();
    format!(
        "INSERT INTO users (id, email, password_hash, is_verified, created_at) \
         VALUES ({id}, '{email}', '{hash}', 1, TIMESTAMP '2025-12-24 18:00:00.5'); \
         SELECT setval('users_id_seq', GREATEST({id}, (SELECT last_value FROM users_id_seq)));"
    )
}

/// Operations `from` to `to` of an account: tasks that are made and changed by two devices.
pub fn operations(user: i64, from: i64, to: i64) -> String {
    format!(
        "INSERT INTO operations (id, user_id, client_id, server_seq, action_type, op_type, entity_type, entity_id, \
             payload, vector_clock, schema_version, client_timestamp, received_at) \
         SELECT 'op-{user}-' || n, {user}, CASE n % 2 WHEN 0 THEN 'A_phone' ELSE 'B_desk' END, n, '[Task] Update', \
             CASE n % 5 WHEN 0 THEN 'CRT' ELSE 'UPD' END, 'TASK', 'task-' || n % 7, \
             jsonb_build_object('title', 'Task ' || n, 'tags', jsonb_build_array('a b', n), 'done', n % 3 = 0), \
             jsonb_build_object('A_phone', n / 2 + 1, 'B_desk', (n + 1) / 2), 4, 1760000000000 + n, 1760000001000 + n \
         FROM generate_series({from}, {to}) n;"
    )
}

/// The account's counter.
pub fn counter(user: i64, last: i64) -> String {
    format!("INSERT INTO user_sync_state (user_id, last_seq) VALUES ({user}, {last});")
}

/// An account with so many operations.
pub fn account(id: i64, count: i64) -> String {
    let address = format!("user{id}@example.org");
    [user(id, &address), operations(id, 1, count), counter(id, count)].concat()
}

/// A database at the newest schema with these statements run on it.
pub async fn old(statements: &[String]) -> Old {
    let old = Old::create().await;
    old.run(&statements.concat()).await;
    old
}
