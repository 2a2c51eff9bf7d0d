//! Mail on its way: the queue, retries, a real conversation with a mail server.

use std::net::SocketAddr;

use supersync::admin;
use supersync::admin::mail::MailCommand;
use supersync::config::Smtp;
use supersync::language::Language;
use supersync::mail::{Letter, LetterKind, Mail, MailConfigError};

use super::strict::{MailServer, Manners, PLAIN, Tls};
use super::*;
use crate::harness::Log;

fn smtp(addr: SocketAddr) -> Smtp {
    Smtp {
        host: addr.ip().to_string(),
        port: addr.port(),
        implicit_tls: false,
        user: None,
        password: None,
        from: "SuperSync <noreply@example.org>".into(),
        public_host: None,
        authorities: None,
    }
}

/// One mail by way of this server, and what the log says of it in the end: when it has gone, or is refused for now.
async fn deliver(settings: Smtp, to: &str) -> String {
    let (lines, _guard) = Log::of_thread();
    let mailer = Mailer::from_config(&Config { mail: MailDelivery::Smtp(settings), ..config() }).unwrap();
    let link = "https://sync.example.org/verify-email?token=abc".to_owned().into();
    let letter = Letter::new(LetterKind::VerifyAddress, link);
    mailer.send(Mail { user: 1, to: to.into(), letter, language: Language::English });
    let told = async {
        while !lines.text().contains("mail") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = mailer.drain() => {}
        () = told => {}
    }
    lines.text()
}

#[tokio::test]
async fn a_strict_server_takes_the_name_of_this_one() {
    for (public_host, name) in [(None, "[127.0.0.1]"), (Some("sync.example.org".to_owned()), "sync.example.org")] {
        let server = MailServer::start(PLAIN);
        assert_eq!(deliver(Smtp { public_host, ..smtp(server.address) }, "a@b.co").await, "");
        let said = server.said();
        for part in
            [&*format!("EHLO {name}\r\n"), "Message-ID: <", "@example.org>\r\n", "Auto-Submitted: auto-generated\r\n"]
        {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}

#[tokio::test]
async fn a_mail_that_is_refused_because_of_settings_is_kept_and_tried_again() {
    let server = MailServer::start(Manners { refusals: 1, ..PLAIN });
    let (lines, _guard) = Log::of_thread();
    let mailer = Mailer::from_config(&Config { mail: MailDelivery::Smtp(smtp(server.address)), ..config() }).unwrap();
    let link = "https://sync.example.org/verify-email?token=abc".to_owned().into();
    let letter = Letter::new(LetterKind::VerifyAddress, link);
    mailer.send(Mail { user: 1, to: "a@b.co".into(), letter, language: Language::English });
    mailer.drain().await;
    let (log, said) = (lines.text(), server.said());
    assert!(
        log.contains("ERROR") && log.contains("SMTP reply 504") && log.contains("until a setting is mended"),
        "{log}"
    );
    assert!(!log.contains('@') && log.lines().count() == 1, "{log}");
    assert!(said.ends_with("QUIT\r\n") && said.contains("\r\n.\r\n"), "it got through at last: {said}");
}

#[tokio::test]
async fn faults_of_tls_are_named_and_an_authority_of_ones_own_mends_them() {
    for tls in [Tls::Later, Tls::FromTheFirstByte] {
        let server = MailServer::start(Manners { tls, ..PLAIN });
        let settings =
            Smtp { host: "localhost".into(), implicit_tls: tls == Tls::FromTheFirstByte, ..smtp(server.address) };
        let log = deliver(settings.clone(), "a@b.co").await;
        assert!(log.contains("the connection can't be encrypted") && log.contains("UnknownIssuer"), "{tls:?}: {log}");
        let trouble = supersync::mail::check_login(&settings).await.expect_err("nobody vouches for it");
        assert!(trouble.to_string().contains("SMTP_CA_FILE"), "{trouble}");

        let trusting = Smtp { authorities: Some(server.certificate.clone().into()), ..settings.clone() };
        assert_eq!(deliver(trusting.clone(), "a@b.co").await, "");
        assert!(server.said().contains("RCPT TO:<a@b.co>"), "{tls:?}");
        let other_name = Smtp { host: "127.0.0.1".into(), ..trusting };
        let trouble = supersync::mail::check_login(&other_name).await.expect_err("the certificate is for another name");
        assert!(trouble.to_string().contains("Set SMTP_HOST to a name"), "{trouble}");
    }
    let plain = MailServer::start(PLAIN);
    let log = deliver(Smtp { implicit_tls: true, ..smtp(plain.address) }, "a@b.co").await;
    assert!(log.contains("the connection can't be encrypted"), "{log}");
}

#[tokio::test]
async fn senders_with_international_names_need_nothing_special_of_the_server() {
    let server = MailServer::start(PLAIN);
    let from = "Büro <post@bücher.example>".to_owned();
    assert_eq!(deliver(Smtp { from, ..smtp(server.address) }, "a@münchen.example").await, "");
    let said = server.said();
    assert!(said.contains("MAIL FROM:<post@xn--bcher-kva.example>\r\n"), "{said}");
    assert!(said.contains("RCPT TO:<a@xn--mnchen-3ya.example>") && said.is_ascii(), "{said}");

    let from = "Büro <büro@example.org>".to_owned();
    let log = deliver(Smtp { from: from.clone(), ..smtp(server.address) }, "a@b.co").await;
    assert!(log.contains("does not offer SMTPUTF8") && !log.contains('@'), "{log}");
    let international = MailServer::start(Manners { is_international: true, ..PLAIN });
    assert_eq!(deliver(Smtp { from, ..smtp(international.address) }, "a@b.co").await, "");
    assert!(international.said().contains("SMTPUTF8"), "{}", international.said());
}

#[tokio::test]
async fn a_mail_reaches_the_configured_server() {
    let server = MailServer::start(PLAIN);
    assert_eq!(deliver(smtp(server.address), "a@b.co").await, "");
    let dialogue = server.said();
    for part in ["MAIL FROM:<noreply@example.org>", "RCPT TO:<a@b.co>", "Subject: Verify your SuperSync account"] {
        assert!(dialogue.contains(part), "{part} in {dialogue}");
    }
    // Long lines are wrapped with an equals sign, so only the beginning is in one piece.
    assert!(dialogue.contains("https://sync.example.org/verify-email?token"), "{dialogue}");
}

#[tokio::test]
async fn a_test_mail_names_the_step_that_fails_with_the_server_s_words_and_advice() {
    let test_mail = async |refused| {
        let server = MailServer::start(Manners { refused, ..PLAIN });
        let (user, password) = (Some("user".into()), Some("secret".to_owned().into()));
        let mail = MailDelivery::Smtp(Smtp { user, password, ..smtp(server.address) });
        let command = MailCommand::Test { address: "a@b.co".to_owned(), lang: Language::English };
        let mut output = Vec::new();
        let result = Box::pin(admin::mail::run(command, &Config { mail, ..config() }, &mut output)).await;
        (result, String::from_utf8(output).unwrap())
    };
    for (refused, step, advice) in [
        ("220", "does not greet", "SMTP_SECURE"),
        ("AUTH", "refuses the user name", "SMTP_PASS"),
        ("MAIL", "refuses the sender", "SMTP_FROM"),
        ("RCPT", "refuses the receiver", "address"),
        ("DATA", "refuses the mail", "words"),
    ] {
        let (result, _) = test_mail(refused).await;
        let text = result.expect_err(refused).to_string();
        assert!(text.contains(step) && text.contains(advice) && !text.contains("secret"), "{text}");
    }
    let (result, text) = test_mail("").await;
    assert!(result.is_ok() && text.ends_with("spam filter.\n"), "{text}");
}

#[tokio::test]
async fn mails_are_taken_unless_they_are_off() {
    assert!(Mailer::from_config(&config()).unwrap().can_deliver());
    let off = Config { mail: MailDelivery::Off, ..config() };
    assert!(!Mailer::from_config(&off).unwrap().can_deliver());
    let sender = Smtp { from: "nobody".into(), ..smtp(([127, 0, 0, 1], 25).into()) };
    let broken = Mailer::from_config(&Config { mail: MailDelivery::Smtp(sender), ..config() });
    assert!(matches!(broken.err(), Some(MailConfigError::From(_))));
}

#[test]
fn without_a_mail_server_the_operator_finds_the_link_in_the_log_but_no_address() {
    let mailer = Mailer::from_config(&config()).unwrap();
    let link = "https://sync.example.org/verify-email?token=abc".to_owned().into();
    let mail = Mail {
        user: 42,
        to: "a@b.co".into(),
        letter: Letter::new(LetterKind::VerifyAddress, link),
        language: Language::English,
    };
    let (lines, _guard) = Log::of_thread();
    mailer.send(mail);
    let log = lines.text();
    assert_eq!(log.lines().count(), 1, "{log}");
    for part in [" INFO ", "OPERATOR: ", "https://sync.example.org/verify-email?token=abc", "user_id=42"] {
        assert!(log.contains(part), "{part} in {log}");
    }
    assert!(!log.contains("a@b.co"), "{log}");
}
