//! The variables about legal pages, and the operator's terms (contract, operations section 2.1; accounts, section 9).

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use super::key::Key;
use super::reader::Reader;
use super::{Controller, Legal, settings};

/// Longest terms of service: 2 MiB.
const MAX_TERMS_BYTES: u64 = 2 * 1024 * 1024;
/// Who answers for the server: all of these, or none.
const CONTROLLER: [&Key<String>; 5] = [
    &settings::PRIVACY_CONTACT_NAME,
    &settings::PRIVACY_ADDRESS_STREET,
    &settings::PRIVACY_ADDRESS_CITY,
    &settings::PRIVACY_ADDRESS_COUNTRY,
    &settings::PRIVACY_CONTACT_EMAIL,
];

pub(super) fn read(r: &mut Reader<'_>, data_dir: &Path) -> Legal {
    let file = data_dir.join("legal").join("terms.html");
    let terms = terms(&file).unwrap_or_else(|reason| {
        r.problem_elsewhere(&file.display().to_string(), reason);
        None
    });
    let legal = Legal {
        controller: controller(r),
        hosting_provider: r.optional(&settings::PRIVACY_HOSTING_PROVIDER),
        supervisory_authority: r.optional(&settings::PRIVACY_SUPERVISORY_AUTHORITY),
        data_region: r.optional(&settings::PRIVACY_DATA_REGION),
        terms,
    };
    if legal.controller.is_none() && (legal.hosting_provider.is_some() || legal.supervisory_authority.is_some()) {
        r.warn("PRIVACY_*: no privacy policy is published, because PRIVACY_CONTACT_NAME and the address are not set");
    }
    legal
}

/// A policy that names half an operator is none.
fn controller(r: &mut Reader<'_>) -> Option<Controller> {
    let [name, street, city, country, email] = CONTROLLER.map(|key| r.optional(key));
    match (name, street, city, country, email) {
        (None, None, None, None, None) => None,
        (Some(name), Some(street), Some(city), Some(country), Some(email)) => {
            Some(Controller { name, street, city, country, email })
        }
        _ => {
            let missing = CONTROLLER.into_iter().filter(|key| r.text(key).is_none());
            let missing: Vec<&str> = missing.map(Key::name).collect();
            let missing = missing.join(", ");
            r.problem_elsewhere("PRIVACY_*", format!("Incomplete privacy policy configuration. Missing: {missing}"));
            None
        }
    }
}

/// The operator's terms, if there are any. A symbolic link is refused: it could publish any file of the machine.
fn terms(file: &Path) -> Result<Option<String>, String> {
    let about = match fs::symlink_metadata(file) {
        Ok(about) => about,
        // A folder that is none is for whoever makes it to report.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(format!("can't be read: {error}")),
    };
    if !about.is_file() {
        return Err("is not a regular file, so it is not published".to_owned());
    }
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(MAX_TERMS_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| format!("can't be read: {error}"))?;
    if text.len() as u64 > MAX_TERMS_BYTES {
        return Err(format!("is larger than {MAX_TERMS_BYTES} bytes"));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_a_regular_file_of_bounded_size_or_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("terms.html");
        assert_eq!(terms(&file), Ok(None));
        fs::write(&file, "<h1>Terms</h1>").expect("written");
        assert_eq!(terms(&file).expect("readable").as_deref(), Some("<h1>Terms</h1>"));
        fs::write(&file, vec![b' '; 2 * 1024 * 1024 + 1]).expect("written");
        assert!(terms(&file).expect_err("too large").contains("larger than"));
        fs::write(&file, [0xff, 0xfe]).expect("written");
        assert!(terms(&file).is_err(), "not UTF-8");
        let link = folder.path().join("link.html");
        std::os::unix::fs::symlink("/etc/hostname", &link).expect("a link");
        assert!(terms(&link).expect_err("refused").contains("regular file"));
        assert!(terms(folder.path()).expect_err("refused").contains("regular file"));
    }
}
