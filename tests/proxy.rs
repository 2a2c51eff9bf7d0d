//! The Caddyfile in a real Caddy, with its own authority, in front of a real server.

mod harness;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use harness::{Account, Backend, PATIENCE, Server, op};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::Connector;
use tokio_tungstenite::tungstenite::{Error as Broken, Message as Frame};

/// Caddy, until it is dropped.
struct Caddy {
    child: Child,
    folder: tempfile::TempDir,
    http: String,
    https: String,
}

impl Caddy {
    /// In front of this address. It gives up on a connection, and on an answer, after so many seconds.
    async fn before(upstream: &str, patience: u32, answer: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (plain_port, port) = (free_port(), free_port());
        let program = std::env::var_os("CADDY").unwrap_or_else(|| "caddy".into());
        let log = std::fs::File::create(folder.path().join("log")).expect("a file");
        let mut command = Command::new(program);
        let child = command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Caddyfile"))
            .env_clear()
            .envs(["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"].map(|name| (name, folder.path())))
            .env("DOMAIN", "localhost")
            .env("HTTP_PORT", plain_port.to_string())
            .env("HTTPS_PORT", port.to_string())
            .env("CADDY_ADMIN", "off")
            .env("UPSTREAM", upstream)
            .env("UPSTREAM_PATIENCE", format!("{patience}s"))
            .env("UPSTREAM_TIMEOUT", format!("{answer}s"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("Caddy starts; `make test` installs it, elsewhere name the program in CADDY");
        let caddy = Self {
            child,
            folder,
            http: format!("http://localhost:{plain_port}"),
            https: format!("https://localhost:{port}"),
        };
        let up = async {
            let whole = |pem: String| pem.contains("END CERTIFICATE");
            while !std::fs::read_to_string(caddy.authority()).is_ok_and(whole) {
                tokio::task::yield_now().await;
            }
            // It listens before it has a certificate. What the server behind it says does not matter here.
            let probe = caddy.builder().timeout(Duration::from_millis(500)).build().expect("a client");
            while probe.get(&caddy.https).send().await.is_err_and(|error| error.is_connect()) {}
        };
        assert!(timeout(PATIENCE, up).await.is_ok(), "Caddy does not listen: {}", caddy.log());
        caddy
    }

    fn authority(&self) -> std::path::PathBuf {
        self.folder.path().join("caddy/pki/authorities/local/root.crt")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let pem = std::fs::read(self.authority()).expect("Caddy's authority");
        let authority = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]);
        client.redirect(reqwest::redirect::Policy::none())
    }

    fn client(&self) -> reqwest::Client {
        self.builder().timeout(PATIENCE).build().expect("a client")
    }

    /// The same account by way of this proxy.
    fn account(&self, account: &Account) -> Account {
        Account { base: self.https.clone(), http: self.client(), ..account.clone() }
    }

    async fn stop(mut self) -> String {
        self.child.kill().await.expect("it ran");
        self.log()
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

async fn server(change: impl FnOnce(&mut supersync::config::Config)) -> Server {
    Server::start_with(Backend::Postgres, |config| {
        config.trusted_proxies = 1;
        change(config);
    })
    .await
}

fn upstream(server: &Server) -> &str {
    server.base.trim_start_matches("http://")
}

#[tokio::test]
async fn postgres_devices_sync_through_it_and_its_log_holds_no_tokens() {
    let server = server(|_| ()).await;
    let caddy = Caddy::before(upstream(&server), 5, 5).await;
    let direct = server.account().await;
    let account = caddy.account(&direct);

    let authority = CertificateDer::from_pem_file(caddy.authority()).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority).expect("an authority");
    let trust = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let url = format!("{}/api/sync/ws?token={}&clientId=B", caddy.https.replacen("https", "wss", 1), account.token);
    let connector = Some(Connector::Rustls(Arc::new(trust)));
    let opening = tokio_tungstenite::connect_async_tls_with_config(url, None, true, connector);
    let (mut socket, _) = timeout(PATIENCE, opening).await.expect("in time").expect("the upgrade succeeds");
    assert_eq!(message(&mut socket).await["type"], "connected");
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
    assert_eq!(message(&mut socket).await["type"], "new_ops");
    assert_eq!(account.download(0).await.seqs(), [1]);

    let page = account.http.get(&account.base).header("accept-encoding", "gzip").send().await.expect("a page");
    assert_eq!((page.status().as_u16(), &page.headers()["content-encoding"]), (200, &"gzip".parse().expect("a value")));
    assert!(!page.headers().contains_key("server") && page.headers().contains_key("content-security-policy"));
    let plain = account.http.get(&caddy.http).send().await.expect("an answer");
    assert_eq!(plain.status().as_u16(), 308, "http leads to https");

    drop(socket);
    let written = async {
        while !caddy.log().contains("/api/sync/ws") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, written).await.expect("the socket's end is in the log");
    let log = caddy.stop().await;
    assert!(log.contains("/api/sync/ws?REDACTED"), "{log}");
    assert!(!log.contains(&account.token) && !log.contains("token="), "{log}");
}

async fn message(socket: &mut (impl futures_util::Stream<Item = Result<Frame, Broken>> + Unpin)) -> Value {
    use futures_util::StreamExt as _;
    loop {
        let frame = timeout(PATIENCE, socket.next()).await.expect("a frame in time").expect("the socket is open");
        if let Frame::Text(text) = frame.expect("the socket is open") {
            return serde_json::from_str(&text).expect("JSON");
        }
    }
}

#[tokio::test]
async fn postgres_what_is_too_large_for_the_server_is_refused_and_what_is_not_is_not() {
    let server = server(|_| ()).await;
    let caddy = Caddy::before(upstream(&server), 5, 5).await;
    let account = caddy.account(&server.account().await);
    for (path, bytes) in [("/api/sync/ops", 10 << 20), ("/api/sync/snapshot", 30 << 20)] {
        let send = async |bytes: usize| {
            let request = account.http.post(format!("{}{path}", account.base)).bearer_auth(&account.token);
            request.header("content-type", "application/json").body(vec![b' '; bytes]).send().await.expect("an answer")
        };
        let refused = send(bytes + 1).await;
        assert_eq!(refused.status().as_u16(), 413, "{path}");
        assert_eq!(refused.json::<Value>().await.expect("JSON")["error"], "Payload Too Large", "{path}");
        // As many bytes as the server takes reach it: it is its parser that finds nothing in them.
        assert_eq!(send(bytes).await.status().as_u16(), 400, "{path}");
    }
}

#[tokio::test]
async fn postgres_the_server_gives_up_before_the_proxy_does_and_says_so() {
    let server = server(|config| {
        config.timeouts.statement = Duration::from_mins(1);
        config.timeouts.handler = Duration::from_secs(1);
    })
    .await;
    let caddy = Caddy::before(upstream(&server), 5, 5).await;
    let direct = server.account().await;
    direct.upload("A", &[op("A")]).await.ok();
    let account = caddy.account(&direct);
    let mut session = server.database.postgres().session().await;
    sqlx::query("BEGIN").execute(&mut session).await.expect("a transaction");
    let lock = sqlx::query("SELECT 1 FROM user_sync_state WHERE user_id = $1 FOR UPDATE").bind(account.id);
    lock.execute(&mut session).await.expect("the lock");
    let stuck = account.upload("A", &[op("A")]).await;
    assert_eq!(stuck.status, 503, "{}", stuck.text);
    assert_ne!(stuck["error"], UNREACHABLE, "it is the server that answers");
    session.close().await.expect("the lock goes");
}

const UNREACHABLE: &str = "The server can't be reached at the moment, please retry";

#[tokio::test]
async fn postgres_a_server_that_says_nothing_or_is_not_there_is_told_as_json() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = format!("127.0.0.1:{}", free_port());
    for (upstream, status) in [(silent.local_addr().expect("bound").to_string(), 504), (nobody, 502)] {
        let caddy = Caddy::before(&upstream, 1, 1).await;
        let answer = caddy.client().get(format!("{}/api/sync/status", caddy.https)).send().await.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (status, &"5".parse().expect("a value"))
        );
        assert_eq!(answer.json::<Value>().await.expect("JSON"), json!({ "error": UNREACHABLE }));
    }
}

#[tokio::test]
async fn postgres_requests_wait_while_the_server_starts() {
    let address = format!("127.0.0.1:{}", free_port());
    let caddy = Caddy::before(&address, 30, 5).await;
    let waiting = tokio::spawn(caddy.client().get(format!("{}/livez", caddy.https)).send());
    // It has tried once at least when the proxy's log says so; then the server comes.
    let listener = TcpListener::bind(&address).await.expect("the port is still free");
    let answer = async {
        let (mut connection, _) = listener.accept().await.expect("the proxy tries again");
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("sent");
        connection
    };
    let _open = timeout(PATIENCE, answer).await.expect("in time");
    assert_eq!(waiting.await.expect("no panic").expect("an answer").status().as_u16(), 200);
}
