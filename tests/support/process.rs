//! The real binary as a child process: its environment, output, signals and HTTP pages.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// How often something awaited is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a daemon may take until it listens.
const START: Duration = Duration::from_secs(30);
/// How long a page may take.
const PAGE: Duration = Duration::from_secs(20);

/// A process that runs; killed when dropped.
pub struct Process {
    child: Child,
    stdout: Output,
    stderr: Output,
    _working_dir: TempDir,
}

/// How a process ended, and all it printed.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Everything it printed.
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// An answer of the daemon's HTTP server.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

impl Process {
    /// Starts the program in an empty directory, with nothing in its environment but `environment`.
    pub fn start(arguments: &[&str], environment: &[(String, String)]) -> Self {
        let working_dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_heymarket-sync"))
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(working_dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = Output::of(child.stdout.take().expect("invariant: piped"));
        let stderr = Output::of(child.stderr.take().expect("invariant: piped"));
        Self { child, stdout, stderr, _working_dir: working_dir }
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("the process has not been waited for")
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// What it has printed to stderr so far.
    pub fn log(&self) -> String {
        self.stderr.text()
    }

    /// What it has printed to stdout so far.
    pub fn printed(&self) -> String {
        self.stdout.text()
    }

    /// The lines of its JSON log with this message, as their fields.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|mut line| line["fields"].take())
            .filter(|fields| fields["message"] == message)
            .collect()
    }

    /// Waits until it has logged `message`, and returns the fields of the first such line.
    pub async fn logs(&self, message: &str, within: Duration) -> Value {
        reached(message, within, async || !self.logged(message).is_empty())
            .await
            .unwrap_or_else(|error| panic!("{error}; the log:\n{}", self.log()));
        self.logged(message).swap_remove(0)
    }

    /// Waits until it has logged `message` so many times.
    pub async fn logs_times(&self, message: &str, times: usize, within: Duration) {
        reached(message, within, async || self.logged(message).len() >= times)
            .await
            .unwrap_or_else(|error| panic!("{error}; the log:\n{}", self.log()));
    }

    /// Where its HTTP server listens; waits until it does.
    pub async fn address(&self) -> SocketAddr {
        self.logs("listening", START).await["address"].as_str().unwrap().parse().unwrap()
    }

    /// A page of its HTTP server; waits until it listens.
    pub async fn get(&self, path: &str) -> Page {
        get(self.address().await, path).await
    }

    /// Waits for the end of the process.
    pub async fn ended(mut self, within: Duration) -> Ended {
        let Ok(status) = tokio::time::timeout(within, self.child.wait()).await else {
            panic!("still running after {within:?}; its log:\n{}", self.log());
        };
        Ended {
            status: status.unwrap(),
            stdout: self.stdout.complete().await,
            stderr: self.stderr.complete().await,
        }
    }

    /// Ends it as a crash does: no code of its own runs.
    pub async fn kill(self) -> Ended {
        self.signal(Signal::KILL);
        self.ended(START).await
    }
}

/// Asks the HTTP server at `address`.
pub async fn get(address: SocketAddr, path: &str) -> Page {
    tokio::time::timeout(PAGE, get_patiently(address, path)).await.expect("an answer in time")
}

/// The same, however long it takes.
pub async fn get_patiently(address: SocketAddr, path: &str) -> Page {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let ask = async {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = ask.await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a complete head");
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
        line.map_or_else(String::new, |line| line[name.len() + 2..].to_owned())
    };
    Page {
        status: head.split_whitespace().nth(1).unwrap().parse().unwrap(),
        content_type: header("content-type"),
        body: body.to_owned(),
    }
}

/// Waits until `look` says yes.
///
/// # Errors
/// That `what` was not reached in time.
pub async fn reached(what: &str, within: Duration, look: impl AsyncFn() -> bool) -> Result<(), String> {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let wait = async {
        while !look().await {
            looks.tick().await;
        }
    };
    tokio::time::timeout(within, wait).await.map_err(|_| format!("not within {within:?}: {what}"))
}

/// A stream of the child's, read as it comes.
struct Output {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn of(stream: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(stream);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).await.is_ok_and(|bytes| bytes > 0) {
                let line = std::mem::take(&mut line);
                shared
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&String::from_utf8_lossy(&line));
            }
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of it; the process has ended.
    async fn complete(self) -> String {
        self.reader.await.unwrap();
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
