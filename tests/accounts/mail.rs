//! Mail on its way: the queue, retries, a real conversation with a mail server.

use std::net::SocketAddr;

use supersync::config::Smtp;
use supersync::language::Language;
use supersync::mail::{Asked, Letter, Mail, MailConfigError};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// A mail server that takes one mail in plain text and hands it over.
async fn mail_server() -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut socket = BufReader::new(socket);
        socket.write_all(b"220 mail\r\n").await.unwrap();
        let mut dialogue = String::new();
        loop {
            let mut line = String::new();
            socket.read_line(&mut line).await.unwrap();
            dialogue.push_str(&line);
            let reply = match line.get(..4).unwrap_or_default() {
                "DATA" => "354 go on\r\n",
                _ => "250 fine\r\n",
            };
            socket.write_all(reply.as_bytes()).await.unwrap();
            if line.starts_with("DATA") {
                while !dialogue.ends_with("\r\n.\r\n") {
                    assert_ne!(socket.read_line(&mut dialogue).await.unwrap(), 0, "{dialogue}");
                }
                socket.write_all(b"250 taken\r\n").await.unwrap();
                return dialogue;
            }
        }
    });
    (addr, server)
}

fn smtp(addr: SocketAddr) -> Smtp {
    Smtp {
        host: addr.ip().to_string(),
        port: addr.port(),
        implicit_tls: false,
        user: None,
        password: None,
        from: "SuperSync <noreply@example.org>".into(),
    }
}

#[tokio::test]
async fn a_mail_reaches_the_configured_server() {
    let (addr, server) = mail_server().await;
    let mailer = Mailer::from_config(&Config { mail: MailDelivery::Smtp(smtp(addr)), ..config() }).unwrap();
    assert!(mailer.can_deliver());
    let link = "https://sync.example.org/verify-email?token=abc".to_owned().into();
    mailer.send(Mail {
        user: 1,
        to: "a@b.co".into(),
        letter: Letter::VerifyAddress { link, asked: Asked::default() },
        language: Language::English,
    });
    let dialogue = server.await.unwrap();
    for part in ["MAIL FROM:<noreply@example.org>", "RCPT TO:<a@b.co>", "Subject: Verify your SuperSync account"] {
        assert!(dialogue.contains(part), "{part} in {dialogue}");
    }
    // Long lines are wrapped with an equals sign, so only the beginning is in one piece.
    assert!(dialogue.contains("https://sync.example.org/verify-email?token"), "{dialogue}");
    mailer.drain().await;
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

/// Keeps log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn without_a_mail_server_the_operator_finds_the_link_in_the_log_but_no_address() {
    let mailer = Mailer::from_config(&config()).unwrap();
    let link = "https://sync.example.org/verify-email?token=abc".to_owned().into();
    let mail = Mail {
        user: 42,
        to: "a@b.co".into(),
        letter: Letter::VerifyAddress { link, asked: Asked::default() },
        language: Language::English,
    };
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || mailer.send(mail));
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    for part in [" INFO ", "OPERATOR: ", "https://sync.example.org/verify-email?token=abc", "user_id=42"] {
        assert!(log.contains(part), "{part} in {log}");
    }
    assert!(!log.contains("a@b.co"), "{log}");
}
