//! `supersync user …`: accounts by hand, without mail.
//!
//! Works on the database, not through a running server: both can run at once, with either database. A running server
//! hears of what was done here within a second.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};

use super::output::confirmed;
use super::{Failure, report};
use crate::accounts::{
    AccountError, Accounts, Address, Asker, Session, SessionRef, check_new_password, generate_password,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::language::APP_PATH;
use crate::mail::Mailer;
use crate::store::{Store, UserRow};

/// How long a command waits for the mail server to take the mail that tells an account's owner of the change.
const NOTICE_PATIENCE: Duration = Duration::from_secs(20);

/// Manage accounts without mail.
///
/// Works directly on the configured database; a running server hears of it within a second.
///
/// Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 there is no such account or session, 4 refused as things stand
/// (address taken, not verified, locked, not confirmed), 5 the database does not answer.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Create an account that can be used at once, and print its access token.
    ///
    /// The first account of a server is an administrator's. Without --password-stdin a strong password is generated and
    /// printed once. The output says where the access token goes in the app.
    ///
    /// Example: printf '%s' 'a long passphrase' | supersync user add me@example.org --password-stdin
    #[command(verbatim_doc_comment)]
    Add {
        /// The account's e-mail address. No mail is sent to it.
        email: String,
        /// Where the password comes from.
        #[command(flatten)]
        password: PasswordSource,
        /// Make it an administrator's account.
        #[arg(long)]
        admin: bool,
    },
    /// Print an access token for an account, for a further device or when the old one was lost.
    ///
    /// Tokens last a year and don't replace each other. `supersync user revoke` ends all of them.
    Token {
        /// The account's e-mail address.
        email: String,
    },
    /// List all accounts: number, state, storage used and allowed, creation date, address.
    List {
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Show one account with what it holds.
    Show {
        /// The account's e-mail address.
        email: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// List what an account is signed in with.
    Sessions {
        /// The account's e-mail address.
        email: String,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Show an account's security log: sign-ins, failed ones, changes, revocations, exports of the last 90 days, newest
    /// first. Of addresses only the first part is known.
    Log {
        /// The account's e-mail address.
        email: String,
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Delete an account with everything that it holds on the server. Its devices keep their local data.
    Delete {
        /// The account's e-mail address.
        email: String,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
    /// Set a new password and sign out all devices.
    Password {
        /// The account's e-mail address.
        email: String,
        /// Where the password comes from.
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Set how much an account may store.
    Quota {
        /// The account's e-mail address.
        email: String,
        /// Bytes, or with a unit: 500MB, 2GB, 100MiB, 1GiB.
        #[arg(value_parser = parse_bytes)]
        quota: i64,
    },
    /// Mark an account's address as proven, when the mail with the link got lost.
    ///
    /// Anybody can register anybody's address, so the password given at registration is replaced unless --keep-password
    /// says that you trust it.
    Verify {
        /// The account's e-mail address.
        email: String,
        /// Keep the password of the latest registration.
        #[arg(long, conflicts_with = "password_stdin")]
        keep_password: bool,
        /// Where the password comes from.
        #[command(flatten)]
        password: PasswordSource,
    },
    /// Print a link with which somebody can create an account, once, within 7 days.
    ///
    /// Works whether registration is open or by invitation (REGISTRATION). With an address, only that address can use it, and
    /// needs no mail to prove it.
    Invite {
        /// The e-mail address to invite.
        email: Option<String>,
        /// The account will be an administrator's. Whoever has the link becomes one.
        #[arg(long)]
        admin: bool,
    },
    /// Sign out all devices of an account: every access token given out so far becomes void.
    Revoke {
        /// The account's e-mail address.
        email: String,
        /// Only this session (`supersync user sessions` lists them), or `older-tokens`: those that belong to no session.
        session: Option<String>,
    },
    /// Lock an account: its tokens and every attempt to sign in are refused until it is unlocked. Nothing is deleted.
    Lock {
        /// The account's e-mail address.
        email: String,
    },
    /// Unlock an account. Its devices go on with the tokens that they have.
    Unlock {
        /// The account's e-mail address.
        email: String,
    },
    /// Make an account an administrator's: it may see and change every account in the browser.
    Admin {
        /// The account's e-mail address.
        email: String,
        /// Take it away again.
        #[arg(long)]
        remove: bool,
    },
}

impl UserCommand {
    /// Whether it may come before the first start of a server, so that there need not be a database.
    #[must_use]
    pub const fn may_be_first(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Invite { .. })
    }

    /// Whether it makes a token, for which it needs the server's secret.
    #[must_use]
    pub const fn signs(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Token { .. })
    }
}

/// Where a new password comes from.
#[derive(Debug, Args)]
pub struct PasswordSource {
    /// Read the password from standard input (one line, at least 12 characters) instead of making one up.
    #[arg(long)]
    pub password_stdin: bool,
}

/// Runs a command on standard input and output.
///
/// # Errors
/// Why nothing was done.
pub async fn run(command: UserCommand, store: Arc<dyn Store>, config: &Config, clock: Clock) -> Result<(), Failure> {
    // Without mail nobody is told; `supersync doctor` says why there is none.
    let notices = Mailer::from_config(config).unwrap_or_else(|_| Mailer::unavailable());
    let accounts = Accounts::of_operator(store, config, clock, notices);
    let mut input = std::io::BufReader::new(std::io::stdin());
    let mut output = std::io::stdout();
    let done = execute(command, &accounts, &config.public_url, &mut input, &mut output).await;
    if tokio::time::timeout(NOTICE_PATIENCE, accounts.drain_mails()).await.is_err() {
        tracing::warn!("the mail server does not take the mail that tells the account's owner");
    }
    done
}

fn parse_address(email: &str) -> Result<Address, Failure> {
    Address::parse(email).map_err(|error| Failure::failed(format!("`{email}` is not a usable e-mail address: {error}")))
}

/// Creates an account. The first account of a server is an administrator's. `password`: and whether it was generated.
async fn add(
    accounts: &Accounts,
    email: &str,
    (password, generated): (SecretString, bool),
    admin: bool,
    server_url: &str,
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let address = parse_address(email)?;
    let is_first = accounts.list(0, 1).await?.is_empty();
    let user = accounts.create_verified(&address, &password).await.map_err(|error| match error {
        AccountError::Exists => exists(email),
        error => error.into(),
    })?;
    writeln!(output, "Created account {user} for {}.", address.as_str())?;
    if is_first || admin {
        accounts.set_admin(user, true).await?;
        writeln!(output, "It is an administrator's account: {server_url}/admin")?;
    }
    print_password(output, &password, generated)?;
    print_session(output, &accounts.session_for(user).await?, server_url)?;
    Ok(())
}

/// Runs a command. `server_url` is what the app is told to connect to.
///
/// # Errors
/// Why nothing was done.
pub async fn execute(
    command: UserCommand,
    accounts: &Accounts,
    server_url: &str,
    input: &mut (dyn BufRead + Send),
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    match command {
        UserCommand::Add { email, password, admin } => {
            let password = new_password(&password, input)?;
            add(accounts, &email, password, admin, server_url, output).await?;
        }
        UserCommand::Token { email } => {
            let user = find(accounts, &email).await?;
            if !user.is_verified {
                return Err(Failure::refused(format!(
                    "the account {email} was never verified; `supersync user verify {email}` does it"
                )));
            }
            if user.locked_at.is_some() {
                return Err(Failure::refused(format!(
                    "the account {email} is locked; `supersync user unlock {email}` ends that"
                )));
            }
            print_session(output, &accounts.session_for(user.id).await?, server_url)?;
        }
        UserCommand::List { json } => report::list(accounts, json, output).await?,
        UserCommand::Show { email, json } => {
            let user = find(accounts, &email).await?;
            report::show(&accounts.overview(user.id).await?.into(), json, output)?;
        }
        UserCommand::Sessions { email, json } => {
            let user = find(accounts, &email).await?;
            report::sessions(&accounts.sessions(user.id).await?, json, output)?;
        }
        UserCommand::Log { email, json } => {
            let user = find(accounts, &email).await?;
            report::security_log(&accounts.security_log(user.id).await?, json, output)?;
        }
        UserCommand::Delete { email, yes } => {
            let UserRow { id, email, .. } = find(accounts, &email).await?;
            let warning = format!("This deletes account {id} ({email}) and everything that it holds, for good.");
            if !yes && !confirmed(&warning, "yes", input, output)? {
                return Err(Failure::refused("nothing was deleted"));
            }
            accounts.delete(id).await?;
            writeln!(output, "Deleted account {id} ({email}).")?;
        }
        UserCommand::Password { email, password } => {
            let user = find(accounts, &email).await?;
            let (password, generated) = new_password(&password, input)?;
            accounts.set_password(user.id, &password).await?;
            writeln!(output, "Set the password of account {} and signed out its devices.", user.id)?;
            print_password(output, &password, generated)?;
        }
        UserCommand::Quota { email, quota } => {
            let user = find(accounts, &email).await?;
            accounts.set_quota(user.id, quota).await?;
            writeln!(output, "Account {} may store {quota} bytes.", user.id)?;
        }
        UserCommand::Verify { email, keep_password, password } => {
            let user = find(accounts, &email).await?;
            let password = if keep_password { None } else { Some(&password) };
            verify(accounts, &user, password, input, output).await?;
        }
        UserCommand::Invite { email, admin } => {
            let address = email.as_deref().map(parse_address).transpose()?;
            let invitation = accounts.invite(None, address.as_ref(), admin).await?;
            writeln!(output, "{}", invitation.link.expose_secret())?;
        }
        UserCommand::Revoke { email, session: None } => {
            let user = find(accounts, &email).await?;
            accounts.revoke(user.id).await?;
            writeln!(output, "Every access token of account {} is void.", user.id)?;
        }
        UserCommand::Revoke { email, session: Some(session) } => {
            let user = find(accounts, &email).await?;
            revoke_one(accounts, &user, &session).await?;
            writeln!(output, "Session {session} of account {} is void.", user.id)?;
        }
        UserCommand::Lock { email } => {
            let user = find(accounts, &email).await?;
            accounts.set_locked(user.id, true).await?;
            writeln!(output, "Account {} is locked; `supersync user unlock {email}` ends that.", user.id)?;
        }
        UserCommand::Unlock { email } => {
            let user = find(accounts, &email).await?;
            accounts.set_locked(user.id, false).await?;
            writeln!(output, "Account {} is not locked.", user.id)?;
        }
        UserCommand::Admin { email, remove } => {
            let user = find(accounts, &email).await?;
            accounts.set_admin(user.id, !remove).await?;
            let is = if remove { "no administrator's" } else { "an administrator's" };
            writeln!(output, "Account {} is {is}.", user.id)?;
        }
    }
    Ok(())
}

/// Verifies an account; from `password` comes the one that replaces that of the registration.
async fn verify(
    accounts: &Accounts,
    user: &UserRow,
    password: Option<&PasswordSource>,
    input: &mut (dyn BufRead + Send),
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    if user.is_verified {
        writeln!(output, "Account {} is verified already.", user.id)?;
        return Ok(());
    }
    let replaced = password.map(|source| new_password(source, input)).transpose()?;
    if let Some((password, _)) = &replaced {
        // First the password: an account must never be verified with one that is not trusted.
        accounts.set_password(user.id, password).await?;
    }
    accounts.set_verified(user.id).await?;
    writeln!(output, "Verified account {} ({}).", user.id, user.email)?;
    match replaced {
        Some((password, generated)) => print_password(output, &password, generated)?,
        None => writeln!(output, "The password of the latest registration is in effect.")?,
    }
    Ok(())
}

async fn revoke_one(accounts: &Accounts, user: &UserRow, session: &str) -> Result<(), Failure> {
    let no_session =
        || Failure::not_found(format!("the account has no session {session}; `supersync user sessions` lists them"));
    let named = SessionRef::parse(session).ok_or_else(no_session)?;
    match accounts.revoke_session(user.id, named, &Asker::operator()).await {
        Err(AccountError::NoSession) => Err(no_session()),
        result => Ok(result?),
    }
}

fn exists(email: &str) -> Failure {
    Failure::refused(format!(
        "there is an account {email} already; `supersync user token {email}` prints an access token, \
         `supersync user verify {email}` proves a registration"
    ))
}

async fn find(accounts: &Accounts, email: &str) -> Result<UserRow, Failure> {
    match accounts.find(email).await {
        Err(AccountError::NoAccount) => Err(Failure::no_account(email)),
        result => Ok(result?),
    }
}

/// The password, and whether it was made up here.
fn new_password(source: &PasswordSource, input: &mut (dyn BufRead + Send)) -> Result<(SecretString, bool), Failure> {
    if !source.password_stdin {
        return Ok((generate_password(), true));
    }
    let mut line = String::new();
    input.read_line(&mut line)?;
    let password = SecretString::from(line.trim_end_matches(['\r', '\n']).to_owned());
    check_new_password(password.expose_secret())?;
    Ok((password, false))
}

fn print_password(output: &mut (dyn Write + Send), password: &SecretString, generated: bool) -> io::Result<()> {
    if generated {
        writeln!(output, "\nPassword (shown only now):\n  {}", password.expose_secret())?;
    }
    Ok(())
}

fn print_session(output: &mut (dyn Write + Send), session: &Session, server_url: &str) -> io::Result<()> {
    writeln!(output, "\nAccess token (valid for a year):\n  {}", session.token.expose_secret())?;
    writeln!(output, "\nIn the app: {APP_PATH}")?;
    writeln!(output, "  Access Token:           the token above")?;
    writeln!(output, "  Advanced > Server URL:  {server_url}")
}

/// `1048576`, `500MB`, `1GiB` …; positive.
fn parse_bytes(text: &str) -> Result<i64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err("expected bytes or a number with KB, MB, GB, KiB, MiB or GiB, for example 500MB".to_owned()),
    };
    let number: i64 = number.parse().map_err(|_| "expected a whole number, for example 500MB".to_owned())?;
    match number.checked_mul(factor) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("expected more than 0 and less than 8 EiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::PasswordRuleError;

    #[test]
    fn sizes_are_bytes_or_carry_a_unit() {
        for (text, bytes) in [("1", 1), ("500MB", 500_000_000), ("2 GiB", 2 << 30), ("7kib", 7168)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "1.5GB", "GB", "10 apples", "9223372036854775807KB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_from_standard_input_is_one_line() {
        let source = PasswordSource { password_stdin: true };
        let read = |text: &'static str| new_password(&source, &mut text.as_bytes());
        assert_eq!(read("a long passphrase \r\nrest").unwrap().0.expose_secret(), "a long passphrase ");
        for short in ["short\n", ""] {
            assert_eq!(read(short).unwrap_err().to_string(), PasswordRuleError::TooShort.to_string());
        }
    }
}
