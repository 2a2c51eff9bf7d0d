//! Accounts and one-time tokens.

use supersync::protocol::UserId;
use supersync::store::{
    ArchiveReason, ArchivedRange, FailureRule, LinkPace, OneTimeToken, SnapshotBlob, SnapshotChange, TokenPurpose,
    VerificationLink,
};

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

const RULE: FailureRule = FailureRule { lock_at: 20, lock_ms: 50, remembered_ms: 100, most: 1_000 };

async fn failures(db: &Db, email: &str, places: [&str; 2], now_ms: i64) -> [i64; 2] {
    db.login_standing(email, places, now_ms).await.unwrap().failures
}

pub async fn twenty_failed_logins_at_once_are_all_counted(db: Db) {
    let user = account(&db, "a").await;
    // For nobody's address as for somebody's.
    for email in ["a@example.org", "nobody@example.org"] {
        let attempts: Vec<_> = (0..20)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move { db.count_failed_login(email, "x", &RULE, 1_000).await.unwrap() })
            })
            .collect();
        for attempt in attempts {
            attempt.await.unwrap();
        }
        assert_eq!(failures(&db, email, ["x", ""], 1_000).await, [20, 0]);
        assert_eq!(failures(&db, &email.to_uppercase(), ["", "x"], 1_000).await, [0, 20]);
        assert_eq!(failures(&db, email, ["y", ""], 1_000).await, [0, 0]);
    }
    let standing = db.login_standing("a@example.org", ["x", ""], 1_000).await.unwrap();
    assert_eq!((standing.user.unwrap().id, standing.knows_network), (user, false));
    assert_eq!(db.login_standing("nobody@example.org", ["x", ""], 1_000).await.unwrap().user, None);
}

pub async fn failed_logins_are_forgotten_in_time_and_the_oldest_when_there_are_too_many(db: Db) {
    let miss =
        async |email: &str, place: &str, now_ms| db.count_failed_login(email, place, &RULE, now_ms).await.unwrap();
    // A day after the first, however many came later.
    miss("a@b.co", "x", 1_000).await;
    miss("a@b.co", "x", 1_099).await;
    assert_eq!(failures(&db, "a@b.co", ["x", ""], 1_099).await, [2, 0]);
    assert_eq!(failures(&db, "a@b.co", ["x", ""], 1_100).await, [0, 0]);
    miss("a@b.co", "x", 1_100).await;
    assert_eq!(failures(&db, "a@b.co", ["x", ""], 1_199).await, [1, 0]);
    // The one that locks decides how long.
    for _ in 0..19 {
        miss("a@b.co", "x", 1_190).await;
    }
    assert_eq!(failures(&db, "a@b.co", ["x", ""], 1_239).await, [20, 0]);
    assert_eq!(failures(&db, "a@b.co", ["x", ""], 1_240).await, [0, 0]);

    miss("a@b.co", "", 1_300).await;
    miss("a@b.co", "x", 1_300).await;
    db.forget_failed_logins("A@b.co", Some("x")).await.unwrap();
    assert_eq!(failures(&db, "a@b.co", ["x", ""], 1_300).await, [0, 1]);
    db.forget_failed_logins("a@b.co", None).await.unwrap();
    assert_eq!(failures(&db, "a@b.co", ["x", ""], 1_300).await, [0, 0]);

    for n in 0..5 {
        let few = FailureRule { most: 3, ..RULE };
        db.count_failed_login(&format!("{n}@b.co"), "x", &few, 2_000).await.unwrap();
    }
    for n in 0..5 {
        assert_eq!(failures(&db, &format!("{n}@b.co"), ["x", ""], 2_000).await[0], i64::from(n > 1), "{n}");
    }
    assert_eq!(db.delete_expired_sign_in(2_100, 0).await.unwrap(), 3);
}

/// A verification link with a password, registered by the browser whose secret has this hash.
async fn register(db: &Db, user: UserId, n: u8) {
    let pace = LinkPace { since_ms: 0, most_of_network: 100, most: 100, gap_ms: 0 };
    let link = token(user, n, TokenPurpose::VerifyEmail);
    let new = VerificationLink {
        link: &link,
        passkey: None,
        terms_accepted_at: None,
        registrant: &[100 + n; 32],
        network: "x",
    };
    assert!(db.put_verification_link(&new, &pace).await.unwrap());
}

async fn unverified(db: &Db, email: &str) -> UserId {
    let mut new = new_user(email);
    new.is_verified = false;
    db.create_user(&new).await.unwrap().unwrap()
}

pub async fn a_token_works_once(db: Db) {
    let user = unverified(&db, "a@example.org").await;
    register(&db, user, 1).await;
    assert!(db.peek_token(&[1; 32], TokenPurpose::MagicLogin).await.unwrap().is_none(), "another purpose");
    assert_eq!(db.peek_token(&[1; 32], TokenPurpose::VerifyEmail).await.unwrap().unwrap().user, user);
    let takers: Vec<_> = (0..8)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { db.take_verification_link(&[1; 32], 500, None, None).await.unwrap() })
        })
        .collect();
    let mut won = 0;
    for taker in takers {
        won += usize::from(taker.await.unwrap().is_some());
    }
    assert_eq!(won, 1);
    assert!(db.peek_token(&[1; 32], TokenPurpose::VerifyEmail).await.unwrap().is_none());
}

pub async fn an_expired_token_does_not_work(db: Db) {
    let user = unverified(&db, "a@example.org").await;
    for n in 1..=3 {
        register(&db, user, n).await;
    }
    assert_eq!(db.count_tokens(user, TokenPurpose::VerifyEmail, 102).await.unwrap(), 2);
    assert_eq!(db.count_tokens(user, TokenPurpose::VerifyEmail, 103).await.unwrap(), 1);
    assert_eq!(db.count_tokens(user, TokenPurpose::MagicLogin, 0).await.unwrap(), 0);
    assert_eq!(db.take_verification_link(&[1; 32], 1_000, None, None).await.unwrap(), None);
    assert_eq!(db.delete_expired_tokens(1_000).await.unwrap(), 0);
    assert_eq!(db.take_verification_link(&[1; 32], 999, None, None).await.unwrap(), Some(user));
    db.put_token(&token(user, 4, TokenPurpose::ResetPassword)).await.unwrap();
    assert_eq!(db.delete_expired_tokens(1_001).await.unwrap(), 1);
}

pub async fn what_was_registered_counts_for_the_browser_that_registered(db: Db) {
    let user = unverified(&db, "a@example.org").await;
    let other = account(&db, "b").await;
    for n in 1..=2 {
        register(&db, user, n).await;
    }
    db.put_token(&token(user, 3, TokenPurpose::MagicLogin)).await.unwrap();
    db.put_token(&token(other, 4, TokenPurpose::VerifyEmail)).await.unwrap();

    let found = db.peek_verification_link(&[2; 32]).await.unwrap().unwrap();
    assert_eq!((found.user, found.has_credential, found.registrant), (user, true, Some(vec![102; 32])));
    let taken = db.take_verification_link(&[2; 32], 500, Some(&[102; 32]), None).await.unwrap();
    assert_eq!(taken, Some(user));
    let row = db.user_by_id(user).await.unwrap().unwrap();
    assert_eq!((row.is_verified, row.password_hash.as_deref()), (true, Some("pending 2")));
    assert_eq!(db.take_verification_link(&[1; 32], 500, Some(&[101; 32]), None).await.unwrap(), None);
    assert!(db.peek_token(&[3; 32], TokenPurpose::MagicLogin).await.unwrap().is_some());
    assert!(db.peek_token(&[4; 32], TokenPurpose::VerifyEmail).await.unwrap().is_some());
    assert_eq!(db.take_verification_link(&[4; 32], 500, None, Some("x")).await.unwrap(), None, "verified already");
    assert_eq!(db.user_by_id(other).await.unwrap().unwrap().password_hash.as_deref(), Some("hash"));

    // Another browser, none, and one that gives a password of its own.
    for (n, registrant, given, left) in [
        (10, Some([111; 32]), None, None),
        (11, None, None, None),
        (12, None, Some("new"), Some("new")),
        (13, Some([113; 32]), Some("new"), Some("new")),
    ] {
        let user = unverified(&db, &format!("{n}@example.org")).await;
        register(&db, user, n).await;
        let taken = db.take_verification_link(&[n; 32], 500, registrant.as_ref(), given).await.unwrap();
        assert_eq!(taken, Some(user));
        assert_eq!(db.user_by_id(user).await.unwrap().unwrap().password_hash.as_deref(), left, "{n}");
    }
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
