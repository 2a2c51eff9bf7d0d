//! What is wrong with a set-up, in words: shared by the administration page, which sees a request arrive, and by
//! `supersync doctor`, which is called on the server's machine.
//!
//! Owns what a finding is and the judgements that both make. A finding that is not as it should be always comes with what
//! to do; none holds a secret.

use std::path::Path;
use std::time::Duration;

use url::{Host, Url};

use crate::config::{Config, MailDelivery, masked};

/// From here on clocks that differ are worth a look: tokens and links expire by them.
const CLOCK_WARNING: Duration = Duration::from_secs(2);
/// From here on sessions end too early and new links don't work.
const CLOCK_FAULT: Duration = Duration::from_mins(1);
/// Percent of a disk that should be free, and that must be.
const DISK_WARNING_PERCENT: u64 = 15;
const DISK_FAULT_PERCENT: u64 = 5;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Was not as it should be, and has been mended.
    Fixed,
    /// Worth knowing.
    Note,
    /// Probably not meant, or about to go wrong.
    Warning,
    /// Wrong.
    Fault,
}

impl Verdict {
    /// Every verdict, the worst last.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Fixed, Self::Note, Self::Warning, Self::Fault];

    /// The verdict as programs read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fixed => "fixed",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check's name, for programs.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: masked(&found.into()), advice: None }
    }

    /// Mended.
    pub fn fixed(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fixed, found: masked(&found.into()), advice: None }
    }

    /// Worth knowing.
    pub fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Note, found: masked(&found.into()), advice: None }
    }

    /// Probably not meant.
    pub fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, found: masked(&found.into()), advice: Some(advice.into()) }
    }

    /// Wrong.
    pub fn fault(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fault, found: masked(&found.into()), advice: Some(advice.into()) }
    }
}

/// Whether an address is this machine.
#[must_use]
pub fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether what travels to `PUBLIC_URL` can be read on the way.
#[must_use]
pub fn https(public_url: &str) -> Finding {
    const ID: &str = "https";
    match Url::parse(public_url) {
        Ok(url) if url.scheme() == "https" => Finding::ok(ID, "PUBLIC_URL is https"),
        Ok(url) if is_local(&url) => Finding::ok(ID, "PUBLIC_URL is this machine, so nothing is encrypted"),
        _ => Finding::warning(
            ID,
            "PUBLIC_URL is not https: tokens and passwords travel in the clear, and passkeys don't work",
            "Put a reverse proxy with a certificate in front of the server and set PUBLIC_URL to its https address.",
        ),
    }
}

/// Whether mails reach anybody.
#[must_use]
pub fn mail(config: &Config) -> Finding {
    const ID: &str = "mail";
    let configure = "Registration, forgotten passwords and links to sign in need mail: set SMTP_HOST and what belongs to it, then try \
         `supersync mail test ADDRESS`. Without mail, accounts are made with `supersync user add`.";
    match &config.mail {
        MailDelivery::Smtp(smtp) => Finding::ok(ID, format!("mails leave through {}:{}", smtp.host, smtp.port)),
        MailDelivery::Files { .. } => Finding::warning(ID, "mails are written to files and not sent", configure),
        MailDelivery::Log => Finding::warning(ID, "this server sends no e-mail; links appear in its log", configure),
        MailDelivery::Off => Finding::warning(ID, "no mail server is configured", configure),
    }
}

/// Whether this machine's clock and another one agree. `who` names the other one.
#[must_use]
pub fn clock(who: &str, difference: Duration) -> Finding {
    const ID: &str = "clock";
    const ADVICE: &str =
        "Synchronise the clocks of both machines (NTP): sessions, links and the order of changes go by them.";
    let found = format!("this machine's clock and {who}'s are {:.1} seconds apart", difference.as_secs_f64());
    if difference > CLOCK_FAULT {
        Finding::fault(ID, found, ADVICE)
    } else if difference > CLOCK_WARNING {
        Finding::warning(ID, found, ADVICE)
    } else {
        Finding::ok(ID, format!("this machine and {who} agree about the time"))
    }
}

/// Whether there is room on the disk on which a folder lies.
#[must_use]
pub fn disk(folder: &Path) -> Finding {
    const ID: &str = "disk";
    match rustix::fs::statvfs(folder) {
        Ok(stat) => judge_disk(
            stat.f_bavail.saturating_mul(stat.f_frsize),
            // What only root may use is not counted, as `df` does.
            stat.f_blocks.saturating_sub(stat.f_bfree.saturating_sub(stat.f_bavail)).saturating_mul(stat.f_frsize),
        ),
        Err(error) => Finding::warning(
            ID,
            format!("DATA_DIR can't be read: {error}"),
            "Check that DATA_DIR exists and its permissions.",
        ),
    }
}

fn judge_disk(free: u64, size: u64) -> Finding {
    const ID: &str = "disk";
    const ADVICE: &str = "Free some room, or move DATA_DIR to a larger disk: with a full one nothing is stored.";
    let percent = u128::from(free) * 100 / u128::from(size.max(1));
    let found = format!("{} MiB ({percent} %) are free where the data lies", free >> 20);
    if percent < DISK_FAULT_PERCENT.into() {
        Finding::fault(ID, found, ADVICE)
    } else if percent < DISK_WARNING_PERCENT.into() {
        Finding::warning(ID, found, ADVICE)
    } else {
        Finding::ok(ID, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_but_https_is_for_this_machine_only() {
        let is_ok = |url| https(url).verdict == Verdict::Ok;
        for fine in [
            "https://a.example",
            "http://localhost:1900",
            "http://127.0.0.1",
            "http://[::1]:8080",
            "http://x.localhost",
        ] {
            assert!(is_ok(fine), "{fine}");
        }
        for open in ["http://192.168.0.7", "http://sync.example.org", "nonsense"] {
            assert!(!is_ok(open), "{open}");
        }
    }

    #[test]
    fn clocks_are_judged_by_what_suffers() {
        for (millis, verdict) in
            [(0, Verdict::Ok), (2_000, Verdict::Ok), (2_001, Verdict::Warning), (60_001, Verdict::Fault)]
        {
            assert_eq!(clock("the database", Duration::from_millis(millis)).verdict, verdict, "{millis}");
        }
    }

    #[test]
    fn disks_are_judged_by_the_part_that_is_free() {
        for (free, verdict) in
            [(150, Verdict::Ok), (149, Verdict::Warning), (50, Verdict::Warning), (49, Verdict::Fault)]
        {
            assert_eq!(judge_disk(free, 1_000).verdict, verdict, "{free}");
        }
        assert_eq!(judge_disk(0, 0).verdict, Verdict::Fault);
        assert_eq!(disk(Path::new("/nonexistent/folder")).verdict, Verdict::Warning);
    }

    #[test]
    fn verdicts_grow_worse() {
        assert!(Verdict::ALL.is_sorted());
    }
}
