//! A server under a path, as docs/deploying.md says it, behind the real Caddy.

use super::front::Front;
use super::message;
use crate::harness::{Backend, Server, op};
use secrecy::ExposeSecret as _;

/// The ways that the document shows, each with the addresses of this test.
fn ways(upstream: &str) -> Vec<String> {
    let document = include_str!("../../../docs/deploying.md");
    let (_, section) = document.split_once("### Under a path").expect("the section");
    let (section, _) = section.split_once("\n### ").expect("the next one");
    let blocks = section.split("```caddyfile\n").skip(1).map(|rest| rest.split("```").next().expect("its end"));
    blocks.map(|block| block.replace("127.0.0.1:1900", upstream)).collect()
}

#[tokio::test]
async fn pages_links_and_devices_find_a_server_under_a_path() {
    let server = Server::start_with(Backend::Sqlite, |config| {
        config.public_url = "https://localhost/sync".to_owned();
    })
    .await;
    let link = server.accounts.claim_link().await.expect("the database works").expect("nobody is there yet");
    let direct = server.account().await;
    let ways = ways(server.base.trim_start_matches("http://"));
    assert_eq!(ways.len(), 2);
    for way in ways {
        let front = Front::caddy(&way).await;
        let (base, http) = (format!("{}/sync", front.https), front.client());
        let get = async |address: String| http.get(&address).send().await.expect("an answer");

        let without = get(base.clone()).await;
        assert_eq!(
            (without.status().as_u16(), &without.headers()["location"]),
            (308, &"/sync/".parse().expect("a value")),
            "{way}"
        );
        // Where a proxy takes the slash off as well, pages find at least their scripts, which mend that.
        let page = get(format!("{base}/")).await.text().await.expect("a page");
        let assets: Vec<&str> = page.split('"').filter(|part| part.contains("/assets/")).collect();
        assert!(assets.len() >= 4 && assets.iter().all(|asset| asset.starts_with("/sync/assets/")), "{assets:?}");
        for asset in assets {
            let answer = get(format!("{}{asset}", front.https)).await;
            assert_eq!(answer.status().as_u16(), 200, "{asset}");
            assert!(answer.headers()["cache-control"].to_str().expect("text").contains("immutable"), "{asset}");
        }
        let link = link.expose_secret().replacen("https://localhost", &front.https, 1);
        assert!(link.starts_with(&format!("{base}/claim?token=")), "{link}");
        assert_eq!(get(link).await.status().as_u16(), 200);
        for path in ["/health", "/favicon.ico", "/index.html", "/admin"] {
            assert_eq!(get(format!("{base}{path}")).await.status().as_u16(), 200, "{path}");
        }
        assert_eq!(get(format!("{}/syncing", front.https)).await.text().await.expect("text"), "", "not ours");

        let account = crate::harness::Account { base, ..front.account(&direct) };
        let mut socket = front.socket(&account, "B").await;
        assert_eq!(message(&mut socket).await["type"], "connected");
        account.upload("A", &[op("A")]).await.ok();
        assert_eq!(message(&mut socket).await["type"], "new_ops");
        assert!(!account.download(0).await.seqs().is_empty());
    }
}
