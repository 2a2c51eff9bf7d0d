use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::{Config, Database, Environment, Loaded, MailDelivery, Setting, retired, settings};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Variables that touch no file.
fn variables(given: &[(&str, &str)]) -> HashMap<String, String> {
    std::iter::once(("JWT_SECRET", SECRET))
        .chain(given.iter().copied())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn parse(given: &[(&str, &str)]) -> Config {
    Config::parse(&variables(given)).expect("valid")
}

/// The problems, as an operator reads them.
fn problems(given: &[(&str, &str)]) -> Vec<String> {
    Config::parse(&variables(given)).expect_err("invalid").0.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refused(name: &str, values: &[&str]) {
    for value in values {
        let problems = problems(&[(name, value)]);
        assert_eq!(problems.len(), 1, "{name}={value}: {problems:?}");
        assert!(problems[0].starts_with(name) && problems[0].contains(value), "{problems:?}");
    }
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_settings() {
    let problems = problems(&[
        ("JWT_SECRET", "too short"),
        ("PORT", "http"),
        ("SNAPSHOT_BODY_BYTES", "8 megs"),
        ("PUBLIC_URL", "sync.example.com"),
        ("SUPERSYNC_PROT", "1"),
    ]);
    assert_eq!(
        problems,
        [
            "PORT: is \"http\"; expected a port from 1 to 65535",
            "PUBLIC_URL: is \"sync.example.com\"; expected the http:// or https:// address under which users reach the server",
            "JWT_SECRET: has 9 characters; expected at least 32",
            "SNAPSHOT_BODY_BYTES: is \"8 megs\"; expected a number of bytes such as 10485760 or 10MiB",
            "SUPERSYNC_PROT: there is no such variable; did you mean PORT?",
        ]
    );
}

#[test]
fn invalid_values_are_refused() {
    refused("PORT", &["0", "65536", "-1", "+1", "1e3", "19 00"]);
    refused("HOST", &["http://0.0.0.0", "a b", "example.com", "1.2.3.4/8"]);
    refused("PUBLIC_URL", &["ftp://example.com", "https://"]);
    let masked = problems(&[("PUBLIC_URL", "https://example.com/?a=1")]);
    assert!(masked.len() == 1 && masked[0].contains("https://example.com/?***"), "{masked:?}");
    refused("SUPERSYNC_ENV", &["prod", "Production"]);
    refused(
        "CORS_ORIGINS",
        &[
            "https://a.example,,https://b.example",
            "a.example",
            "https://*.com",
            "https://a.*.example",
            "https://a.example/path",
        ],
    );
    refused("ALLOWED_EMAILS", &["a@example.com,", "example.com", "*@", "a*@example.com", "a@b@c"]);
    refused("ENCRYPTION_POLICY", &["none"]);
    refused("TRUSTED_PROXIES", &["-1", "localhost"]);
    refused("SMTP_PORT", &["smtp"]);
    refused("SMTP_SECURE", &["yes"]);
    refused("METRICS_ADDR", &["9464", "localhost"]);
    refused("LOG_FORMAT", &["xml"]);
    let levels = ["warning", "loud", "supersync", "info,loud", "supersync=loud", "supersync::engine=", ",", "a=b=c"];
    refused("LOG_LEVEL", &levels);
    let collectors = ["localhost:4318", "grpc://localhost:4317", "http://"];
    refused("OTEL_EXPORTER_OTLP_ENDPOINT", &collectors);
    refused("OTEL_TRACES_SAMPLER_ARG", &["-0.1", "1.1", "all"]);
    // A secret: its text is not shown.
    for headers in ["x", "=x", "a b=c", "a=b,,c=d", "a=\u{7f}"] {
        let problems = problems(&[("OTEL_EXPORTER_OTLP_HEADERS", headers)]);
        assert!(problems[0].starts_with("OTEL_EXPORTER_OTLP_HEADERS: expected"), "{problems:?}");
    }
    refused(
        "RATE_LIMITS",
        &["true", "0", "0.00", "1001", "-1", "1.", ".5", "1.555", "reads", "reads=", "reads=0", "all=2"],
    );
    refused("RATE_LIMITS", &["reads=2,reads=3", "reads=2,"]);
    refused("UPLOADS_PER_USER_PER_MINUTE", &["none", "-1", "4294967296"]);
    refused("REQUEST_TIMEOUT_SECONDS", &["0", "-1", "NaN", "inf", "1 minute", "1e300"]);
    refused("SNAPSHOT_BODY_BYTES", &["0", "-1", "10MB", "MiB", "99999999999999999999", "99999999999GiB"]);
    refused("ACCOUNT_MEMORY_BYTES", &["0", "many"]);
    refused("ARCHIVE_DAYS", &["0", "0.5", "3651"]);
}

#[test]
fn empty_is_unset_except_where_the_contract_says_otherwise() {
    let empty: Vec<(&str, &str)> = settings::variables()
        .filter(|variable| !["HOST", "CORS_ENABLED", "JWT_SECRET"].contains(&variable.name))
        .map(|variable| (variable.name, ""))
        .collect();
    assert_eq!(format!("{:?}", parse(&empty)), format!("{:?}", parse(&[])));
    assert_eq!(problems(&[("HOST", " ")]).len(), 1);
    assert!(parse(&[]).cors.enabled);
    for other in ["", "false", "TRUE", "1"] {
        assert!(!parse(&[("CORS_ENABLED", other)]).cors.enabled, "{other:?}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let url = "postgres://user:hunter2hunter2@db/name?connection_limit=hunter2";
    let given = variables(&[("DATABASE_URL", url), ("JWT_SECRET", "hunter2"), ("PORT", "x"), ("SMTP_PASS", "hunter2")]);
    let errors = Config::parse(&given).expect_err("invalid");
    assert!(!format!("{errors} {errors:?}").contains("hunter2"), "{errors}");

    let url = "postgres://user:hunter2@db/name?connection_limit=7&options=-c%20hunter2&x=hunter2";
    let loaded = Loaded::parse(&variables(&[("DATABASE_URL", url), ("SMTP_PASS", "hunter2")])).expect("valid");
    let shown = format!("{loaded:?}");
    assert!(!shown.contains("hunter2") && !shown.contains(SECRET), "{shown}");
    let setting = loaded.settings.iter().find(|setting| setting.name == "DATABASE_URL").expect("listed");
    assert_eq!(setting.value.as_deref(), Some("postgres://user:********@db/name"));
}

#[test]
fn unknown_names_with_our_prefix_are_refused_and_foreign_ones_are_not() {
    assert_eq!(
        problems(&[("SUPERSYNC_ENVIRONMENT_X", "production")]),
        ["SUPERSYNC_ENVIRONMENT_X: there is no such variable"]
    );
    assert!(
        problems(&[("SUPERSYNC_DEFAULT_STORAGE_QUOTA_BITES", "1")])[0]
            .ends_with("did you mean SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES?")
    );
    // Kubernetes sets these for services whose names begin like ours; compose and the app's tests use the last ones.
    for (name, value) in [
        ("SUPERSYNC_SERVICE_HOST", "10.0.0.1"),
        ("SUPERSYNC_PORT", "tcp://10.0.0.1:1900"),
        ("SUPERSYNC_PORT_1900_TCP_ADDR", "10.0.0.1"),
        ("SUPERSYNC_POSTGRES_SERVICE_PORT_TCP_POSTGRESQL", "5432"),
        ("SUPERSYNC_POSTGRES_PORT", "tcp://10.0.0.1:5432"),
        ("SUPERSYNC_POSTGRES_PORT_5432_TCP", "tcp://10.0.0.1:5432"),
        ("SUPERSYNC_POSTGRES_PORT_5432_TCP_PORT", "5432"),
        ("SUPERSYNC_DNS_PORT_53_UDP_ADDR", "10.0.0.1"),
        ("SUPERSYNC_IMAGE", "x"),
        ("SUPERSYNC_E2E_URL", "http://localhost:1901"),
        ("PATH", "/bin"),
    ] {
        parse(&[(name, value)]);
    }
    for (name, value) in [
        ("SUPERSYNC_POSTGRES_PORT", "5432"),
        ("SUPERSYNC_POSTGRES_PORT_X_TCP", "5432"),
        ("SUPERSYNC_POSTGRES_HOST", "10.0.0.1"),
    ] {
        assert_eq!(problems(&[(name, value)]).len(), 1, "{name}");
    }
    let loaded = Loaded::parse(&variables(&[("LOG_TO_FILE", "true"), ("PRIVACY_CONTACT_NAME", "")])).expect("valid");
    assert_eq!(loaded.warnings, ["LOG_TO_FILE has no effect: logs go to standard error; redirect them"]);
}

#[test]
fn production_requires_a_secret_and_an_https_address() {
    let production = |given: &[(&str, &str)]| {
        let mut all = vec![("NODE_ENV", "production"), ("PUBLIC_URL", "https://sync.example.com/")];
        all.extend(given);
        Config::parse(&variables(&all))
    };
    let config = production(&[]).expect("valid");
    assert_eq!(config.environment, Environment::Production);
    assert_eq!(config.public_url, "https://sync.example.com");

    let names = |given: &[(&str, &str)]| -> Vec<String> {
        production(given).expect_err("refused").0.into_iter().map(|problem| problem.name).collect()
    };
    assert_eq!(names(&[("JWT_SECRET", "")]), ["JWT_SECRET"]);
    assert_eq!(names(&[("PUBLIC_URL", "")]), ["PUBLIC_URL"]);
    assert_eq!(names(&[("PUBLIC_URL", "http://sync.example.com")]), ["PUBLIC_URL"]);
    assert_eq!(names(&[("CORS_ORIGINS", "https://a.example, *")]), ["CORS_ORIGINS"]);
    assert_eq!(names(&[("TEST_MODE", "true"), ("TEST_MODE_CONFIRM", "yes-i-understand-the-risks")]), ["TEST_MODE"]);
    // Our own variable wins over the Node server's.
    let development = production(&[("SUPERSYNC_ENV", "development"), ("PUBLIC_URL", "")]).expect("valid");
    assert_eq!(development.environment, Environment::Development);
}

#[test]
fn test_mode_needs_its_second_key_and_switches_address_limits_off() {
    assert_eq!(problems(&[("TEST_MODE", "true"), ("TEST_MODE_CONFIRM", "yes")]).len(), 1);
    assert_eq!(problems(&[("TEST_MODE", "true")]).len(), 1);
    let config = parse(&[("TEST_MODE", "true"), ("TEST_MODE_CONFIRM", "yes-i-understand-the-risks")]);
    assert!(config.test_mode && !config.rate_limits.per_address);
    assert!(config.host.is_loopback() && parse(&[]).host.is_unspecified(), "test mode is open to this machine only");
    let open = [("TEST_MODE", "true"), ("TEST_MODE_CONFIRM", "yes-i-understand-the-risks"), ("HOST", "0.0.0.0")];
    assert!(parse(&open).host.is_unspecified(), "unless told otherwise");
    assert_eq!(config.rate_limits.uploads_per_user.max, 100);
    assert!(!parse(&[("TEST_MODE", "1")]).test_mode);
}

#[test]
fn invalid_quota_and_clean_up_figures_are_warned_about_and_large_ones_clamped() {
    let given = [
        ("SUPERSYNC_DEFAULT_STORAGE_QUOTA_BYTES", "100MiB"),
        ("OLD_OPS_CLEANUP_DELETE_BATCH_SIZE", "0"),
        ("OLD_OPS_CLEANUP_MAX_DELETED_PER_RUN", "99999999"),
    ];
    let loaded = Loaded::parse(&variables(&given)).expect("valid");
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert_eq!(loaded.config.limits.default_quota_bytes, 104_857_600);
    assert_eq!(loaded.config.retention.delete_batch, 5000);
    assert_eq!(loaded.config.retention.max_deleted_per_run, 1_000_000);
}

#[test]
fn passkeys_that_no_browser_would_make_are_a_warning_and_a_foreign_id_is_a_problem() {
    let warnings = |url: &str| Loaded::parse(&variables(&[("PUBLIC_URL", url)])).expect("valid").warnings;
    for fine in ["https://sync.example.org", "http://localhost:1900"] {
        assert!(warnings(fine).is_empty(), "{fine}");
    }
    for poor in ["http://sync.example.org", "http://192.168.0.7:1900", "https://[fd00::1]"] {
        assert!(warnings(poor).iter().any(|warning| warning.contains("passkeys")), "{poor}");
    }
    let foreign = [("PUBLIC_URL", "https://sync.example.org"), ("WEBAUTHN_RP_ID", "example.com")];
    let problems = problems(&foreign);
    assert!(problems[0].contains("WEBAUTHN_RP_ID") && problems[0].contains("sync.example.org"), "{problems:?}");
    let parent = [("PUBLIC_URL", "https://sync.example.org"), ("WEBAUTHN_RP_ID", "example.org")];
    assert_eq!(Loaded::parse(&variables(&parent)).expect("valid").config.relying_party.id, "example.org");
}

#[test]
fn the_time_out_ladder_is_checked_and_may_be_scaled() {
    let ladder = |seconds: &str| {
        let loaded = Loaded::parse(&variables(&[("REQUEST_TIMEOUT_SECONDS", seconds)])).expect("valid");
        let timeouts = loaded.config.timeouts;
        ([timeouts.statement, timeouts.handler, timeouts.socket].map(|time| time.as_millis()), loaded.warnings.len())
    };
    assert_eq!(ladder("80"), ([60_000, 80_000, 90_000], 0));
    assert_eq!(ladder("0.8"), ([600, 800, 900], 0));
    assert_eq!(ladder("100"), ([75_000, 100_000, 112_500], 1));
    // The old names of the outer and the inner time-out can break the order, in this release.
    let warnings = |name: &str, seconds: &str| Loaded::parse(&variables(&[(name, seconds)])).expect("valid").warnings;
    assert_eq!(warnings("STATEMENT_TIMEOUT_SECONDS", "70").len(), 1);
    for (name, seconds) in [("STATEMENT_TIMEOUT_SECONDS", "85"), ("SOCKET_TIMEOUT_SECONDS", "80")] {
        let warnings = warnings(name, seconds);
        assert!(warnings.iter().any(|warning| warning.contains("is not below")), "{warnings:?}");
    }
}

#[test]
fn a_queue_that_never_admits_the_largest_request_is_refused() {
    const SMALL: &str = "expected at least twice SNAPSHOT_BODY_BYTES, or the largest request can never be served";
    assert_eq!(problems(&[("MAX_QUEUED_BYTES", "40MiB")]), [format!("MAX_QUEUED_BYTES: is \"40MiB\"; {SMALL}")]);
    assert_eq!(problems(&[("SNAPSHOT_BODY_BYTES", "200MiB")]), [format!("MAX_QUEUED_BYTES: {SMALL}")]);
}

#[test]
fn rate_limits_have_factors() {
    let limits = |text: &str| parse(&[("RATE_LIMITS", text)]).rate_limits;
    let figures = |text: &str| {
        let limits = limits(text);
        [limits.login.max, limits.upload.max, limits.download.max, limits.wipe.max, limits.uploads_per_user.max]
    };
    assert_eq!(figures("on"), [10, 100, 200, 3, 100]);
    assert_eq!(figures("3"), [30, 300, 600, 9, 100]);
    assert_eq!(figures("0.5"), [5, 50, 100, 1, 100]);
    assert_eq!(figures("sign-in=4, writes=0.1"), [40, 10, 200, 1, 100], "never none");
    assert_eq!(figures("sockets=0.5,reads=2"), [10, 100, 400, 3, 100]);
    assert!(limits("2").per_address && !limits("off").per_address);
    // An old name wins over the factor.
    let both = [("RATE_LIMITS", "2"), ("RATE_LIMIT_LOGIN_PER_15_MINUTES", "0")];
    assert_eq!(parse(&both).rate_limits.login.max, 0);
}

#[test]
fn a_name_that_goes_still_works_and_says_what_to_do_instead() {
    let names: BTreeSet<&str> = retired::all().map(|retired| retired.name).collect();
    assert_eq!(names.len(), retired::all().count());
    assert!(names.iter().all(|name| settings::find(name).is_none()));
    let usual = format!("{:?}", parse(&[("DATABASE_URL", "postgres://db/x")]));
    for name in &names {
        // No default, and right for each of them.
        let value = if *name == "MAIL_FOLDER" { "elsewhere" } else { "59" };
        let mut given = vec![("DATABASE_URL", "postgres://db/x"), (*name, value)];
        given.extend((*name == "MAIL_FOLDER").then_some(("MAIL_TRANSPORT", "file")));
        let loaded = Loaded::parse(&variables(&given)).expect("valid");
        assert_ne!(format!("{:?}", loaded.config), usual, "{name} has no effect");
        let warning = loaded.warnings.iter().find(|warning| warning.starts_with(name)).expect("a warning");
        assert!(warning.contains("will have no effect from the next release on: "), "{warning}");
        assert!(loaded.settings.iter().any(|setting| setting.name == *name && setting.given), "{name} is not shown");
        assert_eq!(problems(&[(*name, "-1"), ("MAIL_TRANSPORT", "x")]).len(), if value == "59" { 2 } else { 1 });
    }
}

#[test]
fn database_urls() {
    for bad in [
        "mysql://db/x",
        "postgres://db",
        "nonsense",
        "sqlite::memory:",
        "sqlite://",
        "sqlite://a.db?mode=ro",
        "postgres://db/x?connection_limit=0",
        "postgres://db/x?pool_timeout=never",
        "postgres://db/x?schema=a%20b",
        "postgres://one,/x",
        "postgres://one:port,two/x",
        "postgres:///x?host=one,two",
        "postgres://db/x?target_session_attrs=standby",
        "postgres://db/x?pgbouncer=maybe",
    ] {
        let problems = problems(&[("DATABASE_URL", bad)]);
        assert_eq!(problems.len(), 1, "{bad}: {problems:?}");
        assert!(problems[0].starts_with("DATABASE_URL: "), "{problems:?}");
    }
    for direct in [None, Some("mysql://db/x"), Some("postgres://db")] {
        let mut given = vec![("DATABASE_URL", "postgres://db/x?pgbouncer=true")];
        given.extend(direct.map(|direct| ("DATABASE_DIRECT_URL", direct)));
        let problems = problems(&given);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("DATABASE_DIRECT_URL: "), "{problems:?}");
    }
    let sqlite = |given| match parse(given).database {
        Database::Sqlite { path } => path,
        Database::Postgres { .. } => panic!("PostgreSQL"),
    };
    assert_eq!(sqlite(&[("DATA_DIR", "/srv/sync")]), PathBuf::from("/srv/sync/supersync.db"));
    assert_eq!(sqlite(&[("DATABASE_URL", "sqlite:///srv/a.db")]), PathBuf::from("/srv/a.db"));
    assert_eq!(sqlite(&[("DATABASE_URL", "sqlite:a.db")]), PathBuf::from("a.db"));
}

#[test]
fn parameters_of_the_node_servers_database_layer() {
    let given = "postgresql://u:p%40ss@db:5432/sync?connection_limit=60&pool_timeout=10&options=-c%20statement_timeout%3D60000&schema=app&sslmode=require&pgbouncer=true&socket_timeout=5";
    let direct = "postgres://u@db:5433/sync?connection_limit=1&sslmode=require";
    let given = [("DATABASE_URL", given), ("DATABASE_DIRECT_URL", direct)];
    let loaded = Loaded::parse(&variables(&given)).expect("valid");
    let Database::Postgres { url, direct_url, pgbouncer, max_connections, acquire_timeout, schema } =
        loaded.config.database
    else {
        panic!("SQLite");
    };
    assert_eq!(direct_url.expect("given").expose_secret(), "postgres://u@db:5433/sync?sslmode=require");
    assert!(pgbouncer);
    let url = url::Url::parse(url.expose_secret()).expect("still a URL");
    assert_eq!(url.password(), Some("p%40ss"));
    let left: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    assert_eq!(left, [("options".into(), "-c statement_timeout=60000".into()), ("sslmode".into(), "require".into())]);
    assert_eq!((max_connections, acquire_timeout, schema.as_deref()), (60, Duration::from_secs(10), Some("app")));
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
}

#[test]
fn several_hosts_of_a_database() {
    let given = "postgres://u:p%40ss@one:5433,[::1]:5434,three/sync?target_session_attrs=read-write&sslmode=disable";
    let loaded = Loaded::parse(&variables(&[("DATABASE_URL", given)])).expect("valid");
    let shown = loaded.settings.iter().find(|setting| setting.name == "DATABASE_URL").expect("shown");
    assert_eq!(shown.value.as_deref(), Some("postgres://u:********@one:5433,[::1]:5434,three/sync"));
    let Database::Postgres { url, .. } = loaded.config.database else { panic!("SQLite") };
    let hosts = super::postgres_hosts(url.expose_secret()).expect("addresses");
    assert_eq!(
        hosts.iter().map(url::Url::as_str).collect::<Vec<_>>(),
        [
            "postgres://u:p%40ss@one:5433/sync?sslmode=disable",
            "postgres://u:p%40ss@[::1]:5434/sync?sslmode=disable",
            "postgres://u:p%40ss@three/sync?sslmode=disable",
        ]
    );
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn outside_production_a_secret_is_made_once_and_kept_private() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let data = dir.path().join("deep").join("data");
    let given = HashMap::from([("DATA_DIR".to_owned(), data.display().to_string())]);
    let secrets: Vec<String> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| Config::parse(&given).expect("valid"))).collect();
        starts.into_iter().map(|start| start.join().expect("no panic").jwt_secret.expose_secret().to_owned()).collect()
    });
    assert!(secrets[0].len() >= 32);
    assert!(secrets.iter().all(|secret| *secret == secrets[0]), "one secret for all");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(data.join("jwt-secret")).expect("kept").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&data).expect("made").permissions().mode() & 0o777, 0o700);
    }
    std::fs::write(data.join("jwt-secret"), "short").expect("written");
    let error = Config::parse(&given).expect_err("refused").to_string();
    assert!(error.contains("jwt-secret") && error.contains("delete it"), "{error}");
}

#[test]
fn a_refused_configuration_leaves_no_secret_behind() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let data = dir.path().join("data");
    let given =
        HashMap::from([("DATA_DIR".to_owned(), data.display().to_string()), ("PORT".to_owned(), "x".to_owned())]);
    assert!(Config::parse(&given).is_err());
    assert!(!data.exists());
}

#[test]
fn the_path_for_spans_is_added_and_headers_are_told_apart() {
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example.org/otlp/");
    let config = parse(&[collector, ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=abc=, x-tenant = one")]);
    let traces = config.traces.expect("a collector");
    assert_eq!(traces.endpoint.as_str(), "https://collector.example.org/otlp/v1/traces");
    let headers: Vec<_> = traces.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(headers, [("api-key", "abc="), ("x-tenant", "one")]);
}

#[test]
fn a_filter_keeps_a_level_for_the_rest() {
    for (given, filter) in [
        ("warn", "warn"),
        ("INFO", "INFO"),
        ("off", "off"),
        ("supersync::engine=debug", "info,supersync::engine=debug"),
        ("supersync::http=trace, error", "supersync::http=trace,error"),
        ("info,[request{id=1}]=debug", "info,[request{id=1}]=debug"),
    ] {
        assert_eq!(parse(&[("LOG_LEVEL", given)]).log_filter, filter);
    }
}

#[test]
fn origins_are_compared_as_browsers_write_them() {
    let origins = |given: &str| parse(&[("CORS_ORIGINS", given)]).cors.origins;
    for (given, normal) in [
        ("https://App.Example.COM", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("https://app.example.com/", "https://app.example.com"),
        ("HTTP://app.example.com:80", "http://app.example.com"),
        ("https://app.example.com:8443/", "https://app.example.com:8443"),
        ("https://münchen.example", "https://xn--mnchen-3ya.example"),
        ("https://*.Bücher.example:443", "https://*.xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("http://[::1]:1900", "http://[::1]:1900"),
        ("*", "*"),
    ] {
        assert_eq!(origins(given), [normal], "{given}");
    }
    assert_eq!(origins("https://A.example/, https://b.example:443").len(), 2);
}

#[test]
fn the_public_address_is_normalised_and_may_have_a_path() {
    for (given, url, path) in [
        ("https://Sync.Example.com:443/", "https://sync.example.com", ""),
        ("HTTPS://example.com/sync/", "https://example.com/sync", "/sync"),
        ("https://example.com:8443/a/b", "https://example.com:8443/a/b", "/a/b"),
        ("https://bücher.example", "https://xn--bcher-kva.example", ""),
    ] {
        let config = parse(&[("PUBLIC_URL", given)]);
        assert_eq!((config.public_url.as_str(), config.base_path().as_str()), (url, path), "{given}");
    }
}

#[test]
fn a_password_that_is_not_percent_encoded_is_said_to_be() {
    for bad in ["pa/ss", "pa#ss", "pa?ss", "100%", "12/3", "12?3", "12#3", "%zz", "a:b/c@d"] {
        let url = format!("postgres://user:{bad}@db:5432/sync");
        let problems = problems(&[("DATABASE_URL", &url)]);
        assert!(problems[0].contains("percent-encoded") && !problems[0].contains(bad), "{bad}: {problems:?}");
        assert!(super::postgres_address(&url).is_none(), "{bad}");
    }
    for fine in ["p%40ss", "p@ss", "p:ss", "p%25", "p$ss", "p!'*"] {
        let url = format!("postgres://user:{fine}@db:5432/sync");
        assert!(matches!(parse(&[("DATABASE_URL", &url)]).database, Database::Postgres { .. }), "{fine}");
    }
    assert!(matches!(parse(&[("DATABASE_URL", "postgres://db/sync")]).database, Database::Postgres { .. }));
}

#[test]
fn every_secret_can_be_in_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let secrets: Vec<_> =
        settings::variables().filter(|variable| variable.secret).map(|variable| variable.name).collect();
    assert!(secrets.len() >= 4, "{secrets:?}");
    let jwt = file("jwt", " 0123456789abcdef0123456789abcdef\r\n");
    let (database, password) = (file("database", "postgres://u:p@db/sync\n"), file("password", "pa ss\n"));
    let given = [
        ("JWT_SECRET_FILE", jwt.as_str()),
        ("DATABASE_URL_FILE", &database),
        ("SMTP_PASS_FILE", &password),
        ("SMTP_PASS", ""),
        ("SMTP_HOST", "mail.example.org"),
        ("SMTP_USER", "u"),
    ];
    let without_default = |given: &[(&str, &str)]| {
        Loaded::parse(&given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    };
    let loaded = without_default(&given).expect("valid");
    // White space is a part of the secret, the end of the last line is not.
    assert_eq!(loaded.config.jwt_secret.expose_secret(), " 0123456789abcdef0123456789abcdef");
    assert!(matches!(loaded.config.database, Database::Postgres { .. }));
    let MailDelivery::Smtp(smtp) = &loaded.config.mail else { panic!("SMTP") };
    assert_eq!(smtp.password.as_ref().map(ExposeSecret::expose_secret), Some("pa ss"));
    let shown = loaded.settings.iter().find(|setting| setting.name == "JWT_SECRET").expect("a setting");
    assert_eq!(shown.value.as_deref(), Some("********"));
    assert_eq!(loaded.warnings, Vec::<String>::new());

    let problem = |given: &[(&str, &str)]| {
        let problems = without_default(given).expect_err("refused").0;
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    };
    let twice = problem(&[("JWT_SECRET_FILE", &jwt), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")]);
    assert!(twice.starts_with("JWT_SECRET: is given more than once (JWT_SECRET, JWT_SECRET_FILE)"), "{twice}");
    let missing = problem(&[("JWT_SECRET_FILE", "/nonexistent/secret")]);
    assert!(missing.starts_with("JWT_SECRET_FILE: /nonexistent/secret does not exist"), "{missing}");
    let empty = problem(&[("SMTP_PASS_FILE", &file("empty", "\n"))]);
    assert!(empty.starts_with("SMTP_PASS_FILE: ") && empty.contains("is empty"), "{empty}");
    let short = problem(&[("JWT_SECRET_FILE", &file("short", "hunter2"))]);
    assert!(
        short.contains("JWT_SECRET (") && short.contains("has 7 characters") && !short.contains("hunter2"),
        "{short}"
    );
    let useless = Loaded::parse(&variables(&[("SMTP_USER_FILE", &jwt)])).expect("valid").warnings;
    assert!(useless[0].contains("SMTP_USER_FILE has no effect"), "{useless:?}");
}

#[test]
fn credentials_of_systemd_are_read_by_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    for name in ["JWT_SECRET", "jwt_secret", "jwt-secret"] {
        let file = folder.path().join(name);
        std::fs::write(&file, "0123456789abcdef0123456789abcdeF\n").expect("written");
        let given = HashMap::from([("CREDENTIALS_DIRECTORY".to_owned(), path.clone())]);
        let config = Config::parse(&given).expect("valid");
        assert_eq!(config.jwt_secret.expose_secret(), "0123456789abcdef0123456789abcdeF", "{name}");
        let twice = problems(&[("CREDENTIALS_DIRECTORY", &path)]);
        assert!(twice[0].contains("a credential of systemd"), "{twice:?}");
        std::fs::remove_file(file).expect("removed");
    }
    assert!(Loaded::parse(&variables(&[("CREDENTIALS_DIRECTORY", &path)])).is_ok(), "those of others don't matter");
}

#[test]
fn printed_settings_are_read_as_what_they_are() {
    for value in ["it's", "say \"hi\"", "back\\n", "a # b", " $HOME ", "two\nlines", "`x` 'y'"] {
        let given = Setting { name: "SMTP_FROM", value: Some(value.to_owned()), given: true };
        let text = super::as_env_file(&[given]);
        let (assignments, strays) = super::dotenv::parse(&text);
        assert_eq!((assignments.len(), strays.len()), (1, 0), "{text}");
        assert_eq!(assignments[0].value, value, "{text}");
    }
}
