//! The reference client against the real server: everything a device does in its life, every answer validated as the
//! app validates it.

use crate::harness::{Account, Backend, Server, fresh_uuid};
use serde_json::json;
use serde_json::value::RawValue;
use supersync_client::raw::Encoding;
use supersync_client::{Change, Client, ClientError, Device, Ladder, Notice, OpType, Seq};

fn stranger(account: &Account) -> Client {
    Client::new(&account.base, &Ladder::default()).expect("a client")
}

fn client(account: &Account) -> Client {
    stranger(account).with_token(&account.token).expect("a token")
}

fn json_text(value: &serde_json::Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("JSON")
}

fn change(task: &str, title: &str) -> Change {
    Change {
        action_type: "[Task] Update".into(),
        op_type: OpType::Update,
        entity_type: "TASK".into(),
        entity_id: Some(task.into()),
        entity_ids: Vec::new(),
        payload: json_text(&json!({ "title": title })),
        is_payload_encrypted: false,
    }
}

async fn life_of_two_devices(backend: Backend) {
    let server = Server::start(backend).await;
    let account = server.account().await;
    let mut a = Device::new(client(&account), "A");
    let mut b = Device::new(client(&account).with_encoding(Encoding::GzipBase64), "B");
    let mut notices = client(&account).notices("B").await.expect("a socket");
    assert_eq!(notices.next().await.expect("a greeting"), Notice::Connected { user_id: account.id });

    // More than one chunk.
    for n in 0..30 {
        a.change(change(&format!("task-{n}"), "new"));
    }
    let report = a.sync().await.expect("a sync");
    let seqs: Vec<Seq> = report.accepted.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(seqs, (1..=30).collect::<Vec<Seq>>());
    assert!(matches!(notices.next().await, Ok(Notice::NewOps { .. })));
    assert_eq!(b.sync().await.expect("a sync").received, 30);
    assert_eq!(b.clock().get("A"), Some(&30));

    // Both want the same task; the loser repeats its change and wins then.
    a.change(change("task-0", "of A"));
    let lost = b.change(change("task-0", "of B"));
    assert_eq!(a.sync().await.expect("a sync").accepted.len(), 1);
    let report = b.sync().await.expect("a sync");
    let again = report.conflicts[0].1.clone().expect("the change is repeated");
    assert_eq!(report.conflicts[0].0, lost);
    assert_eq!(b.sync().await.expect("a sync").accepted, [(again, 32)]);
    assert_eq!(a.sync().await.expect("a sync").received, 1);

    // A replaces everything; B has to see that before it may write.
    let state = json!({ "task": { "ids": ["x"], "entities": { "x": { "n": 1.5 } } }, "globalConfig": { "misc": {} } });
    b.change(change("task-1", "late"));
    let answer = a.upload_snapshot(&fresh_uuid(), json_text(&state), false, true).await.expect("an answer");
    let import = answer.server_seq.expect("the snapshot is accepted");
    assert_eq!((import, a.cursor()), (33, 33));
    b.take_inbox();
    assert_eq!(b.sync().await.expect("a sync").deferred.len(), 1);
    assert_eq!(b.take_inbox().iter().map(|op| op.server_seq).collect::<Vec<_>>(), [33]);
    assert_eq!(b.sync().await.expect("a sync").accepted.len(), 1);
    assert_eq!(b.cursor(), 34);

    let points = a.client.restore_points(30).await.expect("an answer").restore_points;
    assert_eq!(points.iter().map(|point| point.server_seq).collect::<Vec<_>>(), [33]);
    let restored = a.client.restore(33).await.expect("a state");
    assert_eq!(serde_json::from_str::<serde_json::Value>(restored.state.get()).expect("JSON"), state);
    assert!(matches!(a.client.restore(35).await, Err(ClientError::Status { status: 400, .. })));

    let status = a.client.status().await.expect("an answer");
    assert_eq!((status.latest_seq, status.devices_online), (34, 2));
    assert_eq!(a.client.devices().await.expect("an answer").devices.len(), 2);

    // A deletes everything; B notices that its cursor leads nowhere and starts again.
    a.wipe().await.expect("an answer");
    let report = b.sync().await.expect("a sync");
    assert!(report.restarted);
    assert_eq!((report.received, b.cursor()), (0, 0));
    let answer = b.upload_snapshot(&fresh_uuid(), json_text(&state), false, false).await.expect("an answer");
    assert!(answer.server_seq > Some(34), "the counter never runs twice");
    let again = a.upload_snapshot(&fresh_uuid(), json_text(&state), false, false).await;
    assert!(matches!(again, Err(ClientError::ImportExists { .. })), "{again:?}");
    assert_eq!(a.sync().await.expect("a sync").received, 1);

    let stranger = stranger(&account).with_token("nonsense").expect("a token");
    assert!(matches!(stranger.status().await, Err(ClientError::Status { status: 401, .. })));
    notices.close().await.expect("a goodbye");
    server.stop().await;
}

on_both_databases! {
    life_of_two_devices,
}
