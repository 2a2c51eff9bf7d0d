//! Accounts and one-time tokens.

use supersync::protocol::UserId;
use supersync::store::{ArchiveReason, ArchivedRange, OneTimeToken, SnapshotBlob, SnapshotChange, TokenPurpose};

use super::fixture::*;

fn token(user: UserId, n: u8, purpose: TokenPurpose) -> OneTimeToken {
    OneTimeToken {
        hash: [n; 32],
        purpose,
        user,
        pending_password_hash: Some(format!("pending {n}")),
        created_at: 100 + i64::from(n),
        expires_at: 1_000,
    }
}

pub async fn addresses_ignore_case(db: Db) {
    let id = db.create_user(&new_user("Ann@Example.org")).await.unwrap().unwrap();
    assert_eq!(db.create_user(&new_user("aNN@example.ORG")).await.unwrap(), None);
    let row = db.user_by_email("ANN@example.org").await.unwrap().unwrap();
    assert_eq!((row.id, row.email.as_str()), (id, "Ann@Example.org"), "the address is kept as typed");
    assert_eq!(db.user_by_id(id).await.unwrap().unwrap(), row);
    assert!(db.user_by_email("bob@example.org").await.unwrap().is_none());
    assert!(db.create_user(&new_user("bob@example.org")).await.unwrap().is_some(), "a refused address leaves no trace");
}

pub async fn a_new_account_has_an_empty_log(db: Db) {
    let user = account(&db, "a").await;
    let found = db.load_account(user).await.unwrap().unwrap();
    assert_eq!(found.storage_quota_bytes, 5_000_000);
    assert_eq!((found.sync.revision, found.sync.latest_seq(), found.sync.storage_used_bytes), (0, 0, 0));
    assert!(found.sync.clock.is_empty() && found.sync.full_state.is_none() && found.sync.snapshot.is_none());
}

pub async fn twenty_failed_logins_at_once_are_all_counted(db: Db) {
    let user = account(&db, "a").await;
    let attempts: Vec<_> = (0..20)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { db.count_failed_login(user, 20, 777).await.unwrap() })
        })
        .collect();
    for attempt in attempts {
        attempt.await.unwrap();
    }
    let row = db.user_by_id(user).await.unwrap().unwrap();
    assert_eq!((row.failed_login_attempts, row.locked_until), (20, Some(777)));
    db.clear_failed_logins(user).await.unwrap();
    db.count_failed_login(user, 2, 888).await.unwrap();
    let row = db.user_by_id(user).await.unwrap().unwrap();
    assert_eq!((row.failed_login_attempts, row.locked_until), (1, None));
}

pub async fn a_token_works_once(db: Db) {
    let user = account(&db, "a").await;
    db.put_token(&token(user, 1, TokenPurpose::MagicLogin)).await.unwrap();
    assert!(db.take_token(&[1; 32], TokenPurpose::ResetPassword, 500).await.unwrap().is_none(), "another purpose");
    assert_eq!(db.peek_token(&[1; 32], TokenPurpose::MagicLogin).await.unwrap().unwrap().user, user);
    let takers: Vec<_> = (0..8)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { db.take_token(&[1; 32], TokenPurpose::MagicLogin, 500).await.unwrap() })
        })
        .collect();
    let mut won = 0;
    for taker in takers {
        won += usize::from(taker.await.unwrap().is_some());
    }
    assert_eq!(won, 1);
    assert!(db.peek_token(&[1; 32], TokenPurpose::MagicLogin).await.unwrap().is_none());
    let row = db.user_by_id(user).await.unwrap().unwrap();
    assert_eq!(row.password_hash.as_deref(), Some("hash"), "signing in changes no password");
}

pub async fn an_expired_token_does_not_work(db: Db) {
    let user = account(&db, "a").await;
    for n in 1..=3 {
        db.put_token(&token(user, n, TokenPurpose::ResetPassword)).await.unwrap();
    }
    assert!(db.take_token(&[1; 32], TokenPurpose::ResetPassword, 1_000).await.unwrap().is_none());
    assert!(db.take_token(&[1; 32], TokenPurpose::ResetPassword, 999).await.unwrap().is_some());
    assert_eq!(db.count_tokens(user, TokenPurpose::ResetPassword, 102).await.unwrap(), 2);
    assert_eq!(db.count_tokens(user, TokenPurpose::ResetPassword, 103).await.unwrap(), 1);
    assert_eq!(db.count_tokens(user, TokenPurpose::MagicLogin, 0).await.unwrap(), 0);
    assert_eq!(db.delete_expired_tokens(1_000).await.unwrap(), 0);
    assert_eq!(db.delete_expired_tokens(1_001).await.unwrap(), 2);
}

pub async fn verifying_installs_the_pending_password_and_voids_the_others(db: Db) {
    let mut unverified = new_user("a@example.org");
    unverified.is_verified = false;
    let user = db.create_user(&unverified).await.unwrap().unwrap();
    let other = account(&db, "b").await;
    for n in 1..=2 {
        db.put_token(&token(user, n, TokenPurpose::VerifyEmail)).await.unwrap();
    }
    db.put_token(&token(user, 3, TokenPurpose::MagicLogin)).await.unwrap();
    db.put_token(&token(other, 4, TokenPurpose::VerifyEmail)).await.unwrap();

    let taken = db.take_token(&[2; 32], TokenPurpose::VerifyEmail, 500).await.unwrap().unwrap();
    assert_eq!((taken.user, taken.pending_password_hash.as_deref()), (user, Some("pending 2")));
    let row = db.user_by_id(user).await.unwrap().unwrap();
    assert_eq!((row.is_verified, row.password_hash.as_deref()), (true, Some("pending 2")));
    assert!(db.take_token(&[1; 32], TokenPurpose::VerifyEmail, 500).await.unwrap().is_none());
    assert!(db.peek_token(&[3; 32], TokenPurpose::MagicLogin).await.unwrap().is_some());
    assert!(db.peek_token(&[4; 32], TokenPurpose::VerifyEmail).await.unwrap().is_some());

    let mut without = token(user, 5, TokenPurpose::VerifyEmail);
    without.pending_password_hash = None;
    db.put_token(&without).await.unwrap();
    assert!(db.take_token(&[5; 32], TokenPurpose::VerifyEmail, 500).await.unwrap().is_none(), "verified already");
    assert_eq!(db.user_by_id(user).await.unwrap().unwrap().password_hash.as_deref(), Some("pending 2"));
    without.hash = [6; 32];
    unverified.email = "c@example.org".into();
    without.user = db.create_user(&unverified).await.unwrap().unwrap();
    db.put_token(&without).await.unwrap();
    db.take_token(&[6; 32], TokenPurpose::VerifyEmail, 500).await.unwrap().unwrap();
    assert_eq!(db.user_by_id(without.user).await.unwrap().unwrap().password_hash, None);
}

pub async fn passwords_versions_and_quota(db: Db) {
    let user = account(&db, "a").await;
    assert_eq!(db.set_password(user, "new", false).await.unwrap(), Some(0));
    assert_eq!(db.set_password(user, "newer", true).await.unwrap(), Some(1));
    assert_eq!(db.bump_token_version(user).await.unwrap(), Some(2));
    assert!(db.set_quota(user, 42).await.unwrap());
    assert!(db.set_verified(user).await.unwrap());
    let row = db.user_by_id(user).await.unwrap().unwrap();
    assert_eq!((row.token_version, row.storage_quota_bytes, row.password_hash.as_deref()), (2, 42, Some("newer")));
    assert_eq!(db.load_account(user).await.unwrap().unwrap().storage_quota_bytes, 42);
    assert_eq!(db.set_password(999_999, "x", true).await.unwrap(), None);
    assert_eq!(db.bump_token_version(999_999).await.unwrap(), None);
    assert!(!db.set_quota(999_999, 1).await.unwrap());
    assert!(!db.set_verified(999_999).await.unwrap());
}

pub async fn deleting_an_account_takes_everything_along(db: Db) {
    let user = account(&db, "a").await;
    let other = account(&db, "b").await;
    append_many(&db, other, "A", 2).await;
    let before = append_many(&db, user, "A", 2).await;
    let mut commit = empty_commit(user, &before);
    commit.devices = vec![("A".into(), 1)];
    commit.archived.push(ArchivedRange {
        generation: 0,
        from_seq: 1,
        to_seq: 1,
        reason: ArchiveReason::Wipe,
        bytes: 1,
        archived_at: 1,
    });
    commit.snapshot = SnapshotChange::Set(SnapshotBlob { data: vec![1], schema_version: 4 });
    let before = apply(&db, commit).await;
    db.put_token(&token(user, 1, TokenPurpose::MagicLogin)).await.unwrap();

    assert!(db.delete_user(user).await.unwrap());
    assert!(!db.delete_user(user).await.unwrap());
    assert!(db.load_account(user).await.unwrap().is_none());
    assert!(stored_seqs(&db, user).await.is_empty());
    assert!(db.load_all_heads(user, 0, 10).await.unwrap().unwrap().is_empty());
    assert!(db.devices(user, 0, 10).await.unwrap().is_empty());
    assert!(db.archived(user).await.unwrap().is_empty());
    assert!(db.peek_token(&[1; 32], TokenPurpose::MagicLogin).await.unwrap().is_none());
    let late = append(user, &before, vec![op(3, "A")]);
    assert_eq!(db.commit([late].into()).await.unwrap(), [supersync::store::CommitOutcome::Stale]);
    assert!(stored_seqs(&db, user).await.is_empty());

    assert_eq!(stored_seqs(&db, other).await, [1, 2]);
    db.delete_all_users().await.unwrap();
    assert!(db.list_users(0, 10).await.unwrap().is_empty());
    assert!(stored_seqs(&db, other).await.is_empty());
}

pub async fn a_long_log_goes_with_its_account(db: Db) {
    let user = account(&db, "a").await;
    let other = account(&db, "b").await;
    append_many(&db, other, "A", 3).await;
    for _ in 0..3 {
        append_many(&db, user, "A", 1000).await;
    }
    assert!(db.delete_user(user).await.unwrap());
    assert!(!db.delete_user(user).await.unwrap(), "it is gone");
    assert!(db.load_account(user).await.unwrap().is_none());
    assert!(stored_seqs(&db, user).await.is_empty());
    assert!(db.load_all_heads(user, 0, 10).await.unwrap().unwrap().is_empty());
    assert_eq!(stored_seqs(&db, other).await, [1, 2, 3]);
    assert_eq!(db.load_all_heads(other, 0, 10).await.unwrap().unwrap().len(), 3);
}

pub async fn a_deleted_number_is_not_given_out_again(db: Db) {
    let user = account(&db, "a").await;
    db.delete_user(user).await.unwrap();
    assert!(account(&db, "a").await > user);
}

pub async fn accounts_are_listed_in_pages(db: Db) {
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(account(&db, name).await);
    }
    let page: Vec<_> = db.list_users(ids[0], 1).await.unwrap().iter().map(|user| user.id).collect();
    assert_eq!(page, [ids[1]]);
    let page: Vec<_> = db.list_users(0, 10).await.unwrap().iter().map(|user| user.id).collect();
    assert_eq!(page, ids);
}
