//! Mail through an SMTP server, encrypted with rustls.

use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use secrecy::ExposeSecret;

use super::message::{build, sender};
use super::{MailConfigError, Rendered, SendError, Transport};
use crate::config;

/// How long one exchange with the mail server may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Smtp {
    /// With `implicit_tls`, TLS from the first byte. Otherwise STARTTLS: required where a password is sent to another
    /// machine, since whoever can take the offer out of the conversation could read it otherwise; else used when
    /// offered.
    pub(super) fn new(settings: &config::Smtp) -> Result<Self, MailConfigError> {
        let from = sender(&settings.from)?;
        let tls = tls_parameters(settings)?;
        let tls = match (settings.implicit_tls, requires_tls(settings)) {
            (true, _) => Tls::Wrapper(tls),
            (false, true) => Tls::Required(tls),
            (false, false) => Tls::Opportunistic(tls),
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
}

/// Whether the password may not leave without TLS: whenever it goes to another machine.
pub(super) fn requires_tls(settings: &config::Smtp) -> bool {
    settings.password.is_some() && !matches!(settings.host.as_str(), "localhost" | "127.0.0.1" | "::1")
}

/// TLS under the mail server's name, with the roots that are compiled in.
pub(super) fn tls_parameters(settings: &config::Smtp) -> Result<TlsParameters, MailConfigError> {
    TlsParameters::new(settings.host.clone()).map_err(|error| MailConfigError::Tls(error.to_string()))
}

#[async_trait]
impl Transport for Smtp {
    async fn send(&self, to: &str, mail: &Rendered) -> Result<(), SendError> {
        let message = build(&self.from, to, mail)?;
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
}
