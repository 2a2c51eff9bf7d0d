//! What devices do all day: uploads, polls, downloads, restores.

use anyhow::{Result, ensure};
use serde_json::Value;
use serde_json::value::RawValue;
use supersync_client::wire::{Clock, ImportReason, SnapshotBody};
use supersync_client::{Client, OpType, Seq};

use crate::Bench;
use crate::check::compare_logs;
use crate::device::{Device, now_ms};
use crate::load::{self, Act, Counted, Crew, POLL, Plan, devices, fill, in_turn, record};
use crate::place::Place;
use crate::report::{Case, Check, float};
use crate::session::{Session, timed};
use crate::text::write_words;
use crate::usage::since;

/// "Many accounts".
const MANY_ACCOUNTS: usize = 5000;
/// Operations per page: what the app asks for.
const PAGE: usize = 500;
/// Bytes of the full state in front of what a new device needs.
const STATE_BYTES: usize = 1_000_000;
/// Bytes of a task's notes: few members per byte, because a state may have 500,000 of them (contract, section 5.4).
const NOTES_BYTES: usize = 2000;

pub async fn upload(bench: &Bench) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (batch, payload, accounts) in matrix(bench) {
        let many = if accounts == MANY_ACCOUNTS { format!(", {accounts} accounts") } else { String::new() };
        let name = format!("{batch} x {payload} B{many}");
        bench.progress(&format!("upload: {name}"));
        let session = bench.session(accounts, &[]).await?;
        let crews =
            Crew::deal(session.devices(0, payload).await?, bench.options.connections(), in_turn(Act::Upload(batch)));
        let (outcome, crews) = load::run(&session, crews, bench.options.pace()).await?;
        let mut case = Case::new("upload", name).with("accounts", accounts).with("connections", crews.len());
        case.load(&outcome, &session);
        let devices = devices(crews);
        let stored = devices.iter().map(|device| device.acknowledged.len() as u64).sum();
        case.checks.push(compare_logs(&session, devices).await?);
        let grown = session.close().await?.filter(|_| stored > 0);
        case.figure("disk_bytes_per_operation", grown.map(|grown| float(grown) / float(stored)));
        cases.push(case);
    }
    Ok(cases)
}

/// Operations per request, bytes per payload, accounts.
fn matrix(bench: &Bench) -> Vec<(usize, usize, usize)> {
    let options = &bench.options;
    let accounts = options.accounts();
    if !options.batch.is_empty() || !options.payload.is_empty() || options.accounts.is_some() {
        let batches = if options.batch.is_empty() { &[1, 20, 100][..] } else { &options.batch };
        let payloads = if options.payload.is_empty() { &[500][..] } else { &options.payload };
        let with = |batch: &u8, payload: &u32| (usize::from(*batch), *payload as usize, accounts);
        return batches.iter().flat_map(|batch| payloads.iter().map(move |payload| with(batch, payload))).collect();
    }
    let mut matrix = vec![(20, 500, accounts), (1, 500, accounts)];
    if !options.quick {
        matrix.push((1, 500, MANY_ACCOUNTS));
        matrix
            .extend([(100, 500), (20, 300), (1, 4096), (20, 4096)].map(|(batch, payload)| (batch, payload, accounts)));
    }
    matrix
}

pub async fn poll(bench: &Bench) -> Result<Vec<Case>> {
    bench.progress("poll");
    let connections = bench.options.connections();
    let (session, devices) = bench.filled(bench.options.accounts(), 20).await?;
    let (outcome, crews) =
        load::run(&session, Crew::deal(devices, connections, in_turn(POLL)), bench.options.pace()).await?;
    let mut case = Case::new("poll", "nothing new").with("connections", crews.len());
    case.load(&outcome, &session);
    case.checks.push(compare_logs(&session, load::devices(crews)).await?);
    session.close().await?;
    Ok(vec![case])
}

pub async fn tail(bench: &Bench) -> Result<Vec<Case>> {
    const NEW: u64 = 5;
    let connections = bench.options.connections();
    let (session, writers) = bench.filled(bench.options.accounts(), 20).await?;
    let readers = bench.devices(&session, 1).await?;
    let mut all: Vec<Device> = writers.into_iter().zip(readers).flat_map(|(writer, reader)| [writer, reader]).collect();
    let mut cases = Vec::new();
    for (name, adds) in [("5 just written", true), ("5 written before", false)] {
        bench.progress(&format!("tail: {name}"));
        let read = |devices: &mut [Device], pair: usize| {
            devices[2 * pair + 1].cursor = devices[2 * pair].cursor - NEW.cast_signed();
            Some((2 * pair + 1, Act::Download { limit: None, expected: Some(NEW) }))
        };
        let plan = move || -> Plan {
            Box::new(move |turn, devices| {
                let pairs = devices.len() / 2;
                match (adds, turn % 2) {
                    (true, 0) => Some((turn / 2 % pairs * 2, Act::Upload(5))),
                    (true, _) => read(devices, turn / 2 % pairs),
                    (false, _) => read(devices, turn % pairs),
                }
            })
        };
        let crews = Crew::deal_groups(all, 2, connections, plan);
        let (outcome, crews) = load::run(&session, crews, bench.options.pace()).await?;
        let mut case = Case::new("tail", name).with("connections", crews.len());
        case.load(&outcome, &session);
        case.counted("upload_", &outcome.uploads, outcome.lasted);
        case.counted("download_", &outcome.downloads, outcome.lasted);
        cases.push(case);
        all = load::devices(crews);
    }
    let check = compare_logs(&session, all).await?;
    for case in &mut cases {
        case.checks.push(check.clone());
    }
    session.close().await?;
    Ok(cases)
}

/// Lets new devices read all logs, page by page, again and again.
async fn read_logs(bench: &Bench, session: &Session, case: &mut Case) -> Result<()> {
    let devices = bench.devices(session, 1).await?;
    let plan = || -> Plan {
        Box::new(|turn, devices| {
            let which = turn % devices.len();
            if devices[which].at_end {
                devices[which].cursor = 0;
            }
            Some((which, Act::Download { limit: Some(PAGE), expected: None }))
        })
    };
    let crews = Crew::deal(devices, bench.options.connections(), plan);
    let (outcome, _) = load::run(session, crews, bench.options.pace()).await?;
    case.load(&outcome, session);
    Ok(())
}

pub async fn download(bench: &Bench) -> Result<Vec<Case>> {
    let options = &bench.options;
    let operations = options.size(2_000, 600);
    bench.progress("download");
    let (session, devices) = bench.filled(options.size(64, 8), operations).await?;
    // Of the last hours, and older: what a new device mostly meets.
    let mut rows = Case::new("download", "500, rows").with("operations", operations);
    read_logs(bench, &session, &mut rows).await?;
    let session = session.paused(Place::seal).await?;
    let mut sealed = Case::new("download", "500, sealed").with("operations", operations);
    read_logs(bench, &session, &mut sealed).await?;
    sealed.checks.push(compare_logs(&session, devices).await?);
    session.close().await?;
    Ok(vec![rows, sealed])
}

pub async fn fresh(bench: &Bench) -> Result<Vec<Case>> {
    const AFTER: usize = 700;
    let options = &bench.options;
    let before = options.size(100_000, 1_500);
    bench.progress(&format!("fresh: {before} operations"));
    let (session, mut devices) = bench.filled(options.size(4, 2), before).await?;
    for device in &mut devices {
        device.cursor = import(&client(&session, device.account)?, device, &state(STATE_BYTES)?).await?;
    }
    let devices = fill(&session, devices, AFTER, options.connections()).await?;
    let mut case = Case::new("fresh", format!("{before} operations behind a full state"));
    read_logs(bench, &session, &mut case).await?;
    let expected = Seq::try_from(before + AFTER + 1)?;
    let right = devices.iter().all(|device| device.cursor == expected);
    case.checks.push(Check::new("every log ends where it must", right, format!("at {expected}")));
    session.close().await?;
    Ok(vec![case])
}

pub async fn restore(bench: &Bench) -> Result<Vec<Case>> {
    let options = &bench.options;
    let operations = options.size(10_000, 500);
    bench.progress(&format!("restore: {operations} operations"));
    let (session, devices) = bench.filled(options.size(16, 2), operations).await?;
    let mut cases = Vec::new();
    for name in ["by replay", "again"] {
        let (mut counted, mut right) = (Counted::default(), true);
        let before = session.meter().cpu();
        for device in &devices {
            let client = client(&session, device.account)?;
            let (answer, took) = timed(async { Ok(client.restore(device.cursor).await?) }).await?;
            record(&mut counted.latency, took);
            let state: Value = serde_json::from_str(answer.state.get())?;
            right &= state["TASK"].as_object().map_or(0, serde_json::Map::len) == device.created;
        }
        let mut case = Case::new("restore", name).with("operations", operations);
        case.latencies("", &counted.latency);
        case.cpu(&since(&session.meter().cpu(), &before), counted.latency.len(), 0);
        case.memory(&session);
        let detail = format!("{} states", devices.len());
        case.checks.push(Check::new("every state holds the tasks that were created", right, detail));
        cases.push(case);
    }
    session.close().await?;
    Ok(cases)
}

/// The reference client of an account.
pub fn client(session: &Session, account: usize) -> Result<Client> {
    Ok(session.client()?.with_token(&session.tokens[account])?)
}

/// A full state of about so many bytes: tasks in a project.
pub fn state(bytes: usize) -> Result<Box<RawValue>> {
    let mut random = rand::SeedableRng::seed_from_u64(0x1A_57A7E);
    let tasks = (0..bytes.div_ceil(NOTES_BYTES)).map(|n| {
        let mut notes = Vec::new();
        write_words(&mut notes, NOTES_BYTES.min(bytes), &mut random);
        let notes = String::from_utf8_lossy(&notes);
        format!(
            "\"task-{n}\":{{\"id\":\"task-{n}\",\"created\":{},\"projectId\":\"INBOX_PROJECT\",\"notes\":\"{notes}\"}}",
            now_ms()
        )
    });
    let tasks: Vec<String> = tasks.collect();
    Ok(RawValue::from_string(format!(
        "{{\"task\":{{\"entities\":{{{}}}}},\"project\":{{\"entities\":{{\"INBOX_PROJECT\":{{\"id\":\"INBOX_PROJECT\"}}}}}}}}",
        tasks.join(",")
    ))?)
}

/// Uploads a full state under a new id and gives its sequence.
pub async fn import(client: &Client, device: &Device, state: &RawValue) -> Result<Seq> {
    let answer = client
        .snapshot(&SnapshotBody {
            state: state.to_owned(),
            client_id: device.client_id.clone(),
            reason: "recovery",
            vector_clock: Clock::from([(device.client_id.clone(), 1)]),
            schema_version: 4,
            is_payload_encrypted: false,
            sync_import_reason: Some(ImportReason::BackupRestore),
            op_id: uuid::Uuid::now_v7().to_string(),
            is_clean_slate: false,
            snapshot_op_type: OpType::BackupImport,
            request_id: None,
        })
        .await?;
    ensure!(answer.accepted, "the full state was not accepted: {answer:?}");
    Ok(answer.server_seq.unwrap_or_default())
}
