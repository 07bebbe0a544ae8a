//! Measures the program as users run it, against the sandbox or another API, in one run.
//!
//! `docs/performance.md` says what the figures mean. The sandbox and the client of COPY live in this process, the
//! program is its child, and the server's processes are apart: what is told as the daemon's is its own.

mod cpu;
mod daemon;
mod fill;
mod machine;
mod options;
mod report;
mod rig;
mod rounds;
mod server;

use std::process::ExitCode;

use clap::Parser as _;
use serde_json::json;

use crate::machine::Machine;
use crate::options::{Options, Part};
use crate::report::Report;
use crate::rig::{PAGE_SIZE, Rig};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = Options::parse();
    let measured = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(measure(&options)));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> Outcome<()> {
    let mut rig = Rig::new(options).await?;
    let machine = Machine::look(rig.server.version().await?);
    let settings = json!({
        "quick": options.quick, "base_url": options.base_url, "page_size": PAGE_SIZE,
        "messages": options.sizes().messages,
    });
    let mut report = Report::new(machine, settings);
    let outcome = tokio::select! {
        outcome = all(&mut rig, options, &mut report) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    rig.stop().await?;
    // What was measured before an error is told all the same.
    println!("\n{report}");
    report.write(&options.json())?;
    eprintln!("written to {}", options.json().display());
    outcome
}

async fn all(rig: &mut Rig, options: &Options, report: &mut Report) -> Outcome<()> {
    let sizes = options.sizes();
    if let Some(base_url) = &options.base_url {
        let mut environment = Options::foreign_credentials();
        let rate = options.requests_per_minute.to_string();
        environment.push(("HEYMARKET_SYNC__API__REQUESTS_PER_MINUTE".to_owned(), rate.into()));
        let database =
            fill::from_elsewhere(rig, base_url, environment.clone(), options.fill_time(), report).await?;
        return rounds::idle_elsewhere(rig, base_url, environment, &database, &sizes, report).await;
    }
    if options.wants(Part::Fill) {
        fill::against_copy(rig, &sizes, report).await?;
    }
    if options.wants(Part::Latency) {
        fill::across_latency(rig, &sizes, report).await?;
    }
    if options.wants(Part::Quota) {
        fill::share_of_quota(rig, &sizes, report).await?;
    }
    if options.wants(Part::Limit) {
        fill::under_a_limit(rig, &sizes, report).await?;
    }
    if options.wants(Part::Recheck) {
        rounds::recheck(rig, &sizes, report).await?;
    }
    if options.wants(Part::Tail) {
        rounds::tail(rig, &sizes, report).await?;
    }
    if options.wants(Part::Idle) {
        rounds::idle(rig, &sizes, report).await?;
    }
    // Last, since the large team takes time to make up and memory of its own.
    if options.wants(Part::Memory) {
        fill::memory(rig, &sizes, report).await?;
    }
    Ok(())
}
