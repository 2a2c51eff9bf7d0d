//! Many sign in with passwords while others sync: how much do they notice?

use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::Scenario;
use super::bystanders::{Bystanders, PHASES};
use crate::bench::Bench;
use crate::bench::case::{Case, float};
use crate::bench::check::Check;
use crate::bench::connection::Connection;
use crate::bench::error::{BenchError, Result};
use crate::bench::latency::Histogram;
use crate::bench::target::Target;

pub struct Logins;

/// Fifty a second, whether or not the ones before are answered.
const LOGIN_EVERY: Duration = Duration::from_millis(20);

/// What became of the logins.
#[derive(Default)]
struct Attempts {
    judged: Histogram,
    turned_away: u64,
}

impl Attempts {
    fn count(&self) -> u64 {
        self.judged.count() + self.turned_away
    }
}

/// An attempt with an unknown address, which is one computed hash like any other. Gives whether it was judged; the
/// server may also say that too many wait.
async fn log_in(target: Target, number: usize) -> Result<(bool, Duration)> {
    let began = Instant::now();
    let body = format!("{{\"email\":\"nobody{number}@example.org\",\"password\":\"a long passphrase\"}}");
    let request = format!(
        "POST /api/login HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        target.host,
        body.len()
    );
    let mut connection = Connection::open(&target).await?;
    let answer = connection.send(request.as_bytes()).await?;
    match answer.status {
        401 => Ok((true, began.elapsed())),
        503 => Ok((false, began.elapsed())),
        status => Err(BenchError::answer(&format!("status {status} for a login"), answer.body)),
    }
}

async fn log_in_until(target: &Target, attempts: &mut Attempts, until: Instant) -> Result<()> {
    let mut under_way = JoinSet::new();
    let mut due = Instant::now();
    while due < until {
        tokio::time::sleep_until(due.into()).await;
        under_way.spawn(log_in(target.clone(), under_way.len()));
        due += LOGIN_EVERY;
    }
    while let Some(done) = under_way.join_next().await {
        match done {
            Ok(answered) => match answered? {
                (true, took) => attempts.judged.record(took),
                (false, _) => attempts.turned_away += 1,
            },
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    Ok(())
}

#[async_trait(?Send)]
impl Scenario for Logins {
    fn name(&self) -> &'static str {
        "logins"
    }

    fn about(&self) -> &'static str {
        "others' polls and uploads while 50 passwords a second are tried, and while nobody signs in"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        bench.progress("logins");
        let session = bench.session(options.size(64, 8)).await?;
        let devices = session.devices(0, options.payload_bytes()).await?;
        let mut others = Bystanders::settle(&session, devices, options.connections()).await?;
        let pace = Bystanders::pace(options.pace());
        let mut attempts = Attempts::default();
        for signing_in in PHASES {
            let watched = others.watch(&session, pace, signing_in);
            if signing_in {
                let until = Instant::now() + pace.warmup + pace.lasts;
                let (watched, tried) = tokio::join!(watched, log_in_until(session.target(), &mut attempts, until));
                watched?;
                tried?;
            } else {
                watched.await?;
            }
        }
        let mut case = others.case("logins", "50 a second").with("logins", attempts.count());
        case.figure("logins_judged", "", float(attempts.judged.count()));
        case.figure("logins_turned_away", "", float(attempts.turned_away));
        case.figure("login_p50_ms", "ms", attempts.judged.quantile_ms(0.5));
        case.figure("login_max_ms", "ms", attempts.judged.max_ms());
        others.figures(&mut case);
        case.memory(&session);
        case.check(others.check(&session).await?);
        let detail = format!("{} of {}", attempts.judged.count(), attempts.count());
        case.check(Check::new("logins are judged", attempts.judged.count() > 0, detail));
        session.close().await?;
        Ok(vec![case])
    }
}
