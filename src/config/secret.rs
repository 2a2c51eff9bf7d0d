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

/// The secret kept in `data_dir`, made on first use. Two processes that start at once agree on one: the file is created
/// exclusively, and who comes second waits for the first to have written it.
pub(super) fn kept_in(data_dir: &Path) -> io::Result<String> {
    fs::create_dir_all(data_dir)?;
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
