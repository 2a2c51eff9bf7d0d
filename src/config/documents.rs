//! The documents that are written from the settings, and the rule that no document names a setting that does not exist.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::given::is_of_service;
use super::rates::{RATES, RateGroup};
use super::settings::{Default, GROUPS, Variable, WITHOUT_EFFECT};
use super::{quoted, retired, settings};

/// Set it, and the files are written instead of compared.
const UPDATE: &str = "UPDATE_GENERATED";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

pub(crate) fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every file in a folder and those below it.
fn files_below(folder: &str) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![path(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() { folders.push(entry) } else { files.push(entry) }
        }
    }
    files
}

/// Every source of the server.
pub(crate) fn sources() -> impl Iterator<Item = PathBuf> {
    files_below("src").into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
}

/// Holds a file to its text.
#[track_caller]
pub(crate) fn equals(file: &str, text: &str) {
    if env::var_os(UPDATE).is_some() && read(file) != text {
        fs::write(path(file), text).expect("written");
    }
    assert!(read(file) == text, "{file} is not up to date; `{UPDATE}=1 cargo test --lib` writes it:\n{text}");
}

/// A text with another part between two marks.
pub(crate) fn with_part(text: &str, begin: &str, end: &str, part: &str) -> String {
    let (before, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{begin} is missing"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("{end} is missing"));
    format!("{before}{begin}{part}{end}{after}")
}

fn table(head: &str, rows: impl Iterator<Item = String>) -> String {
    let columns = head.matches('|').count() - 1;
    rows.fold(format!("\n{head}\n|{}\n", " --- |".repeat(columns)), |text, row| text + &row + "\n")
}

fn variables() -> String {
    let row = |variable: &Variable| {
        let Variable { name, values, default, doc, .. } = variable;
        let default = match default {
            Default::Value(value) => format!("`{value}`"),
            Default::Computed(how) => (*how).to_owned(),
            Default::Unset => "–".to_owned(),
        };
        format!("| `{name}` | {values} | {default} |{doc} |")
    };
    GROUPS.iter().fold("\n".to_owned(), |text, group| {
        let rows = table("| Setting | Value | Default | Meaning |", group.variables.iter().map(row));
        format!("{text}### {}\n{rows}\n", group.title)
    })
}

fn rates() -> String {
    let of = |group: RateGroup| {
        RATES.iter().filter(move |rate| rate.group == group).map(move |rate| {
            let (max, minutes) = (rate.usual.max, rate.usual.window.as_secs() / 60);
            let window = if minutes == 1 { "minute".to_owned() } else { format!("{minutes} minutes") };
            format!("| `{}` |{} | {max} per {window} |", group.as_str(), rate.requests)
        })
    };
    table("| Group | Requests | Limit |", RateGroup::ALL.into_iter().flat_map(of))
}

#[test]
fn the_configuration_s_document() {
    const FILE: &str = "docs/configuration.md";
    let retired = retired::all().map(|retired| format!("| `{}` | {} |", retired.name, retired.instead));
    let without = WITHOUT_EFFECT.iter().map(|(name, reason)| format!("| `{name}` | {reason} |"));
    let mut text = read(FILE);
    for (mark, part) in [
        ("variables", variables()),
        ("rates", rates()),
        ("retired", table("| Name | From then on |", retired)),
        ("without effect", table("| Name | Reason |", without)),
    ] {
        text = with_part(&text, &format!("<!-- {mark} -->"), &format!("<!-- /{mark} -->"), &part);
    }
    equals(FILE, &text);
}

#[test]
fn the_example_of_an_env_file() {
    const FILE: &str = ".env.example";
    let before = read(FILE);
    let is_above = |name: &str| before.lines().any(|line| line.split('=').next() == Some(name));
    let mut part = "\n".to_owned();
    for group in GROUPS {
        writeln!(part, "# --- {} ---", group.title).expect("a string");
        for Variable { name, default, doc, .. } in group.variables.iter().filter(|variable| !is_above(variable.name)) {
            let sentence = doc.trim().split(". ").next().unwrap_or_default().trim_end_matches('.').replace('`', "");
            let (how, value) = match default {
                Default::Value(value) => (String::new(), quoted(value)),
                Default::Computed(how) => (format!(" Default: {how}."), String::new()),
                Default::Unset => (String::new(), String::new()),
            };
            writeln!(part, "# {sentence}.{how}\n# {name}={value}").expect("a string");
        }
        part.push('\n');
    }
    equals(FILE, &with_part(&before, "# <settings>", "# </settings>", &part));
}

/// Compose passes on what it names, and nothing else.
#[test]
fn the_names_in_the_compose_file() {
    const FILE: &str = "docker-compose.yml";
    let before = read(FILE);
    let (above, _) = before.split_once("# <settings>").expect("the mark");
    // SUPERSYNC_ENV says that it is production, where test mode is refused.
    let is_left_out = |name: &str| name.starts_with("TEST_MODE") || above.contains(&format!("      {name}: "));
    let mut part = "\n".to_owned();
    for group in GROUPS {
        writeln!(part, "      # {}", group.title).expect("a string");
        for variable in group.variables.iter().filter(|variable| !is_left_out(variable.name)) {
            writeln!(part, "      {}:", variable.name).expect("a string");
        }
    }
    part.push_str("      # Names that go with the next release\n");
    for retired in retired::all() {
        writeln!(part, "      {}:", retired.name).expect("a string");
    }
    equals(FILE, &with_part(&before, "# <settings>", "# </settings>", &(part + "      ")));
}

/// Files that tell operators about settings. Decisions are of their time; codes of answers look like settings.
fn told() -> Vec<PathBuf> {
    let mut files: Vec<_> = ["docs", "packaging", "monitoring"].into_iter().flat_map(files_below).collect();
    files.retain(|file| ["docs/adr", "docs/openapi.json"].iter().all(|other| !file.starts_with(path(other))));
    files.extend(["README.md", "CONTRIBUTING.md", "Caddyfile"].map(path));
    files
}

#[test]
fn every_setting_that_is_told_of_exists() {
    // Begins and ends of names that only settings have.
    const BEGINS: [&str; 9] =
        ["SUPERSYNC_", "SMTP_", "OTEL_", "WEBAUTHN_", "PRIVACY_", "RATE_LIMIT_", "DATABASE_", "OLD_OPS_", "MAIL_"];
    const ENDS: [&str; 6] = ["_SECONDS", "_BYTES", "_DAYS", "_HOURS", "_PERCENT", "_MINUTES"];
    let known: BTreeSet<&str> = settings::variables().map(|variable| variable.name).collect();
    let is_known = |name: &str| {
        let secret = name.strip_suffix("_FILE").and_then(settings::find).is_some_and(|variable| variable.secret);
        secret || known.contains(name) || settings::is_of_others(name) || is_of_service(name, "")
    };
    let (mut found, mut wrong) = (0, BTreeSet::new());
    for file in told() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        // The tables of names that go.
        let text = text.split("## Names that go").next().unwrap_or_default();
        for name in text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_') {
            let is_setting = BEGINS.iter().any(|begin| name.starts_with(begin) && name.len() > begin.len())
                || ENDS.iter().any(|end| name.ends_with(end) && name.len() > end.len())
                || retired::all().any(|retired| retired.name == name);
            if is_setting {
                found += 1;
                if !is_known(name) {
                    wrong.insert(format!("{}: {name}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found > 200, "the search itself works: {found}");
}
