//! Signing in with a password: lock-out, adopted hashes, equal work.

use super::*;

const LOCKED: &str = "Account temporarily locked due to too many failed login attempts. Please try again later.";

#[tokio::test]
async fn five_wrong_passwords_lock_for_fifteen_minutes() {
    let world = world().await;
    world.verified("a@b.co", OWNER).await;
    for _ in 0..5 {
        assert_eq!(world.login("a@b.co", "wrong").await.unwrap_err().to_string(), "Invalid credentials");
    }
    let hashes = world.accounts.password_hashes_computed();
    assert_eq!(world.login("a@b.co", OWNER).await.unwrap_err().to_string(), LOCKED);
    assert_eq!(world.accounts.password_hashes_computed(), hashes + 1, "a lock costs what a wrong password costs");
    world.clock.advance_ms(LOCK_MS - 1);
    assert!(matches!(world.login("a@b.co", OWNER).await, Err(AccountError::LoginLocked)));
    world.clock.advance_ms(1);
    // The count starts at nothing.
    for _ in 0..4 {
        assert!(matches!(world.login("a@b.co", "wrong").await, Err(AccountError::InvalidCredentials)));
    }
    world.login("a@b.co", OWNER).await.unwrap();
    // Success restarts the count.
    for _ in 0..4 {
        assert!(matches!(world.login("a@b.co", "wrong").await, Err(AccountError::InvalidCredentials)));
    }
    world.login("a@b.co", OWNER).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_parallel_guesses_get_five_tries() {
    let world = Arc::new(world().await);
    world.verified("a@b.co", OWNER).await;
    let before = world.accounts.password_hashes_computed();
    let guesses: Vec<_> = (0..20)
        .map(|n| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.login("a@b.co", &format!("guess {n}")).await })
        })
        .collect();
    let mut wrong = 0;
    let mut locked = 0;
    for guess in guesses {
        match guess.await.unwrap() {
            Err(AccountError::InvalidCredentials) => wrong += 1,
            Err(AccountError::LoginLocked) => locked += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((wrong, locked), (5, 15));
    assert_eq!(world.accounts.password_hashes_computed() - before, 20, "whether locked or not");
    assert!(matches!(world.login("a@b.co", OWNER).await, Err(AccountError::LoginLocked)));
}

#[tokio::test]
async fn a_failed_login_costs_the_same_for_every_kind_of_account() {
    let world = world().await;
    world.verified("known@b.co", OWNER).await;
    world.row("keyless@b.co", None, true).await;
    world.register("unverified@b.co", OWNER).await.unwrap();
    for email in ["known@b.co", "keyless@b.co", "unverified@b.co", "unknown@b.co"] {
        let before = world.accounts.password_hashes_computed();
        let error = world.login(email, "a wrong password").await.unwrap_err();
        assert_eq!(error.to_string(), "Invalid credentials", "{email}");
        assert_eq!(world.accounts.password_hashes_computed() - before, 1, "{email}");
    }
}

#[tokio::test]
async fn a_bcrypt_row_in_mixed_case_logs_in_and_gets_a_new_hash() {
    let world = world().await;
    let hash = bcrypt::hash(OWNER, 4).unwrap();
    let user = world.row("Mixed.Case@Example.COM", Some(&hash), true).await;
    assert!(matches!(world.login("mixed.case@example.com", "wrong").await, Err(AccountError::InvalidCredentials)));
    assert_eq!(world.store.user_by_id(user).await.unwrap().unwrap().password_hash, Some(hash));
    world.login("MIXED.case@example.com", OWNER).await.unwrap();
    let renewed = world.store.user_by_id(user).await.unwrap().unwrap();
    assert!(renewed.password_hash.unwrap().starts_with("$argon2id$"));
    assert_eq!((renewed.token_version, renewed.failed_login_attempts), (0, 0), "nobody is signed out by it");
    world.login("mixed.case@example.com", OWNER).await.unwrap();
}

#[tokio::test]
async fn a_new_password_ends_sessions_and_locks() {
    let world = world().await;
    let user = world.verified("a@b.co", OWNER).await;
    let token = world.login("a@b.co", OWNER).await.unwrap();
    for _ in 0..5 {
        let _wrong = world.login("a@b.co", "wrong").await.unwrap_err();
    }
    world.accounts.set_password(user, &secret("a newer password")).await.unwrap();
    assert!(matches!(world.accounts.authenticate_token(&token, || None).await, Err(AuthError::Revoked)));
    assert!(matches!(world.login("a@b.co", OWNER).await, Err(AccountError::InvalidCredentials)));
    world.login("a@b.co", "a newer password").await.unwrap();
}
