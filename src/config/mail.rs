//! The variables about mail.

use std::fs;
use std::path::Path;

use secrecy::SecretString;
use url::{Host, Url};

use super::kinds::PATH;
use super::reader::Reader;
use super::{Environment, MailDelivery, Smtp, retired, settings};

/// What every certificate in a file begins with.
const MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";

pub(super) fn read(r: &mut Reader<'_>, environment: Environment, data_dir: &Path, public_url: &str) -> MailDelivery {
    let from = r.get(&settings::SMTP_FROM);
    let folder = retired::read(r, "MAIL_FOLDER", &PATH).unwrap_or_else(|| data_dir.join("mails"));
    let smtp = smtp(r, &from, public_url);
    let transport = r.optional(&settings::MAIL_TRANSPORT).unwrap_or(match (&smtp, environment) {
        (Some(_), _) => "smtp",
        (None, Environment::Development) => "log",
        (None, Environment::Production) => "off",
    });
    r.show(&settings::MAIL_TRANSPORT, transport);
    match (transport, smtp) {
        ("file", _) => MailDelivery::Files { folder, from },
        ("log", _) => {
            if environment == Environment::Production {
                r.problem(&settings::MAIL_TRANSPORT, "log is refused in production: logs must not hold links");
            }
            MailDelivery::Log
        }
        ("smtp", Some(smtp)) => MailDelivery::Smtp(smtp),
        ("smtp", None) => {
            r.problem(&settings::SMTP_HOST, "is not set; MAIL_TRANSPORT=smtp needs the mail server's name");
            MailDelivery::Off
        }
        _ => MailDelivery::Off,
    }
}

fn smtp(r: &mut Reader<'_>, from: &str, public_url: &str) -> Option<Smtp> {
    let port = r.get(&settings::SMTP_PORT);
    let implicit_tls = r.optional(&settings::SMTP_SECURE).unwrap_or(port == 465);
    r.show(&settings::SMTP_SECURE, implicit_tls.to_string());
    let user = r.optional(&settings::SMTP_USER);
    let password = r.verbatim(&settings::SMTP_PASS).filter(|text| !text.is_empty()).map(SecretString::from);
    if user.is_some() && password.is_none() {
        r.warn("SMTP_USER is set but SMTP_PASS is not");
    }
    let authorities = authorities(r);
    let host = r.optional(&settings::SMTP_HOST)?;
    let public_host = Url::parse(public_url).ok().and_then(|url| match url.host() {
        Some(Host::Domain(name)) if name.contains('.') && !name.ends_with(".localhost") => Some(name.to_owned()),
        _ => None,
    });
    Some(Smtp { host, port, implicit_tls, user, password, from: from.to_owned(), public_host, authorities })
}

fn authorities(r: &mut Reader<'_>) -> Option<Vec<u8>> {
    const EXPECTED: &str = "expected a file with certificates in PEM";
    let key = &settings::SMTP_CA_FILE;
    match fs::read(r.optional(key)?) {
        Ok(bytes) if bytes.windows(MARK.len()).any(|part| part == MARK) => Some(bytes),
        Ok(_) => {
            r.problem(key, format!("holds no certificate; {EXPECTED}"));
            None
        }
        Err(error) => {
            r.problem(key, format!("can't be read: {error}; {EXPECTED}"));
            None
        }
    }
}
