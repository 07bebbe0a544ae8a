//! Which team the secret belongs to, and which secret may read for the mirror.

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{
    Call, Client, Response,
    exchange::{Refusal, cancelled},
    integer, read_inbox, text,
};
use crate::api::{
    auth::CredentialsError,
    endpoints::Endpoint,
    error::{ApiError, ErrorKind},
    limiter::Priority,
};

/// An endpoint that names the team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeamSource {
    /// `GET /v1/team` \[V\]
    Team,
    /// The `team` that all of `GET /v1/inboxes` agree on \[V\]
    Inboxes,
}

impl TeamSource {
    /// Method and path.
    pub fn name(self) -> &'static str {
        self.endpoint().name()
    }

    fn endpoint(self) -> Endpoint {
        match self {
            Self::Team => Endpoint::Team,
            Self::Inboxes => Endpoint::Inboxes,
        }
    }

    fn read(self, body: &Value) -> Option<(i64, Option<String>)> {
        match self {
            Self::Team => {
                Some((integer(&body["id"])?, Some(text(&body["name"])).filter(|name| !name.is_empty())))
            }
            Self::Inboxes => {
                let mut inboxes = body.as_array()?.iter().map(read_inbox);
                let team = inboxes.next()??.team?;
                inboxes
                    .all(|inbox| inbox.is_some_and(|inbox| inbox.team == Some(team)))
                    .then_some((team, None))
            }
        }
    }
}

/// What an endpoint says of the team that a secret belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamAnswer {
    pub source: TeamSource,
    pub id: i64,
    pub name: Option<String>,
    /// Which secret was asked with; see [`Client::secret`].
    pub secret: u64,
}

/// Which secret requests for the mirror may be signed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nobody guards.
    #[default]
    Any,
    Only(Option<u64>),
}

impl Client {
    /// The number of the secret that the next request would be signed with: another one after each change of what
    /// the secret files hold.
    pub fn secret(&self) -> Result<u64, ApiError> {
        let unusable =
            |error: CredentialsError| ApiError::new(ErrorKind::Credentials, "setup").with_source(error);
        self.shared.auth.secret().map_err(unusable)
    }

    /// From now on only requests signed with this secret leave, and with `None` none; the others wait. Those that
    /// ask for the team, and probes, leave all the same.
    pub fn admit(&self, secret: Option<u64>) {
        self.shared.admission.send_replace(Admission::Only(secret));
    }

    /// Asks `source` which team the secret belongs to. `Ok(Err(_))`: it does not say.
    ///
    /// `GET /v1/team` is asked once: whether the API as a whole answers is found out by the other.
    ///
    /// # Errors
    /// Where the API cannot be read at all, for an impatient client; where cancelled.
    pub async fn team_answer(
        &self,
        source: TeamSource,
        cancel: &CancellationToken,
    ) -> Result<Result<TeamAnswer, ApiError>, ApiError> {
        let call = Call::new(source.endpoint()).unguarded();
        let asked = match source {
            TeamSource::Team => self.once(&call, cancel).await.map_err(|refusal: Refusal| refusal.error),
            TeamSource::Inboxes => self.send(&call, Priority::Tail, cancel).await,
        };
        match asked {
            Ok(response) => Ok(answer(source, &response)),
            Err(error) if error.is_outage() || error.kind() == ErrorKind::Cancelled => Err(error),
            Err(error) => Ok(Err(error)),
        }
    }

    pub(super) fn is_admitted(&self, secret: u64) -> bool {
        admits(*self.shared.admission.borrow(), secret)
    }

    /// Returns when `call` may leave, as far as its secret is concerned.
    pub(super) async fn pass_admission(
        &self,
        call: &Call,
        cancel: &CancellationToken,
    ) -> Result<(), ApiError> {
        if call.unguarded {
            return Ok(());
        }
        let mut admission = self.shared.admission.subscribe();
        // Without a readable secret nothing leaves anyway, and the error is told there.
        while let Ok(secret) = self.shared.auth.secret() {
            if admits(*admission.borrow_and_update(), secret) {
                break;
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(cancelled(call.endpoint)),
                // The sender lives as long as this.
                _ = admission.changed() => {}
            }
        }
        Ok(())
    }
}

fn admits(admission: Admission, secret: u64) -> bool {
    match admission {
        Admission::Any => true,
        Admission::Only(admitted) => admitted == Some(secret),
    }
}

fn answer(source: TeamSource, response: &Response) -> Result<TeamAnswer, ApiError> {
    let said = serde_json::from_slice(&response.body).ok().and_then(|body| source.read(&body));
    match said {
        Some((id, name)) => Ok(TeamAnswer { source, id, name, secret: response.secret }),
        None => Err(ApiError::new(ErrorKind::NotJson, source.name())
            .with_response(200, response.request_id.clone())
            .with_attempts(response.attempts)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_each_endpoint_says_of_the_team() {
        let name = |name: &str| Some(name.to_owned());
        let cases = [
            (TeamSource::Team, json!({"id": 7, "name": "Ours", "members": []}), Some((7, name("Ours")))),
            (TeamSource::Team, json!({"id": "7", "name": ""}), Some((7, None))),
            (TeamSource::Team, json!({"name": "Ours"}), None),
            (TeamSource::Inboxes, json!([{"id": 1, "team": 7}, {"id": 2, "team": "7"}]), Some((7, None))),
            (TeamSource::Inboxes, json!([{"id": 1, "team": 7}, {"id": 2, "team": 8}]), None),
            (TeamSource::Inboxes, json!([{"id": 1, "team": 7}, {"id": 2}]), None),
            (TeamSource::Inboxes, json!([{"id": 1}]), None),
            (TeamSource::Inboxes, json!([]), None),
            (TeamSource::Inboxes, json!(null), None),
        ];
        for (source, body, said) in cases {
            assert_eq!(source.read(&body), said, "{source:?} {body}");
        }
    }
}
