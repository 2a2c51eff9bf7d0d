//! The variables about mail.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::reader::{Reader, boolean, number};
use super::{Environment, MailDelivery, Smtp};

pub(super) fn read(r: &mut Reader<'_>, environment: Environment, data_dir: &Path) -> MailDelivery {
    let from = r.value("SMTP_FROM", "expected an address such as \"SuperSync\" <sync@example.com>", |text| {
        text.contains('@').then(|| text.to_owned())
    });
    let folder = r.text("MAIL_FOLDER").map_or_else(|| data_dir.join("mails"), PathBuf::from);
    r.show("MAIL_FOLDER", folder.display().to_string());
    let smtp = smtp(r, &from);
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

fn smtp(r: &mut Reader<'_>, from: &str) -> Option<Smtp> {
    let port = r.value("SMTP_PORT", "expected a port from 1 to 65535", number(1..=65_535));
    let implicit_tls = r.optional("SMTP_SECURE", "expected true or false", boolean).unwrap_or(port == 465);
    r.show("SMTP_SECURE", implicit_tls.to_string());
    let user = r.text("SMTP_USER").map(str::to_owned);
    let password = r.verbatim("SMTP_PASS").filter(|text| !text.is_empty()).map(SecretString::from);
    if user.is_some() && password.is_none() {
        r.warn("SMTP_USER is set but SMTP_PASS is not");
    }
    let host = r.text("SMTP_HOST")?.to_owned();
    Some(Smtp { host, port, implicit_tls, user, password, from: from.to_owned() })
}
