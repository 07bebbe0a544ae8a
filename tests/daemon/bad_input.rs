//! Each mistake ends with one message: what, where it came from, what to do.

use std::time::Duration;

use heymarket_sync::sandbox::{SandboxCredentials, SandboxOptions};
use tokio::net::TcpListener;

use super::support::database::empty_database;
use super::{Rig, STOP, VERB, assert_hidden, ready, team};

/// A mistake in the environment, and what its message must hold.
struct Case {
    name: &'static str,
    set: Vec<(&'static str, String)>,
    told: Vec<&'static str>,
}

fn case(name: &'static str, set: &[(&'static str, &str)], told: &[&'static str]) -> Case {
    let set = set.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Case { name, set, told: told.to_vec() }
}

async fn nothing_was_touched(rig: &Rig) -> bool {
    let schemas: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'heymarket%'")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    schemas == 0 && rig.source().counters().all_requests() == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_configuration_is_told_before_anything_is_touched() {
    let cases = [
        case(
            "no credentials",
            &[("HEYMARKET_API_SECRET_ID", ""), ("HEYMARKET_API_SECRET_KEY", "")],
            &["no Heymarket API credentials", "set HEYMARKET_API_SECRET_ID and HEYMARKET_API_SECRET_KEY"],
        ),
        case(
            "half of the credentials",
            &[("HEYMARKET_API_SECRET_KEY", "")],
            &[
                "api.secret_key is not set, but api.secret_id is",
                "environment variable HEYMARKET_API_SECRET_ID",
                "set HEYMARKET_API_SECRET_KEY",
            ],
        ),
        case(
            "two credentials",
            &[("HEYMARKET_API_KEY", "team-key-key-b81f6e0c52d94a37")],
            &["HEYMARKET_API_KEY", "both set", "take one of them away"],
        ),
        case(
            "a file that is not there",
            &[("HEYMARKET_API_SECRET_KEY", ""), ("HEYMARKET_API_SECRET_KEY_FILE", "/nowhere/key")],
            &["api.secret_key", "HEYMARKET_API_SECRET_KEY_FILE", "can't read the file /nowhere/key"],
        ),
        case(
            "an unknown key",
            &[("HEYMARKET_SYNC__API__PAGESIZE", "7")],
            &[
                "unknown key api.pagesize",
                "environment variable HEYMARKET_SYNC__API__PAGESIZE",
                "did you mean HEYMARKET_SYNC__API__PAGE_SIZE?",
            ],
        ),
        case(
            "a bad duration",
            &[("HEYMARKET_SYNC__SYNC__SETTLE_MARGIN", "soon")],
            &[
                "sync.settle_margin = \"soon\"",
                "environment variable HEYMARKET_SYNC__SYNC__SETTLE_MARGIN",
                "accepted:",
            ],
        ),
        case(
            "a duration out of range",
            &[("HEYMARKET_SYNC__STREAMS__MESSAGES__INTERVAL", "1ms")],
            &["streams.messages.interval = \"1ms\"", "accepted:", "1s"],
        ),
        case(
            "a bad address of the API",
            &[("HEYMARKET_API_BASE_URL", "heymarket")],
            &["api.base_url = \"heymarket\"", "environment variable HEYMARKET_API_BASE_URL", "accepted:"],
        ),
        case(
            "a bad address of the database",
            &[("DATABASE_URL", "mysql://root:password-77ac20@localhost/mirror")],
            &["database.url", "environment variable DATABASE_URL", "accepted:", "postgres://"],
        ),
        case(
            "a bad address to listen on",
            &[("HEYMARKET_SYNC__HTTP__LISTEN", "everywhere")],
            &["http.listen = \"everywhere\"", "HEYMARKET_SYNC__HTTP__LISTEN", "accepted:"],
        ),
        case(
            "nothing to do",
            &[
                ("HEYMARKET_SYNC__STREAMS__MESSAGES__ENABLED", "false"),
                ("HEYMARKET_SYNC__STREAMS__CONVERSATIONS__ENABLED", "false"),
                ("HEYMARKET_SYNC__STREAMS__CONTACTS__ENABLED", "false"),
            ],
            &["no stream is enabled", "streams.messages.enabled"],
        ),
    ];
    let mut rig =
        Rig::on(empty_database().await, SandboxOptions { team: team(10), ..Default::default() }).await;
    let right = rig.environment.clone();
    for Case { name, set, told } in cases {
        for (variable, value) in &set {
            rig = rig.set(variable, value);
        }
        for verb in ["run", "sync"] {
            let ended = rig.verb(&[verb]).await;
            assert_eq!(ended.code(), Some(2), "{name}: {}", ended.stderr);
            assert_eq!(ended.stdout, "", "{name}");
            for words in &told {
                assert!(ended.stderr.contains(words), "{name}: {words:?} is not in {}", ended.stderr);
            }
            assert!(ended.stderr.starts_with("error: "), "{name}: {}", ended.stderr);
        }
        assert!(nothing_was_touched(&rig).await, "{name}");
        rig.environment.clone_from(&right);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_told_with_status_2() {
    let rig = Rig::on(empty_database().await, SandboxOptions { team: team(10), ..Default::default() }).await;
    for (arguments, told) in [
        (&["walk"][..], "unrecognized subcommand 'walk'"),
        (&[], "Usage: heymarket-sync"),
        (&["sync", "--stream", "calls"], "calls"),
        (&["--set", "api.page_size", "run"], "expected KEY=VALUE"),
        (&["--set", "api.page_size=0", "run"], "flag --set"),
        (&["--config", "nowhere.toml", "run"], "nowhere.toml"),
    ] {
        let ended = rig.verb(arguments).await;
        assert_eq!(ended.code(), Some(2), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(told), "{arguments:?}: {}", ended.stderr);
    }
    assert!(nothing_was_touched(&rig).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_used_is_told() {
    let rig = Rig::new(10).await;
    let url = |change: fn(&mut reqwest::Url)| {
        let mut url = reqwest::Url::parse(rig.database.url()).unwrap();
        url.set_password(Some(super::DATABASE_PASSWORD)).unwrap();
        change(&mut url);
        url.to_string()
    };
    // Bound and not listening: connections are refused, and nobody else takes the port meanwhile.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused =
        format!("postgres://sync:{}@{}/mirror", super::DATABASE_PASSWORD, taken.local_addr().unwrap());
    let mut cases = vec![
        ("refused", refused, vec!["no connection to PostgreSQL at 127.0.0.1", "start PostgreSQL"]),
        (
            "no such database",
            url(|url| url.set_path("nobodys")),
            vec!["database \"nobodys\"", "the database does not exist", "createdb nobodys"],
        ),
    ];
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        cases.push((
            "no such role",
            url(|url| url.set_username("nobody_here").unwrap()),
            vec!["as user \"nobody_here\"", "create the role, or allow it in pg_hba.conf"],
        ));
    }
    for (name, url, told) in cases {
        let mut environment = rig.environment.clone();
        environment.push(("DATABASE_URL".to_owned(), url));
        for verb in ["run", "sync", "status", "migrate", "check"] {
            let ended = super::Process::start(&[verb], &environment).ended(VERB).await;
            assert_eq!(ended.code(), Some(1), "{name}, {verb}: {}", ended.stderr);
            let output = ended.output();
            assert_hidden(&output);
            for words in &told {
                assert!(output.contains(words), "{name}, {verb}: {words:?} is not in {output}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let rig = Rig::new(10).await.set("HEYMARKET_SYNC__HTTP__LISTEN", &address);
    let ended = rig.verb(&["run"]).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    let told = format!("http.listen {address} cannot be used; is another process listening there?");
    assert!(ended.stderr.contains(&told), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_end_a_sync_and_not_the_daemon() {
    let rig = Rig::new(200).await;
    let accepted = rig.source().credentials();
    rig.source().set_credentials(SandboxCredentials::secret("another", "pair"));
    for verb in ["sync", "check"] {
        let ended = rig.verb(&[verb]).await;
        assert_eq!(ended.code(), Some(1), "{verb}: {}", ended.stderr);
        let output = ended.output();
        for words in ["the API refused the credentials", "check that api.secret_id and api.secret_key"] {
            assert!(output.contains(words), "{verb}: {words:?} is not in {output}");
        }
    }
    let daemon = rig.start(&["run"]);
    ready(&daemon, &["leading; the API cannot be read since", "the API refused the credentials"], VERB).await;
    assert_hidden(&daemon.get("/readyz").await.body);
    rig.source().set_credentials(accepted.clone());
    rig.equal().await;
    ready(&daemon, &["ready, leading\n"], STOP).await;
    // The same in the middle of its work.
    rig.source().set_credentials(SandboxCredentials::secret("another", "pair"));
    ready(&daemon, &["the API refused the credentials"], Duration::from_secs(30)).await;
    rig.source().set_credentials(accepted);
    for _ in 0..50 {
        rig.source().apply_event(rig.source().now());
    }
    rig.equal().await;
    ready(&daemon, &["ready, leading\n"], Duration::from_secs(30)).await;
    rig.stop(daemon).await;
}
