//! The dashboards as Grafana reads them.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::monitoring::folder;

/// One query of a panel.
#[derive(Clone, Debug)]
pub struct Query {
    /// Dashboard and panel.
    pub panel: String,
    pub unit: String,
    /// Smallest value that makes sense, if there is one.
    pub min: Option<f64>,
    pub expr: String,
}

/// Every dashboard.
pub fn all() -> Vec<Value> {
    let entries = fs::read_dir(folder("grafana/dashboards")).expect("the dashboards");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.map(|path| serde_json::from_str(&fs::read_to_string(path).expect("UTF-8")).expect("JSON")).collect()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = dashboard["panels"].as_array().expect("panels");
    panels.iter().filter(|panel| panel["type"] != "row")
}

/// Every query of every panel.
pub fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for dashboard in all() {
        for panel in panels(&dashboard) {
            let defaults = &panel["fieldConfig"]["defaults"];
            for target in panel["targets"].as_array().expect("targets") {
                queries.push(Query {
                    panel: format!("{}, {}", text(&dashboard["title"]), text(&panel["title"])),
                    unit: text(&defaults["unit"]).to_owned(),
                    min: defaults["min"].as_f64(),
                    expr: text(&target["expr"]).to_owned(),
                });
            }
        }
    }
    queries
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// What Grafana needs to load them, and people to read them.
#[test]
fn dashboards_are_complete() {
    let dashboards = all();
    let titles: BTreeSet<&str> = dashboards.iter().map(|dashboard| text(&dashboard["title"])).collect();
    let expected =
        ["Overview", "Sync engine", "Storage", "Accounts and sockets"].map(|name| format!("SuperSync: {name}"));
    assert_eq!(titles, expected.iter().map(String::as_str).collect());
    let source =
        fs::read_to_string(folder("grafana/provisioning/datasources/prometheus.yml")).expect("the data source");
    for dashboard in &dashboards {
        let title = text(&dashboard["title"]);
        assert!(dashboard["schemaVersion"].as_i64().is_some_and(|version| version >= 36), "{title}");
        let ids: BTreeSet<i64> =
            dashboard["panels"].as_array().expect("panels").iter().filter_map(|p| p["id"].as_i64()).collect();
        assert_eq!(
            ids.len(),
            dashboard["panels"].as_array().map_or(0, Vec::len),
            "{title}: panels have ids of their own"
        );
        let mut places = BTreeSet::new();
        for panel in panels(dashboard) {
            let name = format!("{title}, {}", text(&panel["title"]));
            assert!(text(&panel["description"]).ends_with('.'), "{name} has no description");
            let uid = text(&panel["datasource"]["uid"]);
            assert!(source.contains(&format!("uid: {uid}\n")), "{name}: no data source {uid}");
            assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{name} has no unit");
            let place = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_i64().expect("a place"));
            let [x, y, width, height] = place;
            assert!(x + width <= 24, "{name} is wider than the page");
            for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
                assert!(places.insert(cell), "{name} lies on another panel");
            }
        }
    }
}
