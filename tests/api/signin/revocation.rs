//! Every kind of revocation voids every kind of session, mailed link and ticket that it should, and the link that undoes a
//! change of address stays.

use serde_json::{Value, json};
use supersync::accounts::{Asker, SessionRef, UNDO_ADDRESS_LIFETIME_MS};

use crate::harness::Backend;
use crate::signin::authenticator::{Key, PRESENT, VERIFIED};
use crate::signin::world::{OTHER_PASSWORD, PASSWORD, World, world};

on_both_databases! {
    every_revocation_voids_every_link_and_ticket,
    a_changed_address_is_put_back_by_the_old_one,
    an_undo_link_works_once_and_not_too_late,
    of_several_changes_the_first_address_wins,
    an_address_that_changes_all_the_time_stays,
    who_changes_a_password_may_keep_the_other_sessions,
    changes_are_told_by_mail,
}

/// Ways to revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ReplaceToken,
    ChangePassword,
    ResetPassword,
    RecoverPasskey,
    UndoAddress,
    RevokeOthers,
    RevokeOne,
    RevokeOlder,
    OperatorRevokes,
    OperatorRevokesOne,
    OperatorSetsPassword,
    OperatorLocks,
    AdminRevokes,
    AdminLocks,
}

const WAYS: [Way; 14] = [
    Way::ReplaceToken,
    Way::ChangePassword,
    Way::ResetPassword,
    Way::RecoverPasskey,
    Way::UndoAddress,
    Way::RevokeOthers,
    Way::RevokeOne,
    Way::RevokeOlder,
    Way::OperatorRevokes,
    Way::OperatorRevokesOne,
    Way::OperatorSetsPassword,
    Way::OperatorLocks,
    Way::AdminRevokes,
    Way::AdminLocks,
];

impl Way {
    /// Whether the session that the attacker has ends. (It is the one that is named where one is.)
    fn ends_others(self) -> bool {
        self != Self::RevokeOlder
    }

    /// Whether tokens of the old server end.
    fn ends_older(self) -> bool {
        !matches!(self, Self::RevokeOne | Self::OperatorRevokesOne)
    }

    /// Whether the owner's session, which may be the one that asks, stays.
    fn keeps_own(self) -> bool {
        matches!(
            self,
            Self::ChangePassword | Self::RevokeOthers | Self::RevokeOne | Self::RevokeOlder | Self::OperatorRevokesOne
        )
    }
}

struct Stage {
    email: &'static str,
    user: i64,
    key: Key,
    /// Signed in just now, by the password.
    own: String,
    /// What somebody else has.
    stolen: String,
    older: String,
    stolen_ticket: String,
    older_ticket: String,
    /// What is in the mail.
    login: String,
    reset: String,
    recover: String,
    change: String,
    undo: String,
    admin: String,
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned()
}

async fn log_in(world: &World, email: &str) -> String {
    text(&world.login(email, PASSWORD).await.ok(), "token")
}

async fn ticket(world: &World, token: &str) -> String {
    text(&world.post_as(token, "/api/sync/ws-ticket", json!({})).await.ok(), "ticket")
}

async fn session_id(world: &World, token: &str) -> String {
    let list = world.get_as(token, "/api/sessions").await.ok();
    let own = list["sessions"].as_array().unwrap().iter().find(|one| one["current"] == true).unwrap().clone();
    text(&own, "id")
}

async fn set_stage(world: &World) -> Stage {
    let email = "owner@b.co";
    let admin_user = world.verified("admin@b.co").await;
    world.accounts.set_admin(admin_user, true).await.unwrap();
    let admin = log_in(world, "admin@b.co").await;
    let user = world.verified("first@b.co").await;
    let first = log_in(world, "first@b.co").await;
    let mut key = Key::es256();
    key.flags = PRESENT | VERIFIED;
    world.add_key(&first, &key, "key").await.created();
    // So that there is a link that undoes it, later than the key.
    world.clock.advance_ms(1);
    world.post_as(&first, "/api/account/email", json!({ "email": email })).await.ok();
    let link = world.link(email, "change-email").await;
    world.post("/api/account/email/verify", json!({ "token": link })).await.ok();
    let undo = world.link("first@b.co", "undo-email").await;
    world.clock.advance_ms(60_000);
    let (own, stolen) = (log_in(world, email).await, log_in(world, email).await);
    for path in ["/api/login/magic-link", "/api/forgot-password", "/api/recover/passkey"] {
        world.post(path, json!({ "email": email })).await.ok();
    }
    // By whoever has the stolen token, to an own mailbox.
    world.post_as(&stolen, "/api/account/email", json!({ "email": "thief@b.co" })).await.ok();
    let version = world.accounts.find(email).await.unwrap().token_version;
    let iat = world.clock.now_ms() / 1000 - 60;
    let claims = json!({ "userId": user, "email": email, "tokenVersion": version, "iat": iat });
    let secret = jsonwebtoken::EncodingKey::from_secret(b"a secret of the tests, long enough to be one");
    let older = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &secret).unwrap();
    Stage {
        email,
        user,
        stolen_ticket: ticket(world, &stolen).await,
        older_ticket: ticket(world, &older).await,
        login: world.link(email, "magic-login").await,
        reset: world.link(email, "reset-password").await,
        recover: world.link(email, "recover-passkey").await,
        change: world.link("thief@b.co", "change-email").await,
        key,
        own,
        stolen,
        older,
        undo,
        admin,
    }
}

async fn revoke(world: &World, stage: &Stage, way: Way) {
    let own = stage.own.as_str();
    match way {
        Way::ReplaceToken => {
            world.post_as(own, "/api/replace-token", json!({})).await.ok();
        }
        Way::ChangePassword => {
            world.post_as(own, "/api/account/password", json!({ "newPassword": OTHER_PASSWORD })).await.ok();
        }
        Way::ResetPassword => {
            let body = json!({ "token": stage.reset, "password": OTHER_PASSWORD });
            world.post("/api/reset-password", body).await.ok();
        }
        Way::RecoverPasskey => {
            let made = world.post("/api/recover/passkey/options", json!({ "token": stage.recover })).await.ok();
            let credential = Key::es256().create(&made["options"]);
            let body = json!({ "token": stage.recover, "credential": credential });
            world.post("/api/recover/passkey/complete", body).await.ok();
        }
        Way::UndoAddress => {
            world.post("/api/account/email/undo", json!({ "token": stage.undo })).await.ok();
        }
        Way::RevokeOthers => {
            world.post_as(own, "/api/sessions/revoke-others", json!({})).await.ok();
        }
        Way::RevokeOne => {
            let path = format!("/api/sessions/{}", session_id(world, &stage.stolen).await);
            world.send("DELETE", &path, Some(own), None).await.ok();
        }
        Way::RevokeOlder => {
            world.send("DELETE", "/api/sessions/older-tokens", Some(own), None).await.ok();
        }
        Way::OperatorRevokes => {
            world.accounts.revoke(stage.user).await.unwrap();
        }
        Way::OperatorRevokesOne => {
            let id = session_id(world, &stage.stolen).await;
            let session = SessionRef::One(supersync::store::SessionId::parse(&id).unwrap());
            world.accounts.revoke_session(stage.user, session, &Asker::operator()).await.unwrap();
        }
        Way::OperatorSetsPassword => {
            world.accounts.set_password(stage.user, &OTHER_PASSWORD.to_owned().into()).await.unwrap();
        }
        Way::OperatorLocks => {
            world.accounts.set_locked(stage.user, true).await.unwrap();
            world.accounts.set_locked(stage.user, false).await.unwrap();
        }
        Way::AdminRevokes => {
            let path = format!("/api/admin/users/{}/revoke", stage.user);
            world.post_as(&stage.admin, &path, json!({})).await.ok();
        }
        Way::AdminLocks => {
            let path = format!("/api/admin/users/{}", stage.user);
            for locked in [true, false] {
                world.send("PATCH", &path, Some(&stage.admin), Some(&json!({ "locked": locked }))).await.ok();
            }
        }
    }
}

async fn every_revocation_voids_every_link_and_ticket(on: Backend) {
    for way in WAYS {
        let world = world(on).await;
        let stage = set_stage(&world).await;
        for token in [&stage.own, &stage.stolen, &stage.older] {
            assert_eq!(world.get_as(token, "/api/account").await.status, 200, "before {way:?}");
        }
        revoke(&world, &stage, way).await;

        // A lock ends nothing for ever, but refuses while it lasts.
        let locks = matches!(way, Way::OperatorLocks | Way::AdminLocks);
        let works = async |token: &str| world.get_as(token, "/api/account").await.status == 200;
        assert_eq!(works(&stage.stolen).await, locks || !way.ends_others(), "the stolen session after {way:?}");
        assert_eq!(works(&stage.older).await, locks || !way.ends_older(), "an older token after {way:?}");
        assert_eq!(works(&stage.own).await, locks || way.keeps_own(), "the own session after {way:?}");

        let redeemed = async |ticket: &str| {
            let Some((user, credential)) = world.accounts.redeem_ticket(ticket).await.unwrap() else { return false };
            world.accounts.recheck(user, &credential).await.is_ok()
        };
        assert_eq!(redeemed(&stage.stolen_ticket).await, !way.ends_others(), "a ticket after {way:?}");
        assert_eq!(redeemed(&stage.older_ticket).await, !way.ends_older(), "an older token's ticket after {way:?}");

        let login = world.post("/api/login/magic-link/verify", json!({ "token": stage.login })).await;
        login.refused(401, "Invalid or expired login link");
        let reset = json!({ "token": stage.reset, "password": "a thief's password" });
        world.post("/api/reset-password", reset).await.refused(400, "Invalid or expired reset token");
        let recover = world.post("/api/recover/passkey/options", json!({ "token": stage.recover })).await;
        recover.refused(400, "Invalid or expired recovery token");
        let change = world.post("/api/account/email/verify", json!({ "token": stage.change })).await;
        change.refused(400, "Invalid or expired link");
        let holder = if way == Way::UndoAddress { "first@b.co" } else { stage.email };
        assert_eq!(world.accounts.find(holder).await.unwrap().id, stage.user, "the address after {way:?}");

        let by_key = world.login_key(holder, &stage.key).await.status;
        assert_eq!(by_key, if way == Way::RecoverPasskey { 401 } else { 200 }, "the key after {way:?}");

        // For who has lost the account.
        let undo = world.post("/api/account/email/undo", json!({ "token": stage.undo })).await;
        assert_eq!(undo.status, if way == Way::UndoAddress { 400 } else { 200 }, "{way:?}: {}", undo.text);
    }
}

async fn change_address(world: &World, from: &str, to: &str) {
    let token = log_in(world, from).await;
    world.post_as(&token, "/api/account/email", json!({ "email": to })).await.ok();
    let link = world.link(to, "change-email").await;
    world.post("/api/account/email/verify", json!({ "token": link })).await.ok();
    // The next link comes after a minute.
    world.clock.advance_ms(60_000);
}

async fn undo(world: &World, link: &str) -> crate::signin::world::Answer {
    world.post("/api/account/email/undo", json!({ "token": link })).await
}

const NO_LINK: &str = "Invalid or expired link";

async fn a_changed_address_is_put_back_by_the_old_one(on: Backend) {
    let world = world(on).await;
    let user = world.verified("old@b.co").await;
    change_address(&world, "old@b.co", "new@b.co").await;
    let taken = log_in(&world, "new@b.co").await;
    let mut key = Key::es256();
    key.flags = PRESENT | VERIFIED;
    world.add_key(&taken, &key, "the thief's").await.created();
    // What was never verified holds no address.
    world.post("/api/register", json!({ "email": "old@b.co", "password": OTHER_PASSWORD })).await.created();

    let link = world.link("old@b.co", "undo-email").await;
    undo(&world, &"0".repeat(64)).await.refused(400, NO_LINK);
    world.post("/api/account/email/verify", json!({ "token": link })).await.refused(400, NO_LINK);
    undo(&world, &link).await.ok();
    assert_eq!(world.accounts.find("old@b.co").await.unwrap().id, user);
    let revoked = "Token was revoked. Please log in again to get a new token.";
    world.get_as(&taken, "/api/account").await.refused(401, revoked);
    world.login("new@b.co", PASSWORD).await.refused(401, "Invalid credentials");
    world.login_key("old@b.co", &key).await.refused(401, "Authentication failed");
    // And a way to shut out who knows the password.
    let reset = world.link("old@b.co", "reset-password").await;
    world.post("/api/reset-password", json!({ "token": reset, "password": OTHER_PASSWORD })).await.ok();
    log_in_with(&world, "old@b.co", OTHER_PASSWORD).await;
}

async fn log_in_with(world: &World, email: &str, password: &str) {
    world.login(email, password).await.ok();
}

async fn an_undo_link_works_once_and_not_too_late(on: Backend) {
    let world = world(on).await;
    world.verified("old@b.co").await;
    change_address(&world, "old@b.co", "new@b.co").await;
    let link = world.link("old@b.co", "undo-email").await;
    undo(&world, &link).await.ok();
    undo(&world, &link).await.refused(400, NO_LINK);
    change_address(&world, "old@b.co", "newer@b.co").await;
    let late = world.link("old@b.co", "undo-email").await;
    world.clock.advance_ms(UNDO_ADDRESS_LIFETIME_MS);
    undo(&world, &late).await.refused(400, NO_LINK);
    log_in(&world, "newer@b.co").await;
}

async fn of_several_changes_the_first_address_wins(on: Backend) {
    let world = world(on).await;
    let user = world.verified("owner@b.co").await;
    change_address(&world, "owner@b.co", "thief@b.co").await;
    change_address(&world, "thief@b.co", "second@b.co").await;
    let (owners, thiefs) = (world.link("owner@b.co", "undo-email").await, world.link("thief@b.co", "undo-email").await);
    undo(&world, &owners).await.ok();
    undo(&world, &thiefs).await.refused(400, NO_LINK);
    assert_eq!(world.accounts.find("owner@b.co").await.unwrap().id, user);
}

async fn an_address_that_changes_all_the_time_stays(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a0@b.co").await;
    for n in 0..5 {
        change_address(&world, &format!("a{n}@b.co"), &format!("a{}@b.co", n + 1)).await;
    }
    let token = log_in(&world, "a5@b.co").await;
    world.post_as(&token, "/api/account/email", json!({ "email": "a6@b.co" })).await.ok();
    let link = world.link("a6@b.co", "change-email").await;
    let answer = world.post("/api/account/email/verify", json!({ "token": link })).await;
    answer.refused(409, "This account's address was changed too often. Please try again in a few days.");
    // The owner's, which was the first, still works.
    let first = world.link("a0@b.co", "undo-email").await;
    undo(&world, &first).await.ok();
    assert_eq!(world.accounts.find("a0@b.co").await.unwrap().id, user);
}

async fn who_changes_a_password_may_keep_the_other_sessions(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let (own, other) = (log_in(&world, "a@b.co").await, world.token(user).await);
    let change = |body: Value| world.post_as(&own, "/api/account/password", body);
    let wrong = change(json!({ "newPassword": OTHER_PASSWORD, "signOutOthers": "no" })).await;
    assert_eq!(wrong.faults(), ["Invalid input: expected boolean, received string"]);
    change(json!({ "newPassword": OTHER_PASSWORD, "signOutOthers": false })).await.ok();
    assert_eq!(world.get_as(&other, "/api/account").await.status, 200);
    change(json!({ "newPassword": PASSWORD })).await.ok();
    assert_eq!(world.get_as(&other, "/api/account").await.status, 401);
    assert_eq!(world.get_as(&own, "/api/account").await.status, 200);
}

async fn changes_are_told_by_mail(on: Backend) {
    let world = world(on).await;
    let user = world.verified("a@b.co").await;
    let own = log_in(&world, "a@b.co").await;
    let mut told = 0;
    let mut news = async || {
        let mails = world.mailed().await;
        let new: Vec<_> =
            mails[told..].iter().map(|(to, text)| (to.clone(), text.lines().next().unwrap().to_owned())).collect();
        told = mails.len();
        new
    };
    let mut expect = async |what: &str| {
        let news = news().await;
        assert!(news.iter().any(|(to, text)| to == "a@b.co" && text.contains(what)), "{what}: {news:?}");
    };
    world.post_as(&own, "/api/account/password", json!({ "newPassword": OTHER_PASSWORD })).await.ok();
    expect("The password of your SuperSync account was changed").await;
    let id = text(&world.add_key(&own, &Key::es256(), "key").await.created(), "id");
    expect("A passkey was added").await;
    world.send("DELETE", &format!("/api/passkeys/{id}"), Some(&own), None).await.ok();
    expect("A passkey was removed").await;
    world.accounts.set_admin(user, true).await.unwrap();
    expect("rights of an administrator").await;
    world.accounts.set_password(user, &PASSWORD.to_owned().into()).await.unwrap();
    expect("The password of your SuperSync account was changed").await;
    world.post("/api/forgot-password", json!({ "email": "a@b.co" })).await.ok();
    let reset = world.link("a@b.co", "reset-password").await;
    world.post("/api/reset-password", json!({ "token": reset, "password": PASSWORD })).await.ok();
    expect("The password of your SuperSync account was changed").await;
    change_address(&world, "a@b.co", "b@b.co").await;
    expect("another e-mail address now").await;
    assert!(world.mailed().await.iter().any(|(to, text)| to == "b@b.co" && text.contains("address of your SuperSync")));
}
