//! The compose files, as Docker Compose understands them. No engine is asked: Debian's `docker-compose` reads the files,
//! fills in the variables and checks the result against the specification.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use supersync::config::settings::{self, Default, is_of_others, variables};
use supersync::config::{Config, retired};

const NEEDED: [(&str, &str); 3] = [
    ("DOMAIN", "sync.example.org"),
    ("POSTGRES_PASSWORD", "hunter2"),
    ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
];

fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("it is shipped")
}

/// Without what Debian's Docker Compose (1.29) is too old for: the project's name, and files written into the compose
/// file. Returns these files apart.
fn for_debian(text: &str) -> (String, String) {
    let (mut rest, mut configs) = (String::new(), String::new());
    let mut inside = None;
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        if inside.is_some_and(|inside| depth <= inside && !line.is_empty()) {
            inside = None;
        }
        if line.trim_start() == "configs:" {
            inside = Some(depth);
        }
        let into = if inside.is_some() { &mut configs } else { &mut rest };
        if !line.starts_with("name:") {
            into.extend([line, "\n"]);
        }
    }
    (rest, configs)
}

/// `docker-compose config` with these variables.
fn config(files: &[&str], set: &[(&str, &str)]) -> Output {
    config_with(files, set, "")
}

/// The same beside this `.env`.
fn config_with(files: &[&str], set: &[(&str, &str)], dotenv: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join(".env"), dotenv).expect("written");
    let mut command = Command::new("docker-compose");
    command.env_clear().envs(set.iter().copied()).current_dir(&folder);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for file in files {
        fs::write(folder.path().join(file), for_debian(&shipped(file)).0).expect("written");
        command.args(["-f", file]);
    }
    command.arg("config").output().expect("docker-compose runs; it is in Debian's package docker-compose")
}

fn parsed(files: &[&str], set: &[(&str, &str)]) -> Value {
    understood(&config(files, set))
}

fn understood(output: &Output) -> Value {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    // A variable with no default warns and is empty.
    assert!(!errors.contains("WARN"), "{errors}");
    serde_yaml_ng::from_str(&text).expect("YAML")
}

const PLAIN: &[&str] = &["docker-compose.yml"];
const MONITORED: &[&str] = &["docker-compose.yml", "docker-compose.monitoring.yml"];

fn monitored() -> Value {
    parsed(MONITORED, &[&NEEDED[..], &[("GRAFANA_PASSWORD", "secret")]].concat())
}

fn services(compose: &Value) -> impl Iterator<Item = (&String, &Value)> {
    compose["services"].as_object().expect("services").iter()
}

#[test]
fn three_variables_are_enough_and_none_can_be_left_out() {
    parsed(PLAIN, &NEEDED);
    for (missing, _) in NEEDED {
        let rest: Vec<_> = NEEDED.into_iter().filter(|(name, _)| *name != missing).collect();
        let output = config(PLAIN, &rest);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(&format!("set {missing} in .env")), "{missing}: {errors}");
    }
    let output = config(MONITORED, &NEEDED);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("set GRAFANA_PASSWORD in .env"), "{errors}");
}

#[test]
fn the_example_of_settings_is_enough_once_what_is_needed_is_filled_in() {
    let example = shipped(".env.example");
    let mut filled = String::new();
    for line in example.lines() {
        let needed = NEEDED.iter().find(|(name, _)| line.split('=').next() == Some(name));
        filled += &needed.map_or_else(|| line.to_owned(), |(name, value)| format!("{name}={value}"));
        filled += "\n";
    }
    let (by_file, by_shell) = (understood(&config_with(PLAIN, &[], &filled)), parsed(PLAIN, &NEEDED));
    assert_eq!(environment(&by_file), environment(&by_shell), "it sets nothing else");
    let postgres = |compose: &Value| compose["services"]["postgres"]["environment"].clone();
    assert_eq!(postgres(&by_file), postgres(&by_shell));
    let untouched = config_with(PLAIN, &[], &example);
    let errors = String::from_utf8_lossy(&untouched.stderr);
    assert!(!untouched.status.success() && errors.contains("set POSTGRES_PASSWORD in .env"), "{errors}");
    assert!(example.contains("GRAFANA_PASSWORD="));
}

/// What the server's container gets when .env holds nothing but `set`.
fn environment(compose: &Value) -> BTreeMap<String, Option<String>> {
    let environment = compose["services"]["supersync"]["environment"].clone();
    serde_json::from_value(environment).expect("names with a text or nothing")
}

#[test]
fn the_server_gets_every_setting_that_it_knows_and_no_other() {
    let environment = environment(&parsed(PLAIN, &NEEDED));
    let passed: BTreeSet<&str> = environment.keys().map(String::as_str).collect();
    // Test mode is refused in production.
    let left_out = BTreeSet::from(["TEST_MODE", "TEST_MODE_CONFIRM"]);
    let names = variables().map(|variable| variable.name).filter(|name| !left_out.contains(name));
    let known: BTreeSet<&str> = names.chain(retired::all().map(|retired| retired.name)).collect();
    assert_eq!(passed, known);
    // A name that is not set stays so: not even empty, which switches CORS off.
    let set = environment.values().filter(|value| value.is_some()).count();
    assert!(set < 12, "{environment:?}");

    let one_more = parsed(PLAIN, &[&NEEDED[..], &[("CORS_ENABLED", "false")]].concat());
    assert_eq!(self::environment(&one_more)["CORS_ENABLED"].as_deref(), Some("false"));
}

#[test]
fn the_server_starts_with_what_it_gets() {
    let environment = environment(&parsed(PLAIN, &NEEDED));
    let set = environment.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let config = Config::parse(&set).expect("the settings are right");
    assert_eq!(config.public_url, "https://sync.example.org");
    assert!(matches!(config.database, supersync::config::Database::Postgres { max_connections: 20, .. }));
    assert!(is_of_others("SUPERSYNC_IMAGE"), "the one variable of compose that begins like the server's");
}

#[test]
fn it_has_time_to_finish_and_postgres_connections_to_spare() {
    let compose = parsed(PLAIN, &NEEDED);
    let default = settings::find("SHUTDOWN_TIMEOUT_SECONDS").expect("a setting").default;
    let Default::Value(drain) = default else { panic!("it has a default") };
    // The old server's project has this name, and volumes that must stay as they are.
    assert_ne!(compose["name"], "super-sync-server");
    let grace = compose["services"]["supersync"]["stop_grace_period"].as_str().expect("a grace period");
    let grace: u64 = grace.trim_end_matches('s').parse().expect("seconds");
    assert!(Duration::from_secs(grace) >= Duration::from_secs(drain.parse::<u64>().expect("seconds") + 5));
    let arguments = compose["services"]["postgres"]["command"].as_array().expect("arguments");
    let most = arguments.iter().find_map(|argument| argument.as_str()?.strip_prefix("max_connections="));
    // Two servers during an update, exporter, tools.
    assert!(most.expect("it is set").parse::<u32>().expect("a number") >= 2 * 20 + 20);
}

#[test]
fn only_the_proxy_is_reachable_from_elsewhere() {
    let compose = monitored();
    for (name, service) in services(&compose) {
        for port in service["ports"].as_array().into_iter().flatten() {
            let local = port.as_str().is_some_and(|port| port.starts_with("127.0.0.1:"));
            assert!(local || name == "caddy", "{name}: {port}");
        }
        assert!(service["network_mode"].is_null(), "{name}");
    }
    assert!(compose["services"]["postgres"]["ports"].is_null());
    assert!(compose["services"]["caddy"]["ports"].as_array().is_some_and(|ports| ports.len() == 3));
}

#[test]
fn everything_is_pinned_limited_and_without_rights() {
    for (name, service) in services(&monitored()) {
        let image = service["image"].as_str().expect("an image");
        let (_, tag) = image.rsplit_once(':').expect("a version");
        assert!(tag.starts_with(|c: char| c.is_ascii_digit() || c == 'v') || image == "supersync:local", "{image}");
        assert!(service["mem_limit"].is_string(), "{name}");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert!(service["privileged"].is_null(), "{name}");
        assert_eq!(service["logging"]["options"]["max-size"], "10m", "{name}");
        let read_only = service["read_only"] == true;
        assert_eq!(read_only, ["supersync", "caddy"].contains(&name.as_str()), "{name}");
        let added = service["cap_add"].as_array().map_or(0, Vec::len);
        assert!(added == 0 || ["caddy", "postgres"].contains(&name.as_str()), "{name}");
    }
}

#[test]
fn each_waits_until_what_it_needs_is_healthy() {
    let compose = monitored();
    for (name, needs) in [("supersync", "postgres"), ("caddy", "supersync"), ("postgres-exporter", "postgres")] {
        assert_eq!(compose["services"][name]["depends_on"][needs]["condition"], "service_healthy", "{name}");
    }
    for name in ["postgres", "caddy"] {
        assert!(compose["services"][name]["healthcheck"]["test"].is_array(), "{name}");
    }
    // The image brings its own.
    assert!(compose["services"]["supersync"]["healthcheck"].is_null());
    assert!(shipped("Dockerfile").contains("HEALTHCHECK "));
}

#[test]
fn what_is_mounted_is_shipped() {
    for (name, service) in services(&monitored()) {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().expect("source:target").split(':').next().expect("a source");
            // The test's folder stands before it.
            if let Some((_, path)) = source.split_once("/monitoring/") {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring").join(path);
                assert!(path.is_dir(), "{name}: {}", path.display());
            }
        }
    }
}

#[test]
fn prometheus_finds_what_it_watches() {
    let compose = monitored();
    let prometheus: Value = serde_yaml_ng::from_str(&shipped("monitoring/prometheus/prometheus.yml")).expect("YAML");
    let mut targets = Vec::new();
    for job in prometheus["scrape_configs"].as_array().expect("jobs") {
        for given in job["static_configs"].as_array().into_iter().flatten() {
            targets.extend(given["targets"].as_array().expect("targets").clone());
        }
        for rule in job["relabel_configs"].as_array().into_iter().flatten() {
            targets.extend(rule.get("replacement").cloned());
        }
    }
    targets.extend(
        prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"][0].as_str().map(Value::from),
    );
    assert!(targets.len() >= 5, "{targets:?}");
    for target in &targets {
        let (host, _) = target.as_str().and_then(|target| target.split_once(':')).expect("host:port");
        assert!(compose["services"][host].is_object(), "{host}");
    }
    let metrics = environment(&compose)["METRICS_ADDR"].clone().expect("it is set");
    let port = metrics.rsplit(':').next().expect("a port");
    assert!(targets.contains(&json!(format!("supersync:{port}"))));
    // The public address, which Debian's Docker Compose does not read.
    let (_, configs) = for_debian(&shipped("docker-compose.monitoring.yml"));
    assert!(configs.contains("https://${DOMAIN:?set DOMAIN in .env}/health"), "{configs}");
    let written = configs.lines().find_map(|line| line.trim().strip_prefix("target: ")).expect("a file");
    assert_eq!(Path::new(written).parent(), Some(Path::new("/etc/prometheus-targets")));
}

#[test]
fn compose_reads_settings_as_documented() {
    let document = shipped("docs/configuration.md");
    let table = document.split("<!-- readings -->").nth(1).expect("the table").split("<!-- /readings -->").next();
    let mut count = 0;
    for row in table.expect("its end").lines().skip(3) {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(".env"), cells[1]).expect("written");
        let file = "version: '3'\nservices: {x: {image: x, environment: {A: '${A:-–}'}}}\n";
        fs::write(folder.path().join("docker-compose.yml"), file).expect("written");
        let mut command = Command::new("docker-compose");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(&folder)
            .arg("config");
        let output = command.output().expect("docker-compose runs; `make test-all` installs it");
        let read = serde_yaml_ng::from_slice::<Value>(&output.stdout).unwrap_or_default();
        let value = read["services"]["x"]["environment"]["A"].as_str().unwrap_or("–").replace('\n', "↵");
        assert_eq!(value, cells[4], "{row}: {}", String::from_utf8_lossy(&output.stderr));
        count += 1;
    }
    assert!(count > 10, "{count}");
}
