//! What `supersync serve` tells the operator once the server is ready: a banner at a terminal, and the link that creates the
//! administrator's account, at any log level and at each start until there is one.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, UdpSocket};

use qrcode::QrCode;
use qrcode::render::unicode;
use secrecy::{ExposeSecret as _, SecretString};
use supersync::accounts::Accounts;
use supersync::config::{Config, Database, Environment, LogFormat, MailDelivery, OPERATOR, masked};
use supersync::language::APP_PATH;
use url::{Host, Url};

/// Tells the operator what to do next.
pub async fn welcome(config: &Config, accounts: &Accounts) {
    let link = set_up_link(config, accounts).await;
    if let Some(link) = &link {
        tracing::info!(
            target: OPERATOR,
            "OPERATOR: this server has no administrator yet. To create the administrator's account, open {}",
            link.expose_secret()
        );
    }
    // Not in production, and not between JSON lines.
    if config.environment == Environment::Production || config.log_format == LogFormat::Json {
        return;
    }
    let mut output = io::stdout();
    let is_terminal = output.is_terminal();
    let text = banner(config, link.as_ref(), local_address(config).as_ref(), is_terminal);
    // Standard output may be closed; the server runs all the same.
    drop(output.write_all(text.as_bytes()));
}

/// The link that creates the administrator's account; `None`: there is an administrator, or a mail server. This log line, the
/// banner and [`supersync::mail`] are the only places where a link may be shown.
async fn set_up_link(config: &Config, accounts: &Accounts) -> Option<SecretString> {
    if config.test_mode || matches!(config.mail, MailDelivery::Smtp(_) | MailDelivery::Files { .. }) {
        return None;
    }
    // `supersync user add` creates one too.
    let made = accounts.claim_link().await;
    made.inspect_err(|error| tracing::error!(%error, "no link to create the administrator's account")).ok().flatten()
}

/// The server's address in the local network, where `PUBLIC_URL` works on this machine only.
fn local_address(config: &Config) -> Option<Url> {
    let mut url = Url::parse(&config.public_url).ok()?;
    let is_local = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    if !is_local || config.host.is_loopback() {
        return None;
    }
    // Nothing is sent: the kernel only looks up the route. 192.0.2.0/24 is reserved for documentation.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address: IpAddr = socket.local_addr().ok()?.ip();
    url.set_ip_host(address).ok()?;
    Some(url)
}

fn banner(config: &Config, link: Option<&SecretString>, local: Option<&Url>, with_code: bool) -> String {
    let public = masked(&config.public_url);
    let database = match &config.database {
        Database::Sqlite { path } => path.display().to_string(),
        Database::Postgres { .. } => "PostgreSQL".to_owned(),
    };
    let metrics = config.metrics_addr.map_or_else(|| "off".to_owned(), |address| format!("http://{address}/metrics"));
    let mut lines = Vec::new();
    if let Some(link) = link {
        lines.extend([
            ("Set up", link.expose_secret().to_owned()),
            ("", "or: supersync user add you@example.org".to_owned()),
            ("", String::new()),
        ]);
    }
    lines.push(("Address", public.clone()));
    if let Some(local) = local {
        lines.push(("", format!("{} in your network", local.as_str().trim_end_matches('/'))));
    }
    lines.extend([
        ("Data", database),
        ("Metrics", metrics),
        ("App", format!("{APP_PATH}, with an access token")),
        ("Help", "README.md, docs/, --help. Stop with Ctrl-C.".to_owned()),
    ]);
    let lines: Vec<String> = lines.iter().map(|(name, value)| format!("{name:<9}{value}")).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let title = format!(" SuperSync {} is ready ", env!("CARGO_PKG_VERSION"));
    let mut text = format!("\n╭─{title}{}╮\n", "─".repeat((width + 1).saturating_sub(title.chars().count())));
    for line in lines {
        // Writing to a String can't fail.
        let _ = writeln!(text, "│ {line:<width$} │");
    }
    let _ = writeln!(text, "╰{}╯", "─".repeat(width + 2));
    if let Some(link) = link.filter(|_| with_code) {
        let link = link.expose_secret();
        let reachable = local.map_or_else(
            || link.to_owned(),
            |local| link.replacen(&config.public_url, local.as_str().trim_end_matches('/'), 1),
        );
        if let Ok(code) = QrCode::with_error_correction_level(reachable, qrcode::EcLevel::L) {
            // Black on white, whatever the terminal's colours.
            for line in code.render::<unicode::Dense1x2>().build().lines() {
                let _ = writeln!(text, "\x1b[30;107m{line}\x1b[0m");
            }
            text += "The same link for a phone.\n";
        }
    }
    text
}
