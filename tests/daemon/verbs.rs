//! The verbs that look and prepare.

use std::time::Duration;

use heymarket_sync::sandbox::SandboxOptions;
use rustix::process::Signal;
use serde_json::Value;

use super::support::database::empty_database;
use super::support::process::Process;
use super::{Rig, STOP, VERB, reached, team};

#[tokio::test(flavor = "multi_thread")]
async fn help_of_every_verb_shows_an_example() {
    let help = |arguments: &'static [&'static str]| Process::start(arguments, &[]).ended(VERB);
    let all = help(&["--help"]).await;
    assert_eq!(all.code(), Some(0));
    assert!(all.stdout.contains("Example"), "{}", all.stdout);
    for verb in [
        "run",
        "sync",
        "backfill",
        "status",
        "check",
        "migrate",
        "rejects",
        "config",
        "demo",
        "sandbox",
        "healthcheck",
    ] {
        assert!(all.stdout.contains(&format!("\n  {verb} ")), "{verb} is not listed in {}", all.stdout);
        let ended = Process::start(&[verb, "--help"], &[]).ended(VERB).await;
        assert_eq!(ended.code(), Some(0), "{verb}");
        assert!(ended.stdout.contains("Example"), "{verb}: {}", ended.stdout);
        assert!(ended.stdout.contains(&format!("heymarket-sync {verb}")), "{verb}: {}", ended.stdout);
    }
    assert!(help(&["--version"]).await.stdout.starts_with("heymarket-sync "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_prepared_checked_and_filled() {
    let rig = Rig::on(empty_database().await, SandboxOptions { team: team(500), ..Default::default() }).await;
    let ended = rig.verb(&["status"]).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("run `heymarket-sync migrate`"), "{}", ended.stderr);
    let ended = rig.verb(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    assert!(ended.stdout.contains("ok    schema: to be applied"), "{}", ended.stdout);

    let ended = rig.verb(&["migrate"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("applied "), "{}", ended.stdout);
    let ended = rig.verb(&["migrate"]).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), "the schema is current\n"));

    let ended = rig.verb(&["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    for told in [
        "ok    configuration: ",
        "ok    database: PostgreSQL ",
        "ok    schema: current",
        "ok    credentials: accepted",
        "ok    clock: ",
    ] {
        assert!(ended.stdout.contains(told), "{told:?} is not in {}", ended.stdout);
    }

    assert_eq!(rig.verb(&["sync", "--stream", "contacts"]).await.code(), Some(0));
    assert_eq!(rows(&rig).await, [("contacts", 37), ("conversations", 0), ("messages", 0)]);
    let ended = rig.verb(&["sync"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let progress =
        ended.stderr.lines().filter(|line| line.starts_with("messages: ") && line.contains(" rows, "));
    assert!(progress.count() > 0, "{}", ended.stderr);
    assert_eq!(rows(&rig).await, [("contacts", 37), ("conversations", 50), ("messages", 500)]);

    // Neither needs credentials: they read the database alone.
    let rig = rig.set("HEYMARKET_API_SECRET_ID", "").set("HEYMARKET_API_SECRET_KEY", "");
    let asked = rig.source().counters().all_requests();
    let ended = rig.verb(&["status"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    for told in ["leader: none", "messages: about 500 rows, 0 open rejects", "from the beginning, complete"] {
        assert!(ended.stdout.contains(told), "{told:?} is not in {}", ended.stdout);
    }
    let ended = rig.verb(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(status["leader"], Value::Null);
    assert_eq!(status["runs"][0]["outcome"], "done");
    assert_eq!(rig.verb(&["migrate"]).await.code(), Some(0));
    assert_eq!(rig.source().counters().all_requests(), asked);
    let ended = rig.verb(&["check"]).await;
    assert_eq!(ended.code(), Some(2), "{}", ended.output());
    assert!(ended.stdout.contains("FAIL  credentials: no Heymarket API credentials"), "{}", ended.stdout);
}

/// Rows by stream.
async fn rows(rig: &Rig) -> [(&'static str, i64); 3] {
    let mut counts = [("contacts", 0), ("conversations", 0), ("messages", 0)];
    for (table, count) in &mut counts {
        let sql = format!("SELECT count(*) FROM heymarket.{table}");
        *count = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&rig.pool).await.unwrap();
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_create_schemas_is_told_by_check() {
    let rig = Rig::on(empty_database().await, SandboxOptions { team: team(10), ..Default::default() }).await;
    let role = format!("reader_{}", std::process::id());
    let run = async |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&rig.pool).await.unwrap();
    run(format!("CREATE ROLE {role} LOGIN PASSWORD '{}'", super::DATABASE_PASSWORD)).await;
    let mut url = reqwest::Url::parse(rig.database.url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some(super::DATABASE_PASSWORD)).unwrap();
    let mut environment = rig.environment.clone();
    environment.push(("DATABASE_URL".to_owned(), url.into()));
    let check = Process::start(&["check"], &environment).ended(VERB).await;
    let migrate = Process::start(&["migrate"], &environment).ended(VERB).await;
    run(format!("DROP ROLE {role}")).await;
    assert_eq!(check.code(), Some(1), "{}", check.output());
    assert!(check.stdout.contains("FAIL  schema: to be applied, and this role may not"), "{}", check.stdout);
    assert!(check.stdout.contains("GRANT CREATE ON DATABASE"), "{}", check.stdout);
    assert_eq!(migrate.code(), Some(1), "{}", migrate.output());
    assert!(migrate.stderr.contains("the role needs CREATE on the database"), "{}", migrate.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_shown_with_origins_and_without_secrets() {
    let rig = Rig::new(10).await;
    let ended = rig.verb(&["--set", "api.page_size=77", "config"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    for told in [
        "page_size = 77  # flag --set",
        "secret_key = \"***\"  # environment variable HEYMARKET_API_SECRET_KEY",
        "timeout = \"30s\"  # default",
        ":***@",
    ] {
        assert!(ended.stdout.contains(told), "{told:?} is not in {}", ended.stdout);
    }
    assert!(ended.stdout.parse::<toml::Table>().is_ok(), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthcheck_without_a_daemon_fails() {
    // Bound and not listening: connections are refused, and nobody else takes the port meanwhile.
    let free = tokio::net::TcpSocket::new_v4().unwrap();
    free.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listen = free.local_addr().unwrap().to_string();
    let environment = [("HEYMARKET_SYNC__HTTP__LISTEN".to_owned(), listen.clone())];
    let ended = Process::start(&["healthcheck"], &environment).ended(VERB).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&listen), "{}", ended.stderr);
    assert!(ended.stderr.contains("is the daemon running?"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_alone_serves_until_it_is_told_to_end() {
    let arguments = ["sandbox", "--listen", "127.0.0.1:0", "--messages", "50", "--secret-key", "sandbox key"];
    let sandbox = Process::start(&arguments, &[]);
    reached("access", Duration::from_secs(20), async || {
        sandbox.printed().contains("SECRET_KEY='sandbox key'\n")
    })
    .await
    .unwrap();
    let url = sandbox
        .printed()
        .lines()
        .find_map(|line| line.strip_prefix("HEYMARKET_API_BASE_URL=http://").map(str::to_owned));
    let page = super::support::process::get(url.unwrap().parse().unwrap(), "/v1/inboxes").await;
    assert_eq!(page.status, 401, "asked without a token");
    sandbox.signal(Signal::INT);
    assert_eq!(sandbox.ended(STOP).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_to_another_machine_is_warned_of() {
    let rig = Rig::new(10).await;
    let ended = rig.verb(&["check"]).await;
    assert!(!ended.stdout.contains("encryption"), "this machine: {}", ended.stdout);
    // Nothing listens there, by definition.
    let rig = rig.set("HEYMARKET_API_BASE_URL", "http://api.invalid");
    let ended = rig.start(&["check"]).ended(2 * VERB).await;
    assert!(ended.stdout.contains("warn  encryption: plain http to api.invalid"), "{}", ended.stdout);
    let ended = rig.start(&["sync"]).ended(2 * VERB).await;
    assert!(ended.stderr.contains("api.base_url is plain http"), "{}", ended.stderr);
    let https = rig.set("HEYMARKET_API_BASE_URL", "https://api.invalid");
    let ended = https.start(&["check"]).ended(2 * VERB).await;
    assert!(!ended.stdout.contains("encryption"), "{}", ended.stdout);
}
