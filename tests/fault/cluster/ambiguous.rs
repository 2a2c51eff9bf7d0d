//! Commits of which the database's answer is lost: whatever became of each, in the end there is exactly one row.

use supersync_client::{Client, Ladder};

use crate::cluster::account;
use crate::harness::{Account, Backend, Cut, Program, TestDatabase, Wire, http_client, op};

const RUNS: i64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_commit_whose_answer_is_lost_is_one_row() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let wire = Wire::to_database(&database).await;
    let program = Program::start_watched(&database, &[("DATABASE_URL", &wire.url())]).await;
    let token = account(&program, "ambiguous").await;
    let (email, base) = (String::new(), program.base.clone());
    let account = Account { id: 0, email, token: token.clone(), base, http: http_client() };
    // The statement is prepared on a connection before it can be cut there.
    account.upload_one("A", &op("A")).await.ok();
    let mut ids = Vec::new();
    for run in 1..=RUNS {
        // One at a time, so that the number of the run says what happens.
        let cut = [Cut::Before, Cut::Within, Cut::After][usize::try_from(run % 3).expect("small")];
        wire.cut_next(cut);
        let id = format!("run-{run}");
        let sent = op("A").id(&id);
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries < 20, "run {run}: {cut:?} is never stored");
            let reply = account.upload_one("A", &sent).await;
            if reply.status == 200 {
                let outcome = reply.outcomes().remove(0);
                if outcome.starts_with('#') || outcome == "DUPLICATE_OPERATION" {
                    break;
                }
                assert_eq!(outcome, "INTERNAL_ERROR", "run {run}, {cut:?}");
            } else {
                assert_eq!(reply.status, 503, "run {run}, {cut:?}: {}", reply.text);
            }
        }
        // A connection on which nothing has been prepared yet carries the first one whole.
        ids.push((id, !wire.is_cut_pending()));
    }
    let cut = ids.iter().filter(|(_, was_cut)| *was_cut).count();
    assert!(cut * 3 >= ids.len(), "only {cut} were cut");

    let client = Client::new(&program.base, &Ladder::default()).expect("an address");
    let client = client.with_token(&token).expect("a token");
    let log = client.download(0, None, 1000).await.expect("a page");
    let seqs: Vec<i64> = log.ops.iter().map(|op| op.server_seq).collect();
    assert_eq!(seqs, (1..=RUNS + 1).collect::<Vec<_>>(), "no hole, none twice");
    for (id, _) in &ids {
        assert_eq!(log.ops.iter().filter(|op| op.op.id == *id).count(), 1, "{id}");
    }
    program.kill().await;
}
