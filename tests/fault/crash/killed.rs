//! `kill -9` under load, again and again: the program itself, started as an operator starts it, loses nothing that it
//! has acknowledged and does nothing twice, whatever it was doing when it died.

use supersync_client::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::crash::witness::{Witness, check, check_all, create_account};
use crate::harness::{Backend, LONG_PATIENCE as PATIENCE, Program, TestDatabase};

const KILLS: usize = 10;
const ACCOUNTS: usize = 4;
const DEVICES: usize = 3;
const BATCH: usize = 10;
/// Acknowledged operations between two kills.
const ACKNOWLEDGED_PER_LIFE: usize = 400;

/// How far the load has come in one life of the program.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Operations acknowledged.
    acknowledged: usize,
    /// Syncs begun.
    syncs: usize,
}

/// Works until the server dies.
async fn work(mut witness: Witness, progress: watch::Sender<Progress>) -> Witness {
    loop {
        witness.make(BATCH);
        progress.send_modify(|progress| progress.syncs += 1);
        match witness.sync().await {
            Ok(count) => progress.send_modify(|progress| progress.acknowledged += count),
            Err(error) => {
                assert!(error.is_network(), "{error}");
                return witness;
            }
        }
    }
}

async fn killed_under_load(backend: Backend) {
    let database = TestDatabase::create(backend).await;
    let mut program = Program::start(&database).await;
    let mut tokens = Vec::new();
    for account in 0..ACCOUNTS {
        tokens.push(create_account(&program.client(), account).await);
    }
    let connect = |program: &Program| -> Vec<Client> {
        let client = program.client();
        tokens.iter().map(|token| client.with_token(token).expect("a token")).collect()
    };
    let mut clients = connect(&program);
    let mut witnesses: Vec<Witness> = (0..ACCOUNTS * DEVICES)
        .map(|n| Witness::new(n % ACCOUNTS, clients[n % ACCOUNTS].clone(), &format!("D_{}", n / ACCOUNTS)))
        .collect();
    for life in 0..KILLS {
        let (progress, mut seen) = watch::channel(Progress::default());
        let mut work = JoinSet::new();
        for witness in witnesses {
            work.spawn(self::work(witness, progress.clone()));
        }
        let enough = async {
            let syncs = seen.wait_for(|now| now.acknowledged >= ACKNOWLEDGED_PER_LIFE).await?.syncs;
            // Not at the moment of an answer, when nothing may be under way, but a different number of requests later.
            seen.wait_for(|now| now.syncs > syncs + life).await.map(|_| ())
        };
        timeout(PATIENCE, enough).await.expect("the load makes progress").expect("the devices work");
        program.kill().await;
        witnesses = work.join_all().await;
        program = Program::start(&database).await;
        clients = connect(&program);
        check(&clients, &witnesses).await;
        for witness in &mut witnesses {
            witness.device.client = clients[witness.account].clone();
        }
    }
    // What was under way when the server died is sent again and ends up there once.
    for witness in &mut witnesses {
        while witness.device.pending() > 0 {
            witness.sync().await.expect("the server is up");
        }
        // What was acknowledged before the download of the same sync failed, nobody has noted.
        assert!(witness.acknowledged.len() + witness.duplicates <= witness.made.len());
    }
    let made = check_all(&clients, &witnesses).await;
    let unheard: usize = witnesses.iter().map(|witness| witness.duplicates).sum();
    eprintln!("{made} operations over {KILLS} kills, {unheard} of them stored without the device having heard of it");
    program.kill().await;
}

on_both_databases!(killed_under_load);
