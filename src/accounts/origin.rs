//! Where a session comes from: how somebody signed in, with which program, from which part of the network. Kept so that
//! people recognise their own devices, and no more exactly than that needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::language::Language;
use crate::store::SessionMethod;

/// The longest stored name of a session, in characters.
pub const MAX_SESSION_NAME_CHARS: usize = 64;
/// How much of a user agent is stored, in characters.
const MAX_USER_AGENT_CHARS: usize = 256;

/// Where a session comes from.
#[derive(Clone, Debug)]
pub struct SessionOrigin {
    /// How somebody signed in.
    pub method: SessionMethod,
    /// What the program calls itself.
    pub user_agent: Option<String>,
    /// The client's address.
    pub address: Option<IpAddr>,
}

/// The origin of a change, for the security log and mails.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The method of authentication, if more than the session.
    pub by: Option<SessionMethod>,
    /// What the program calls itself.
    pub user_agent: Option<String>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The language of mails about the change.
    pub language: Language,
}

impl Asker {
    /// The operator, at the command line or in the browser.
    #[must_use]
    pub fn operator() -> Self {
        Self { by: Some(SessionMethod::Operator), ..Self::default() }
    }

    /// The same with this method of authentication.
    #[must_use]
    pub fn by(&self, method: SessionMethod) -> Self {
        Self { by: Some(method), ..self.clone() }
    }

    /// The origin of a new session.
    pub(super) fn opening(origin: &SessionOrigin) -> Self {
        Self {
            by: Some(origin.method),
            user_agent: origin.user_agent.clone(),
            address: origin.address,
            language: Language::default(),
        }
    }

    /// Browser and system, by the user agent.
    pub(super) fn device(&self) -> Option<String> {
        self.user_agent.as_deref().map(device_name)
    }

    /// The address as stored.
    pub(super) fn address_prefix(&self) -> Option<String> {
        self.address.map(address_prefix)
    }
}

impl SessionOrigin {
    /// The operator's command line.
    #[must_use]
    pub const fn operator() -> Self {
        Self { method: SessionMethod::Operator, user_agent: None, address: None }
    }

    /// What the session is called until its owner says otherwise.
    pub(super) fn name(&self) -> String {
        match &self.user_agent {
            Some(user_agent) => device_name(user_agent),
            None if self.method == SessionMethod::Operator => "Command line".to_owned(),
            None => UNKNOWN.to_owned(),
        }
    }

    /// The user agent as stored: without control characters, shortened.
    pub(super) fn stored_user_agent(&self) -> String {
        let text = self.user_agent.as_deref().unwrap_or_default();
        text.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT_CHARS).collect()
    }

    /// The address as stored.
    pub(super) fn address_prefix(&self) -> Option<String> {
        self.address.map(address_prefix)
    }
}

/// The part of an address that says roughly where it is: the first 24 bits of IPv4, the first 48 of IPv6.
#[must_use]
pub fn address_prefix(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("{}/24", Ipv4Addr::from_bits(v4.to_bits() & 0xFFFF_FF00)),
        IpAddr::V6(v6) => format!("{}/48", Ipv6Addr::from_bits(v6.to_bits() & !(u128::MAX >> 48))),
    }
}

const UNKNOWN: &str = "Unknown device";

/// Programs by what their user agents hold. Most claim to be several others too; the first that fits counts.
const PROGRAMS: [(&str, &str); 16] = [
    ("superproductivity", "Super Productivity"),
    ("electron/", "Desktop app"),
    ("edg/", "Edge"),
    ("edga/", "Edge"),
    ("edgios/", "Edge"),
    ("opr/", "Opera"),
    ("samsungbrowser/", "Samsung Internet"),
    ("vivaldi/", "Vivaldi"),
    ("firefox/", "Firefox"),
    ("fxios/", "Firefox"),
    ("crios/", "Chrome"),
    ("chromium/", "Chromium"),
    ("chrome/", "Chrome"),
    ("safari/", "Safari"),
    ("curl/", "curl"),
    ("okhttp/", "Android app"),
];

const SYSTEMS: [(&str, &str); 8] = [
    ("android", "Android"),
    ("iphone", "iPhone"),
    ("ipad", "iPad"),
    ("windows", "Windows"),
    ("cros ", "ChromeOS"),
    ("macintosh", "macOS"),
    ("mac os x", "macOS"),
    ("linux", "Linux"),
];

/// `Firefox on Linux`, or as much of it as the user agent tells.
fn device_name(user_agent: &str) -> String {
    let text: String = user_agent.chars().take(2 * MAX_USER_AGENT_CHARS).collect::<String>().to_ascii_lowercase();
    let find =
        |table: &[(&str, &'static str)]| table.iter().find(|(part, _)| text.contains(part)).map(|(_, name)| *name);
    match (find(&PROGRAMS), find(&SYSTEMS)) {
        (Some(program), Some(system)) => format!("{program} on {system}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) => UNKNOWN.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(user_agent: &str) -> SessionOrigin {
        SessionOrigin { method: SessionMethod::Password, user_agent: Some(user_agent.to_owned()), address: None }
    }

    #[test]
    fn what_says_nothing_is_unknown() {
        for nothing in ["", "x", "\u{0}\u{1}"] {
            assert_eq!(from(nothing).name(), "Unknown device", "{nothing:?}");
        }
        let none = SessionOrigin { user_agent: None, ..from("") };
        assert_eq!((none.name().as_str(), none.stored_user_agent().as_str()), ("Unknown device", ""));
        assert_eq!(SessionOrigin::operator().name(), "Command line");
    }

    #[test]
    fn a_user_agent_is_stored_short_and_without_control_characters() {
        assert_eq!(from("a\r\nb\u{7f}c").stored_user_agent(), "abc");
        assert_eq!(from(&"ä".repeat(1000)).stored_user_agent().chars().count(), MAX_USER_AGENT_CHARS);
    }

    #[test]
    fn browsers_and_systems_are_recognised() {
        let cases = [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36 Edg/140.0",
                "Edge on Windows",
            ),
            (
                "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Mobile Safari/537.36",
                "Chrome on Android",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15",
                "Safari on macOS",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0 Mobile Safari/604.1",
                "Chrome on iPhone",
            ),
            ("Mozilla/5.0 (X11; Linux) superProductivity/14 Chrome/140 Electron/38", "Super Productivity on Linux"),
            ("curl/8.5.0", "curl"),
            ("Something (Windows)", "Windows"),
        ];
        for (user_agent, name) in cases {
            assert_eq!(from(user_agent).name(), name);
        }
    }

    #[test]
    fn addresses_are_cut() {
        let prefix = |text: &str| address_prefix(text.parse().unwrap());
        assert_eq!(prefix("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(prefix("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(prefix("2001:db8:1:2:3:4:5:6"), "2001:db8:1::/48");
    }
}
