//! What a database role needs, and what is said of one that lacks it. Each on a server of its own: roles belong to the
//! whole server.

use heymarket_sync::sandbox::SandboxOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};

use super::support::process::Ended;
use super::support::server::TestServer;
use super::{DATABASE_PASSWORD, Rig, VERB, assert_equals, team};

/// The blocks of SQL in the README's section on roles.
fn sql_of_the_readme() -> [String; 2] {
    let readme = include_str!("../../README.md");
    let section = readme.split("\n## Roles\n").nth(1).expect("a section on roles");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut blocks =
        section.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    let found = [blocks.next().unwrap(), blocks.next().unwrap()];
    assert_eq!(blocks.next(), None, "another block of SQL");
    found
}

struct Roles {
    server: TestServer,
    rig: Rig,
}

impl Roles {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let options = SandboxOptions { team: team(300), ..SandboxOptions::default() };
        let rig = Rig::on(server.database(), options).await;
        Self { server, rig }
    }

    async fn connect(&self, role: &str, password: &str) -> PgConnection {
        let options: PgConnectOptions = self.server.database().url().parse().unwrap();
        options.username(role).password(password).connect().await.unwrap()
    }

    async fn run_as(&self, role: &str, password: &str, sql: &str) -> Result<(), sqlx::Error> {
        let mut session = self.connect(role, password).await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.map(drop)
    }

    async fn verb(&self, role: &str, password: &str, arguments: &[&str]) -> Ended {
        let mut url = reqwest::Url::parse(self.server.database().url()).unwrap();
        url.set_username(role).unwrap();
        url.set_password(Some(password)).unwrap();
        let mut environment = self.rig.environment.clone();
        environment.retain(|(name, _)| name != "DATABASE_URL");
        environment.push(("DATABASE_URL".to_owned(), url.into()));
        super::support::process::Process::start(arguments, &environment).ended(VERB).await
    }

    async fn end(self) {
        self.rig.pool.close().await;
        self.server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_roles_migrate_mirror_and_read_and_no_more() {
    let roles = Roles::new().await;
    let [as_administrator, as_owner] = sql_of_the_readme();
    roles.server.run(as_administrator.trim().trim_end_matches(';')).await;
    let (owner, daemon, reader) = (
        ("heymarket_owner", "choose-one"),
        ("heymarket_daemon", "choose-another"),
        ("heymarket_reader", "choose-a-third"),
    );
    let ended = roles.verb(owner.0, owner.1, &["migrate"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    // Without the grants: one error that says which, and no loop.
    for verb in [&["sync"][..], &["run"], &["backfill", "--stream", "contacts"]] {
        let ended = roles.verb(daemon.0, daemon.1, verb).await;
        assert_eq!(ended.code(), Some(1), "{verb:?}: {}", ended.output());
        let told = "GRANT USAGE ON SCHEMA heymarket, heymarket_sync TO heymarket_daemon;";
        assert!(ended.stderr.contains(told), "{verb:?}: {}", ended.stderr);
    }
    roles.run_as(owner.0, owner.1, &as_owner).await.unwrap();
    let ended = roles.verb(daemon.0, daemon.1, &["check"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.output());
    assert!(ended.stdout.contains("ok    schema: current; role heymarket_daemon may"), "{}", ended.stdout);
    for verb in [&["sync"][..], &["backfill", "--stream", "contacts"], &["rejects", "retry"], &["status"]] {
        let ended = roles.verb(daemon.0, daemon.1, verb).await;
        assert_eq!(ended.code(), Some(0), "{verb:?}: {}", ended.output());
    }
    assert_equals(roles.rig.source(), &roles.rig.pool).await;
    for statement in
        ["CREATE TABLE heymarket.mine (id int)", "DROP TABLE heymarket.messages", "CREATE SCHEMA mine"]
    {
        assert!(roles.run_as(daemon.0, daemon.1, statement).await.is_err(), "the daemon may {statement}");
    }
    // The owner's later tables are the daemon's and the reader's, too.
    roles.run_as(owner.0, owner.1, "CREATE TABLE heymarket.later (id int)").await.unwrap();
    roles.run_as(daemon.0, daemon.1, "INSERT INTO heymarket.later VALUES (1)").await.unwrap();
    for table in ["messages", "conversations", "conversation_members", "contacts", "contact_notes", "later"] {
        roles.run_as(reader.0, reader.1, &format!("SELECT * FROM heymarket.{table}")).await.unwrap();
        let write = format!("DELETE FROM heymarket.{table}");
        assert!(roles.run_as(reader.0, reader.1, &write).await.is_err(), "the reader may {write}");
    }
    assert!(roles.run_as(reader.0, reader.1, "SELECT * FROM heymarket_sync.lease").await.is_err());
    roles.run_as(owner.0, owner.1, "DROP TABLE heymarket.later").await.unwrap();
    roles.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_proves_what_a_role_may_do_and_a_start_says_what_to_grant() {
    let roles = Roles::new().await;
    let admin = roles.verb("postgres", DATABASE_PASSWORD, &["sync"]).await;
    assert_eq!(admin.code(), Some(0), "{}", admin.output());
    let (role, password) = ("limited", "p-4471");
    roles.server.run(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'")).await;
    let all = "GRANT USAGE ON SCHEMA heymarket, heymarket_sync TO limited; \
               GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA heymarket, heymarket_sync TO limited";
    let cases = [
        // A role that only reads.
        (
            "REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA heymarket, heymarket_sync FROM limited",
            "INSERT",
        ),
        ("REVOKE DELETE ON heymarket.contact_notes FROM limited", "DELETE on heymarket.contact_notes"),
        ("REVOKE USAGE ON SCHEMA heymarket FROM limited", "may not use schema heymarket"),
        (
            "ALTER TABLE heymarket.messages ENABLE ROW LEVEL SECURITY",
            "does not see all rows of heymarket.messages",
        ),
    ];
    for (takes_away, told) in cases {
        roles.server.run(all).await;
        roles.server.run(takes_away).await;
        let check = roles.verb(role, password, &["check"]).await;
        assert_eq!(check.code(), Some(1), "{takes_away}: {}", check.output());
        let verdict =
            check.stdout.lines().find(|line| line.starts_with("FAIL  rights: ")).unwrap_or_default();
        assert!(verdict.contains(told), "{takes_away}: {}", check.stdout);
        let grants = verdict.split("owner run: ").nth(1).expect("what to run");
        for verb in ["sync", "run"] {
            let ended = roles.verb(role, password, &[verb]).await;
            assert_eq!(ended.code(), Some(1), "{takes_away}: {}", ended.output());
            assert!(ended.stderr.contains(told) && ended.stderr.contains(grants), "{}", ended.stderr);
        }
        // What it says to run is what helps.
        roles.server.run(grants.trim_end_matches(';')).await;
        let ended = roles.verb(role, password, &["sync"]).await;
        assert_eq!(ended.code(), Some(0), "{takes_away}: {}", ended.output());
    }
    // Migrations are the owner's.
    roles.server.run("DELETE FROM heymarket_sync._migrations WHERE version = 13").await;
    let ended = roles.verb(role, password, &["sync"]).await;
    assert_eq!(ended.code(), Some(1), "{}", ended.output());
    assert!(ended.stderr.contains("run `heymarket-sync migrate` as postgres"), "{}", ended.stderr);
    roles.end().await;
}
