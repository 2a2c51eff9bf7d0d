//! Mail through an SMTP server, encrypted with rustls.

use std::time::Duration;

use async_trait::async_trait;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::ExposeSecret;

use super::{MailConfigError, Rendered, SendError, Transport};
use crate::config;

/// How long one exchange with the mail server may take.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Smtp {
    /// With `implicit_tls`, TLS from the first byte. Otherwise STARTTLS: required where a password is sent to another
    /// machine, since whoever can take the offer out of the conversation could read it otherwise; else used when
    /// offered.
    pub(super) fn new(settings: &config::Smtp) -> Result<Self, MailConfigError> {
        let from = settings.from.parse().map_err(|_| MailConfigError::From(settings.from.clone()))?;
        let tls = || TlsParameters::new(settings.host.clone()).map_err(|e| MailConfigError::Tls(e.to_string()));
        let is_local = matches!(settings.host.as_str(), "localhost" | "127.0.0.1" | "::1");
        let tls = match (settings.implicit_tls, settings.password.is_some() && !is_local) {
            (true, _) => Tls::Wrapper(tls()?),
            (false, true) => Tls::Required(tls()?),
            (false, false) => Tls::Opportunistic(tls()?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&settings.host)
            .port(settings.port)
            .tls(tls)
            .timeout(Some(TIMEOUT));
        if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
            builder = builder.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
        }
        Ok(Self { transport: builder.build(), from })
    }

    fn message(&self, to: &str, mail: &Rendered) -> Result<Message, SendError> {
        let to =
            to.parse::<lettre::Address>().map_err(|_| SendError::Permanent("the address is not usable".to_owned()))?;
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(mail.subject)
            .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
            .map_err(|_| SendError::Permanent("the message can't be built".to_owned()))
    }
}

#[async_trait]
impl Transport for Smtp {
    async fn send(&self, to: &str, mail: &Rendered) -> Result<(), SendError> {
        let message = self.message(to, mail)?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_permanent() => Err(SendError::Permanent(describe(&e))),
            Err(e) => Err(SendError::Passing(describe(&e))),
        }
    }
}

/// What went wrong, without the mail server's own words.
fn describe(error: &lettre::transport::smtp::Error) -> String {
    match error.status() {
        Some(code) => format!("SMTP reply {code}"),
        None if error.is_timeout() => "time-out".to_owned(),
        None if error.is_tls() => "TLS failure".to_owned(),
        None if error.is_response() => "reply not understood".to_owned(),
        None if error.is_client() => "the mail server lacks something that is needed (TLS, sign-in)".to_owned(),
        None => "no connection".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> config::Smtp {
        config::Smtp {
            host: "mail.example.org".into(),
            port: 587,
            implicit_tls: false,
            user: Some("u".into()),
            password: Some("p".to_owned().into()),
            from: "\"SuperSync\" <noreply@example.com>".into(),
        }
    }

    #[test]
    fn an_unusable_sender_is_found_at_start_up() {
        let settings = config::Smtp { from: "nobody".into(), ..settings() };
        assert!(matches!(Smtp::new(&settings), Err(MailConfigError::From(_))));
    }

    #[test]
    fn a_message_has_sender_receiver_and_two_parts() {
        let smtp = Smtp::new(&settings()).unwrap();
        let mail = Rendered { subject: "S", text: "plain words".into(), html: "<p>rich words</p>".into() };
        let raw = String::from_utf8(smtp.message("a@b.co", &mail).unwrap().formatted()).unwrap();
        for part in ["From: SuperSync <noreply@example.com>", "To: a@b.co", "plain words", "<p>rich words</p>"] {
            assert!(raw.contains(part), "{part} in {raw}");
        }
        assert!(matches!(smtp.message("a b", &mail), Err(SendError::Permanent(_))));
    }
}
