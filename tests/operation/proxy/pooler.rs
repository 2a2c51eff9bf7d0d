//! The real `PgBouncer` in front of the tests' PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use url::Url;

use crate::harness::{PATIENCE, free_port};
use crate::proxy::front::program;

/// A running `PgBouncer`, until it is dropped.
pub struct Pooler {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Pooler {
    /// In front of the server of this address. `mode`: `transaction` or `session`. `settings` are lines of its own.
    pub async fn before(url: &str, mode: &str, settings: &str) -> Self {
        let url = Url::parse(url).expect("a URL");
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let users = folder.path().join("users.txt");
        fs::write(&users, "\"supersync\" \"right\"\n").expect("written");
        let file = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n{settings}\n",
            url.host_str().expect("a host"),
            url.port().unwrap_or(5432),
            users.display(),
        );
        let ini = folder.path().join("pgbouncer.ini");
        fs::write(&ini, file).expect("written");
        // It does not run as root.
        for path in [folder.path(), &*users, &*ini] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permitted");
        }
        let log = fs::File::create(folder.path().join("log")).expect("a file");
        let mut command = Command::new(program("pgbouncer"));
        if fs::metadata(folder.path()).is_ok_and(|folder| std::os::unix::fs::MetadataExt::uid(&folder) == 0) {
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg(&ini)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("pgbouncer does not start ({error}): `make test-all` installs it"));
        let mut pooler = Self { child, folder, port };
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                let ended = pooler.child.try_wait().expect("it can be asked");
                assert!(ended.is_none(), "pgbouncer has ended: {}", pooler.log());
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, listens).await.expect("it listens");
        pooler
    }

    /// The same address by way of it.
    pub fn through(&self, url: &str) -> String {
        let mut url = Url::parse(url).expect("a URL");
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(self.port)).expect("a port");
        url.into()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}
