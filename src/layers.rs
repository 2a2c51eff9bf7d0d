//! The direction of imports: a module uses only modules of lower floors, and the crates don't use each other but as said
//! in docs/adr/0017.

use std::fs;
use std::path::Path;

use crate::config::documents::sources;

/// From the ground up. A new module of the top level goes to the lowest floor that lies above all that it uses.
const FLOORS: &[&[&str]] = &[
    &["aside", "clock", "language", "protocol", "webauthn"],
    &["budget", "config", "replay", "spans"],
    &["descriptors", "diagnosis", "mail", "store", "telemetry"],
    &["accounts", "backup", "disk", "gauges", "timekeeper", "top"],
    &["engine", "upstream"],
    &["admin", "events", "http"],
    &["server"],
    // The program: `main.rs` and what only it has.
    &["main", "serve"],
];

fn floor_of(module: &str) -> usize {
    let floor = FLOORS.iter().position(|floor| floor.contains(&module));
    floor.unwrap_or_else(|| panic!("{module} has no floor: add it to src/layers.rs"))
}

/// A file's code, without unit tests and comments.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a source");
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    lines.join("\n")
}

#[test]
fn imports_run_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut upward = Vec::new();
    for file in sources() {
        let inside = file.strip_prefix(&root).expect("below src").to_str().expect("UTF-8");
        let module = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let is_test = inside.ends_with("/tests.rs") || inside.contains("/tests/");
        if is_test || ["lib", "layers"].contains(&module) {
            continue;
        }
        let floor = floor_of(module);
        for used in code(&file).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let is_module = used.starts_with(|c: char| c.is_ascii_lowercase());
            if is_module && used != module && floor_of(&used) >= floor {
                upward.push(format!("{inside} uses {used}"));
            }
        }
    }
    assert!(upward.is_empty(), "these imports lead upward:\n{}", upward.join("\n"));
}

#[test]
fn the_client_uses_nothing_of_the_server_and_the_server_nothing_of_either() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dependencies = |manifest: &str| {
        let text = fs::read_to_string(root.join(manifest)).expect("a manifest");
        let (_, after) = text.split_once("\n[dependencies]\n").expect("dependencies");
        let own = after.split("\n[").next().unwrap_or_default().to_owned();
        own.lines().filter(|line| line.starts_with("supersync")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(dependencies("Cargo.toml"), [""; 0]);
    assert_eq!(dependencies("crates/client/Cargo.toml"), [""; 0]);
}
