//! Addresses as they may be shown: without what lets anybody in.

/// The text with the credentials and the parameters of every address in it masked.
#[must_use]
pub fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for word in text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '(' | ')' | '<' | '>')) {
        let mut rest = word;
        while let Some((scheme, address)) = rest.split_once("://") {
            shown.push_str(scheme);
            shown.push_str("://");
            // A list may go on with a further address.
            let end = address.find("://").and_then(|next| address[..next].rfind(',')).unwrap_or(address.len());
            mask_one(&mut shown, &address[..end]);
            rest = &address[end..];
        }
        shown.push_str(rest);
    }
    shown
}

/// What follows `://`.
fn mask_one(shown: &mut String, address: &str) {
    let (place, parameters) = match address.find(['?', '#']) {
        Some(at) => address.split_at(at),
        None => (address, ""),
    };
    // A password may hold a slash that was not escaped.
    match place.rsplit_once('@') {
        Some((_, host)) => {
            shown.push_str("***@");
            shown.push_str(host);
        }
        None => shown.push_str(place),
    }
    if !parameters.is_empty() {
        shown.push_str(&parameters[..1]);
        shown.push_str("***");
        shown.extend(
            parameters.chars().next_back().filter(|last| !last.is_alphanumeric() && "\"')> \n\t".contains(*last)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_parameters_are_not_shown() {
        for (text, shown) in [
            ("https://sync.example.org/path", "https://sync.example.org/path"),
            ("https://user:secret@sync.example.org:8443/x", "https://***@sync.example.org:8443/x"),
            ("https://token@sync.example.org", "https://***@sync.example.org"),
            ("https://u:se/cr@et@host/x", "https://***@host/x"),
            ("http://host:4318/v1?api-key=secret&x=1#y", "http://host:4318/v1?***"),
            ("http://host/#secret", "http://host/#***"),
            ("https://a:secret@b.co,https://*.c.org,*", "https://***@b.co,https://*.c.org,*"),
            ("no answer from (http://u:secret@h/?k=secret), sorry", "no answer from (http://***@h/?***), sorry"),
            ("\"Name\" <a@b.co>", "\"Name\" <a@b.co>"),
            ("", ""),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
