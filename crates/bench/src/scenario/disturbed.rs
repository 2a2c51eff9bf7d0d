//! Devices that poll and upload at an easy pace while somebody else is a burden to the server: how much do they notice?

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::task::JoinSet;

use super::sync;
use crate::Bench;
use crate::check::compare_logs;
use crate::connection::{Connection, unexpected};
use crate::device::Device;
use crate::load::{self, Act, Counted, Crew, POLL, Pace, Plan, fill, histogram, record};
use crate::report::{Case, Check, float, quantile_ms};
use crate::session::{Session, timed};

/// Whether the burden is there. Phases take turns, so that what else happens on the machine falls on both kinds.
const PHASES: [bool; 4] = [false, true, false, true];
/// Connections of the devices, at most, and how often each asks: far below what the server can do, so that what they
/// wait for is the burden and not each other.
const CONNECTIONS: usize = 32;
const ASK_EVERY: Duration = Duration::from_millis(20);
/// An import begins so often, or as soon as the last one is done.
const IMPORT_EVERY: Duration = Duration::from_secs(1);
/// Fifty log-ins a second, whether or not the ones before are answered.
const LOGIN_EVERY: Duration = Duration::from_millis(20);

/// Lets devices work in all phases, with `burden` in every other one, and writes down what they noticed.
async fn disturb(
    bench: &Bench,
    session: &Session,
    devices: Vec<Device>,
    case: &mut Case,
    mut burden: impl AsyncFnMut(Instant) -> Result<()>,
) -> Result<()> {
    let connections = bench.options.connections().min(CONNECTIONS);
    let mut devices = fill(session, devices, 20, connections).await?;
    let usual = bench.options.pace();
    // Half of the usual time for a phase, since there are two of each kind.
    let pace = Pace { every: Some(ASK_EVERY), lasts: usual.lasts / 2, ..usual };
    let plan = || -> Plan {
        Box::new(|turn, devices| {
            Some((turn % devices.len(), if turn.is_multiple_of(4) { Act::Upload(1) } else { POLL }))
        })
    };
    // Polls and uploads, without and with the burden.
    let mut noticed: [[Counted; 2]; 2] = Default::default();
    for disturbed in PHASES {
        let until = Instant::now() + pace.warmup + pace.lasts;
        let watched = load::run(session, Crew::deal(devices, connections, plan), pace);
        let (outcome, crews) = if disturbed {
            let (watched, burdened) = tokio::join!(watched, burden(until));
            burdened?;
            watched?
        } else {
            watched.await?
        };
        noticed[usize::from(disturbed)][0].add(&outcome.downloads);
        noticed[usize::from(disturbed)][1].add(&outcome.uploads);
        devices = load::devices(crews);
    }
    for (kind, name) in ["polls", "uploads"].into_iter().enumerate() {
        let p99 = [0, 1].map(|disturbed: usize| quantile_ms(&noticed[disturbed][kind].latency, 0.99));
        case.figure(format!("{name}_p99_without_ms"), p99[0]);
        case.figure(format!("{name}_p99_with_ms"), p99[1]);
        case.figure(format!("{name}_p99_ratio"), p99[0].zip(p99[1]).map(|(without, with)| with / without));
    }
    case.memory(session);
    case.checks.push(compare_logs(session, devices).await?);
    Ok(())
}

pub async fn import(bench: &Bench) -> Result<Vec<Case>> {
    let bytes = bench.options.size(20_000_000, 1_000_000);
    bench.progress("import");
    let session = bench.session(bench.options.size(65, 9), &[]).await?;
    let mut devices = bench.devices(&session, 0).await?;
    let importer = devices.remove(0);
    let (client, state) = (sync::client(&session, importer.account)?, sync::state(bytes)?);
    let mut case = Case::new("import", format!("{} MB", bytes / 1_000_000));
    let mut imports = histogram();
    disturb(bench, &session, devices, &mut case, async |until| {
        while Instant::now() < until {
            let next = Instant::now() + IMPORT_EVERY;
            let (_, took) = timed(sync::import(&client, &importer, &state)).await?;
            record(&mut imports, took);
            tokio::time::sleep_until(next.into()).await;
        }
        Ok(())
    })
    .await?;
    case.latencies("import_", &imports);
    let stored = client.restore_points(100).await?.restore_points.len() as u64;
    let detail = format!("{} imports, {stored} restore points", imports.len());
    case.checks.push(Check::new("every import is a restore point", stored == imports.len().min(100), detail));
    session.close().await?;
    Ok(vec![case])
}

pub async fn logins(bench: &Bench) -> Result<Vec<Case>> {
    bench.progress("logins");
    let session = bench.session(bench.options.size(64, 8), &[]).await?;
    let devices = bench.devices(&session, 0).await?;
    let mut case = Case::new("logins", "50 a second");
    let (mut judged, mut turned_away) = (histogram(), 0);
    disturb(bench, &session, devices, &mut case, async |until| {
        let mut under_way = JoinSet::new();
        let mut due = Instant::now();
        while due < until {
            tokio::time::sleep_until(due.into()).await;
            under_way.spawn(log_in(session.connect().await?, under_way.len()));
            due += LOGIN_EVERY;
        }
        for answered in under_way.join_all().await {
            match answered? {
                (true, took) => record(&mut judged, took),
                (false, _) => turned_away += 1,
            }
        }
        Ok(())
    })
    .await?;
    case.figure("logins_judged", float(judged.len()));
    case.figure("logins_turned_away", float(turned_away));
    case.latencies("login_", &judged);
    let detail = format!("{} of {}", judged.len(), judged.len() + turned_away);
    case.checks.push(Check::new("log-ins are judged", !judged.is_empty(), detail));
    session.close().await?;
    Ok(vec![case])
}

/// An attempt with an unknown address, which is one computed hash like any other. Gives whether it was judged; the
/// server may also say that too many wait.
async fn log_in(mut connection: Connection, number: usize) -> Result<(bool, Duration)> {
    let body = format!("{{\"email\":\"nobody{number}@example.org\",\"password\":\"a long passphrase\"}}");
    let request = format!(
        "POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let began = Instant::now();
    let answer = connection.send(request.as_bytes()).await?;
    match answer.status {
        401 => Ok((true, began.elapsed())),
        503 => Ok((false, began.elapsed())),
        status => bail!(unexpected(&format!("status {status} for a log-in"), answer.body)),
    }
}
