//! Everything that a database holds comes back, and nothing else.

use supersync::store::{NewInvite, NewPasskey, NewUser, Unique};

use super::{contents, done, text};
use crate::harness::{Account, Backend, Program, Server, TestDatabase, import, op, snapshot};

across_databases! {
    everything_comes_back,
    numbers_are_not_given_out_again,
}

fn passkey(name: &str) -> NewPasskey {
    NewPasskey {
        credential_id: vec![0, 1, 255, 10, 13],
        public_key: vec![0xa5; 77],
        counter: 7,
        transports: Some("[\"usb\"]".to_owned()),
        backup_eligible: None,
        name: name.to_owned(),
        created_at: 1,
        user_handle: Some(vec![9, 0, 255]),
    }
}

/// A database with something in every table.
async fn filled(on: Backend) -> (TestDatabase, Account) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    // One that is stored in parts where there is such a thing.
    let large = op("C").sized(3 << 20);
    account.upload("C", &[large, op("C").entity_ids(&["a", "b"]).payload("ä✓ \u{1F600} \\ \"")]).await.ok();
    account.upload("B", &(0..60).map(|_| op("B")).collect::<Vec<_>>()).await.ok();
    server.seal().await;
    account.upload("B", &[op("B"), op("B").encrypted(crate::harness::ciphertext(99))]).await.ok();
    account.download(0).await;
    let empty = server.account().await;
    server.store.add_passkey(empty.id, &passkey("key ✓"), 10).await.expect("the store works");
    let invite = NewInvite {
        token_hash: [9; 32],
        email: Some("guest@example.org".to_owned()),
        makes_admin: true,
        is_claim: false,
        created_by: Some(account.id),
        created_at: 5,
        expires_at: i64::MAX,
    };
    server.store.put_invite(&invite).await.expect("the store works");
    server.store.set_quota(empty.id, 12_345).await.expect("the store works");
    let (database, _) = server.stop().await;
    (database, account)
}

async fn everything_comes_back(from: Backend, to: Backend) {
    let (database, _) = filled(from).await;
    let before = contents(&database).await;
    let tables_with_rows = before.1.iter().filter(|(_, rows)| !rows.is_empty()).count();
    assert!(tables_with_rows >= 9, "there is something to lose: {before:?}");
    let file = database.data_dir().join("all.ssb");
    let said = done(&Program::run(&database, &["backup", text(&file)]).await);
    assert!(said.contains("what it holds is in order"), "{said}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("a file").permissions());
    assert_eq!(mode & 0o777, 0o600);

    let target = TestDatabase::create(to).await;
    done(&Program::run(&target, &["restore", text(&file)]).await);
    assert_eq!(contents(&target).await, before);

    // And once more over what is there, and back again.
    let back = target.data_dir().join("back.ssb");
    done(&Program::run(&target, &["backup", text(&back)]).await);
    done(&Program::run(&database, &["restore", text(&back), "--replace", "--yes"]).await);
    assert_eq!(contents(&database).await, before);
    let left: Vec<_> = std::fs::read_dir(database.data_dir())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .filter(|name| name.contains("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Tokens carry the account's number.
async fn numbers_are_not_given_out_again(from: Backend, to: Backend) {
    let server = Server::start(from).await;
    let first = server.account().await;
    let last = server.account().await;
    server.store.delete_user(last.id).await.expect("the store works");
    let key = server.store.add_passkey(first.id, &passkey("k"), 10).await.expect("the store works");
    let Unique::Done(key) = key else { panic!("{key:?}") };
    server.store.remove_passkey(first.id, key).await.expect("the store works");
    let (database, _) = server.stop().await;
    let file = database.data_dir().join("all.ssb");
    done(&Program::run(&database, &["backup", text(&file)]).await);
    let target = TestDatabase::create(to).await;
    done(&Program::run(&target, &["restore", text(&file)]).await);
    let store = supersync::store::open(&target.settings(), std::time::Duration::from_mins(1)).await.expect("it opens");
    let new = NewUser {
        email: "new@example.org".to_owned(),
        password_hash: None,
        is_verified: true,
        created_at: 1,
        terms_accepted_at: None,
        storage_quota_bytes: 1,
    };
    let id = store.create_user(&new).await.expect("the store works").expect("a new address");
    assert!(id > last.id, "{id} was given out before");
    let again = store.add_passkey(id, &passkey("k"), 10).await.expect("the store works");
    assert!(matches!(again, Unique::Done(id) if id > key), "{again:?}");
    store.close().await;
}
