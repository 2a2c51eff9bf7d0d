//! A mail in the form in which mail servers and mail programs take it.

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message};
use url::Host;

use super::{MailConfigError, Rendered, SendError};

/// The sender that the configuration names.
pub(super) fn sender(from: &str) -> Result<Mailbox, MailConfigError> {
    let Mailbox { name, email } =
        from.parse().ok().or_else(|| plain(from)).ok_or_else(|| MailConfigError::From(from.to_owned()))?;
    Ok(Mailbox::new(name, in_ascii(&email)))
}

/// A name that is not quoted although it should be, as other programs take it: `Sync & Co. <a@b.example>`.
fn plain(from: &str) -> Option<Mailbox> {
    let (name, address) = from.trim().strip_suffix('>')?.rsplit_once('<')?;
    let name = name.trim().trim_matches('"');
    Some(Mailbox::new((!name.is_empty()).then(|| name.to_owned()), address.trim().parse().ok()?))
}

/// With an international domain in its ASCII form, which every mail server takes.
fn in_ascii(address: &Address) -> Address {
    match Host::parse(address.domain()) {
        Ok(Host::Domain(domain)) => Address::new_dangerous(address.user(), domain),
        // An IP address stays.
        _ => address.clone(),
    }
}

/// A message with a text and an HTML part.
pub(super) fn build(from: &Mailbox, to: &str, mail: &Rendered) -> Result<Message, SendError> {
    let to = to.parse::<Address>().map_err(|_| SendError::Permanent("the address is not usable".to_owned()))?;
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    Message::builder()
        // The same whenever the mail is tried again.
        .message_id(Some(format!("<{}@{}>", mail.id, from.email.domain())))
        .from(from.clone())
        .to(Mailbox::new(None, in_ascii(&to)))
        .subject(mail.subject)
        // Nobody's absence is to be answered with.
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
        .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
        .map_err(|_| SendError::Permanent("the message can't be built".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn mail() -> Rendered {
        Rendered { id: Uuid::from_u128(7), subject: "S", text: "plain words".into(), html: "<p>rich words</p>".into() }
    }

    fn raw(from: &str, to: &str) -> String {
        let from = sender(from).expect("a sender");
        String::from_utf8(build(&from, to, &mail()).expect("a message").formatted()).expect("text")
    }

    #[test]
    fn a_message_has_sender_receiver_and_two_parts() {
        let text = raw("\"SuperSync\" <noreply@example.com>", "a@b.co");
        for part in [
            "From: SuperSync <noreply@example.com>",
            "To: a@b.co",
            "plain words",
            "<p>rich words</p>",
            "Message-ID: <00000000-0000-0000-0000-000000000007@example.com>",
            "Auto-Submitted: auto-generated",
            "Date: ",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let from = sender("a@b.co").expect("a sender");
        assert!(matches!(build(&from, "a b", &mail()), Err(SendError::Permanent(_))));
        assert!(matches!(sender("nobody"), Err(MailConfigError::From(_))));
    }

    #[test]
    fn international_domains_are_written_in_ascii() {
        let text = raw("Büro <post@bücher.example>", "a@münchen.example");
        assert!(text.is_ascii() && text.contains("<post@xn--bcher-kva.example>"), "{text}");
        assert!(
            text.contains("To: a@xn--mnchen-3ya.example") && text.contains("@xn--bcher-kva.example>\r\n"),
            "{text}"
        );
    }

    #[test]
    fn names_need_no_quotes() {
        for from in ["Sync & Co. <a@b.co>", "\"Sync & Co.\" <a@b.co>", "Sync, Inc. <a@b.co>", "<a@b.co>", "a@b.co"] {
            assert_eq!(sender(from).expect(from).email.to_string(), "a@b.co");
        }
        assert_eq!(sender("Sync & Co. <a@b.co>").expect("a sender").name.as_deref(), Some("Sync & Co."));
    }
}
