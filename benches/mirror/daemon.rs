//! The real program as a child process: what it spends, how much memory it takes, when it ends.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::oneshot;

use crate::Outcome;
use crate::cpu;

/// How often its memory is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How often it is asked whether it is ready.
const ASK: Duration = Duration::from_millis(2);
/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// Bytes of its log that an error shows.
const LOG_SHOWN: usize = 2_000;

/// A process that runs; killed when dropped.
pub struct Daemon {
    pid: Pid,
    log: PathBuf,
    listen: SocketAddr,
    memory: Arc<Memory>,
    ended: oneshot::Receiver<Outcome<Ended>>,
    over: Arc<AtomicBool>,
    started: Instant,
}

#[derive(Default)]
struct Memory {
    peak: AtomicU64,
    peak_private: AtomicU64,
}

struct Ended {
    at: Instant,
    status: ExitStatus,
    cpu: f64,
}

/// What a process that has ended took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// From its start to its end.
    pub seconds: f64,
    pub cpu_seconds: f64,
    /// VmHWM: the program's own pages of code among it.
    pub peak_bytes: u64,
    /// Of that at most so much was neither code nor file.
    pub peak_private_bytes: u64,
}

impl Daemon {
    /// Starts it with nothing in its environment but `environment`; its output goes to a file in `dir`.
    pub fn start(
        binary: &Path,
        arguments: &[&str],
        environment: &[(String, OsString)],
        dir: &Path,
    ) -> Outcome<Self> {
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = dir.join("daemon.log");
        let output = File::create(&log)?;
        let started = Instant::now();
        let mut child = Command::new(binary)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("HEYMARKET_SYNC__HTTP__LISTEN", listen.to_string())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        let pid = Pid::from_child(&child);
        let memory = Arc::<Memory>::default();
        let over = Arc::<AtomicBool>::default();
        let (tell, ended) = oneshot::channel();
        let (watched, ends) = (Arc::clone(&memory), Arc::clone(&over));
        thread::spawn(move || {
            while !ends.load(Relaxed) {
                watched.look(pid);
                thread::sleep(LOOK);
            }
        });
        let ends = Arc::clone(&over);
        thread::spawn(move || {
            // While it is not waited for, the kernel still tells what it has spent.
            let waited = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let at = Instant::now();
            ends.store(true, Relaxed);
            let cpu = waited
                .map_err(io::Error::from)
                .map_err(Into::into)
                .and_then(|_| cpu::of_process(pid.as_raw_pid()));
            let _ = tell.send(
                child.wait().map_err(Into::into).and_then(|status| Ok(Ended { at, status, cpu: cpu? })),
            );
        });
        Ok(Self { pid, log, listen, memory, ended, over, started })
    }

    /// CPU time spent so far, in seconds.
    pub fn cpu_seconds(&self) -> Outcome<f64> {
        cpu::of_process(self.pid.as_raw_pid())
    }

    /// Waits until /readyz says yes; the time since the start.
    pub async fn ready(&self) -> Outcome<Duration> {
        let (listen, started) = (self.listen, self.started);
        let ready = tokio::task::spawn_blocking(move || {
            while started.elapsed() < READY {
                if is_ready(listen) {
                    return Some(started.elapsed());
                }
                thread::sleep(ASK);
            }
            None
        });
        ready.await?.ok_or_else(|| format!("not ready; its log ends with:\n{}", self.log_end()).into())
    }

    /// Waits for its end, which must be a success.
    pub async fn finished(mut self) -> Outcome<Spent> {
        let ended = (&mut self.ended).await??;
        if !ended.status.success() {
            return Err(
                format!("it ended with {}; its log ends with:\n{}", ended.status, self.log_end()).into()
            );
        }
        Ok(self.spent(&ended))
    }

    /// Ends it by SIGTERM.
    pub async fn stop(mut self) -> Outcome<Spent> {
        kill_process(self.pid, Signal::TERM)?;
        let ended = (&mut self.ended).await??;
        Ok(self.spent(&ended))
    }

    /// Waits for its end, or ends it after `longest`; whether it had ended by itself.
    pub async fn within(mut self, longest: Duration) -> Outcome<(Spent, bool)> {
        match tokio::time::timeout(longest, &mut self.ended).await {
            Ok(ended) => Ok((self.spent(&ended??), true)),
            Err(_) => Ok((self.stop().await?, false)),
        }
    }

    fn spent(&self, ended: &Ended) -> Spent {
        Spent {
            seconds: (ended.at - self.started).as_secs_f64(),
            cpu_seconds: ended.cpu,
            peak_bytes: self.memory.peak.load(Relaxed),
            peak_private_bytes: self.memory.peak_private.load(Relaxed),
        }
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log[log.ceil_char_boundary(log.len().saturating_sub(LOG_SHOWN))..].to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.over.load(Relaxed) {
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

impl Memory {
    fn look(&self, pid: Pid) {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())) else { return };
        let bytes = |field: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        self.peak.fetch_max(bytes("VmHWM:").unwrap_or(0), Relaxed);
        self.peak_private.fetch_max(bytes("RssAnon:").unwrap_or(0), Relaxed);
    }
}

fn is_ready(listen: SocketAddr) -> bool {
    let ask = || -> io::Result<String> {
        let mut connection = TcpStream::connect(listen)?;
        write!(connection, "GET /readyz HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
