//! `supersync data recount`: what accounts are charged, recounted from what they store.

use std::io::{self, Write};

use clap::Args;
use serde_json::{Value, json};

use super::output::{print_json, print_row};
use super::{Failure, progress};
use crate::engine::recount::{Difference, Recount, recount_account, recount_all};
use crate::protocol::UserId;
use crate::store::Store;

/// Arguments of `supersync data recount`.
#[derive(Clone, Copy, Debug, Args)]
pub struct RecountArgs {
    /// Only the account with this number (`supersync user list`).
    #[arg(long, value_name = "ID")]
    pub account: Option<UserId>,
    /// Change nothing; show which counters are wrong.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) async fn run(args: RecountArgs, store: &dyn Store, output: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let RecountArgs { account, dry_run, json } = args;
    let mut differences: Vec<Difference> = Vec::new();
    let done = if let Some(user) = account {
        if store.user_by_id(user).await?.is_none() {
            return Err(Failure::no_account_number(user));
        }
        differences.extend(recount_account(store, user, !dry_run).await?);
        let wrong = u64::from(!differences.is_empty());
        Recount { accounts: 1, wrong, corrected: if dry_run { 0 } else { wrong }, failed: 0 }
    } else {
        let spinner = progress::spinner();
        let counted = recount_all(store, !dry_run, |so_far, difference| {
            differences.extend(difference);
            spinner.set_message(format!("{} accounts counted, {} wrong", so_far.accounts, so_far.wrong));
            spinner.tick();
        })
        .await;
        spinner.finish_and_clear();
        counted?
    };
    if json {
        print_json(&as_object(&done, &differences), output)?;
    } else {
        table(&done, &differences, output)?;
    }
    Failure::unless_done(done.failed)
}

fn table(done: &Recount, differences: &[Difference], output: &mut (dyn Write + Send)) -> io::Result<()> {
    const WIDTHS: [isize; 4] = [10, 14, 14, 14];
    if !differences.is_empty() {
        print_row(output, WIDTHS, [&"ACCOUNT", &"CHARGED", &"STORED", &"DIFFERENCE"])?;
    }
    for Difference { user, charged_bytes, counted_bytes, .. } in differences {
        let difference = format!("{:+}", counted_bytes - charged_bytes);
        print_row(output, WIDTHS, [user, charged_bytes, counted_bytes, &difference])?;
    }
    let what = match (done.wrong, done.corrected) {
        (0, _) => "all are charged what they store".to_owned(),
        (wrong, 0) => format!("{wrong} are charged something else; nothing was changed"),
        (wrong, corrected) => format!("{wrong} were charged something else, {corrected} put right"),
    };
    writeln!(output, "{} account(s) counted: {what}", done.accounts)
}

fn as_object(done: &Recount, differences: &[Difference]) -> Value {
    let all = differences.iter().map(|difference| {
        json!({
            "account": difference.user,
            "chargedBytes": difference.charged_bytes,
            "storedBytes": difference.counted_bytes,
            "corrected": difference.corrected,
        })
    });
    json!({
        "accounts": done.accounts,
        "wrong": done.wrong,
        "corrected": done.corrected,
        "failed": done.failed,
        "differences": all.collect::<Vec<_>>(),
    })
}
