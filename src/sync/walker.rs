//! Carries a walk out: asks the API, hands each page to the writer, and lets others take part of the way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api::client::{Client, Response};
use crate::api::error::{ApiError, ErrorKind};
use crate::api::lenient::{self, NotAnArray};
use crate::api::limiter::Priority;
use crate::api::model::{Rows, TimeField, UnreadableBody};
use crate::clock;
use crate::crash::{self, CrashPoint};
use crate::interval::{Interval, TICK};
use crate::store::{STANDING, Sighted, Sighting, UnreadablePage};
use crate::telemetry;

use super::detect::Probe;
use super::handed::Handed;
use super::ids::Ids;
use super::line::Line;
use super::progress::Progress;
use super::readings::Readings;
use super::walk::{Ask, Emptiness, Next, Obstacle, Place, Walk};
use super::writer::{Page, UNWRITTEN_PAGES, Writer, WriterGone};

/// How often a page that is not an array of rows is asked again as it is, before it is asked for in smaller parts.
const UNREADABLE_RETRIES: u32 = 2;
/// How often one walk goes around what cannot be read.
const MAX_DETOURS: usize = 100;
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// What walkers of one term share.
#[derive(Clone)]
pub struct Reader {
    pub client: Client,
    pub writer: Writer,
    pub progress: Arc<Progress>,
    pub readings: Arc<Readings>,
    /// To read pages: one for each processor.
    pub turns: Arc<Semaphore>,
    pub limit: u32,
    pub settle_margin: TimeDelta,
    pub cancel: CancellationToken,
}

/// What a walk is for.
#[derive(Clone)]
pub struct Errand {
    pub line: Line,
    pub pass: String,
    pub run: i64,
    pub priority: Priority,
    /// The oldest row of the line, where it is known: the beginning of history for progress.
    pub oldest: Option<DateTime<Utc>>,
}

#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("stopped")]
    Stopped,
    #[error("the API could not be read")]
    Api(#[source] ApiError),
    #[error(transparent)]
    Writer(#[from] WriterGone),
}

/// How far a walk goes, where its claim does not end before.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    End,
    /// So many pages were read.
    Pages(u32),
    /// A page has shown whether there is anything right below the upper end of the claim.
    Below,
}

/// How a walk ended.
#[derive(Debug)]
pub struct Walked {
    /// Everything between here and the upper end is proved or was passed over.
    pub reached: DateTime<Utc>,
    /// The time of the oldest row that was read, above the upper end or not.
    pub lowest: Option<DateTime<Utc>>,
    /// A row was listed, with a time or without.
    pub listed: bool,
    /// Rows at or above the lower end that were read, repeats included.
    pub fresh: u32,
    /// The walk came to its lower end.
    pub complete: bool,
    /// The upper end of what could be proved, by the server's clock.
    pub ceiling: DateTime<Utc>,
    pub obstacles: Vec<(Interval, Obstacle)>,
    /// It came to its lower end by empty answers, which claim that nothing is left there.
    pub empty: Option<Emptiness>,
}

impl Walked {
    fn end(&mut self, emptiness: Emptiness) {
        self.complete = true;
        // What is above may still become visible.
        let below = Interval::new(None, self.ceiling);
        let interval = below.and_then(|below| emptiness.interval.intersection(&below));
        self.empty = interval.map(|interval| Emptiness { interval, ..emptiness });
    }
}

/// The part of a line that one walker has in work; others may take the lower part of it.
#[derive(Debug)]
pub struct Claim {
    state: Mutex<ClaimState>,
}

#[derive(Clone, Copy, Debug)]
struct ClaimState {
    gap: Interval,
    reached: DateTime<Utc>,
    rows: u64,
    pages: u64,
}

impl Claim {
    pub fn new(gap: Interval) -> Self {
        Self { state: Mutex::new(ClaimState { gap, reached: gap.end(), rows: 0, pages: 0 }) }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, ClaimState> {
        // The state is plain numbers, whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, but for what others have taken.
    pub fn gap(&self) -> Interval {
        self.locked().gap
    }

    /// What is left, how many rows were passed so far, and over which length of time.
    pub fn left(&self) -> Option<(Interval, u64, TimeDelta)> {
        let state = *self.locked();
        let left = Interval::new(state.gap.start(), state.reached)?;
        (state.pages > 0).then_some((left, state.rows, state.gap.end() - state.reached))
    }

    /// Takes everything below `at` from the claim, unless the walker is there already.
    pub fn take_below(&self, at: DateTime<Utc>) -> Option<Interval> {
        let mut state = self.locked();
        if at >= state.reached {
            return None;
        }
        let taken = Interval::new(state.gap.start(), at)?;
        state.gap = Interval::new(Some(at), state.gap.end())?;
        Some(taken)
    }
}

impl Reader {
    /// Walks `claim` from its upper end, or from the newest row of the line with so many rows (`from_top`).
    pub async fn walk(
        &self,
        errand: &Errand,
        claim: &Claim,
        from_top: Option<u32>,
        until: Until,
    ) -> Result<Walked, WalkError> {
        let gap = claim.gap();
        let mut walk = match from_top {
            Some(rows) => Walk::from_top(gap, rows, self.limit),
            None => Walk::below(gap, self.limit),
        };
        let known = self.readings.of(errand.line.stream).page_rows;
        walk.knows_pages_of(known.unwrap_or_default());
        // A page of one row has reached its end, unless pages are known to have no more.
        let full = known.unwrap_or(2) as usize;
        let mut walked = Walked {
            reached: gap.end(),
            lowest: None,
            listed: false,
            fresh: 0,
            complete: false,
            ceiling: gap.end(),
            obstacles: Vec::new(),
            empty: None,
        };
        let mut asked = 0;
        let mut unreadable = 0;
        let mut retry = RETRY_FIRST;
        let mut handed = Handed::default();
        let share = Arc::new(Semaphore::new(UNWRITTEN_PAGES));
        loop {
            let unwritten = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(WalkError::Stopped),
                // The semaphore is never closed.
                permit = Arc::clone(&share).acquire_owned() => permit.map_err(|_| WriterGone)?,
            };
            let read = match self.ask(errand, walk.ask()).await {
                Ok(response) => match self.rows(&errand.line, &response.body).await? {
                    Ok(rows) => Ok((response, rows)),
                    Err(error) => {
                        unreadable += 1;
                        let request_id = response.request_id.unwrap_or_default();
                        if unreadable == 1 {
                            warn!(stream = %errand.line.stream, request_id, %error, "a page is not an array of rows");
                        }
                        let waiting_may_help = !error.is_too_much() && !walk.is_on_detour();
                        if waiting_may_help && unreadable <= UNREADABLE_RETRIES {
                            drop((response.body, response.room));
                            self.pause(&mut retry).await?;
                            continue;
                        }
                        if walk.asks_for_one() {
                            let reason = format!("{error} (request id {request_id})");
                            let body = UnreadableBody::of(&response.body);
                            self.set_aside(errand, &walk, reason, body).await?;
                        }
                        Err(walk.unreadable(Obstacle::Unreadable))
                    }
                },
                Err(error) => Err(match error.kind() {
                    ErrorKind::Cancelled => return Err(WalkError::Stopped),
                    _ if error.is_outage() => return Err(WalkError::Api(error)),
                    ErrorKind::TooLarge => walk.unreadable(Obstacle::TooLarge),
                    ErrorKind::BadRequest => walk.refused(),
                    _ => {
                        if let Some(body) = error.body() {
                            let reason = telemetry::chain(&error);
                            self.set_aside(errand, &walk, reason, body.clone()).await?;
                        }
                        let (line, error) = (errand.line.name(), telemetry::chain(&error));
                        warn!(stream = %errand.line.stream, line = &*line, error, "a request fails, others do not");
                        walk.failed()
                    }
                }),
            };
            let (response, mut rows) = match read {
                Ok(read) => read,
                Err(finding) => {
                    walked.reached = walk.reached();
                    self.note_hole(errand, &mut walked, finding.hole);
                    match finding.next {
                        Next::Ask(_) if walked.obstacles.len() < MAX_DETOURS => continue,
                        Next::Ask(_) => {
                            return Ok(self.leave(errand, claim, walk, walked, Obstacle::Unreadable));
                        }
                        Next::GiveUp(obstacle) => {
                            return Ok(self.leave(errand, claim, walk, walked, obstacle));
                        }
                        Next::Done => walked.complete = true,
                        Next::Empty(emptiness) => walked.end(emptiness),
                    }
                    return Ok(walked);
                }
            };
            // Once there is a page that waiting does not mend, the way to it is only narrowed down.
            if unreadable <= UNREADABLE_RETRIES {
                unreadable = 0;
                retry = RETRY_FIRST;
            }
            if asked == 0 {
                walked.ceiling = self.ceiling(response.server_time).min(gap.end());
            }
            asked += 1;
            let finding = {
                let mut state = claim.locked();
                if let Some(start) = state.gap.start() {
                    walk.shorten(start);
                }
                let finding = walk.read(&rows.listed);
                let passed = |place: &Place| place.0 < state.reached && place.0 >= walk.reached();
                state.rows += rows.placed().filter(passed).count() as u64;
                state.reached = walk.reached();
                state.pages += 1;
                finding
            };
            walked.reached = walk.reached();
            let above = rows.placed().filter(|place| gap.start().is_none_or(|start| place.0 >= start));
            walked.fresh = walked.fresh.saturating_add(u32::try_from(above.count()).unwrap_or(u32::MAX));
            walked.listed |= !rows.listed.is_empty();
            walked.lowest = walk.lowest().into_iter().chain(walked.lowest).min();
            self.note(errand, walked.lowest, finding.proven.as_ref());
            self.note_hole(errand, &mut walked, finding.hole);
            let below = Interval::new(None, walked.ceiling);
            let proven = finding.proven.zip(below).and_then(|(proven, below)| proven.intersection(&below));
            let proofs = proven.into_iter().map(|proven| (errand.line.key(&errand.pass), proven)).collect();
            debug!(stream = %errand.line.stream, line = &*errand.line.name(), rows = rows.elements, "page");
            crash::pass(CrashPoint::PageRead);
            handed.reduce(&mut rows);
            let sighted = self.sighted(&errand.line, &rows);
            let is_far_enough = match until {
                Until::End => false,
                Until::Pages(pages) => asked >= pages,
                Until::Below => {
                    rows.elements < full || walk.lowest().is_none_or(|lowest| lowest < gap.end() - TICK)
                }
            };
            let (stream, run, room) = (errand.line.stream, errand.run, response.room);
            self.writer.page(Page { stream, run, rows, sighted, proofs, unwritten, room }).await?;
            match finding.next {
                Next::Done => {
                    walked.complete = true;
                    return Ok(walked);
                }
                Next::Empty(emptiness) => {
                    walked.end(emptiness);
                    return Ok(walked);
                }
                Next::GiveUp(obstacle) => return Ok(self.leave(errand, claim, walk, walked, obstacle)),
                Next::Ask(_) if is_far_enough => return Ok(walked),
                Next::Ask(_) => {}
            }
        }
    }

    pub(super) async fn ask(&self, errand: &Errand, ask: &Ask) -> Result<Response, ApiError> {
        let found = self.readings.of(errand.line.stream);
        let request = errand.line.request(ask, found.cursor, &found.ids);
        self.client.page(&request, errand.priority, &self.cancel).await
    }

    /// Reads a page, apart from the tasks that answer others: reading keeps a processor busy for milliseconds.
    async fn rows(&self, line: &Line, body: &Bytes) -> Result<Result<Rows, NotAnArray>, WalkError> {
        // Never closed: a turn is missing only then.
        let _turn = self.turns.acquire().await.ok();
        let (stream, field) = (line.stream, line.field);
        let (writer, body) = (self.writer.clone(), body.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let is_held = |id, updated| writer.has_conversation(id, updated);
            lenient::read_page_beyond(&is_held, stream, field, &body)
        });
        match reading.await.map_err(JoinError::try_into_panic) {
            Ok(rows) => Ok(rows),
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The program ends.
            Err(Err(_)) => Err(WalkError::Stopped),
        }
    }

    /// The rows of a page as witnesses of what the ledger says of their places.
    fn sighted(&self, line: &Line, rows: &Rows) -> Sighted {
        let sighting = |id, place: Option<DateTime<Utc>>, stamped: Option<DateTime<Utc>>| {
            let place = place?;
            let settled = place.checked_add_signed(self.settle_margin).unwrap_or(place);
            Some(Sighting { id, place, stamped: stamped.unwrap_or(place), settled })
        };
        let messages = rows.messages.iter().filter_map(|row| {
            let place = if line.field == TimeField::Date { row.date } else { row.updated };
            sighting(row.id, place, row.updated)
        });
        let conversations =
            rows.conversations.iter().filter_map(|row| sighting(row.id, row.updated, row.created));
        let contacts = rows.contacts.iter().filter_map(|row| sighting(row.id, row.updated, row.created));
        let rows = messages.chain(conversations).chain(contacts).collect();
        Sighted { key: line.key(STANDING), rows }
    }

    async fn set_aside(
        &self,
        errand: &Errand,
        walk: &Walk,
        reason: String,
        body: UnreadableBody,
    ) -> Result<(), WriterGone> {
        let key = errand.line.key(&errand.pass);
        self.writer.unreadable(UnreadablePage { key, below: walk.reached(), reason, body }).await
    }

    /// What is newer than this may still become visible: the settle margin behind what a page proves at most.
    fn ceiling(&self, server_time: Option<DateTime<Utc>>) -> DateTime<Utc> {
        let clock = self.client.clock();
        let bound = server_time.map_or_else(|| self.server_now(), |date| clock.bound_of(date, clock::now()));
        bound - self.settle_margin
    }

    /// `ids` are those that requests for conversations bear.
    pub(super) fn probe<'a>(&'a self, ids: &'a Ids) -> Probe<'a> {
        Probe { client: &self.client, limit: self.limit, cancel: &self.cancel, ids }
    }

    /// Now, as far as pages may prove anything: by the server's clock once that can be trusted, before by the earlier
    /// of its clock and ours.
    pub fn server_now(&self) -> DateTime<Utc> {
        self.client.clock().bound(clock::now())
    }

    fn note(&self, errand: &Errand, lowest: Option<DateTime<Utc>>, proven: Option<&Interval>) {
        let progress = self.progress.of(errand.line.stream);
        if let Some(lowest) = lowest {
            progress.saw(lowest);
        }
        if let Some(proven) = proven
            && errand.pass == crate::store::STANDING
        {
            progress.prove(proven, errand.oldest);
        }
    }

    fn note_hole(&self, errand: &Errand, walked: &mut Walked, hole: Option<(Interval, Obstacle)>) {
        if let Some((hole, obstacle)) = hole {
            self.readings.doubt(errand.line.stream);
            warn!(stream = %errand.line.stream, line = &*errand.line.name(), %hole, %obstacle, "left open");
            walked.obstacles.push((hole, obstacle));
        }
    }

    fn leave(
        &self,
        errand: &Errand,
        claim: &Claim,
        walk: Walk,
        mut walked: Walked,
        obstacle: Obstacle,
    ) -> Walked {
        let line = errand.line.name();
        warn!(stream = %errand.line.stream, line = &*line, reached = %walk.reached(), %obstacle, "a walk was given up");
        self.readings.doubt(errand.line.stream);
        walked.reached = walk.reached();
        // Where it was given up at the gap's lower end, what the ledger lacks is above it.
        let start = claim.gap().start().map(|start| start.min(walk.reached() - TICK));
        walked.obstacles.extend(Interval::new(start, walk.reached()).map(|open| (open, obstacle)));
        walked
    }

    async fn pause(&self, delay: &mut Duration) -> Result<(), WalkError> {
        tokio::select! {
            () = tokio::time::sleep(*delay) => {}
            () = self.cancel.cancelled() => return Err(WalkError::Stopped),
        }
        *delay = (*delay * 2).min(RETRY_MOST);
        Ok(())
    }
}
