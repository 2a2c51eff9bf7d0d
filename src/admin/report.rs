//! What the operator is shown of accounts: tables for people, JSON for scripts.

use std::io::Write;

use serde_json::{Value, json};

use super::user::AdminError;
use crate::accounts::{Accounts, SessionList};
use crate::store::{AccountOverview, SecurityEvent, SessionMethod};

/// Stands for the tokens that belong to no session.
pub(super) const OLDER_TOKENS: &str = "older-tokens";
/// Accounts read at a time for the list.
const LIST_PAGE: usize = 500;

/// Every account, in the order of their numbers; as many in memory as are read at a time.
pub(super) async fn list(
    accounts: &Accounts,
    as_json: bool,
    output: &mut (dyn Write + Send),
) -> Result<(), AdminError> {
    if as_json {
        write!(output, "[")?;
    } else {
        writeln!(
            output,
            "{:>8}  {:<10}  {:>14}  {:>14}  {:<10}  address",
            "account", "state", "used (bytes)", "quota (bytes)", "created"
        )?;
    }
    let (mut after, mut count) = (0, 0);
    loop {
        let page = accounts.overviews(None, after, LIST_PAGE).await?;
        for account in &page {
            if as_json {
                let separator = if count == 0 { "" } else { "," };
                write!(output, "{separator}\n{}", as_object(account))?;
            } else {
                let user = &account.user;
                writeln!(
                    output,
                    "{:>8}  {:<10}  {:>14}  {:>14}  {:<10}  {}",
                    user.id,
                    state(account),
                    account.storage_used_bytes,
                    user.storage_quota_bytes,
                    date(user.created_at),
                    user.email
                )?;
            }
            count += 1;
        }
        match page.last() {
            Some(last) if page.len() == LIST_PAGE => after = last.user.id,
            _ => break,
        }
    }
    let end = if as_json { "\n]".to_owned() } else { format!("{count} accounts") };
    writeln!(output, "{end}")?;
    Ok(())
}

/// One account.
pub(super) fn show(
    account: &AccountOverview,
    as_json: bool,
    output: &mut (dyn Write + Send),
) -> Result<(), AdminError> {
    if as_json {
        writeln!(output, "{:#}", as_object(account))?;
        return Ok(());
    }
    let user = &account.user;
    let share = format!("{} of {} bytes", account.storage_used_bytes, user.storage_quota_bytes);
    let lines = [
        ("Account", user.id.to_string()),
        ("Address", user.email.clone()),
        ("State", state(account).to_owned()),
        ("Administrator", if user.is_admin { "yes" } else { "no" }.to_owned()),
        ("Password", if user.password_hash.is_some() { "set" } else { "none" }.to_owned()),
        ("Created", time(user.created_at)),
        ("Last seen", account.last_seen_at.map_or_else(|| "never".to_owned(), time)),
        ("Storage", share),
        ("Grown", format!("{} bytes in the last 30 days", account.grown_bytes)),
        ("Operations", account.operations.to_string()),
        ("Devices", account.devices.to_string()),
        ("Sessions", account.sessions.to_string()),
    ];
    for (name, value) in lines {
        writeln!(output, "{name:<14} {value}")?;
    }
    Ok(())
}

/// An account's security log, newest first.
pub(super) fn security_log(
    events: &[SecurityEvent],
    as_json: bool,
    output: &mut (dyn Write + Send),
) -> Result<(), AdminError> {
    let method = |event: &SecurityEvent| event.method.map(SessionMethod::as_str);
    if as_json {
        let one = |event: &SecurityEvent| {
            json!({
                "at": event.at_ms,
                "kind": event.kind.as_str(),
                "method": method(event),
                "address": event.address,
                "device": event.device,
                "times": event.times,
            })
        };
        writeln!(output, "{:#}", Value::Array(events.iter().map(one).collect()))?;
        return Ok(());
    }
    writeln!(output, "{:<16}  {:<24}  {:>5}  {:<10}  {:<18}  device", "when", "what", "times", "method", "from")?;
    for event in events {
        writeln!(
            output,
            "{:<16}  {:<24}  {:>5}  {:<10}  {:<18}  {}",
            time(event.at_ms),
            event.kind.as_str(),
            event.times,
            method(event).unwrap_or("-"),
            event.address.as_deref().unwrap_or("-"),
            event.device.as_deref().unwrap_or("-")
        )?;
    }
    Ok(())
}

/// What an account is signed in with.
pub(super) fn sessions(list: &SessionList, as_json: bool, output: &mut (dyn Write + Send)) -> Result<(), AdminError> {
    if as_json {
        let mut all: Vec<Value> = list
            .sessions
            .iter()
            .map(|session| {
                json!({
                    "id": session.id.to_string(),
                    "name": session.name,
                    "userAgent": session.user_agent,
                    "method": session.method.as_str(),
                    "createdAt": session.created_at,
                    "lastSeenAt": session.last_seen_at,
                    "lastAddress": session.last_address,
                    "expiresAt": session.expires_at,
                    "olderToken": false,
                })
            })
            .collect();
        all.extend(list.older_tokens.as_ref().map(|tokens| {
            json!({
                "id": OLDER_TOKENS,
                "lastSeenAt": tokens.last_seen_at,
                "lastAddress": tokens.last_address,
                "olderToken": true,
            })
        }));
        writeln!(output, "{:#}", Value::Array(all))?;
        return Ok(());
    }
    writeln!(
        output,
        "{:<22}  {:<12}  {:<16}  {:<16}  {:<18}  name",
        "session", "method", "created", "last seen", "from"
    )?;
    for session in &list.sessions {
        writeln!(
            output,
            "{:<22}  {:<12}  {:<16}  {:<16}  {:<18}  {}",
            session.id.to_string(),
            session.method.as_str(),
            time(session.created_at),
            time(session.last_seen_at),
            session.last_address.as_deref().unwrap_or("-"),
            session.name
        )?;
    }
    if let Some(tokens) = &list.older_tokens {
        writeln!(
            output,
            "{OLDER_TOKENS:<22}  {:<12}  {:<16}  {:<16}  {:<18}  tokens of the old server",
            "-",
            "-",
            time(tokens.last_seen_at),
            tokens.last_address.as_deref().unwrap_or("-")
        )?;
    }
    writeln!(output, "{} sessions", list.sessions.len() + usize::from(list.older_tokens.is_some()))?;
    Ok(())
}

fn state(account: &AccountOverview) -> &'static str {
    match (account.user.locked_at, account.user.is_verified) {
        (Some(_), _) => "locked",
        (None, true) => "verified",
        (None, false) => "unverified",
    }
}

fn as_object(account: &AccountOverview) -> Value {
    let user = &account.user;
    json!({
        "id": user.id,
        "email": user.email,
        "state": state(account),
        "isAdmin": user.is_admin,
        "hasPassword": user.password_hash.is_some(),
        "createdAt": user.created_at,
        "lastSeenAt": account.last_seen_at,
        "usedBytes": account.storage_used_bytes,
        "quotaBytes": user.storage_quota_bytes,
        "grownBytes": account.grown_bytes,
        "operations": account.operations,
        "devices": account.devices,
        "sessions": account.sessions,
    })
}

fn date(at_ms: i64) -> String {
    formatted(at_ms, "%Y-%m-%d")
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
