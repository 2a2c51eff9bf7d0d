//! Pages as programs see them (accounts contract, sections 9 and 10); how people see them is in `tests/browser`.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use supersync::config::Controller;

use super::over_http::server_with;
use super::*;

fn controller() -> Controller {
    Controller {
        name: "A & B <Ltd>".into(),
        street: "1 \"Road\"".into(),
        city: "Town $&".into(),
        country: "Land".into(),
        email: "a@b.co".into(),
    }
}

#[tokio::test]
async fn every_page_behind_a_link_wants_a_token_and_shows_it_escaped_and_uncached() {
    let server = server_with(|_| ()).await;
    let pages: [(&str, &[&str]); 4] = [
        ("/magic-login", &["login-btn", "error", "success"]),
        ("/recover-passkey", &["recoverBtn", "error", "success", "info"]),
        ("/reset-password", &["resetForm", "password", "confirmPassword", "submitBtn", "error", "success"]),
        ("/change-email", &["change-btn", "error", "success"]),
    ];
    for (page, ids) in pages {
        for query in ["", "?token=", "?other=1"] {
            let answer = server.get("GET", &format!("{page}{query}")).await;
            assert_eq!((answer.status.as_u16(), answer.text.as_str()), (400, "Token is required"), "{page}{query}");
        }
        let answer = server.get("GET", &format!("{page}?token=%22%3E%3Cscript%3E&token=again")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.cache_control.as_deref(), Some("no-store"), "{page}");
        assert!(answer.text.contains(" data-token=\"&#34;&#62;&#60;script&#62;\""), "{}", answer.text);
        for id in ids {
            assert!(answer.text.contains(&format!("id=\"{id}\"")), "{page} has no {id}");
        }
        let head = server.get("HEAD", &format!("{page}?token=x")).await;
        assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    }
    let reset = server.get("GET", "/reset-password?token=x").await.text;
    assert!(reset.contains("<title>Reset Password</title>") && reset.contains("Minimum 12 characters"));
}

#[tokio::test]
async fn a_browser_gets_a_page_where_a_program_gets_a_line() {
    let server = server_with(|_| ()).await;
    let ask = |language: &'static str| {
        let request = Request::get("/verify-email").header(header::ACCEPT, "text/html,*/*;q=0.8");
        server.send(request.header(header::ACCEPT_LANGUAGE, language).body(Body::empty()).unwrap())
    };
    let english = ask("fr").await;
    assert_eq!(english.status, StatusCode::BAD_REQUEST);
    assert!(english.text.contains("<html lang=\"en\">") && english.text.contains("The link is incomplete"));
    assert!(ask("de-DE,de;q=0.9").await.text.contains("Der Link ist unvollständig"));
}

#[tokio::test]
async fn no_page_has_anything_inline_that_the_policy_forbids() {
    let server = server_with(|config| config.legal.controller = Some(controller())).await;
    for page in
        ["/", "/index.html", "/admin", "/privacy.html", "/invite?token=a", "/claim?token=a", "/magic-login?token=a"]
    {
        for lang in ["en", "de"] {
            let join = if page.contains('?') { '&' } else { '?' };
            let answer = server.get("GET", &format!("{page}{join}lang={lang}")).await;
            assert_eq!(answer.status, StatusCode::OK, "{page}");
            let text = answer.text;
            assert!(text.starts_with("<!doctype html>") && text.contains(&format!("<html lang=\"{lang}\">")), "{page}");
            assert!(!text.contains(" style=") && !text.contains("<style") && !text.contains(" onclick"), "{page}");
            let scripts = text.matches("<script").count();
            assert_eq!(scripts, text.matches("></script>").count(), "{page} has a script of its own");
            // Under a path prefix an absolute address would leave it.
            assert!(!text.contains("=\"/"), "{page} has an absolute address");
        }
    }
}

#[tokio::test]
async fn assets_are_found_under_the_name_that_the_page_gives_and_kept() {
    let server = server_with(|_| ()).await;
    let home = server.get("GET", "/").await.text;
    let at = home.find("assets/").unwrap();
    let folder = home[at..].split("/icon.svg").next().unwrap();
    for name in ["style.css", "home.js", "start.js", "icon.svg", "texts.de.js"] {
        let answer = server.get("GET", &format!("/{folder}/{name}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{name}");
        assert!(answer.cache_control.unwrap().contains("immutable"));
    }
    let older = server.get("GET", "/assets/0000/home.js").await;
    assert_eq!((older.status, older.cache_control.as_deref()), (StatusCode::OK, Some("public, max-age=0")));
    for path in ["/assets/x/none.js", "/assets/x/..%2Fhome.js", "/assets/home.js", "/app.js"] {
        let answer = server.get("GET", path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.json()["message"], format!("Route GET:{path} not found"));
    }
}

#[tokio::test]
async fn legal_pages_are_there_only_when_the_operator_wants_them() {
    let server = server_with(|_| ()).await;
    for path in ["/privacy.html", "/terms.html"] {
        let answer = server.get("GET", path).await;
        assert_eq!(answer.json()["message"], format!("Route GET:{path} not found"));
    }
    let home = server.get("GET", "/").await.text;
    assert!(!home.contains("privacy.html") && !home.contains("termsAccepted") && !home.contains("terms.html"));

    let server = server_with(|config| {
        config.legal.controller = Some(controller());
        config.legal.supervisory_authority = Some("Office".into());
        config.legal.data_region = Some("eea".into());
        config.legal.terms = Some("<h1>Terms of ours</h1>".into());
    })
    .await;
    let policy = server.get("GET", "/privacy.html").await.text;
    for part in ["A &#38; B &#60;Ltd&#62;", "1 &#34;Road&#34;", "Town $&#38;", "Office", "45 days", "30 days"] {
        assert!(policy.contains(part), "{part} in {policy}");
    }
    assert_eq!(server.get("GET", "/terms.html").await.text, "<h1>Terms of ours</h1>");
    let home = server.get("GET", "/").await.text;
    for part in ["privacy.html", "terms.html", "id=\"termsAccepted\"", "Data hosted in EU"] {
        assert!(home.contains(part), "{part}");
    }
}

#[tokio::test]
async fn consent_is_wanted_and_recorded_where_there_is_something_to_accept() {
    let server = server_with(|config| config.legal.terms = Some("<h1>Terms</h1>".into())).await;
    let refused = server.post("/api/register", &json!({"email": "a@b.co", "password": OWNER})).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let issue = &refused.json()["details"][0];
    assert_eq!(
        (issue["code"].as_str(), issue["message"].as_str()),
        (Some("invalid_value"), Some("You must accept the linked legal documents to register"))
    );
    let body = json!({"email": "a@b.co", "password": OWNER, "termsAccepted": true});
    assert_eq!(server.post("/api/register", &body).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn the_qr_code_is_for_who_has_the_token() {
    let server = server_with(|_| ()).await;
    assert_eq!(server.get("GET", "/api/account/qr").await.error().0, 401);
}

#[tokio::test]
async fn the_mail_that_proves_an_address_is_in_the_visitor_s_language() {
    let server = server_with(|_| ()).await;
    let request = Request::post("/api/register").header(header::CONTENT_TYPE, "application/json");
    let request = request.header(header::ACCEPT_LANGUAGE, "de-DE,de;q=0.9,en;q=0.5");
    let body = json!({"email": "a@b.co", "password": OWNER}).to_string();
    assert_eq!(server.send(request.body(Body::from(body)).unwrap()).await.status, StatusCode::CREATED);
    server.world.accounts.drain_mails().await;
    let mails = server.world.outbox.mails.lock().unwrap();
    assert!(mails[0].1.contains("Bitte bestätige deine E-Mail-Adresse"), "{mails:?}");
}
