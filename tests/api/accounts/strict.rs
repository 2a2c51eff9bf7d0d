//! A mail server that is as strict as those of large providers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// When it speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Never,
    /// After STARTTLS.
    Later,
    FromTheFirstByte,
}

/// What it is like.
#[derive(Clone, Copy)]
pub struct Manners {
    pub tls: Tls,
    /// Whether it takes addresses that are not ASCII.
    pub is_international: bool,
    /// How often it answers a receiver with 504 before it thinks better of it.
    pub refusals: usize,
    /// A command that it refuses; `220`: it does not greet.
    pub refused: &'static str,
}

pub const PLAIN: Manners = Manners { tls: Tls::Never, is_international: false, refusals: 0, refused: "" };

/// A running one.
pub struct MailServer {
    pub address: SocketAddr,
    /// Its own certificate, PEM.
    pub certificate: String,
    said: Arc<Mutex<String>>,
}

impl MailServer {
    pub fn start(manners: Manners) -> Self {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
        let tls = Arc::new(tls.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut refusals = manners.refusals;
            for stream in listener.incoming() {
                let mut visit = Visit { manners, said: &heard, refusals: &mut refusals, name: String::new() };
                visit.receive(stream.unwrap(), &tls);
            }
        });
        Self { address, certificate: made.cert.pem(), said }
    }

    /// Everything that clients have said so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }
}

struct Visit<'a> {
    manners: Manners,
    said: &'a Mutex<String>,
    refusals: &'a mut usize,
    /// How the client has introduced itself.
    name: String,
}

impl Visit<'_> {
    fn receive(&mut self, mut stream: TcpStream, tls: &Arc<ServerConfig>) {
        let session = || ServerConnection::new(Arc::clone(tls)).unwrap();
        match self.manners.tls {
            Tls::FromTheFirstByte => {
                let mut stream = StreamOwned::new(session(), stream);
                if stream.write_all(b"220 mail\r\n").is_ok() {
                    self.talk(&mut stream, true);
                }
            }
            Tls::Later | Tls::Never => {
                let greeting = if self.manners.refused == "220" { "554 no\r\n" } else { "220 mail\r\n" };
                if stream.write_all(greeting.as_bytes()).is_ok() && self.talk(&mut stream, false) {
                    self.talk(&mut StreamOwned::new(session(), stream), true);
                }
            }
        }
    }

    /// Whether the client wants to go on with TLS.
    fn talk(&mut self, stream: &mut (impl Read + Write), is_encrypted: bool) -> bool {
        let mut in_mail = false;
        while let Some(line) = self.line(stream) {
            if in_mail && line != "." {
                continue;
            }
            let command = line.to_ascii_uppercase();
            let reply = match command.split([' ', ':']).next().unwrap_or_default() {
                refused if refused == self.manners.refused => "550 not from you".to_owned(),
                "." => {
                    in_mail = false;
                    "250 taken".to_owned()
                }
                "EHLO" => {
                    line["EHLO ".len()..].clone_into(&mut self.name);
                    let starttls =
                        if self.manners.tls == Tls::Later && !is_encrypted { "250-STARTTLS\r\n" } else { "" };
                    let utf8 = if self.manners.is_international { "250-SMTPUTF8\r\n" } else { "" };
                    format!("250-mail\r\n{starttls}{utf8}250-AUTH PLAIN\r\n250 8BITMIME")
                }
                "STARTTLS" => {
                    return stream.write_all(b"220 go on\r\n").is_ok();
                }
                "MAIL" if !line.is_ascii() && !command.contains("SMTPUTF8") => "553 not ASCII".to_owned(),
                // As Postfix does, not before the receiver.
                "RCPT" if !self.name.contains('.') && !self.name.starts_with('[') => {
                    format!("504 5.5.2 <{}>: Helo command rejected: need fully-qualified hostname", self.name)
                }
                "RCPT" if *self.refusals > 0 => {
                    *self.refusals -= 1;
                    "504 5.5.2 Helo command rejected for c@d.co".to_owned()
                }
                "DATA" => {
                    in_mail = true;
                    "354 go on".to_owned()
                }
                "QUIT" => "221 bye".to_owned(),
                _ => "250 fine".to_owned(),
            };
            if stream.write_all(format!("{reply}\r\n").as_bytes()).is_err() {
                break;
            }
        }
        false
    }

    fn line(&mut self, stream: &mut impl Read) -> Option<String> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\n") {
            let mut byte = [0];
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            bytes.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&bytes).into_owned();
        self.said.lock().unwrap().push_str(&line);
        Some(line.trim_end().to_owned())
    }
}
