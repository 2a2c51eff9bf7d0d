//! A mail in the form in which mail servers and mail programs take it.

use lettre::Message;
use lettre::message::{Mailbox, MultiPart};

use super::{MailConfigError, Rendered, SendError};

/// The sender that the configuration names.
pub(super) fn sender(from: &str) -> Result<Mailbox, MailConfigError> {
    from.parse().map_err(|_| MailConfigError::From(from.to_owned()))
}

/// A message with a text and an HTML part.
pub(super) fn build(from: &Mailbox, to: &str, mail: &Rendered) -> Result<Message, SendError> {
    let to = to.parse::<lettre::Address>().map_err(|_| SendError::Permanent("the address is not usable".to_owned()))?;
    Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .subject(mail.subject)
        .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
        .map_err(|_| SendError::Permanent("the message can't be built".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_sender_receiver_and_two_parts() {
        let from = sender("\"SuperSync\" <noreply@example.com>").unwrap();
        let mail = Rendered { subject: "S", text: "plain words".into(), html: "<p>rich words</p>".into() };
        let raw = String::from_utf8(build(&from, "a@b.co", &mail).unwrap().formatted()).unwrap();
        for part in ["From: SuperSync <noreply@example.com>", "To: a@b.co", "plain words", "<p>rich words</p>"] {
            assert!(raw.contains(part), "{part} in {raw}");
        }
        assert!(matches!(build(&from, "a b", &mail), Err(SendError::Permanent(_))));
        assert!(matches!(sender("nobody"), Err(MailConfigError::From(_))));
    }
}
