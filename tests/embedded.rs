//! The embedded PostgreSQL through its public door, as real processes.

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use heymarket_sync::embedded::{Durability, Embedded, EmbeddedError, EmbeddedOptions};
use rustix::process::{Pid, Signal, geteuid, getpgid, kill_process, test_kill_process};
use sqlx::{Connection as _, PgConnection};
use support::process::reached;
use tokio_util::sync::CancellationToken;

/// The longest that anything here may take on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);

/// Names the data directory for [`owning_process`].
const OWNER_DATA_DIR: &str = "TEST_EMBEDDED_OWNER_DATA_DIR";

/// A directory that the server's user may pass, gone at the end.
fn workspace() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn options(data_dir: impl Into<PathBuf>) -> EmbeddedOptions {
    let bin_dir = std::env::var_os("HEYMARKET_SYNC__EMBEDDED__BIN_DIR").map(PathBuf::from);
    EmbeddedOptions { data_dir: Some(data_dir.into()), bin_dir, durability: Durability::Fast }
}

async fn start(options: &EmbeddedOptions) -> Result<Embedded, EmbeddedError> {
    Embedded::start(options, &CancellationToken::new()).await
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// The process id that the server wrote down.
fn postmaster(data_dir: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    Pid::from_raw(text.lines().next()?.parse().ok()?)
}

fn lives(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

/// Another process that holds the server of `data_dir`, ready when this returns.
fn spawn_owner(data_dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owning_process", "--ignored", "--nocapture"])
        .env(OWNER_DATA_DIR, data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.contains("owner is ready"));
    assert!(ready, "the owning process ended before its server was ready");
    child
}

#[tokio::test]
#[ignore = "the other process of tests in this file, which start it themselves"]
async fn owning_process() {
    let Some(data_dir) = std::env::var_os(OWNER_DATA_DIR) else { return };
    let _embedded = start(&options(data_dir)).await.unwrap();
    println!("owner is ready");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn runs_as_another_user_than_root_and_on_a_socket_closed_to_others() {
    let dir = workspace();
    let data_dir = dir.path().join("new/data");
    let embedded = start(&options(&data_dir)).await.unwrap();
    let mut session = connect(&embedded.url()).await;

    let (database, addresses): (String, String) =
        sqlx::query_as("SELECT current_database()::text, current_setting('listen_addresses')")
            .fetch_one(&mut session)
            .await
            .unwrap();
    assert_eq!((database.as_str(), addresses.as_str()), ("heymarket", ""));
    let meta = fs::metadata(&data_dir).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o700);
    assert_eq!(meta.uid() == geteuid().as_raw(), !geteuid().is_root());

    let server = postmaster(&data_dir).unwrap();
    assert_ne!(getpgid(Some(server)).unwrap(), getpgid(None).unwrap(), "Ctrl-C would reach the server");
    embedded.stop().await.unwrap();
    assert!(!lives(server) && postmaster(&data_dir).is_none());
}

#[tokio::test]
async fn durable_unless_asked_otherwise() {
    let dir = workspace();
    let durable = EmbeddedOptions { durability: Durability::default(), ..options(dir.path().join("data")) };
    let embedded = start(&durable).await.unwrap();
    let mut session = connect(&embedded.url()).await;
    for (setting, expected) in [("fsync", "on"), ("full_page_writes", "on"), ("synchronous_commit", "on")] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut session)
            .await
            .unwrap();
        assert_eq!(value, expected, "{setting}");
    }
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn data_outlives_a_restart() {
    let dir = workspace();
    let options = options(dir.path().join("data"));
    let embedded = start(&options).await.unwrap();
    let mut session = connect(&embedded.url()).await;
    sqlx::raw_sql("CREATE TABLE kept AS SELECT 7 AS number").execute(&mut session).await.unwrap();
    embedded.stop().await.unwrap();

    let embedded = start(&options).await.unwrap();
    let mut session = connect(&embedded.url()).await;
    let number: i32 = sqlx::query_scalar("SELECT number FROM kept").fetch_one(&mut session).await.unwrap();
    assert_eq!(number, 7);
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_process_uses_the_running_server_and_takes_over_when_the_first_is_killed() {
    let dir = workspace();
    let data_dir = dir.path().join("data");
    let mut owner = spawn_owner(&data_dir);
    let first = postmaster(&data_dir).unwrap();

    let embedded = start(&options(&data_dir)).await.unwrap();
    assert_eq!(postmaster(&data_dir), Some(first), "the running server is used");
    connect(&embedded.url()).await.close().await.unwrap();

    owner.kill().unwrap();
    owner.wait().unwrap();
    reached("a server of our own", BOUND, async || {
        !lives(first) && PgConnection::connect(&embedded.url()).await.is_ok()
    })
    .await
    .unwrap();
    let second = postmaster(&data_dir).unwrap();
    assert_ne!(first, second);
    embedded.stop().await.unwrap();
    assert!(!lives(second), "who took over also stops");
}

#[tokio::test]
async fn a_killed_owner_leaves_no_server_and_the_next_start_succeeds() {
    let dir = workspace();
    let data_dir = dir.path().join("data");
    for _ in 0..2 {
        let mut owner = spawn_owner(&data_dir);
        let server = postmaster(&data_dir).unwrap();
        owner.kill().unwrap();
        owner.wait().unwrap();
        reached("the orphaned server ends", BOUND, async || !lives(server)).await.unwrap();
    }
    start(&options(&data_dir)).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_killed_comes_back_at_the_same_address() {
    let dir = workspace();
    let data_dir = dir.path().join("data");
    let embedded = start(&options(&data_dir)).await.unwrap();
    let first = postmaster(&data_dir).unwrap();
    kill_process(first, Signal::KILL).unwrap();
    reached("a new server", BOUND, async || {
        postmaster(&data_dir) != Some(first) && PgConnection::connect(&embedded.url()).await.is_ok()
    })
    .await
    .unwrap();
    embedded.stop().await.unwrap();
    assert_eq!(postmaster(&data_dir), None);
}

#[tokio::test]
async fn starts_at_once_from_several_sides_make_one_server() {
    let dir = workspace();
    let options = options(dir.path().join("data"));
    let (one, two, three) = tokio::join!(start(&options), start(&options), start(&options));
    let all = [one.unwrap(), two.unwrap(), three.unwrap()];
    let mut servers = Vec::new();
    for embedded in &all {
        let mut session = connect(&embedded.url()).await;
        let started: String = sqlx::query_scalar("SELECT pg_postmaster_start_time()::text")
            .fetch_one(&mut session)
            .await
            .unwrap();
        servers.push(started);
    }
    servers.dedup();
    assert_eq!(servers.len(), 1, "{servers:?}");
    for embedded in all {
        embedded.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_no_hindrance() {
    let dir = workspace();
    let data_dir = dir.path().join("d".repeat(120)).join("with space");
    let embedded = start(&options(&data_dir)).await.unwrap();
    connect(&embedded.url()).await.close().await.unwrap();
    let socket_dir = embedded.url().split_once("host=").unwrap().1.split_once('&').unwrap().0.to_owned();
    let meta = fs::metadata(&socket_dir).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid()), (0o700, fs::metadata(&data_dir).unwrap().uid()));
    embedded.stop().await.unwrap();
    assert!(!Path::new(&socket_dir).exists(), "{socket_dir}");
}

#[tokio::test]
async fn the_printed_psql_command_works() {
    let dir = workspace();
    let embedded = start(&options(dir.path().join("data"))).await.unwrap();
    let command = embedded.psql_command();
    let program = command.split(' ').next().unwrap();
    let has_psql = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if has_psql.status.success() {
        let script = format!("{command} -XAtc 'SELECT current_database()'");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "heymarket\n", "{command}: {output:?}");
    }
    embedded.stop().await.unwrap();
}

/// Every path below `dir` with its size and time of change.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        found.push((entry.path(), meta.len(), meta.ctime(), meta.ctime_nsec()));
        if meta.is_dir() {
            found.extend(listing(&entry.path()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn directories_that_are_not_for_us_are_refused_untouched() {
    let cases = [
        ("PG_VERSION", "99\n", "was made by PostgreSQL 99, whose programs are not at hand"),
        ("PG_VERSION", "13\n", "was made by PostgreSQL 13; version 14 or newer is needed"),
        ("letters.txt", "dear\n", "holds files that are not PostgreSQL's"),
    ];
    for (file, text, expected) in cases {
        let dir = workspace();
        let data_dir = dir.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        fs::write(data_dir.join(file), text).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&data_dir, Some(65534), Some(65534)).unwrap();
        }
        let before = listing(dir.path());
        let message = start(&options(&data_dir)).await.unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(data_dir.to_str().unwrap()), "{message}");
        assert_eq!(listing(dir.path()), before);
    }
}

#[tokio::test]
async fn a_bin_dir_without_programs_is_named_before_anything_is_made() {
    let dir = workspace();
    let data_dir = dir.path().join("data");
    let options = EmbeddedOptions { bin_dir: Some(dir.path().to_owned()), ..options(&data_dir) };
    let message = start(&options).await.unwrap_err().to_string();
    assert!(
        message.contains("embedded.bin_dir") && message.contains("lacks postgres or initdb"),
        "{message}"
    );
    assert!(!data_dir.exists());
}

#[tokio::test]
async fn a_server_that_refuses_to_start_shows_its_log() {
    let dir = workspace();
    let data_dir = dir.path().join("data");
    start(&options(&data_dir)).await.unwrap().stop().await.unwrap();
    fs::write(data_dir.join("postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let message = start(&options(&data_dir)).await.unwrap_err().to_string();
    assert!(message.contains("no_such_setting") && message.contains("server.log"), "{message}");
}

#[tokio::test]
async fn a_cancelled_start_leaves_nothing_running() {
    let dir = workspace();
    let data_dir = dir.path().join("data");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let refused = Embedded::start(&options(&data_dir), &cancel).await;
    assert!(matches!(refused, Err(EmbeddedError::Cancelled)));
    assert_eq!(postmaster(&data_dir), None);
    start(&options(&data_dir)).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn each_test_gets_a_database_of_its_own_that_goes_with_it() {
    let (one, two) = tokio::join!(support::database::database(), support::database::empty_database());
    let mut session = connect(one.url()).await;
    sqlx::raw_sql("CREATE TABLE only_in_one ()").execute(&mut session).await.unwrap();
    let mut other = connect(two.url()).await;
    let names: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE tablename = 'only_in_one'")
            .fetch_all(&mut other)
            .await
            .unwrap();
    assert!(names.is_empty());

    let url = one.url().to_owned();
    drop(one);
    assert!(PgConnection::connect(&url).await.is_err(), "dropped though a session was open");
    session.close().await.unwrap_err();
}

/// What the superuser's session of another program of this machine comes to, which runs as this user.
fn psql_as(user: &str, embedded: &Embedded) -> std::process::Output {
    let command = format!("{} -XAtc 'SELECT current_user'", embedded.psql_command());
    Command::new("su").args(["-s", "/bin/sh", user, "-c", &command]).output().unwrap()
}

fn number(user: &str) -> Option<u32> {
    let output = Command::new("id").args(["-u", user]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// Makes `id` say that there is no user to give the data to.
fn without_stand_ins(dir: &Path) -> String {
    let script =
        "#!/bin/sh\ncase \"$2\" in postgres|heymarket-sync) exit 1 ;; esac\nexec /usr/bin/id \"$@\"\n";
    fs::write(dir.join("id"), script).unwrap();
    fs::set_permissions(dir.join("id"), fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap())
}

#[tokio::test]
async fn root_never_has_nobody_run_a_new_server() {
    let (true, Some(nobody), Some(_)) = (geteuid().is_root(), number("nobody"), number("postgres")) else {
        eprintln!("not run: for root, on a system with the users nobody and postgres");
        return;
    };
    let dir = workspace();
    let data_dir = dir.path().join("data");
    let embedded = start(&options(&data_dir)).await.unwrap();
    assert_ne!(fs::metadata(&data_dir).unwrap().uid(), nobody);
    assert!(!psql_as("nobody", &embedded).status.success());
    embedded.stop().await.unwrap();
    // Nor where there is no other user: it says how to make one.
    let refused = Command::new(env!("CARGO_BIN_EXE_heymarket-sync"))
        .arg("migrate")
        .env("PATH", without_stand_ins(dir.path()))
        .env("HEYMARKET_SYNC__EMBEDDED__DATA_DIR", dir.path().join("other"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("useradd --system heymarket-sync"), "{said}");
    assert!(!dir.path().join("other").exists());
}

#[tokio::test]
async fn data_of_nobody_that_cannot_be_handed_over_is_closed_to_others_of_that_user() {
    let (true, Some(nobody), Some(_)) = (geteuid().is_root(), number("nobody"), number("postgres")) else {
        eprintln!("not run: for root, on a system with the users nobody and postgres");
        return;
    };
    let dir = workspace();
    let data_dir = dir.path().join("data");
    start(&options(&data_dir)).await.unwrap().stop().await.unwrap();
    assert!(Command::new("chown").args(["-R", "nobody"]).arg(&data_dir).status().unwrap().success());
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owning_process", "--ignored", "--nocapture"])
        .env(OWNER_DATA_DIR, &data_dir)
        .env("PATH", without_stand_ins(dir.path()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("owner is ready")));
    assert_eq!(fs::metadata(&data_dir).unwrap().uid(), nobody);
    let embedded = start(&options(&data_dir)).await.unwrap();
    let refused = psql_as("nobody", &embedded);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("Peer authentication failed"), "{said}");
    connect(&embedded.url()).await.close().await.unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    embedded.stop().await.unwrap();
}

#[tokio::test]
async fn a_data_directory_of_nobody_is_handed_over_with_its_data() {
    let (true, Some(nobody), Some(_)) = (geteuid().is_root(), number("nobody"), number("postgres")) else {
        eprintln!("not run: for root, on a system with the users nobody and postgres");
        return;
    };
    let dir = workspace();
    let data_dir = dir.path().join("data");
    let embedded = start(&options(&data_dir)).await.unwrap();
    let mut session = connect(&embedded.url()).await;
    sqlx::raw_sql("CREATE TABLE kept AS SELECT 7 AS number").execute(&mut session).await.unwrap();
    session.close().await.unwrap();
    embedded.stop().await.unwrap();
    let is_nobodys = |path: &Path| fs::symlink_metadata(path).unwrap().uid() == nobody;
    let give_to_nobody = |path: &Path| {
        let done = Command::new("chown").args(["-R", "nobody"]).arg(path).status().unwrap();
        assert!(done.success());
    };
    // All of it, and as an interrupted change leaves it: the directory changed hands, its files did not.
    for interrupted in [false, true] {
        give_to_nobody(&data_dir);
        if interrupted {
            std::os::unix::fs::chown(&data_dir, number("postgres"), None).unwrap();
        }
        let embedded = start(&options(&data_dir)).await.unwrap();
        let mut session = connect(&embedded.url()).await;
        let number: i32 =
            sqlx::query_scalar("SELECT number FROM kept").fetch_one(&mut session).await.unwrap();
        assert_eq!(number, 7, "{interrupted}");
        let left: Vec<_> = listing(&data_dir).into_iter().filter(|(path, ..)| is_nobodys(path)).collect();
        assert!(left.is_empty() && !is_nobodys(&data_dir), "{interrupted}: {left:?}");
        session.close().await.unwrap();
        embedded.stop().await.unwrap();
    }
}
