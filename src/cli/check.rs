//! `heymarket-sync check`: one verdict a line, and what to do.

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use crate::api::client::Client;
use crate::api::limiter::Priority;
use crate::api::model::Stream;
use crate::app::App;
use crate::app::team::{Inquiry, Verdict};
use crate::config::Settings;
use crate::store::{Rights, SchemaState, Store};
use crate::sync::detect::{Answer, Finding, Probe};
use crate::sync::ids::Ids;
use crate::telemetry;

use super::CliError;

/// A clock that is off by more than this is worth mending; the daemon corrects for it.
const SKEW_WORTH_TELLING: TimeDelta = TimeDelta::seconds(5);

#[derive(Default)]
struct Verdicts {
    given: usize,
    failed: usize,
    /// The key is another team's: wrong configuration.
    other_team: bool,
}

impl Verdicts {
    fn good(&mut self, what: &str, detail: &str) {
        self.given += 1;
        println!("ok    {what}: {detail}");
    }

    fn doubtful(&mut self, what: &str, detail: &str) {
        self.given += 1;
        println!("warn  {what}: {detail}");
    }

    fn bad(&mut self, what: &str, detail: &str) {
        self.given += 1;
        self.failed += 1;
        println!("FAIL  {what}: {detail}");
    }
}

pub async fn run(settings: Settings, cancel: CancellationToken) -> Result<(), CliError> {
    let mut verdicts = Verdicts::default();
    verdicts.good("configuration", "valid; `heymarket-sync config` shows it");
    if let Some(host) = settings.api.unencrypted_host() {
        let told =
            format!("plain http to {host}: texts, phone numbers and tokens are not encrypted; use https");
        verdicts.doubtful("encryption", &told);
    }
    let credentials = settings.api.require_credentials().map(|_| ());
    let api = settings.api.clone();
    let app = match App::open(settings, "check", &cancel).await {
        Ok(app) => Some(app),
        Err(error) => {
            verdicts.bad("database", &telemetry::chain(&error));
            None
        }
    };
    if let Some(app) = &app {
        database(app, &mut verdicts).await;
    }
    let usable = credentials.is_ok();
    if let Err(error) = &credentials {
        verdicts.bad("credentials", &error.to_string());
    } else {
        api_answers(&api, app.as_ref().map(|app| &app.store), &mut verdicts, &cancel).await;
    }
    if let Some(app) = app {
        app.close().await;
    }
    match verdicts.failed {
        0 => Ok(()),
        // A missing credential is wrong configuration, and says so by its status.
        _ if !usable => {
            Err(credentials.err().map_or_else(|| CliError::Failed(String::new()), CliError::Config))
        }
        failed if verdicts.other_team => {
            Err(CliError::Usage(format!("{failed} of {} checks failed", verdicts.given)))
        }
        failed => Err(CliError::Failed(format!("{failed} of {} checks failed", verdicts.given))),
    }
}

async fn database(app: &App, verdicts: &mut Verdicts) {
    let server = match app.store.check_server().await {
        Ok(server) => server,
        Err(error) => return verdicts.bad("database", &telemetry::chain(&error)),
    };
    let version = format!("PostgreSQL {}", server.version);
    if server.in_recovery {
        return verdicts
            .bad("database", &format!("{version}, a standby that takes no writes; name the primary"));
    }
    if server.read_only {
        return verdicts.bad(
            "database",
            &format!(
                "{version}, where this role writes nothing: default_transaction_read_only is on for the server, the \
                 database or the role (ALTER ROLE or ALTER DATABASE ... RESET default_transaction_read_only)"
            ),
        );
    }
    verdicts.good("database", &version);
    let rights = match app.store.rights().await {
        Ok(rights) => rights,
        Err(error) => return verdicts.bad("rights", &telemetry::chain(&error)),
    };
    if !rights.schemas.is_empty() {
        return verdicts.bad("rights", &lacking(&rights));
    }
    match app.store.schema_state().await {
        Ok(SchemaState::Current) if !rights.suffice() => verdicts.bad("rights", &lacking(&rights)),
        Ok(SchemaState::Current) => {
            verdicts.good("schema", &format!("current; role {} may read and write all tables", rights.role));
        }
        Ok(SchemaState::Newer(_)) => {
            verdicts
                .bad("schema", "newer than this program; run the version that applied it, or a later one");
        }
        Ok(SchemaState::Pending(_)) if !rights.can_migrate => verdicts.bad(
            "schema",
            &format!(
                "to be brought up to date, and this role may not do that; run `heymarket-sync migrate` as {}",
                rights.owner.as_deref().unwrap_or("its owner")
            ),
        ),
        Ok(SchemaState::Empty) if !server.can_create => verdicts.bad(
            "schema",
            "to be applied, and this role may not create schemas; run `heymarket-sync migrate` with one that may, \
             or GRANT CREATE ON DATABASE to this one",
        ),
        Ok(_) => verdicts.good("schema", "to be applied; `run`, `sync` and `migrate` do it"),
        Err(error) => verdicts.bad("schema", &telemetry::chain(&error)),
    }
}

fn lacking(rights: &Rights) -> String {
    format!("{rights}; let the schema's owner run: {}", rights.grants())
}

/// Asks the API with the credentials; then its clock, and how it reads what its documentation leaves open.
async fn api_answers(
    api: &crate::config::Api,
    store: Option<&Store>,
    verdicts: &mut Verdicts,
    cancel: &CancellationToken,
) {
    let client = match Client::new(api) {
        Ok(client) => client,
        Err(error) => return verdicts.bad("credentials", &telemetry::chain(&error)),
    };
    match client.inboxes(Priority::Tail, cancel).await {
        Ok(inboxes) => verdicts.good("credentials", &format!("accepted; {} inboxes", inboxes.len())),
        Err(error) => return verdicts.bad("credentials", &telemetry::chain(&error)),
    }
    team(&client, store, verdicts, cancel).await;
    let skew = client.skew().unwrap_or_default();
    if skew.abs() > SKEW_WORTH_TELLING {
        let seconds = skew.num_seconds();
        verdicts.good("clock", &format!("{seconds} s from the API's, which is corrected for; set it right"));
    } else {
        verdicts.good("clock", "agrees with the API's");
    }
    let probe = Probe { client: &client, limit: api.page_size, cancel, ids: &Ids::default() };
    for stream in Stream::ALL {
        match probe.survey(stream).await {
            Ok(survey) => survey.findings.iter().for_each(|finding| reading(stream, finding, verdicts)),
            Err(error) => verdicts.bad(stream.name(), &telemetry::chain(&error)),
        }
    }
}

/// Whose key it is, and whether the database is theirs; binds nothing.
async fn team(client: &Client, store: Option<&Store>, verdicts: &mut Verdicts, cancel: &CancellationToken) {
    // A database that cannot be asked, or holds nothing yet, has its own verdict.
    let (mut bound, mut contacts) = (None, Vec::new());
    if let Some(store) = store
        && store.schema_state().await.is_ok_and(|state| state == SchemaState::Current)
    {
        bound = store.team().await.ok().flatten();
        contacts = store.contacts_teams().await.unwrap_or_default();
    }
    match Inquiry::default().decide(client, bound.as_ref(), &contacts, cancel).await {
        Ok(Verdict::Confirmed(team)) => verdicts.good("team", &format!("{team}; the database mirrors it")),
        Ok(Verdict::Bind(team)) => {
            verdicts.good("team", &format!("{team}; the first `run` or `sync` binds the database to it"));
        }
        Ok(Verdict::Refused(other)) => {
            verdicts.other_team = true;
            verdicts.bad("team", &other.to_string());
        }
        Ok(Verdict::Undecided(reason)) => verdicts.bad("team", &reason),
        Ok(Verdict::Unproved(reason)) => verdicts.doubtful(
            "team",
            &format!("not known, so a key of another team would not be noticed ({reason})"),
        ),
        Ok(Verdict::Ask) => {}
        Err(error) => verdicts.bad("team", &telemetry::chain(&error)),
    }
}

fn reading(stream: Stream, finding: &Finding, verdicts: &mut Verdicts) {
    let what = format!("{stream}, {}", finding.question);
    let detail = format!("{} ({})", finding.answer, finding.evidence);
    match finding.answer {
        Answer::NoField => verdicts.bad(
            &what,
            &format!(
                "{detail}; only the newest page can be mirrored: ask the API's support which field it reads"
            ),
        ),
        _ => verdicts.good(&what, &detail),
    }
}
