//! The first fill: against raw COPY, across latency, under limits, and its memory.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::cpu;
use crate::options::Sizes;
use crate::report::{Report, Wanted::AtLeast, Wanted::AtMost};
use crate::rig::{self, Conditions, Fill, PAGE_SIZE, Rig};
use crate::server::{Database, Dump};

/// How often the requests are counted while a share of the quota is watched.
const COUNT: Duration = Duration::from_millis(50);

/// Raw COPY of the same rows, and the fill at no latency with the limit lifted; medians.
pub async fn against_copy(rig: &mut Rig, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let mut fills: Vec<(Fill, Others)> = Vec::new();
    let mut copies: Vec<f64> = Vec::new();
    let mut dump: Option<Dump> = None;
    let mut lines = 0;
    report.measurement("raw COPY of the same rows");
    for _ in 0..sizes.repeats {
        let database = rig.server.database().await?;
        rig.serve(sizes.messages, Conditions::OPEN).await?;
        let before = Others::look(rig)?;
        let fill = rig.fill(&database, sizes.messages, Conditions::OPEN).await?;
        fills.push((fill, Others::look(rig)?.since(&before)));
        lines = database.lines().await?;
        if dump.is_none() {
            dump = Some(database.dump().await?);
        }
        rig.server.drop(database).await?;
        if let Some(dump) = &dump {
            copies.push(copy(rig, dump).await?);
        }
    }
    let rows = rig::rows(sizes.messages) as f64;
    let copied = rows / median(copies);
    report.add("rows", rows, "");
    report.add("rate", copied, "rows/s");
    fills.sort_by(|(a, _), (b, _)| a.spent.seconds.total_cmp(&b.spent.seconds));
    let (slowest, fastest) = (fills[fills.len() - 1].0.rows_per_second(), fills[0].0.rows_per_second());
    let (fill, others) = fills.swap_remove(fills.len() / 2);
    report.measurement("first fill, no latency, no limit");
    report.add("rate", fill.rows_per_second(), "rows/s");
    report.add("slowest and fastest of the runs apart", fastest - slowest, "rows/s");
    report.judge("of the rate of COPY", fill.rows_per_second() / copied, "", AtLeast(0.4));
    let cpu = fill.spent.cpu_seconds / rows * 1e6;
    report.judge("CPU of the daemon for a million rows", cpu, "s", AtMost(23.0));
    report.add("CPU of PostgreSQL for a million rows", others.postgres / rows * 1e6, "s");
    report.add("CPU of the sandbox for a million rows", others.sandbox / rows * 1e6, "s");
    let least = rig::least_requests(sizes.messages, PAGE_SIZE);
    let bound = least as f64 * 1.01 + 10.0 * lines as f64;
    report.add("fewest requests possible", least as f64, "");
    report.judge("requests", fill.page_requests() as f64, "", AtMost(bound.floor()));
    report.add("peak memory (VmHWM)", megabytes(fill.spent.peak_bytes), "MB");
    Ok(())
}

/// Copies the rows into a database of their own; seconds.
pub async fn copy(rig: &mut Rig, dump: &Dump) -> Outcome<f64> {
    let database = rig.server.database().await?;
    let seconds = database.copy(dump).await?;
    if database.rows().await? != dump.rows {
        return Err("COPY lost rows".into());
    }
    rig.server.drop(database).await?;
    Ok(seconds)
}

/// The fill across latency with the limit lifted, against a client that asks one page after the other.
pub async fn across_latency(rig: &mut Rig, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    for milliseconds in [100, 250] {
        let latency = Duration::from_millis(milliseconds);
        report.measurement(format!("first fill, {milliseconds} ms latency, no limit"));
        let database = rig.server.database().await?;
        let conditions = Conditions::OPEN.with_latency(latency);
        let fill = rig.fill(&database, sizes.messages, conditions).await?;
        rig.server.drop(database).await?;
        let sequential = rig::least_requests(sizes.messages, PAGE_SIZE) as f64 * latency.as_secs_f64();
        report.add("rate", fill.rows_per_second(), "rows/s");
        let times = sequential / fill.spent.seconds;
        if milliseconds == 250 {
            report.judge("times a sequential client", times, "", AtLeast(8.0));
        } else {
            report.add("times a sequential client", times, "");
        }
        report.add("most requests in flight", fill.counters.peak_in_flight as f64, "");
        report.add("requests", fill.page_requests() as f64, "");
        report.add("peak memory (VmHWM)", megabytes(fill.spent.peak_bytes), "MB");
    }
    Ok(())
}

/// The share of the quota that a fill uses at 1 s latency with the default settings, while history is open.
pub async fn share_of_quota(rig: &mut Rig, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let conditions = Conditions::DEFAULT.with_latency(Duration::from_secs(1));
    report.measurement("first fill, 1 s latency, 450 requests a minute");
    let database = rig.server.database().await?;
    let state = rig.serve(sizes.messages, conditions).await?;
    let daemon = rig.start(&["run"], &database, conditions, &[])?;
    let started = Instant::now();
    let mut counts: Vec<(f64, u64)> = Vec::new();
    while started.elapsed() < sizes.quota {
        counts.push((started.elapsed().as_secs_f64(), state.counters().all_requests()));
        tokio::time::sleep(COUNT).await;
    }
    daemon.stop().await?;
    let open = database.rows().await? < rig::rows(sizes.messages);
    rig.server.drop(database).await?;
    if !open {
        return Err("the history was read before the time was over: too small a team".into());
    }
    let (seconds, requests) = counts.last().copied().ok_or("nothing was counted")?;
    let per_second = f64::from(conditions.requests_per_minute) / 60.0;
    let last = seconds * 2.0 / 3.0;
    let before = counts.iter().rev().find(|(at, _)| *at <= seconds - last).copied().unwrap_or_default();
    let settled = (requests - before.1) as f64 / (seconds - before.0) / per_second;
    let whole = requests as f64 / seconds / per_second;
    report.add("requests", requests as f64, "");
    report.judge("share of the quota used, from the start", whole, "", AtLeast(0.97));
    report.add("the quota not used, as time", seconds - requests as f64 / per_second, "s");
    report.judge(format!("share used in the last {last:.0} s"), settled, "", AtLeast(0.97));
    report.judge("answered 429", state.counters().rate_limited as f64, "", AtMost(0.0));
    Ok(())
}

/// The fill where the API and the daemon have the same limit of 100 requests a second.
pub async fn under_a_limit(rig: &mut Rig, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let conditions = Conditions {
        requests_per_minute: 6_000,
        admitted_per_minute: Some(6_000),
        page_size: sizes.limited_page,
        ..Conditions::OPEN
    };
    report.measurement(format!("first fill, 100 requests a second, pages of {}", sizes.limited_page));
    let database = rig.server.database().await?;
    let fill = rig.fill(&database, sizes.messages, conditions).await?;
    rig.server.drop(database).await?;
    let requests = fill.counters.all_requests() as f64;
    report.add("requests", requests, "");
    report.add("duration", fill.spent.seconds, "s");
    report.judge("duration by requests and limit", fill.spent.seconds * 100.0 / requests, "", AtMost(1.03));
    report.judge("answered 429", fill.counters.rate_limited as f64, "", AtMost(0.0));
    Ok(())
}

/// Peak memory for a small and a large history.
pub async fn memory(rig: &mut Rig, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let mut peaks = Vec::new();
    report.measurement("peak memory of a first fill (VmHWM)");
    for messages in sizes.memory {
        let database = rig.server.database().await?;
        let fill = rig.fill(&database, messages, Conditions::OPEN).await?;
        rig.server.drop(database).await?;
        let peak = megabytes(fill.spent.peak_bytes);
        report.judge(format!("{messages} messages"), peak, "MB", AtMost(48.0));
        report.add("of that, neither code nor file", megabytes(fill.spent.peak_private_bytes), "MB");
        report.add("rate", fill.rows_per_second(), "rows/s");
        peaks.push(peak);
    }
    report.judge("the large one more than the small one", peaks[1] - peaks[0], "MB", AtMost(8.0));
    Ok(())
}

/// A first fill from another API, for a bounded time; the database is handed on.
pub async fn from_elsewhere(
    rig: &mut Rig,
    base_url: &str,
    environment: Vec<(String, std::ffi::OsString)>,
    longest: Duration,
    report: &mut Report,
) -> Outcome<Database> {
    let database = rig.server.database().await?;
    report.measurement("first fill");
    let daemon = rig.start_on(&["sync"], &database, base_url, environment)?;
    let (spent, complete) = daemon.within(longest).await?;
    let (requests, read) = database.noted().await?;
    let rows = database.rows().await?;
    report.add("complete", f64::from(u8::from(complete)), "");
    report.add("rows", rows as f64, "");
    report.add("rate", rows as f64 / spent.seconds, "rows/s");
    report.add("requests for pages", requests as f64, "");
    report.add("rows of a page", read as f64 / requests.max(1) as f64, "");
    report.add("CPU of the daemon for a million rows", spent.cpu_seconds / rows.max(1) as f64 * 1e6, "s");
    report.judge("peak memory (VmHWM)", megabytes(spent.peak_bytes), "MB", AtMost(48.0));
    let dump = database.dump().await?;
    report.measurement("raw COPY of the same rows");
    let seconds = copy(rig, &dump).await?;
    report.add("rate", dump.rows as f64 / seconds, "rows/s");
    Ok(database)
}

/// CPU time of the two that the daemon shares the machine with, in seconds.
struct Others {
    postgres: f64,
    sandbox: f64,
}

impl Others {
    fn look(rig: &Rig) -> Outcome<Self> {
        Ok(Self { postgres: rig.server.cpu_seconds()?, sandbox: cpu::of_this_process()? })
    }

    fn since(self, before: &Self) -> Self {
        Self { postgres: self.postgres - before.postgres, sandbox: self.sandbox - before.sandbox }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
