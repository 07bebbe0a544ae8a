//! Killed by SIGKILL at random moments, with live traffic: the daemon, and the database server under it.
//!
//! CONTRIBUTING.md tells how to raise the number of kills. The seed of a run is printed; what a daemon did when the
//! signal came depends on the machine, so it repeats the draws, not the moments.

use std::time::Duration;

use heymarket_sync::sandbox::{SandboxOptions, TeamOptions};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;

use super::support::database::database;
use super::support::server::TestServer;
use super::{EQUAL, Rig, assert_hidden, reached, team};

/// Kills of the daemon, and of the database server.
const KILLS: (&str, usize) = ("TEST_KILLS", 6);
const SERVER_KILLS: (&str, usize) = ("TEST_SERVER_KILLS", 2);
/// After so many a new team is begun, so that first fills are among what is killed.
const KILLS_PER_TEAM: usize = 12;
/// Pages at the source from one kill to the next: during a fill, and in the tail, where a page takes longer.
const PAGES_OF_FILL: u64 = 60;
const PAGES_OF_TAIL: u64 = 12;

fn wanted((variable, default): (&str, usize)) -> usize {
    std::env::var(variable).map_or(default, |kills| kills.parse().expect("a number of kills"))
}

fn seed() -> u64 {
    let seed =
        std::env::var("TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a seed"));
    eprintln!("TEST_SEED={seed}");
    seed
}

fn options(rng: &mut ChaCha8Rng) -> SandboxOptions {
    let team = TeamOptions { seed: rng.random(), ..team(10_000) };
    let latency = Duration::from_millis(rng.random_range(5..30));
    SandboxOptions { team, latency, live_rate: rng.random_range(1.0..10.0), ..SandboxOptions::default() }
}

/// Lets some pages be read; how many is drawn.
async fn some_pages(rig: &Rig, rng: &mut ChaCha8Rng) {
    let filled: Result<bool, _> = sqlx::query_scalar(
        "SELECT count(*) FILTER (WHERE lower_inf(covered)) >= 3 FROM heymarket_sync.coverage WHERE pass = 'standing'",
    )
    .fetch_one(&rig.pool)
    .await;
    let most = if filled.unwrap_or(false) { PAGES_OF_TAIL } else { PAGES_OF_FILL };
    let pages = rig.pages() + rng.random_range(1..=most);
    reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_killed_at_random_moments() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let mut left = wanted(KILLS);
    while left > 0 {
        let rig = Rig::on(database().await, options(&mut rng)).await.in_small_pages();
        let kills = left.min(KILLS_PER_TEAM);
        left -= kills;
        for _ in 0..kills {
            let daemon = rig.start(&["run"]);
            some_pages(&rig, &mut rng).await;
            assert_hidden(&daemon.kill().await.output());
            rig.covered_is_held().await;
            rig.end_lease().await;
        }
        rig.catches_up(rig.start(&["run"])).await;
        eprintln!("equal after {kills} kills; {left} left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_server_is_killed_at_random_moments() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let mut left = wanted(SERVER_KILLS);
    while left > 0 {
        let server = TestServer::start().await;
        let rig = Rig::on(server.database(), options(&mut rng)).await.in_small_pages();
        let kills = left.min(KILLS_PER_TEAM);
        left -= kills;
        let daemon = rig.start(&["run"]);
        for _ in 0..kills {
            some_pages(&rig, &mut rng).await;
            // QUIT: the immediate shutdown, which cleans nothing up either.
            server.kill(if rng.random() { Signal::KILL } else { Signal::QUIT }).await;
        }
        rig.catches_up(daemon).await;
        eprintln!("equal after {kills} kills of the server; {left} left");
        rig.pool.close().await;
        drop(rig);
        server.stop().await;
    }
}
