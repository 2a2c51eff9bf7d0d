//! Hands a mail over, one step at a time: for the queue, and for `supersync mail test`, which shows each step.
//!
//! What the mail server says is shown to the operator who asked, in full. It must not get into a log: it can hold
//! addresses.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::{Address, Message};
use rustls::CertificateError;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::message::{build, sender};
use super::smtp::{TIMEOUT, hello, requires_tls, tls_parameters};
use super::{MailConfigError, Rendered};
use crate::config::Smtp;

/// How long all steps may take together.
const PATIENCE: Duration = Duration::from_secs(90);

/// A step of handing over a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The sender or the receiver is no address.
    Settings,
    /// Finding the mail server's addresses.
    Name,
    /// Reaching its port.
    Connection,
    /// Its greeting, with TLS from the first byte if so configured.
    Greeting,
    /// Changing to TLS.
    Tls,
    /// Signing in.
    Authentication,
    /// Whether it takes mail from the sender.
    Sender,
    /// Whether it takes mail for the receiver.
    Receiver,
    /// The mail itself.
    Message,
}

/// Where handing over failed, and what was said.
#[derive(Debug)]
pub struct Trouble {
    /// The step that failed.
    pub step: Step,
    /// The operating system's or the mail server's words.
    pub said: String,
    /// What to look at, in terms of settings.
    pub advice: &'static str,
    /// What it means for the mail.
    pub(super) fault: Fault,
    /// What happened, without the mail server's words.
    cause: String,
}

/// What a failure means for the mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Trying again may help.
    Passing,
    /// A setting is wrong, here or at the mail server. No mail gets through until that has been mended.
    Settings,
    /// This mail is not taken.
    Permanent,
}

impl Trouble {
    /// For the log: without the mail server's words, which can hold addresses.
    pub(super) fn for_log(&self) -> String {
        format!("{} ({})", self.step.failed(), self.cause)
    }
}

impl std::error::Error for Trouble {}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  {}", self.step.failed(), self.said, self.advice)
    }
}

impl Step {
    const fn failed(self) -> &'static str {
        match self {
            Self::Settings => "the settings are unusable",
            Self::Name => "the mail server's name was not found",
            Self::Connection => "the mail server can't be reached",
            Self::Greeting => "the mail server does not greet as expected",
            Self::Tls => "the connection can't be encrypted",
            Self::Authentication => "the mail server refuses the user name or password",
            Self::Sender => "the mail server refuses the sender",
            Self::Receiver => "the mail server refuses the receiver",
            Self::Message => "the mail server refuses the mail",
        }
    }
}

impl From<MailConfigError> for Trouble {
    fn from(error: MailConfigError) -> Self {
        trouble(Step::Settings, error, "Mend that setting.")
    }
}

/// Of our own, or of the operating system.
fn trouble(step: Step, said: impl fmt::Display, advice: &'static str) -> Trouble {
    let said = said.to_string();
    let fault = match step {
        Step::Settings | Step::Tls | Step::Sender => Fault::Settings,
        Step::Receiver => Fault::Permanent,
        _ => Fault::Passing,
    };
    Trouble { step, cause: said.clone(), said, advice, fault }
}

/// Of the library, or of the mail server.
fn refused(step: Step, error: &Error, advice: &'static str) -> Trouble {
    let code = error.status().map(u16::from);
    let cause = match code {
        Some(code) => format!("SMTP reply {code}"),
        None if error.is_timeout() => "time-out".to_owned(),
        None if error.is_response() => "reply not understood".to_owned(),
        None => describe(error),
    };
    let (step, advice) = match tls_fault(error) {
        Some(fault) => (Step::Tls, tls_advice(fault)),
        None if code == Some(504) => (step, HELLO_ADVICE),
        None => (step, advice),
    };
    let fault = match (code, step) {
        (Some(400..=499), _) => Fault::Passing,
        // At whatever step: commands that are not taken (504: our name), and sign-in.
        (Some(500..=504 | 530 | 534 | 535 | 538), _) => Fault::Settings,
        (Some(_), Step::Receiver | Step::Message) => Fault::Permanent,
        (Some(_), _) | (None, Step::Tls) => Fault::Settings,
        // The mail server lacks something that is needed.
        (None, _) if error.is_client() => Fault::Settings,
        (None, _) => Fault::Passing,
    };
    Trouble { step, said: describe(error), advice, fault, cause }
}

const HELLO_ADVICE: &str = "504 mostly means that the mail server does not take the name by which this server introduces itself (EHLO): the host \
                            of PUBLIC_URL, or an address if that is no public name.";

/// Where TLS is at fault, what rustls says.
fn tls_fault(error: &Error) -> Option<&rustls::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(fault) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(fault);
        }
        cause = error.source();
    }
    None
}

const fn tls_advice(fault: &rustls::Error) -> &'static str {
    match fault {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "Nobody who is known here has signed the mail server's certificate. If it is of an authority of your own, set SMTP_CA_FILE to \
             the file with that authority's certificate (PEM)."
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "Set SMTP_HOST to a name that the mail server's certificate is for.",
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "The mail server's certificate has expired, or this machine's clock is wrong."
        }
        _ => {
            "Port 465 wants SMTP_SECURE=true (TLS from the first byte), 587 SMTP_SECURE=false (STARTTLS). Is the certificate valid for \
             SMTP_HOST?"
        }
    }
}

/// Whether nobody was reached at all.
fn is_unreached(error: &Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::TimedOut
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::AddrNotAvailable
            );
        }
        cause = error.source();
    }
    false
}

/// Hands one mail over, telling `done` of each step that worked.
///
/// # Errors
/// The first step that did not.
pub async fn probe(
    settings: &Smtp,
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
pub(super) async fn hand_over(
    settings: &Smtp,
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
pub async fn check_login(settings: &Smtp) -> Result<(), Trouble> {
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
    settings: &Smtp,
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
    settings: &Smtp,
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
async fn encrypt(settings: &Smtp, connection: &mut AsyncSmtpConnection, hello: &ClientId) -> Result<bool, Trouble> {
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

/// The error with its causes: the outermost alone often says only "network error".
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
