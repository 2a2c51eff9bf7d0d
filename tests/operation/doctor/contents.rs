//! The accounts' data.

use crate::doctor::{doctor, offline};
use crate::harness::{Account, Backend, Server, op, upload};

on_both_databases!(
    a_healthy_database_has_nothing_to_complain_about,
    a_missing_operation_is_told_with_its_account_and_not_mended,
    a_wrong_count_is_mended_beside_a_running_server,
    a_count_is_not_mended_where_operations_are_missing,
    many_wrong_counts_are_all_mended,
    rows_without_account_are_deleted_unless_they_are_data,
    an_unreadable_segment_is_told,
    sequences_beyond_the_last_are_told,
    a_busy_server_is_seen_as_of_one_instant,
);

async fn with_operations(server: &Server, count: usize) -> Account {
    let account = server.account().await;
    let ops: Vec<_> = (0..count).map(|_| op("a")).collect();
    account.post("/api/sync/ops", &upload("a", None, &ops)).await.ok();
    account
}

async fn a_healthy_database_has_nothing_to_complain_about(on: Backend) {
    let server = Server::start(on).await;
    let account = with_operations(&server, 12).await;
    with_operations(&server, 3).await;
    server.seal_account(&account).await;
    with_operations(&server, 1).await;
    account.post("/api/sync/ops", &upload("a", None, &[op("a")])).await.ok();
    for _ in 0..2 {
        let said = offline(&server.database, &[]).await;
        said.exit(0);
        assert_eq!(said.complaints(), [("mail", "warning")], "{}", said.text);
        assert!(said.text.contains("17 operations, none missing"), "{}", said.text);
        assert!(!said.text.contains(&account.email), "{}", said.text);
    }
    let (database, _) = server.stop().await;
    assert_eq!(offline(&database, &["--fix"]).await.exit(0).complaints(), [("mail", "warning")]);
}

async fn a_missing_operation_is_told_with_its_account_and_not_mended(on: Backend) {
    let server = Server::start(on).await;
    with_operations(&server, 5).await;
    let account = with_operations(&server, 9).await;
    server
        .database
        .tamper(&format!("DELETE FROM operations WHERE user_id = {} AND server_seq IN (4, 5)", account.id))
        .await;
    for arguments in [&[][..], &["--fix"]] {
        let said = offline(&server.database, arguments).await;
        let words = format!("account {}: operations 4 to 5 are missing", account.id);
        said.exit(1).found("sequences", "fault", &words);
        assert!(said.findings.iter().any(|finding| finding.0 == "sequences" && finding.3 == Some(account.id)));
        assert_eq!(said.verdict("segments"), "ok");
    }
}

async fn a_wrong_count_is_mended_beside_a_running_server(on: Backend) {
    let server = Server::start(on).await;
    let account = with_operations(&server, 4).await;
    let right = server.state(&account).await.storage_used_bytes;
    let sql = "UPDATE user_sync_state SET storage_used_bytes = storage_used_bytes + 5 WHERE user_id =";
    server.database.tamper(&format!("{sql} {}", account.id)).await;
    let words = format!("account {}: {} bytes are charged, but {right} are stored", account.id, right + 5);
    offline(&server.database, &[]).await.exit(1).found("counters", "fault", &words);
    assert_eq!(server.state(&account).await.storage_used_bytes, right + 5, "looking changes nothing");

    offline(&server.database, &["--fix"]).await.exit(0).found("counters", "fixed", &words);
    assert_eq!(server.state(&account).await.storage_used_bytes, right);
    // The server has the account in memory, as it was before.
    let added = account.post("/api/sync/ops", &upload("a", None, &[op("a")])).await;
    assert_eq!(added.outcomes(), ["#5"]);
    assert_eq!(offline(&server.database, &[]).await.exit(0).verdict("counters"), "ok");
}

async fn a_count_is_not_mended_where_operations_are_missing(on: Backend) {
    let server = Server::start(on).await;
    let account = with_operations(&server, 4).await;
    let before = server.state(&account).await.storage_used_bytes;
    server.database.tamper(&format!("DELETE FROM operations WHERE user_id = {} AND server_seq = 2", account.id)).await;
    let said = offline(&server.database, &["--fix"]).await;
    said.exit(1).found("sequences", "fault", "operations 2 to 2 are missing");
    said.found("counters", "fault", "bytes are charged");
    assert_eq!(server.state(&account).await.storage_used_bytes, before, "the count is what is left to see it by");
}

async fn many_wrong_counts_are_all_mended(on: Backend) {
    let server = Server::start(on).await;
    for _ in 0..25 {
        with_operations(&server, 1).await;
    }
    server.database.tamper("UPDATE user_sync_state SET storage_used_bytes = 7").await;
    let said = offline(&server.database, &[]).await;
    assert_eq!(said.exit(1).of("counters").len(), 21, "{}", said.text);
    assert!(said.text.contains("5 more accounts"), "{}", said.text);
    let said = offline(&server.database, &["--fix"]).await;
    assert_eq!(said.exit(0).of("counters").len(), 21, "{}", said.text);
    assert_eq!(offline(&server.database, &[]).await.exit(0).verdict("counters"), "ok");
}

async fn rows_without_account_are_deleted_unless_they_are_data(on: Backend) {
    let server = Server::start(on).await;
    with_operations(&server, 2).await;
    let gone = with_operations(&server, 2).await;
    let device = "INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at) VALUES";
    server.database.tamper(&format!("{device} (700, 'x', 1, 1), (700, 'y', 1, 1), (701, 'x', 1, 1);")).await;
    let said = offline(&server.database, &[]).await;
    said.exit(1).found("orphans", "fault", "3 rows of sync_devices belong to accounts that are not there: 700, 701");
    offline(&server.database, &["--fix"]).await.exit(0).found("orphans", "fixed", "3 deleted");
    assert_eq!(offline(&server.database, &[]).await.exit(0).verdict("orphans"), "ok");

    server.database.tamper(&format!("UPDATE operations SET user_id = 702 WHERE user_id = {}", gone.id)).await;
    let said = offline(&server.database, &["--fix"]).await;
    said.exit(1).found("orphans", "fault", "2 rows of operations belong to accounts that are not there: 702");
    let said = offline(&server.database, &[]).await;
    said.found("orphans", "fault", "2 rows of operations");
    said.found("sequences", "fault", &format!("account {}: operations 1 to 2 are missing", gone.id));
}

async fn an_unreadable_segment_is_told(on: Backend) {
    let server = Server::start(on).await;
    let account = with_operations(&server, 8).await;
    server.seal_account(&account).await;
    let bytes = if on == Backend::Sqlite { "X'0102'" } else { "'\\x0102'" };
    server.database.tamper(&format!("UPDATE segments SET data = {bytes} WHERE user_id = {}", account.id)).await;
    let said = offline(&server.database, &["--fix"]).await;
    let words = format!("account {}: the segment of operations 1 to 8 is unreadable", account.id);
    said.exit(1).found("segments", "fault", &words);
    assert_eq!(said.verdict("sequences"), "ok");
}

async fn sequences_beyond_the_last_are_told(on: Backend) {
    let server = Server::start(on).await;
    let account = with_operations(&server, 3).await;
    server.database.tamper(&format!("UPDATE user_sync_state SET last_seq = 2 WHERE user_id = {}", account.id)).await;
    let said = doctor(&server.database, &[], &["--offline"]).await;
    said.exit(1).found("sequences", "fault", "operations 3 to 3 of the present data set are in no archive");
}

async fn a_busy_server_is_seen_as_of_one_instant(on: Backend) {
    let server = Server::start_with(on, |config| config.rate_limits.uploads_per_user.max = u32::MAX).await;
    let mut busy = Vec::new();
    for _ in 0..4 {
        let account = with_operations(&server, 50).await;
        busy.push(async move {
            loop {
                account.post("/api/sync/ops", &upload("a", None, &[op("a"), op("a"), op("a")])).await.ok();
            }
        });
    }
    let looking = async {
        for _ in 0..3 {
            let said = offline(&server.database, &[]).await;
            assert_eq!(said.exit(0).complaints(), [("mail", "warning")], "{}", said.text);
        }
    };
    tokio::select! {
        () = looking => {}
        _ = futures_util::future::join_all(busy) => panic!("the uploads have no end"),
    }
}
