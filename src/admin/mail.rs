//! `supersync mail …`: what mails look like, and whether they get out.

use std::io::{self, Write};

use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::Failure;
use crate::config::{Config, MailDelivery};
use crate::language::Language;
use crate::mail::{Asked, Letter, LetterKind, send_test};

/// Look at mails, and prove that they can be sent.
#[derive(Clone, Debug, Subcommand)]
pub enum MailCommand {
    /// Print a mail as it would be sent, with a made-up link.
    Preview {
        /// Which mail.
        #[arg(value_parser = letter())]
        name: LetterKind,
        /// The language: en or de.
        #[arg(long, default_value = "en", value_parser = language)]
        lang: Language,
        /// The HTML part instead of the text part.
        #[arg(long)]
        html: bool,
    },
    /// Send a mail to an address, step by step, and explain what goes wrong.
    Test {
        /// Where to.
        address: String,
        /// The language: en or de.
        #[arg(long, default_value = "en", value_parser = language)]
        lang: Language,
    },
}

fn letter() -> impl TypedValueParser<Value = LetterKind> {
    let names = PossibleValuesParser::new(LetterKind::ALL.map(|(_, name)| name));
    names.try_map(|name| LetterKind::named(&name).ok_or("there is no such mail"))
}

fn language(code: &str) -> Result<Language, String> {
    Language::from_code(code).ok_or_else(|| "expected en or de".to_owned())
}

/// Runs a command.
///
/// # Errors
/// The step that failed, or why there is nothing to test.
pub async fn run(command: MailCommand, config: &Config, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        MailCommand::Preview { name, lang, html } => Ok(preview(name, lang, html, config, out)?),
        MailCommand::Test { address, lang } => test(&address, lang, config, out).await,
    }
}

fn preview(kind: LetterKind, lang: Language, html: bool, config: &Config, out: &mut impl Write) -> io::Result<()> {
    let link = format!("{}/example?token={}", config.public_url, "0123456789abcdef".repeat(4));
    let asked = (kind == LetterKind::VerifyAddress).then(Asked::default);
    let mail = Letter { kind, link: link.into(), asked }.render(lang);
    if html { write!(out, "{}", mail.html) } else { write!(out, "Subject: {}\n\n{}", mail.subject, mail.text) }
}

async fn test(address: &str, lang: Language, config: &Config, out: &mut impl Write) -> Result<(), Failure> {
    let settings = match &config.mail {
        MailDelivery::Smtp(settings) => settings,
        MailDelivery::Files { .. } => return Err(no_server("mails are written to files")),
        MailDelivery::Log => return Err(no_server("links are printed to the log")),
        MailDelivery::Off => return Err(no_server("no mail server is configured")),
    };
    let mail = Letter::new(LetterKind::Test, config.public_url.clone().into()).render(lang);
    let mut steps = Vec::new();
    let result =
        send_test(settings, address, &mail, |step, detail| steps.push(format!("{}: {detail}", step.done()))).await;
    for step in steps {
        writeln!(out, "ok  {step}")?;
    }
    result?;
    writeln!(
        out,
        "The mail server has taken the mail. Whether it arrives is up to it and to the receiver's spam filter."
    )?;
    Ok(())
}

fn no_server(why: &str) -> Failure {
    Failure::failed(format!("there is nothing to test: {why}. Set SMTP_HOST (and MAIL_TRANSPORT=smtp or nothing)"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tokio::net::TcpListener;

    use super::*;

    fn config(variables: &[(&str, &str)]) -> Config {
        let mut all = HashMap::from([("JWT_SECRET".to_owned(), "0123456789abcdef0123456789abcdef".to_owned())]);
        all.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Config::parse(&all).expect("valid")
    }

    async fn output(command: MailCommand, config: &Config) -> (Result<(), Failure>, String) {
        let mut out = Vec::new();
        let result = run(command, config, &mut out).await;
        (result, String::from_utf8(out).expect("text"))
    }

    fn test_of(address: &str) -> MailCommand {
        MailCommand::Test { address: address.to_owned(), lang: Language::English }
    }

    #[tokio::test]
    async fn a_preview_shows_either_part_in_either_language() {
        let preview = |lang, html| MailCommand::Preview { name: LetterKind::VerifyAddress, lang, html };
        let (result, text) = output(preview(Language::English, false), &config(&[])).await;
        assert!(result.is_ok() && text.starts_with("Subject: Verify your SuperSync account\n\n"), "{text}");
        let (_, html) = output(preview(Language::German, true), &config(&[])).await;
        assert!(html.contains("<html lang=\"de\">") && html.contains("http://localhost:1900/example?token="), "{html}");
    }

    #[tokio::test]
    async fn without_a_mail_server_there_is_nothing_to_test() {
        for transport in ["file", "log", "off"] {
            let (result, _) = output(test_of("a@b.co"), &config(&[("MAIL_TRANSPORT", transport)])).await;
            let said = result.expect_err(transport).to_string();
            assert!(said.starts_with("there is nothing to test"), "{transport}: {said}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_a_wrong_name_and_a_wrong_address_are_told_apart() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            listener.local_addr().expect("bound").port().to_string()
        };
        let closed = config(&[("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", &port)]);
        let nowhere = config(&[("SMTP_HOST", "mail.invalid"), ("SMTP_PORT", &port)]);
        for (config, address, step) in [
            (&closed, "a@b.co", "the mail server can't be reached"),
            (&nowhere, "a@b.co", "the mail server's name was not found"),
            (&closed, "nobody", "the settings are unusable"),
        ] {
            let (result, _) = output(test_of(address), config).await;
            let text = result.expect_err(step).to_string();
            assert!(text.starts_with(step), "{text}");
        }
    }
}
