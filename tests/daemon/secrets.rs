//! After mishaps of every kind: no secret, text or phone number is told anywhere but in the mirror's own tables.

use std::fs;

use heymarket_sync::sandbox::{Fault, SandboxCredentials, SandboxOptions};
use sqlx::AssertSqlSafe;

use super::pages::assert_private;
use super::support::process::Process;
use super::{EQUAL, Rig, VERB, assert_hidden, reached, ready, team};

/// Pages and arguments of a running daemon.
async fn told_by(daemon: &Process) -> String {
    let mut told = String::new();
    for path in ["/", "/status", "/metrics", "/readyz", "/healthz"] {
        told += &daemon.get(path).await.body;
    }
    told + &String::from_utf8_lossy(&fs::read(format!("/proc/{}/cmdline", daemon.id())).unwrap())
}

/// All rows of the program's own tables, and every comment; without the payloads of rejects, which are rows as they
/// came.
async fn told_by_the_database(rig: &Rig) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'heymarket_sync'",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    assert!(tables.len() >= 6, "{tables:?}");
    let rows =
        tables.iter().map(|table| format!("SELECT (to_jsonb(t) - 'payload')::text AS told FROM {table} t"));
    let comments = [
        "SELECT description FROM pg_description".to_owned(),
        "SELECT description FROM pg_shdescription".to_owned(),
        "SELECT application_name || coalesce(query, '') FROM pg_stat_activity".to_owned(),
    ];
    let mut told = String::new();
    for query in rows.chain(comments) {
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&rig.pool).await.unwrap();
        told += &rows.join("\n");
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_is_told_after_a_chaotic_run() {
    let options = SandboxOptions {
        team: team(1_000),
        live_rate: 5.0,
        fault_probability: 0.02,
        ..SandboxOptions::default()
    };
    let rig = Rig::with(options)
        .await
        .in_small_pages()
        .set("RUST_LOG", "trace")
        .set("HEYMARKET_SYNC__API__TIMEOUT", "2s");
    // Rows that cannot be read, whole or in part, with what they hold.
    let messages = rig.source().messages();
    for (id, row) in messages.iter().filter(|(_, row)| row.text.len() > 20).take(3) {
        let raw = format!(
            r#"{{"id":{id},"date":"never","updated":true,"text":"{0}","target":"{1}","user":"{0}"}}"#,
            row.text.escape_default(),
            row.target
        );
        rig.source().set_raw(heymarket_sync::sandbox::Endpoint::Messages, *id, Some(raw.into()));
    }
    let mut told = String::new();
    for nth in [2, 5] {
        told += &rig.start_armed("before-commit", nth).ended(EQUAL).await.output();
        rig.end_lease().await;
    }

    let daemon = rig.start(&["run"]);
    let pages = rig.pages() + 20;
    reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
    for fault in [Fault::Html, Fault::NoBody, Fault::Truncated, Fault::Reset] {
        rig.source().push_fault(fault);
    }
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'heymarket-sync' AND datname = current_database()")
        .execute(&rig.pool)
        .await
        .unwrap();
    // A value that PostgreSQL refuses is quoted in what it says.
    sqlx::raw_sql("ALTER TABLE heymarket.messages ADD CONSTRAINT never CHECK (text IS NULL) NOT VALID")
        .execute(&rig.pool)
        .await
        .unwrap();
    for _ in 0..20 {
        rig.source().apply_event(rig.source().now());
    }
    reached("a refused row", EQUAL, async || daemon.log().contains("violates check constraint"))
        .await
        .unwrap();
    told += &told_by(&daemon).await;
    sqlx::raw_sql("ALTER TABLE heymarket.messages DROP CONSTRAINT never").execute(&rig.pool).await.unwrap();
    ready(&daemon, &["ready, leading"], EQUAL * 3).await;
    let accepted = rig.source().credentials();
    rig.source().set_credentials(SandboxCredentials::secret("another", "pair"));
    ready(&daemon, &["the API refused the credentials"], EQUAL * 3).await;
    told += &told_by(&daemon).await;
    for verb in ["status", "check", "config"] {
        told += &rig.verb(&[verb]).await.output();
    }
    rig.source().set_credentials(accepted);
    rig.source().set_fault_probability(0.0);
    ready(&daemon, &["ready, leading\n"], EQUAL * 3).await;
    told += &told_by(&daemon).await;
    daemon.signal(rustix::process::Signal::TERM);
    let ended = daemon.ended(VERB).await;
    assert!(ended.stderr.contains("\"level\":\"TRACE\""), "the log is not detailed");
    told += &ended.output();
    told += &told_by_the_database(&rig).await;
    assert_hidden(&told);
    assert_private(&told, rig.source());
}
