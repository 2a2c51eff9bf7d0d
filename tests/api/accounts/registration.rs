//! Registration and verification: neutral answers, links used once, the hash bound to its own link.

use super::*;

#[tokio::test]
async fn a_link_verifies_once_and_then_the_password_signs_in() {
    let world = world().await;
    assert_eq!(world.register("New@Example.com", OWNER).await.unwrap(), Registered::CheckMail);
    assert_eq!(world.login("new@example.com", OWNER).await.unwrap_err().to_string(), "Email not verified");
    let links = world.links().await;
    assert_eq!(links.len(), 1);
    assert_eq!(world.outbox.mails.lock().unwrap()[0].0, "new@example.com");

    let invalid = world.verify("0".repeat(64).as_str()).await.unwrap_err();
    assert_eq!(invalid.to_string(), "Invalid verification token");
    world.verify(&links[0]).await.unwrap();
    let again = world.verify(&links[0]).await.unwrap_err();
    assert_eq!(again.to_string(), "Invalid verification token");
    let token = world.login("new@example.com", OWNER).await.unwrap();
    assert!(world.accounts.authenticate_token(&token, || None).await.is_ok());
    let user = world.accounts.find("new@example.com").await.unwrap();
    assert_eq!(user.storage_quota_bytes, 100 << 20);
}

#[tokio::test]
async fn an_old_link_has_expired_and_a_new_one_can_be_had() {
    let world = world().await;
    world.register("a@b.co", OWNER).await.unwrap();
    world.clock.advance_ms(VERIFY_EMAIL_LIFETIME_MS);
    let links = world.links().await;
    let expired = world.verify(&links[0]).await.unwrap_err();
    assert_eq!(expired.to_string(), "Verification token has expired");
    world.register("a@b.co", OWNER).await.unwrap();
    world.verify(&world.links().await[1]).await.unwrap();
    let left = world.store.delete_expired_tokens(i64::MAX).await.unwrap();
    assert_eq!(left, 0, "the account's other links are gone");
}

#[tokio::test]
async fn the_password_bound_to_the_clicked_link_is_the_only_one_alive() {
    for owner_clicks in [true, false] {
        let world = world().await;
        world.register("owner@b.co", ATTACKER).await.unwrap();
        world.register("owner@b.co", OWNER).await.unwrap();
        world.register("owner@b.co", ATTACKER).await.unwrap();
        let links = world.links().await;
        let (clicked, alive, dead) = if owner_clicks { (1, OWNER, ATTACKER) } else { (2, ATTACKER, OWNER) };
        world.verify(&links[clicked]).await.unwrap();
        assert!(world.login("owner@b.co", alive).await.is_ok());
        assert!(matches!(world.login("owner@b.co", dead).await, Err(AccountError::InvalidCredentials)));
        for link in links {
            assert!(matches!(world.verify(&link).await, Err(AccountError::VerificationInvalid)));
        }
        assert!(world.login("owner@b.co", alive).await.is_ok());
    }
}

#[tokio::test]
async fn a_stranger_s_link_can_t_replace_the_password_that_the_operator_set() {
    let world = world().await;
    world.register("owner@b.co", ATTACKER).await.unwrap();
    let user = world.accounts.find("owner@b.co").await.unwrap().id;
    world.accounts.set_password(user, &secret(OWNER)).await.unwrap();
    world.accounts.set_verified(user).await.unwrap();
    let links = world.links().await;
    assert!(matches!(world.verify(&links[0]).await, Err(AccountError::VerificationInvalid)));
    assert!(world.login("owner@b.co", OWNER).await.is_ok());
}

#[tokio::test]
async fn one_of_two_clicks_at_once_wins() {
    let world = world().await;
    world.register("a@b.co", OWNER).await.unwrap();
    let links = world.links().await;
    let (one, two) = tokio::join!(world.verify(&links[0]), world.verify(&links[0]));
    assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1);
}

#[tokio::test]
async fn known_and_unknown_addresses_get_the_same_answer_for_the_same_work() {
    let world = world().await;
    world.verified("verified@b.co", OWNER).await;
    world.register("unverified@b.co", OWNER).await.unwrap();
    for _ in 0..=MAX_RESENDS_PER_DAY {
        world.register("capped@b.co", OWNER).await.unwrap();
    }
    let mailed = world.links().await.len();
    for email in ["VERIFIED@b.co", "unverified@b.co", "capped@b.co", "unknown@b.co"] {
        let before = world.accounts.password_hashes_computed();
        assert_eq!(world.register(email, ATTACKER).await.unwrap(), Registered::CheckMail, "{email}");
        assert_eq!(world.accounts.password_hashes_computed() - before, 1, "{email}");
    }
    assert_eq!(world.links().await.len() - mailed, 2, "unverified and unknown only");
    assert!(world.login("verified@b.co", OWNER).await.is_ok());
}

#[tokio::test]
async fn the_cap_on_links_decays() {
    let world = world().await;
    for _ in 0..30 {
        world.register("a@b.co", ATTACKER).await.unwrap();
    }
    let most = usize::try_from(MAX_RESENDS_PER_DAY).unwrap() + 1;
    assert_eq!(world.links().await.len(), most);
    world.clock.advance_ms(VERIFY_EMAIL_LIFETIME_MS + 1);
    world.register("a@b.co", OWNER).await.unwrap();
    assert_eq!(world.links().await.len(), most + 1);
}

#[tokio::test]
async fn parallel_registrations_make_one_account_and_keep_the_cap() {
    let world = world().await;
    let all = (0..30).map(|_| world.register("a@b.co", OWNER));
    for result in futures_util::future::join_all(all).await {
        assert_eq!(result.unwrap(), Registered::CheckMail);
    }
    assert_eq!(world.accounts.list(0, 10).await.unwrap().len(), 1);
    assert_eq!(world.links().await.len(), usize::try_from(MAX_RESENDS_PER_DAY).unwrap() + 1);
}

#[tokio::test]
async fn the_allow_list_refuses_registrations_and_nothing_else() {
    let world = world_with(|config| config.allowed_emails = vec!["*@good.org".into()]).await;
    world.verified("known@bad.org", OWNER).await;
    for email in ["new@bad.org", "known@bad.org"] {
        let error = world.register(email, OWNER).await.unwrap_err();
        assert_eq!(error.to_string(), "Registration is not allowed for this email address.");
    }
    world.register("new@good.org", OWNER).await.unwrap();
    assert!(world.login("known@bad.org", OWNER).await.is_ok());
}

#[tokio::test]
async fn without_mail_registration_says_what_to_do() {
    let world = world().await;
    let accounts = Accounts::with_passwords(
        Arc::clone(&world.store) as Arc<dyn Store>,
        &config(),
        world.clock.clone(),
        Mailer::unavailable(),
        Passwords::new(CHEAP, 1),
    );
    let error = accounts.register(&applicant("a@b.co"), Some(&secret(OWNER))).await.unwrap_err();
    assert!(matches!(error, AccountError::RegistrationNeedsMail));
    assert!(error.to_string().contains("supersync user add"));
    assert_eq!(accounts.list(0, 10).await.unwrap(), []);
}

#[tokio::test]
async fn test_mode_verifies_at_once_and_mails_nothing() {
    let world = world_with(|config| config.test_mode = true).await;
    world.row("pending@b.co", None, false).await;
    for email in ["new@b.co", "pending@b.co"] {
        assert_eq!(world.register(email, OWNER).await.unwrap(), Registered::Verified);
        assert!(world.login(email, OWNER).await.is_ok());
    }
    assert_eq!(world.register("new@b.co", ATTACKER).await.unwrap(), Registered::CheckMail);
    assert!(world.login("new@b.co", OWNER).await.is_ok(), "an account in use keeps its password");
    assert_eq!(world.links().await, Vec::<String>::new());
}
