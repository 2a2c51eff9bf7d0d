//! The proxies as processes: each with the settings that are shipped, changed only in what belongs to a machine.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

use crate::harness::{Account, PATIENCE, free_port};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Caddy,
    Nginx,
    HaProxy,
}

/// How long it waits, each in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For a server that takes no connection.
    pub connection: u32,
    /// For the first byte of an answer.
    pub answer: u32,
    /// For the head of a request.
    pub head: u32,
}

impl Default for Waits {
    fn default() -> Self {
        Self { connection: 5, answer: 5, head: 5 }
    }
}

/// A running proxy, until it is dropped.
pub struct Front {
    child: Child,
    folder: tempfile::TempDir,
    /// What its certificate is checked with.
    pub authority: PathBuf,
    pub http: String,
    pub https: String,
}

impl Front {
    /// In front of `upstream`, which is `host:port`; Caddy takes several, with spaces in between.
    pub async fn before(kind: Kind, upstream: &str, waits: Waits) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (plain_port, tls_port) = (free_port(), free_port());
        let place = Place { folder: folder.path(), upstream, plain_port, tls_port, waits };
        let (command, authority) = match kind {
            Kind::Caddy => place.caddy(),
            Kind::Nginx => place.nginx(),
            Kind::HaProxy => place.haproxy(),
        };
        Self::run(command, folder, authority, plain_port, tls_port).await
    }

    /// Caddy with this site, which is not the shipped one.
    pub async fn caddy(site: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (plain_port, tls_port) = (free_port(), free_port());
        let file = folder.path().join("Caddyfile");
        let global = format!("http_port {plain_port}\nhttps_port {tls_port}\nadmin off\nskip_install_trust\n");
        fs::write(&file, format!("{{\n{global}}}\nlocalhost {{\n{site}\n}}\n")).expect("written");
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"].map(|name| (name, folder.path())));
        let authority = folder.path().join("caddy/pki/authorities/local/root.crt");
        Self::run(command, folder, authority, plain_port, tls_port).await
    }

    async fn run(
        mut command: Command,
        folder: tempfile::TempDir,
        authority: PathBuf,
        plain_port: u16,
        tls_port: u16,
    ) -> Self {
        let log = fs::File::create(folder.path().join("log")).expect("a file");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start ({error}): `make test-all` installs it"));
        let http = format!("http://localhost:{plain_port}");
        let https = format!("https://localhost:{tls_port}");
        let mut front = Self { child, folder, authority, http, https };
        let up = timeout(PATIENCE, front.listens()).await.unwrap_or(false);
        assert!(up, "{command:?} does not listen: {}", front.log());
        front
    }

    /// Whether it listens, with a certificate; not if it has ended.
    async fn listens(&mut self) -> bool {
        let whole = |pem: String| pem.contains("END CERTIFICATE");
        loop {
            if self.child.try_wait().expect("it can be asked").is_some() {
                return false;
            }
            // Caddy makes its own. What the server behind it says does not matter here.
            if fs::read_to_string(&self.authority).is_ok_and(whole) {
                let probe = self.builder().timeout(Duration::from_millis(500)).build().expect("a client");
                if !probe.get(&self.https).send().await.is_err_and(|error| error.is_connect()) {
                    return true;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Everything that it has written so far.
    pub fn log(&self) -> String {
        // nginx has files of its own.
        let files = ["log", "access.log", "error.log"].map(|name| self.folder.path().join(name));
        files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
    }

    /// A client that trusts it and follows no redirects.
    pub fn builder(&self) -> reqwest::ClientBuilder {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let pem = fs::read(&self.authority).expect("the authority");
        let authority = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]);
        client.redirect(reqwest::redirect::Policy::none())
    }

    /// The same, with a time limit.
    pub fn client(&self) -> reqwest::Client {
        self.builder().timeout(PATIENCE).build().expect("a client")
    }

    /// What the proxy answers to these bytes before it closes the connection, if anything.
    pub async fn raw(&self, bytes: String) -> String {
        let pem = CertificateDer::from_pem_file(&self.authority).expect("a certificate");
        let address = self.https.trim_start_matches("https://").replace("localhost", "127.0.0.1");
        let exchange = tokio::task::spawn_blocking(move || {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(pem).expect("an authority");
            let trust = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            let name = "localhost".try_into().expect("a name");
            let session = rustls::ClientConnection::new(Arc::new(trust), name).expect("a session");
            let connection = std::net::TcpStream::connect(address).expect("it listens");
            connection.set_read_timeout(Some(PATIENCE)).expect("a time limit");
            let mut stream = rustls::StreamOwned::new(session, connection);
            stream.write_all(bytes.as_bytes()).expect("sent");
            let mut answer = Vec::new();
            // It may end without a proper farewell, but end it must.
            let ended = stream.read_to_end(&mut answer).map_err(|error| error.kind());
            assert!(!matches!(ended, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "it waits on: {answer:?}");
            String::from_utf8_lossy(&answer).into_owned()
        });
        exchange.await.expect("no panic")
    }

    /// The same account by way of this proxy.
    pub fn account(&self, account: &Account) -> Account {
        Account { base: self.https.clone(), http: self.client(), ..account.clone() }
    }

    /// The account's notification socket by way of this proxy.
    pub async fn socket(&self, account: &Account, client: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
        let authority = CertificateDer::from_pem_file(&self.authority).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority).expect("an authority");
        let trust = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        // With the path, if it has one.
        let base = if account.base.starts_with(&self.https) { &account.base } else { &self.https };
        let base = base.replacen("https", "wss", 1);
        let url = format!("{base}/api/sync/ws?token={}&clientId={client}", account.token);
        let connector = Some(Connector::Rustls(Arc::new(trust)));
        let opening = tokio_tungstenite::connect_async_tls_with_config(url, None, true, connector);
        timeout(PATIENCE, opening).await.expect("in time").expect("the upgrade succeeds").0
    }

    /// Ends it and returns its log.
    pub async fn stop(mut self) -> String {
        self.child.kill().await.expect("it ran");
        self.log()
    }
}

/// What differs from machine to machine.
struct Place<'a> {
    folder: &'a Path,
    upstream: &'a str,
    plain_port: u16,
    tls_port: u16,
    waits: Waits,
}

impl Place<'_> {
    /// With an authority of its own.
    fn caddy(&self) -> (Command, PathBuf) {
        let Waits { connection, answer, head } = self.waits;
        let mut command = Command::new("caddy");
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(shipped("Caddyfile"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"].map(|name| (name, self.folder)))
            .env("DOMAIN", "localhost")
            .env("HTTP_PORT", self.plain_port.to_string())
            .env("HTTPS_PORT", self.tls_port.to_string())
            .env("CADDY_ADMIN", "off")
            .env("UPSTREAM", self.upstream)
            .env("UPSTREAM_PATIENCE", format!("{connection}s"))
            .env("UPSTREAM_TIMEOUT", format!("{answer}s"))
            .env("HEAD_TIMEOUT", format!("{head}s"));
        if self.upstream.contains(' ') {
            command.env("UPSTREAM_HEALTH", "health_uri /readyz/reads");
        }
        (command, self.folder.join("caddy/pki/authorities/local/root.crt"))
    }

    fn nginx(&self) -> (Command, PathBuf) {
        let (certificate, key) = self.certificate();
        let Waits { answer, head, .. } = self.waits;
        let folder = self.folder.display();
        self.write(
            "packaging/nginx/supersync.conf",
            "supersync.conf",
            &[
                ("    listen [::]:80;\n", String::new()),
                ("    listen [::]:443 ssl http2;\n", String::new()),
                ("listen 80;", format!("listen 127.0.0.1:{};", self.plain_port)),
                ("listen 443 ssl http2;", format!("listen 127.0.0.1:{} ssl http2;", self.tls_port)),
                ("server_name sync.example.org;", "server_name localhost;".to_owned()),
                ("/etc/letsencrypt/live/sync.example.org/fullchain.pem", certificate.display().to_string()),
                ("/etc/letsencrypt/live/sync.example.org/privkey.pem", key.display().to_string()),
                ("/var/log/nginx/supersync.log", format!("{folder}/access.log")),
                ("/var/log/nginx/supersync.error.log", format!("{folder}/error.log")),
                ("server 127.0.0.1:1900;", format!("server {};", self.upstream)),
                ("client_header_timeout 10s;\n", format!("client_header_timeout {head}s;\n")),
                ("proxy_read_timeout 85s;", format!("proxy_read_timeout {answer}s;")),
            ],
        );
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {folder}/{name};\n"))
            .concat();
        // One process, so that nothing is left of it when it is killed.
        let main = format!(
            "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr crit;\nevents {{}}\n\
             http {{\n{temporary}    include {folder}/supersync.conf;\n}}\n"
        );
        fs::write(self.folder.join("nginx.conf"), main).expect("written");
        let mut command = Command::new(program("nginx"));
        command.args(["-e", "stderr", "-p"]).arg(self.folder).arg("-c").arg(self.folder.join("nginx.conf"));
        (command, certificate)
    }

    fn haproxy(&self) -> (Command, PathBuf) {
        let (certificate, key) = self.certificate();
        let both = self.folder.join("both.pem");
        let text = [certificate.as_path(), &key].map(|file| fs::read_to_string(file).expect("just written")).concat();
        fs::write(&both, text).expect("written");
        let Waits { connection, answer, head } = self.waits;
        self.write(
            "packaging/haproxy/supersync.cfg",
            "supersync.cfg",
            &[
                ("bind :80\n", format!("bind 127.0.0.1:{}\n", self.plain_port)),
                ("bind :443 ", format!("bind 127.0.0.1:{} ", self.tls_port)),
                ("/etc/haproxy/sync.example.org.pem", both.display().to_string()),
                ("server supersync 127.0.0.1:1900 ", format!("server supersync {} ", self.upstream)),
                ("timeout http-request 10s", format!("timeout http-request {head}s")),
                ("timeout server 85s", format!("timeout server {answer}s")),
                // One each second, unless the check says that it is in vain.
                ("retries 10\n", format!("retries {connection}\n")),
                ("check inter 2s ", format!("check inter {}s ", connection.max(5))),
            ],
        );
        let main = "global\n    log stdout format raw local0\n    ssl-default-bind-options ssl-min-ver TLSv1.2\n";
        fs::write(self.folder.join("haproxy.cfg"), main).expect("written");
        let mut command = Command::new(program("haproxy"));
        command.arg("-db");
        for file in ["haproxy.cfg", "supersync.cfg"] {
            command.arg("-f").arg(self.folder.join(file));
        }
        (command, certificate)
    }

    /// The shipped file with these changes, each of which has to find its place.
    fn write(&self, shipped_as: &str, name: &str, changes: &[(&str, String)]) {
        let mut text = fs::read_to_string(shipped(shipped_as)).expect("it is shipped");
        for (from, to) in changes {
            assert_eq!(text.matches(from).count(), places(from), "{from} in {shipped_as}");
            text = text.replace(from, to);
        }
        fs::write(self.folder.join(name), text).expect("written");
    }

    /// A certificate for localhost that vouches for itself, and its key.
    fn certificate(&self) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let files = ["certificate.pem", "key.pem"].map(|name| self.folder.join(name));
        fs::write(&files[0], made.cert.pem()).expect("written");
        fs::write(&files[1], made.signing_key.serialize_pem()).expect("written");
        files.into()
    }
}

/// How often it stands in its file: nginx has two servers.
fn places(text: &str) -> usize {
    if text.starts_with("server_name") || text.starts_with("client_header_timeout") { 2 } else { 1 }
}

/// Debian keeps servers where only root's path leads.
pub fn program(name: &str) -> PathBuf {
    let system = Path::new("/usr/sbin").join(name);
    if system.is_file() { system } else { PathBuf::from(name) }
}

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
