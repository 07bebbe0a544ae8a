//! One team per database: a key of another team is refused, at the start and while the daemon runs.

use std::fs;
use std::time::Duration;

use heymarket_sync::sandbox::{
    Endpoint, Fault, SandboxCredentials, SandboxOptions, SandboxState, TEAM_ID, TeamOptions,
};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use super::support::process::Process;
use super::{EQUAL, Rig, SECRET_KEY, assert_equals, reached, ready, team};

const OTHER_ID: &str = "id-of-the-others";
const OTHER_KEY: &str = "key-of-the-others";
const OTHER_TEAM: i64 = 9_002;
/// How long the guard may take to notice a changed key: it looks each second.
const NOTICED: Duration = Duration::from_secs(15);

/// A second team behind the same server, with rows of its own under the same ids.
fn other_team(rig: &Rig) -> SandboxState {
    let other = SandboxState::generate(&SandboxOptions {
        team: TeamOptions { id: OTHER_TEAM, seed: 77, ..team(600) },
        credentials: SandboxCredentials::secret(OTHER_ID, OTHER_KEY),
        ..SandboxOptions::default()
    });
    rig.source().set_other_team(other.clone());
    other
}

/// The key in files, which may be swapped.
struct Key {
    folder: TempDir,
}

impl Key {
    fn new() -> Self {
        let key = Self { folder: tempfile::tempdir().unwrap() };
        key.ours();
        key
    }

    fn put(&self, id: &str, key: &str) {
        fs::write(self.folder.path().join("id"), id).unwrap();
        fs::write(self.folder.path().join("key"), key).unwrap();
    }

    fn ours(&self) {
        self.put(super::SECRET_ID, SECRET_KEY);
    }

    fn theirs(&self) {
        self.put(OTHER_ID, OTHER_KEY);
    }

    fn of(&self, rig: Rig) -> Rig {
        let path = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        rig.set("HEYMARKET_API_SECRET_ID", "")
            .set("HEYMARKET_API_SECRET_KEY", "")
            .set("HEYMARKET_API_SECRET_ID_FILE", &path("id"))
            .set("HEYMARKET_API_SECRET_KEY_FILE", &path("key"))
    }
}

/// The team that the database is bound to, and its name.
async fn bound(rig: &Rig) -> Option<(i64, Option<String>)> {
    sqlx::query_as("SELECT id, name FROM heymarket_sync.team").fetch_optional(&rig.pool).await.unwrap()
}

/// When each row of the mirror was written.
async fn written(rig: &Rig) -> Vec<String> {
    let tables = ["messages", "conversations", "contacts"];
    let rows = tables.map(|table| format!("SELECT '{table}', id, _synced_at FROM heymarket.{table}"));
    let sql = format!("SELECT row::text FROM ({}) row ORDER BY 1", rows.join(" UNION ALL "));
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&rig.pool).await.unwrap()
}

fn assert_names_both(text: &str) {
    for told in [&format!("team {TEAM_ID}"), &format!("team {OTHER_TEAM}"), "use a key of team"] {
        assert!(text.contains(told), "{told:?} is not in {text}");
    }
}

/// The team endpoints' requests so far.
fn asked(source: &SandboxState) -> u64 {
    let counters = source.counters();
    counters.requests_to(Endpoint::Team) + counters.requests_to(Endpoint::Inboxes)
}

fn all_pages(source: &SandboxState) -> u64 {
    let counters = source.counters();
    [Endpoint::Messages, Endpoint::Conversations, Endpoint::Contacts]
        .iter()
        .map(|endpoint| counters.requests_to(*endpoint))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_another_team_is_refused_at_every_start_before_a_row_is_written() {
    let rig = Rig::new(600).await;
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    assert_eq!(bound(&rig).await, Some((TEAM_ID, Some("Sandbox Outfitters".to_owned()))));
    // The test of closed conversations asks for the inboxes, too.
    assert!(asked(rig.source()) <= 3, "asked {} times for the team", asked(rig.source()));
    let other = other_team(&rig);
    let before = written(&rig).await;
    let rig = rig.set("HEYMARKET_API_SECRET_ID", OTHER_ID).set("HEYMARKET_API_SECRET_KEY", OTHER_KEY);
    for verb in [&["sync"][..], &["run"], &["backfill", "--stream", "messages"]] {
        let ended = rig.verb(verb).await;
        assert_eq!(ended.code(), Some(2), "{verb:?}: {}", ended.output());
        let error = ended.stderr.lines().last().unwrap();
        assert_names_both(error);
        assert_eq!(ended.stderr.matches("error: ").count(), 1, "{verb:?}: {}", ended.stderr);
    }
    assert_eq!(written(&rig).await, before, "rows were written");
    assert_eq!(all_pages(&other), 0, "pages of the other team were read");
    assert!(asked(&other) <= 6, "asked {} times for the team in three starts", asked(&other));
    let ended = rig.verb(&["check"]).await;
    assert_eq!(ended.code(), Some(2), "{}", ended.output());
    assert_names_both(ended.stdout.lines().find(|line| line.starts_with("FAIL  team: ")).unwrap());

    let rig =
        rig.set("HEYMARKET_API_SECRET_ID", super::SECRET_ID).set("HEYMARKET_API_SECRET_KEY", SECRET_KEY);
    rig.source().reset_observations();
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    assert_eq!(asked(rig.source()), 1, "a bound team is asked for once");
    let ended = rig.verb(&["check"]).await;
    let told = format!("ok    team: team {TEAM_ID} (\"Sandbox Outfitters\"); the database mirrors it");
    assert!(ended.stdout.contains(&told), "{}", ended.stdout);
    let ended = rig.verb(&["status"]).await;
    assert!(ended.stdout.contains(&format!("team: {TEAM_ID} \"Sandbox Outfitters\"")), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_key_becomes_another_teams_reads_nothing_of_it_and_resumes_with_the_right_one() {
    let key = Key::new();
    let latency = Duration::from_millis(30);
    let options = SandboxOptions { team: team(20_000), latency, ..SandboxOptions::default() };
    let rig = key.of(Rig::with(options).await.in_small_pages());
    let other = other_team(&rig);
    let theirs: Vec<i64> = other.messages().keys().copied().collect();
    assert!(theirs.iter().any(|id| rig.source().messages().contains_key(id)), "no id in common");
    let daemon = rig.start(&["run"]);
    let pages = rig.pages() + 20;
    reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
    // In the middle of the fill: pages are under way, and others wait to be asked for.
    key.theirs();
    let refused = async || {
        let page = daemon.get("/readyz").await;
        page.status == 503 && page.body.contains(&format!("team {OTHER_TEAM}"))
    };
    reached("a refusal", NOTICED, refused).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    assert_names_both(&daemon.get("/readyz").await.body);
    assert_eq!(daemon.get("/healthz").await.status, 200);
    let status: Value = serde_json::from_str(&daemon.get("/status").await.body).unwrap();
    assert_names_both(status["key_refused"].as_str().unwrap());
    assert_eq!(status["team"]["id"], TEAM_ID);
    assert!(daemon.get("/metrics").await.body.contains("heymarket_sync_key_refused 1"));
    // The lead is free for whoever has the right key.
    let leader = async || {
        let leader: Value = serde_json::from_str(&daemon.get("/status").await.body).unwrap();
        leader["leader"].is_null()
    };
    reached("a free lead", NOTICED, leader).await.unwrap();
    assert_eq!(all_pages(&other), 0, "pages of the other team were read");
    assert_eq!(bound(&rig).await.map(|(id, _)| id), Some(TEAM_ID));
    rig.covered_is_held().await;

    key.ours();
    ready(&daemon, &["ready, leading"], NOTICED).await;
    rig.equal().await;
    rig.catches_up(daemon).await;
    let foreign: i64 = sqlx::query_scalar("SELECT count(*) FROM heymarket.contacts WHERE team_id <> $1")
        .bind(TEAM_ID)
        .fetch_one(&rig.pool)
        .await
        .unwrap();
    assert_eq!(foreign, 0);
    assert_eq!(all_pages(&other), 0, "pages of the other team were read");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_of_the_same_team_is_taken_up_without_a_pause() {
    let key = Key::new();
    let rig = key.of(Rig::new(600).await);
    let daemon = rig.start(&["run"]);
    rig.complete(&daemon).await;
    let mut both = rig.source().credentials();
    both.secrets.extend(SandboxCredentials::secret("second", "another key").secrets);
    rig.source().set_credentials(both);
    let before = asked(rig.source());
    key.put("second", "another key");
    reached("a look at the team", NOTICED, async || asked(rig.source()) > before).await.unwrap();
    super::traffic(rig.source());
    rig.catches_up(daemon).await;
    assert_eq!(asked(rig.source()), before + 1, "one answer confirms");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_answer_neither_refuses_nor_binds() {
    let lie = Fault::OtherTeam(OTHER_TEAM);
    let rig = Rig::new(200).await;
    // At the binding, and then at the next start.
    for start in ["first", "second"] {
        rig.source().push_fault_on(Endpoint::Team, lie);
        let ended = rig.verb(&["sync"]).await;
        assert_eq!(ended.code(), Some(0), "{start}: {}", ended.output());
        assert_eq!(rig.source().queued_faults(), 0, "{start}: the lie was not met");
        assert_eq!(bound(&rig).await.map(|(id, _)| id), Some(TEAM_ID), "{start}");
    }
    // An endpoint that goes on lying is outvoted by the other.
    rig.source().set_lasting_fault_on(Endpoint::Team, Some(lie));
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    // Nobody says the right one, and no two agree.
    rig.source().set_lasting_fault_on(Endpoint::Inboxes, Some(Fault::OtherTeam(6)));
    rig.source().set_lasting_fault_on(Endpoint::Team, Some(Fault::Status(403)));
    for lie in [lie, Fault::OtherTeam(5)] {
        rig.source().push_fault_on(Endpoint::Inboxes, lie);
    }
    let before = written(&rig).await;
    let ended = rig.verb(&["sync"]).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.output());
    assert!(ended.stderr.contains("names the key's team as 9002"), "{}", ended.stderr);
    assert_eq!(written(&rig).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_it_runs_unbound_and_says_so() {
    let unsaid = [
        (Fault::Status(403), Fault::Status(404)),
        (Fault::Object, Fault::EmptyArray),
        (Fault::Hang, Fault::Status(403)),
        (Fault::Status(500), Fault::Html),
    ];
    for (team_fault, inboxes_fault) in unsaid {
        // Whether closed conversations are listed cannot be tested without inboxes.
        let verb = ["sync", "--stream", "messages", "--stream", "contacts"];
        let rig = Rig::new(200).await.set("HEYMARKET_SYNC__API__TIMEOUT", "1s");
        rig.source().set_lasting_fault_on(Endpoint::Team, Some(team_fault));
        rig.source().set_lasting_fault_on(Endpoint::Inboxes, Some(inboxes_fault));
        let ended = rig.start(&verb).ended(Duration::from_secs(120)).await;
        assert_eq!(ended.code(), Some(0), "{team_fault:?}: {}", ended.output());
        assert!(ended.stderr.contains("the team of the API key is not known"), "{}", ended.stderr);
        assert_eq!(bound(&rig).await, None, "{team_fault:?}");
        let contacts = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM heymarket.contacts");
        assert_eq!(contacts.fetch_one(&rig.pool).await.unwrap(), 15, "{team_fault:?}");
        // One of them is enough.
        rig.source().set_lasting_fault_on(Endpoint::Inboxes, None);
        assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
        assert_eq!(bound(&rig).await, Some((TEAM_ID, None)), "{team_fault:?}");
        assert_equals(rig.source(), &rig.pool).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_binds_only_to_the_team_of_its_contacts() {
    let rig = Rig::new(400).await;
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    let unbind = async |teams: &str| {
        let sql = format!("DELETE FROM heymarket_sync.team; UPDATE heymarket.contacts SET team_id = {teams}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&rig.pool).await.unwrap();
    };
    // As before this table was there.
    unbind("team_id").await;
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    assert_eq!(bound(&rig).await.map(|(id, _)| id), Some(TEAM_ID));
    // Contacts without a team say nothing.
    unbind("CASE id % 3 WHEN 0 THEN NULL WHEN 1 THEN 0 ELSE team_id END").await;
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    assert_eq!(bound(&rig).await.map(|(id, _)| id), Some(TEAM_ID));
    // Contacts of another team alone: it is that team's mirror.
    unbind("9002").await;
    let before = written(&rig).await;
    let ended = rig.verb(&["sync"]).await;
    assert_eq!(ended.code(), Some(2), "{}", ended.output());
    assert_names_both(&ended.stderr.replace("a key of theirs", "a key of team"));
    assert_eq!((written(&rig).await, bound(&rig).await), (before, None));
    // Contacts of both: nobody can tell, so it is not bound.
    unbind(&format!("CASE id % 2 WHEN 0 THEN {TEAM_ID} ELSE 9002 END")).await;
    let ended = rig.verb(&["sync"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    assert!(ended.stderr.contains("the team of the API key is not known"), "{}", ended.stderr);
    assert_eq!(bound(&rig).await, None);
    // The way out that the refusal names.
    unbind("9002").await;
    let bind = format!("INSERT INTO heymarket_sync.team (id, source) VALUES ({TEAM_ID}, 'by hand')");
    sqlx::raw_sql(AssertSqlSafe(bind)).execute(&rig.pool).await.unwrap();
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_at_the_start_is_no_refusal_and_lets_nothing_through_unchecked() {
    let rig = Rig::new(200).await;
    assert_eq!(rig.verb(&["sync"]).await.code(), Some(0));
    let other = other_team(&rig);
    other.set_lasting_fault(Some(Fault::Status(503)));
    let key = Key::new();
    let rig = key.of(rig);
    let daemon = rig.start(&["run"]);
    daemon.logs("the API key belongs to the team of this database", EQUAL).await;
    key.theirs();
    // The outage of the other team's API is an outage, not an answer.
    ready(&daemon, &["cannot be read since"], NOTICED).await;
    other.set_lasting_fault(None);
    let refused = async || daemon.get("/readyz").await.status == 503;
    reached("a refusal", EQUAL, refused).await.unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    let rows = other.counters().rows;
    key.ours();
    ready(&daemon, &["ready, leading"], EQUAL).await;
    super::traffic(rig.source());
    rig.catches_up(daemon).await;
    assert_eq!(other.counters().rows, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_team_is_not_asked_for_again_when_the_database_ends_all_sessions() {
    let rig = Rig::new(200).await;
    let daemon: Process = rig.start(&["run"]);
    rig.complete(&daemon).await;
    let before = asked(rig.source());
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'heymarket-sync' AND datname = current_database()")
        .execute(&rig.pool)
        .await
        .unwrap();
    super::traffic(rig.source());
    ready(&daemon, &["ready, leading"], EQUAL).await;
    rig.equal().await;
    rig.catches_up(daemon).await;
    assert_eq!(asked(rig.source()), before, "what is known of the key needs no other request");
}
