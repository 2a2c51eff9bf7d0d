//! Accounts themselves: passwords, passkeys, links, addresses; those that are gone.

use serde_json::json;
use sha2::{Digest as _, Sha256};
use supersync::store::{NewPasskey, OneTimeToken, PasskeyUse, TokenPurpose, UndoLink, Unique};

use super::{export, exported, partly};
use crate::harness::{Account, Backend, Program, Server, op};
use crate::old_schema::{OldDatabase, State};

on_both_databases! {
    passwords_go_back_if_the_old_server_can_check_them,
    passkeys_follow_what_they_are_here,
    links_that_were_used_here_are_void_there,
    addresses_may_have_been_swapped,
    accounts_deleted_here_are_deleted_there_when_told,
    a_backup_can_be_written_instead,
    the_address_is_the_old_servers,
}

const FAR: i64 = 4_000_000_000_000;

async fn passwords_go_back_if_the_old_server_can_check_them(from: Backend) {
    let server = Server::start(from).await;
    let [bcrypt, argon, none] = [server.account().await, server.account().await, server.account().await];
    let old_hash = format!("$2b$12${}", "x".repeat(53));
    for (account, hash) in [(&bcrypt, old_hash.as_str()), (&argon, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA")] {
        server.store.set_password(account.id, hash, false).await.expect("the store works");
    }
    server.store.bump_token_version(argon.id).await.expect("the store works");
    let version = server.store.user_by_id(argon.id).await.expect("the store works").expect("there").token_version;
    let locked = format!("UPDATE users SET failed_login_attempts = 1, locked_until = {FAR} WHERE id = {}", none.id);
    server.database.tamper(&locked).await;
    let old = OldDatabase::create(State::Head).await;
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(old.user(&bcrypt).await["password_hash"], old_hash);
    let theirs = old.user(&argon).await;
    assert!(theirs["password_hash"].is_null());
    assert_eq!(theirs["token_version"], version);
    assert_eq!(theirs["is_verified"], 1);
    let theirs = old.user(&none).await;
    assert_eq!((&theirs["failed_login_attempts"], &theirs["locked_until"]), (&json!(1), &json!(FAR)));
    let created = old
        .row(&format!("SELECT (extract(epoch FROM created_at) * 1000)::bigint AS ms FROM users WHERE id = {}", none.id))
        .await;
    assert_eq!(created["ms"], server.clock.now_ms());
    assert_eq!((&report["lost"]["passwords"], &report["lost"]["passwordsWithoutPasskey"]), (&json!(1), &json!(1)));
    let said = export(&server.database, &old, &[]).await;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("1 account(s) have a password that the old server can't check"), "{said}");
    assert!(said.contains("0 added, 0 changed, 3 already so"), "{said}");

    // What the old server knew before is not what is right now: the password may have been changed here.
    old.run(&format!("UPDATE users SET password_hash = '{old_hash}' WHERE id = {}", argon.id)).await;
    exported(&server.database, &old, &[]).await;
    assert!(old.user(&argon).await["password_hash"].is_null());
}

fn passkey(credential: u8) -> NewPasskey {
    NewPasskey {
        credential_id: vec![credential, 0, 255, 10],
        public_key: vec![0xa5; 77],
        counter: 7,
        transports: Some("[\"usb\"]".to_owned()),
        backup_eligible: None,
        name: "key".to_owned(),
        created_at: 1_600_000_000_123,
        user_handle: None,
    }
}

async fn passkeys_follow_what_they_are_here(from: Backend) {
    let server = Server::start(from).await;
    let account = server.account().await;
    let mut keys = Vec::new();
    for credential in [1, 2] {
        let added = server.store.add_passkey(account.id, &passkey(credential), 10).await.expect("the store works");
        let Unique::Done(id) = added else { panic!("{added:?}") };
        keys.push(id);
    }
    let old = OldDatabase::create(State::Head).await;
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["passkeys"], json!({ "written": 2, "removed": 0 }));
    let query = "SELECT *, (extract(epoch FROM created_at) * 1000)::bigint AS created, \
                 (extract(epoch FROM last_used_at) * 1000)::bigint AS used FROM passkeys ORDER BY credential_id";
    let before = old.rows(query).await;
    assert_eq!(before[0]["credential_id"], "\\x0100ff0a");
    assert_eq!(before[0]["public_key"], format!("\\x{}", "a5".repeat(77)));
    assert_eq!((&before[0]["counter"], &before[0]["transports"]), (&json!(7), &json!("[\"usb\"]")));
    assert_eq!((&before[0]["created"], &before[0]["used"]), (&json!(1_600_000_000_123_i64), &json!(null)));
    assert_eq!(before[0]["user_id"], account.id);

    let used = PasskeyUse { counter: 8, backup_eligible: true, user_handle: None };
    assert!(server.store.use_passkey(keys[0], &used, 1_700_000_000_456).await.expect("the store works"));
    server.store.remove_passkey(account.id, keys[1]).await.expect("the store works");
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["passkeys"], json!({ "written": 1, "removed": 1 }));
    let after = old.rows(query).await;
    assert_eq!(after.len(), 1);
    assert_eq!((&after[0]["id"], &after[0]["counter"]), (&before[0]["id"], &json!(8)));
    assert_eq!(after[0]["used"], 1_700_000_000_456_i64);

    // A key of the old server keeps its name there.
    old.run("UPDATE passkeys SET id = 'clh3am8hi0000qwer5t6y7u8i'").await;
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["accounts"]["unchanged"], 1);
    assert_eq!(old.rows(query).await[0]["id"], "clh3am8hi0000qwer5t6y7u8i");

    old.run("INSERT INTO users (id, email) VALUES (9999, 'x@example.org'); UPDATE passkeys SET user_id = 9999").await;
    let (report, _) = partly(&export(&server.database, &old, &["--json"]).await);
    let failed = &report["accounts"]["failed"]["first"][0];
    assert_eq!(failed["account"], account.id);
    assert!(failed["reason"].as_str().is_some_and(|reason| reason.contains("a passkey of it")), "{report}");
}

async fn put_link(server: &Server, account: &Account, token: &str, purpose: TokenPurpose, expires_at: i64) {
    let link = OneTimeToken {
        hash: Sha256::digest(token).into(),
        purpose,
        user: account.id,
        pending_password_hash: None,
        created_at: 1,
        expires_at,
    };
    server.store.put_token(&link).await.expect("the store works");
}

async fn links_that_were_used_here_are_void_there(from: Backend) {
    let server = Server::start(from).await;
    let account = server.account().await;
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    old.run(&format!(
        "UPDATE users SET verification_token = 'kept', verification_token_expires_at = {FAR}, login_token = 'used', \
         login_token_expires_at = {FAR}, passkey_recovery_token = 'used too', passkey_recovery_token_expires_at = {FAR}; \
         INSERT INTO pending_passkey_registrations (id, verification_token, verification_token_expires_at, credential_id, \
         public_key, user_id) VALUES ('a', 'kept', {FAR}, '\\x01', '\\x02', {0}), ('b', 'gone', {FAR}, '\\x01', '\\x02', {0})",
        account.id
    ))
    .await;
    put_link(&server, &account, "kept", TokenPurpose::VerifyEmail, FAR).await;
    put_link(&server, &account, "of ours", TokenPurpose::MagicLogin, FAR).await;
    put_link(&server, &account, "long expired", TokenPurpose::ResetPassword, 5).await;
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["lost"]["links"], 1, "{report}");
    let theirs = old.user(&account).await;
    assert_eq!(
        (&theirs["verification_token"], &theirs["verification_token_expires_at"]),
        (&json!("kept"), &json!(FAR))
    );
    for gone in ["login_token", "login_token_expires_at", "passkey_recovery_token", "passkey_recovery_token_expires_at"]
    {
        assert!(theirs[gone].is_null(), "{gone}");
    }
    let pending = old.rows("SELECT id FROM pending_passkey_registrations").await;
    assert_eq!(pending, [json!({ "id": "a" })]);
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["accounts"]["unchanged"], 1);
}

async fn change_address(server: &Server, account: &Account, email: &str) {
    let secret = format!("{}-{email}", account.id);
    let link = OneTimeToken {
        hash: Sha256::digest(&secret).into(),
        purpose: TokenPurpose::ChangeAddress,
        user: account.id,
        pending_password_hash: None,
        created_at: 1,
        expires_at: FAR,
    };
    assert!(server.store.put_link(&link, Some(email), 0, 100).await.expect("the store works"));
    let undo = UndoLink { hash: Sha256::digest(format!("undo {secret}")).into(), expires_at: FAR, most: 100 };
    let taken = server.store.take_address_link(&link.hash, 2, &undo).await.expect("the store works");
    assert!(matches!(taken, Unique::Done(_)), "{taken:?}");
}

async fn addresses_may_have_been_swapped(from: Backend) {
    let server = Server::start(from).await;
    let [one, two, three] = [server.account().await, server.account().await, server.account().await];
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    change_address(&server, &one, "meanwhile@example.org").await;
    change_address(&server, &two, &one.email).await;
    change_address(&server, &one, &two.email).await;
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["accounts"]["failed"]["count"], 0, "{report}");
    assert_eq!(old.user(&one).await["email"], two.email);
    assert_eq!(old.user(&two).await["email"], one.email);
    change_address(&server, &three, "three@example.org").await;
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!((&report["accounts"]["changed"], &report["accounts"]["unchanged"]), (&json!(1), &json!(2)));
    assert_eq!(old.user(&three).await["email"], "three@example.org");
}

async fn accounts_deleted_here_are_deleted_there_when_told(from: Backend) {
    let server = Server::start(from).await;
    let [kept, gone] = [server.account().await, server.account().await];
    gone.upload("A", &[op("A"), op("A")]).await.ok();
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    old.run("INSERT INTO users (id, email) VALUES (77777, 'registered-there@example.org')").await;
    server.store.delete_user(gone.id).await.expect("the store works");
    let report = exported(&server.database, &old, &[]).await;
    let missing = json!([{ "account": gone.id, "operations": 2 }]);
    assert_eq!(report["missing"]["deletedHere"], json!({ "count": 1, "first": missing }));
    assert_eq!(report["missing"]["deletedThere"], 0);
    assert_eq!(report["missing"]["unknown"]["first"][0]["account"], 77_777);
    assert_eq!(old.operations(&gone).await.len(), 2);

    // Somebody has taken the address.
    let again = server.account().await;
    change_address(&server, &again, &gone.email).await;
    let (report, _) = partly(&export(&server.database, &old, &["--json"]).await);
    let reason = report["accounts"]["failed"]["first"][0]["reason"].as_str().expect("text").to_owned();
    assert!(reason.contains(&format!("account {}", gone.id)) && reason.contains("--delete-missing"), "{reason}");
    let before = old.contents().await;
    let report = exported(&server.database, &old, &["--dry-run", "--delete-missing"]).await;
    assert_eq!(report["missing"]["deletedThere"], 1);
    assert_eq!(old.contents().await, before);

    let report = exported(&server.database, &old, &["--delete-missing"]).await;
    assert_eq!(report["missing"]["deletedThere"], 1);
    assert!(old.operations(&gone).await.is_empty());
    let ids = old.rows("SELECT id FROM users ORDER BY id").await;
    assert_eq!(ids, [json!({ "id": kept.id }), json!({ "id": again.id }), json!({ "id": 77_777 })]);
}

async fn a_backup_can_be_written_instead(from: Backend) {
    let server = Server::start(from).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A")]).await.ok();
    let file = server.database.data_dir().join("then.ssb");
    let output = Program::run(&server.database, &["backup", file.to_str().expect("text")]).await;
    assert!(output.status.success());
    account.upload("A", &[op("A")]).await.ok();
    let old = OldDatabase::create(State::Head).await;
    let report = exported(&server.database, &old, &["--backup", file.to_str().expect("text")]).await;
    assert_eq!(report["operations"]["added"], 2);
    assert!(file.exists(), "it is the operator's");
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["operations"], json!({ "added": 1, "removed": 0, "kept": 2 }));
}

async fn the_address_is_the_old_servers(from: Backend) {
    let server = Server::start(from).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A")]).await.ok();
    let old = OldDatabase::create_in_schema("tenant").await;
    let to = format!("{}?schema=tenant&connection_limit=60&pool_timeout=10", old.url());
    let arguments = ["export", "--upstream", "--json", "--to", to.as_str()];
    for (added, kept) in [(2, 0), (0, 2)] {
        let output = Program::run(&server.database, &arguments).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(report["operations"], json!({ "added": added, "removed": 0, "kept": kept }));
    }
    let stored = old.rows("SELECT server_seq FROM tenant.operations ORDER BY 1").await;
    assert_eq!(stored, [json!({ "server_seq": 1 }), json!({ "server_seq": 2 })]);
    let next = old.row("SELECT nextval('tenant.users_id_seq') AS next").await;
    assert_eq!(next["next"], account.id + 1);
}
