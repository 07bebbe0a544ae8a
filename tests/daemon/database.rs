//! A database that fails, in each of its ways: what may help is tried again, what cannot is told, the daemon lives
//! on, and in the end the mirror equals the source.

use std::time::Duration;

use heymarket_sync::sandbox::SandboxOptions;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use super::support::database::empty_database;
use super::support::disk::SmallDisk;
use super::support::process::Process;
use super::support::relay::Relay;
use super::support::server::TestServer;
use super::{DATABASE_PASSWORD, EQUAL, Rig, VERB, assert_hidden, reached, ready, team, traffic};

/// How long the daemon may take to notice: writes that fail for 3 s are an outage.
const NOTICED: Duration = Duration::from_secs(20);
/// How long it may take after an outage: its rests grow to 10 s.
const RECOVERED: Duration = Duration::from_secs(40);

/// How long silence of the server is borne: a transaction may take a minute.
const SILENT: Duration = Duration::from_secs(120);

const LEADING: &str = "\"message\":\"leading\"";
const RECOVERY: &str = "the database takes writes again";

fn options() -> SandboxOptions {
    let latency = Duration::from_millis(10);
    SandboxOptions { team: team(2_000), latency, live_rate: 10.0, ..SandboxOptions::default() }
}

async fn rig() -> Rig {
    Rig::with(options()).await.in_small_pages()
}

/// Waits until the daemon has logged `words`, and sees that it did not say so again and again.
async fn told(daemon: &Process, words: &str) {
    let logged = async || daemon.log().contains(words);
    if let Err(error) = reached(words, NOTICED, logged).await {
        panic!("{error}; the log:\n{}", daemon.log());
    }
}

fn times_told(daemon: &Process, words: &str) -> usize {
    daemon.log().lines().filter(|line| line.contains(words)).count()
}

/// Waits until `/readyz` answers 503 with `words`.
async fn unready(daemon: &Process, words: &str) {
    let told = async || {
        let page = daemon.get("/readyz").await;
        page.status == 503 && page.body.contains(words)
    };
    if let Err(error) = reached("not ready", NOTICED, told).await {
        panic!("{error}, {words:?}: {:?}\n{}", daemon.get("/readyz").await, daemon.log());
    }
    assert_hidden(&daemon.get("/readyz").await.body);
    assert_eq!(daemon.get("/healthz").await.status, 200);
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

/// What the daemon's sessions are to suffer: `pg_terminate_backend` or `pg_cancel_backend`. Returns how many did.
async fn to_each_session(pool: &PgPool, done: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT count({done}(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'heymarket-sync'"
    )))
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_and_statements_are_cancelled_again_and_again() {
    let rig = rig().await;
    let daemon = rig.start(&["run"]);
    let mut hit = 0;
    for round in 0..20 {
        let pages = rig.pages() + 3;
        reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
        let done = if round % 2 == 0 { "pg_terminate_backend" } else { "pg_cancel_backend" };
        hit += to_each_session(&rig.pool, done).await;
    }
    assert!(hit > 10, "{hit} sessions");
    rig.catches_up(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_refused_for_now_is_tried_again() {
    let rig = rig().await;
    let daemon = rig.start(&["run"]);
    // Serialization, deadlock, lock, disk, memory, connections, cancelled, I/O; and one that ends the term: rights.
    for state in ["40001", "40P01", "55P03", "53100", "53200", "53300", "57014", "58030", "42501"] {
        run(
            &rig.pool,
            &format!(
                "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$;
                 CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON heymarket.messages
                 EXECUTE FUNCTION public.refuse()"
            ),
        )
        .await;
        let words = format!("SQLSTATE {state}");
        told(&daemon, &words).await;
        if state == "53100" {
            unready(&daemon, "the database takes no writes since").await;
            unready(&daemon, "SQLSTATE 53100").await;
            // Once by each lane of the writer; the term goes on.
            assert!(times_told(&daemon, &words) <= 2, "{}", daemon.log());
        }
        let terms = times_told(&daemon, LEADING);
        let recoveries = times_told(&daemon, RECOVERY);
        run(&rig.pool, "DROP TRIGGER refuse ON heymarket.messages").await;
        let again =
            async || times_told(&daemon, RECOVERY) > recoveries || times_told(&daemon, LEADING) > terms;
        reached("writes", RECOVERED, again).await.unwrap();
        ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    }
    rig.catches_up(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_others_are_waited_out() {
    let rig = rig().await;
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    let mut other = PgConnection::connect(rig.database.url()).await.unwrap();
    sqlx::raw_sql("SET deadlock_timeout = '60s'").execute(&mut other).await.unwrap();

    let mut held = other.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE heymarket.messages IN EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    told(&daemon, "SQLSTATE 55P03").await;
    held.rollback().await.unwrap();
    told(&daemon, RECOVERY).await;

    // Each has what the other waits for. This side's patience is the longer one.
    let mut held = other.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE heymarket_sync.coverage IN EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    reached("a writer that waits", NOTICED, async || {
        sqlx::query_scalar(
            "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted
             AND relation = 'heymarket_sync.coverage'::regclass",
        )
        .fetch_one(&rig.pool)
        .await
        .unwrap()
    })
    .await
    .unwrap();
    sqlx::raw_sql("LOCK TABLE heymarket_sync.runs IN EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    told(&daemon, "SQLSTATE 40P01").await;
    held.rollback().await.unwrap();
    rig.catches_up(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_turns_read_only_is_told_and_waited_out() {
    let rig = rig().await;
    let name: String =
        sqlx::query_scalar("SELECT current_database()::text").fetch_one(&rig.pool).await.unwrap();
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    // As at a failover: the old sessions end, the new ones meet a server that takes no writes.
    run(&rig.pool, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    to_each_session(&rig.pool, "pg_terminate_backend").await;
    unready(&daemon, "SQLSTATE 25006").await;
    let checked = rig.verb(&["check"]).await;
    assert_eq!(checked.code(), Some(1), "{}", checked.output());
    assert!(checked.stdout.contains("RESET default_transaction_read_only"), "{}", checked.output());
    told(&daemon, "SQLSTATE 25006").await;
    assert!(daemon.get("/metrics").await.body.contains("\nheymarket_sync_database_up 0\n"));
    // Sessions that are there already stay read-only: nobody ends them this time.
    let mut session = rig.pool.acquire().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!(
        "SET default_transaction_read_only = off; ALTER DATABASE {name} RESET default_transaction_read_only"
    )))
    .execute(&mut *session)
    .await
    .unwrap();
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    rig.catches_up(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_are_enough_for_everything() {
    let rig = rig().await.set("HEYMARKET_SYNC__DATABASE__MAX_CONNECTIONS", "2");
    let daemon = rig.start(&["run"]);
    let address = daemon.address().await;
    let asking = async {
        loop {
            let page = |path| super::support::process::get(address, path);
            tokio::join!(page("/status"), page("/status"), page("/metrics"), page("/readyz"));
        }
    };
    tokio::select! {
        () = rig.complete(&daemon) => {}
        () = asking => {}
    }
    rig.catches_up(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_connection_is_waited_out() {
    let server = TestServer::start().await;
    server
        .run("ALTER SYSTEM SET max_connections = 12; ALTER SYSTEM SET superuser_reserved_connections = 0")
        .await;
    server.kill(Signal::INT).await;
    let rig = Rig::on(server.database(), options()).await.in_small_pages();
    let daemon = rig.start(&["run"]);
    let pages = rig.pages() + 10;
    reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
    // Takes every place that gets free, those of the daemon too.
    let mut taken = Vec::new();
    while to_each_session(&rig.pool, "pg_terminate_backend").await > 0 || server.connect().await.is_ok() {
        while let Ok(session) = server.connect().await {
            taken.push(session);
        }
    }
    unready(&daemon, "").await;
    drop(taken);
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    rig.catches_up(daemon).await;
    end(rig, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_rotated_is_told_without_it() {
    let server = TestServer::start().await;
    let rules = server.data_dir().join("pg_hba.conf");
    let before = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("local all rotated scram-sha-256\n{before}")).unwrap();
    let right = format!("PASSWORD '{DATABASE_PASSWORD}'");
    server.run(&format!("CREATE ROLE rotated SUPERUSER LOGIN {right}; SELECT pg_reload_conf()")).await;
    let rig = Rig::on(server.database(), options()).await.in_small_pages();
    let mut url = reqwest::Url::parse(rig.database.url()).unwrap();
    url.set_username("rotated").unwrap();
    url.set_password(Some(DATABASE_PASSWORD)).unwrap();
    let rig = rig.set("DATABASE_URL", url.as_str());
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;

    server.run("ALTER ROLE rotated PASSWORD 'another'").await;
    to_each_session(&rig.pool, "pg_terminate_backend").await;
    unready(&daemon, "password authentication failed for user \"rotated\"").await;
    told(&daemon, "the database cannot be used; trying on").await;
    // At the start it is a mistake, and ends with what to do.
    let ended = rig.verb(&["run"]).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("the password of user \"rotated\" is wrong or missing"),
        "{}",
        ended.stderr
    );

    server.run(&format!("ALTER ROLE rotated {right}")).await;
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    assert_eq!(times_told(&daemon, "the database cannot be used; trying on"), 1, "{}", daemon.log());
    rig.catches_up(daemon).await;
    end(rig, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_standby_that_lags_needs_no_restart() {
    let server = TestServer::start().await;
    let relay = Relay::to(server.database().url()).await;
    let url = relay.url(server.database().url());
    let mut rig = Rig::on(server.database(), options()).await.in_small_pages().set("DATABASE_URL", &url);
    let daemon = rig.start(&["run"]);
    let begun = async || {
        let sql = "SELECT count(*) FROM heymarket.messages";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&rig.pool).await.is_ok_and(|rows| rows >= 100)
    };
    reached("rows", EQUAL, begun).await.unwrap();
    relay.cut();
    unready(&daemon, "the database does not answer since").await;
    rig.pool.close().await;
    let (first, standby) = server.forked().await;
    // The standby lags behind: what comes now is not in it.
    relay.lead_to(first.database().url());
    rig.pool = PgPool::connect(first.database().url()).await.unwrap();
    rig.complete(&daemon).await;
    let behind = PgPool::connect(standby.database().url()).await.unwrap();
    let messages = async |pool: &PgPool| -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM heymarket.messages").fetch_one(pool).await.unwrap()
    };
    let lost = messages(&rig.pool).await - messages(&behind).await;
    assert!(lost > 100, "{lost} messages are to be lost");
    // The term goes on: the lead was not changed in what the standby lacks, and hardly any statement fails.
    let epoch: i64 =
        sqlx::query_scalar("SELECT epoch FROM heymarket_sync.lease").fetch_one(&rig.pool).await.unwrap();
    sqlx::query("UPDATE heymarket_sync.lease SET epoch = $1").bind(epoch).execute(&behind).await.unwrap();
    relay.lead_to(standby.database().url());
    rig.pool.close().await;
    rig.pool = behind;
    first.stop().await;
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    rig.catches_up(daemon).await;
    end(rig, standby).await;
}

/// As when the machine of the server vanishes, and another comes in its place: a statement under way is never answered,
/// and its connection does not end.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_fall_silent_are_given_up() {
    let rig = rig().await;
    let relay = Relay::to(rig.database.url()).await;
    let url = relay.url(rig.database.url());
    let rig = rig.set("DATABASE_URL", &url);
    let daemon = rig.start(&["run"]);
    let messages = async || {
        let sql = "SELECT count(*) FROM heymarket.messages";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&rig.pool).await.unwrap_or(0)
    };
    reached("rows", EQUAL, async || messages().await >= 100).await.unwrap();
    relay.fall_silent();
    let held = messages().await;
    if let Err(error) = reached("more rows", SILENT, async || messages().await > held).await {
        panic!("{error}; the log:\n{}", daemon.log());
    }
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    rig.catches_up(daemon).await;
}

/// Only what writes rows falls silent: the lead can be renewed, and new connections are made.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_writes_stay_unanswered_gives_up_the_lead() {
    let direct = rig().await;
    let relay = Relay::to(direct.database.url()).await;
    let url = relay.url(direct.database.url());
    let leader = {
        let mut environment = direct.environment.clone();
        environment.retain(|(name, _)| name != "DATABASE_URL");
        environment.push(("DATABASE_URL".to_owned(), url));
        Process::start(&["run"], &environment)
    };
    leader.logs("leading", VERB).await;
    let messages = async || {
        let sql = "SELECT count(*) FROM heymarket.messages";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&direct.pool).await.unwrap_or(0)
    };
    reached("rows", EQUAL, async || messages().await >= 100).await.unwrap();
    let standby = direct.start(&["run"]);
    standby.logs("standing by", VERB).await;
    relay.swallow(Some("SET LOCAL enable_seqscan"));
    let silent = std::time::Instant::now();
    standby.logs("leading", SILENT).await;
    eprintln!("takeover {:.1} s after writes fell silent", silent.elapsed().as_secs_f64());
    assert!(leader.log().contains("giving the lead up for another process to try"), "{}", leader.log());
    direct.complete(&standby).await;
    // It stands by, once its last statement is given up, and can work again where the way is open again.
    relay.swallow(None);
    reached("standing by", SILENT, async || !leader.logged("standing by").is_empty()).await.unwrap();
    direct.catches_up(standby).await;
    leader.logs_times("leading", 2, EQUAL).await;
    direct.stop(leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_file_is_rotated_without_a_restart() {
    let server = TestServer::start().await;
    let rules = server.data_dir().join("pg_hba.conf");
    let before = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("local all rotated scram-sha-256\n{before}")).unwrap();
    let first = format!("PASSWORD '{DATABASE_PASSWORD}'");
    server.run(&format!("CREATE ROLE rotated SUPERUSER LOGIN {first}; SELECT pg_reload_conf()")).await;
    let rig = Rig::on(server.database(), options()).await.in_small_pages();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("address");
    let address = reqwest::Url::parse(rig.database.url()).unwrap();
    let write = |password: &str| {
        let mut url = address.clone();
        url.set_username("rotated").unwrap();
        url.set_password(Some(password)).unwrap();
        std::fs::write(&file, format!("{url}\n")).unwrap();
    };
    write(DATABASE_PASSWORD);
    let rig = rig.set("DATABASE_URL", "").set("DATABASE_URL_FILE", file.to_str().unwrap());
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;

    // The server first: until the file follows, that is an outage.
    server.run("ALTER ROLE rotated PASSWORD 'another'").await;
    to_each_session(&rig.pool, "pg_terminate_backend").await;
    unready(&daemon, "password authentication failed for user \"rotated\"").await;
    write("another");
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;

    // The file first: nothing to wait for.
    write("a third");
    server.run("ALTER ROLE rotated PASSWORD 'a third'").await;
    let begun: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&rig.pool).await.unwrap();
    // Again and again: one that is about to begin has no name yet.
    reached("new sessions", VERB, async || {
        sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(pid)) = 0 FROM pg_stat_activity
             WHERE application_name = 'heymarket-sync' AND backend_start < $1",
        )
        .bind(begun)
        .fetch_one(&rig.pool)
        .await
        .unwrap()
    })
    .await
    .unwrap();
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    traffic(rig.source());
    rig.catches_up(daemon).await;
    end(rig, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_a_newer_schema_outgrows_ends_and_says_so_once() {
    let rig = rig().await;
    let (leader, standby) = (rig.start(&["run"]), rig.start(&["run"]));
    reached("a leader and a standby", VERB, async || {
        [&leader, &standby].iter().map(|daemon| daemon.logged("leading").len()).sum::<usize>() == 1
            && [&leader, &standby].iter().any(|daemon| !daemon.logged("standing by").is_empty())
    })
    .await
    .unwrap();
    run(
        &rig.pool,
        "INSERT INTO heymarket_sync._migrations (version, description, success, checksum, execution_time)
         VALUES (9000, 'of a newer program', true, '\\x00', 0)",
    )
    .await;
    for daemon in [leader, standby] {
        let ended = daemon.ended(VERB).await;
        assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
        let told = ended.stderr.matches("the schema is at version 9000, newer than this program").count();
        assert_eq!(told, 1, "{}", ended.stderr);
        assert_hidden(&ended.output());
    }
    let free = "SELECT expires_at < clock_timestamp() FROM heymarket_sync.lease";
    assert!(
        sqlx::query_scalar::<_, bool>(free).fetch_one(&rig.pool).await.unwrap(),
        "the lead was not given up"
    );
    let held = "SELECT count(*) FROM heymarket.messages";
    let before: i64 = sqlx::query_scalar(held).fetch_one(&rig.pool).await.unwrap();
    for verb in ["run", "sync", "migrate"] {
        let ended = rig.verb(&[verb]).await;
        assert_eq!(ended.code(), Some(1), "{verb}: {}", ended.stderr);
        assert!(ended.stderr.contains("newer than this program"), "{verb}: {}", ended.stderr);
    }
    assert_eq!(sqlx::query_scalar::<_, i64>(held).fetch_one(&rig.pool).await.unwrap(), before);

    run(&rig.pool, "DELETE FROM heymarket_sync._migrations WHERE version = 9000").await;
    let daemon = rig.start(&["run"]);
    ready(&daemon, &["ready, leading\n"], VERB).await;
    rig.catches_up(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_a_migration_names_whom_for_and_can_be_stopped() {
    let rig = Rig::on(empty_database().await, options()).await;
    // As if a table of the first migration were in the making by another session.
    let mut other = PgConnection::connect(rig.database.url()).await.unwrap();
    let mut held = other.begin().await.unwrap();
    sqlx::raw_sql("CREATE SCHEMA heymarket_sync").execute(&mut *held).await.unwrap();
    let pid: i64 = sqlx::query_scalar("SELECT pg_backend_pid()::bigint").fetch_one(&mut *held).await.unwrap();
    let daemon = rig.start(&["run"]);
    let message =
        "a migration waits for a lock that another session holds; it tries again until that has ended";
    assert_eq!(daemon.logs(message, VERB).await["pid"].as_i64(), Some(pid));
    daemon.signal(Signal::TERM);
    let ended = daemon.ended(VERB).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    held.rollback().await.unwrap();
    assert_eq!(rig.verb(&["migrate"]).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_made_anew_is_filled_again() {
    let rig = rig().await;
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    run(
        &rig.pool,
        "DROP SCHEMA heymarket CASCADE; DROP SCHEMA heymarket_sync CASCADE;
         DROP SCHEMA IF EXISTS heymarket_bi CASCADE",
    )
    .await;
    reached("a new lead", RECOVERED, async || daemon.logged("leading").len() > 1).await.unwrap();
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    rig.catches_up(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_out() {
    let server = TestServer::start().await;
    let Some(disk) = SmallDisk::mount(server.data_dir()) else {
        eprintln!("not run: this user may not mount a small disk; SQLSTATE 53100 alone is tried elsewhere");
        return;
    };
    let dir = disk.path().display();
    server.run(&format!("CREATE TABLESPACE small LOCATION '{dir}/data'")).await;
    let rig = Rig::on(server.database(), options()).await.in_small_pages();
    assert_eq!(rig.verb(&["migrate"]).await.code(), Some(0));
    for table in ["messages", "conversations"] {
        run(&rig.pool, &format!("ALTER TABLE heymarket.{table} SET TABLESPACE small")).await;
    }
    let ballast = disk.fill();
    let daemon = rig.start(&["run"]);
    told(&daemon, "SQLSTATE 53100").await;
    unready(&daemon, "the database takes no writes since").await;
    assert!(
        times_told(&daemon, "SQLSTATE 53100") <= 4,
        "once by each of two writers' lanes: {}",
        daemon.log()
    );
    std::fs::remove_file(ballast).unwrap();
    ready(&daemon, &["ready, leading\n"], RECOVERED).await;
    rig.catches_up(daemon).await;
    end(rig, server).await;
}

/// The server goes last.
async fn end(rig: Rig, server: TestServer) {
    rig.pool.close().await;
    drop(rig);
    server.stop().await;
}
