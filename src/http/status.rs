//! What `/status` and `heymarket-sync status` tell; made from the database alone.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::store::{BoundTeam, STANDING, Store, StoreError, covered_to};

use super::ApiReport;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub now: DateTime<Utc>,
    pub leader: Option<Leader>,
    /// The team that the database mirrors; null before it is bound to one.
    pub team: Option<TeamReport>,
    /// Why nothing is read with the daemon's API key; only a running daemon knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_refused: Option<String>,
    /// Whether the API answers; only a daemon that leads knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiReport>,
    pub database_bytes: i64,
    pub streams: Vec<StreamReport>,
    pub readings: Vec<ReadingReport>,
    pub runs: Vec<RunReport>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Leader {
    pub holder: String,
    pub since: DateTime<Utc>,
}

#[derive(Clone, Debug, Serialize)]
pub struct TeamReport {
    pub id: i64,
    pub name: Option<String>,
    /// The endpoint that named it last.
    pub source: String,
    pub bound_at: DateTime<Utc>,
    /// When the API key was last found to be the team's.
    pub confirmed_at: DateTime<Utc>,
}

impl From<BoundTeam> for TeamReport {
    fn from(bound: BoundTeam) -> Self {
        let BoundTeam { id, name, source, bound_at, confirmed_at } = bound;
        Self { id, name, source, bound_at, confirmed_at }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct StreamReport {
    pub stream: String,
    pub estimated_rows: i64,
    pub newest: Option<DateTime<Utc>>,
    pub open_rejects: u64,
    /// Rows that turned up where all rows were proved to be held, and whose place was not read again since.
    pub open_contradictions: u64,
    /// Since the time up to which all its lines are held without a gap; absent until they are.
    pub lag_seconds: Option<f64>,
    pub last_error: Option<ErrorReport>,
    pub lines: Vec<LineReport>,
}

/// How a run of a stream failed last.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorReport {
    pub pass: String,
    pub at: DateTime<Utc>,
    pub error: String,
    /// A later run of the same pass has read pages, or is done.
    pub over: bool,
}

/// One time line in one pass.
#[derive(Clone, Debug, Serialize)]
pub struct LineReport {
    pub line: String,
    pub pass: String,
    pub started_at: DateTime<Utc>,
    pub wanted_from: Option<DateTime<Utc>>,
    /// How far behind the line's top is.
    pub behind_seconds: Option<f64>,
    /// Held intervals, newest first; a `from` of null is the beginning of history.
    pub held: Vec<Held>,
    /// All that is wanted up to here is held; absent while the oldest is not.
    pub covered_to: Option<DateTime<Utc>>,
    /// Stretches below the top that are still to be read.
    pub gaps: usize,
    /// Nothing wanted below the top is missing.
    pub complete: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Held {
    pub from: Option<DateTime<Utc>>,
    pub to: DateTime<Utc>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ReadingReport {
    pub stream: String,
    pub question: String,
    pub answer: String,
    pub evidence: String,
    pub decided_at: DateTime<Utc>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    pub stream: String,
    pub pass: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub outcome: Option<String>,
    pub requests: i64,
    pub rows_read: i64,
    pub rows_written: i64,
    pub rejected: i64,
}

impl Report {
    /// Reads it from the database.
    pub async fn read(store: &Store) -> Result<Self, StoreError> {
        let status = store.status().await?;
        let lines = |stream| {
            let of_stream = status.coverage.iter().filter(move |(key, _)| key.stream == stream);
            of_stream
                .map(|(key, state)| {
                    let held: Vec<_> = state
                        .covered
                        .iter()
                        .map(|interval| Held { from: interval.start(), to: interval.end() })
                        .collect();
                    let reach = state.reach();
                    let top = held.first().map(|held| (status.now - held.to).as_seconds_f64());
                    LineReport {
                        line: key.line.clone(),
                        pass: key.pass.clone(),
                        started_at: state.started_at,
                        wanted_from: state.wanted_from,
                        behind_seconds: top.filter(|_| key.pass == STANDING),
                        held,
                        covered_to: reach.covered_to,
                        gaps: reach.gaps,
                        complete: reach.complete,
                    }
                })
                .collect()
        };
        let lag = |stream| {
            let standing =
                status.coverage.iter().filter(|(key, _)| key.stream == stream && key.pass == STANDING);
            let reaches: Vec<_> = standing.map(|(_, state)| state.reach()).collect();
            covered_to(&reaches).map(|to| (status.now - to).as_seconds_f64().max(0.0))
        };
        Ok(Self {
            now: status.now,
            leader: status.leader.map(|leader| Leader { holder: leader.holder, since: leader.acquired_at }),
            team: status.team.map(TeamReport::from),
            key_refused: None,
            api: None,
            database_bytes: status.database_bytes,
            streams: status
                .streams
                .iter()
                .map(|(stream, of)| StreamReport {
                    stream: stream.to_string(),
                    estimated_rows: of.estimated_rows,
                    newest: of.newest,
                    open_rejects: of.open_rejects,
                    open_contradictions: of.open_contradictions,
                    lag_seconds: lag(*stream),
                    last_error: status.last_errors.get(stream).map(|last| ErrorReport {
                        pass: last.pass.clone(),
                        at: last.at,
                        error: last.error.clone(),
                        over: last.over,
                    }),
                    lines: lines(*stream),
                })
                .collect(),
            readings: status
                .readings
                .into_iter()
                .map(|reading| ReadingReport {
                    stream: reading.stream.to_string(),
                    question: reading.question,
                    answer: reading.answer,
                    evidence: reading.evidence,
                    decided_at: reading.decided_at,
                })
                .collect(),
            runs: status
                .runs
                .into_iter()
                .map(|run| RunReport {
                    stream: run.stream,
                    pass: run.pass,
                    started_at: run.started_at,
                    ended_at: run.ended_at,
                    outcome: run.outcome,
                    requests: run.requests,
                    rows_read: run.rows_read,
                    rows_written: run.rows_written,
                    rejected: run.rejected,
                })
                .collect(),
        })
    }
}

/// For people at a terminal.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.leader {
            Some(leader) => {
                writeln!(f, "leader: {} since {}", leader.holder, leader.since.format("%F %T UTC"))?
            }
            None => writeln!(f, "leader: none; no daemon is running")?,
        }
        match &self.team {
            Some(TeamReport { id, name, confirmed_at, .. }) => {
                let name = name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
                writeln!(f, "team: {id}{name}, the key confirmed at {}", confirmed_at.format("%F %T UTC"))?
            }
            None => writeln!(f, "team: none; the first run binds the database to the team of its key")?,
        }
        writeln!(f, "database: {:.1} MB", self.database_bytes as f64 / 1e6)?;
        for stream in &self.streams {
            writeln!(
                f,
                "\n{}: about {} rows, {} open rejects",
                stream.stream, stream.estimated_rows, stream.open_rejects
            )?;
            if stream.open_contradictions > 0 {
                let rows = stream.open_contradictions;
                writeln!(
                    f,
                    "  {rows} rows turned up where all were held; what is around them is read again"
                )?;
            }
            if let Some(newest) = stream.newest {
                writeln!(f, "  newest row: {}", newest.format("%F %T UTC"))?;
            }
            if let Some(run) = self.runs.iter().find(|run| run.stream == stream.stream) {
                let seconds = (run.ended_at.unwrap_or(self.now) - run.started_at).as_seconds_f64().max(0.001);
                writeln!(
                    f,
                    "  last run ({}): {} rows read, {} written, {} pages, {:.0} rows/s, {}",
                    run.pass,
                    run.rows_read,
                    run.rows_written,
                    run.requests,
                    run.rows_read as f64 / seconds,
                    run.outcome.as_deref().unwrap_or("under way"),
                )?;
            }
            if let Some(last) = &stream.last_error {
                let over = if last.over { ", over" } else { "" };
                let at = last.at.format("%F %T UTC");
                writeln!(f, "  last error ({}, {at}{over}): {}", last.pass, last.error)?;
            }
            for line in &stream.lines {
                write!(f, "  {} ({}): ", line.line, line.pass)?;
                match (line.held.first(), line.held.last()) {
                    (Some(first), Some(last)) => {
                        write!(f, "held to {}", first.to.format("%F %T"))?;
                        match last.from {
                            Some(from) => write!(f, " from {}", from.format("%F %T"))?,
                            None => write!(f, " from the beginning")?,
                        }
                        match (line.complete, line.covered_to) {
                            (true, _) => writeln!(f, ", complete")?,
                            (false, Some(to)) => writeln!(
                                f,
                                ", complete to {}, {} gaps above still to be read",
                                to.format("%F %T"),
                                line.gaps
                            )?,
                            (false, None) if line.gaps == 1 => writeln!(f, ", history is still being read")?,
                            (false, None) => writeln!(f, ", {} gaps still to be read", line.gaps)?,
                        }
                    }
                    _ => writeln!(f, "nothing held yet")?,
                }
            }
        }
        Ok(())
    }
}
