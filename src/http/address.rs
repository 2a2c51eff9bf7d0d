//! Which address a request comes from, as far as rate limits care.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::state::AppState;

/// The other end of the connection; the accept loop puts it into each request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address: the `X-Forwarded-For` entry that the outermost of `trusted_proxies` proxies wrote, else the
/// peer. Entries further left are whatever the client claims.
#[must_use]
pub fn client(headers: &HeaderMap, peer: IpAddr, trusted_proxies: usize) -> IpAddr {
    let Some(hops_beyond_peer) = trusted_proxies.checked_sub(1) else { return peer.to_canonical() };
    let mut entry = None;
    let values = headers.get_all(FORWARDED_FOR);
    let texts: Vec<&str> = values.iter().filter_map(|value| value.to_str().ok()).collect();
    for (hop, text) in texts.iter().rev().flat_map(|text| text.rsplit(',')).enumerate() {
        match parse(text) {
            Some(address) => entry = Some(address),
            // Beyond something unreadable nothing can be believed.
            None => break,
        }
        if hop == hops_beyond_peer {
            break;
        }
    }
    entry.unwrap_or(peer).to_canonical()
}

/// The client's address as far as the operator's settings let it be known; `None` for a request that came through no
/// socket.
#[must_use]
pub fn of(parts: &Parts, state: &AppState) -> Option<IpAddr> {
    let peer = parts.extensions.get::<Peer>()?;
    Some(client(&parts.headers, peer.0, state.config.trusted_proxies))
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

/// The address under which requests are counted: an IPv6 customer owns a whole /64.
#[must_use]
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn from(forwarded: &[&str], trusted: usize) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        client(&headers, "10.0.0.1".parse().unwrap(), trusted).to_string()
    }

    #[test]
    fn without_trusted_proxies_only_the_peer_counts() {
        assert_eq!(from(&["1.1.1.1"], 0), "10.0.0.1");
    }

    #[test]
    fn the_last_entry_is_believed_with_one_proxy() {
        assert_eq!(from(&["6.6.6.6, 1.1.1.1"], 1), "1.1.1.1");
        assert_eq!(from(&["6.6.6.6", "1.1.1.1"], 1), "1.1.1.1");
        assert_eq!(from(&[], 1), "10.0.0.1");
        assert_eq!(from(&["nonsense"], 1), "10.0.0.1");
    }

    #[test]
    fn each_further_proxy_moves_one_entry_to_the_left() {
        assert_eq!(from(&["6.6.6.6, 1.1.1.1, 2.2.2.2"], 2), "1.1.1.1");
        assert_eq!(from(&["1.1.1.1"], 3), "1.1.1.1");
        assert_eq!(from(&["1.1.1.1, unknown, 2.2.2.2"], 3), "2.2.2.2");
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        assert_eq!(from(&["1.1.1.1:4711"], 1), "1.1.1.1");
        assert_eq!(from(&["[2001:db8::1]:4711"], 1), "2001:db8::1");
        assert_eq!(from(&["::ffff:1.1.1.1"], 1), "1.1.1.1");
    }

    #[test]
    fn ipv6_is_counted_by_its_first_half() {
        let key = |text: &str| counted(text.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("192.0.2.7"), "192.0.2.7");
        assert_eq!(key("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
