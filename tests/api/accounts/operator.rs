//! The operator's commands.

use super::*;

async fn run(world: &World, command: UserCommand, input: &str) -> Result<String, Failure> {
    let mut output = Vec::new();
    execute(command, &world.accounts, "https://sync.example.org", &mut input.as_bytes(), &mut output).await?;
    Ok(String::from_utf8(output).unwrap())
}

fn failed(done: Result<String, Failure>, exit: Exit, reason: &str) {
    let failure = done.expect_err(reason);
    assert!(failure.exit == exit && failure.to_string().contains(reason), "{failure}");
}

fn add(email: &str, password_stdin: bool) -> UserCommand {
    UserCommand::Add { email: email.into(), password: PasswordSource { password_stdin }, admin: false }
}

/// The line after the one that starts so.
fn after<'a>(output: &'a str, heading: &str) -> &'a str {
    let mut lines = output.lines().skip_while(|line| !line.starts_with(heading));
    lines.nth(1).unwrap_or_else(|| panic!("{heading} in {output}")).trim()
}

#[tokio::test]
async fn add_makes_an_account_whose_token_and_password_work() {
    let world = world().await;
    let output = run(&world, add("Me@b.co", false), "").await.unwrap();
    assert!(world.accounts.authenticate_token(after(&output, "Access token"), || None).await.is_ok());
    assert!(world.login("me@b.co", after(&output, "Password")).await.is_ok());
    // The first account is an administrator's.
    assert!(output.contains("https://sync.example.org/admin"), "{output}");
    assert!(world.accounts.find("me@b.co").await.unwrap().is_admin);
    failed(run(&world, add("me@B.co", false), "").await, Exit::Refused, "there is an account");
    failed(run(&world, add("nobody", false), "").await, Exit::Failed, "is not a usable");

    let output = run(&world, add("you@b.co", true), "a long passphrase\n").await.unwrap();
    assert!(!output.contains("passphrase") && !output.contains("Password"), "{output}");
    assert!(world.login("you@b.co", "a long passphrase").await.is_ok());
    assert!(!output.contains("/admin") && !world.accounts.find("you@b.co").await.unwrap().is_admin, "{output}");
    let password = PasswordSource { password_stdin: false };
    run(&world, UserCommand::Add { email: "root@b.co".into(), password, admin: true }, "").await.unwrap();
    assert!(world.accounts.find("root@b.co").await.unwrap().is_admin);
}

#[tokio::test]
async fn token_needs_a_verified_account() {
    let world = world().await;
    world.row("u@b.co", None, false).await;
    world.verified("v@b.co", OWNER).await;
    let token = |email: &str| UserCommand::Token { email: email.into() };
    failed(run(&world, token("n@b.co"), "").await, Exit::NotFound, "there is no account");
    failed(run(&world, token("u@b.co"), "").await, Exit::Refused, "never verified");
    let output = run(&world, token("V@b.co"), "").await.unwrap();
    let old = after(&output, "Access token");
    assert!(world.accounts.authenticate_token(old, || None).await.is_ok());
    run(&world, UserCommand::Revoke { email: "v@b.co".into(), session: None }, "").await.unwrap();
    assert!(matches!(world.accounts.authenticate_token(old, || None).await, Err(AuthError::Revoked)));
    let output = run(&world, token("v@b.co"), "").await.unwrap();
    assert!(world.accounts.authenticate_token(after(&output, "Access token"), || None).await.is_ok());
}

#[tokio::test]
async fn delete_asks_unless_told_not_to() {
    let world = world().await;
    world.verified("a@b.co", OWNER).await;
    let delete = |yes| UserCommand::Delete { email: "a@b.co".into(), yes };
    for answer in ["", "no\n", "y\n"] {
        failed(run(&world, delete(false), answer).await, Exit::Refused, "nothing was deleted");
    }
    assert!(world.accounts.find("a@b.co").await.is_ok());
    run(&world, delete(false), "yes\n").await.unwrap();
    failed(run(&world, delete(true), "").await, Exit::NotFound, "there is no account");
    world.verified("a@b.co", OWNER).await;
    run(&world, delete(true), "").await.unwrap();
}

#[tokio::test]
async fn verify_replaces_the_password_of_a_registration_unless_it_is_trusted() {
    for keep_password in [false, true] {
        let world = world().await;
        world.register("a@b.co", ATTACKER).await.unwrap();
        let password = PasswordSource { password_stdin: false };
        let verify = UserCommand::Verify { email: "a@b.co".into(), keep_password, password };
        let output = run(&world, verify, "").await.unwrap();
        assert_eq!(world.login("a@b.co", ATTACKER).await.is_ok(), keep_password);
        if !keep_password {
            assert!(world.login("a@b.co", after(&output, "Password")).await.is_ok());
        }
    }
}

#[tokio::test]
async fn list_and_quota_show_each_account() {
    let world = world().await;
    world.verified("a@b.co", OWNER).await;
    world.row("u@b.co", None, false).await;
    run(&world, UserCommand::Quota { email: "u@b.co".into(), quota: 12_345 }, "").await.unwrap();
    let output = run(&world, UserCommand::List { json: false }, "").await.unwrap();
    let line = output.lines().find(|line| line.ends_with("u@b.co")).unwrap();
    assert!(line.contains("unverified") && line.contains("12345") && line.contains("2027-01-15"), "{line}");
    assert!(output.ends_with("2 accounts\n"), "{output}");
}

fn json_of(output: &str) -> serde_json::Value {
    serde_json::from_str(output).unwrap()
}

#[tokio::test]
async fn accounts_are_printed_for_scripts() {
    let world = world().await;
    assert_eq!(json_of(&run(&world, UserCommand::List { json: true }, "").await.unwrap()), json!([]));
    let user = world.verified("a@b.co", OWNER).await;
    world.row("u@b.co", None, false).await;
    world.login("a@b.co", OWNER).await.unwrap();
    let listed = json_of(&run(&world, UserCommand::List { json: true }, "").await.unwrap());
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|user| (&user["email"], &user["state"])).collect();
    assert_eq!(states, [(&json!("a@b.co"), &json!("verified")), (&json!("u@b.co"), &json!("unverified"))]);
    let shown = run(&world, UserCommand::Show { email: "A@b.co".into(), json: true }, "").await.unwrap();
    assert_eq!(
        json_of(&shown),
        json!({
            "id": user, "email": "a@b.co", "state": "verified", "isAdmin": false, "hasPassword": true,
            "createdAt": NOW_MS, "lastSeenAt": NOW_MS,
            "storage": { "usedBytes": 0, "quotaBytes": 100 << 20, "grownBytes": 0 }, "operations": 0,
            "devices": 0, "sessions": 1,
        })
    );
    let shown = run(&world, UserCommand::Show { email: "u@b.co".into(), json: false }, "").await.unwrap();
    assert!(shown.contains("unverified") && shown.contains("Last seen      never"), "{shown}");
    let nobody = run(&world, UserCommand::Show { email: "n@b.co".into(), json: true }, "").await.unwrap_err();
    assert_eq!(nobody.exit, Exit::NotFound);
}

#[tokio::test]
async fn sessions_are_listed_and_revoked_one_by_one() {
    let world = world().await;
    let user = world.verified("a@b.co", OWNER).await;
    let (one, two) = (world.login("a@b.co", OWNER).await.unwrap(), world.login("a@b.co", OWNER).await.unwrap());
    let older = sign(&json!({"userId": user, "email": "a@b.co", "iat": NOW_MS / 1000 - 1}));
    world.accounts.authenticate_token(&older, || None).await.unwrap();
    world.accounts.record_sessions().await;
    let sessions = |json| UserCommand::Sessions { email: "a@b.co".into(), json };
    let table = run(&world, sessions(false), "").await.unwrap();
    assert!(table.contains("Firefox on Linux") && table.contains("192.0.2.0/24"), "{table}");
    assert!(table.contains("older-tokens") && table.ends_with("3 sessions\n"), "{table}");
    let listed = json_of(&run(&world, sessions(true), "").await.unwrap());
    assert_eq!((&listed[0]["method"], &listed[2]["olderToken"]), (&json!("password"), &json!(true)));

    let revoke = |session: &str| UserCommand::Revoke { email: "a@b.co".into(), session: Some(session.into()) };
    let id = world.accounts.authenticate_token(&one, || None).await.unwrap().session.unwrap().to_string();
    run(&world, revoke(&id), "").await.unwrap();
    assert!(matches!(world.accounts.authenticate_token(&one, || None).await, Err(AuthError::Revoked)));
    run(&world, revoke("older-tokens"), "").await.unwrap();
    assert!(matches!(world.accounts.authenticate_token(&older, || None).await, Err(AuthError::Revoked)));
    assert!(world.accounts.authenticate_token(&two, || None).await.is_ok());
    for wrong in [id.as_str(), "x"] {
        failed(run(&world, revoke(wrong), "").await, Exit::NotFound, &format!("has no session {wrong};"));
    }
}

#[tokio::test]
async fn the_security_log_is_shown() {
    let world = world().await;
    world.verified("a@b.co", OWNER).await;
    world.login("a@b.co", "not the password").await.unwrap_err();
    world.login("a@b.co", OWNER).await.unwrap();
    run(&world, UserCommand::Revoke { email: "a@b.co".into(), session: None }, "").await.unwrap();
    let log = |email: &str, json| UserCommand::Log { email: email.into(), json };
    let table = run(&world, log("a@b.co", false), "").await.unwrap();
    for part in ["all_sessions_revoked", "operator", "signed_in", "Firefox on Linux", "192.0.2.0/24", "sign_in_failed"]
    {
        assert!(table.contains(part), "{part} is missing in {table}");
    }
    let listed = json_of(&run(&world, log("A@b.co", true), "").await.unwrap());
    let expected = json!({
        "at": NOW_MS, "kind": "sign_in_failed", "method": "password", "address": "192.0.2.0/24",
        "device": "Firefox on Linux", "times": 1,
    });
    assert_eq!((listed.as_array().map(Vec::len), &listed[2]), (Some(3), &expected));
    assert_eq!(run(&world, log("n@b.co", true), "").await.unwrap_err().exit, Exit::NotFound);
}

#[tokio::test]
async fn a_lock_refuses_tokens_and_sign_ins_until_it_is_lifted() {
    let world = world().await;
    world.verified("a@b.co", OWNER).await;
    let token = world.login("a@b.co", OWNER).await.unwrap();
    let email = || "a@b.co".to_owned();
    run(&world, UserCommand::Lock { email: email() }, "").await.unwrap();
    assert!(matches!(world.accounts.authenticate_token(&token, || None).await, Err(AuthError::Unavailable)));
    assert!(matches!(world.login("a@b.co", OWNER).await, Err(AccountError::InvalidCredentials)));
    failed(run(&world, UserCommand::Token { email: email() }, "").await, Exit::Refused, "is locked");
    let shown = run(&world, UserCommand::Show { email: email(), json: true }, "").await.unwrap();
    assert_eq!(json_of(&shown)["state"], "locked");
    run(&world, UserCommand::Unlock { email: email() }, "").await.unwrap();
    assert!(world.accounts.authenticate_token(&token, || None).await.is_ok());
    assert!(world.login("a@b.co", OWNER).await.is_ok());
}

#[tokio::test]
async fn an_administrator_is_made_and_unmade() {
    let world = world().await;
    world.verified("a@b.co", OWNER).await;
    for remove in [false, true] {
        run(&world, UserCommand::Admin { email: "a@b.co".into(), remove }, "").await.unwrap();
        assert_eq!(world.accounts.find("a@b.co").await.unwrap().is_admin, !remove);
    }
}

#[tokio::test]
async fn exit_codes_tell_failures_apart() {
    let world = world().await;
    world.verified("a@b.co", OWNER).await;
    let code = async |command, input| run(&world, command, input).await.unwrap_err().exit;
    assert_eq!(code(add("nobody", false), "").await, Exit::Failed);
    assert_eq!(code(add("b@b.co", true), "short\n").await, Exit::Failed);
    assert_eq!(code(UserCommand::Lock { email: "n@b.co".into() }, "").await, Exit::NotFound);
    assert_eq!(code(add("A@b.co", false), "").await, Exit::Refused);
    assert_eq!(code(UserCommand::Delete { email: "a@b.co".into(), yes: false }, "no\n").await, Exit::Refused);
    world.store.close().await;
    assert_eq!(code(UserCommand::Lock { email: "a@b.co".into() }, "").await, Exit::DatabaseUnavailable);
}
