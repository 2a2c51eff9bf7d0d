//! The variables that were given: the process's environment, the `.env` file, and files that hold secrets.

use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use super::dotenv;
use super::reader::Given;
use super::{Problem, settings};

/// Longest file of settings or of a secret.
const MAX_BYTES: u64 = 1 << 20;

impl Given {
    /// These variables.
    pub fn of(variables: &HashMap<String, String>) -> Self {
        let mut given = Self { values: variables.clone(), ..Self::default() };
        given.leave_out_links();
        given.finish();
        given
    }

    /// This process's environment and the `.env` file of its working directory. The environment wins.
    pub fn of_process() -> Self {
        // Names and values that are not UTF-8 can't be ours: all of ours are text.
        let environment =
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut given = Self { values: environment.collect(), ..Self::default() };
        given.leave_out_links();
        given.read_dotenv(Path::new(".env"));
        given.finish();
        given
    }

    fn finish(&mut self) {
        self.read_secrets();
        // The Node server's name for the environment, where any other value means development.
        let is_given = |name: &str| self.values.get(name).is_some_and(|text| !text.trim().is_empty());
        if is_given("NODE_ENV") && !is_given(settings::SUPERSYNC_ENV.name()) {
            let is_production = self.values["NODE_ENV"].trim() == "production";
            let environment = if is_production { "production" } else { "development" };
            self.values.insert(settings::SUPERSYNC_ENV.name().to_owned(), environment.to_owned());
        }
    }

    /// Kubernetes and Docker announce a service called `smtp` as `SMTP_PORT=tcp://10.0.0.1:25`.
    fn leave_out_links(&mut self) {
        let links: Vec<&str> = settings::variables()
            .map(|variable| variable.name)
            .filter(|name| self.values.get(*name).is_some_and(|value| is_link(value)))
            .collect();
        for name in links {
            self.values.remove(name);
            let service = name.trim_end_matches("_PORT").to_lowercase();
            self.warnings.push(format!(
                "{name}: was set by Kubernetes or Docker for a service called {service} and is ignored; set {name} itself if \
                 the default is not right"
            ));
        }
    }

    fn read_dotenv(&mut self, path: &Path) {
        let file = path.display().to_string();
        let text = match read(path) {
            Ok(text) => text,
            Err(ReadError::Missing) => return,
            Err(error) => {
                self.problems.push(Problem::new(file, error.to_string()));
                return;
            }
        };
        let (assignments, strays) = dotenv::parse(&text);
        for stray in strays {
            let place = format!("{file}, line {}", stray.line);
            // The line itself may hold a secret.
            let known = stray.name.filter(|name| settings::find(name).is_some());
            self.problems.push(match known {
                Some(name) => Problem { place: Some(place), ..Problem::new(name, "expected NAME=value") },
                None => Problem::new(place, "is neither NAME=value nor a comment"),
            });
        }
        let mut from_file = HashMap::new();
        for dotenv::Assignment { name, value, line, doubt } in assignments {
            if self.values.contains_key(&name) && !from_file.contains_key(&name) {
                continue;
            }
            let place = format!("{file}, line {line}");
            from_file.insert(name.clone(), doubt.map(|doubt| format!("{name} ({place}): {doubt}")));
            self.places.insert(name.clone(), place);
            self.values.insert(name, value);
        }
        // The last assignment of a name counts. Names that are not ours may be anything.
        let ours = settings::variables().filter_map(|variable| from_file.remove(variable.name).flatten());
        self.warnings.extend(ours);
    }

    /// Secrets in files of their own: `JWT_SECRET_FILE` names one, and systemd puts those of `LoadCredential=` into a folder.
    fn read_secrets(&mut self) {
        let folder = self.values.get("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        for variable in settings::variables() {
            let name = variable.name;
            let file_name = format!("{name}_FILE");
            let file = self.values.get(&file_name).map(|path| path.trim()).filter(|path| !path.is_empty());
            let file = file.map(PathBuf::from);
            if !variable.secret {
                if file.is_some() {
                    self.warnings.push(format!("{file_name} has no effect: only secrets are read from files"));
                }
                continue;
            }
            let credential = folder.as_ref().and_then(|folder| {
                let lower = name.to_lowercase();
                [name.to_owned(), lower.replace('_', "-"), lower]
                    .into_iter()
                    .map(|name| folder.join(name))
                    .find(|path| path.exists())
            });
            let is_given = self.values.get(name).is_some_and(|value| !value.trim().is_empty());
            let (path, source) = match (file, credential, is_given) {
                (None, None, _) => continue,
                (Some(path), None, false) => (path, file_name),
                (None, Some(path), false) => (path, name.to_owned()),
                (file, credential, _) => {
                    let all = [
                        is_given.then(|| name.to_owned()),
                        file.map(|_| file_name),
                        credential.map(|_| "a credential of systemd".to_owned()),
                    ];
                    let all: Vec<String> = all.into_iter().flatten().collect();
                    let expected = format!("is given more than once ({}); expected one of them", all.join(", "));
                    self.problems.push(Problem::new(name, expected));
                    continue;
                }
            };
            match read(&path) {
                Ok(text) => {
                    // Editors end the last line; any other white space is part of the secret.
                    let secret = text.trim_start_matches('\u{feff}').trim_end_matches(['\n', '\r']).to_owned();
                    if secret.trim().is_empty() {
                        let expected = format!("{} is empty; expected a file with the secret", path.display());
                        self.problems.push(Problem::new(source, expected));
                    } else {
                        self.places.insert(name.to_owned(), path.display().to_string());
                        self.values.insert(name.to_owned(), secret);
                    }
                }
                Err(error) => {
                    let expected = format!("{} {error}; expected a file with the secret", path.display());
                    let place = self.places.get(&source).cloned();
                    self.problems.push(Problem { place, ..Problem::new(source, expected) });
                }
            }
        }
    }
}

/// Whether a value is how Kubernetes and Docker tell the port of a service.
fn is_link(value: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

/// Whether a variable that begins like ours is one that Kubernetes or Docker makes for a service whose name begins like
/// ours: `SUPERSYNC_POSTGRES_SERVICE_HOST`, `SUPERSYNC_POSTGRES_PORT`, `SUPERSYNC_POSTGRES_PORT_5432_TCP_ADDR`.
pub(super) fn is_of_service(name: &str, value: &str) -> bool {
    let has_port = |rest: &str| {
        let mut parts = rest.splitn(3, '_');
        let is_number =
            parts.next().is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
        is_number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && is_link(value))
        || name.rsplit_once("_PORT_").is_some_and(|(before, rest)| {
            // `…_PORT_5432_TCP_PORT` has it twice.
            has_port(rest) || before.rsplit_once("_PORT_").is_some_and(|(_, rest)| has_port(rest))
        })
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("does not exist")]
    Missing,
    #[error("can't be read: {0}")]
    Other(std::io::Error),
    #[error("is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("is not UTF-8 text (line {0})")]
    NoText(usize),
}

fn read(path: &Path) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    let done = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    match done {
        Ok(_) if bytes.len() as u64 > MAX_BYTES => Err(ReadError::TooLarge),
        Ok(_) => String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            ReadError::NoText(before.split(|byte| *byte == b'\n').count())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(ReadError::Missing),
        Err(error) => Err(ReadError::Other(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::build::{MissingSecret, load};
    use crate::config::{ConfigErrors, Loaded};

    /// With this `.env` and this environment.
    fn read(text: &[u8], environment: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(".env");
        std::fs::write(&file, text).expect("written");
        let values = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut given = Given { values: values.collect(), ..Given::default() };
        given.leave_out_links();
        given.read_dotenv(&file);
        given.finish();
        load(&given, MissingSecret::Leave)
    }

    fn problems(text: &[u8]) -> Vec<String> {
        let problems = read(text, &[]).expect_err("refused").0;
        problems.iter().map(|problem| problem.to_string().split_once(".env").expect("the file").1.to_owned()).collect()
    }

    #[test]
    fn problems_name_line_and_variable_and_show_no_secret() {
        assert!(read(b"", &[]).is_ok());
        assert_eq!(
            problems(b"# comment\nPORT=x\n\nJWT_SECRET=hunter2\nhunter2 hunter2\nREGISTRATION open\n"),
            [
                ", line 2): is \"x\"; expected a port from 1 to 65535",
                ", line 4): has 7 characters; expected at least 32",
                ", line 6): expected NAME=value",
                ", line 5: is neither NAME=value nor a comment",
            ]
        );
        assert_eq!(problems(b"PORT=1\nSMTP_FROM=\xe4@b\n"), [": is not UTF-8 text (line 2)"]);
        let again = problems(b"PORT=1\nPORT=y\n");
        assert_eq!(again, [", line 2): is \"y\"; expected a port from 1 to 65535"], "the last one counts");
    }

    #[test]
    fn doubts_are_told_of_ours_only() {
        let loaded = read(b"WHATEVER=\"x\nLOG_LEVEL=info#quiet\n", &[]).expect("valid");
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
        assert!(
            loaded.warnings[0].starts_with("LOG_LEVEL (") && loaded.warnings[0].contains("line 2"),
            "{:?}",
            loaded.warnings
        );
    }

    #[test]
    fn the_environment_wins_unless_it_is_of_kubernetes() {
        let port = |environment: &[(&str, &str)]| {
            let loaded = read(b"SMTP_PORT=2525\nSMTP_HOST=mail\nPORT=1901", environment).expect("valid");
            let crate::config::MailDelivery::Smtp(smtp) = loaded.config.mail else { panic!("SMTP") };
            (smtp.port, loaded.config.port)
        };
        assert_eq!(port(&[]), (2525, 1901));
        assert_eq!(port(&[("SMTP_PORT", "25"), ("PORT", "1902")]), (25, 1902));
        assert_eq!(port(&[("SMTP_PORT", "tcp://10.0.0.1:25")]).0, 2525);
        let warnings = read(b"", &[("SMTP_PORT", "tcp://10.0.0.1:25")]).expect("valid").warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with("SMTP_PORT: was set by Kubernetes"), "{warnings:?}");
    }
}
