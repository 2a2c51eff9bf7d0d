//! Which address a request comes from, as far as rate limits care.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::connection_limits::Connection;
use crate::config::TrustedProxies;

/// The other end of the connection; the accept loop puts it into each request's extensions.
#[derive(Clone, Debug)]
pub struct Peer(pub IpAddr, pub(super) Option<Arc<Connection>>);

impl Peer {
    /// For a request that came through no connection of this server's own.
    #[must_use]
    pub const fn at(address: IpAddr) -> Self {
        Self(address, None)
    }
}

const FORWARDED_FOR: &str = "x-forwarded-for";
/// No request passes more proxies than this.
const MAX_HOPS: usize = 32;

/// The client's address. While the one that speaks is a trusted proxy, it is the one that it has entered last into
/// `X-Forwarded-For`; entries further left are whatever the client claims.
#[must_use]
pub fn client(headers: &HeaderMap, peer: IpAddr, trusted: &TrustedProxies) -> IpAddr {
    let mut client = peer.to_canonical();
    let values = headers.get_all(FORWARDED_FOR).iter().rev().filter_map(|value| value.to_str().ok());
    for (hop, text) in values.flat_map(|text| text.rsplit(',')).take(MAX_HOPS).enumerate() {
        let is_believed = match trusted {
            TrustedProxies::Networks(_) => trusted.trusts(client),
            TrustedProxies::Hops(hops) => hop < *hops,
        };
        if hop == 0 && !is_believed {
            tell_of_stranger(client);
        }
        // Beyond something unreadable nothing can be believed.
        let Some(entry) = parse(text).filter(|_| is_believed) else { break };
        client = entry.to_canonical();
    }
    client
}

/// Says once that something in a private network, which is probably the operator's proxy, is not believed.
fn tell_of_stranger(peer: IpAddr) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let is_private = match peer {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    };
    if is_private && !TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            %peer,
            "X-Forwarded-For is not believed: who sends it is not in TRUSTED_PROXIES. If that is the reverse proxy, add it, or all \
             users share its address and its rate limits"
        );
    }
}

/// The client's address as far as the operator's settings let it be known; `None` for a request that came through no
/// socket.
#[must_use]
pub fn of(parts: &Parts, trusted: &TrustedProxies) -> Option<IpAddr> {
    let peer = parts.extensions.get::<Peer>()?;
    Some(client(&parts.headers, peer.0, trusted))
}

fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse().ok();
    }
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    host.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn from_peer(peer: &str, forwarded: &[&str], trusted: &str) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        client(&headers, peer.parse().unwrap(), &TrustedProxies::parse(trusted).unwrap()).to_string()
    }

    fn from(forwarded: &[&str], trusted: &str) -> String {
        from_peer("10.0.0.1", forwarded, trusted)
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        for nobody in ["0", "none", "127.0.0.1, ::1", "10.0.0.2, 11.0.0.0/8", "fc00::/7"] {
            assert_eq!(from(&["1.1.1.1"], nobody), "10.0.0.1", "{nobody}");
        }
        assert_eq!(from(&["1.1.1.1"], "10.0.0.1"), "1.1.1.1");
        assert_eq!(from_peer("::ffff:10.0.0.1", &["1.1.1.1"], "10.0.0.0/8"), "1.1.1.1");
        assert_eq!(from_peer("2001:db8::1", &["1.1.1.1"], "2001:db8::/64"), "1.1.1.1");
    }

    #[test]
    fn what_a_client_claims_does_not_count() {
        assert_eq!(from(&["6.6.6.6, 1.1.1.1"], "10.0.0.1"), "1.1.1.1");
        assert_eq!(from(&["6.6.6.6", "1.1.1.1"], "10.0.0.1"), "1.1.1.1");
        assert_eq!(from(&["10.0.0.1, 6.6.6.6, 1.1.1.1"], "private"), "1.1.1.1");
        assert_eq!(from(&["6.6.6.6, 1.1.1.1, 10.0.0.9, 192.168.0.1"], "private"), "1.1.1.1");
        assert_eq!(from(&["6.6.6.6, unknown, 10.0.0.9"], "private"), "10.0.0.9");
        assert_eq!(from(&["6.6.6.6, , 10.0.0.9"], "private"), "10.0.0.9");
    }

    #[test]
    fn who_is_in_a_trusted_network_alone_is_who_was_entered_first() {
        assert_eq!(from(&["10.0.0.7, 10.0.0.9"], "private"), "10.0.0.7");
        assert_eq!(from(&[], "private"), "10.0.0.1");
        assert_eq!(from(&["nonsense"], "private"), "10.0.0.1");
        let long = vec!["10.0.0.2"; 1000].join(",");
        assert_eq!(from(&["1.1.1.1", &long], "private"), "10.0.0.2", "nobody looks for ever");
    }

    #[test]
    fn a_number_trusts_that_many_entries_from_any_peer() {
        assert_eq!(from(&["6.6.6.6, 1.1.1.1"], "1"), "1.1.1.1");
        assert_eq!(from(&["6.6.6.6", "1.1.1.1"], "1"), "1.1.1.1");
        assert_eq!(from(&["6.6.6.6, 1.1.1.1, 2.2.2.2"], "2"), "1.1.1.1");
        assert_eq!(from(&["1.1.1.1"], "3"), "1.1.1.1");
        assert_eq!(from(&["1.1.1.1, unknown, 2.2.2.2"], "3"), "2.2.2.2");
        assert_eq!(from(&[], "1"), "10.0.0.1");
        assert_eq!(from(&["nonsense"], "1"), "10.0.0.1");
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        assert_eq!(from(&["1.1.1.1:4711"], "private"), "1.1.1.1");
        assert_eq!(from(&["[2001:db8::1]:4711"], "private"), "2001:db8::1");
        assert_eq!(from(&["::ffff:1.1.1.1"], "private"), "1.1.1.1");
        assert_eq!(from(&["1.1.1.1, ::ffff:10.0.0.9"], "private"), "1.1.1.1");
    }
}
