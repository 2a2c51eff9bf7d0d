//! The machine: room, files, limits.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::backup;
use crate::config::{Config, Database, Environment};
use crate::descriptors;
use crate::diagnosis::{self, Finding};

const GROUP_AND_OTHERS: u32 = 0o077;
const OTHERS: u32 = 0o007;
const WRITABLE_BY_OTHERS: u32 = 0o002;

/// Looks at all of it.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut all = Vec::new();
    match fs::metadata(&config.data_dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            all.push(Finding::note("files", "DATA_DIR is not there yet; the first start makes it"));
        }
        Err(error) => all.push(Finding::fault(
            "files",
            format!("DATA_DIR can't be looked at: {error}"),
            "Give the user that the server runs as a DATA_DIR of its own.",
        )),
        Ok(about) => {
            all.extend(folder(&config.data_dir, &about));
            all.push(diagnosis::disk(&config.data_dir));
            all.extend(elsewhere(config));
            all.extend(abandoned(&config.data_dir));
        }
    }
    all.extend(secret_files(config));
    if !all.iter().any(|finding| finding.check == "files") {
        all.extend(visitors(&config.data_dir));
    }
    if !all.iter().any(|finding| finding.check == "files") {
        all.push(Finding::ok("files", "DATA_DIR can be written; what is secret is readable by its owner only"));
    }
    all.push(open_files(config, descriptors::limit_after_raise()));
    all
}

fn folder(path: &Path, about: &Metadata) -> Option<Finding> {
    if !about.is_dir() {
        return Some(Finding::fault("files", "DATA_DIR is no folder", "Set DATA_DIR to a folder."));
    }
    if about.permissions().mode() & WRITABLE_BY_OTHERS != 0 {
        let advice = "Take that right away (chmod o-w): whoever may write there can put another secret in place.";
        return Some(Finding::fault("files", "everybody on this machine may write into DATA_DIR", advice));
    }
    access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).err().map(|error| {
        Finding::fault(
            "files",
            format!("DATA_DIR can't be written by the user who asks: {error}"),
            "Run the doctor as the user that the server runs as; if this is that user, give it DATA_DIR (chown -R).",
        )
    })
}

/// Other users with access to the folder see its file names; secret files have permissions of their own.
fn visitors(path: &Path) -> Option<Finding> {
    let about = fs::metadata(path).ok()?;
    (about.permissions().mode() & GROUP_AND_OTHERS != 0).then(|| {
        let path = path.display();
        Finding::note("files", format!("others than its owner may enter DATA_DIR; chmod 700 {path} ends that"))
    })
}

/// Files left behind by killed commands.
pub(super) fn abandoned(folder: &Path) -> Vec<Finding> {
    // An unreadable folder is the caller's finding.
    let found = backup::abandoned(folder).unwrap_or_default();
    let told = found.into_iter().map(|file| {
        let file = file.display();
        let found = format!(
            "{file} was left behind by an export or a backup that was killed; it holds what the database held, and nothing \
             reads it any more"
        );
        Finding::warning("files", found, format!("rm '{file}'. The next export from this folder deletes its own by itself."))
    });
    told.collect()
}

/// The disk of a database that lies elsewhere than the rest.
fn elsewhere(config: &Config) -> Option<Finding> {
    let Database::Sqlite { path } = &config.database else { return None };
    let folder = path.parent().filter(|folder| folder.is_dir())?;
    (!folder.starts_with(&config.data_dir)).then(|| diagnosis::disk(folder))
}

/// Files that nobody but their owner should be able to read.
fn secret_files(config: &Config) -> Vec<Finding> {
    let mut files = vec![(config.data_dir.join("jwt-secret"), "the server's secret")];
    if let Database::Sqlite { path } = &config.database {
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        files.push((path.clone(), "the database"));
        files.push((beside("-wal"), "the database"));
    }
    files.push((PathBuf::from(".env"), "settings with secrets"));
    files
        .into_iter()
        .filter(|(file, _)| {
            fs::metadata(file).is_ok_and(|about| {
                // A package's settings are root's, and the service reads them by its group.
                let wrong = if about.uid() == 0 && file.ends_with(".env") { OTHERS } else { GROUP_AND_OTHERS };
                about.permissions().mode() & wrong != 0
            })
        })
        .map(|(file, what)| {
            Finding::warning(
                "files",
                format!("{} holds {what} and is open to others than its owner", file.display()),
                format!("chmod 600 {}", file.display()),
            )
        })
        .collect()
}

/// The limit is that of whoever asks: a service manager or a container may set another for the server.
fn open_files(config: &Config, most: usize) -> Finding {
    const ID: &str = "open-files";
    let needed = descriptors::needed(config);
    if most >= needed {
        return Finding::ok(ID, format!("{most} files may be open"));
    }
    let sockets = descriptors::Room::within(config, most).sockets;
    let found = format!(
        "a process started like this one may have {most} files open; {needed} are needed for MAX_SOCKETS, so there will be \
         {sockets} sockets"
    );
    match config.environment {
        Environment::Production => Finding::warning(
            ID,
            found,
            "Raise the limit of the server (LimitNOFILE= of systemd, ulimits of compose), or lower MAX_SOCKETS.",
        ),
        Environment::Development => Finding::note(ID, found),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::diagnosis::Verdict;

    fn config(data_dir: &Path) -> Config {
        let variables = HashMap::from([
            ("DATA_DIR".to_owned(), data_dir.display().to_string()),
            ("JWT_SECRET".to_owned(), "u8Wc0PZrX3nq5TgLyB7vKdF2hJmNsE9a".to_owned()),
        ]);
        Config::parse(&variables).expect("valid")
    }

    fn files(config: &Config) -> Vec<(Verdict, String)> {
        let of_files = check(config).into_iter().filter(|finding| finding.check == "files");
        of_files.map(|finding| (finding.verdict, finding.found)).collect()
    }

    #[test]
    fn rights_are_looked_at() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("set");
        let config = config(folder.path());
        assert_eq!(files(&config)[0].0, Verdict::Ok);
        let secret = folder.path().join("jwt-secret");
        fs::write(&secret, "x").expect("written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).expect("set");
        let found = files(&config);
        assert!(found.len() == 1 && found[0].0 == Verdict::Warning && found[0].1.contains("jwt-secret"), "{found:?}");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("set");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).expect("set");
        let found = files(&config);
        assert!(found.len() == 1 && found[0].0 == Verdict::Note && found[0].1.contains("DATA_DIR"), "{found:?}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("set");
        assert_eq!(files(&config)[0].0, Verdict::Fault);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_fine_and_a_file_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(files(&config(&folder.path().join("later")))[0].0, Verdict::Note);
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("written");
        assert_eq!(files(&config(&file))[0].0, Verdict::Fault);
    }

    #[test]
    fn open_files_are_compared_with_what_is_configured() {
        let mut config = config(Path::new("/nonexistent"));
        assert_eq!(open_files(&config, 65_535).verdict, Verdict::Ok);
        assert_eq!(open_files(&config, 1024).verdict, Verdict::Note);
        config.environment = Environment::Production;
        assert_eq!(open_files(&config, 1024).verdict, Verdict::Warning);
    }
}
