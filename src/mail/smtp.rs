//! Mail through an SMTP server, encrypted with rustls, one step at a time: for the queue, and for `supersync mail test`,
//! which shows each step.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::{Address, Message};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::message::{build, sender};
use super::trouble::{Step, Trouble, is_unreached, refused, trouble};
use super::{MailConfigError, Rendered, SendError, Transport};
use crate::config;

/// How long finding the mail server and connecting to it may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long all steps may take together.
const PATIENCE: Duration = Duration::from_secs(90);

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

#[async_trait]
impl Transport for Smtp {
    async fn send(&self, to: &str, mail: &Rendered) -> Result<(), SendError> {
        let message = build(&self.from, to, mail)?;
        let handed_over = hand_over(&self.settings, &self.from, &message, &mut |_, _| {}).await;
        handed_over.map_err(|trouble| trouble.for_mail())
    }
}

/// Whether the password may not leave without TLS: whenever it goes to another machine.
fn requires_tls(settings: &config::Smtp) -> bool {
    settings.password.is_some() && !matches!(settings.host.as_str(), "localhost" | "127.0.0.1" | "::1")
}

/// TLS under the mail server's name, with the roots that are compiled in and those of the operator.
fn tls_parameters(settings: &config::Smtp) -> Result<TlsParameters, MailConfigError> {
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
fn hello(settings: &config::Smtp, server: SocketAddr) -> ClientId {
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

/// Hands one mail over, telling `done` of each step that worked.
///
/// # Errors
/// The first step that did not.
pub async fn send_test(
    settings: &config::Smtp,
    to: &str,
    mail: &Rendered,
    mut done: impl FnMut(Step, &str) + Send,
) -> Result<(), Trouble> {
    let from = sender(&settings.from)?;
    let message = build(&from, to, mail)
        .map_err(|error| trouble(Step::Settings, error, "Give a whole address such as me@example.org."))?;
    hand_over(settings, &from, &message, &mut done).await
}

/// Mail servers that go silent must not hold anybody up.
async fn in_time<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        let said = format!("no answer within {} s", PATIENCE.as_secs());
        Err(trouble(Step::Greeting, said, "Is the mail server overloaded? Is this a mail server's port?"))
    })
}

/// The same with a message.
async fn hand_over(
    settings: &config::Smtp,
    from: &Mailbox,
    message: &Message,
    done: &mut (impl FnMut(Step, &str) + Send),
) -> Result<(), Trouble> {
    let receiver = message.envelope().to().first().cloned().ok_or_else(|| {
        trouble(Step::Settings, "the mail has no receiver", "Give a whole address such as me@example.org.")
    })?;
    in_time(async {
        let mut connection = reach_sender(settings, from, Some(&receiver), done).await?;
        connection.command(Rcpt::new(receiver, Vec::new())).await.map_err(|error| {
            refused(
                Step::Receiver,
                &error,
                "Is the address right? Without SMTP_USER many servers only take mail for their own domains (relaying).",
            )
        })?;
        let not_taken = |error: Error| {
            refused(Step::Message, &error, "The server's words above say why; often a limit or a spam filter.")
        };
        connection.command(Data).await.map_err(not_taken)?;
        connection.message(&message.formatted()).await.map_err(not_taken)?;
        done(Step::Message, "taken");
        // The mail is theirs; whether they answer to the farewell does not matter.
        drop(connection.quit().await);
        Ok(())
    })
    .await
}

/// Proves what can be proved without a receiver: that the server is there, lets us in, and takes mail from the sender.
/// Sends nothing.
///
/// # Errors
/// The step that failed, with what to look at.
pub async fn check_login(settings: &config::Smtp) -> Result<(), Trouble> {
    let from = sender(&settings.from)?;
    in_time(async {
        let mut connection = reach_sender(settings, &from, None, &mut |_, _| {}).await?;
        // The mail that was begun ends with the connection; whether they answer to the farewell does not matter.
        drop(connection.quit().await);
        Ok(())
    })
    .await
}

/// The steps before the receiver.
async fn reach_sender(
    settings: &config::Smtp,
    from: &Mailbox,
    receiver: Option<&Address>,
    done: &mut (impl FnMut(Step, &str) + Send),
) -> Result<AsyncSmtpConnection, Trouble> {
    let (mut connection, hello) = connect(settings, done).await?;
    if encrypt(settings, &mut connection, &hello).await? {
        done(Step::Tls, "STARTTLS");
    }
    if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
        let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
        connection.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(|error| {
            refused(
                Step::Authentication,
                &error,
                "Check SMTP_USER and SMTP_PASS. Many providers want a password of their own for programs.",
            )
        })?;
        done(Step::Authentication, "signed in");
    }
    let parameters = international(&connection, &from.email, receiver)?;
    connection.command(Mail::new(Some(from.email.clone()), parameters)).await.map_err(|error| {
        refused(
            Step::Sender,
            &error,
            "Check SMTP_FROM: most servers only take mail from addresses of the account that is signed in.",
        )
    })?;
    done(Step::Sender, from.email.as_ref());
    Ok(connection)
}

/// What has to be said of a sender or a receiver whose name before the @ is not ASCII. Domains are.
fn international(
    connection: &AsyncSmtpConnection,
    from: &Address,
    receiver: Option<&Address>,
) -> Result<Vec<MailParameter>, Trouble> {
    let is_ascii = |address: &Address| address.user().is_ascii();
    let step = match receiver {
        _ if !is_ascii(from) => Step::Sender,
        Some(receiver) if !is_ascii(receiver) => Step::Receiver,
        _ => return Ok(Vec::new()),
    };
    if connection.server_info().supports_feature(Extension::SmtpUtfEight) {
        return Ok(vec![MailParameter::SmtpUtfEight]);
    }
    let said = "the address is not ASCII, and the mail server does not offer SMTPUTF8";
    Err(trouble(step, said, "Use an address with ASCII letters before the @."))
}

/// A greeted connection to the first of the mail server's addresses that is there, and how we introduced ourselves.
async fn connect(
    settings: &config::Smtp,
    done: &mut (impl FnMut(Step, &str) + Send),
) -> Result<(AsyncSmtpConnection, ClientId), Trouble> {
    const UNKNOWN: &str = "Check SMTP_HOST for typing errors, and this machine's DNS.";
    let addresses = timeout(TIMEOUT, tokio::net::lookup_host((settings.host.as_str(), settings.port)))
        .await
        .map_err(|_| trouble(Step::Name, "no answer from DNS", UNKNOWN))?
        .map_err(|error| trouble(Step::Name, error, UNKNOWN))?;
    let mut failed = trouble(Step::Name, "it has no address", UNKNOWN);
    for server in addresses {
        done(Step::Name, &format!("{} is {}", settings.host, server.ip()));
        let tls = if settings.implicit_tls { Some(tls_parameters(settings)?) } else { None };
        let hello = hello(settings, server);
        let error = match AsyncSmtpConnection::connect_tokio1(server, Some(TIMEOUT), &hello, tls, None).await {
            Ok(connection) => {
                done(Step::Connection, &format!("port {} is open", settings.port));
                let way = if settings.implicit_tls { "with TLS from the first byte" } else { "in plain text so far" };
                done(Step::Greeting, way);
                return Ok((connection, hello));
            }
            Err(error) => error,
        };
        if !is_unreached(&error) {
            done(Step::Connection, &format!("port {} is open", settings.port));
            let advice = if settings.implicit_tls {
                "SMTP_SECURE means TLS from the first byte, which is usual on port 465. Port 587 wants SMTP_SECURE=false (STARTTLS)."
            } else {
                "Is this a mail server's port? Port 465 wants SMTP_SECURE=true (TLS from the first byte)."
            };
            return Err(refused(Step::Greeting, &error, advice));
        }
        failed = refused(
            Step::Connection,
            &error,
            "Check SMTP_PORT (587 and 465 are usual; many networks block 25) and firewalls between here and there.",
        );
    }
    Err(failed)
}

/// Whether the connection was changed to TLS.
async fn encrypt(
    settings: &config::Smtp,
    connection: &mut AsyncSmtpConnection,
    hello: &ClientId,
) -> Result<bool, Trouble> {
    if settings.implicit_tls {
        return Ok(false);
    }
    if !connection.can_starttls() {
        if requires_tls(settings) {
            return Err(trouble(
                Step::Tls,
                "the server offers no STARTTLS",
                "A password is never sent to another machine in plain text. Use port 465 with SMTP_SECURE=true, or another port.",
            ));
        }
        return Ok(false);
    }
    connection
        .starttls(tls_parameters(settings)?, hello)
        .await
        .map_err(|error| refused(Step::Tls, &error, "Does the mail server speak TLS at this port?"))?;
    Ok(true)
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
