//! What `--print-config` shows, and the settings in force, for an empty environment and for one with every name that was
//! ever read. A difference is meant, or a setting has changed for operators.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::documents::equals;
use super::{Loaded, as_env_file, dotenv};

fn printed(given: &HashMap<String, String>) -> String {
    let Loaded { config, settings, warnings } = Loaded::parse(given).expect("valid");
    let mut text = as_env_file(&settings);
    for warning in warnings {
        writeln!(text, "warning: {warning}").expect("a string");
    }
    writeln!(text, "{config:#?}").expect("a string");
    text
}

#[test]
fn an_empty_environment() {
    // Without it one would be generated.
    let secret = ("JWT_SECRET".to_owned(), "0123456789abcdef0123456789abcdef".to_owned());
    equals("src/config/golden/empty.txt", &printed(&HashMap::from([secret])));
}

#[test]
fn every_name_that_was_ever_read() {
    let (assignments, strays) = dotenv::parse(include_str!("golden/full.env"));
    assert!(strays.is_empty(), "{strays:?}");
    let given = assignments.into_iter().map(|assignment| (assignment.name, assignment.value)).collect();
    equals("src/config/golden/full.txt", &printed(&given));
}
