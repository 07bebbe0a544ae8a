//! What a filled mirror costs: reading it again, following what is new, idling, starting.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use heymarket_sync::clock;
use heymarket_sync::sandbox::{Message, SandboxState};
use sqlx::PgConnection;

use crate::Outcome;
use crate::options::Sizes;
use crate::report::{Report, Wanted::AtLeast, Wanted::AtMost};
use crate::rig::{Conditions, Rig, page_requests};
use crate::server::Database;

/// How often it is looked whether fresh messages are committed: no figure is finer.
const LOOK: Duration = Duration::from_millis(5);
/// How long a fresh message may take before the measurement fails.
const LOST: Duration = Duration::from_secs(30);
/// Above the ids of all generated messages.
const FIRST_FRESH_ID: i64 = 900_000_000_000;
/// A generated conversation.
const CONVERSATION_ID: i64 = 50_000_000;
/// How long the API must not have been asked before the daemon counts as idle.
const QUIET: Duration = Duration::from_secs(4);
/// How long it may take until then.
const QUIET_WITHIN: Duration = Duration::from_secs(90);
/// Starts, of which the median counts.
const STARTS: usize = 5;
const TAIL_SETTINGS: [(&str, &str); 1] = [("HEYMARKET_SYNC__STREAMS__MESSAGES__INTERVAL", "1s")];

/// Reads a filled mirror again, of which nothing has changed.
pub async fn recheck(rig: &mut Rig, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let database = rig.server.database().await?;
    rig.fill(&database, sizes.rechecked, Conditions::OPEN).await?;
    // It comes once a minute, to any of the databases, and what it writes is not the daemon's.
    rig.server.autovacuum(false).await?;
    database.settle().await?;
    report.measurement(format!("recheck of {} unchanged messages", sizes.rechecked));
    let arguments = ["backfill", "--stream", "messages"];
    // The pages of the daemon's own tables go into the WAL whole at their first change after a checkpoint.
    let hour_ago = (clock::now() - chrono::TimeDelta::hours(1)).format("%FT%TZ").to_string();
    let warm_up = [&arguments[..], &["--from", &hour_ago]].concat();
    rig.start(&warm_up, &database, Conditions::OPEN, &[])?.finished().await?;
    let before = database.writes().await?;
    let spent = rig.start(&arguments, &database, Conditions::OPEN, &[])?.finished().await?;
    let after = database.writes().await?;
    rig.server.autovacuum(true).await?;
    rig.server.drop(database).await?;
    report.add("rate", sizes.rechecked as f64 / spent.seconds, "rows/s");
    report.judge("WAL", after.wal_bytes_since(&before) / 1e3, "kB", AtMost(100.0));
    report.judge("rows written", after.rows_since(&before), "", AtMost(0.0));
    report.judge("dead tuples", after.dead_since(&before), "", AtMost(0.0));
    report.add("CPU of the daemon for a million rows", spent.cpu_seconds / sizes.rechecked as f64 * 1e6, "s");
    Ok(())
}

/// From visible to committed at an interval of 1 s: on a filled mirror, and while history is filled.
pub async fn tail(rig: &mut Rig, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    report.measurement("visible to committed, interval 1 s, filled mirror");
    let small = sizes.messages / 10;
    let database = rig.server.database().await?;
    rig.fill(&database, small, Conditions::OPEN).await?;
    let conditions = Conditions::DEFAULT.with_latency(Duration::from_millis(100));
    follow(rig, sizes, &database, small, conditions, report).await?;
    rig.server.drop(database).await?;
    rig.forget_team().await;

    report.measurement("visible to committed, interval 1 s, during a first fill at 450 requests a minute");
    let database = rig.server.database().await?;
    follow(rig, sizes, &database, sizes.messages, conditions, report).await?;
    rig.server.drop(database).await?;
    rig.forget_team().await;
    Ok(())
}

/// Starts the daemon, sends fresh messages, and waits for each in the database.
async fn follow(
    rig: &mut Rig,
    sizes: &Sizes,
    database: &Database,
    messages: usize,
    conditions: Conditions,
    report: &mut Report,
) -> Outcome<()> {
    let state = rig.serve(messages, conditions).await?;
    let daemon = rig.start(&["run"], database, conditions, &TAIL_SETTINGS)?;
    daemon.ready().await?;
    // The first second of a daemon is not what it is for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rows = database.rows().await?;
    let mut delays = committed_after(&state, &mut database.connect().await?, sizes.fresh).await?;
    let filled = database.rows().await? - rows - sizes.fresh.0 as u64;
    daemon.stop().await?;
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share).round() as usize];
    report.add("messages", delays.len() as f64, "");
    report.add("p50", at(0.5) * 1e3, "ms");
    // An interval and a second.
    report.judge("p99", at(0.99) * 1e3, "ms", AtMost(2_000.0));
    report.add("longest", at(1.0) * 1e3, "ms");
    if messages == sizes.messages {
        report.judge("rows of history that came meanwhile", filled as f64, "", AtLeast(1.0));
    }
    Ok(())
}

/// Seconds from the moment each message was visible until another session saw it committed.
async fn committed_after(
    state: &SandboxState,
    session: &mut PgConnection,
    (count, pause): (usize, Duration),
) -> Outcome<Vec<f64>> {
    let mut waiting: HashMap<i64, Instant> = HashMap::new();
    let mut delays = Vec::with_capacity(count);
    let started = Instant::now();
    let mut sent = 0;
    while delays.len() < count {
        if sent < count && started.elapsed() >= pause * u32::try_from(sent)? {
            let id = FIRST_FRESH_ID + i64::try_from(sent)?;
            waiting.insert(id, Instant::now());
            state.put_message(Message::plain(id, CONVERSATION_ID, state.now()));
            sent += 1;
        }
        let ids: Vec<i64> = waiting.keys().copied().collect();
        let found: Vec<i64> = sqlx::query_scalar("SELECT id FROM heymarket.messages WHERE id = ANY($1)")
            .bind(&ids)
            .fetch_all(&mut *session)
            .await?;
        let now = Instant::now();
        delays.extend(found.iter().filter_map(|id| waiting.remove(id)).map(|at| (now - at).as_secs_f64()));
        if waiting.values().any(|at| now - *at > LOST) {
            return Err("a fresh message did not come".into());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(delays)
}

/// An idle time at default intervals, the time from start to ready, and the size of the program.
pub async fn idle(rig: &mut Rig, sizes: &Sizes, report: &mut Report) -> Outcome<()> {
    let database = rig.server.database().await?;
    let messages = sizes.messages / 10;
    rig.fill(&database, messages, Conditions::OPEN.at_rest()).await?;
    let conditions = Conditions::DEFAULT.with_latency(Duration::from_millis(100)).at_rest();
    let state = rig.serve(messages, conditions).await?;
    report.measurement(format!("idle at default intervals, {} s", sizes.idle.as_secs()));
    let daemon = rig.start(&["run"], &database, conditions, &[])?;
    daemon.ready().await?;
    quiet(&state).await?;
    state.reset_observations();
    let before = daemon.cpu_seconds()?;
    tokio::time::sleep(sizes.idle).await;
    let spent = daemon.cpu_seconds()? - before;
    let counters = state.counters();
    daemon.stop().await?;
    report.judge("CPU of the daemon", spent * 1e3, "ms", AtMost(50.0));
    report.add("requests for pages", page_requests(&counters) as f64, "");
    report.add("rows that came with them", counters.rows as f64, "");
    report.measurement("start");
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let daemon = rig.start(&["run"], &database, conditions, &[])?;
        starts.push(daemon.ready().await?.as_secs_f64());
        daemon.stop().await?;
    }
    rig.server.drop(database).await?;
    starts.sort_by(f64::total_cmp);
    report.judge("until ready, on a migrated database", starts[STARTS / 2] * 1e3, "ms", AtMost(150.0));
    let bytes = std::fs::metadata(rig.binary())?.len();
    report.judge("size of the program", bytes as f64 / 1e6, "MB", AtMost(20.0));
    Ok(())
}

/// Waits until the daemon has done what it had to do at its start.
async fn quiet(state: &SandboxState) -> Outcome<()> {
    let started = Instant::now();
    let (mut asked, mut since) = (0, Instant::now());
    while since.elapsed() < QUIET {
        let now = state.counters().all_requests();
        if now != asked {
            (asked, since) = (now, Instant::now());
        }
        if started.elapsed() > QUIET_WITHIN {
            return Err("the daemon did not come to rest".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Idling and starting at another API.
pub async fn idle_elsewhere(
    rig: &mut Rig,
    base_url: &str,
    environment: Vec<(String, std::ffi::OsString)>,
    database: &Database,
    sizes: &Sizes,
    report: &mut Report,
) -> Outcome<()> {
    report.measurement(format!("the daemon for {} s at default intervals", sizes.idle.as_secs()));
    let daemon = rig.start_on(&["run"], database, base_url, environment)?;
    let ready = daemon.ready().await?;
    let (before, asked) = (daemon.cpu_seconds()?, database.noted().await?.0);
    tokio::time::sleep(sizes.idle).await;
    let spent = daemon.cpu_seconds()? - before;
    let requests = database.noted().await?.0 - asked;
    daemon.stop().await?;
    report.judge("start to ready", ready.as_secs_f64() * 1e3, "ms", AtMost(150.0));
    report.add("CPU of the daemon", spent * 1e3, "ms");
    report.add("requests for pages", requests as f64, "");
    Ok(())
}
