//! The server that the browser visits: as the program runs it, with mails in a folder.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use supersync::accounts::Accounts;
use supersync::clock::Clock;
use supersync::config::Config;
use supersync::mail::Mailer;
use supersync::server::{Parts, Running, Server, Upkeep};
use supersync::store;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// How long a mail may take to be written.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Site {
    /// Its address, as its users see it.
    pub url: String,
    pub accounts: Accounts,
    folder: TempDir,
    _running: Running,
}

impl Site {
    /// A server with these settings beside those that every test needs.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::start_in(folder, settings).await
    }

    /// The same in a folder that holds something already.
    pub async fn start_in(folder: TempDir, settings: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        // Browsers take passkeys on this name without TLS, and only on this one.
        let url = format!("http://localhost:{port}");
        let data = folder.path().to_string_lossy().into_owned();
        let mut variables: HashMap<String, String> = [
            ("DATA_DIR", data.as_str()),
            ("PUBLIC_URL", &url),
            ("JWT_SECRET", "a secret of the tests, long enough to be one"),
            ("MAIL_TRANSPORT", "file"),
            ("RATE_LIMITS", "off"),
            ("TRUSTED_PROXIES", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        variables.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config = Arc::new(Config::parse(&variables).expect("the settings are right"));
        let store = store::open(&config.database, config.timeouts.statement).await.expect("the store opens");
        let mailer = Mailer::from_config(&config).expect("a folder for mails");
        let parts = Parts::of(&config, Clock::System, mailer);
        let server = Server::assemble(config, store, parts).await.expect("the server starts");
        let running = server.start(listener, Upkeep::Runs);
        Self { url, accounts: running.accounts.clone(), folder, _running: running }
    }

    /// From now on nobody has proven for a long time who they are, in any session.
    pub fn age_sessions(&self) {
        let database = rusqlite::Connection::open(self.folder.path().join("supersync.db")).expect("the database");
        let aged = database.execute("UPDATE sessions SET authenticated_at = 0", []).expect("it can be written");
        assert!(aged > 0, "somebody is signed in");
    }

    /// The link in the newest of so many mails to this address.
    pub async fn link(&self, to: &str, count: usize) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            let mut mails = self.mails(to);
            if mails.len() >= count {
                let mail = mails.pop().expect("there is one");
                // Long lines are folded with an equals sign at the end, and equals signs are written as =3D.
                let text = mail.replace("=\r\n", "").replace("=3D", "=");
                let start = text.find(&self.url).unwrap_or_else(|| panic!("no link in {text}"));
                return text[start..].split_whitespace().next().expect("a link").to_owned();
            }
            assert!(tokio::time::Instant::now() < deadline, "{} of {count} mails to {to}", mails.len());
        }
    }

    fn mails(&self, to: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("mails")) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
            .collect();
        files.sort();
        let texts = files.iter().map(|file| std::fs::read_to_string(file).expect("a mail"));
        texts.filter(|text| text.contains(&format!("To: {to}"))).collect()
    }
}
