//! The same through the routes.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use serde_json::Value;
use supersync::engine::{Handle, Options};
use supersync::http::AppState;
use supersync::http::routes::ROUTES;
use tower::ServiceExt as _;

use super::*;

const TOKEN: Credential = Credential { session: None, token_version: 0, issued_at: None };

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) cache_control: Option<String>,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(super) fn error(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"].as_str().unwrap().to_owned())
    }
}

pub(super) struct Server {
    pub(super) world: World,
    engine: Handle,
    router: Router,
    /// What the last answer that set a cookie set: `POST` shows it again.
    cookie: Mutex<Option<String>>,
}

async fn server() -> Server {
    server_with(|_| ()).await
}

pub(super) async fn server_with(change: impl Fn(&mut Config)) -> Server {
    let world = world_with(&change).await;
    let mut config = config();
    change(&mut config);
    let store = Arc::clone(&world.store) as Arc<dyn Store>;
    let engine = Handle::start(Arc::clone(&store), world.clock.clone(), Options::from(&config)).await.unwrap();
    let state = AppState::new(
        Arc::new(config),
        engine.clone(),
        world.accounts.clone(),
        store,
        world.clock.clone(),
        Arc::default(),
        ROUTES,
    );
    Server { engine, router: supersync::http::router(state), cookie: Mutex::default(), world }
}

impl Server {
    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        if let Some(cookie) = parts.headers.get(header::SET_COOKIE) {
            *self.cookie.lock().unwrap() = Some(cookie.to_str().unwrap().to_owned());
        }
        let cache_control = parts.headers.get(header::CACHE_CONTROL).map(|v| v.to_str().unwrap().to_owned());
        Answer { status: parts.status, cache_control, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let cookie = self.cookie.lock().unwrap().clone();
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie.split(';').next().unwrap());
        }
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn with_token(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(super) async fn get(&self, method: &str, path: &str) -> Answer {
        self.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
    }
}

#[tokio::test]
async fn faults_of_a_body_are_named() {
    let server = server().await;
    let answer = server.post("/api/register", &json!({"email": "a@localhost", "password": "short"})).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        answer.json(),
        json!({"error": "Validation failed", "details": [
            {"code": "invalid_format", "path": ["email"], "message": "Invalid email format"},
            {"code": "too_small", "path": ["password"], "message": "Password must be at least 12 characters long"},
        ]})
    );
    let answer = server.post("/api/login", &json!({"email": "a@b.co", "password": ""})).await;
    assert_eq!(answer.json()["details"][0]["message"], "Password is required");
    let answer = server.post("/api/verify-email", &json!({"token": ""})).await;
    assert_eq!(answer.json()["details"][0]["message"], "Token is required");
    let answer = server.post("/api/login", &json!(["x"])).await;
    assert_eq!(answer.json()["details"][0]["message"], "Invalid input: expected object, received array");
    let answer = server.get("POST", "/api/login").await;
    assert_eq!(answer.json()["details"][0]["message"], "Invalid input: expected object, received undefined");
}

#[tokio::test]
async fn register_verify_and_log_in() {
    let server = server().await;
    let body = json!({"email": "New@b.co", "password": OWNER, "termsAccepted": true});
    let answer = server.post("/api/register", &body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let message = "Registration successful. Please check your email to verify your account.";
    assert_eq!(answer.json(), json!({"message": message, "email": "New@b.co"}));
    let cookie = server.cookie.lock().unwrap().clone().unwrap();
    let (name, rest) = cookie.split_once('=').unwrap();
    assert_eq!((name, &rest[64..]), ("__Host-registration", "; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax; Secure"));

    let login = json!({"email": "new@b.co", "password": OWNER});
    assert_eq!(server.post("/api/login", &login).await.error(), (401, "Email not verified".into()));
    let token = server.world.links().await.remove(0);
    let wrong = server.post("/api/verify-email", &json!({"token": "x"})).await;
    assert_eq!(wrong.error(), (400, "Invalid verification token".into()));
    let answer = server.post("/api/verify-email", &json!({"token": token})).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"message": "Email verified successfully"})));

    let answer = server.post("/api/login", &login).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.cache_control.as_deref(), Some("no-store"));
    let session = answer.json();
    assert_eq!(session["user"], json!({"id": 1, "email": "new@b.co"}));
    assert!(server.world.accounts.authenticate_token(session["token"].as_str().unwrap(), || None).await.is_ok());
    let wrong = server.post("/api/login", &json!({"email": "new@b.co", "password": "x"})).await;
    assert_eq!(wrong.error(), (401, "Invalid credentials".into()));
}

#[tokio::test]
async fn opening_the_page_changes_nothing_and_its_button_verifies_once() {
    let server = server().await;
    server.world.register("a@b.co", OWNER).await.unwrap();
    let token = server.world.links().await.remove(0);
    let path = format!("/verify-email?token={token}&token=again");
    for method in ["HEAD", "GET", "GET"] {
        let answer = server.get(method, &path).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.cache_control.as_deref(), Some("no-store"));
        assert!(!answer.text.contains("Email Verified") && !answer.text.contains("<script"));
        assert_eq!(answer.text.contains(&token), method == "GET");
    }
    assert!(!server.world.accounts.find("a@b.co").await.unwrap().is_verified);

    let submit = || {
        let form = Request::post("/verify-email").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        server.send(form.body(Body::from(format!("token={token}"))).unwrap())
    };
    let answer = submit().await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.text.contains("<title>Email Verified</title>") && answer.text.contains("Email Verified!"));
    let again = submit().await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (400, "Verification failed: Invalid verification token"));
}

#[tokio::test]
async fn in_another_browser_the_page_asks_for_a_password() {
    let server = server().await;
    let form = |fields: &str, cookie: Option<&str>| {
        let mut form = Request::post("/verify-email").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(cookie) = cookie {
            form = form.header(header::COOKIE, cookie);
        }
        server.send(form.body(Body::from(fields.to_owned())).unwrap())
    };
    for (n, (fields, login)) in [
        ("&password=a+better+password&repeat=a+better+password", Some("a better password")),
        ("", None),
        ("&password=&repeat=", None),
    ]
    .into_iter()
    .enumerate()
    {
        let email = format!("victim{n}@b.co");
        server.world.register(&email, ATTACKER).await.unwrap();
        let token = server.world.links().await.pop().unwrap();
        let page = server.get("GET", &format!("/verify-email?token={token}")).await.text;
        assert!(page.contains("name=\"password\"") && page.contains("Another browser registered"), "{page}");
        for (wrong, why) in [
            ("&password=short&repeat=short", "at least 12 characters"),
            ("&password=a+better+password&repeat=a+bettor+password", "differ"),
            ("&password=a+better+password", "differ"),
            ("&repeat=a+better+password", "differ"),
        ] {
            let answer = form(&format!("token={token}{wrong}"), None).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
            assert!(answer.text.contains(why) && answer.text.contains(&token), "{}", answer.text);
        }
        assert!(!server.world.accounts.find(&email).await.unwrap().is_verified);
        let answer = form(&format!("token={token}{fields}"), Some("registration=x; other=y")).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.text.contains("Your account has no password"), login.is_none());
        assert!(server.world.login(&email, ATTACKER).await.is_err());
        if let Some(password) = login {
            server.world.login(&email, password).await.unwrap();
        }
    }
    // The browser that registered has its button, and nothing to choose.
    server.world.register("owner@b.co", OWNER).await.unwrap();
    let token = server.world.links().await.pop().unwrap();
    let secret = server.world.secrets.lock().unwrap().last().unwrap().expose_secret().to_owned();
    let cookie = format!("a=b; __Host-registration={secret}; c");
    let page = Request::get(format!("/verify-email?token={token}")).header(header::COOKIE, &cookie);
    assert!(!server.send(page.body(Body::empty()).unwrap()).await.text.contains("name=\"password\""));
    let answer = form(&format!("token={token}"), Some(&cookie)).await;
    assert!(answer.text.contains("You can now sign in"), "{}", answer.text);
    server.world.login("owner@b.co", OWNER).await.unwrap();
    // And so has everybody where there was nothing to lose.
    server.world.accounts.register(&applicant("link@b.co"), None).await.unwrap();
    let token = server.world.links().await.pop().unwrap();
    assert!(!server.get("GET", &format!("/verify-email?token={token}")).await.text.contains("name=\"password\""));
}

#[tokio::test]
async fn the_page_escapes_the_token_and_wants_one() {
    let server = server().await;
    for path in ["/verify-email", "/verify-email?token="] {
        let answer = server.get("GET", path).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (400, "Token is required"));
    }
    let answer = server.get("GET", "/verify-email?token=%22%3E%3Cscript%3E").await;
    assert!(answer.text.contains("value=\"&#34;&#62;&#60;script&#62;\"") && !answer.text.contains("<script"));
}

#[tokio::test]
async fn replacing_the_token_voids_the_old_one_and_closes_every_socket() {
    for body in ["", "{}", r#"{"clientId":"phone"}"#] {
        let server = server().await;
        let user = server.world.verified("a@b.co", OWNER).await;
        let old = server.world.login("a@b.co", OWNER).await.unwrap();
        let mut phone = server.engine.notifier().join(user, "phone", TOKEN).unwrap();
        let mut laptop = server.engine.notifier().join(user, "laptop", TOKEN).unwrap();
        let mut stranger = server.engine.notifier().join(user + 1, "phone", TOKEN).unwrap();

        let answer = server.with_token("POST", "/api/replace-token", &old, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{body}");
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        for socket in [&mut phone, &mut laptop] {
            assert_eq!(closed_with(socket).await, (4003, "Token revoked"));
        }
        assert!(futures_util::FutureExt::now_or_never(stranger.next()).is_none(), "another account's socket stays");

        let refused = server.with_token("POST", "/api/replace-token", &old, "{}").await;
        assert_eq!(refused.error().1, "Token was revoked. Please log in again to get a new token.");
        assert_eq!(server.with_token("POST", "/api/replace-token", &token, "{}").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn deleting_the_account_ends_sessions_and_sockets() {
    let server = server().await;
    let user = server.world.verified("a@b.co", OWNER).await;
    let token = server.world.login("a@b.co", OWNER).await.unwrap();
    let mut phone = server.engine.notifier().join(user, "phone", TOKEN).unwrap();
    let answer = server.with_token("DELETE", "/api/account", &token, "").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({"success": true})));
    assert_eq!(closed_with(&mut phone).await.0, 4003);
    let gone = server.with_token("DELETE", "/api/account", &token, "").await;
    assert_eq!(gone.error(), (401, "Account unavailable".into()));
    assert!(server.world.store.list_users(0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_body_comes_before_a_missing_token() {
    let server = server().await;
    let request = Request::post("/api/replace-token").header(header::CONTENT_TYPE, "application/json");
    assert_eq!(server.send(request.body(Body::from("{")).unwrap()).await.status, StatusCode::BAD_REQUEST);
    let answer = server.get("POST", "/api/replace-token").await;
    assert_eq!(answer.error(), (401, "Missing or invalid Authorization header".into()));
}

#[tokio::test]
async fn a_dead_database_is_503_everywhere() {
    let server = server().await;
    server.world.verified("a@b.co", OWNER).await;
    let token = server.world.login("a@b.co", OWNER).await.unwrap();
    server.world.store.close().await;
    let credentials = json!({"email": "a@b.co", "password": OWNER});
    for answer in [
        server.post("/api/login", &credentials).await,
        server.post("/api/register", &credentials).await,
        server.post("/api/verify-email", &json!({"token": "x"})).await,
        server.with_token("POST", "/api/replace-token", &token, "{}").await,
        server.with_token("DELETE", "/api/account", &token, "").await,
    ] {
        assert_eq!(answer.error(), (503, "database unavailable, please retry".into()));
    }
}

/// How the socket was closed; waits for nothing, as the handler has returned.
async fn closed_with(socket: &mut supersync::engine::notifier::Membership) -> (u16, &'static str) {
    match socket.next().await {
        supersync::engine::notifier::Event::Close(closing) => (closing.code, closing.reason),
        news @ supersync::engine::notifier::Event::NewOps(_) => panic!("{news:?}"),
    }
}
