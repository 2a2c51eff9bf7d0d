//! What an administrator sees.

use supersync::store::{SessionId, SessionMethod, SessionRow};

use super::fixture::*;

pub async fn an_account_is_shown_with_what_it_holds(db: Db) {
    assert_eq!(db.account_overview(1, 0).await.unwrap(), None);
    let (user, other) = (account(&db, "a").await, account(&db, "b").await);
    let empty = db.account_overview(user, 0).await.unwrap().unwrap();
    assert_eq!(empty.user, db.user_by_id(user).await.unwrap().unwrap());
    let figures = |n: supersync::store::AccountOverview| {
        (n.storage_used_bytes, n.operations, n.devices, n.sessions, n.last_seen_at)
    };
    assert_eq!(figures(empty), (0, 0, 0, 0, None));
    let before = append_many(&db, user, "A", 3).await;
    let mut commit = empty_commit(user, &before);
    commit.devices = vec![("A".into(), 400), ("B".into(), 300)];
    apply(&db, commit).await;
    assert_eq!(figures(db.account_overview(user, 0).await.unwrap().unwrap()), (60, 3, 2, 0, Some(400)));
    let session = SessionRow {
        id: SessionId::from_bytes([1; 16]),
        user,
        name: String::new(),
        user_agent: String::new(),
        method: SessionMethod::Password,
        created_at: 500,
        last_seen_at: 500,
        last_address: None,
        expires_at: 1_000,
        authentication: None,
    };
    assert!(db.open_session(&session, 10).await.unwrap());
    assert_eq!(figures(db.account_overview(user, 0).await.unwrap().unwrap()), (60, 3, 2, 1, Some(500)));
    assert_eq!(figures(db.account_overview(other, 0).await.unwrap().unwrap()), (0, 0, 0, 0, None));
}

pub async fn accounts_are_found_by_address_and_number(db: Db) {
    let mut ids = Vec::new();
    for name in ["Ann", "bob", "joanna_%"] {
        ids.push(account(&db, name).await);
    }
    let found = async |search: Option<&str>, after, limit| {
        let page = db.account_overviews(search, after, limit, 0).await.unwrap();
        page.iter().map(|account| account.user.id).collect::<Vec<_>>()
    };
    assert_eq!(found(None, 0, 10).await, ids);
    assert_eq!(found(Some(""), ids[0], 1).await, [ids[1]]);
    assert_eq!(found(Some("aNN"), 0, 10).await, [ids[0], ids[2]]);
    assert_eq!(found(Some("_%"), 0, 10).await, [ids[2]]);
    assert!(found(Some("carol"), 0, 10).await.is_empty());
    assert_eq!(found(Some(&ids[1].to_string()), 0, 10).await, [ids[1]]);
    assert!(found(Some(&ids[1].to_string()), ids[1], 10).await.is_empty());
}

pub async fn the_database_knows_its_size_and_the_time(db: Db) {
    account(&db, "a").await;
    let facts = db.database_facts().await.unwrap();
    assert!(facts.accounts == 1 && facts.bytes > 10_000, "{facts:?}");
    assert!(facts.now_ms.abs_diff(supersync::clock::Clock::System.now_ms()) < 60_000, "{facts:?}");
}
