//! The secret that the server makes for itself when nobody gave it one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rand::TryRngCore;
use rand::rngs::OsRng;

/// Its name in the data directory.
pub(super) const FILE: &str = "jwt-secret";
/// Fewest characters of a secret (contract, accounts section 5.1).
pub(super) const MIN_CHARS: usize = 32;

/// The secrets in what `JWT_SECRET` says, the one that signs first: those that white space separates, if there are several
/// of at least 32 characters each, and after them the whole text. Otherwise the text is one secret, as it always was, white
/// space and all.
#[must_use]
pub fn secrets_of(text: &str) -> Vec<&str> {
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    let are_secrets = parts.len() > 1 && parts.iter().all(|part| part.chars().count() >= MIN_CHARS);
    // The text itself stays good: it may have been one secret so far.
    if are_secrets { parts.into_iter().chain([text]).collect() } else { vec![text] }
}

/// Whether somebody may have meant several secrets, although they are one.
pub(super) fn looks_like_several(text: &str) -> bool {
    text.split_ascii_whitespace().count() > 1
        && text.split_ascii_whitespace().any(|part| part.chars().count() >= MIN_CHARS)
}

/// Makes a folder, and those around it, for nobody but their owner; what there is stays as it is.
///
/// # Errors
/// What kept it from being made.
pub fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The secret kept in `data_dir`, made on first use. Two processes that start at once agree on one: the file is created
/// exclusively, and who comes second waits for the first to have written it.
pub(super) fn kept_in(data_dir: &Path) -> io::Result<String> {
    private_folder(data_dir)?;
    let path = data_dir.join(FILE);
    match private_file(&path) {
        Ok(file) => write(file).inspect_err(|_| {
            // A half-written secret would stand in the way of the next start. If it can't be removed either, that start
            // reports it as too short.
            drop(fs::remove_file(&path));
        }),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(&path),
        Err(error) => Err(error),
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write(mut file: File) -> io::Result<String> {
    let mut random = [0u8; 32];
    OsRng.try_fill_bytes(&mut random).map_err(io::Error::other)?;
    let secret = hex::encode(random);
    // One write: a reader sees all of it or nothing.
    file.write_all(format!("{secret}\n").as_bytes())?;
    file.sync_all()?;
    Ok(secret)
}

fn read(path: &Path) -> io::Result<String> {
    const ATTEMPTS: usize = 40;
    const PAUSE: Duration = Duration::from_millis(25);
    for _ in 0..ATTEMPTS {
        let secret = fs::read_to_string(path)?.trim().to_owned();
        if secret.chars().count() >= MIN_CHARS {
            return Ok(secret);
        }
        thread::sleep(PAUSE);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "holds fewer than 32 characters; delete it to get a new secret"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_separates_secrets_and_nothing_else_does() {
        let (one, two) = ("1".repeat(32), "2".repeat(40));
        let both = format!("{one} {two}");
        assert_eq!(secrets_of(&both), [one.as_str(), &two, &both]);
        let lines = format!("{one}\n{two}\n");
        assert_eq!(secrets_of(&lines)[..2], [one.as_str(), &two]);
        for text in [
            String::new(),
            format!("{one},{two}"),
            format!("{one}\n"),
            format!(" {one}"),
            format!("{one} short"),
            "a passphrase of many short words is one secret".to_owned(),
        ] {
            assert_eq!(secrets_of(&text), [text.as_str()], "{text:?}");
        }
    }
}
