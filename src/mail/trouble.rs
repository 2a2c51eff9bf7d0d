//! What goes wrong while a mail is handed over: which step, what was said, what to do, and what it means for the mail.
//!
//! What the mail server says is shown to the operator who asked, in full. It must not get into a log: it can hold
//! addresses.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

use lettre::transport::smtp::Error as SmtpError;
use rustls::CertificateError;

use super::{MailConfigError, SendError};

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
    fault: fn(String) -> SendError,
    /// What happened, without the mail server's words.
    cause: String,
}

impl Trouble {
    /// What it means for the mail; for the log, without the mail server's words.
    pub(super) fn for_mail(&self) -> SendError {
        (self.fault)(format!("{} ({})", self.step.failed(), self.cause))
    }
}

impl Error for Trouble {}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  {}", self.step.failed(), self.said, self.advice)
    }
}

impl Step {
    /// What it is called when it worked.
    #[must_use]
    pub const fn done(self) -> &'static str {
        self.words().0
    }

    const fn failed(self) -> &'static str {
        self.words().1
    }

    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Settings => ("settings", "the settings are unusable"),
            Self::Name => ("name", "the mail server's name was not found"),
            Self::Connection => ("connection", "the mail server can't be reached"),
            Self::Greeting => ("greeting", "the mail server does not greet as expected"),
            Self::Tls => ("encryption", "the connection can't be encrypted"),
            Self::Authentication => ("sign-in", "the mail server refuses the user name or password"),
            Self::Sender => ("sender", "the mail server refuses the sender"),
            Self::Receiver => ("receiver", "the mail server refuses the receiver"),
            Self::Message => ("mail", "the mail server refuses the mail"),
        }
    }
}

impl From<MailConfigError> for Trouble {
    fn from(error: MailConfigError) -> Self {
        trouble(Step::Settings, error, "Mend that setting.")
    }
}

/// Of our own, or of the operating system.
pub(super) fn trouble(step: Step, said: impl fmt::Display, advice: &'static str) -> Trouble {
    let said = said.to_string();
    let fault: fn(String) -> SendError = match step {
        Step::Settings | Step::Tls | Step::Sender => SendError::Settings,
        Step::Receiver => SendError::Permanent,
        _ => SendError::Passing,
    };
    Trouble { step, cause: said.clone(), said, advice, fault }
}

/// Of the library, or of the mail server.
pub(super) fn refused(step: Step, error: &SmtpError, advice: &'static str) -> Trouble {
    let code = error.status().map(u16::from);
    let cause = match code {
        Some(code) => format!("SMTP reply {code}"),
        None if error.is_timeout() => "time-out".to_owned(),
        None if error.is_response() => "reply not understood".to_owned(),
        None => with_causes(error),
    };
    let (step, advice) = match tls_fault(error) {
        Some(fault) => (Step::Tls, tls_advice(fault)),
        None if code == Some(504) => (step, HELLO_ADVICE),
        None => (step, advice),
    };
    let fault: fn(String) -> SendError = match (code, step) {
        (Some(400..=499), _) => SendError::Passing,
        // At whatever step: commands that are not taken (504: our name), and sign-in.
        (Some(500..=504 | 530 | 534 | 535 | 538), _) => SendError::Settings,
        (Some(_), Step::Receiver | Step::Message) => SendError::Permanent,
        (Some(_), _) | (None, Step::Tls) => SendError::Settings,
        // The mail server lacks something that is needed.
        (None, _) if error.is_client() => SendError::Settings,
        (None, _) => SendError::Passing,
    };
    Trouble { step, said: with_causes(error), advice, fault, cause }
}

const HELLO_ADVICE: &str = "504 mostly means that the mail server does not take the name by which this server introduces itself (EHLO): the host \
                            of PUBLIC_URL, or an address if that is no public name.";

/// The error and what caused it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Where TLS is at fault, what rustls says.
fn tls_fault(error: &SmtpError) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref())
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
pub(super) fn is_unreached(error: &SmtpError) -> bool {
    let kind = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    matches!(
        kind,
        Some(
            ErrorKind::ConnectionRefused
                | ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::AddrNotAvailable
        )
    )
}

/// The error with its causes: the outermost alone often says only "network error".
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for said in causes(error).map(ToString::to_string) {
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
    }
    text
}
