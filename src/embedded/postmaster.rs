//! The server process, and the watchdog that ends it when we end.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    process::{Child, ChildStdin},
    time::{Instant, sleep, timeout},
};

use super::{
    Durability, EmbeddedError,
    cluster::{Cluster, no_follow},
    programs::Programs,
};

const LOG_FILE: &str = "server.log";

/// A log above this many bytes is put aside at the next start, and the one before it dropped.
const LOG_LIMIT: u64 = 4 << 20;

/// Bytes of the log in an error.
const TAIL: u64 = 4096;

/// How long the server may take to take connections: after a crash it first replays its log.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
const READY_PAUSE: Duration = Duration::from_millis(20);

/// How long a stop waits; within it sessions are cut off and dirty pages written.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Runs `$3...` with the log `$1`, ends it when the input ends, and removes the socket directory `$2`, if
/// given, afterwards.
///
/// The input is a pipe that only we hold: the kernel closes it whatever way we end, SIGKILL included.
/// Signals meant for all our processes (a service manager's) pass by the watchdog, which ends by the pipe
/// alone. The server is a child of it, so its process id can't be another's when the signal is sent.
const WATCHDOG: &str = r#"
umask 077
exec 3<&0 </dev/null >>"$1" 2>&1
trap '' HUP INT TERM
socket_dir=$2
shift 2
"$@" 3<&- &
server=$!
( while read -r _; do :; done; kill -INT "$server" ) <&3 &
reader=$!
exec 3<&-
wait "$server"
status=$?
kill -KILL "$reader" 2>/dev/null
[ -z "$socket_dir" ] || rmdir "$socket_dir" 2>/dev/null
exit "$status"
"#;

/// A server started by us. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Postmaster {
    watchdog: Child,
    lifeline: ChildStdin,
    log: PathBuf,
}

impl Postmaster {
    /// Starts the server on the data directory of `cluster`; it takes no connections yet. `access`: settings of who may.
    pub fn spawn(
        cluster: &Cluster,
        programs: &Programs,
        access: &[String],
    ) -> Result<Postmaster, EmbeddedError> {
        let socket_dir = &cluster.socket().dir;
        let own_socket_dir = socket_dir != cluster.data_dir();
        if own_socket_dir {
            cluster.socket().make_dir(cluster.account())?;
        }
        let log = cluster.data_dir().join(LOG_FILE);
        put_aside(&log);
        let mut command = cluster.account().command(Path::new("/bin/sh"));
        command.args(["-c", WATCHDOG, "heymarket-sync-watchdog"]).arg(&log);
        command.arg(if own_socket_dir { socket_dir.as_os_str() } else { "".as_ref() });
        command.arg(programs.path("postgres")).arg("-D").arg(cluster.data_dir());
        for setting in settings(cluster.durability()) {
            command.args(["-c", setting]);
        }
        for setting in access {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", socket_dir.display()));
        command.arg("-c").arg(format!("port={}", cluster.socket().port));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let run = |source| EmbeddedError::Run { program: programs.path("postgres"), source };
        let mut watchdog = command.spawn().map_err(run)?;
        let lifeline = watchdog.stdin.take().ok_or_else(|| run(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Postmaster { watchdog, lifeline, log })
    }

    /// Waits until the server takes connections.
    pub async fn ready(&mut self, cluster: &Cluster) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let probe = async {
            while cluster.socket().connect("postgres").await.is_err() {
                if Instant::now() >= deadline {
                    return false;
                }
                sleep(READY_PAUSE).await;
            }
            true
        };
        let ready = tokio::select! {
            biased;
            status = self.watchdog.wait() => {
                let run = |source| EmbeddedError::Run { program: PathBuf::from("/bin/sh"), source };
                let (status, log) = (status.map_err(run)?, self.log.clone());
                return Err(EmbeddedError::Ended { status, tail: tail(&log), log });
            }
            ready = probe => ready,
        };
        if ready {
            return Ok(());
        }
        let (seconds, log) = (READY_TIMEOUT.as_secs(), self.log.clone());
        Err(EmbeddedError::NotReady { seconds, tail: tail(&log), log })
    }

    /// Returns when the server has ended.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.watchdog.wait().await
    }

    /// Ends the server by its fast shutdown and waits for it.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        drop(self.lifeline);
        match timeout(STOP_TIMEOUT, self.watchdog.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(EmbeddedError::StillEnding { seconds: STOP_TIMEOUT.as_secs() }),
        }
    }
}

/// Settings that the program relies on, whatever `postgresql.conf` says.
fn settings(durability: Durability) -> impl Iterator<Item = &'static str> {
    let always = [
        "listen_addresses=",
        "unix_socket_permissions=0700",
        "logging_collector=off",
        "log_destination=stderr",
        // Starts, stops and crashes, but not the errors of statements: they hold rows, and we report them.
        "log_min_messages=log",
        "log_min_error_statement=panic",
        "log_checkpoints=off",
    ];
    let by_durability: &[&str] = match durability {
        Durability::Durable => &["fsync=on", "full_page_writes=on"],
        Durability::Fast => &[
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "wal_level=minimal",
            "max_wal_senders=0",
            // Tests run side by side, each with a pool of its own.
            "max_connections=300",
        ],
    };
    always.into_iter().chain(by_durability.iter().copied())
}

/// Renames a log that has grown too long; a failure only lets it grow.
fn put_aside(log: &Path) {
    if fs::symlink_metadata(log).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
        let _ = fs::rename(log, log.with_extension("log.1"));
    }
}

/// The end of `log`, for an error.
fn tail(log: &Path) -> String {
    let read = |mut file: File| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    let opened = OpenOptions::new().read(true).custom_flags(no_follow()).open(log);
    opened.and_then(read).unwrap_or_else(|error: io::Error| format!("(unreadable: {error})"))
}
