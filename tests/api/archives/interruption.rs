//! Whatever ends a process while a data set is being brought back: there is the old data set or the other one, and what
//! was left half done goes with the sweep.

use supersync::store::{ArchiveReason, ArchivedRange, StagedPart};

use super::{archives, bring_back, contents_since, newest_id};
use crate::harness::{Account, Backend, Server, import, op, snapshot};

on_both_databases! {
    what_a_crash_left_is_in_nobodys_way_and_is_swept,
    what_was_given_up_can_not_become_the_data_set,
    uploads_meanwhile_are_in_the_set_that_is_archived,
}

const HOUR_MS: i64 = 60 * 60 * 1000;

async fn replaced(server: &Server) -> Account {
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A").task("t1")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    account
}

/// What a process leaves that dies in the middle of it: a range that is announced, and a part of its operations.
async fn crash(server: &Server, account: &Account) -> ArchivedRange {
    let state = server.state(account).await;
    let from_seq = state.last_seq + 1_000_001;
    let staged = ArchivedRange {
        generation: state.generation + (1 << 20),
        from_seq,
        to_seq: from_seq + 1,
        reason: ArchiveReason::Staged,
        bytes: 0,
        archived_at: server.clock.now_ms() - 30 * 24 * HOUR_MS + HOUR_MS,
    };
    assert!(server.store.begin_staging(account.id, &staged).await.expect("the store works"));
    assert!(!server.store.begin_staging(account.id, &staged).await.expect("the store works"), "one at a place");
    let mut op = server.store.newest_ops(account.id, None, 1).await.expect("the store works").remove(0);
    op.server_seq = from_seq;
    let part =
        StagedPart { staged_from: from_seq, generation: staged.generation, rows: vec![op], segments: Vec::new() };
    assert!(server.store.stage(account.id, part).await.expect("the store works"));
    staged
}

async fn what_a_crash_left_is_in_nobodys_way_and_is_swept(on: Backend) {
    let server = Server::start(on).await;
    let account = replaced(&server).await;
    let staged = crash(&server, &account).await;
    let server = server.restart().await;
    let account = server.known(&account);
    assert_eq!(account.download(0).await.seqs(), [3]);
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#4"]);
    assert_eq!(archives(&account).await.len(), 1);
    server.sweep().await;
    assert_eq!(server.rows(&account).await.last(), Some(&staged.from_seq), "it may still be under way");
    bring_back(&account, &newest_id(&account).await).await.ok();
    let now = contents_since(&account, 0).await;
    server.clock.advance_ms(HOUR_MS + 1);
    server.sweep().await;
    assert_eq!(contents_since(&account, 0).await, now);
    let rows = server.rows(&account).await;
    assert!(!rows.contains(&staged.from_seq) && rows.len() == 4, "{rows:?}");
}

async fn what_was_given_up_can_not_become_the_data_set(on: Backend) {
    let server = Server::start(on).await;
    let account = replaced(&server).await;
    let staged = crash(&server, &account).await;
    assert!(server.store.abandon_staged(account.id, staged.from_seq).await.expect("the store works"));
    assert!(!server.store.abandon_staged(account.id, staged.from_seq).await.expect("the store works"));
    let part = StagedPart {
        staged_from: staged.from_seq,
        generation: staged.generation,
        rows: Vec::new(),
        segments: Vec::new(),
    };
    assert!(!server.store.stage(account.id, part).await.expect("the store works"));
    let before = server.state(&account).await;
    let mut state = before.clone();
    state.revision += 1;
    state.generation = staged.generation;
    (state.base_seq, state.pruned_seq, state.last_seq) = (staged.from_seq - 1, staged.from_seq - 1, staged.to_seq);
    let adoption = supersync::store::Adoption { staged_from: staged.from_seq, source_from: 1 };
    let commit = supersync::store::Commit {
        user: account.id,
        expected_revision: before.revision,
        state,
        ops: Vec::new(),
        heads: Vec::new(),
        absent: Vec::new(),
        clear_devices: false,
        devices: Vec::new(),
        archived: Vec::new(),
        snapshot: supersync::store::SnapshotChange::Keep,
        seal: Vec::new(),
        adoption: Some(adoption),
    };
    server.store.commit([commit].into()).await.expect_err("there is nothing to adopt");
    assert_eq!(server.state(&account).await, before);
    assert_eq!(archives(&account).await.len(), 1);
}

async fn uploads_meanwhile_are_in_the_set_that_is_archived(on: Backend) {
    let server = Server::start(on).await;
    let account = replaced(&server).await;
    let id = newest_id(&account).await;
    let uploads = async {
        let mut accepted = Vec::new();
        for n in 0..30 {
            let op = op("A").id(&format!("meanwhile-{n}"));
            let reply = account.upload("A", &[op]).await;
            assert!(reply.outcomes()[0].starts_with('#'), "{}", reply.text);
            accepted.push(reply["results"][0]["serverSeq"].as_i64().expect("a number"));
        }
        accepted
    };
    let (done, accepted) = tokio::join!(bring_back(&account, &id), uploads);
    done.ok();
    // Each of them is in the set that was replaced, or in the one that was brought back; none is lost or there twice.
    let base = server.state(&account).await.base_seq;
    let stored = server.rows(&account).await;
    assert!(accepted.iter().all(|seq| stored.contains(seq)));
    let archived = archives(&account).await;
    assert_eq!(archived[0]["toSeq"].as_i64(), accepted.iter().filter(|seq| **seq <= base).max().copied().or(Some(3)));
    let after = contents_since(&account, 0).await;
    assert_eq!(after.len(), 2 + accepted.iter().filter(|seq| **seq > base).count());
}
