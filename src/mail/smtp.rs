//! Mail through an SMTP server, encrypted with rustls.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::transport::smtp::client::{Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::message::{build, sender};
use super::probe::{Fault, hand_over};
use super::{MailConfigError, Rendered, SendError, Transport};
use crate::config;

/// How long finding the mail server and connecting to it may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Smtp {
    settings: config::Smtp,
    from: Mailbox,
}

impl Smtp {
    /// With `implicit_tls`, TLS from the first byte. Otherwise STARTTLS: required where a password is sent to another
    /// machine, since whoever can take the offer out of the conversation could read it otherwise; else used when
    /// offered.
    pub(super) fn new(settings: &config::Smtp) -> Result<Self, MailConfigError> {
        let from = sender(&settings.from)?;
        tls_parameters(settings)?;
        Ok(Self { settings: settings.clone(), from })
    }
}

/// Whether the password may not leave without TLS: whenever it goes to another machine.
pub(super) fn requires_tls(settings: &config::Smtp) -> bool {
    settings.password.is_some() && !matches!(settings.host.as_str(), "localhost" | "127.0.0.1" | "::1")
}

/// TLS under the mail server's name, with the roots that are compiled in and those of the operator.
pub(super) fn tls_parameters(settings: &config::Smtp) -> Result<TlsParameters, MailConfigError> {
    let mut builder = TlsParameters::builder(settings.host.clone());
    if let Some(pem) = &settings.authorities {
        // It takes a file without any, too.
        if CertificateDer::pem_slice_iter(pem).next().is_none() {
            return Err(MailConfigError::Authorities("it holds no certificate".to_owned()));
        }
        let authorities =
            Certificate::from_pem(pem).map_err(|error| MailConfigError::Authorities(error.to_string()))?;
        builder = builder.add_root_certificate(authorities);
    }
    builder.build().map_err(|error| MailConfigError::Tls(error.to_string()))
}

/// How this server introduces itself. Strict mail servers refuse the bare names that machines have, so it is the host of
/// `PUBLIC_URL`, or else the address by which it reaches the mail server.
pub(super) fn hello(settings: &config::Smtp, server: SocketAddr) -> ClientId {
    if let Some(name) = &settings.public_host {
        return ClientId::Domain(name.clone());
    }
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Sends nothing: the system only chooses the way.
    let own = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(server).and_then(|()| socket.local_addr()));
    match own.map(|address| address.ip().to_canonical()) {
        Ok(IpAddr::V4(address)) => ClientId::Ipv4(address),
        Ok(IpAddr::V6(address)) => ClientId::Ipv6(address),
        // Then the mail server can't be reached either.
        Err(_) => ClientId::Ipv4(Ipv4Addr::LOCALHOST),
    }
}

#[async_trait]
impl Transport for Smtp {
    async fn send(&self, to: &str, mail: &Rendered) -> Result<(), SendError> {
        let message = build(&self.from, to, mail)?;
        hand_over(&self.settings, &self.from, &message, &mut |_, _| {}).await.map_err(|trouble| match trouble.fault {
            Fault::Passing => SendError::Passing(trouble.for_log()),
            Fault::Settings => SendError::Settings(trouble.for_log()),
            Fault::Permanent => SendError::Permanent(trouble.for_log()),
        })
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
            public_host: None,
            authorities: None,
        }
    }

    #[test]
    fn unusable_settings_are_found_at_start_up() {
        let nobody = config::Smtp { from: "nobody".into(), ..settings() };
        assert!(matches!(Smtp::new(&nobody), Err(MailConfigError::From(_))));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for authorities in ["", "no certificate", broken] {
            let without = config::Smtp { authorities: Some(authorities.into()), ..settings() };
            assert!(Smtp::new(&without).is_err(), "{authorities}");
        }
    }

    #[test]
    fn a_server_introduces_itself_by_a_name_or_an_address_that_strict_servers_take() {
        let named = config::Smtp { public_host: Some("sync.example.org".into()), ..settings() };
        let server = ([127, 0, 0, 1], 25).into();
        assert_eq!(hello(&named, server).to_string(), "sync.example.org");
        assert_eq!(hello(&settings(), server).to_string(), "[127.0.0.1]");
        assert_eq!(hello(&settings(), (Ipv6Addr::LOCALHOST, 25).into()).to_string(), "[IPv6:::1]");
    }
}
