//! The direction of imports: a module uses only modules of lower floors, and the crates don't use each other but as said
//! in docs/adr/0017.

use std::collections::{BTreeMap, BTreeSet};
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
    // From here on the program: what only it has, and `main.rs`.
    &["server", "welcome"],
    &["main", "serve"],
];

fn floor_of(module: &str) -> usize {
    let floor = FLOORS.iter().position(|floor| floor.contains(&module));
    floor.unwrap_or_else(|| panic!("{module} has no floor: add it to src/layers.rs"))
}

/// The code of every file by its path as a module, without tests and comments.
fn modules() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for file in sources() {
        let name = file.strip_prefix(&root).expect("below src").with_extension("").to_str().expect("UTF-8").to_owned();
        if !["lib", "layers"].contains(&&*name) && !name.split('/').any(|part| part == "tests") {
            let text = fs::read_to_string(&file).expect("a source");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            modules.insert(name.trim_end_matches("/mod").replace('/', "::"), lines.join("\n"));
        }
    }
    modules
}

#[test]
fn imports_run_one_way() {
    let mut upward = Vec::new();
    for (file, code) in modules() {
        let module = file.split("::").next().unwrap_or_default();
        let floor = floor_of(module);
        for used in code.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let is_module = used.starts_with(|c: char| c.is_ascii_lowercase());
            if is_module && used != module && floor_of(&used) >= floor {
                upward.push(format!("{file} uses {used}"));
            }
        }
    }
    assert!(upward.is_empty(), "these imports lead upward:\n{}", upward.join("\n"));
}

/// Circles that are known and wait for the engine's new shape: the registry starts actors, which leave it when they end.
const KNOWN: &[&str] = &["engine::peers", "engine::registry", "engine::user::actor"];

/// The paths of a `use` item, such as `super::{a::B, c}`.
fn paths(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let Some((before, inside)) = tree.split_once('{') else {
        found.push(format!("{prefix}{}", tree.trim()));
        return;
    };
    let (mut depth, mut start) = (0, 0);
    let inside = inside.trim_end().trim_end_matches('}');
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                paths(&format!("{prefix}{}", before.trim()), &inside[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The file that a path of `module` leads to, as a module: the longest part of it that is one.
fn target<'a>(module: &str, path: &str, modules: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut steps = path.split("::").peekable();
    match steps.peek().copied() {
        Some("crate") => base.clear(),
        Some("self") => {}
        Some("super") => {
            while steps.next_if_eq(&"super").is_some() {
                base.pop();
            }
        }
        _ => return None,
    }
    base.extend(steps.filter(|step| !["crate", "self"].contains(step)));
    while !base.is_empty() {
        if let Some((name, _)) = modules.get_key_value(&base.join("::")) {
            return Some(name);
        }
        base.pop();
    }
    None
}

#[test]
fn no_file_uses_another_that_uses_it() {
    let modules = modules();
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, code) in &modules {
        let mut found = Vec::new();
        for item in code.split("use ").skip(1).filter_map(|rest| rest.split_once(';')) {
            paths("", item.0, &mut found);
        }
        let targets = found.iter().filter_map(|path| target(module, path, &modules));
        uses.insert(module, targets.filter(|target| target != module).collect());
    }
    uses.retain(|module, _| !KNOWN.contains(module));
    for used in uses.values_mut() {
        used.retain(|module| !KNOWN.contains(module));
    }
    // What is left when files that use nothing, then those that use only them, and so on, are taken away.
    while let Some(done) = uses.iter().find(|(_, used)| used.is_empty()).map(|(module, _)| *module) {
        uses.remove(done);
        for used in uses.values_mut() {
            used.remove(done);
        }
    }
    // The same from above: files that nobody uses are in no circle.
    while let Some(top) = uses.keys().find(|module| !uses.values().any(|used| used.contains(*module))).copied() {
        uses.remove(top);
    }
    assert!(uses.is_empty(), "these files use each other: {uses:#?}");
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
