//! What comes with the program for machines without containers. Installing the package for real, with its scripts, takes
//! root: `make package-walk`.

#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The most that `systemd-analyze security` may find to complain about, from 0 (nothing) to 100.
const EXPOSURE: &str = "20";
const PROGRAM: &str = env!("CARGO_BIN_EXE_supersync");

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it to its end.
fn run(command: &mut Command, package: &str) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; it is in Debian's package {package}"))
}

/// Runs it to its end, which has to be a good one, and returns what it printed.
fn printed(command: &mut Command, package: &str) -> String {
    let output = run(command, package);
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn systemd_analyze(arguments: &[&str], unit: &Path) {
    printed(Command::new("systemd-analyze").args(arguments).arg(unit), "systemd");
}

/// Looks at a unit where its program is `installed`: systemd wants it to be there.
fn look_at(units: &Path, unit: &str, installed: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = fs::read_to_string(units.join(unit)).expect("the unit");
    assert!(whole.contains(installed), "{unit}");
    let here = folder.path().join(unit);
    fs::write(&here, whole.replace(installed, PROGRAM)).expect("written");
    systemd_analyze(&["verify", "--man=no"], &here);
    systemd_analyze(&["security", "--offline=true", "--threshold", EXPOSURE], &here);
}

#[test]
fn the_systemd_units_are_sound_and_let_the_server_do_little() {
    for unit in ["supersync.service", "supersync-backup.service"] {
        look_at(&shipped("packaging/systemd"), unit, "/usr/local/bin/supersync");
    }
    let printed =
        printed(Command::new("systemd-analyze").args(["calendar", "*-*-* 02:30"]).env("TZ", "UTC"), "systemd");
    assert!(
        fs::read_to_string(shipped("packaging/systemd/supersync-backup.timer"))
            .expect("a timer")
            .contains("*-*-* 02:30")
    );
    assert!(printed.contains("Next elapse"), "{printed}");
}

#[test]
fn the_settings_that_come_with_it_are_settings() {
    let settings = fs::read_to_string(shipped("packaging/systemd/supersync.env")).expect("the settings");
    let known: BTreeSet<_> = supersync::config::settings::variables().map(|variable| variable.name).collect();
    let names = settings.lines().filter_map(|line| line.trim_start_matches("# ").split_once('=')).map(|(name, _)| name);
    // Comments have sentences with an equals sign in them.
    let names: Vec<_> =
        names.filter(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "NAME") {
        assert!(known.contains(name), "{name}");
    }
    assert!(settings.contains("\nJWT_SECRET=@JWT_SECRET@\n") && settings.contains("\nPUBLIC_URL=\n"));
}

#[test]
fn the_debian_package_has_what_it_should_and_lintian_finds_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut build = Command::new(shipped("packaging/debian/build"));
    build.arg(PROGRAM).arg(folder.path()).env("DEB_LEVEL", "0").env("DEBEMAIL", "packages@example.org");
    let package = PathBuf::from(printed(&mut build, "dpkg and binutils").trim());
    let version = env!("CARGO_PKG_VERSION");

    let field = |name: &str| printed(Command::new("dpkg-deb").arg("--field").arg(&package).arg(name), "dpkg");
    assert_eq!(field("Package").trim(), "supersync");
    assert_eq!(field("Version").trim(), format!("{version}-1"));
    assert_eq!(field("Maintainer").trim(), "SuperSync <packages@example.org>");
    let depends = field("Depends");
    assert!(depends.starts_with("libc6 (>= 2.") && depends.contains("systemd"), "{depends}");

    let contents = printed(Command::new("dpkg-deb").arg("--contents").arg(&package), "dpkg");
    for (mode, path) in [
        ("-rwxr-xr-x", "./usr/bin/supersync"),
        ("-rwxr-xr-x", "./usr/sbin/supersync-admin"),
        ("-rw-r--r--", "./lib/systemd/system/supersync.service"),
        ("-rw-r--r--", "./lib/systemd/system/supersync-backup.timer"),
        ("-rw-r--r--", "./usr/lib/sysusers.d/supersync.conf"),
        ("-rw-r--r--", "./usr/lib/tmpfiles.d/supersync.conf"),
        ("-rw-r--r--", "./usr/share/man/man1/supersync.1.gz"),
        ("-rw-r--r--", "./usr/share/bash-completion/completions/supersync"),
        ("-rw-r--r--", "./usr/share/zsh/vendor-completions/_supersync"),
        ("-rw-r--r--", "./usr/share/doc/supersync/copyright"),
    ] {
        let line = contents.lines().find(|line| line.ends_with(&format!(" {path}")));
        let line = line.unwrap_or_else(|| panic!("{path} is missing in:\n{contents}"));
        assert!(line.starts_with(mode) && line.contains(" root/root "), "{line}");
    }
    // Settings are made where it is installed, data while it runs.
    assert!(!contents.contains("./etc/") && !contents.contains("./var/"), "{contents}");

    let root = folder.path().join("root");
    printed(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root), "dpkg");
    for unit in ["supersync.service", "supersync-backup.service"] {
        look_at(&root.join("lib/systemd/system"), unit, "/usr/bin/supersync");
    }
    let admin = fs::read_to_string(root.join("usr/sbin/supersync-admin")).expect("it was extracted");
    assert!(admin.contains(" /usr/bin/supersync ") && !admin.contains("/usr/local"), "{admin}");
    let told = printed(Command::new(root.join("usr/bin/supersync")).arg("--version").env_clear(), "supersync");
    assert_eq!(told.trim(), format!("supersync {version}"));

    // The scripts ask systemctl only where systemd runs, which debhelper's programs would do as well.
    let fine = "maintainer-script-calls-systemctl,initial-upload-closes-no-bugs,bogus-mail-host,bogus-mail-host-in-debian-changelog";
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning", "--suppress-tags", fine]).arg(&package);
    // It reads every locale name that it is given.
    printed(lintian.env("LC_ALL", "C.UTF-8"), "lintian");
}

fn install(program: &Path, sum: Option<&str>, destination: &Path) -> Output {
    let mut command = Command::new(shipped("scripts/install.sh"));
    command.arg(program).args(sum).env("DESTDIR", destination);
    run(&mut command, "dash")
}

#[test]
fn the_installer_takes_only_the_program_that_was_meant_and_keeps_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let destination = folder.path().join("root");
    let program = folder.path().join("supersync");
    fs::copy(PROGRAM, &program).expect("copied");
    let unknown = install(&program, None, &destination);
    assert!(!unknown.status.success() && text(&unknown.stderr).contains("neither a SHA-256"), "{unknown:?}");
    let wrong = install(&program, Some(&"0".repeat(64)), &destination);
    assert!(!wrong.status.success() && text(&wrong.stderr).contains("Nothing was installed"), "{wrong:?}");
    assert!(!destination.exists());

    let sum = printed(Command::new("sha256sum").arg(&program), "coreutils");
    fs::write(folder.path().join("supersync.sha256"), &sum).expect("written");
    let done = install(&program, None, &destination);
    assert!(done.status.success(), "{done:?}");
    assert!(text(&done.stdout).contains("Set PUBLIC_URL in /etc/supersync/supersync.env"), "{done:?}");
    let mode = |path: &str| {
        let found = fs::metadata(destination.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        found.permissions().mode() & 0o777
    };
    assert_eq!((mode("usr/local/bin/supersync"), mode("usr/local/sbin/supersync-admin")), (0o755, 0o755));
    assert_eq!((mode("etc/supersync/supersync.env"), mode("etc/supersync")), (0o600, 0o700));
    assert_eq!(mode("etc/systemd/system/supersync.service"), 0o644);
    look_at(&destination.join("etc/systemd/system"), "supersync.service", "/usr/local/bin/supersync");

    let settings = destination.join("etc/supersync/supersync.env");
    let before = fs::read_to_string(&settings).expect("settings");
    let secret = before.lines().find_map(|line| line.strip_prefix("JWT_SECRET=")).expect("a secret");
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    let again = install(&program, sum.split(' ').next(), &destination);
    assert!(again.status.success() && !text(&again.stdout).contains("PUBLIC_URL"), "{again:?}");
    assert_eq!(fs::read_to_string(&settings).expect("settings"), before);
}

#[test]
fn shells_and_man_get_what_they_need() {
    for shell in ["bash", "zsh", "fish"] {
        let completions = printed(Command::new(PROGRAM).args(["completions", shell]).env_clear(), "supersync");
        assert!(completions.contains("healthcheck") && completions.contains("migrate"), "{shell}");
    }
    assert!(!run(Command::new(PROGRAM).args(["completions", "cmd"]), "supersync").status.success());
    let manual = printed(Command::new(PROGRAM).arg("manual").env_clear(), "supersync");
    assert!(manual.contains(".TH supersync 1") && manual.contains("PUBLIC_URL"), "{manual}");
}

/// The program of systemd's that reads such files and says what it has read. Of `EnvironmentFile=` it differs only in `$`.
const READER: &str = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator";

#[test]
fn systemd_reads_settings_as_documented() {
    let document = fs::read_to_string(shipped("docs/configuration.md")).expect("the document");
    let table = document.split("<!-- readings -->").nth(1).expect("the table").split("<!-- /readings -->").next();
    let mut count = 0;
    for row in table.expect("its end").lines().skip(3) {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("environment.d")).expect("made");
        fs::write(folder.path().join("environment.d/test.conf"), cells[1]).expect("written");
        let mut command = Command::new(READER);
        command.env_clear().env("HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
        let all = printed(&mut command, "systemd");
        let value = all.lines().find_map(|line| line.strip_prefix("A=")).map_or("–".to_owned(), |value| {
            // It quotes what a shell would change.
            match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
                Some(quoted) => {
                    let mut chars = quoted.chars();
                    std::iter::from_fn(|| chars.next().and_then(|c| if c == '\\' { chars.next() } else { Some(c) }))
                        .collect()
                }
                None => value.to_owned(),
            }
        });
        assert_eq!(value, cells[3], "{row}");
        count += 1;
    }
    assert!(count > 10, "{count}");
}
