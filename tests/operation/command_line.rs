//! The program as an operator meets it: what it prints, and with which code it ends.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program in a directory of its own, with nothing of the caller's environment.
fn supersync(directory: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_supersync"));
    command.current_dir(directory).env_clear().envs(variables.iter().copied()).args(arguments).stdin(Stdio::null());
    command
}

fn run(directory: &TempDir, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    supersync(directory.path(), variables, arguments).output().expect("the program runs")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("temporary directory")
}

/// Fails, and returns what it says.
#[track_caller]
fn refused(directory: &TempDir, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = run(directory, variables, arguments);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[test]
fn a_wrong_configuration_ends_the_start_with_every_problem_and_no_secret() {
    let said = refused(&directory(), &[("PORT", "x"), ("JWT_SECRET", "hunter2"), ("SUPERSYNC_X", "hunter2")], &[]);
    for part in ["3 problem(s)", "PORT: is \"x\"", "JWT_SECRET: has 7 characters", "SUPERSYNC_X: there is no such"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_port_in_use_is_one_friendly_line() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let variables = [("HOST", "127.0.0.1"), ("PORT", &*port), ("METRICS_ADDR", "off"), ("LOG_LEVEL", "error")];
    let said = refused(&directory(), &variables, &["serve"]);
    assert_eq!(
        said,
        format!(
            "supersync: can't listen on 127.0.0.1:{port}: another program listens there, maybe a second supersync (change HOST or PORT)\n"
        )
    );
}

#[test]
fn a_command_says_that_the_database_does_not_answer_without_the_password() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let url = format!("postgres://user:hunter2@127.0.0.1:{port}/sync?pool_timeout=2");
    let variables = [("DATABASE_URL", &*url), ("METRICS_ADDR", "off"), ("LOG_LEVEL", "error")];
    let said = refused(&directory(), &variables, &["migrate", "status"]);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("supersync: database unavailable: "), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_data_directory_that_can_not_be_made_is_named() {
    let directory = directory();
    std::fs::write(directory.path().join("file"), "").expect("written");
    let secret = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    let said = refused(&directory, &[("DATA_DIR", "file/data"), secret], &["serve"]);
    assert!(said.starts_with("supersync: DATA_DIR file/data can't be created: "), "{said}");
}

#[test]
fn a_health_check_without_a_server_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    drop(listener);
    let said = refused(&directory(), &[("PORT", &port)], &["healthcheck"]);
    assert!(said.contains("no answer"), "{said}");
}

#[test]
fn wrong_arguments_are_explained() {
    let output = run(&directory(), &[], &["sevre"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("serve"), "{said}");
}

#[test]
fn the_environment_wins_over_the_env_file() {
    let directory = directory();
    std::fs::write(
        directory.path().join(".env"),
        "PORT=1901\nHOST=127.0.0.1\nJWT_SECRET=hunter2hunter2hunter2hunter2hunter2\n",
    )
    .expect("written");
    let output = run(&directory, &[("PORT", "1902")], &["--print-config"]);
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    for line in ["PORT=1902", "HOST=127.0.0.1", "JWT_SECRET=********", "# DATA_DIR=data"] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is missing in {printed}");
    }
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn credentials_in_addresses_are_not_shown() {
    let given = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@collector:4318/?key=hunter2"),
        ("PUBLIC_URL", "https://user:hunter2@sync.example.org"),
        ("CORS_ORIGINS", "https://app.example.org"),
    ];
    let output = run(&directory(), &given, &["--print-config"]);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    for line in [
        "OTEL_EXPORTER_OTLP_ENDPOINT='http://***@collector:4318/?***'",
        "PUBLIC_URL=https://***@sync.example.org",
        "CORS_ORIGINS=https://app.example.org",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is missing in {printed}");
    }
    assert!(!printed.contains("hunter2"), "{printed}");
    // Nor what is wrong with them.
    let wrong = [("PUBLIC_URL", "ftp://user:hunter2@sync.example.org"), ("CORS_ORIGINS", "https://u:hunter2@b.co")];
    let said = refused(&directory(), &wrong, &["serve"]);
    assert!(said.contains("PUBLIC_URL") && said.contains("CORS_ORIGINS") && !said.contains("hunter2"), "{said}");
}

#[test]
fn commands_that_only_look_make_nothing() {
    let directory = directory();
    assert!(run(&directory, &[], &["--print-config"]).status.success());
    let said = refused(&directory, &[], &["migrate", "status"]);
    assert!(said.contains("pending"), "{said}");
    assert!(std::fs::read_dir(directory.path()).expect("directory").next().is_none());
}

#[test]
fn help_teaches() {
    let output = run(&directory(), &[], &["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    for part in
        ["serve", "migrate", "healthcheck", "--print-config", "supersync user add me@example.org", "Exit codes:"]
    {
        assert!(help.contains(part), "{part} is missing in {help}");
    }
}

#[cfg(unix)]
#[test]
fn a_start_says_what_to_do_next_and_a_signal_ends_it_in_order() {
    let directory = directory();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    drop(listener);
    let variables = [("HOST", "127.0.0.1"), ("PORT", &*port), ("METRICS_ADDR", "off"), ("LOG_LEVEL", "warn")];
    let mut server = supersync(directory.path(), &variables, &[]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines().map(|line| line.expect("UTF-8"));
    let welcome: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with('╰')).collect();
    let welcome = welcome.join("\n");
    assert!(welcome.contains("is ready") && welcome.contains(&format!("http://localhost:{port}")), "{welcome}");
    assert!(welcome.contains("user add you@example.org"), "{welcome}");

    let healthy = run(&directory, &variables, &["healthcheck"]);
    assert!(healthy.status.success(), "{healthy:?}");

    crate::harness::send_signal(server.id(), rustix::process::Signal::TERM);
    assert_eq!(server.wait().expect("it ends").code(), Some(0));
}

/// A server, until it is dropped.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

#[tokio::test]
async fn the_log_of_a_new_server_has_a_link_to_claim_it_and_commands_make_invitations() {
    let directory = directory();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    drop(listener);
    let base = format!("http://localhost:{port}");
    let variables = [
        SECRET,
        ("HOST", "127.0.0.1"),
        ("PORT", &*port),
        ("PUBLIC_URL", &*base),
        ("METRICS_ADDR", "off"),
        ("MAIL_TRANSPORT", "off"),
        ("REGISTRATION", "invite"),
    ];
    let mut command = supersync(directory.path(), &variables, &[]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map(|line| line.expect("UTF-8"));
    let _running = Running(child);
    let line = lines.find(|line| line.contains("/claim?token=")).expect("the link is in the log");
    let claim = line[line.find("token=").expect("found") + "token=".len()..].trim().to_owned();
    // What a full pipe would stop goes nowhere.
    std::thread::spawn(move || lines.for_each(drop));

    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    let send = async |path: &str, body: serde_json::Value| {
        let answer = http.post(format!("{base}{path}")).json(&body).send().await.expect("the server answers");
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.expect("JSON"))
    };
    let password = "a long passphrase";
    let register = |email: &str, invite: Option<&str>| serde_json::json!({ "email": email, "password": password, "invite": invite });
    assert_eq!(send("/api/register", register("nobody@b.co", None)).await.0, 403);
    assert_eq!(send("/api/register", register("root@b.co", Some(&claim))).await.0, 201);
    assert_ne!(send("/api/register", register("late@b.co", Some(&claim))).await.0, 201);
    let (status, session) = send("/api/login", serde_json::json!({ "email": "root@b.co", "password": password })).await;
    assert_eq!(status, 200, "{session}");
    let token = session["token"].as_str().expect("a token");
    let facts = http.get(format!("{base}/api/admin/server")).bearer_auth(token).send().await.expect("an answer");
    assert_eq!(facts.status().as_u16(), 200, "whoever claims a server is its administrator");

    let output = run(&directory, &variables, &["user", "invite", "guest@b.co"]);
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let invite = said.trim().strip_prefix(&format!("{base}/invite?token=")).expect("a link").to_owned();
    assert_ne!(send("/api/register", register("other@b.co", Some(&invite))).await.0, 201, "it is the guest's");
    assert_eq!(send("/api/register", register("guest@b.co", Some(&invite))).await.0, 201);
}

/// The settings of commands that need a database.
const SECRET: (&str, &str) = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");

#[test]
fn exit_codes_are_for_scripts() {
    let directory = directory();
    let code = |arguments: &[&str]| run(&directory, &[SECRET], arguments).status.code();
    assert_eq!(code(&["user", "add", "a@b.co"]), Some(0));
    assert_eq!(code(&["user", "add", "nobody"]), Some(1));
    assert_eq!(code(&["user", "lock"]), Some(2));
    assert_eq!(code(&["user", "show", "n@b.co"]), Some(3));
    assert_eq!(code(&["user", "add", "a@b.co"]), Some(4));
    assert_eq!(code(&["data", "clear", "n@b.co", "--yes"]), Some(3));
    assert_eq!(code(&["data", "clear", "a@b.co"]), Some(4));
    assert_eq!(code(&["data", "clear"]), Some(2));
    assert_eq!(code(&["data", "clear", "a@b.co", "--all"]), Some(2));
    let nowhere = ("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/sync?pool_timeout=1");
    let output = run(&directory, &[SECRET, nowhere], &["user", "list"]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.code() == Some(5) && !said.contains("hunter2"), "{said}");
    let is_one_line = said.lines().count() == 1 && said.ends_with("correct host and port in DATABASE_URL.\n");
    assert!(is_one_line, "the reason and what to do about it, once: {said}");
}

#[test]
fn synced_data_is_cleared_and_the_account_stays() {
    let directory = directory();
    for email in ["a@b.co", "b@b.co"] {
        assert!(run(&directory, &[SECRET], &["user", "add", email]).status.success());
    }
    let say = |arguments: &[&str]| {
        let output = run(&directory, &[SECRET], arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(say(&["data", "clear", "a@b.co", "--yes"]), "Deleted the synced data of 1 account(s).\n");
    assert_eq!(say(&["data", "clear", "--all", "--yes"]), "Deleted the synced data of 2 account(s).\n");
    assert!(say(&["user", "list"]).ends_with("2 accounts\n"));
}

/// The names of what there is in a folder.
fn contents(directory: &TempDir) -> Vec<String> {
    let names =
        std::fs::read_dir(directory.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

#[test]
fn whoever_looks_in_another_folder_than_the_server_s_makes_nothing_and_is_asked() {
    for arguments in [
        &["user", "list"] as &[&str],
        &["user", "list", "--json"],
        &["user", "show", "a@b.co"],
        &["user", "sessions", "a@b.co"],
        &["user", "log", "a@b.co"],
        &["user", "token", "a@b.co"],
        &["user", "lock", "a@b.co"],
        &["user", "delete", "a@b.co", "--yes"],
        &["data", "usage"],
        &["data", "recount"],
        &["data", "archives", "a@b.co"],
        &["data", "clear", "--all", "--yes"],
        &["sweep", "--dry-run"],
        &["backup", "here.ssb"],
    ] {
        let directory = directory();
        let output = run(&directory, &[], arguments);
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {said}");
        assert!(said.contains("is this the server's folder?"), "{arguments:?}: {said}");
        assert!(said.contains("data/supersync.db"), "{arguments:?}: {said}");
        assert_eq!(contents(&directory), Vec::<String>::new(), "{arguments:?}");
    }
    // The first account may come before the first start.
    let directory = directory();
    assert!(run(&directory, &[], &["user", "add", "a@b.co"]).status.success());
    assert!(run(&directory, &[], &["user", "list"]).status.success());
    assert_eq!(contents(&directory), ["data"]);
}

#[test]
fn an_env_file_is_read_as_the_node_server_reads_it() {
    let directory = directory();
    let file = "\u{feff}# settings\r\nexport WEBAUTHN_RP_NAME=pa$$word of $HOME\r\nSMTP_FROM=\"Name\" <a@b.example>\r\n\
                PRIVACY_DATA_REGION='it\\s' # a comment\r\nSMTP_HOST=\"mail.example.org\"\r\nJWT_SECRET=0123456789abcdef0123456789abcde#\r\n";
    std::fs::write(directory.path().join(".env"), file).expect("written");
    let said = refused(&directory, &[], &["--print-config"]);
    assert!(said.contains("JWT_SECRET (.env, line 6): has 31 characters"), "{said}");
    std::fs::write(directory.path().join(".env"), file.replace("abcde#", "abcdef")).expect("written");
    let output = run(&directory, &[], &["--print-config"]);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    for line in [
        "WEBAUTHN_RP_NAME='pa$$word of $HOME'",
        "SMTP_FROM='\"Name\" <a@b.example>'",
        "PRIVACY_DATA_REGION='it\\s'",
        "SMTP_HOST=mail.example.org",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is missing in {printed}");
    }
    // What is printed is read the same.
    std::fs::write(directory.path().join(".env"), printed.replace("********", SECRET.1)).expect("written");
    let again = String::from_utf8(run(&directory, &[], &["--print-config"]).stdout).expect("UTF-8");
    assert_eq!(again, printed);
}

#[test]
fn secrets_come_from_files_and_from_systemd() {
    let directory = directory();
    let credentials = directory.path().join("credentials");
    std::fs::create_dir(&credentials).expect("made");
    std::fs::write(credentials.join("jwt-secret"), format!("{}\n", SECRET.1)).expect("written");
    std::fs::write(directory.path().join("url"), "sqlite://elsewhere.db\n").expect("written");
    let folder = credentials.display().to_string();
    let production = [
        ("SUPERSYNC_ENV", "production"),
        ("PUBLIC_URL", "https://sync.example.org"),
        ("CREDENTIALS_DIRECTORY", &folder),
        ("DATABASE_URL_FILE", "url"),
    ];
    let output = run(&directory, &production, &["user", "add", "a@b.co"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(directory.path().join("elsewhere.db").exists());
    let said = refused(&directory, &[production[0], production[1], ("JWT_SECRET_FILE", "nowhere")], &["user", "list"]);
    assert!(said.contains("JWT_SECRET_FILE: nowhere does not exist"), "{said}");
}

#[test]
fn the_operator_s_link_is_logged_at_any_level_and_unknown_levels_are_refused() {
    let said = refused(&directory(), &[("LOG_LEVEL", "warning")], &[]);
    assert!(said.contains("LOG_LEVEL: is \"warning\"; expected error, warn, info"), "{said}");
    for (level, format) in [("off", "text"), ("error", "json"), ("sqlx=debug", "text")] {
        let directory = directory();
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("bound").port().to_string();
        drop(free);
        let variables = [
            ("HOST", "127.0.0.1"),
            ("PORT", &*port),
            ("METRICS_ADDR", "off"),
            ("LOG_LEVEL", level),
            ("LOG_FORMAT", format),
        ];
        let mut command = supersync(directory.path(), &variables, &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map(|line| line.expect("UTF-8"));
        let _running = Running(child);
        assert!(lines.any(|line| line.contains("OPERATOR") && line.contains("/claim?token=")), "{level}");
    }
}

#[test]
fn settings_that_kubernetes_makes_are_no_reason_not_to_start() {
    let variables = [
        ("SUPERSYNC_POSTGRES_SERVICE_HOST", "10.0.0.2"),
        ("SUPERSYNC_POSTGRES_PORT", "tcp://10.0.0.2:5432"),
        ("SUPERSYNC_POSTGRES_PORT_5432_TCP_ADDR", "10.0.0.2"),
        ("SMTP_PORT", "tcp://10.0.0.3:25"),
    ];
    let output = run(&directory(), &variables, &["--print-config"]);
    let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && printed.contains("# SMTP_PORT=587\n"), "{printed}{said}");
    assert!(said.contains("warning: SMTP_PORT: was set by Kubernetes or Docker for a service called smtp"), "{said}");
}
