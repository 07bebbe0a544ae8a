//! Where it was measured.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::thread;

use serde_json::{Value, json};

/// The machine, as it was when the measuring began.
pub struct Machine {
    cores: usize,
    memory_bytes: u64,
    kernel: String,
    postgres: String,
    /// Processes that ran or wanted to, on average of the last minute: above 1, others were at work.
    load: f64,
    at: String,
}

impl Machine {
    pub fn look(postgres: String) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib.unwrap_or(0) * 1024,
            kernel: kernel.trim().to_owned(),
            postgres,
            load: load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            at: heymarket_sync::clock::now().format("%FT%TZ").to_string(),
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "at": self.at, "cores": self.cores, "memory_bytes": self.memory_bytes, "kernel": self.kernel,
            "postgres": self.postgres, "load_before": self.load,
        })
    }
}

impl Display for Machine {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(
            out,
            "{}: {} cores, {gib:.0} GiB, Linux {}, PostgreSQL {}; load before: {:.2}",
            self.at, self.cores, self.kernel, self.postgres, self.load
        )
    }
}
