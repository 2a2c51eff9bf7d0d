//! Sessions, tickets, and what is announced about accounts.

use std::time::Duration;

use supersync::protocol::UserId;
use supersync::store::{
    Authentication, Credential, EventKind, OlderTokens, SessionId, SessionMethod, SessionRow, SessionSeen, SignOut,
    SocketTicket, Standing,
};

use super::fixture::*;

const ALL: usize = 100;

fn session(user: UserId, n: u8) -> SessionRow {
    SessionRow {
        id: SessionId::from_bytes([n; 16]),
        user,
        name: format!("device {n}"),
        user_agent: "agent".into(),
        method: SessionMethod::MagicLink,
        created_at: 100 + i64::from(n),
        last_seen_at: 100 + i64::from(n),
        last_address: None,
        expires_at: 10_000 + i64::from(n),
        authentication: None,
    }
}

async fn open(db: &Db, user: UserId, n: u8) -> SessionRow {
    let session = session(user, n);
    assert!(db.open_session(&session, ALL).await.unwrap());
    session
}

async fn numbers(db: &Db, user: UserId) -> Vec<u8> {
    db.sessions(user, 0).await.unwrap().iter().map(|session| session.id.as_bytes()[0]).collect()
}

fn older(issued_at: Option<i64>) -> Credential {
    Credential { session: None, token_version: 0, issued_at }
}

/// The kinds of the account's events after that one.
async fn kinds(db: &Db, user: UserId, after: i64) -> Vec<EventKind> {
    let events = db.events_after(after, 1000).await.unwrap();
    events.iter().filter(|event| event.user == user).map(|event| event.kind).collect()
}

pub async fn a_session_needs_an_account_that_is_not_locked(db: Db) {
    assert!(!db.open_session(&session(999_999, 1), ALL).await.unwrap());
    let user = account(&db, "a").await;
    assert!(db.set_locked(user, Some(7)).await.unwrap());
    assert!(!db.open_session(&session(user, 1), ALL).await.unwrap());
    assert_eq!(db.replace_sessions(&session(user, 1), None).await.unwrap(), None);
    let row = db.user_by_id(user).await.unwrap().unwrap();
    assert_eq!((row.locked_at, row.token_version), (Some(7), 0), "what is refused changes nothing");
    assert!(db.set_locked(user, None).await.unwrap());
    assert!(db.open_session(&session(user, 1), ALL).await.unwrap());
    assert!(!db.set_locked(999_999, None).await.unwrap());
    assert_eq!(db.replace_sessions(&session(999_999, 2), None).await.unwrap(), None);
}

pub async fn a_session_is_listed_as_it_was_opened(db: Db) {
    let (user, other) = (account(&db, "a").await, account(&db, "b").await);
    let mut first = session(user, 1);
    first.last_address = Some("192.0.2.0/24".into());
    assert!(db.open_session(&first, ALL).await.unwrap());
    let second = open(&db, user, 2).await;
    open(&db, other, 3).await;
    assert_eq!(db.sessions(user, 10_000).await.unwrap(), [second.clone(), first]);
    assert_eq!(db.sessions(user, 10_001).await.unwrap(), [second], "the other one has ended");
    assert!(db.open_session(&session(user, 3), ALL).await.is_err(), "a number is given out once");
}

pub async fn the_standing_of_a_token_is_read_at_once(db: Db) {
    let (user, other) = (account(&db, "a").await, account(&db, "b").await);
    let id = open(&db, user, 1).await.id;
    let of_session = Standing {
        is_verified: true,
        is_locked: false,
        token_version: 0,
        older_tokens_revoked_at: None,
        older_tokens_seen_at: None,
        session: Some((101, 101)),
    };
    assert_eq!(db.standing(user, Some(id)).await.unwrap(), Some(of_session));
    let without = Some(Standing { session: None, ..of_session });
    assert_eq!(db.standing(user, None).await.unwrap(), without);
    assert_eq!(db.standing(user, Some(SessionId::from_bytes([9; 16]))).await.unwrap(), without);
    assert_eq!(db.standing(other, Some(id)).await.unwrap(), without, "it is not this account's");
    assert_eq!(db.standing(999_999, Some(id)).await.unwrap(), None);
    db.revoke_older_tokens(user, 500).await.unwrap();
    db.set_locked(user, Some(1)).await.unwrap();
    let found = db.standing(user, None).await.unwrap().unwrap();
    assert_eq!((found.is_locked, found.older_tokens_revoked_at), (true, Some(500)));
    // Many at once, in one statement where that pays.
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let db = db.clone();
            let (user, id) = if n % 2 == 0 { (user, Some(id)) } else { (other, None) };
            tokio::spawn(async move { db.standing(user, id).await.unwrap().unwrap().session })
        })
        .collect();
    for (n, asked) in asked.into_iter().enumerate() {
        assert_eq!(asked.await.unwrap(), (n % 2 == 0).then_some((101, 101)));
    }
}

pub async fn the_session_seen_longest_ago_makes_room(db: Db) {
    let user = account(&db, "a").await;
    for n in 1..=3 {
        open(&db, user, n).await;
    }
    let seen = |n| SessionSeen {
        user,
        credential: Credential { session: Some(SessionId::from_bytes([n; 16])), ..older(None) },
        at_ms: 900,
        address: None,
    };
    db.touch_sessions(&[seen(1)]).await.unwrap();
    let before = db.last_event().await.unwrap();
    assert!(db.open_session(&session(user, 4), 4).await.unwrap());
    assert!(kinds(&db, user, before).await.is_empty(), "nobody had to go");
    let mut old = session(user, 5);
    old.last_seen_at = 0;
    assert!(db.open_session(&old, 3).await.unwrap());
    assert_eq!(numbers(&db, user).await, [1, 4, 5], "a new one stays, whatever its time");
    assert_eq!(kinds(&db, user, before).await, [EventKind::SessionRevoked]);
}

pub async fn a_session_is_renamed_and_revoked_by_its_account_only(db: Db) {
    let (user, other) = (account(&db, "a").await, account(&db, "b").await);
    let id = open(&db, user, 1).await.id;
    open(&db, user, 2).await;
    let before = db.last_event().await.unwrap();
    assert!(!db.rename_session(other, id, "x").await.unwrap() && !db.revoke_session(other, id).await.unwrap());
    assert!(db.rename_session(user, id, "x").await.unwrap());
    assert_eq!(db.sessions(user, 0).await.unwrap()[1].name, "x");
    assert!(kinds(&db, user, before).await.is_empty());
    assert!(db.revoke_session(user, id).await.unwrap() && !db.revoke_session(user, id).await.unwrap());
    assert!(!db.rename_session(user, id, "y").await.unwrap());
    assert_eq!(numbers(&db, user).await, [2]);
    assert_eq!(kinds(&db, user, before).await, [EventKind::SessionRevoked]);
}

pub async fn other_sessions_go_and_the_older_tokens_with_them(db: Db) {
    let (user, other) = (account(&db, "a").await, account(&db, "b").await);
    for n in 1..=3 {
        open(&db, user, n).await;
    }
    open(&db, other, 9).await;
    let before = db.last_event().await.unwrap();
    assert_eq!(
        db.revoke_other_sessions(user, SignOut { keep: Some(SessionId::from_bytes([2; 16])), now_ms: 700 })
            .await
            .unwrap(),
        2
    );
    assert_eq!(numbers(&db, user).await, [2]);
    assert_eq!(db.standing(user, None).await.unwrap().unwrap().older_tokens_revoked_at, Some(700));
    assert!(kinds(&db, user, before).await.contains(&EventKind::SessionRevoked));
    assert_eq!(db.revoke_other_sessions(user, SignOut { keep: None, now_ms: 800 }).await.unwrap(), 1);
    assert_eq!(db.standing(user, None).await.unwrap().unwrap().older_tokens_revoked_at, Some(700));
    assert_eq!(numbers(&db, other).await, [9]);
    assert_eq!(db.revoke_other_sessions(999_999, SignOut { keep: None, now_ms: 1 }).await.unwrap(), 0);
}

pub async fn whatever_grows_the_token_version_ends_every_session(db: Db) {
    let user = account(&db, "a").await;
    let seen = SessionSeen { user, credential: older(None), at_ms: 5, address: Some("x".into()) };
    for revoke in ["bump", "password"] {
        open(&db, user, 1).await;
        let version = db.user_by_id(user).await.unwrap().unwrap().token_version;
        let seen = SessionSeen { credential: Credential { token_version: version, ..older(None) }, ..seen.clone() };
        db.touch_sessions(std::slice::from_ref(&seen)).await.unwrap();
        assert!(db.older_tokens(user).await.unwrap().is_some());
        let before = db.last_event().await.unwrap();
        match revoke {
            "bump" => db.bump_token_version(user).await.unwrap(),
            _ => db.set_password(user, "new", true).await.unwrap(),
        };
        assert!(numbers(&db, user).await.is_empty(), "{revoke}");
        assert_eq!(kinds(&db, user, before).await, [EventKind::SessionsRevoked], "{revoke}");
        // Seen before it was voided, written after that.
        db.touch_sessions(&[seen]).await.unwrap();
        assert_eq!(db.older_tokens(user).await.unwrap(), None, "{revoke}");
    }
    let before = db.last_event().await.unwrap();
    open(&db, user, 2).await;
    db.set_password(user, "newer", false).await.unwrap();
    assert_eq!(numbers(&db, user).await, [2], "a password alone ends nothing");
    assert!(kinds(&db, user, before).await.is_empty());
}

pub async fn replacing_sessions_keeps_the_name_of_the_one(db: Db) {
    let (user, other) = (account(&db, "a").await, account(&db, "b").await);
    let id = open(&db, user, 1).await.id;
    open(&db, user, 2).await;
    db.rename_session(user, id, "my phone").await.unwrap();
    let proven = Authentication { at_ms: 77, how: SessionMethod::Passkey, user_verified: true };
    assert!(!db.authenticate_session(other, id, &proven).await.unwrap(), "it is not theirs");
    assert_eq!(db.authentication(user, id).await.unwrap(), None);
    assert!(db.authenticate_session(user, id, &proven).await.unwrap());
    assert_eq!(db.authentication(user, id).await.unwrap(), Some(proven));
    assert_eq!(db.authentication(other, id).await.unwrap(), None);
    let before = db.last_event().await.unwrap();
    assert_eq!(db.replace_sessions(&session(user, 3), Some(id)).await.unwrap(), Some(1));
    let left = db.sessions(user, 0).await.unwrap();
    let expected = SessionRow { name: "my phone".into(), authentication: Some(proven), ..session(user, 3) };
    assert_eq!(left, [expected], "and when and how somebody last proved who they are");
    assert_eq!(kinds(&db, user, before).await, [EventKind::SessionsRevoked]);
    let theirs = open(&db, other, 9).await;
    db.rename_session(other, theirs.id, "secret").await.unwrap();
    assert_eq!(db.replace_sessions(&session(user, 4), Some(theirs.id)).await.unwrap(), Some(2));
    assert_eq!(db.sessions(user, 0).await.unwrap(), [session(user, 4)], "another account's name is not taken over");
    assert_eq!(db.replace_sessions(&session(user, 5), None).await.unwrap(), Some(3));
}

pub async fn signs_of_life_keep_the_latest_time(db: Db) {
    let user = account(&db, "a").await;
    let id = open(&db, user, 1).await.id;
    let seen = |session, at_ms, address: Option<&str>| SessionSeen {
        user,
        credential: Credential { session, ..older(Some(50)) },
        at_ms,
        address: address.map(Into::into),
    };
    let gone = Some(SessionId::from_bytes([9; 16]));
    db.touch_sessions(&[seen(None, 300, Some("o")), seen(Some(id), 300, Some("p")), seen(gone, 300, None)])
        .await
        .unwrap();
    db.touch_sessions(&[seen(None, 200, None), seen(Some(id), 200, None)]).await.unwrap();
    let row = db.sessions(user, 0).await.unwrap().remove(0);
    assert_eq!((row.last_seen_at, row.last_address.as_deref()), (300, Some("p")));
    let tokens = OlderTokens { last_seen_at: 300, last_address: Some("o".into()) };
    assert_eq!(db.older_tokens(user).await.unwrap(), Some(tokens));
    assert_eq!(db.standing(user, None).await.unwrap().unwrap().older_tokens_seen_at, Some(300));
    db.touch_sessions(&[]).await.unwrap();
    // Those issued before the revocation are void, so nothing is known of the others yet.
    assert!(db.revoke_older_tokens(user, 50).await.unwrap() && !db.revoke_older_tokens(999_999, 50).await.unwrap());
    assert_eq!(db.older_tokens(user).await.unwrap(), None);
    db.touch_sessions(&[seen(None, 400, None)]).await.unwrap();
    assert!(db.older_tokens(user).await.unwrap().is_some(), "one issued at that instant still counts");
    db.revoke_older_tokens(user, 51).await.unwrap();
    db.touch_sessions(&[seen(None, 400, None)]).await.unwrap();
    assert_eq!(db.older_tokens(user).await.unwrap(), None);
}

pub async fn ended_sessions_are_deleted_in_steps_and_in_silence(db: Db) {
    let user = account(&db, "a").await;
    for n in 1..=3 {
        open(&db, user, n).await;
    }
    let before = db.last_event().await.unwrap();
    assert_eq!(db.delete_expired_sessions(10_001, 10).await.unwrap(), 0);
    assert_eq!(db.delete_expired_sessions(10_003, 1).await.unwrap(), 1);
    assert_eq!(numbers(&db, user).await, [3, 2], "the one that ended first went first");
    assert_eq!(db.delete_expired_sessions(10_003, 10).await.unwrap(), 1);
    assert_eq!(db.last_event().await.unwrap(), before);
}

pub async fn a_ticket_works_once_while_its_session_lives(db: Db) {
    let user = account(&db, "a").await;
    let id = open(&db, user, 1).await.id;
    let ticket = |n: u8, session| SocketTicket {
        hash: [n; 32],
        user,
        credential: Credential { session, ..older(Some(50)) },
        expires_at: 1_000 + i64::from(n),
    };
    for n in 1..=3 {
        db.put_ticket(&ticket(n, Some(id)), 10).await.unwrap();
    }
    db.put_ticket(&ticket(4, None), 10).await.unwrap();
    assert_eq!(db.take_ticket(&[9; 32], 0).await.unwrap(), None);
    assert_eq!(db.take_ticket(&[1; 32], 1_001).await.unwrap(), None, "expired");
    let takers: Vec<_> = (0..8)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { db.take_ticket(&[2; 32], 1_001).await.unwrap() })
        })
        .collect();
    let mut taken = Vec::new();
    for taker in takers {
        taken.extend(taker.await.unwrap());
    }
    assert_eq!(taken, [ticket(2, Some(id))]);
    db.revoke_session(user, id).await.unwrap();
    assert_eq!(db.take_ticket(&[3; 32], 0).await.unwrap(), None, "it went with its session");
    assert_eq!(db.take_ticket(&[4; 32], 0).await.unwrap(), Some(ticket(4, None)));
    for n in 5..=8 {
        db.put_ticket(&ticket(n, None), 2).await.unwrap();
    }
    assert_eq!(db.take_ticket(&[6; 32], 0).await.unwrap(), None, "it made room");
    assert!(db.take_ticket(&[7; 32], 0).await.unwrap().is_some());
    assert_eq!(db.delete_expired_tickets(1_008).await.unwrap(), 0);
    assert_eq!(db.delete_expired_tickets(1_009).await.unwrap(), 1);
}

pub async fn each_change_is_announced_in_its_order(db: Db) {
    let user = account(&db, "a").await;
    assert_eq!(db.last_event().await.unwrap(), 0);
    db.set_quota(user, 1).await.unwrap();
    db.set_quota(user, 1).await.unwrap();
    db.set_locked(user, Some(1)).await.unwrap();
    db.set_locked(user, None).await.unwrap();
    db.set_admin(user, true).await.unwrap();
    db.revoke_older_tokens(user, 1).await.unwrap();
    db.announce(user, EventKind::DataCleared).await.unwrap();
    db.bump_token_version(user).await.unwrap();
    db.delete_user(user).await.unwrap();
    let expected = [
        EventKind::QuotaChanged,
        EventKind::AccountLocked,
        EventKind::AccountUnlocked,
        EventKind::SessionRevoked,
        EventKind::DataCleared,
        EventKind::SessionsRevoked,
        EventKind::AccountDeleted,
    ];
    assert_eq!(kinds(&db, user, 0).await, expected);
    let events = db.events_after(0, 3).await.unwrap();
    assert_eq!(events.len(), 3);
    assert!(events.is_sorted_by(|a, b| a.id < b.id && a.at <= b.at));
    assert_eq!(kinds(&db, user, events[2].id).await, expected[3..]);
    assert_eq!(db.last_event().await.unwrap(), db.events_after(0, 100).await.unwrap().last().unwrap().id);
    assert!(!db.set_admin(user, true).await.unwrap());
}

pub async fn what_is_not_done_is_not_announced(db: Db) {
    let user = account(&db, "a").await;
    assert!(!db.set_quota(999_999, 1).await.unwrap());
    assert_eq!(db.bump_token_version(999_999).await.unwrap(), None);
    assert!(!db.delete_user(999_999).await.unwrap());
    db.set_verified(user).await.unwrap();
    assert_eq!(db.last_event().await.unwrap(), 0);
}

pub async fn a_reader_misses_no_event_of_those_that_are_written_at_once(db: Db) {
    let mut users = Vec::new();
    for n in 0..8 {
        users.push(account(&db, &format!("u{n}")).await);
    }
    let writers: Vec<_> = users
        .into_iter()
        .map(|user| {
            let db = db.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    db.set_quota(user, n).await.unwrap();
                }
            })
        })
        .collect();
    // As a server reads: on from the last number that it has seen.
    let (mut position, mut seen) = (0, 0);
    while seen < 80 {
        for event in db.events_after(position, 7).await.unwrap() {
            (position, seen) = (event.id, seen + 1);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(db.events_after(position, 1).await.unwrap().is_empty());
}

pub async fn old_events_go_but_numbers_go_on(db: Db) {
    let user = account(&db, "a").await;
    for n in 0..3 {
        db.set_quota(user, n).await.unwrap();
    }
    let last = db.last_event().await.unwrap();
    assert_eq!(db.delete_old_events(Duration::from_hours(1)).await.unwrap(), 0);
    assert_eq!(db.delete_old_events(Duration::ZERO).await.unwrap(), 2);
    assert_eq!(db.last_event().await.unwrap(), last);
    db.set_quota(user, 9).await.unwrap();
    assert!(db.last_event().await.unwrap() > last);
}

pub async fn a_deleted_account_leaves_no_session(db: Db) {
    let user = account(&db, "a").await;
    let id = open(&db, user, 1).await.id;
    let credential = Credential { session: Some(id), ..older(None) };
    db.put_ticket(&SocketTicket { hash: [1; 32], user, credential, expires_at: 9 }, 10).await.unwrap();
    db.delete_user(user).await.unwrap();
    assert!(numbers(&db, user).await.is_empty());
    assert_eq!(db.take_ticket(&[1; 32], 0).await.unwrap(), None);
}

pub async fn an_account_is_made_an_administrator_s(db: Db) {
    let user = account(&db, "a").await;
    let is_admin = async || db.user_by_id(user).await.unwrap().unwrap().is_admin;
    assert!(!is_admin().await);
    assert!(db.set_admin(user, true).await.unwrap() && is_admin().await);
    assert!(db.set_admin(user, false).await.unwrap() && !is_admin().await);
}
