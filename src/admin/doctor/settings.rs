//! Settings: those that are wrong, and those that are probably not meant.

use secrecy::ExposeSecret;
use url::Url;

use crate::config::{Config, ConfigErrors, Database, Environment, Loaded, MailDelivery, TrustedProxies, secrets_of};
use crate::diagnosis::{self, Finding};

/// Fewer different characters than this are no random secret.
const MIN_DIFFERENT_CHARS: usize = 10;
/// What random secrets don't hold.
const WORDS: [&str; 16] = [
    "secret",
    "change",
    "example",
    "password",
    "supersync",
    "development",
    "minimum",
    "placeholder",
    "12345678",
    "replace",
    "generate",
    "random",
    "characters",
    "secure",
    "your-",
    "your_",
];
/// Passwords that examples have.
const PASSWORDS: [&str; 7] = ["password", "pass", "secret", "postgres", "supersync", "example", "changeme"];
/// The end of every piece of advice on a setting.
const WHERE: &str = "Mend it in the environment or in the .env file; docs/configuration.md explains each, `supersync --print-config` shows \
     what is in force.";

/// The configuration can't be used.
pub(super) fn problems(errors: &ConfigErrors) -> Vec<Finding> {
    errors.0.iter().map(|problem| Finding::fault("settings", problem.to_string(), WHERE)).collect()
}

/// What can be said of a configuration that works.
pub(super) fn check(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let mut all: Vec<Finding> =
        loaded.warnings.iter().map(|warning| Finding::warning("settings", warning.clone(), WHERE)).collect();
    if all.is_empty() {
        all.push(Finding::ok("settings", "every setting is valid"));
    }
    all.extend(placeholders(config));
    all.extend([
        secret(config),
        environment(config),
        diagnosis::https(&config.public_url),
        passkeys(config),
        rate_limits(config),
        proxies(config),
        diagnosis::mail(config),
    ]);
    all
}

fn is_local(config: &Config) -> bool {
    Url::parse(&config.public_url).is_ok_and(|url| diagnosis::is_local(&url))
}

fn secret(config: &Config) -> Finding {
    const ID: &str = "secret";
    let secret = config.jwt_secret.expose_secret();
    if secret.is_empty() {
        return Finding::ok(ID, "JWT_SECRET is not set; the server makes a random one and keeps it in DATA_DIR");
    }
    let Some(why) = secrets_of(secret).into_iter().find_map(weakness) else {
        return Finding::ok(ID, "JWT_SECRET looks random");
    };
    let found = format!("JWT_SECRET {why}: whoever guesses it is everybody");
    let advice = "Make another one (openssl rand -hex 32). Everybody must sign in again then, and every device needs a new token.";
    judge(config, found, advice)
}

/// A fault, unless nobody but this machine reaches the server.
fn judge(config: &Config, found: String, advice: &str) -> Finding {
    const ID: &str = "secret";
    if config.environment == Environment::Development && is_local(config) && config.host.is_loopback() {
        Finding::note(ID, format!("{found}. On this machine only, that does not matter"))
    } else {
        Finding::fault(ID, found, advice)
    }
}

/// Passwords for other programs that are still those of an example.
fn placeholders(config: &Config) -> Vec<Finding> {
    let database = match &config.database {
        Database::Postgres { url, .. } => Url::parse(url.expose_secret()).ok(),
        Database::Sqlite { .. } => None,
    };
    let database = database.as_ref().and_then(Url::password);
    let mail = match &config.mail {
        MailDelivery::Smtp(smtp) => smtp.password.as_ref().map(ExposeSecret::expose_secret),
        _ => None,
    };
    [
        (
            "the password in DATABASE_URL",
            database,
            "Give the database's user another one (ALTER ROLE … PASSWORD …), and write it there.",
        ),
        ("SMTP_PASS", mail, "Set it to the password of the account at the mail server."),
    ]
    .into_iter()
    .filter(|(_, password, _)| password.is_some_and(is_placeholder))
    .map(|(what, _, advice)| judge(config, format!("{what} is one that published examples have"), advice))
    .collect()
}

fn is_placeholder(password: &str) -> bool {
    let lower = password.to_lowercase();
    PASSWORDS.contains(&lower.as_str())
        || ["your-", "your_", "change-", "change_", "<"].iter().any(|start| lower.starts_with(start))
}

/// Why a secret is none.
fn weakness(secret: &str) -> Option<&'static str> {
    let lower = secret.to_lowercase();
    if WORDS.iter().any(|word| lower.contains(word)) {
        return Some("holds a word that examples hold");
    }
    let mut different: Vec<char> = secret.chars().collect();
    different.sort_unstable();
    different.dedup();
    (different.len() < MIN_DIFFERENT_CHARS).then_some("consists of few different characters")
}

fn environment(config: &Config) -> Finding {
    const ID: &str = "environment";
    match config.environment {
        Environment::Production => Finding::ok(ID, "this is production"),
        Environment::Development if is_local(config) => Finding::ok(ID, "this is not production"),
        Environment::Development => Finding::warning(
            ID,
            "PUBLIC_URL is public, but this is not production: errors tell more than they should, and settings that are \
             unsafe are not refused",
            "Set SUPERSYNC_ENV=production.",
        ),
    }
}

fn passkeys(config: &Config) -> Finding {
    const ID: &str = "passkeys";
    let origin = Url::parse(&config.public_url).map(|url| url.origin().ascii_serialization());
    let party = &config.relying_party;
    if origin.as_ref().is_ok_and(|origin| *origin == party.origin) {
        return Finding::ok(ID, format!("passkeys are made for {}", party.id));
    }
    Finding::warning(
        ID,
        format!("WEBAUTHN_ORIGIN is {}, but users come to {}", party.origin, config.public_url),
        "Passkeys work at WEBAUTHN_ORIGIN only. Remove it and WEBAUTHN_RP_ID (PUBLIC_URL stands in), unless users had \
         passkeys for them at the old server: then make PUBLIC_URL fit.",
    )
}

fn rate_limits(config: &Config) -> Finding {
    const ID: &str = "rate-limits";
    if config.rate_limits.per_address {
        return Finding::ok(ID, "limits per address are on");
    }
    let found = "limits per address are off: passwords can be tried as fast as the server answers";
    // Test mode switches them off and says enough by itself.
    if config.test_mode || (is_local(config) && config.environment == Environment::Development) {
        Finding::note(ID, found)
    } else {
        Finding::warning(ID, found, "Remove RATE_LIMITS=off, unless the proxy in front limits requests.")
    }
}

/// What the settings tell. The administration page compares them with how a request arrives.
fn proxies(config: &Config) -> Finding {
    const ID: &str = "proxies";
    let trusted = &config.trusted_proxies;
    let nobody = match trusted {
        TrustedProxies::Networks(networks) => networks.is_empty(),
        TrustedProxies::Hops(hops) => *hops == 0,
    };
    match trusted {
        _ if nobody && config.public_url.starts_with("https:") => Finding::warning(
            ID,
            format!(
                "PUBLIC_URL is https, so there is a reverse proxy, but TRUSTED_PROXIES is {trusted}: all users share its address \
                 and its rate limits"
            ),
            "Set TRUSTED_PROXIES to the address of the proxy, or to the network that it is in.",
        ),
        TrustedProxies::Hops(_) if !nobody && !config.host.is_loopback() => Finding::warning(
            ID,
            format!(
                "TRUSTED_PROXIES is {trusted}, a number: who reaches port {} without the proxy can pretend to come from anywhere",
                config.port
            ),
            "Set TRUSTED_PROXIES to the addresses or networks of the proxies, such as 127.0.0.1, ::1 or 10.0.0.0/8.",
        ),
        _ => Finding::ok(
            ID,
            format!(
                "TRUSTED_PROXIES is {trusted}; whether that is right shows under Diagnostics on the administration page"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::diagnosis::Verdict;

    /// The worst verdicts of each check, with these variables.
    fn verdicts(variables: &[(&str, &str)]) -> HashMap<&'static str, Verdict> {
        let given = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut all = HashMap::from([("DATA_DIR".to_owned(), "/nonexistent".to_owned())]);
        all.insert("JWT_SECRET".to_owned(), "u8Wc0PZrX3nq5TgLyB7vKdF2hJmNsE9a".to_owned());
        all.extend(given);
        let mut verdicts = HashMap::new();
        for finding in check(&Loaded::parse(&all).expect("valid")) {
            let worst = verdicts.entry(finding.check).or_insert(finding.verdict);
            *worst = finding.verdict.max(*worst);
            assert_eq!(finding.advice.is_some(), finding.verdict >= Verdict::Warning, "{finding:?}");
        }
        verdicts
    }

    const PRODUCTION: [(&str, &str); 2] = [("SUPERSYNC_ENV", "production"), ("PUBLIC_URL", "https://sync.example.org")];

    #[test]
    fn a_well_kept_server_has_nothing_but_ok() {
        let with_mail = [PRODUCTION[0], PRODUCTION[1], ("SMTP_HOST", "mail.example.org")];
        assert!(verdicts(&with_mail).values().all(|verdict| *verdict == Verdict::Ok));
        let at_home = verdicts(&[]);
        assert_eq!(at_home["mail"], Verdict::Warning);
        assert!(at_home.iter().all(|(check, verdict)| *check == "mail" || *verdict == Verdict::Ok), "{at_home:?}");
    }

    #[test]
    fn guessable_secrets_are_faults_where_it_matters() {
        for secret in ["e2e-test-secret-minimum-32-chars-long-for-security", "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb"] {
            let public = [PRODUCTION[0], PRODUCTION[1], ("JWT_SECRET", secret)];
            assert_eq!(verdicts(&public)["secret"], Verdict::Fault, "{secret}");
            assert_eq!(verdicts(&[("JWT_SECRET", secret)])["secret"], Verdict::Fault, "{secret}: others reach it");
            let alone = [("JWT_SECRET", secret), ("HOST", "127.0.0.1")];
            assert_eq!(verdicts(&alone)["secret"], Verdict::Note, "{secret}");
        }
        for published in [
            "0123456789abcdef0123456789abcdef",
            "your-jwt-key-with-at-least-32-letters",
            "REPLACE_ME_WITH_A_LONG_STRING_OF_LETTERS",
            "generate-it-with-openssl-rand-base64-32",
        ] {
            assert_eq!(verdicts(&[("JWT_SECRET", published)])["secret"], Verdict::Fault, "{published}");
        }
    }

    #[test]
    fn passwords_of_examples_are_faults() {
        let with_mail =
            |password| [PRODUCTION[0], PRODUCTION[1], ("SMTP_HOST", "mail.example.org"), ("SMTP_PASS", password)];
        assert_eq!(verdicts(&with_mail("your-smtp-password"))["secret"], Verdict::Fault);
        assert_eq!(verdicts(&with_mail("fA3kZ!q9"))["secret"], Verdict::Ok);
        let with_database = |url| [PRODUCTION[0], PRODUCTION[1], ("DATABASE_URL", url)];
        for (url, verdict) in [
            ("postgres://supersync:password@db/supersync", Verdict::Fault),
            ("postgres://supersync:fA3kZq9@db/supersync", Verdict::Ok),
            ("postgres://db/supersync", Verdict::Ok),
        ] {
            assert_eq!(verdicts(&with_database(url))["secret"], verdict, "{url}");
        }
    }

    #[test]
    fn random_secrets_are_not_weak() {
        use rand::Rng as _;
        for _ in 0..1_000 {
            let bytes: [u8; 32] = rand::rng().random();
            assert_eq!(weakness(&hex::encode(bytes)), None);
        }
    }

    #[test]
    fn what_is_probably_not_meant_is_a_warning() {
        let odd = [
            ("PUBLIC_URL", "https://sync.example.org"),
            ("RATE_LIMITS", "off"),
            ("TRUSTED_PROXIES", "0"),
            ("WEBAUTHN_ORIGIN", "https://www.sync.example.org"),
            ("WEBAUTHN_RP_ID", "sync.example.org"),
            ("TEST_MODE", "true"),
            ("TEST_MODE_CONFIRM", "yes-i-understand-the-risks"),
        ];
        let verdicts = verdicts(&odd);
        for check in ["environment", "proxies", "passkeys", "settings"] {
            assert_eq!(verdicts[check], Verdict::Warning, "{check}");
        }
        assert_eq!(verdicts["rate-limits"], Verdict::Note, "test mode says it");
    }
}
