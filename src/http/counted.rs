//! The addresses under which requests and connections are counted.

use std::net::IpAddr;

use crate::config::network_of;

/// The address under which requests are counted: an IPv6 customer owns a whole /64.
#[must_use]
pub fn address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v6 @ IpAddr::V6(_) => network_of(v6, 64),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The network to which an IPv6 address belongs at the least: who has one /64 often has 65,536 of them.
#[must_use]
pub fn network(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        v6 @ IpAddr::V6(_) => Some(network_of(v6, 48)),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_counted_by_its_first_half() {
        let key = |text: &str| address(text.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("192.0.2.7"), "192.0.2.7");
        assert_eq!(key("::ffff:192.0.2.7"), "192.0.2.7");
        let network = |text: &str| network(text.parse().unwrap()).map(|network| network.to_string());
        assert_eq!(network("2001:db8:1:2:3:4:5:6").as_deref(), Some("2001:db8:1::"));
        assert_eq!((network("192.0.2.7"), network("::ffff:192.0.2.7")), (None, None));
    }
}
