//! Scenarios 15 to 17: how bodies may be encoded.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use flate2::Compression;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Account, Backend, Reply, Server, gzip, gzip_at, op, upload};

on_both_databases! {
    s15_plain_gzip_and_base64_bodies_are_accepted_alike,
    s16_the_encoding_is_trimmed_and_case_insensitive,
    s16_other_encodings_are_unsupported,
    s17_corrupt_gzip_is_a_bad_request,
    s17_inflating_stops_at_30_mib,
    s17_a_base64_body_of_10_mib_of_gzip_is_accepted,
}

const GZIP: (&str, &str) = ("content-encoding", "gzip");
const BASE64: (&str, &str) = ("content-transfer-encoding", "base64");
type Headers<'a> = &'a [(&'a str, &'a str)];
const MIB: usize = 1024 * 1024;

async fn post(account: &Account, headers: Headers<'_>, body: impl Into<Vec<u8>>) -> Reply {
    account.send(Method::POST, "/api/sync/ops", headers, body.into()).await
}

fn one_op() -> Vec<u8> {
    upload("A", None, &[op("A")]).to_string().into_bytes()
}

async fn s15_plain_gzip_and_base64_bodies_are_accepted_alike(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let body = upload("A", None, &[op("A").payload(json!({ "text": "日本 😀" }))]).to_string();
    let packed = gzip(body.as_bytes());
    let base64 = STANDARD.encode(&packed);
    let lines: Vec<&str> = base64.as_bytes().chunks(16).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    let encodings = [
        (&[] as Headers, body.clone().into_bytes()),
        (&[GZIP], packed.clone()),
        (&[GZIP, BASE64], base64.clone().into_bytes()),
        (&[GZIP, ("content-transfer-encoding", "Base64")], lines.join("\r\n").into_bytes()),
        (&[GZIP, BASE64], URL_SAFE_NO_PAD.encode(&packed).into_bytes()),
        (&[BASE64], body.clone().into_bytes()),
        (&[("content-encoding", ""), BASE64], body.clone().into_bytes()),
    ];
    let mut stored = Vec::new();
    for (headers, bytes) in encodings {
        let account = server.account().await;
        assert_eq!(post(&account, headers, bytes).await.outcomes(), ["#1"], "{headers:?}");
        stored.push(account.op_at(1).await);
    }
    assert!(stored.iter().all(|op| *op == stored[0]));
    // Two members after each other are one text.
    let (head, tail) = body.as_bytes().split_at(body.len() / 2);
    assert_eq!(post(&account, &[GZIP], [gzip(head), gzip(tail)].concat()).await.outcomes(), ["#1"]);
}

async fn s16_the_encoding_is_trimmed_and_case_insensitive(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let reply = post(&account, &[("content-encoding", " GZip ")], gzip(&one_op())).await;
    assert_eq!(reply.outcomes(), ["#1"]);
}

async fn s16_other_encodings_are_unsupported(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    for encoding in ["deflate", "identity", "gzip, gzip", "br"] {
        let reply = post(&account, &[("content-encoding", encoding)], gzip(&one_op())).await.expect(415);
        assert_eq!(reply["statusCode"], 415, "{encoding}");
        assert_eq!(reply["code"], "FST_ERR_CTP_INVALID_MEDIA_TYPE", "{encoding}");
        assert_eq!(reply.headers["connection"], "close", "{encoding}");
    }
    assert_eq!(account.status().await["latestSeq"], 0);
}

async fn s17_corrupt_gzip_is_a_bad_request(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let packed = gzip(&one_op());
    let mut wrong_sum = packed.clone();
    let sum = wrong_sum.len() - 8;
    wrong_sum[sum] ^= 1;
    let corrupt = [
        one_op(),
        packed[..packed.len() - 1].to_vec(),
        packed[..packed.len() - 9].to_vec(),
        packed[..12].to_vec(),
        [packed.as_slice(), b"garbage"].concat(),
        wrong_sum,
        gzip(b"{not json"),
        Vec::new(),
    ];
    for (n, bytes) in corrupt.into_iter().enumerate() {
        let reply = post(&account, &[GZIP], bytes).await.expect(400);
        assert!(reply["error"].is_string() && !reply.has("statusCode"), "case {n}: {}", reply.text);
    }
    let reply = post(&account, &[GZIP, BASE64], "***").await.expect(400);
    assert!(reply["error"].is_string());
    let reply = post(&account, &[], "{not json").await.expect(400);
    assert_eq!(reply["error"], "Bad Request");
    assert_eq!(account.status().await["latestSeq"], 0);
}

async fn s17_inflating_stops_at_30_mib(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let padded = |size: usize| {
        let mut body = one_op();
        body.resize(size, b' ');
        gzip(&body)
    };
    let reply = post(&account, &[GZIP], padded(30 * MIB + 1)).await.expect(413);
    assert_eq!(reply["error"], "Decompressed payload too large");
    assert_eq!(post(&account, &[GZIP], padded(30 * MIB)).await.outcomes(), ["#1"]);
}

async fn s17_a_base64_body_of_10_mib_of_gzip_is_accepted(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let (largest, too_large) = (gzip_of_size(10 * MIB), gzip_of_size(10 * MIB + 1));
    assert_eq!(post(&account, &[GZIP, BASE64], STANDARD.encode(&largest)).await.outcomes(), ["#1"]);
    assert_eq!(post(&account, &[GZIP], largest).await.outcomes(), ["DUPLICATE_OPERATION"]);
    let reply = post(&account, &[GZIP, BASE64], STANDARD.encode(&too_large)).await.expect(413);
    assert_eq!(reply["error"], "Compressed payload too large");
    let reply = post(&account, &[GZIP], too_large).await.expect(413);
    assert_eq!(reply["code"], "FST_ERR_CTP_BODY_TOO_LARGE");
    let reply = post(&account, &[], vec![b' '; 10 * MIB + 1]).await.expect(413);
    assert_eq!(reply["code"], "FST_ERR_CTP_BODY_TOO_LARGE");
}

/// An upload whose stored (not deflated) gzip has exactly this size: a filler of the right length in its only
/// operation.
fn gzip_of_size(size: usize) -> Vec<u8> {
    let large = op("A").id("large");
    let packed = |filler: usize| {
        let body = json!({ "clientId": "A", "ops": [large.clone().payload("x".repeat(filler)).json()] });
        gzip_at(body.to_string().as_bytes(), Compression::none())
    };
    let mut filler = size - 4096;
    // The size grows by one per byte, but for a few more where a stored block ends: a second step may be needed.
    for _ in 0..8 {
        let bytes = packed(filler);
        if bytes.len() == size {
            return bytes;
        }
        filler = filler + size - bytes.len();
    }
    panic!("no filler gives {size} bytes");
}
