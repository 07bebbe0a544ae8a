//! What to measure, and against what.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use heymarket_sync::sandbox::SandboxCredentials;

/// Measures heymarket-sync against the sandbox API, or the API at a base URL, and an embedded PostgreSQL with the
/// product's durable settings.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo bench --",
    after_help = "Examples:\n\n  cargo bench\n  cargo bench -- --quick --only fill --only recheck\n  \
                  HEYMARKET_API_KEY=... cargo bench -- --base-url https://api.example.com --seconds 300"
)]
pub struct Options {
    /// Small sizes and short times: under two minutes, for a first look
    #[arg(long, env = "BENCH_QUICK")]
    pub quick: bool,
    /// Only these; may be repeated
    #[arg(long, value_name = "NAME", env = "BENCH_ONLY", value_delimiter = ',')]
    only: Vec<Part>,
    /// Another API than the sandbox; credentials come from HEYMARKET_API_SECRET_ID and HEYMARKET_API_SECRET_KEY or
    /// from HEYMARKET_API_KEY
    #[arg(long, value_name = "URL", env = "BENCH_BASE_URL")]
    pub base_url: Option<String>,
    /// How long a first fill from another API may take
    #[arg(long, value_name = "N", default_value_t = 120)]
    seconds: u64,
    /// Requests a minute allowed at another API
    #[arg(long, value_name = "N", default_value_t = 450)]
    pub requests_per_minute: u32,
    /// The program to measure; otherwise the one that cargo built beside this one
    #[arg(long, value_name = "FILE", env = "BENCH_BINARY")]
    binary: Option<PathBuf>,
    /// Where the databases are put while it runs; a disk, or durable settings mean nothing
    #[arg(long, value_name = "DIR", env = "BENCH_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the figures go
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// One group of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Raw COPY and the first fill at no latency
    Fill,
    /// First fill at 100 and 250 ms
    Latency,
    /// The share of the quota used at 1 s latency
    Quota,
    /// First fill under a limit of 100 requests a second
    Limit,
    /// Reading unchanged rows again
    Recheck,
    /// From visible to committed
    Tail,
    /// Peak memory at two sizes of history
    Memory,
    /// Idle minute, start to ready, size of the program
    Idle,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Messages of the ordinary team; a tenth as many conversations, a twelfth as many contacts.
    pub messages: usize,
    /// How often COPY and the first fill are repeated; the median counts.
    pub repeats: usize,
    /// Messages of the small and the large team for memory.
    pub memory: [usize; 2],
    /// How long the share of the quota is watched.
    pub quota: Duration,
    /// Rows of a page under the limit: small, so that the requests last longer than a minute.
    pub limited_page: usize,
    /// Messages sent for the tail's latency, and the time between two.
    pub fresh: (usize, Duration),
    /// Messages of the mirror that is read again.
    pub rechecked: usize,
    pub idle: Duration,
}

impl Options {
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    pub fn sizes(&self) -> Sizes {
        if self.quick {
            return Sizes {
                messages: 20_000,
                repeats: 1,
                memory: [20_000, 50_000],
                quota: Duration::from_secs(15),
                limited_page: 20,
                fresh: (40, Duration::from_millis(230)),
                rechecked: 20_000,
                idle: Duration::from_secs(10),
            };
        }
        Sizes {
            messages: 200_000,
            repeats: 3,
            memory: [100_000, 1_000_000],
            quota: Duration::from_secs(90),
            limited_page: 25,
            fresh: (250, Duration::from_millis(230)),
            rechecked: 100_000,
            idle: Duration::from_secs(60),
        }
    }

    pub fn fill_time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// As an absolute path: it runs in another directory.
    pub fn binary(&self) -> std::io::Result<PathBuf> {
        match &self.binary {
            Some(binary) => binary.canonicalize(),
            None => Ok(PathBuf::from(env!("CARGO_BIN_EXE_heymarket-sync"))),
        }
    }

    /// `bench.json` in the target directory, unless told otherwise.
    pub fn json(&self) -> PathBuf {
        self.json.clone().unwrap_or_else(|| {
            let built = PathBuf::from(env!("CARGO_BIN_EXE_heymarket-sync"));
            let target = built.ancestors().nth(2).unwrap_or(&built);
            target.join("bench.json")
        })
    }

    /// What the daemon finds in its environment to reach the other API.
    pub fn foreign_credentials() -> Vec<(String, OsString)> {
        let names = ["HEYMARKET_API_SECRET_ID", "HEYMARKET_API_SECRET_KEY", "HEYMARKET_API_KEY"];
        let set = |name: &str| std::env::var_os(name).map(|value| (name.to_owned(), value));
        names.into_iter().filter_map(set).collect()
    }

    pub fn sandbox_credentials() -> Vec<(String, OsString)> {
        vec![
            ("HEYMARKET_API_SECRET_ID".to_owned(), SandboxCredentials::DEMO_SECRET_ID.into()),
            ("HEYMARKET_API_SECRET_KEY".to_owned(), SandboxCredentials::DEMO_SECRET_KEY.into()),
        ]
    }
}
