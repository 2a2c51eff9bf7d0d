//! Settings, which must not end the doctor before it has said what is wrong with them.

use crate::doctor::doctor;
use crate::harness::{Backend, TestDatabase};

#[tokio::test]
async fn wrong_settings_are_findings_without_secrets() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let variables = [
        ("PORT", "x"),
        ("JWT_SECRET", "hunter2"),
        ("SUPERSYNC_X", "hunter2"),
        ("ALLOWED_EMAILS", "me@home@example.org"),
    ];
    let said = doctor(&database, &variables, &["--fix"]).await;
    let all = said.exit(1).of("settings");
    let faults: Vec<_> = all.iter().filter(|(verdict, _)| *verdict == "fault").map(|(_, found)| *found).collect();
    assert_eq!(faults.len(), 4, "{faults:?}");
    for name in ["PORT: is \"x\"", "JWT_SECRET: has 7", "SUPERSYNC_X: there is no", "ALLOWED_EMAILS: is \"<address>\""]
    {
        assert!(faults.iter().any(|found| found.contains(name)), "{name}: {faults:?}");
    }
    assert!(!said.text.contains("hunter2") && !said.text.contains("example.org"), "{}", said.text);
    assert_eq!(said.verdict("database"), "", "nothing else is looked at");
}

#[tokio::test]
async fn a_public_server_with_an_example_s_secret_is_a_fault() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let secret = "e2e-test-secret-minimum-32-chars-long-for-security";
    let variables = [
        ("SUPERSYNC_ENV", "production"),
        ("PUBLIC_URL", "https://sync.example.org"),
        ("JWT_SECRET", secret),
        ("RATE_LIMITS", "off"),
        ("TRUSTED_PROXIES", "0"),
    ];
    let said = doctor(&database, &variables, &["--offline"]).await;
    said.exit(1).found("secret", "fault", "JWT_SECRET holds a word");
    said.found("rate-limits", "warning", "are off").found("proxies", "warning", "TRUSTED_PROXIES is 0");
    assert!(!said.text.contains(secret), "{}", said.text);
}

#[tokio::test]
async fn test_mode_is_shouted_about() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let variables = [("TEST_MODE", "true"), ("TEST_MODE_CONFIRM", "yes-i-understand-the-risks")];
    let said = doctor(&database, &variables, &["--offline"]).await;
    said.exit(0).found("settings", "warning", "delete all data");
}

#[cfg(unix)]
#[tokio::test]
async fn a_secret_that_others_can_read_is_told() {
    use std::os::unix::fs::PermissionsExt as _;

    let database = TestDatabase::create(Backend::Sqlite).await;
    let path = database.data_dir().join("jwt-secret");
    std::fs::write(&path, "x").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
    doctor(&database, &[], &["--offline"]).await.exit(0).found("files", "warning", "open to others than its owner");
}
