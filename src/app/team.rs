//! Whether the API key belongs to the team that the database mirrors.

use std::fmt;

use tokio_util::sync::CancellationToken;

use crate::api::client::{Client, TeamAnswer, TeamSource};
use crate::api::error::ApiError;
use crate::store::BoundTeam;
use crate::telemetry;

/// Which endpoints are asked, in this order, until their answers decide.
const ASKED: [TeamSource; 4] = [TeamSource::Team, TeamSource::Inboxes, TeamSource::Team, TeamSource::Inboxes];
/// Answers that have to agree before a database is bound, or a key refused.
const AGREEING: usize = 2;

/// A team, as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Team {
    pub id: i64,
    pub name: Option<String>,
}

impl fmt::Display for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "team {} ({name:?})", self.id),
            None => write!(f, "team {}", self.id),
        }
    }
}

impl From<&BoundTeam> for Team {
    fn from(bound: &BoundTeam) -> Self {
        Self { id: bound.id, name: bound.name.clone() }
    }
}

/// The key belongs to another team than the mirror.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OtherTeam {
    #[error(
        "the API key belongs to {key}, but this database mirrors {held}; use a key of team {}, or another database \
         for team {}", .held.id, .key.id
    )]
    Bound { held: Team, key: Team },
    #[error(
        "the API key belongs to {key}, but the contacts in this database belong to {}; use a key of theirs, or \
         another database for team {1}. If both are the same team, bind the database to it: INSERT INTO \
         heymarket_sync.team (id, source) VALUES ({1}, 'by hand')", listed(.contacts), .key.id
    )]
    Contacts { contacts: Vec<i64>, key: Team },
}

/// What follows from the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They do not decide yet.
    Ask,
    /// The key is the mirror's.
    Confirmed(Team),
    /// The database is to be bound to this team.
    Bind(Team),
    /// Nothing speaks against the key, and nothing for it.
    Unproved(String),
    /// The answers contradict the mirror's team, and each other.
    Undecided(String),
    Refused(OtherTeam),
}

/// What was asked with one secret, and answered.
#[derive(Clone, Debug, Default)]
pub struct Inquiry {
    secret: u64,
    asked: usize,
    answers: Vec<TeamAnswer>,
    silent: Vec<(TeamSource, String)>,
}

impl Inquiry {
    pub fn of_secret(secret: u64) -> Self {
        Self { secret, ..Self::default() }
    }

    /// See [`Client::secret`].
    pub fn secret(&self) -> u64 {
        self.secret
    }

    /// The endpoint that named `team` first.
    pub fn source_of(&self, team: i64) -> Option<TeamSource> {
        self.answers.iter().find(|answer| answer.id == team).map(|answer| answer.source)
    }

    /// Asks until the answers decide, at most four times. `bound`: the team that the database is bound to;
    /// `contacts`: the teams of the contacts in it.
    ///
    /// # Errors
    /// See [`Client::team_answer`].
    pub async fn decide(
        &mut self,
        client: &Client,
        bound: Option<&BoundTeam>,
        contacts: &[i64],
        cancel: &CancellationToken,
    ) -> Result<Verdict, ApiError> {
        loop {
            let next = self.next();
            let verdict = judge(bound, contacts, &self.answers, &self.silent, next.is_some());
            let Some(source) = next.filter(|_| verdict == Verdict::Ask) else { return Ok(verdict) };
            self.asked += 1;
            match client.team_answer(source, cancel).await? {
                Ok(answer) => {
                    if answer.secret != self.secret {
                        *self = Self::of_secret(answer.secret);
                    }
                    self.answers.push(answer);
                }
                Err(error) => self.silent.push((source, telemetry::chain(&error))),
            }
        }
    }

    fn next(&self) -> Option<TeamSource> {
        let is_silent = |source: &TeamSource| self.silent.iter().any(|(silent, _)| silent == source);
        ASKED.iter().skip(self.asked).copied().find(|source| !is_silent(source))
    }
}

/// `may_ask`: another answer may still come.
fn judge(
    bound: Option<&BoundTeam>,
    contacts: &[i64],
    answers: &[TeamAnswer],
    silent: &[(TeamSource, String)],
    may_ask: bool,
) -> Verdict {
    if let Some(bound) = bound
        && answers.iter().any(|answer| answer.id == bound.id)
    {
        let named = named(bound.id, answers);
        return Verdict::Confirmed(Team { name: named.name.or_else(|| bound.name.clone()), ..named });
    }
    let agrees = |team: i64| answers.iter().filter(|answer| answer.id == team).count() >= AGREEING;
    match (bound, answers.iter().map(|answer| answer.id).find(|team| agrees(*team))) {
        (Some(bound), Some(key)) => {
            Verdict::Refused(OtherTeam::Bound { held: bound.into(), key: named(key, answers) })
        }
        (None, Some(key)) if contacts.iter().all(|team| *team == key) => Verdict::Bind(named(key, answers)),
        (None, Some(key)) if contacts.contains(&key) => Verdict::Unproved(format!(
            "the API key belongs to {}, but the contacts in this database belong to {}",
            named(key, answers),
            listed(contacts)
        )),
        (None, Some(key)) => {
            Verdict::Refused(OtherTeam::Contacts { contacts: contacts.to_vec(), key: named(key, answers) })
        }
        (_, None) if may_ask => Verdict::Ask,
        (_, None) if answers.is_empty() => {
            let silent: Vec<_> = silent.iter().map(|(_, error)| error.as_str()).collect();
            Verdict::Unproved(format!(
                "the API does not say which team the key belongs to: {}",
                silent.join("; ")
            ))
        }
        (bound, None) => {
            let said: Vec<_> =
                answers.iter().map(|answer| format!("{} by {}", answer.id, answer.source.name())).collect();
            let said = format!("the API names the key's team as {}", said.join(", then "));
            match bound {
                Some(bound) => {
                    Verdict::Undecided(format!("{said}, but this database mirrors {}", Team::from(bound)))
                }
                None => Verdict::Unproved(format!("{said}, and no two answers agree")),
            }
        }
    }
}

fn named(id: i64, answers: &[TeamAnswer]) -> Team {
    let name = answers.iter().filter(|answer| answer.id == id).find_map(|answer| answer.name.clone());
    Team { id, name }
}

fn listed(teams: &[i64]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = teams.iter().take(SHOWN).map(|team| format!("team {team}")).collect();
    let rest = teams.len().saturating_sub(SHOWN);
    if rest > 0 { format!("{} and {rest} others", shown.join(", ")) } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: i64 = 7;
    const THEIRS: i64 = 8;

    fn says(source: TeamSource, id: i64) -> TeamAnswer {
        let name = (source == TeamSource::Team).then(|| format!("Team {id}"));
        TeamAnswer { source, id, name, secret: 1 }
    }

    fn bound() -> BoundTeam {
        let at = chrono::DateTime::UNIX_EPOCH;
        BoundTeam { id: OURS, name: Some("Ours".into()), source: "-".into(), bound_at: at, confirmed_at: at }
    }

    /// Whether bound, the contacts' teams, the answers, whether another may come, and what follows.
    type Case = (bool, &'static [i64], Vec<TeamAnswer>, bool, &'static str);

    /// What a verdict is, in a word.
    fn kind(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Ask => "ask",
            Verdict::Confirmed(_) => "confirmed",
            Verdict::Bind(_) => "bind",
            Verdict::Unproved(_) => "unproved",
            Verdict::Undecided(_) => "undecided",
            Verdict::Refused(OtherTeam::Bound { .. }) => "refused",
            Verdict::Refused(OtherTeam::Contacts { .. }) => "refused by contacts",
        }
    }

    #[test]
    fn two_answers_that_agree_bind_or_refuse_and_one_confirms() {
        let (team, inboxes) = (|id| says(TeamSource::Team, id), |id| says(TeamSource::Inboxes, id));
        let none: &'static [i64] = &[];
        let (is_bound, unbound) = (true, false);
        let cases: [Case; 27] = [
            // Bound: one answer confirms, whatever another says; two that agree refuse.
            (is_bound, none, vec![], true, "ask"),
            (is_bound, none, vec![team(OURS)], true, "confirmed"),
            (is_bound, none, vec![inboxes(OURS)], true, "confirmed"),
            (is_bound, none, vec![team(THEIRS)], true, "ask"),
            (is_bound, none, vec![team(THEIRS), inboxes(OURS)], true, "confirmed"),
            (is_bound, none, vec![team(THEIRS), inboxes(THEIRS)], true, "refused"),
            (is_bound, none, vec![team(THEIRS), team(THEIRS)], false, "refused"),
            (is_bound, none, vec![team(THEIRS), inboxes(9)], true, "ask"),
            (is_bound, none, vec![team(THEIRS), inboxes(9)], false, "undecided"),
            (is_bound, none, vec![team(THEIRS)], false, "undecided"),
            (is_bound, none, vec![team(9), inboxes(THEIRS), team(THEIRS)], false, "refused"),
            (is_bound, none, vec![], false, "unproved"),
            // What the contacts say does not matter once it is bound.
            (is_bound, &[THEIRS], vec![team(OURS)], true, "confirmed"),
            // Not bound: two that agree bind, unless the contacts disagree.
            (unbound, none, vec![], true, "ask"),
            (unbound, none, vec![team(OURS)], true, "ask"),
            (unbound, none, vec![team(OURS), inboxes(OURS)], true, "bind"),
            (unbound, none, vec![team(9), inboxes(OURS)], true, "ask"),
            (unbound, none, vec![team(9), inboxes(OURS), team(OURS)], true, "bind"),
            (unbound, none, vec![team(9), inboxes(OURS)], false, "unproved"),
            (unbound, none, vec![team(OURS)], false, "unproved"),
            (unbound, none, vec![], false, "unproved"),
            (unbound, &[OURS], vec![team(OURS), inboxes(OURS)], true, "bind"),
            (unbound, &[THEIRS], vec![team(OURS), inboxes(OURS)], true, "refused by contacts"),
            (unbound, &[THEIRS], vec![team(OURS)], true, "ask"),
            (unbound, &[THEIRS], vec![team(OURS)], false, "unproved"),
            (unbound, &[THEIRS, OURS], vec![team(OURS), inboxes(OURS)], true, "unproved"),
            (unbound, &[THEIRS, 9], vec![team(OURS), inboxes(OURS)], true, "refused by contacts"),
        ];
        for (is_bound, contacts, answers, may_ask, expected) in cases {
            let bound = is_bound.then(bound);
            let verdict = judge(bound.as_ref(), contacts, &answers, &[], may_ask);
            assert_eq!(kind(&verdict), expected, "{is_bound} {contacts:?} {answers:?} {may_ask}");
        }
    }

    #[test]
    fn a_refusal_names_both_teams_and_what_to_do() {
        let answers = [says(TeamSource::Team, THEIRS), says(TeamSource::Inboxes, THEIRS)];
        let refusal =
            |bound: Option<&BoundTeam>, contacts: &[i64]| match judge(bound, contacts, &answers, &[], true) {
                Verdict::Refused(other) => other.to_string(),
                verdict => panic!("{verdict:?}"),
            };
        assert_eq!(
            refusal(Some(&bound()), &[]),
            "the API key belongs to team 8 (\"Team 8\"), but this database mirrors team 7 (\"Ours\"); use a key of \
             team 7, or another database for team 8"
        );
        let by_contacts = refusal(None, &[1, 2, 3, 4, 5, 6, 7]);
        assert!(
            by_contacts.contains("belong to team 1, team 2, team 3, team 4, team 5 and 2 others;"),
            "{by_contacts}"
        );
        assert!(by_contacts.ends_with("(id, source) VALUES (8, 'by hand')"), "{by_contacts}");
    }

    #[test]
    fn silent_endpoints_are_not_asked_again() {
        let mut inquiry = Inquiry::of_secret(1);
        assert_eq!(inquiry.next(), Some(TeamSource::Team));
        inquiry.asked = 1;
        inquiry.silent.push((TeamSource::Team, String::new()));
        assert_eq!(inquiry.next(), Some(TeamSource::Inboxes));
        inquiry.asked = 2;
        assert_eq!(inquiry.next(), Some(TeamSource::Inboxes));
        inquiry.silent.push((TeamSource::Inboxes, String::new()));
        assert_eq!(inquiry.next(), None);
    }
}
