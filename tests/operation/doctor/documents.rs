//! The list of checks in the documents is the program's.

use supersync::admin::doctor::CHECKS;

#[test]
fn every_check_is_documented_and_nothing_else() {
    let document = include_str!("../../../docs/doctor.md");
    let documented: Vec<&str> =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name).collect();
    let names = CHECKS.to_vec();
    assert_eq!(documented, names);
}
