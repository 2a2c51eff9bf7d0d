//! A browser under the test's control: Chromium without a window, spoken to through its `WebDriver` program.
//!
//! Waits for what the page does, inside the page, and never for a time. Everything that the console says is kept.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// How long the page may take to become what a test waits for.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one script looks.
const LOOK: Duration = Duration::from_secs(1);
const MISSING: &str = "the browser tests need Chromium and its WebDriver: apt-get install chromium chromium-driver \
    (`make test-all` does that by itself), or name the programs in CHROMIUM and CHROMEDRIVER";

/// The name under which `WebDriver` gives out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one tab. Ends with this value.
pub struct Browser {
    driver: Child,
    session: String,
    http: reqwest::Client,
    server: String,
    _profile: tempfile::TempDir,
}

/// What a console message was about.
#[derive(Clone, Debug)]
pub struct Message {
    pub level: String,
    pub text: String,
}

fn program(variable: &str, names: &[&str]) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut candidates = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates.find(|file| file.is_file()).unwrap_or_else(|| panic!("{MISSING}"))
}

impl Browser {
    /// A browser whose pages are at `server`, in English unless a page asks for another language.
    pub async fn open(server: &str) -> Self {
        let chromium = program("CHROMIUM", &["chromium", "chromium-browser", "google-chrome"]);
        let mut driver = Command::new(program("CHROMEDRIVER", &["chromedriver"]))
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the WebDriver program starts");
        let output = driver.stdout.take().expect("it was asked for");
        let port = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(output).lines();
            let port = lines.find_map(|line| {
                let line = line.ok()?;
                line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
            });
            // Read on, or the program stands still when the pipe is full.
            std::thread::spawn(move || lines.for_each(drop));
            port
        })
        .await
        .expect("the thread lives")
        .expect("the WebDriver program says its port");

        let profile = tempfile::tempdir().expect("a folder");
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                "--no-first-run", "--disable-extensions", "--disable-background-networking", "--window-size=1280,900",
                "--lang=en-US", "--accept-lang=en-US", format!("--user-data-dir={}", profile.path().display()),
            ], "prefs": { "intl.accept_languages": "en-US" } },
            "goog:loggingPrefs": { "browser": "ALL" },
            "timeouts": { "script": (2 * LOOK).as_millis(), "pageLoad": PATIENCE.as_millis(), "implicit": 0 },
        } } });
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE * 2).build().expect("a client");
        let base = format!("http://127.0.0.1:{port}/session");
        let answer = http.post(&base).json(&capabilities).send().await.expect("the WebDriver program answers");
        let answer: Value = answer.json().await.expect("JSON");
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no browser: {answer}"));
        let session = format!("{base}/{id}");
        Self { driver, session, http, server: server.to_owned(), _profile: profile }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Value> {
        let answer: Value = request.send().await.expect("the browser answers").json().await.expect("JSON");
        let value = answer["value"].clone();
        if value.get("error").is_some() { Err(value) } else { Ok(value) }
    }

    async fn try_post(&self, path: &str, body: Value) -> Result<Value, Value> {
        self.send(self.http.post(format!("{}/{path}", self.session)).json(&body)).await
    }

    #[track_caller]
    fn must(what: &str, result: Result<Value, Value>) -> Value {
        result.unwrap_or_else(|error| panic!("{what}: {} {}", error["error"], error["message"]))
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        Self::must(path, self.try_post(path, body).await)
    }

    /// Opens a page of the server, or a whole address.
    pub async fn go(&self, page: &str) {
        let url = if page.starts_with("http") { page.to_owned() } else { format!("{}{page}", self.server) };
        self.post("url", json!({ "url": url })).await;
    }

    /// What an expression is in the page.
    pub async fn eval(&self, expression: &str) -> Value {
        self.post("execute/sync", json!({ "script": format!("return ({expression});"), "args": [] })).await
    }

    /// Waits until an expression is true in the page; looks whenever the page changes. Survives changes of the page: a
    /// script that went with its page says nothing more, so each looks for a while only.
    pub async fn until(&self, condition: &str) {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             let timer;
             const end = (found) => {{ clearInterval(timer); watch.disconnect(); done(found); }};
             const look = () => {{
               let found = false;
               try {{ found = Boolean({condition}); }} catch {{ found = false; }}
               if (found) end(true);
             }};
             setTimeout(() => end(false), {});
             const watch = new MutationObserver(look);
             watch.observe(document, {{ subtree: true, childList: true, attributes: true, characterData: true }});
             timer = setInterval(look, 100);
             look();",
            LOOK.as_millis()
        );
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let seen = self.try_post("execute/async", json!({ "script": script, "args": [] })).await;
            if seen == Ok(Value::Bool(true)) {
                return;
            }
            if tokio::time::Instant::now() >= deadline {
                let text = self.eval("document.body.innerText").await;
                panic!("not seen in time: {condition}\n{seen:?}\nthe page: {text}\n{:?}", self.console().await)
            }
        }
    }

    /// Waits until an element can be seen.
    pub async fn until_visible(&self, css: &str) {
        self.until(&format!("document.querySelector({})?.checkVisibility()", Value::from(css))).await;
    }

    /// Waits until an element's text has this in it.
    pub async fn until_text(&self, css: &str, text: &str) {
        let (css, text) = (Value::from(css), Value::from(text));
        self.until(&format!("document.querySelector({css})?.innerText.includes({text})")).await;
    }

    async fn element(&self, css: &str) -> String {
        let found = self.post("element", json!({ "using": "css selector", "value": css })).await;
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    /// Clicks as a person does: the element must be there and not be covered.
    pub async fn click(&self, css: &str) {
        self.until_visible(css).await;
        let element = self.element(css).await;
        let result = self.try_post(&format!("element/{element}/click"), json!({})).await;
        Self::must(&format!("click {css}"), result);
    }

    /// Types into a field in place of what is there.
    pub async fn fill(&self, css: &str, text: &str) {
        self.until_visible(css).await;
        let element = self.element(css).await;
        self.post(&format!("element/{element}/clear"), json!({})).await;
        self.post(&format!("element/{element}/value"), json!({ "text": text })).await;
    }

    /// An element's text as it is shown.
    pub async fn text(&self, css: &str) -> String {
        let text = self.eval(&format!("document.querySelector({}).innerText", Value::from(css))).await;
        text.as_str().expect("text").to_owned()
    }

    /// An element's value.
    pub async fn value(&self, css: &str) -> String {
        let value = self.eval(&format!("document.querySelector({}).value", Value::from(css))).await;
        value.as_str().expect("a text").to_owned()
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// Makes the window so wide, and the system light or dark.
    pub async fn look(&self, width: u32, is_dark: bool) {
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Writes a picture of the whole page to `target/screenshots/NAME.png`.
    pub async fn picture(&self, name: &str) {
        let parameters = json!({ "captureBeyondViewport": true, "format": "png" });
        let shot = self.devtools("Page.captureScreenshot", parameters).await;
        let bytes = STANDARD.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("{name}.png")), bytes).expect("a file");
    }

    /// A security key that always agrees, as built into phones and laptops.
    pub async fn add_authenticator(&self) -> String {
        let authenticator = json!({
            "protocol": "ctap2", "transport": "internal", "hasResidentKey": true, "hasUserVerification": true,
            "isUserVerified": true, "isUserConsenting": true,
        });
        self.post("webauthn/authenticator", authenticator).await.as_str().expect("an id").to_owned()
    }

    /// Loses a security key.
    pub async fn remove_authenticator(&self, id: &str) {
        let request = self.http.delete(format!("{}/webauthn/authenticator/{id}", self.session));
        Self::must("remove the authenticator", self.send(request).await);
    }

    /// What the console has said since the last call.
    pub async fn console(&self) -> Vec<Message> {
        let log = self.post("se/log", json!({ "type": "browser" })).await;
        log.as_array()
            .expect("a list")
            .iter()
            .map(|entry| Message {
                level: entry["level"].as_str().unwrap_or_default().to_owned(),
                text: entry["message"].as_str().unwrap_or_default().to_owned(),
            })
            .collect()
    }

    /// Nothing has gone wrong in the page since the last look: no error, no warning, no breach of the content policy.
    /// Answers that the test itself provoked are named by a part of their text.
    pub async fn assert_quiet(&self, provoked: &[&str]) {
        let loud: Vec<Message> = self
            .console()
            .await
            .into_iter()
            .filter(|message| matches!(message.level.as_str(), "SEVERE" | "WARNING"))
            .filter(|message| !provoked.iter().any(|part| message.text.contains(part)))
            .collect();
        assert!(loud.is_empty(), "{loud:#?}");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver takes its browser along when it is asked to end.
        let request = format!(
            "DELETE {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            self.session
                .trim_start_matches("http://")
                .split_once('/')
                .map_or("", |(_, path)| path)
                .replacen("session", "/session", 1)
        );
        let address = self.session.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
        if let Ok(mut stream) = std::net::TcpStream::connect(address) {
            use std::io::{Read as _, Write as _};
            let _patience = stream.set_read_timeout(Some(Duration::from_secs(10)));
            if stream.write_all(request.as_bytes()).is_ok() {
                let mut answer = [0; 16];
                let _answered = stream.read(&mut answer);
            }
        }
        let _ended = self.driver.kill();
        let _reaped = self.driver.wait();
    }
}
