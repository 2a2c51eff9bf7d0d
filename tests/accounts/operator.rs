//! The operator's commands.

use super::*;

async fn run(world: &World, command: UserCommand, input: &str) -> Result<String, AdminError> {
    let mut output = Vec::new();
    execute(command, &world.accounts, "https://sync.example.org", &mut input.as_bytes(), &mut output).await?;
    Ok(String::from_utf8(output).unwrap())
}

fn add(email: &str, password_stdin: bool) -> UserCommand {
    UserCommand::Add { email: email.into(), password: PasswordSource { password_stdin } }
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
    assert!(world.accounts.authenticate_token(after(&output, "Access token")).await.is_ok());
    assert!(world.login("me@b.co", after(&output, "Password")).await.is_ok());
    assert!(output.contains("https://sync.example.org"));
    assert!(matches!(run(&world, add("me@B.co", false), "").await, Err(AdminError::Exists(_))));
    assert!(matches!(run(&world, add("nobody", false), "").await, Err(AdminError::Address(..))));

    let output = run(&world, add("you@b.co", true), "a long passphrase\n").await.unwrap();
    assert!(!output.contains("passphrase") && !output.contains("Password"), "{output}");
    assert!(world.login("you@b.co", "a long passphrase").await.is_ok());
}

#[tokio::test]
async fn token_needs_a_verified_account() {
    let world = world().await;
    world.row("u@b.co", None, false).await;
    world.verified("v@b.co", OWNER).await;
    let token = |email: &str| UserCommand::Token { email: email.into() };
    assert!(matches!(run(&world, token("n@b.co"), "").await, Err(AdminError::NoAccount(_))));
    assert!(matches!(run(&world, token("u@b.co"), "").await, Err(AdminError::NotVerified(_))));
    let output = run(&world, token("V@b.co"), "").await.unwrap();
    let old = after(&output, "Access token");
    assert!(world.accounts.authenticate_token(old).await.is_ok());
    run(&world, UserCommand::Revoke { email: "v@b.co".into(), session: None }, "").await.unwrap();
    assert!(matches!(world.accounts.authenticate_token(old).await, Err(AuthError::Revoked)));
    let output = run(&world, token("v@b.co"), "").await.unwrap();
    assert!(world.accounts.authenticate_token(after(&output, "Access token")).await.is_ok());
}

#[tokio::test]
async fn delete_asks_unless_told_not_to() {
    let world = world().await;
    world.verified("a@b.co", OWNER).await;
    let delete = |yes| UserCommand::Delete { email: "a@b.co".into(), yes };
    for answer in ["", "no\n", "y\n"] {
        assert!(matches!(run(&world, delete(false), answer).await, Err(AdminError::NotConfirmed)));
    }
    assert!(world.accounts.find("a@b.co").await.is_ok());
    run(&world, delete(false), "yes\n").await.unwrap();
    assert!(matches!(run(&world, delete(true), "").await, Err(AdminError::NoAccount(_))));
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
    run(&world, UserCommand::SetQuota { email: "u@b.co".into(), quota: 12_345 }, "").await.unwrap();
    let output = run(&world, UserCommand::List { json: false }, "").await.unwrap();
    let line = output.lines().find(|line| line.ends_with("u@b.co")).unwrap();
    assert!(line.contains("unverified") && line.contains("12345") && line.contains("2027-01-15"), "{line}");
    assert!(output.ends_with("2 accounts\n"), "{output}");
}
