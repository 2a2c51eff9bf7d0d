//! Tokens: what is accepted, what is refused and in which words, and how fast a revocation is felt.

use super::*;

#[tokio::test]
async fn each_refusal_has_the_contract_s_text() {
    let world = world().await;
    let user = world.verified("a@b.co", OWNER).await;
    let unverified = world.row("u@b.co", None, false).await;
    let good = world.login("a@b.co", OWNER).await.unwrap();

    let missing = world.accounts.authenticate(None, || None).await.unwrap_err();
    assert_eq!(missing.to_string(), "Missing or invalid Authorization header");
    for header in ["", "Bearer", &good, &format!("bearer {good}"), "Basic x"] {
        assert_eq!(world.refusal(header).await, "Missing or invalid Authorization header", "{header}");
    }
    for header in ["Bearer ", "Bearer  x", &format!("Bearer  {good}"), "Bearer x.y.z", &format!("Bearer {good}x")] {
        assert_eq!(world.refusal(header).await, "Invalid token", "{header}");
    }
    let claims = |user: UserId, version: i64, exp: i64| json!({"userId": user, "email": "a@b.co", "tokenVersion": version, "exp": exp});
    let (past, future) = (NOW_MS / 1000, NOW_MS / 1000 + 1);
    let refusals = [
        (claims(user, 0, past), "Token expired. Please log in again to get a new token."),
        (claims(user + 100, 0, future), "Account unavailable"),
        (claims(unverified, 0, future), "Account unavailable"),
        (claims(user, 1, future), "Token was revoked. Please log in again to get a new token."),
        (json!({"userId": user, "email": "a@b.co", "nbf": future}), "Invalid token"),
    ];
    for (claims, text) in refusals {
        assert_eq!(world.refusal(&format!("Bearer {}", sign(&claims))).await, text);
    }

    let sender = world.accounts.authenticate(Some(&format!("Bearer {good} and more")), || None).await.unwrap();
    assert_eq!((sender.user_id, sender.email.as_str(), sender.token_version), (user, "a@b.co", 0));
}

#[tokio::test]
async fn a_token_of_the_old_server_without_version_and_expiry_works_until_revoked() {
    let world = world().await;
    let user = world.verified("a@b.co", OWNER).await;
    let old = sign(&json!({"userId": user, "email": "A@b.co", "iat": 1_700_000_000}));
    let sender = world.accounts.authenticate_token(&old, || None).await.unwrap();

    let session = world.accounts.replace_token(&sender, &origin()).await.unwrap();
    assert_eq!(session.email, "A@b.co", "the presented token's address");
    assert!(matches!(world.accounts.authenticate_token(&old, || None).await, Err(AuthError::Revoked)));
    let sender = world.accounts.authenticate_token(session.token.expose_secret(), || None).await.unwrap();
    assert_eq!(sender.token_version, 1);
}

#[tokio::test]
async fn a_dead_database_is_never_a_refused_session() {
    let world = world().await;
    let user = world.verified("a@b.co", OWNER).await;
    let token = world.login("a@b.co", OWNER).await.unwrap();
    world.accounts.authenticate_token(&token, || None).await.unwrap();
    world.store.close().await;

    world.accounts.authenticate_token(&token, || None).await.expect("known for half a minute");
    world.clock.advance_ms(CACHE_TTL_MS);
    assert!(matches!(world.accounts.authenticate_token(&token, || None).await, Err(AuthError::Database(_))));
    // A token of another version is not refused from the cache's word either.
    let other = sign(&json!({"userId": user, "email": "a@b.co", "tokenVersion": 5}));
    assert!(matches!(world.accounts.authenticate_token(&other, || None).await, Err(AuthError::Database(_))));
    assert!(matches!(world.login("a@b.co", OWNER).await, Err(AccountError::Database(_))));
    assert!(matches!(world.register("n@b.co", OWNER).await, Err(AccountError::Database(_))));
    assert!(matches!(world.verify("x").await, Err(AccountError::Database(_))));
}

#[tokio::test]
async fn a_change_from_outside_is_seen_after_half_a_minute() {
    let world = world().await;
    let user = world.verified("a@b.co", OWNER).await;
    let token = world.login("a@b.co", OWNER).await.unwrap();
    world.accounts.authenticate_token(&token, || None).await.unwrap();
    // Another process revokes.
    world.store.bump_token_version(user).await.unwrap();
    world.clock.advance_ms(CACHE_TTL_MS - 1);
    assert!(world.accounts.authenticate_token(&token, || None).await.is_ok());
    world.clock.advance_ms(1);
    assert!(matches!(world.accounts.authenticate_token(&token, || None).await, Err(AuthError::Revoked)));
}

#[tokio::test]
async fn a_deleted_account_is_unavailable_at_once() {
    let world = world().await;
    let user = world.verified("a@b.co", OWNER).await;
    let token = world.login("a@b.co", OWNER).await.unwrap();
    world.accounts.authenticate_token(&token, || None).await.unwrap();
    world.accounts.delete(user).await.unwrap();
    assert!(matches!(world.accounts.authenticate_token(&token, || None).await, Err(AuthError::Unavailable)));
}
