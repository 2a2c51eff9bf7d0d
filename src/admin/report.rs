//! What the operator is shown of accounts: tables for people, JSON for scripts.

use std::fmt::Display;
use std::io::{self, Write};

use super::Failure;
use super::output::{print_json, print_row};
use crate::accounts::{AccountReport, AccountSummary, Accounts, SecuritySummary, SessionList};
use crate::store::SecurityEvent;

/// Accounts read at a time for the list.
const LIST_PAGE: usize = 500;
const LIST_WIDTHS: [isize; 6] = [8, -10, 14, 14, -10, 0];

/// Every account, in the order of their numbers; as many in memory as are read at a time.
pub(super) async fn list(accounts: &Accounts, as_json: bool, output: &mut (dyn Write + Send)) -> Result<(), Failure> {
    if as_json {
        write!(output, "[")?;
    } else {
        let headings: [&dyn Display; 6] =
            [&"account", &"state", &"used (bytes)", &"quota (bytes)", &"created", &"address"];
        print_row(output, LIST_WIDTHS, headings)?;
    }
    let (mut after, mut count) = (0, 0);
    loop {
        let page = accounts.overviews(None, after, LIST_PAGE).await?;
        let is_last = page.len() < LIST_PAGE;
        for overview in page {
            let report = AccountReport::from(overview);
            let account = &report.account;
            after = account.id;
            if as_json {
                let separator = if count == 0 { "" } else { "," };
                write!(output, "{separator}\n{}", serde_json::to_string(&report).map_err(io::Error::from)?)?;
            } else {
                let (storage, created) = (&account.storage, formatted(account.created_at, "%Y-%m-%d"));
                let AccountSummary { id, state, email, .. } = account;
                print_row(
                    output,
                    LIST_WIDTHS,
                    [id, state, &storage.used_bytes, &storage.quota_bytes, &created, email],
                )?;
            }
            count += 1;
        }
        if is_last {
            break;
        }
    }
    let end = if as_json { "\n]".to_owned() } else { format!("{count} accounts") };
    writeln!(output, "{end}")?;
    Ok(())
}

/// One account.
pub(super) fn show(report: &AccountReport, as_json: bool, output: &mut (dyn Write + Send)) -> io::Result<()> {
    if as_json {
        return print_json(report, output);
    }
    let account = &report.account;
    let storage = &account.storage;
    let lines = [
        ("Account", account.id.to_string()),
        ("Address", account.email.clone()),
        ("State", account.state.to_owned()),
        ("Administrator", if account.is_admin { "yes" } else { "no" }.to_owned()),
        ("Password", if account.has_password { "set" } else { "none" }.to_owned()),
        ("Created", time(account.created_at)),
        ("Last seen", report.last_seen_at.map_or_else(|| "never".to_owned(), time)),
        ("Storage", format!("{} of {} bytes", storage.used_bytes, storage.quota_bytes)),
        ("Grown", format!("{} bytes in the last 30 days", storage.grown_bytes.unwrap_or(0))),
        ("Operations", report.operations.to_string()),
        ("Devices", report.devices.to_string()),
        ("Sessions", report.sessions.to_string()),
    ];
    for (name, value) in lines {
        writeln!(output, "{name:<14} {value}")?;
    }
    Ok(())
}

/// An account's security log, newest first.
pub(super) fn security_log(events: &[SecurityEvent], as_json: bool, output: &mut (dyn Write + Send)) -> io::Result<()> {
    let events: Vec<_> = events.iter().cloned().map(SecuritySummary::from).collect();
    if as_json {
        return print_json(&events, output);
    }
    let widths = [-16, -24, 5, -10, -18, 0];
    print_row(output, widths, [&"when", &"what", &"times", &"method", &"from", &"device"])?;
    for event in events {
        let [method, address, device] =
            [event.method, event.address.as_deref(), event.device.as_deref()].map(|text| text.unwrap_or("-"));
        print_row(output, widths, [&time(event.at), &event.kind, &event.times, &method, &address, &device])?;
    }
    Ok(())
}

/// What an account is signed in with.
pub(super) fn sessions(list: &SessionList, as_json: bool, output: &mut (dyn Write + Send)) -> io::Result<()> {
    if as_json {
        return print_json(&list.summaries(None), output);
    }
    let widths = [-22, -12, -16, -16, -18, 0];
    print_row(output, widths, [&"session", &"method", &"created", &"last seen", &"from", &"name"])?;
    let all = list.summaries(None);
    for session in &all {
        let [method, address] = [session.method, session.last_address.as_deref()].map(|text| text.unwrap_or("-"));
        let created = session.created_at.map_or_else(|| "-".to_owned(), time);
        let name = if session.older_token { "tokens of the old server" } else { &session.name };
        print_row(output, widths, [&session.id, &method, &created, &time(session.last_seen_at), &address, &name])?;
    }
    writeln!(output, "{} sessions", all.len())
}

pub(super) fn time(at_ms: i64) -> String {
    formatted(at_ms, "%Y-%m-%d %H:%M")
}

/// In UTC; a time that no calendar has is a question mark.
fn formatted(at_ms: i64, format: &str) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| "?".to_owned(), |at| at.strftime(format).to_string())
}

/// An address that its owner recognises and nobody else: first and last character and the host.
pub(super) fn masked(email: &str) -> String {
    let (name, host) = email.rsplit_once('@').unwrap_or((email, ""));
    let mut characters = name.chars();
    let (first, last) = (characters.next(), characters.next_back());
    let ends = |end: Option<char>| end.map_or_else(String::new, String::from);
    format!("{}***{}@{host}", ends(first), ends(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_masked_but_for_their_ends() {
        for (email, shown) in [
            ("alice@example.org", "a***e@example.org"),
            ("a@example.org", "a***@example.org"),
            ("é@ü@example.org", "é***ü@example.org"),
            ("nobody", "n***y@"),
            ("", "***@"),
        ] {
            assert_eq!(masked(email), shown);
        }
    }
}
