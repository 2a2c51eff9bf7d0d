//! What comes with the program for machines without containers.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::Command;

/// The most that `systemd-analyze security` may find to complain about, from 0 (nothing) to 100.
const EXPOSURE: &str = "20";

fn systemd_analyze(arguments: &[&str], unit: &Path) {
    let mut command = Command::new("systemd-analyze");
    let output =
        command.args(arguments).arg(unit).output().expect("systemd-analyze, of Debian's package systemd, runs");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_systemd_unit_is_sound_and_lets_the_server_do_little() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/supersync.service");
    let unit = std::fs::read_to_string(shipped).expect("the unit");
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path().join("supersync.service");
    // systemd wants the program to be there.
    let installed = "/usr/local/bin/supersync";
    assert!(unit.contains(installed));
    std::fs::write(&here, unit.replace(installed, env!("CARGO_BIN_EXE_supersync"))).expect("written");
    systemd_analyze(&["verify"], &here);
    systemd_analyze(&["security", "--offline=true", "--threshold", EXPOSURE], &here);
}
