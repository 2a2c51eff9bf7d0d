//! Who may register: modes, invitations, the claim link of a new server.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use supersync::accounts::INVITE_LIFETIME_MS;
use supersync::config::RegistrationMode;

use crate::harness::Backend;
use crate::signin::authenticator::Key;
use crate::signin::world::{OTHER_PASSWORD, PASSWORD, World, works, world, world_with};

on_both_databases! {
    by_invitation_nobody_else_registers,
    an_invitation_without_an_address_still_wants_the_mail,
    an_invitation_for_an_address_vouches_for_it,
    an_invitation_is_used_once_and_not_too_late,
    of_two_uses_at_once_one_makes_an_account,
    closed_is_closed,
    only_administrators_invite,
    the_claim_link_makes_the_administrator_and_no_second_one,
    without_mail_an_invitation_is_enough,
    an_invitation_takes_over_what_was_never_verified_and_nothing_else,
}

const NEEDED: &str = "Registration on this server needs an invitation.";
const INVALID: &str = "Invalid or expired invitation";
const VERIFIED: &str = "Registration successful. Your account has been automatically verified.";

fn by_invitation(config: &mut supersync::config::Config) {
    config.registration = RegistrationMode::Invite;
}

fn token_of(link: &str, page: &str) -> String {
    link.strip_prefix(&format!("https://sync.example.org/{page}?token=")).expect("a link").to_owned()
}

/// The token of a session of an administrator.
async fn admin(world: &World) -> String {
    let user = world.verified("admin@b.co").await;
    world.accounts.set_admin(user, true).await.unwrap();
    world.signed_in("admin@b.co").await
}

async fn invite(world: &World, admin: &str, body: Value) -> String {
    let made = world.post_as(admin, "/api/invites", body).await.created();
    token_of(made["link"].as_str().unwrap(), "invite")
}

async fn register(world: &World, email: &str, invite: Option<&str>) -> crate::signin::world::Answer {
    world.post("/api/register", json!({"email": email, "password": PASSWORD, "invite": invite})).await
}

async fn by_invitation_nobody_else_registers(on: Backend) {
    let world = world_with(on, true, by_invitation).await;
    world.verified("known@b.co").await;
    for email in ["known@b.co", "new@b.co"] {
        register(&world, email, None).await.refused(403, NEEDED);
        register(&world, email, Some("")).await.refused(403, NEEDED);
        register(&world, email, Some("x")).await.refused(403, INVALID);
        for path in ["/api/register/magic-link", "/api/register/passkey/options"] {
            world.post(path, json!({ "email": email })).await.refused(403, NEEDED);
            world.post(path, json!({"email": email, "invite": "x"})).await.refused(403, INVALID);
        }
        let body = json!({"email": email, "credential": {"id": "AA", "rawId": "AA", "type": "public-key",
            "response": {"clientDataJSON": "", "attestationObject": ""}}});
        world.post("/api/register/passkey/verify", body).await.refused(403, NEEDED);
    }
    let wrong = world.post("/api/register/magic-link", json!({"email": "a@b.co", "invite": 5})).await;
    assert_eq!(wrong.faults(), ["Invalid input: expected string, received number"]);
    assert_eq!(world.mails().await, 0);
    world.login("known@b.co", PASSWORD).await.ok();
}

async fn an_invitation_without_an_address_still_wants_the_mail(on: Backend) {
    let world = world_with(on, true, by_invitation).await;
    let admin = admin(&world).await;
    let invite = invite(&world, &admin, json!({})).await;
    register(&world, "new@b.co", Some(&invite)).await.created();
    world.login("new@b.co", PASSWORD).await.refused(401, "Email not verified");
    register(&world, "else@b.co", Some(&invite)).await.refused(403, INVALID);
    // Who used it may ask for a further mail.
    register(&world, "new@b.co", Some(&invite)).await.created();
    let links = world.links("new@b.co", "verify-email").await;
    assert_eq!(links.len(), 2);
    world.post("/api/verify-email", json!({"token": links[1]})).await.ok();
    world.login("new@b.co", PASSWORD).await.ok();
    // The answer does not tell that the address has an account.
    let fresh = self::invite(&world, &admin, json!({})).await;
    let message = register(&world, "new@b.co", Some(&fresh)).await.created();
    assert_eq!(message["message"], "Registration successful. Please check your email to verify your account.");
    register(&world, "third@b.co", Some(&fresh)).await.created();
}

async fn an_invitation_for_an_address_vouches_for_it(on: Backend) {
    let world = world_with(on, true, by_invitation).await;
    let admin = admin(&world).await;
    let invite = invite(&world, &admin, json!({"email": "Guest@b.co"})).await;
    assert_eq!(world.links("guest@b.co", "invite").await, std::slice::from_ref(&invite));
    register(&world, "other@b.co", Some(&invite)).await.refused(403, INVALID);
    let key = Key::es256();
    let who = json!({"email": "guest@b.co", "invite": invite});
    let options = world.post("/api/register/passkey/options", who.clone()).await.ok();
    let body = json!({"email": "guest@b.co", "invite": invite, "credential": key.create(&options)});
    assert_eq!(
        world.post("/api/register/passkey/verify", body).await.created(),
        json!({ "message": VERIFIED, "code": "ACCOUNT_READY" })
    );
    let session = world.login_key("guest@b.co", &key).await.ok();
    assert!(works(&world, &session).await);
    let facts = world.get_as(session["token"].as_str().unwrap(), "/api/account").await.ok();
    assert_eq!(facts["isAdmin"], false);
    world.post("/api/register/magic-link", who).await.refused(403, INVALID);
    let listed = world.get_as(&admin, "/api/invites").await.ok();
    assert_eq!((&listed["invites"][0]["email"], &listed["invites"][0]["usedBy"]), (&json!("guest@b.co"), &facts["id"]));
}

async fn an_invitation_is_used_once_and_not_too_late(on: Backend) {
    let world = world_with(on, true, by_invitation).await;
    let admin = admin(&world).await;
    let makes_admin = invite(&world, &admin, json!({"admin": true})).await;
    assert_eq!(register(&world, "two@b.co", Some(&makes_admin)).await.created()["message"], VERIFIED);
    let session = world.login("two@b.co", PASSWORD).await.ok();
    let facts = world.get_as(session["token"].as_str().unwrap(), "/api/account").await.ok();
    assert_eq!(facts["isAdmin"], true);
    register(&world, "three@b.co", Some(&makes_admin)).await.refused(403, INVALID);

    let made = world.post_as(&admin, "/api/invites", json!({})).await.created();
    let path = format!("/api/invites/{}", made["id"].as_str().unwrap());
    world.send("DELETE", &path, Some(&admin), None).await.ok();
    world.send("DELETE", &path, Some(&admin), None).await.refused(404, "No such invitation");
    let taken_back = token_of(made["link"].as_str().unwrap(), "invite");
    register(&world, "three@b.co", Some(&taken_back)).await.refused(403, INVALID);

    let late = invite(&world, &admin, json!({})).await;
    world.clock.advance_ms(INVITE_LIFETIME_MS);
    register(&world, "three@b.co", Some(&late)).await.refused(403, INVALID);
}

async fn of_two_uses_at_once_one_makes_an_account(on: Backend) {
    let world = world_with(on, false, by_invitation).await;
    let admin = admin(&world).await;
    let invite = invite(&world, &admin, json!({})).await;
    let (one, two) =
        tokio::join!(register(&world, "one@b.co", Some(&invite)), register(&world, "two@b.co", Some(&invite)));
    assert_eq!(one.status + two.status, 201 + 403, "{one:?} {two:?}");
    assert_eq!(world.accounts.list(0, 10).await.unwrap().len(), 2);
}

async fn closed_is_closed(on: Backend) {
    let world = world_with(on, true, |config| config.registration = RegistrationMode::Closed).await;
    let admin = admin(&world).await;
    let closed = "Registration is closed on this server.";
    register(&world, "new@b.co", None).await.refused(403, closed);
    world.post("/api/register/magic-link", json!({"email": "new@b.co"})).await.refused(403, closed);
    world.post("/api/register/passkey/options", json!({"email": "new@b.co"})).await.refused(403, closed);
    world.post_as(&admin, "/api/invites", json!({})).await.refused(403, closed);
}

async fn only_administrators_invite(on: Backend) {
    let world = world(on).await;
    let admin = admin(&world).await;
    let user = world.token(world.verified("user@b.co").await).await;
    let path = "/api/invites";
    for (method, path) in [("GET", path), ("POST", path), ("DELETE", "/api/invites/1")] {
        let answer = world.send(method, path, Some(&user), Some(&json!({}))).await;
        answer.refused(403, "Administrators only");
        let answer = world.send(method, path, None, Some(&json!({}))).await;
        answer.refused(401, "Missing or invalid Authorization header");
    }
    let wrong = world.post_as(&admin, path, json!({"email": "x", "admin": "yes"})).await;
    assert_eq!(wrong.faults(), ["Invalid email format", "Invalid input: expected boolean, received string"]);
    let listed = world.get_as(&admin, path).await.ok();
    assert_eq!(listed["invites"], json!([]));
}

async fn the_claim_link_makes_the_administrator_and_no_second_one(on: Backend) {
    let world = world_with(on, false, |config| config.registration = RegistrationMode::Closed).await;
    let claim = async || {
        let link = world.accounts.claim_link().await.unwrap();
        link.map(|link| token_of(link.expose_secret(), "claim"))
    };
    let older = claim().await.unwrap();
    let newer = claim().await.unwrap();
    // Other accounts don't end it.
    world.verified("other@b.co").await;
    register(&world, "me@b.co", Some(&older)).await.refused(403, INVALID);
    assert_eq!(register(&world, "me@b.co", Some(&newer)).await.created()["message"], VERIFIED);
    let session = world.login("me@b.co", PASSWORD).await.ok();
    let facts = world.get_as(session["token"].as_str().unwrap(), "/api/account").await.ok();
    assert_eq!(
        (&facts["isAdmin"], &facts["mail"], &facts["registration"]),
        (&json!(true), &json!(false), &json!("closed"))
    );
    register(&world, "you@b.co", Some(&newer)).await.refused(403, INVALID);
    assert_eq!(claim().await, None, "there is an administrator");
}

async fn without_mail_an_invitation_is_enough(on: Backend) {
    let world = world_with(on, false, by_invitation).await;
    let admin = admin(&world).await;
    let invite = invite(&world, &admin, json!({})).await;
    assert_eq!(register(&world, "new@b.co", Some(&invite)).await.created()["message"], VERIFIED);
    assert!(works(&world, &world.login("new@b.co", PASSWORD).await.ok()).await);
}

async fn an_invitation_takes_over_what_was_never_verified_and_nothing_else(on: Backend) {
    let world = world(on).await;
    let admin = admin(&world).await;
    world.post("/api/register", json!({"email": "guest@b.co", "password": OTHER_PASSWORD})).await.created();
    let strangers = world.link("guest@b.co", "verify-email").await;
    let first = invite(&world, &admin, json!({"email": "guest@b.co"})).await;
    let second = invite(&world, &admin, json!({"email": "guest@b.co"})).await;
    register(&world, "guest@b.co", Some(&first)).await.created();
    world.post("/api/verify-email", json!({ "token": strangers })).await.refused(400, "Invalid verification token");
    world.login("guest@b.co", OTHER_PASSWORD).await.refused(401, "Invalid credentials");
    world.login("guest@b.co", PASSWORD).await.ok();
    let taken =
        world.post("/api/register", json!({"email": "guest@b.co", "password": OTHER_PASSWORD, "invite": second})).await;
    taken.refused(409, "There is an account with this address already. Please sign in.");
    world.login("guest@b.co", PASSWORD).await.ok();
}
