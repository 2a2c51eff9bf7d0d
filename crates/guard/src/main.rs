//! `supersync-guard poll|upload COUNT`: requests pushed through the router of a server in this process, without sockets and on
//! one thread, so that an instruction counter (callgrind) gives the same count each time. Measures nothing itself:
//! `scripts/count-instructions` runs it.
//!
//! Every answer is looked at: refusals that were counted would be cheap and wrong.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use secrecy::ExposeSecret as _;
use supersync::clock::Clock;
use supersync::config::Config;
use supersync::mail::Mailer;
use supersync::server::{Parts, Server};
use supersync::store::{self, NewUser};
use tower::ServiceExt as _;

/// As in the product.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The server's clock stands still: nothing expires while requests are counted.
const NOW_MS: i64 = 1_800_000_000_000;
/// Operations of an upload.
const OPS_PER_UPLOAD: usize = 20;
/// Characters of an operation's title.
const TITLE_CHARS: usize = 480;
/// Requests before those that are asked for: buffers and caches have their size then.
const WARM_UP: usize = 50;
const USAGE: &str = "usage: supersync-guard poll|upload COUNT";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let uploads = match arguments.first().map(String::as_str) {
        Some("poll") => false,
        Some("upload") => true,
        _ => return Err(USAGE.into()),
    };
    let count = arguments.get(1).ok_or(USAGE)?.parse()?;
    let directory = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(push(uploads, count, directory.path()))
}

async fn push(uploads: bool, count: usize, directory: &Path) -> Result<()> {
    let variables = [
        ("DATA_DIR", directory.to_string_lossy().into_owned()),
        ("RATE_LIMITS", "off".to_owned()),
        ("UPLOADS_PER_USER_PER_MINUTE", "0".to_owned()),
        ("JWT_SECRET", "the secret of a server that nobody can reach".to_owned()),
    ];
    let variables: HashMap<String, String> = variables.map(|(name, value)| (name.to_owned(), value)).into();
    let config = Arc::new(Config::parse(&variables)?);
    let store = store::open(&config.database, config.timeouts.statement).await?;
    let parts = Parts::of(&config, Clock::manual(NOW_MS), Mailer::unavailable());
    let assembled = Server::assemble(config, Arc::clone(&store), parts).await?;
    let user = NewUser {
        email: "driver@example.org".to_owned(),
        password_hash: None,
        is_verified: true,
        created_at: NOW_MS,
        terms_accepted_at: None,
        storage_quota_bytes: i64::MAX,
    };
    let user = store.create_user(&user).await?.ok_or("a new database has an account already")?;
    let session = assembled.accounts.session_for(user).await?;
    let bearer = format!("Bearer {}", session.token.expose_secret());
    let server = InProcess { router: assembled.router(), bearer };

    server.upload(0).await?;
    for number in 1..=WARM_UP + count {
        if uploads {
            server.upload(number).await?;
        } else {
            server.poll(OPS_PER_UPLOAD).await?;
        }
    }
    assembled.engine.shutdown().await;
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
        let request = Request::get(path).header(header::AUTHORIZATION, &self.bearer).body(Body::empty())?;
        let answer = self.send(request).await?;
        if answer.starts_with("{\"ops\":[],\"hasMore\":false,") { Ok(()) } else { Err(answer.into()) }
    }

    async fn upload(&self, number: usize) -> Result<()> {
        let request = Request::post("/api/sync/ops")
            .header(header::AUTHORIZATION, &self.bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(upload_text(number)))?;
        let answer = self.send(request).await?;
        if answer.matches("\"accepted\":true").count() == OPS_PER_UPLOAD { Ok(()) } else { Err(answer.into()) }
    }

    async fn send(&self, request: Request<Body>) -> Result<String> {
        let response = self.router.clone().oneshot(request).await?;
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await?;
        Ok(String::from_utf8(body.to_vec())?)
    }
}

/// Of a device that has seen everything. Half of the operations concern entities of the upload before, half new ones.
fn upload_text(number: usize) -> String {
    let title = "x".repeat(TITLE_CHARS);
    let seen = number * OPS_PER_UPLOAD;
    let ops = (0..OPS_PER_UPLOAD).fold(String::with_capacity(OPS_PER_UPLOAD * (TITLE_CHARS + 400)), |mut text, n| {
        let (entity, clock) = (number * OPS_PER_UPLOAD / 2 + n, seen + n + 1);
        write!(
            text,
            "{}{{\"id\":\"018f0000-0000-7000-8000-{clock:012}\",\"clientId\":\"driver\",\
             \"actionType\":\"[Task] Update\",\"opType\":\"UPD\",\"entityType\":\"TASK\",\"entityId\":\"task-{entity}\",\
             \"payload\":{{\"title\":\"{title}\"}},\"vectorClock\":{{\"driver\":{clock},\"other\":2}},\
             \"timestamp\":{NOW_MS},\"schemaVersion\":4}}",
            if n == 0 { "" } else { "," }
        )
        .expect("writing to a string can't fail");
        text
    });
    format!(
        "{{\"ops\":[{ops}],\"clientId\":\"driver\",\"requestId\":\"request-{number}\",\"lastKnownServerSeq\":{seen}}}"
    )
}
