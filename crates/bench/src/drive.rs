//! `supersync bench drive`: requests pushed through the router of a server in this process, without sockets and on one
//! thread, so that an instruction counter (callgrind) gives the same count each time. Measures nothing itself.
//!
//! Every answer is looked at: a driver that counted refusals would be cheap and wrong.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use clap::{Args, ValueEnum};
use secrecy::ExposeSecret as _;
use tower::ServiceExt as _;

use super::error::{BenchError, Result};
use crate::accounts::Accounts;
use crate::clock::Clock;
use crate::config::Config;
use crate::engine::{Handle, Options};
use crate::http::{AppState, router};
use crate::mail::Mailer;
use crate::store::{self, NewUser};

/// The server's clock stands still: nothing expires while requests are counted.
const NOW_MS: i64 = 1_800_000_000_000;
/// Operations of an upload.
const OPS_PER_UPLOAD: usize = 20;
/// Characters of an operation's title.
const TITLE_CHARS: usize = 480;
/// Requests before those that are asked for: buffers and caches have their size then.
const WARM_UP: usize = 50;

/// What to push through.
#[derive(Clone, Copy, Debug, Args)]
pub struct DriveCommand {
    /// What is asked.
    #[arg(long)]
    pub kind: Kind,
    /// How often.
    #[arg(long, default_value_t = 1000)]
    pub requests: usize,
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A device that has everything asks for news.
    Poll,
    /// A device uploads 20 new operations.
    Upload,
}

/// Runs what the command line asks for.
///
/// # Errors
/// [`BenchError`], also when an answer is not the expected one.
pub fn run(command: &DriveCommand) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::io("starting the server"))?;
    let directory = std::env::temp_dir().join(format!("supersync-drive-{}", std::process::id()));
    std::fs::create_dir(&directory).map_err(BenchError::io("creating a directory for the database"))?;
    let driven = runtime.block_on(drive(command, &directory));
    std::fs::remove_dir_all(&directory).map_err(BenchError::io("removing the database"))?;
    driven
}

async fn drive(command: &DriveCommand, directory: &Path) -> Result<()> {
    let variables = [
        ("DATA_DIR", directory.to_string_lossy().into_owned()),
        ("RATE_LIMITS", "off".to_owned()),
        ("UPLOADS_PER_USER_PER_MINUTE", "0".to_owned()),
        ("JWT_SECRET", "the secret of a server that nobody can reach".to_owned()),
    ];
    let variables: HashMap<String, String> = variables.map(|(name, value)| (name.to_owned(), value)).into();
    let config = Arc::new(Config::parse(&variables)?);
    let clock = Clock::manual(NOW_MS);
    let store = store::open(&config.database, config.timeouts.statement).await?;
    let accounts = Accounts::new(Arc::clone(&store), &config, clock.clone(), Mailer::unavailable());
    let engine = Handle::start(Arc::clone(&store), clock.clone(), Options::from(&*config))
        .await
        .map_err(|error| BenchError::Options(format!("the engine does not start: {error}")))?;
    let user = NewUser {
        email: "driver@example.org".to_owned(),
        password_hash: None,
        is_verified: true,
        created_at: NOW_MS,
        terms_accepted_at: None,
        storage_quota_bytes: i64::MAX,
    };
    let user = store.create_user(&user).await?;
    let user = user.ok_or_else(|| BenchError::Options("a new database has an account already".to_owned()))?;
    let session = accounts.session_for(user).await?;
    let bearer = format!("Bearer {}", session.token.expose_secret());
    let state = AppState::new(config, engine.clone(), accounts, Arc::clone(&store), clock);
    let server = InProcess { router: router(state), bearer };

    server.upload(0).await?;
    for number in 1..=WARM_UP + command.requests {
        match command.kind {
            Kind::Poll => server.poll(OPS_PER_UPLOAD).await?,
            Kind::Upload => server.upload(number).await?,
        }
    }
    engine.shutdown().await;
    store.close().await;
    Ok(())
}

struct InProcess {
    router: Router,
    bearer: String,
}

impl InProcess {
    async fn poll(&self, cursor: usize) -> Result<()> {
        let path = format!("/api/sync/ops?sinceSeq={cursor}&excludeClient=driver");
        let request = Request::get(path).header(header::AUTHORIZATION, &self.bearer).body(Body::empty());
        let answer = self.send(request).await?;
        expect(answer.starts_with("{\"ops\":[],\"hasMore\":false,"), &answer)
    }

    async fn upload(&self, number: usize) -> Result<()> {
        let request = Request::post("/api/sync/ops")
            .header(header::AUTHORIZATION, &self.bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(upload_text(number)));
        let answer = self.send(request).await?;
        expect(answer.matches("\"accepted\":true").count() == OPS_PER_UPLOAD, &answer)
    }

    async fn send(&self, request: axum::http::Result<Request<Body>>) -> Result<String> {
        let request = request.map_err(|error| BenchError::Options(error.to_string()))?;
        let response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        let body = body.map_err(|error| BenchError::Answer(error.to_string()))?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

fn expect(good: bool, answer: &str) -> Result<()> {
    if good { Ok(()) } else { Err(BenchError::Answer(answer.chars().take(300).collect())) }
}

/// Of a device that has seen everything. Half of the operations concern entities of the upload before, half new ones.
fn upload_text(number: usize) -> String {
    let mut text = String::with_capacity(OPS_PER_UPLOAD * (TITLE_CHARS + 400));
    let title = "x".repeat(TITLE_CHARS);
    text.push_str("{\"ops\":[");
    for n in 0..OPS_PER_UPLOAD {
        let entity = number * OPS_PER_UPLOAD / 2 + n;
        let (comma, clock) = (if n == 0 { "" } else { "," }, number * OPS_PER_UPLOAD + n + 1);
        let written = write!(
            text,
            "{comma}{{\"id\":\"018f0000-0000-7000-8000-{clock:012}\",\"clientId\":\"driver\",\
             \"actionType\":\"[Task] Update\",\"opType\":\"UPD\",\"entityType\":\"TASK\",\"entityId\":\"task-{entity}\",\
             \"payload\":{{\"title\":\"{title}\"}},\"vectorClock\":{{\"driver\":{clock},\"other\":2}},\
             \"timestamp\":{NOW_MS},\"schemaVersion\":4}}"
        );
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }
    let seen = number * OPS_PER_UPLOAD;
    let written =
        write!(text, "],\"clientId\":\"driver\",\"requestId\":\"request-{number}\",\"lastKnownServerSeq\":{seen}}}");
    debug_assert!(written.is_ok(), "writing to a string can't fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_answered_as_expected() {
        for kind in [Kind::Poll, Kind::Upload] {
            run(&DriveCommand { kind, requests: 3 }).expect("every answer is the expected one");
        }
    }
}
