//! Raw limits of the machine, measured in the same run as what is held to them: the database without the server, and
//! HTTP without the database.
//!
//! The same rows go into the same table with the same indexes as the server's, and everything that counts as stored is
//! durable. The database copies them itself, so that no driver is part of the limit.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::Bench;
use crate::device::now_ms;
use crate::load::{self, Counted, Crew, POLL, fill, in_turn, record};
use crate::place::Place;
use crate::report::Case;
use crate::session::Session;

/// Neighbouring rows of one account, as an upload of 20 operations leaves them.
const RUN: usize = 20;
/// Rows per commit: the larger one is the most that the server commits at once.
const GROUPS: [usize; 2] = [500, 2_000];
/// Accounts that upload the rows of the sample.
const SAMPLED: usize = 20;
/// Connections that write groups on PostgreSQL: as many as the server's ordinary lanes. SQLite has one writer.
const WRITERS: usize = 2;
/// Connections that commit single rows on PostgreSQL: where its throughput is best on few cores.
const SINGLES: usize = 16;

pub async fn measure(bench: &Bench) -> Result<Vec<Case>> {
    let payload = bench.options.payload_bytes();
    let session = bench.session(bench.options.accounts().max(SAMPLED), &[]).await?;
    let mut devices = session.devices(0, payload).await?;
    devices.truncate(SAMPLED);
    fill(&session, devices, GROUPS[1] / SAMPLED, 4).await?;
    let place = session.into_place().await?;
    let is_postgres = place.postgres_url().is_some();
    let table = Table::sample(&place).await?;
    let lasts = bench.options.pace().lasts / 2;
    let mut cases = Vec::new();
    let writers = |postgres| if is_postgres { postgres } else { 1 };
    let shapes = [(GROUPS[0], writers(WRITERS)), (GROUPS[1], writers(WRITERS)), (1, writers(SINGLES)), (1, 1)];
    for (group, writers) in shapes {
        bench.progress(&format!("ceiling: {group} rows per commit, {writers} writers"));
        let counted = table.insert(&place, group, writers, lasts).await?;
        let name = format!("{group} rows per commit, {writers} writers");
        let mut case = Case::new("ceiling", name).with("payload_bytes", payload);
        case.counted("", &counted, lasts);
        cases.push(case);
    }
    place.remove().await?;
    bench.progress("ceiling: empty handler");
    cases.extend(empty_handler(bench).await?);
    Ok(cases)
}

/// The table of operations, and the accounts that its rows go to.
struct Table {
    columns: Vec<String>,
    first_user: i64,
    users: i64,
}

impl Table {
    /// Copies what the server stored aside.
    async fn sample(place: &Place) -> Result<Self> {
        const COPY: &str = "CREATE TABLE bench_sample AS SELECT row_number() OVER (ORDER BY user_id, server_seq) - 1 AS n, o.* FROM operations o";
        const USERS: &str = "SELECT min(id), count(*) FROM users";
        if let Some(url) = place.postgres_url() {
            let mut connection = PgConnection::connect(&url).await?;
            let query = "SELECT column_name::text FROM information_schema.columns \
                         WHERE table_name = 'operations' AND table_schema = current_schema()";
            let columns = sqlx::query_scalar(query).fetch_all(&mut connection).await?;
            let (first_user, users) = sqlx::query_as(USERS).fetch_one(&mut connection).await?;
            sqlx::query(COPY).execute(&mut connection).await?;
            return Ok(Self { columns, first_user, users });
        }
        let connection = rusqlite::Connection::open(place.sqlite_file())?;
        let mut query = connection.prepare("SELECT name FROM pragma_table_info('operations')")?;
        let columns = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let (first_user, users) = connection.query_row(USERS, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        connection.execute_batch(COPY)?;
        Ok(Self { columns, first_user, users })
    }

    /// One statement that stores a group. `$1`: runs of this writer so far; `$2`: rows; `$3`: how the ids begin, which
    /// is the time, as the app's do; `$4`: the writer's number. Runs go to the writer's accounts in turn.
    fn statement(&self, writers: usize, random_id: &str) -> String {
        let (first, per_writer) = (self.first_user, self.users / i64::try_from(writers).unwrap_or(1));
        let value = |column: &String| match column.as_str() {
            "user_id" => format!("{first} + run % {per_writer} * {writers} + $4"),
            "server_seq" => format!("run / {per_writer} * {RUN} + n % {RUN} + 1"),
            "op_id" => format!("$3 || {random_id}"),
            other => other.to_owned(),
        };
        let values: Vec<String> = self.columns.iter().map(value).collect();
        format!(
            "INSERT INTO operations ({}) SELECT {} FROM (SELECT $1 + n / {RUN} AS run, s.* FROM bench_sample s WHERE n < $2) s",
            self.columns.join(", "),
            values.join(", "),
        )
    }

    /// Stores groups of `group` rows by so many writers for so long.
    async fn insert(&self, place: &Place, group: usize, writers: usize, lasts: Duration) -> Result<Counted> {
        let (runs, rows) = (i64::try_from(group.div_ceil(RUN))?, i64::try_from(group)?);
        let Some(url) = place.postgres_url() else {
            let statement = self.statement(writers, "'-' || lower(hex(randomblob(11)))").replace('$', "?");
            let connection = rusqlite::Connection::open(place.sqlite_file())?;
            // Durable like the store's connection. References are not checked, and checkpoints seldom.
            connection.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; \
                 PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 4000; DELETE FROM operations;",
            )?;
            let mut insert = connection.prepare(&statement)?;
            return repeat(runs, lasts, async |run| Ok(insert.execute((run, rows, id_prefix(), 0))? as u64)).await;
        };
        let mut connection = PgConnection::connect(&url).await?;
        sqlx::query("TRUNCATE operations").execute(&mut connection).await?;
        let statement = self.statement(writers, "substr(gen_random_uuid()::text, 14)");
        let write = async |writer: i64| {
            let mut connection = PgConnection::connect(&url).await?;
            let counted = repeat(runs, lasts, async |run| {
                let query = sqlx::query(AssertSqlSafe(statement.as_str())).bind(run).bind(rows);
                Ok(query.bind(id_prefix()).bind(writer).execute(&mut connection).await?.rows_affected())
            });
            let counted = counted.await?;
            connection.close().await?;
            anyhow::Ok(counted)
        };
        let mut all = Counted::default();
        for counted in futures_util::future::try_join_all((0..i64::try_from(writers)?).map(write)).await? {
            all.add(&counted);
        }
        Ok(all)
    }
}

/// Inserts groups for the duration `lasts`. `insert` takes the number of runs so far and returns the number of stored rows.
async fn repeat(runs: i64, lasts: Duration, mut insert: impl AsyncFnMut(i64) -> Result<u64>) -> Result<Counted> {
    let (mut counted, mut run, until) = (Counted::default(), 0, Instant::now() + lasts);
    while Instant::now() < until {
        let sent = Instant::now();
        counted.operations += insert(run).await?;
        record(&mut counted.latency, sent.elapsed());
        run += runs;
    }
    Ok(counted)
}

/// The first 13 characters of a UUID of version 7, as the app names operations.
fn id_prefix() -> String {
    let now = format!("{:012x}", now_ms());
    format!("{}-{}", &now[..8], &now[8..])
}

/// The answer of the empty handler: a poll's, at cursor 0.
const NOTHING_NEW: &str = "{\"ops\":[],\"hasMore\":false,\"latestSeq\":0,\"serverTime\":1700000000000,\
                           \"capabilities\":{\"causalRepairSnapshots\":true}}";

/// What a token claims, as the server issues it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    user_id: i64,
    email: String,
    token_version: i64,
    iat: i64,
    exp: i64,
}

type Keys = Arc<(DecodingKey, Validation)>;

async fn answer(
    State(keys): State<Keys>,
    headers: HeaderMap,
) -> Result<([(header::HeaderName, &'static str); 1], &'static str), StatusCode> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let token = token.ok_or(StatusCode::UNAUTHORIZED)?;
    jsonwebtoken::decode::<Claims>(token, &keys.0, &keys.1).map_err(|_| StatusCode::UNAUTHORIZED)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], NOTHING_NEW))
}

/// Measures a handler that checks the token and answers a constant, under the load of the scenario `poll` and one request
/// at a time. It gets as many threads as the server.
async fn empty_handler(bench: &Bench) -> Result<Vec<Case>> {
    let secret: [u8; 32] = rand::random();
    let email = "bench-0@example.org".to_owned();
    let claims = Claims { user_id: 1, email, token_version: 0, iat: 0, exp: i64::from(u32::MAX) };
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&secret))?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_aud = false;
    let keys: Keys = Arc::new((DecodingKey::from_secret(&secret), validation));
    let router = axum::Router::new().route("/api/sync/ops", get(answer)).with_state(keys);
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let (address, connections) = (listener.local_addr()?, bench.options.connections());
    let server = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // It ends with this process.
    std::thread::spawn(move || {
        server.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap_or_default());
            axum::serve(listener, router).await
        })
    });
    let session = Session::foreign(address, address.to_string(), vec![token; connections]);
    let mut cases = Vec::new();
    for (name, connections) in [("empty handler", connections), ("one empty request", 1)] {
        let crews = Crew::deal(bench.devices(&session, 0).await?, connections, in_turn(POLL));
        let (outcome, _) = load::run(&session, crews, bench.options.pace()).await?;
        let mut case = Case::new("ceiling", name).with("connections", connections);
        case.counted("", &outcome.total(), outcome.lasted);
        cases.push(case);
    }
    Ok(cases)
}
