//! Trusted reverse proxies (`TRUSTED_PROXIES`): only their `X-Forwarded-For` counts. Other requests come from the
//! connection's own address, whatever their headers say.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The maximum number of proxies.
const MAX_HOPS: usize = 16;
const LOOPBACK: &str = "127.0.0.1, ::1";
/// Networks not routed on the internet, this machine among them.
const PRIVATE: &str = "127.0.0.0/8, ::1, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7";

/// A network: addresses with a common prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    first: IpAddr,
    /// The length of the prefix, in bits.
    prefix: u32,
}

impl Network {
    /// Parses an address, or one with a slash and a prefix length.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
                (address, Some(digits.then(|| prefix.parse::<u32>().ok()).flatten()?))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return None;
        }
        let canonical = address.to_canonical();
        if canonical.is_ipv4() && address.is_ipv6() {
            // An IPv4-mapped IPv6 address.
            prefix = prefix.checked_sub(96)?;
        }
        Some(Self { first: network_of(canonical, prefix), prefix })
    }

    /// Whether it contains this address; IPv4-mapped ones count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && network_of(address, self.prefix) == self.first
    }

    /// Whether it contains every address.
    const fn is_everything(&self) -> bool {
        self.prefix == 0
    }
}

/// The address with all bits after the prefix cleared.
#[must_use]
pub fn network_of(address: IpAddr, prefix: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.first.is_ipv4() { 32 } else { 128 };
        if self.prefix == whole { self.first.fmt(f) } else { write!(f, "{}/{}", self.first, self.prefix) }
    }
}

/// The trusted reverse proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedProxies {
    /// Those in these networks.
    Networks(Vec<Network>),
    /// This many, at any address. The variable's old meaning: any client that reaches the port is trusted.
    Hops(usize),
}

impl TrustedProxies {
    /// Parses comma-separated networks and keywords, or a number. `None`: neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().filter(|hops| *hops <= MAX_HOPS).map(Self::Hops);
        }
        if text == "none" {
            return Some(Self::Networks(Vec::new()));
        }
        let mut networks = Vec::new();
        for item in text.split(',').map(str::trim) {
            let items = match item {
                "loopback" => LOOPBACK,
                "private" => PRIVATE,
                item => item,
            };
            for item in items.split(", ") {
                networks.push(Network::parse(item)?);
            }
        }
        Some(Self::Networks(networks))
    }

    /// Whether a proxy at this address is trusted.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        match self {
            Self::Networks(networks) => networks.iter().any(|network| network.contains(address)),
            Self::Hops(hops) => *hops > 0,
        }
    }

    /// Whether an address is a listed proxy's; never with a number.
    #[must_use]
    pub fn is_among(&self, address: IpAddr) -> bool {
        matches!(self, Self::Networks(_)) && self.trusts(address)
    }

    /// A warning about a setting that is probably a mistake.
    pub(super) fn warning(&self) -> Option<String> {
        match self {
            Self::Hops(hops) if *hops > 0 => Some(format!(
                "TRUSTED_PROXIES: with {hops}, any client that reaches the port directly can claim any address. List the proxies' \
                 addresses or networks instead: {LOOPBACK} for a proxy on this machine, 10.0.0.0/8 or private for one in a private \
                 network"
            )),
            Self::Networks(networks) if networks.iter().any(Network::is_everything) => Some(
                "TRUSTED_PROXIES: this network contains every address, so every client is trusted; list the proxies only".to_owned(),
            ),
            _ => None,
        }
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hops(hops) => hops.fmt(f),
            Self::Networks(networks) if networks.is_empty() => f.write_str("none"),
            Self::Networks(networks) => {
                let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusts(text: &str, address: &str) -> bool {
        TrustedProxies::parse(text).expect(text).trusts(address.parse().expect("an address"))
    }

    #[test]
    fn networks_have_their_addresses_and_no_others() {
        for (text, inside, outside) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::1"),
            ("10.1.2.3/8", "10.255.255.255", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.1"),
            ("loopback", "::1", "127.0.0.2"),
            ("private", "172.31.255.255", "172.32.0.0"),
            ("private", "fd00::1", "fe80::1"),
            ("192.0.2.1 , ::1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "8.8.8.8", "::8"),
        ] {
            assert!(trusts(text, inside), "{text} has {inside}");
            assert!(!trusts(text, outside), "{text} does not have {outside}");
        }
        assert!(!trusts("none", "127.0.0.1") && !trusts("0", "127.0.0.1") && trusts("1", "8.8.8.8"));
    }

    #[test]
    fn what_is_neither_networks_nor_a_number_is_refused() {
        for text in [
            "-1",
            "17",
            "1.5",
            "all",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "127.0.0.1,",
            ",",
            "1, 127.0.0.1",
            "localhost",
            "none, ::1",
            "::ffff:10.0.0.0/8",
            "fe80::1%eth0",
        ] {
            assert_eq!(TrustedProxies::parse(text), None, "{text}");
        }
    }

    #[test]
    fn settings_that_trust_too_much_warn() {
        let warns = |text: &str| TrustedProxies::parse(text).expect("valid").warning().is_some();
        assert!(warns("1") && warns("16") && warns("::/0") && warns("127.0.0.1, 0.0.0.0/0"));
        assert!(!warns("0") && !warns("none") && !warns("private") && !warns("loopback"));
    }

    #[test]
    fn it_is_shown_as_it_is_understood() {
        for (text, shown) in
            [("2", "2"), ("none", "none"), ("10.1.2.3/8,::1", "10.0.0.0/8, ::1"), ("loopback", "127.0.0.1, ::1")]
        {
            assert_eq!(TrustedProxies::parse(text).expect("valid").to_string(), shown);
        }
    }
}
