//! `supersync data usage`: what uses the space.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{self, Write};

use clap::Args;
use serde_json::{Value, json};

use super::output::{print_json, print_row};
use super::report::masked;
use super::{Failure, progress};
use crate::protocol::{Seq, UserId};
use crate::store::{AccountOverview, Holdings, KindUsage, LogRange, Parts, Store, StoreError, TableSize};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// How far back growth is counted.
const DAYS: [i64; 3] = [1, 7, 30];
/// Accounts whose operations one statement looks at.
const ACCOUNTS_PER_STEP: usize = 500;
/// If more operations than that are not packed, only some are looked at.
const MAX_COUNTED: i64 = 1_000_000;
/// Those: so many of each of so many accounts.
const SAMPLED_ACCOUNTS: usize = 200;
const SAMPLED_EACH: usize = 100;
/// The embedded database is read whole to tell its tables apart; not if it is larger.
const MAX_READ_BYTES: i64 = 1 << 30;
/// A page of a log that is read to its end.
const PAGE_OPS: usize = 2_000;
const PAGE_BYTES: usize = 8 << 20;

/// Arguments of `supersync data usage`.
#[derive(Clone, Copy, Debug, Args)]
pub struct UsageArgs {
    /// Accounts shown, largest first.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Show addresses in full.
    #[arg(long)]
    pub unmask: bool,
    /// Read every operation. Takes minutes for millions.
    #[arg(long)]
    pub thorough: bool,
}

/// Which operations the kinds were counted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coverage {
    /// Every one.
    All,
    /// Those that are not packed.
    Unpacked,
    /// The newest of some accounts.
    Sample,
}

impl Coverage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Unpacked => "unpacked",
            Self::Sample => "sample",
        }
    }
}

/// One of the largest accounts with its growth.
struct Large {
    account: AccountOverview,
    grown_bytes: [i64; 3],
}

struct Usage {
    holdings: Holdings,
    parts: Parts,
    tables: Option<Vec<TableSize>>,
    largest: Vec<Large>,
    kinds: Vec<KindUsage>,
    coverage: Coverage,
    /// Of all accounts; `None` when only some operations were looked at.
    grown_bytes: Option<[i64; 3]>,
}

/// Runs the command.
pub(super) async fn run(
    args: UsageArgs,
    now_ms: i64,
    store: &dyn Store,
    output: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let usage = look(args, now_ms, store).await?;
    if args.json {
        print_json(&as_object(&usage, args.unmask), output)?;
        return Ok(());
    }
    Ok(table(&usage, args.unmask, output)?)
}

async fn look(args: UsageArgs, now_ms: i64, store: &dyn Store) -> Result<Usage, StoreError> {
    let since = DAYS.map(|days| now_ms - days * DAY_MS);
    let (holdings, parts) = (store.holdings().await?, store.parts().await?);
    let tables = store.table_sizes(if args.thorough { i64::MAX } else { MAX_READ_BYTES }).await?;
    let mut largest = Vec::new();
    for user in store.largest_accounts(args.limit).await? {
        let [day, week, month] = since;
        // Deleted meanwhile, if it is not there any more.
        let Some(account) = store.account_overview(user, month).await? else { continue };
        let mut grown_bytes = [0, 0, account.grown_bytes];
        for (grown, since) in grown_bytes.iter_mut().zip([day, week]) {
            *grown = store.account_overview(user, since).await?.map_or(0, |account| account.grown_bytes);
        }
        largest.push(Large { account, grown_bytes });
    }
    let (coverage, mut kinds) = if args.thorough {
        (Coverage::All, kinds_of_all(store, since).await?)
    } else if parts.unpacked_operations <= MAX_COUNTED {
        (Coverage::Unpacked, kinds_of_unpacked(store, since).await?)
    } else {
        (Coverage::Sample, store.kinds_of_newest(SAMPLED_ACCOUNTS, SAMPLED_EACH, since).await?)
    };
    kinds.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.op_type.cmp(&b.op_type)));
    let counted = kinds.iter().fold([0; 3], |sum, kind| plus(sum, kind.grown_bytes));
    let grown_bytes = match coverage {
        Coverage::All => Some(counted),
        Coverage::Unpacked => Some(plus(counted, store.packed_growth(since).await?)),
        Coverage::Sample => None,
    };
    Ok(Usage { holdings, parts, tables, largest, kinds, coverage, grown_bytes })
}

fn plus(a: [i64; 3], b: [i64; 3]) -> [i64; 3] {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

type Key = (String, String, bool);

fn add(kinds: &mut HashMap<Key, KindUsage>, more: KindUsage) {
    let key = (more.op_type.clone(), more.entity_type.clone(), more.encrypted);
    match kinds.get_mut(&key) {
        Some(sum) => {
            sum.operations += more.operations;
            sum.bytes += more.bytes;
            sum.grown_bytes = plus(sum.grown_bytes, more.grown_bytes);
        }
        None => {
            kinds.insert(key, more);
        }
    }
}

async fn kinds_of_unpacked(store: &dyn Store, since: [i64; 3]) -> Result<Vec<KindUsage>, StoreError> {
    let mut kinds = HashMap::new();
    let mut after: UserId = 0;
    while let Some((last, unpacked)) = store.next_accounts(after, ACCOUNTS_PER_STEP).await? {
        if unpacked > 0 {
            for kind in store.kinds(after, last, since).await? {
                add(&mut kinds, kind);
            }
        }
        after = last;
    }
    Ok(kinds.into_values().collect())
}

/// Reads every operation of every data set.
async fn kinds_of_all(store: &dyn Store, since: [i64; 3]) -> Result<Vec<KindUsage>, StoreError> {
    let mut kinds = HashMap::new();
    let mut after: UserId = 0;
    let (spinner, mut operations) = (progress::spinner(), 0_u64);
    while let Some((user, _)) = store.next_accounts(after, 1).await? {
        after = user;
        let Some(account) = store.load_account(user).await? else { continue };
        let mut read: Seq = account.sync.pruned_seq;
        loop {
            let range = LogRange {
                user,
                after: read,
                up_to: account.sync.last_seq,
                exclude_client: None,
                limit: PAGE_OPS,
                max_bytes: PAGE_BYTES,
            };
            let page = store.read_log(range).await?;
            for op in &page.ops {
                operations += 1;
                read = op.server_seq;
                let came = |since: i64| if op.received_at > since { op.storage_bytes } else { 0 };
                let kind = KindUsage {
                    op_type: op.op_type.as_str().to_owned(),
                    entity_type: op.entity_type.to_owned(),
                    encrypted: op.is_payload_encrypted,
                    operations: 1,
                    bytes: op.storage_bytes,
                    grown_bytes: since.map(came),
                };
                add(&mut kinds, kind);
            }
            spinner.set_message(format!("{operations} operations read"));
            spinner.tick();
            if !page.has_more || page.ops.is_empty() {
                break;
            }
        }
    }
    spinner.finish_and_clear();
    Ok(kinds.into_values().collect())
}

fn table(usage: &Usage, unmask: bool, output: &mut (dyn Write + Send)) -> io::Result<()> {
    let (holdings, parts) = (&usage.holdings, &usage.parts);
    let near = holdings.accounts_near_quota;
    writeln!(
        output,
        "{} accounts, {} operations; charged {} of {} bytes; {near} accounts near their quota",
        holdings.accounts, parts.operations, holdings.used_bytes, holdings.quota_bytes
    )?;
    match usage.grown_bytes {
        Some([day, week, month]) => {
            writeln!(output, "Grown by {day} bytes in 24 hours, {week} in 7 days, {month} in 30 days")?;
        }
        None => writeln!(
            output,
            "How much all of it has grown takes --thorough: {} operations are not packed",
            parts.unpacked_operations
        )?,
    }
    writeln!(output, "The database takes {} bytes\n", holdings.database_bytes)?;

    let widths = [10, 14, 12, 12, 12, 12, 0];
    let headings: [&dyn Display; 7] =
        [&"ACCOUNT", &"CHARGED", &"OPERATIONS", &"24 HOURS", &"7 DAYS", &"30 DAYS", &"ADDRESS"];
    print_row(output, widths, headings)?;
    for Large { account, grown_bytes: [day, week, month] } in &usage.largest {
        let address = if unmask { account.user.email.clone() } else { masked(&account.user.email) };
        let (user, charged, operations) = (account.user.id, account.storage_used_bytes, account.operations);
        print_row(output, widths, [&user, &charged, &operations, day, week, month, &address])?;
    }
    let of = match usage.coverage {
        Coverage::All => "of all operations".to_owned(),
        Coverage::Unpacked => "of the operations that are not packed: the newest, full states, large ones".to_owned(),
        Coverage::Sample => {
            format!("a sample: the newest {SAMPLED_EACH} operations of the {SAMPLED_ACCOUNTS} accounts seen last")
        }
    };
    writeln!(
        output,
        "\nBy kind ({of})\n{:<16} {:<20} {:<9}  {:>12}  {:>14}  {:>12}  {:>12}  {:>12}",
        "OPERATION", "ABOUT", "ENCRYPTED", "OPERATIONS", "BYTES", "24 HOURS", "7 DAYS", "30 DAYS"
    )?;
    for kind in &usage.kinds {
        let [day, week, month] = kind.grown_bytes;
        let encrypted = if kind.encrypted { "yes" } else { "no" };
        writeln!(
            output,
            "{:<16} {:<20} {encrypted:<9}  {:>12}  {:>14}  {day:>12}  {week:>12}  {month:>12}",
            kind.op_type, kind.entity_type, kind.operations, kind.bytes
        )?;
    }
    let widths = [-34, 12, 12, 14, 14];
    writeln!(output, "\nBy part")?;
    print_row(output, widths, [&"", &"COUNT", &"OPERATIONS", &"CHARGED", &"BYTES"])?;
    for (part, figures) in by_part(parts) {
        let [count, operations, charged, bytes] = figures.map(or_dash);
        print_row(output, widths, [&part, &count, &operations, &charged, &bytes])?;
    }
    match &usage.tables {
        None => writeln!(output, "\nWhat each table takes is found out by reading the whole file: --thorough")?,
        Some(tables) => {
            let widths = [-34, 12, 14];
            writeln!(output)?;
            print_row(output, widths, [&"TABLE, WITH INDEXES", &"ROWS (ABOUT)", &"BYTES"])?;
            for TableSize { name, rows, bytes } in tables {
                print_row(output, widths, [name, &or_dash(*rows), bytes])?;
            }
        }
    }
    Ok(())
}

fn or_dash(figure: Option<i64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string())
}

/// Name; count, operations, what they are charged, what they take.
fn by_part(parts: &Parts) -> [(&'static str, [Option<i64>; 4]); 4] {
    let Parts { segments, segment_operations, segment_charged_bytes, segment_bytes, .. } = *parts;
    let segments = [segments, segment_operations, segment_charged_bytes, segment_bytes].map(Some);
    let (archives, operations, bytes) = (parts.archives, parts.archive_operations, parts.archive_bytes);
    let states = Some(parts.snapshot_bytes);
    [
        ("operations not packed (at most)", [None, Some(parts.unpacked_operations), None, None]),
        ("segments, with the archive's", segments),
        ("archive, packed or not", [Some(archives), Some(operations), Some(bytes), None]),
        ("cached states", [Some(parts.snapshots), None, states, states]),
    ]
}

fn growth(bytes: [i64; 3]) -> Value {
    json!({ "day": bytes[0], "week": bytes[1], "month": bytes[2] })
}

fn as_object(usage: &Usage, unmask: bool) -> Value {
    let (holdings, parts) = (&usage.holdings, &usage.parts);
    let largest = usage.largest.iter().map(|Large { account, grown_bytes }| {
        json!({
            "account": account.user.id,
            "address": if unmask { account.user.email.clone() } else { masked(&account.user.email) },
            "usedBytes": account.storage_used_bytes,
            "quotaBytes": account.user.storage_quota_bytes,
            "operations": account.operations,
            "devices": account.devices,
            "grownBytes": growth(*grown_bytes),
        })
    });
    let kinds = usage.kinds.iter().map(|kind| {
        json!({
            "opType": kind.op_type,
            "entityType": kind.entity_type,
            "encrypted": kind.encrypted,
            "operations": kind.operations,
            "bytes": kind.bytes,
            "grownBytes": growth(kind.grown_bytes),
        })
    });
    let tables = usage.tables.as_ref().map(|tables| {
        let all = tables.iter().map(|table| json!({ "name": table.name, "rows": table.rows, "bytes": table.bytes }));
        all.collect::<Vec<_>>()
    });
    json!({
        "accounts": holdings.accounts,
        "accountsNearQuota": holdings.accounts_near_quota,
        "operations": parts.operations,
        "usedBytes": holdings.used_bytes,
        "quotaBytes": holdings.quota_bytes,
        "grownBytes": usage.grown_bytes.map(growth),
        "databaseBytes": holdings.database_bytes,
        "largest": largest.collect::<Vec<_>>(),
        "kindsOf": usage.coverage.as_str(),
        "kinds": kinds.collect::<Vec<_>>(),
        "unpacked": { "operations": parts.unpacked_operations },
        "segments": {
            "count": parts.segments,
            "operations": parts.segment_operations,
            "chargedBytes": parts.segment_charged_bytes,
            "bytes": parts.segment_bytes,
        },
        "archive": { "count": parts.archives, "operations": parts.archive_operations, "chargedBytes": parts.archive_bytes },
        "snapshots": { "count": parts.snapshots, "bytes": parts.snapshot_bytes },
        "tables": tables,
    })
}
