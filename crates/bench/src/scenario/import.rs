//! One user imports a large full state while others work: how much do they notice?

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::Scenario;
use super::bystanders::{Bystanders, PHASES};
use super::download::import;
use crate::bench::Bench;
use crate::bench::case::Case;
use crate::bench::check::Check;
use crate::bench::error::Result;
use crate::bench::latency::Histogram;
use crate::bench::session::Session;
use crate::bench::state::Import;
use crate::client::{Client, Ladder};

pub struct LargeImport;

/// An import begins so often, or as soon as the last one is done.
const IMPORT_EVERY: Duration = Duration::from_secs(1);

/// Imports again and again until told to stop.
async fn import_until(session: &Session, state: &mut Import, until: Instant) -> Result<Histogram> {
    let mut connection = session.connect().await?;
    let mut took = Histogram::default();
    while Instant::now() < until {
        let began = Instant::now();
        import(&mut connection, state).await?;
        took.record(began.elapsed());
        tokio::time::sleep_until((began + IMPORT_EVERY).into()).await;
    }
    Ok(took)
}

#[async_trait(?Send)]
impl Scenario for LargeImport {
    fn name(&self) -> &'static str {
        "import"
    }

    fn about(&self) -> &'static str {
        "others' polls and uploads while one user imports a full state of 20 MB every second, and while nobody does"
    }

    fn needs_own_server(&self) -> bool {
        true
    }

    async fn run(&self, bench: &Bench) -> Result<Vec<Case>> {
        let options = &bench.options;
        let state_bytes = options.size(20_000_000, 1_000_000);
        bench.progress("import");
        let session = bench.session(options.size(65, 9)).await?;
        let mut devices = session.devices(0, options.payload_bytes()).await?;
        let importer = devices.remove(0);
        let mut others = Bystanders::settle(&session, devices, options.connections()).await?;
        let mut state = Import::new(&importer, state_bytes);
        let pace = Bystanders::pace(options.pace());
        let mut imports = Histogram::default();
        for importing in PHASES {
            let watched = others.watch(&session, pace, importing);
            if importing {
                let until = Instant::now() + pace.warmup + pace.lasts;
                let (watched, took) = tokio::join!(watched, import_until(&session, &mut state, until));
                watched?;
                imports.merge(&took?);
            } else {
                watched.await?;
            }
        }
        let mut case =
            others.case("import", format!("{} MB", state_bytes / 1_000_000)).with("imports", imports.count());
        for (name, share) in [("import_p50_ms", 0.5), ("import_max_ms", 1.0)] {
            case.figure(name, "ms", imports.quantile_ms(share));
        }
        others.figures(&mut case);
        case.memory(&session);
        case.check(others.check(&session).await?);
        let client = Client::new(&session.target().base(), &session.accounts()[0].token, Ladder::default())?;
        let stored = client.restore_points(100).await?.restore_points.len() as u64;
        let detail = format!("{} imports, {stored} restore points", imports.count());
        case.check(Check::new("every import is a restore point", stored == imports.count().min(100), detail));
        session.close().await?;
        Ok(vec![case])
    }
}
