//! Proves the mail settings, one step at a time, for `supersync mail test`.
//!
//! What the mail server says is shown to the operator who asked, in full. It must not get into a log: it can hold
//! addresses.

use std::fmt;
use std::net::SocketAddr;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::message::{build, sender};
use super::smtp::{TIMEOUT, requires_tls, tls_parameters};
use super::{MailConfigError, Rendered};
use crate::config::Smtp;

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
}

impl std::error::Error for Trouble {}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = match self.step {
            Step::Settings => "the settings are unusable",
            Step::Name => "the mail server's name was not found",
            Step::Connection => "the mail server can't be reached",
            Step::Greeting => "the mail server does not greet as expected",
            Step::Tls => "the connection can't be encrypted",
            Step::Authentication => "the mail server refuses the user name or password",
            Step::Sender => "the mail server refuses the sender",
            Step::Receiver => "the mail server refuses the receiver",
            Step::Message => "the mail server refuses the mail",
        };
        write!(f, "{failed}: {}\n  {}", self.said, self.advice)
    }
}

impl From<MailConfigError> for Trouble {
    fn from(error: MailConfigError) -> Self {
        Self { step: Step::Settings, said: error.to_string(), advice: "Mend that setting." }
    }
}

fn trouble(step: Step, said: impl fmt::Display, advice: &'static str) -> Trouble {
    Trouble { step, said: said.to_string(), advice }
}

/// Hands one mail over, telling `done` of each step that worked.
///
/// # Errors
/// The first step that did not.
pub async fn probe(
    settings: &Smtp,
    to: &str,
    mail: &Rendered,
    mut done: impl FnMut(Step, &str),
) -> Result<(), Trouble> {
    let from = sender(&settings.from)?;
    let message = build(&from, to, mail)
        .map_err(|error| trouble(Step::Settings, error, "Give a whole address such as me@example.org."))?;
    let receiver = message.envelope().to().first().cloned().ok_or_else(|| {
        trouble(Step::Settings, "the mail has no receiver", "Give a whole address such as me@example.org.")
    })?;

    let mut connection = reach_sender(settings, &from, &mut done).await?;
    connection.command(Rcpt::new(receiver, Vec::new())).await.map_err(|error| {
        trouble(
            Step::Receiver,
            describe(&error),
            "Is the address right? Without SMTP_USER many servers only take mail for their own domains (relaying).",
        )
    })?;
    let refused = |error: lettre::transport::smtp::Error| {
        trouble(Step::Message, describe(&error), "The server's words above say why; often a limit or a spam filter.")
    };
    connection.command(Data).await.map_err(refused)?;
    connection.message(&message.formatted()).await.map_err(refused)?;
    done(Step::Message, "taken");
    // The mail is theirs; whether they answer to the farewell does not matter.
    drop(connection.quit().await);
    Ok(())
}

/// Proves what can be proved without a receiver: that the server is there, lets us in, and takes mail from the sender.
/// Sends nothing.
///
/// # Errors
/// The step that failed, with what to look at.
pub async fn knock(settings: &Smtp) -> Result<(), Trouble> {
    let from = sender(&settings.from)?;
    let mut connection = reach_sender(settings, &from, &mut |_, _| {}).await?;
    // The mail that was begun ends with the connection; whether they answer to the farewell does not matter.
    drop(connection.quit().await);
    Ok(())
}

/// The steps before the receiver.
async fn reach_sender(
    settings: &Smtp,
    from: &Mailbox,
    done: &mut impl FnMut(Step, &str),
) -> Result<AsyncSmtpConnection, Trouble> {
    let server = resolve(settings).await?;
    done(Step::Name, &format!("{} is {}", settings.host, server.ip()));
    reach(server).await?;
    done(Step::Connection, &format!("port {} is open", settings.port));
    let mut connection = greet(settings, server).await?;
    done(Step::Greeting, if settings.implicit_tls { "with TLS from the first byte" } else { "in plain text so far" });
    if encrypt(settings, &mut connection).await? {
        done(Step::Tls, "STARTTLS");
    }
    if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
        let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
        connection.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(|error| {
            trouble(
                Step::Authentication,
                describe(&error),
                "Check SMTP_USER and SMTP_PASS. Many providers want a password of their own for programs.",
            )
        })?;
        done(Step::Authentication, "signed in");
    }
    connection.command(Mail::new(Some(from.email.clone()), Vec::new())).await.map_err(|error| {
        trouble(
            Step::Sender,
            describe(&error),
            "Check SMTP_FROM: most servers only take mail from addresses of the account that is signed in.",
        )
    })?;
    done(Step::Sender, from.email.as_ref());
    Ok(connection)
}

async fn resolve(settings: &Smtp) -> Result<SocketAddr, Trouble> {
    const ADVICE: &str = "Check SMTP_HOST for typing errors, and this machine's DNS.";
    let found = timeout(TIMEOUT, tokio::net::lookup_host((settings.host.as_str(), settings.port)))
        .await
        .map_err(|_| trouble(Step::Name, "no answer from DNS", ADVICE))?
        .map_err(|error| trouble(Step::Name, error, ADVICE))?
        .next();
    found.ok_or_else(|| trouble(Step::Name, "it has no address", ADVICE))
}

/// A connection of its own: the library's errors do not tell a closed port from a failed greeting.
async fn reach(server: SocketAddr) -> Result<(), Trouble> {
    let advice =
        "Check SMTP_PORT (587 and 465 are usual; many networks block 25) and firewalls between here and there.";
    match timeout(TIMEOUT, TcpStream::connect(server)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(trouble(Step::Connection, error, advice)),
        Err(_) => Err(trouble(Step::Connection, format!("no answer within {} s", TIMEOUT.as_secs()), advice)),
    }
}

async fn greet(settings: &Smtp, server: SocketAddr) -> Result<AsyncSmtpConnection, Trouble> {
    let tls = if settings.implicit_tls { Some(tls_parameters(settings)?) } else { None };
    let hello = ClientId::default();
    AsyncSmtpConnection::connect_tokio1(server, Some(TIMEOUT), &hello, tls, None).await.map_err(|error| {
        let advice = if settings.implicit_tls {
            "SMTP_SECURE means TLS from the first byte, which is usual on port 465. Port 587 wants SMTP_SECURE=false (STARTTLS). Is the certificate valid for SMTP_HOST?"
        } else {
            "Is this a mail server's port? Port 465 wants SMTP_SECURE=true (TLS from the first byte)."
        };
        trouble(Step::Greeting, describe(&error), advice)
    })
}

/// Whether the connection was changed to TLS.
async fn encrypt(settings: &Smtp, connection: &mut AsyncSmtpConnection) -> Result<bool, Trouble> {
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
    connection.starttls(tls_parameters(settings)?, &ClientId::default()).await.map_err(|error| {
        trouble(
            Step::Tls,
            describe(&error),
            "Is the certificate valid for SMTP_HOST, and signed by a public authority? Use the name in the certificate.",
        )
    })?;
    Ok(true)
}

/// The error with its causes: the outermost alone often says only "network error".
fn describe(error: &lettre::transport::smtp::Error) -> String {
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
