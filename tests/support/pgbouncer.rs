//! A PgBouncer before a test's database, as Debian ships it: everything that is not named here has its default.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::process::reached;

const PROGRAM: &str = "pgbouncer";
/// How long it may take until it listens.
const START: Duration = Duration::from_secs(20);
/// Ports that may be taken by others at that moment.
const TRIES: usize = 5;

pub struct PgBouncer {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    /// One that pools by `mode` (`session` is the default) before the server of `url`; `None`, and a line that says so,
    /// where it is not installed.
    pub async fn before(url: &str, mode: &str) -> Option<Self> {
        if Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!(
                "NOT RUN: pgbouncer is not installed here; `.ci/run` installs it (apt-get install pgbouncer)"
            );
            return None;
        }
        for _ in 0..TRIES {
            if let Some(started) = Self::start(url, mode).await {
                return Some(started);
            }
        }
        panic!("pgbouncer does not listen");
    }

    async fn start(url: &str, mode: &str) -> Option<Self> {
        let target: PgConnectOptions = url.parse().unwrap();
        let host = match target.get_socket() {
            Some(directory) => directory.display().to_string(),
            None => target.get_host().to_owned(),
        };
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let users = dir.path().join("userlist.txt");
        fs::write(&users, format!("\"{}\" \"\"\n", target.get_username())).unwrap();
        let settings = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n",
            target.get_port(),
            users.display(),
        );
        fs::write(&settings, text).unwrap();
        let mut command = Command::new(PROGRAM);
        // It refuses to run as root.
        if rustix::process::geteuid().is_root() {
            // Whoever owns the server's socket may use it.
            let owner = target.get_socket().map(|directory| fs::metadata(directory).unwrap().uid());
            command.args(["-u", &owner.and_then(user).unwrap_or_else(|| "nobody".to_owned())]);
        }
        let child = command
            .arg(&settings)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer starts");
        let started = Self { child, port, _dir: dir };
        let listens = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        reached("pgbouncer", START, listens).await.is_ok().then_some(started)
    }

    /// The address of the database behind `url`, by way of this one.
    pub fn url(&self, url: &str) -> String {
        let mut url = reqwest::Url::parse(url).unwrap();
        url.set_query(None);
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }
}

/// The name of the user with this number.
fn user(id: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut found = fields.filter(|fields| fields.get(2) == Some(&id.to_string().as_str()));
    found.next().map(|fields| fields[0].to_owned())
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
