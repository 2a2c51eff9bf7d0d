//! Addresses: whose word counts, and who is counted together.

use std::net::IpAddr;

use reqwest::Client;
use supersync::config::{Config, TrustedProxies};

use crate::harness::{Backend, Server};

on_both_databases! {
    who_is_no_proxy_can_not_say_where_it_comes_from,
    a_number_still_trusts_every_peer,
    an_ipv6_network_is_counted_as_a_whole,
    going_round_among_addresses_resets_nobody,
}

fn limited(config: &mut Config) {
    config.rate_limits.per_address = true;
}

fn trusting(proxies: &str) -> impl FnOnce(&mut Config) {
    let trusted = TrustedProxies::parse(proxies).expect("valid");
    move |config| {
        limited(config);
        config.trusted_proxies = trusted;
    }
}

/// A client that comes from this address of the machine.
fn from(address: &str) -> Client {
    let address: IpAddr = address.parse().expect("an address");
    Client::builder().no_proxy().local_address(address).build().expect("a client")
}

/// The status of a wipe, of which three are allowed in a quarter of an hour, and what it says. Nobody is signed in.
async fn wipe(server: &Server, client: &Client, claims: &str) -> (u16, String) {
    let request = client.delete(format!("{}/api/sync/data", server.base)).header("x-forwarded-for", claims);
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

/// How many of these are not refused for being too many.
async fn allowed(server: &Server, client: &Client, claims: impl IntoIterator<Item = String>) -> usize {
    let mut allowed = 0;
    for claim in claims {
        let (status, text) = wipe(server, client, &claim).await;
        assert!([401, 429].contains(&status), "{text}");
        assert!(status != 429 || text.contains("retry in 15 minutes"), "{text}");
        allowed += usize::from(status == 401);
    }
    allowed
}

fn claims(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("198.51.{}.{}", n / 256, n % 256))
}

async fn who_is_no_proxy_can_not_say_where_it_comes_from(on: Backend) {
    let server = Server::start_with(on, limited).await;
    // Whoever connects from 127.0.0.1 is the proxy on this machine; another address is somebody else.
    assert_eq!(allowed(&server, &from("127.0.0.2"), claims(10)).await, 3);
    assert_eq!(allowed(&server, &from("127.0.0.1"), claims(10)).await, 10);
    // What a client has claimed to the proxy stands left of what the proxy has seen.
    let lies = (0..10).map(|n| format!("203.0.113.{n}, 192.0.2.1"));
    assert_eq!(allowed(&server, &from("127.0.0.1"), lies).await, 3);
    let named = Server::start_with(on, trusting("127.0.0.3, 10.0.0.0/8")).await;
    assert_eq!(allowed(&named, &from("127.0.0.1"), claims(10)).await, 3);
    let chain = (0..10).map(|n| format!("203.0.113.{n}, 192.0.2.1, 10.1.2.3, 10.3.2.1"));
    assert_eq!(allowed(&named, &from("127.0.0.3"), chain).await, 3);
    let nobody = Server::start_with(on, trusting("none")).await;
    assert_eq!(allowed(&nobody, &from("127.0.0.1"), claims(10)).await, 3);
}

async fn a_number_still_trusts_every_peer(on: Backend) {
    let server = Server::start_with(on, trusting("1")).await;
    assert_eq!(allowed(&server, &from("127.0.0.2"), claims(10)).await, 10);
    assert_eq!(allowed(&server, &from("127.0.0.2"), (0..10).map(|n| format!("203.0.113.{n}, 192.0.2.1"))).await, 3);
    let zero = Server::start_with(on, trusting("0")).await;
    assert_eq!(allowed(&zero, &from("127.0.0.1"), claims(10)).await, 3);
}

async fn an_ipv6_network_is_counted_as_a_whole(on: Backend) {
    let server = Server::start_with(on, limited).await;
    let proxy = from("127.0.0.1");
    // One /64, one customer.
    assert_eq!(allowed(&server, &proxy, (0..10).map(|n| format!("2001:db8:1::{n:x}"))).await, 3);
    // Each /64 of a /48 in turn: eight times as much for all of them.
    assert_eq!(allowed(&server, &proxy, (0..40).map(|n| format!("2001:db8:2:{n:x}::1"))).await, 24);
    assert_eq!(allowed(&server, &proxy, ["2001:db8:3::1".to_owned()]).await, 1, "another network");
    // What one address is refused is not taken from its neighbours.
    assert_eq!(allowed(&server, &proxy, (0..40).map(|_| "2001:db8:4::1".to_owned())).await, 3);
    assert_eq!(allowed(&server, &proxy, ["2001:db8:4:1::1".to_owned()]).await, 1);
    server.clock.advance_ms(15 * 60_000);
    assert_eq!(allowed(&server, &proxy, ["2001:db8:2::1".to_owned()]).await, 1, "a quarter of an hour later");
}

async fn going_round_among_addresses_resets_nobody(on: Backend) {
    let server = Server::start_with(on, limited).await;
    let proxy = from("127.0.0.1");
    let mine = || "192.0.2.1".to_owned();
    assert_eq!(allowed(&server, &proxy, (0..10).map(|_| mine())).await, 3);
    // More than were remembered before.
    assert!(allowed(&server, &proxy, claims(5_500)).await > 5_000);
    assert_eq!(allowed(&server, &proxy, [mine()]).await, 0);
}
