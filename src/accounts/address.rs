//! E-mail addresses: which ones are accepted, in which form they are kept, and which may register.

/// The longest accepted address, in characters (the longest that mail can carry).
pub const MAX_ADDRESS_CHARS: usize = 254;

/// An accepted e-mail address in lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the accepted form (accounts contract, section 1.4).
    #[error("Invalid email format")]
    Form,
    /// Longer than 254 characters.
    #[error("Email must be at most 254 characters long")]
    TooLong,
}

impl Address {
    /// Accepts what `^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$`
    /// accepts, up to 254 characters; nothing is trimmed (accounts contract, section 1.4).
    ///
    /// # Errors
    /// When the text is no such address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.split_once('@').ok_or(AddressError::Form)?;
        if !is_local_part(local) || !is_domain(domain) {
            return Err(AddressError::Form);
        }
        // Only ASCII gets here, so bytes are characters.
        if text.len() > MAX_ADDRESS_CHARS {
            return Err(AddressError::TooLong);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The address in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the allow-list lets the address register: listed itself, or as `*@domain` with exactly its domain. An
    /// empty list allows everybody.
    #[must_use]
    pub fn is_allowed_by(&self, list: &[String]) -> bool {
        let domain = self.0.split_once('@').map(|(_, domain)| domain);
        list.is_empty()
            || list.iter().any(|entry| match entry.strip_prefix("*@") {
                Some(allowed) => domain.is_some_and(|domain| domain.eq_ignore_ascii_case(allowed)),
                None => self.0.eq_ignore_ascii_case(entry),
            })
    }
}

/// Never shows the address: a value that gets into a log line by mistake must not reveal it.
impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(…)")
    }
}

fn is_local_part(local: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'\'' | b'+' | b'-' | b'.');
    let last = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-');
    local.bytes().all(inner)
        && local.bytes().next_back().is_some_and(last)
        && !local.starts_with('.')
        && !local.contains("..")
}

fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        label.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    domain.rsplit_once('.').is_some_and(|(labels, top)| {
        top.len() >= 2 && top.bytes().all(|b| b.is_ascii_alphabetic()) && labels.split('.').all(is_label)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_pattern_refuses() {
        for text in [
            "",
            "@",
            "a",
            "a@",
            "@b.co",
            "a@localhost",
            " a@b.co",
            "a@b.co ",
            "ü@b.co",
            "a@ü.co",
            ".a@b.co",
            "a.@b.co",
            "a..b@c.de",
            "a@b..co",
            "a@b.c",
            "a@b.c1",
            "a@-b.co",
            "a@b.co.",
            "a@@b.co",
            "a@b@c.de",
            "a b@c.de",
            "a'@b.co",
            "a@b_c.de",
            "a@b.co\n",
            "a@.co",
        ] {
            assert_eq!(Address::parse(text), Err(AddressError::Form), "{text:?}");
        }
        let long = format!("{}@example.com", "a".repeat(243));
        assert_eq!(Address::parse(&long), Err(AddressError::TooLong));
    }

    #[test]
    fn accepts_what_the_pattern_accepts_in_lower_case() {
        for text in ["a@b.co", "test-x@e2e.local", "A.B+c_d-@Sub.Example.COM", "o'neil@b.co", "-@b-.co", "_@1.ab"] {
            assert_eq!(Address::parse(text).unwrap().as_str(), text.to_lowercase(), "{text:?}");
        }
        assert!(Address::parse(&format!("{}@example.com", "a".repeat(242))).is_ok());
    }

    #[test]
    fn the_allow_list_knows_addresses_and_exact_domains() {
        let list = ["me@example.org".to_owned(), "*@example.com".to_owned()];
        let allowed = |text: &str| Address::parse(text).unwrap().is_allowed_by(&list);
        assert!(allowed("ME@example.org"));
        assert!(allowed("x@EXAMPLE.com"));
        assert!(!allowed("you@example.org"));
        assert!(!allowed("x@sub.example.com"));
        assert!(!allowed("x@notexample.com"));
        assert!(Address::parse("x@y.zz").unwrap().is_allowed_by(&[]));
    }
}
