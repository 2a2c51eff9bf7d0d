//! Everything arrives as the old server would have stored it; what is there already is not written again.

use serde_json::json;

use super::old::Expected;
use super::{export, exported};
use crate::harness::{Account, Backend, Op, Server, ciphertext, import, op, snapshot};
use crate::old_schema::{OldDatabase, State};

on_both_databases! {
    everything_arrives,
    the_second_time_only_the_difference,
    a_dry_run_changes_nothing,
}

/// Uploads what must be accepted.
async fn put(account: &Account, client: &str, ops: &[Op]) {
    let outcomes = account.upload(client, ops).await.outcomes();
    assert!(outcomes.iter().all(|outcome| outcome.starts_with('#')), "{outcomes:?}");
}

/// Accounts with everything that an account can have.
struct Filled {
    server: Server,
    busy: Account,
    encrypted: Account,
    clean: Account,
    wiped: Account,
    begun_again: Account,
    empty: Account,
    deleted: Account,
}

impl Filled {
    async fn new(on: Backend) -> Self {
        let server = Server::start(on).await;
        let [busy, encrypted, clean] = [server.account().await, server.account().await, server.account().await];
        let [wiped, begun_again] = [server.account().await, server.account().await];
        let [empty, deleted] = [server.account().await, server.account().await];

        put(&busy, "A", &[op("A"), op("A").entity_ids(&["a", "b"]).payload("ä✓ \u{1F600} \\ \" \n")]).await;
        put(&busy, "B", &(0..70).map(|_| op("B")).collect::<Vec<_>>()).await;
        server.seal_account(&busy).await;
        put(&busy, "A", &[import("A").payload(json!({ "task": { "ids": [1.5, -0.25, 1e21], "x": null } }))]).await;
        let numbers = json!({ "n": [0, -1, 0.1, 1e-7, 123_456_789_012_345_678_i64, true, [], {}] });
        put(&busy, "B", &[op("B").payload(numbers), op("B").kind("DEL").payload(json!(null))]).await;
        let last = server.state(&busy).await.last_seq;
        busy.snapshot(&snapshot("A").repair(last)).await.ok();
        put(&busy, "C", &[op("C").sized(2 << 20), op("C").kind("BATCH").with("entityType", "ALL").without("entityId")])
            .await;

        let secret = |n| op("X").encrypted(ciphertext(n));
        put(&encrypted, "X", &[import("X").encrypted(ciphertext(5_000)), secret(99), secret(28)]).await;
        put(&encrypted, "Y", &[op("Y").encrypted(ciphertext(64)).entity_ids(&["one", "two"])]).await;

        put(&clean, "A", &[import("A"), op("A"), op("A")]).await;
        clean
            .snapshot(&snapshot("D").encrypted(300).with("syncImportReason", "PASSWORD_CHANGED").clean_slate())
            .await
            .ok();
        put(&clean, "D", &[op("D").encrypted(ciphertext(29))]).await;

        for account in [&wiped, &begun_again] {
            put(account, "A", &[import("A"), op("A")]).await;
            account.delete("/api/sync/data").await.ok();
        }
        put(&begun_again, "A", &[import("A"), op("A"), op("A")]).await;
        deleted.upload("A", &[op("A")]).await.ok();
        server.store.delete_user(deleted.id).await.expect("the store works");
        Self { server, busy, encrypted, clean, wiped, begun_again, empty, deleted }
    }

    fn accounts(&self) -> [&Account; 6] {
        [&self.busy, &self.encrypted, &self.clean, &self.wiped, &self.begun_again, &self.empty]
    }

    async fn expected(&self) -> Vec<Expected> {
        let mut expected = Vec::new();
        for account in self.accounts() {
            expected.push(Expected::of(&self.server, account).await);
        }
        expected
    }
}

async fn everything_arrives(from: Backend) {
    let filled = Filled::new(from).await;
    let expected = filled.expected().await;
    let counts: Vec<_> = expected.iter().map(|account| account.operations.len()).collect();
    assert_eq!(counts, [78, 4, 2, 0, 3, 0], "there is something to write");
    let old = OldDatabase::create(State::Head).await;
    let database = &filled.server.database;

    // Its own server may run: the data is read as of one instant.
    let report = exported(database, &old, &[]).await;
    assert_eq!(report["accounts"]["added"], 6, "{report}");
    assert_eq!(report["operations"], json!({ "added": 87, "removed": 0, "kept": 0 }));
    assert_eq!(report["serverRunning"], true);
    for account in &expected {
        old.assert_holds(account).await;
    }
    // Where its sequence stood is no matter of an account without data: devices must hear that there is none.
    assert_eq!(old.state(&filled.wiped).await, None);
    assert_eq!(old.state(&filled.empty).await, None);
    // Of what goes before the data set nothing is there, and the numbers go on.
    let begun_again = old.state(&filled.begun_again).await.expect("a state row");
    assert_eq!((&begun_again["last_seq"], &begun_again["latest_full_state_seq"]), (&json!(5), &json!(3)));
    assert_eq!(begun_again["latest_full_state_vector_clock"], json!({ "A": 1 }));
    let clean = old.state(&filled.clean).await.expect("a state row");
    assert_eq!((&clean["last_seq"], &clean["latest_full_state_seq"]), (&json!(5), &json!(4)));
    for cache in ["snapshot_data", "last_snapshot_seq", "snapshot_at", "latest_state_replacement_seq"] {
        assert!(clean[cache].is_null(), "{clean}");
    }
    // The old server gives out no number again that was given out here.
    assert_eq!(report["numbersRaised"], true);
    let next = old.row("SELECT nextval('users_id_seq') AS next").await;
    assert_eq!(next["next"], filled.deleted.id + 1);
    // It counts every operation as measured.
    assert!(old.rows("SELECT id FROM operations WHERE payload_bytes = 0").await.is_empty());

    let before = old.contents().await;
    let report = exported(database, &old, &[]).await;
    assert_eq!(report["accounts"]["unchanged"], 6, "{report}");
    assert_eq!(report["operations"], json!({ "added": 0, "removed": 0, "kept": 87 }));
    assert_eq!(report["numbersRaised"], false);
    assert_eq!(old.contents().await, before);
}

async fn the_second_time_only_the_difference(from: Backend) {
    let filled = Filled::new(from).await;
    let old = OldDatabase::create(State::Head).await;
    exported(&filled.server.database, &old, &[]).await;
    // The old server has filled in what it keeps to save itself work.
    old.run(
        "UPDATE user_sync_state SET latest_state_replacement_seq = 1, snapshot_data = '\\x1f8b', last_snapshot_seq = 1",
    )
    .await;
    let untouched = old.state(&filled.encrypted).await;

    filled.busy.upload("E", &[op("E"), op("E")]).await.ok();
    filled.clean.snapshot(&snapshot("F").encrypted(30).clean_slate()).await.ok();
    filled.begun_again.delete("/api/sync/data").await.ok();
    filled.wiped.upload("A", &[import("A"), op("A")]).await.ok();
    filled.server.store.set_quota(filled.empty.id, 4_711).await.expect("the store works");
    let expected = filled.expected().await;
    let report = exported(&filled.server.database, &old, &[]).await;
    assert_eq!(report["accounts"]["changed"], 5, "{report}");
    assert_eq!(report["accounts"]["unchanged"], 1);
    // Two of the busy one; a full state for two; two of the wiped one; three wiped.
    assert_eq!(report["operations"], json!({ "added": 5, "removed": 5, "kept": 82 }));
    for account in &expected {
        if account.operations.first() != expected[1].operations.first() {
            old.assert_holds(account).await;
        }
    }
    assert_eq!(old.state(&filled.encrypted).await, untouched);
    assert_eq!(old.user(&filled.empty).await["storage_quota_bytes"], 4_711);
    assert_eq!(old.state(&filled.begun_again).await, None);
    // Its first device counts on from where the wipe found it: old cursors are below.
    assert_eq!(old.state(&filled.wiped).await.expect("a state row")["last_seq"], 4);
    let busy = old.state(&filled.busy).await.expect("a state row");
    assert!(busy["snapshot_data"].is_null() && busy["latest_state_replacement_seq"].is_null(), "{busy}");
}

async fn a_dry_run_changes_nothing(from: Backend) {
    let filled = Filled::new(from).await;
    let old = OldDatabase::create(State::Head).await;
    let empty = old.contents().await;
    let report = exported(&filled.server.database, &old, &["--dry-run"]).await;
    assert_eq!(report["dryRun"], true);
    assert_eq!(report["operations"]["added"], 87, "{report}");
    assert_eq!(old.contents().await, empty);
    let written = exported(&filled.server.database, &old, &[]).await;
    for part in ["accounts", "operations", "devices", "lost", "missing"] {
        assert_eq!(report[part], written[part], "the dry run says what is done");
    }

    filled.clean.snapshot(&snapshot("F").encrypted(30).clean_slate()).await.ok();
    filled.busy.upload("E", &[op("E"), op("E")]).await.ok();
    let before = old.contents().await;
    let output = export(&filled.server.database, &old, &["--dry-run"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    assert!(said.contains("3 added, 2 removed, 85 already there"), "{said}");
    assert_eq!(old.contents().await, before);
    let number = old.row("SELECT last_value FROM users_id_seq").await;
    assert_eq!(number["last_value"], filled.deleted.id);
}
