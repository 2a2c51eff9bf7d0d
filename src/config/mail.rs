//! The variables about mail.

use std::fs;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use url::{Host, Url};

use super::reader::{Reader, boolean, number};
use super::{Environment, MailDelivery, Smtp};

/// What every certificate in a file begins with.
const MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";

pub(super) fn read(r: &mut Reader<'_>, environment: Environment, data_dir: &Path, public_url: &str) -> MailDelivery {
    let from = r.value("SMTP_FROM", "expected an address such as \"SuperSync\" <sync@example.com>", |text| {
        text.contains('@').then(|| text.to_owned())
    });
    let folder = r.text("MAIL_FOLDER").map_or_else(|| data_dir.join("mails"), PathBuf::from);
    r.show("MAIL_FOLDER", folder.display().to_string());
    let smtp = smtp(r, &from, public_url);
    let chosen = r.optional("MAIL_TRANSPORT", "expected smtp, file, log or off", |text| {
        ["smtp", "file", "log", "off"].into_iter().find(|name| *name == text)
    });
    let transport = chosen.unwrap_or(match (&smtp, environment) {
        (Some(_), _) => "smtp",
        (None, Environment::Development) => "log",
        (None, Environment::Production) => "off",
    });
    r.show("MAIL_TRANSPORT", transport);
    match (transport, smtp) {
        ("file", _) => MailDelivery::Files { folder, from },
        ("log", _) => {
            if environment == Environment::Production {
                r.problem("MAIL_TRANSPORT", "log is refused in production: logs must not hold links");
            }
            MailDelivery::Log
        }
        ("smtp", Some(smtp)) => MailDelivery::Smtp(smtp),
        ("smtp", None) => {
            r.problem("SMTP_HOST", "is not set; MAIL_TRANSPORT=smtp needs the mail server's name");
            MailDelivery::Off
        }
        _ => MailDelivery::Off,
    }
}

fn smtp(r: &mut Reader<'_>, from: &str, public_url: &str) -> Option<Smtp> {
    let port = r.value("SMTP_PORT", "expected a port from 1 to 65535", number(1..=65_535));
    let implicit_tls = r.optional("SMTP_SECURE", "expected true or false", boolean).unwrap_or(port == 465);
    r.show("SMTP_SECURE", implicit_tls.to_string());
    let user = r.text("SMTP_USER").map(str::to_owned);
    let password = r.verbatim("SMTP_PASS").filter(|text| !text.is_empty()).map(SecretString::from);
    if user.is_some() && password.is_none() {
        r.warn("SMTP_USER is set but SMTP_PASS is not");
    }
    let authorities = authorities(r);
    let host = r.text("SMTP_HOST")?.to_owned();
    let public_host = Url::parse(public_url).ok().and_then(|url| match url.host() {
        Some(Host::Domain(name)) if name.contains('.') && !name.ends_with(".localhost") => Some(name.to_owned()),
        _ => None,
    });
    Some(Smtp { host, port, implicit_tls, user, password, from: from.to_owned(), public_host, authorities })
}

fn authorities(r: &mut Reader<'_>) -> Option<Vec<u8>> {
    const EXPECTED: &str = "expected a file with certificates in PEM";
    match fs::read(r.text("SMTP_CA_FILE")?) {
        Ok(bytes) if bytes.windows(MARK.len()).any(|part| part == MARK) => Some(bytes),
        Ok(_) => {
            r.problem("SMTP_CA_FILE", format!("holds no certificate; {EXPECTED}"));
            None
        }
        Err(error) => {
            r.problem("SMTP_CA_FILE", format!("can't be read: {error}; {EXPECTED}"));
            None
        }
    }
}
