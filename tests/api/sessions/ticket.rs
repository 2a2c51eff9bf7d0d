//! Tickets: a socket without a token in its address.

use serde_json::json;

use crate::harness::{Account, Backend, Ended, Server};

on_both_databases! {
    what_is_no_ticket_opens_nothing,
    a_ticket_opens_one_socket,
    a_ticket_expires,
    a_ticket_ends_with_its_session,
    a_ticket_of_an_older_token_works,
    old_tickets_make_room,
}

async fn ticket(account: &Account) -> String {
    let reply = account.post("/api/sync/ws-ticket", &json!({})).await.ok();
    assert_eq!(
        (reply["expiresIn"].as_i64(), reply.headers["cache-control"].to_str().ok()),
        (Some(30), Some("no-store"))
    );
    reply["ticket"].as_str().expect("a text").to_owned()
}

async fn ended(account: &Account, query: &str) -> Ended {
    account.socket_with(query).await.ended().await
}

async fn opens(account: &Account, ticket: &str, client: &str) {
    let mut socket = account.socket_with(&format!("ticket={ticket}&clientId={client}")).await;
    let greeting = socket.message().await;
    assert_eq!((&greeting["type"], &greeting["userId"]), (&json!("connected"), &json!(account.id)));
}

async fn what_is_no_ticket_opens_nothing(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let good = ticket(&account).await;
    for (query, code) in [
        ("ticket=&clientId=A".to_owned(), 4001),
        (format!("ticket={good}"), 4001),
        ("ticket=x&clientId=A".to_owned(), 4003),
        (format!("ticket={}&clientId=A", account.token), 4003),
        (format!("token={good}&clientId=A"), 4003),
        (format!("ticket={good}&ticket={good}&clientId=A"), 4003),
        (format!("ticket={good}&token={}&clientId=A", account.token), 4003),
    ] {
        assert_eq!(ended(&account, &query).await, Ended::Code(code), "{query}");
    }
    opens(&account, &good, "A").await;
}

async fn a_ticket_opens_one_socket(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let ticket = ticket(&account).await;
    opens(&account, &ticket, "A").await;
    assert_eq!(ended(&account, &format!("ticket={ticket}&clientId=B")).await, Ended::Code(4003));
}

async fn a_ticket_expires(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let (one, two) = (ticket(&account).await, ticket(&account).await);
    server.clock.advance_ms(29_999);
    opens(&account, &one, "A").await;
    server.clock.advance_ms(1);
    assert_eq!(ended(&account, &format!("ticket={two}&clientId=B")).await, Ended::Code(4003));
}

async fn a_ticket_ends_with_its_session(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let other = server.signed_in_again(&account).await;
    let (void, good) = (ticket(&other).await, ticket(&account).await);
    account.post("/api/sessions/revoke-others", &json!({})).await.ok();
    assert_eq!(ended(&account, &format!("ticket={void}&clientId=B")).await, Ended::Code(4003));
    server.revoke(&account).await;
    assert_eq!(ended(&account, &format!("ticket={good}&clientId=A")).await, Ended::Code(4003));
}

async fn a_ticket_of_an_older_token_works(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let older = Account { token: account.older_token(server.clock.now_ms()), ..account.clone() };
    let (good, void) = (ticket(&older).await, ticket(&older).await);
    opens(&older, &good, "A").await;
    server.clock.advance_ms(1000);
    account.delete("/api/sessions/older-tokens").await.ok();
    assert_eq!(ended(&account, &format!("ticket={void}&clientId=B")).await, Ended::Code(4003));
}

async fn old_tickets_make_room(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let first = ticket(&account).await;
    server.clock.advance_ms(1);
    let second = ticket(&account).await;
    server.clock.advance_ms(1);
    for _ in 0..49 {
        ticket(&account).await;
    }
    assert_eq!(ended(&account, &format!("ticket={first}&clientId=A")).await, Ended::Code(4003));
    opens(&account, &second, "A").await;
}
