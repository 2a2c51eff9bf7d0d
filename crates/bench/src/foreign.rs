//! A server that somebody else runs: accounts whose tokens a file holds, or that a server in test mode creates.

use std::cell::RefCell;
use std::path::Path;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::error::{BenchError, Result};
use super::target::{Account, Target};
use crate::client::Ladder;
use crate::client::raw::{Body, Encoding, Raw};

/// A foreign server.
#[derive(Debug)]
pub struct Foreign {
    target: Target,
    /// Whether more accounts may be created.
    test_mode: bool,
    accounts: RefCell<Vec<Account>>,
}

#[derive(Deserialize)]
struct Created {
    token: String,
}

impl Foreign {
    /// The server at `url`, with the tokens of a file, one per line. Without a file it has to be in test mode.
    ///
    /// # Errors
    /// When the address or the file can't be read, or the file holds no token.
    pub async fn open(url: &str, tokens: Option<&Path>) -> Result<Self> {
        let target = Target::resolve(url).await?;
        let Some(path) = tokens else { return Ok(Self { target, test_mode: true, accounts: RefCell::default() }) };
        let text = std::fs::read_to_string(path).map_err(BenchError::io(format!("reading {}", path.display())))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let accounts: Vec<Account> = lines.map(|token| Account { token: token.to_owned() }).collect();
        if accounts.is_empty() {
            return Err(BenchError::Options(format!("{} holds no token", path.display())));
        }
        Ok(Self { target, test_mode: false, accounts: RefCell::new(accounts) })
    }

    /// Where it is.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// So many accounts, or as many as the file has tokens for.
    ///
    /// # Errors
    /// When the server is not in test mode and would have to be.
    pub async fn accounts(&self, count: usize) -> Result<Vec<Account>> {
        if self.test_mode {
            // A password is hashed for each: this takes its time.
            let raw = Raw::new(&self.target.base(), &Ladder::default())?;
            loop {
                let known = self.accounts.borrow().len();
                if known >= count {
                    break;
                }
                let created = create(&raw, known).await?;
                self.accounts.borrow_mut().push(created);
            }
        }
        let accounts = self.accounts.borrow();
        Ok(accounts[..count.min(accounts.len())].to_vec())
    }
}

async fn create(raw: &Raw, number: usize) -> Result<Account> {
    let body = json!({ "email": format!("bench-{number}@example.org"), "password": "of no importance" });
    let body = Body::new(body.to_string().as_bytes(), Encoding::Plain);
    let answer = raw.send(Method::POST, "/api/test/create-user", Some(&body)).await?;
    if answer.status == StatusCode::NOT_FOUND {
        let reason = "--url without --tokens needs a server in test mode, and this one is not";
        return Err(BenchError::Options(reason.to_owned()));
    }
    let created: Option<Created> = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status.is_success());
    let created = created.ok_or_else(|| BenchError::answer("no test account", &answer.body))?;
    Ok(Account { token: created.token })
}
