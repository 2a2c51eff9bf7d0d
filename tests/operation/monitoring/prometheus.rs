//! A real Prometheus in a temporary directory.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{LONG_PATIENCE, free_port, http_client};
use crate::monitoring::{folder, program};

/// How often to look at something that happens elsewhere.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Scrapes once a second.
pub struct Prometheus {
    child: Child,
    base: String,
    http: Client,
    _directory: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rules, evaluated once a second instead of when the files say.
fn hasten(directory: &TempDir) {
    for entry in fs::read_dir(folder("prometheus/rules")).expect("the rules") {
        let entry = entry.expect("an entry");
        let text = fs::read_to_string(entry.path()).expect("UTF-8").replace("interval: 30s", "interval: 1s");
        fs::write(directory.path().join(entry.file_name()), text).expect("written");
    }
}

impl Prometheus {
    /// Starts, with the repository's rules, on the metrics of `target`, and waits until it answers.
    pub async fn start(target: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        hasten(&directory);
        let rules = directory.path().join("*.yml");
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{job_name: supersync, static_configs: [{{targets: ['{target}']}}]}}]\n",
            rules.display()
        );
        let path = directory.path().join("config.yaml");
        fs::write(&path, config).expect("written");
        let address = format!("127.0.0.1:{}", free_port());
        let child = program("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        let http = http_client();
        let prometheus = Self { child, base: format!("http://{address}"), http, _directory: directory };
        let ready = async {
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                look.tick().await;
                let asked = prometheus.http.get(format!("{}/-/ready", prometheus.base)).send().await;
                if asked.is_ok_and(|answer| answer.status().is_success()) {
                    return;
                }
            }
        };
        tokio::time::timeout(LONG_PATIENCE, ready).await.expect("prometheus is ready in time");
        prometheus
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut url = url::Url::parse(&format!("{}{path}", self.base)).expect("an address");
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.http.get(url).send().await.expect("prometheus answers");
        let body: Value = serde_json::from_slice(&answer.bytes().await.expect("whole")).expect("JSON");
        assert_eq!(body["status"], "success", "{query:?}: {}", body["error"]);
        body["data"].clone()
    }

    /// The query's values at this moment.
    pub async fn query(&self, expr: &str) -> Vec<f64> {
        let data = self.get("/api/v1/query", &[("query", expr)]).await;
        assert_eq!(data["resultType"], "vector", "{expr}");
        let result = data["result"].as_array().expect("a list");
        result.iter().map(|sample| sample["value"][1].as_str().expect("a text").parse().expect("a number")).collect()
    }

    /// The query's series over the last minute, for a picture of them.
    pub async fn range(&self, expr: &str) -> Value {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let (start, end) = ((now - 60).to_string(), now.to_string());
        self.get("/api/v1/query_range", &[("query", expr), ("start", &start), ("end", &end), ("step", "1")]).await
    }

    /// Every rule, with its state.
    pub async fn rules(&self) -> Vec<Value> {
        let data = self.get("/api/v1/rules", &[]).await;
        let groups = data["groups"].as_array().expect("groups");
        groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
    }
}
