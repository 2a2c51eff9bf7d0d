//! A little of everything that devices do, again and again.

use serde_json::{Value, json};

use crate::harness::{Account, Program, Socket, fresh, http_client, op, receive, snapshot, upload};

const PASSWORD: &str = "TestPassword123!";

/// Two devices of one account, the second of which is told of news.
pub struct Load {
    account: Account,
    told: Socket,
    cursor: i64,
}

impl Load {
    pub async fn new(program: &Program) -> Self {
        let http = http_client();
        let email = format!("load-{}@example.org", fresh());
        let request = http.post(format!("{}/api/test/create-user", program.base));
        let body = json!({ "email": email, "password": PASSWORD }).to_string();
        let made = receive(request.header("content-type", "application/json").body(body)).await.expect(201);
        let token = made["token"].as_str().expect("a token").to_owned();
        let id = made["userId"].as_i64().expect("a number");
        let account = Account { id, email, token, base: program.base.clone(), http };
        let told = account.socket("B_listen").await;
        Self { account, told, cursor: 0 }
    }

    /// One round.
    pub async fn round(&mut self) {
        let account = &self.account;
        let task = format!("task-{}", fresh());
        let ops = [op("A_writer").task(&task).sized(400), op("A_writer"), op("A_writer")];
        let body = upload("A_writer", None, &ops);
        account.post("/api/sync/ops", &body).await.ok();
        // The answer was lost.
        account.post("/api/sync/ops", &body).await.ok();
        // Another request with the same operation, and one that knows nothing of the first.
        account.upload("A_writer", &ops[1..2]).await.ok();
        let lost = account.upload_one("B_listen", &op("B_listen").task(&task)).await.outcomes();
        assert!(lost[0].starts_with("CONFLICT_"), "{lost:?}");
        account.upload_one("A_writer", &op("A_writer").with("payload", Value::Null)).await.ok();
        self.told.notice().await;
        let page = account.download(self.cursor).await;
        self.cursor = page.seqs().last().copied().unwrap_or(self.cursor);
        account.status().await;
        account.devices().await;
        account.get("/api/sync/restore/999999").await;
        account.socket("C_passing").await;
        account.post("/api/login", &json!({ "email": account.email, "password": "wrong password" })).await.expect(401);
        account.post("/api/login", &json!({ "email": account.email, "password": PASSWORD })).await.ok();
    }

    /// Makes the account's sessions void, which every process has to hear of.
    pub async fn leave(self) {
        self.account.post("/api/replace-token", &json!({})).await.ok();
    }

    /// Once is enough: a snapshot, and what a client is refused with a code of its own.
    pub async fn rarely(&self) {
        self.account.snapshot(&snapshot("A_writer")).await.ok();
        let second = self.account.snapshot(&snapshot("B_listen").reason("initial")).await;
        assert_eq!(second.status, 409, "{}", second.text);
    }
}
