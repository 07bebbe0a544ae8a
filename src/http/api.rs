//! What `/status` tells of the API.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::api::availability;
use crate::telemetry;

#[derive(Clone, Debug, Serialize)]
pub struct ApiReport {
    pub state: State,
    /// Since when it has answered nothing but 429.
    pub limited_since: Option<DateTime<Utc>>,
    /// The whole API's first, then those of single endpoints.
    pub outages: Vec<OutageReport>,
    /// The one that ended last, since this process began.
    pub last_outage: Option<EndedReport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Connected,
    /// A probe is under way: in an outage, or because one is suspected.
    Probing,
    Interrupted,
}

#[derive(Clone, Debug, Serialize)]
pub struct OutageReport {
    /// `the API`, or the endpoint that fails while others work.
    pub of: &'static str,
    pub since: DateTime<Utc>,
    /// The request that failed last.
    pub endpoint: &'static str,
    pub request_id: Option<String>,
    pub error: String,
    pub probes: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct EndedReport {
    pub of: &'static str,
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
    pub seconds: f64,
}

impl From<availability::Report> for ApiReport {
    fn from(report: availability::Report) -> Self {
        let probing = report.suspected || report.outages.iter().any(|outage| outage.probing);
        let state = match report.outages.is_empty() {
            _ if probing => State::Probing,
            true => State::Connected,
            false => State::Interrupted,
        };
        let outages = report.outages.iter().map(|outage| OutageReport {
            of: outage.scope.name(),
            since: outage.since,
            endpoint: outage.error.endpoint(),
            request_id: outage.error.request_id().map(str::to_owned),
            error: telemetry::chain(&outage.error),
            probes: outage.probes,
        });
        Self {
            state,
            limited_since: report.limited_since,
            outages: outages.collect(),
            last_outage: report.last_ended.map(|ended| EndedReport {
                of: ended.scope.name(),
                since: ended.since,
                until: ended.until,
                seconds: ended.lasted().as_secs_f64(),
            }),
        }
    }
}
