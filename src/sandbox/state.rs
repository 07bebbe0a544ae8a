//! A handle on a running sandbox: look at the truth, change it, watch and disturb the traffic.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use super::{
    SandboxOptions,
    auth::{Key, SandboxCredentials},
    endpoint::Endpoint,
    fault::{Fault, FaultPlan},
    generate::generate,
    observe::{Counters, Observed},
    paging::PageRead,
    quota::{Quota, RateLimit},
    reading::Paging,
    rows::{Contact, Conversation, Message},
    script::Script,
    slips::{Disturbance, SlipPlan, Slips},
    table::Table,
    team::{Inbox, Team},
    traffic::{Event, Traffic},
};
use crate::clock;

/// Clones share one team; it outlives the server, which can be started again over it.
#[derive(Clone)]
pub struct SandboxState(Arc<Inner>);

struct Inner {
    team: RwLock<Team>,
    traffic: Mutex<Traffic>,
    observed: Mutex<Observed>,
    faults: Mutex<FaultPlan>,
    slips: Mutex<SlipPlan>,
    script: Mutex<Script>,
    quota: Mutex<Quota>,
    settings: RwLock<Settings>,
    live_rate: watch::Sender<f64>,
    /// Microseconds that the sandbox's clock is ahead of this machine's.
    skew: AtomicI64,
    /// Microseconds that the `Date` of its answers is ahead of that.
    date_lie: AtomicI64,
    requests: AtomicU64,
    gzip: bool,
}

#[derive(Clone)]
struct Settings {
    paging: Paging,
    credentials: SandboxCredentials,
    rate_limit: RateLimit,
    latency: Duration,
    other_team: Option<SandboxState>,
}

impl SandboxState {
    /// Generates the team. A million messages take seconds, so not for an async thread.
    pub fn generate(options: &SandboxOptions) -> Self {
        let end = options.team.end.unwrap_or_else(clock::now);
        let team = Team::new(generate(&options.team, clock::floor_to_micros(end)));
        let seed = options.team.seed;
        Self(Arc::new(Inner {
            team: RwLock::new(team),
            traffic: Mutex::new(Traffic::new(seed, &options.team)),
            observed: Mutex::default(),
            faults: Mutex::new(FaultPlan::new(seed, options.fault_probability)),
            slips: Mutex::new(SlipPlan::new(seed, options.slips.clone())),
            script: Mutex::default(),
            quota: Mutex::default(),
            settings: RwLock::new(Settings {
                paging: options.paging.clone(),
                credentials: options.credentials.clone(),
                rate_limit: options.rate_limit,
                latency: options.latency,
                other_team: None,
            }),
            live_rate: watch::Sender::new(options.live_rate),
            skew: AtomicI64::new(0),
            date_lie: AtomicI64::new(0),
            requests: AtomicU64::new(0),
            gzip: options.gzip,
        }))
    }

    /// The sandbox's time: this machine's, plus the skew.
    pub fn now(&self) -> DateTime<Utc> {
        clock::now() + TimeDelta::microseconds(self.0.skew.load(Ordering::Relaxed))
    }

    /// From now on the sandbox's clock (tokens, `Date`, live rows) is `ahead` of this machine's.
    pub fn set_clock_skew(&self, ahead: TimeDelta) {
        self.0.skew.store(ahead.num_microseconds().unwrap_or(0), Ordering::Relaxed);
    }

    /// From now on the `Date` of answers is so much ahead of the sandbox's clock.
    pub fn set_date_lie(&self, ahead: TimeDelta) {
        self.0.date_lie.store(ahead.num_microseconds().unwrap_or(0), Ordering::Relaxed);
    }

    /// The time that answers tell.
    pub(super) fn told_time(&self) -> DateTime<Utc> {
        self.now() + TimeDelta::microseconds(self.0.date_lie.load(Ordering::Relaxed))
    }

    // Changing it.

    /// Inserts, or replaces the message of that id.
    pub fn put_message(&self, message: Message) {
        self.team_mut().put_message(message);
    }

    /// Inserts, or replaces the conversation of that id.
    pub fn put_conversation(&self, conversation: Conversation) {
        self.team_mut().put_conversation(conversation);
    }

    /// Inserts, or replaces the contact of that id.
    pub fn put_contact(&self, contact: Contact) {
        self.team_mut().put_contact(contact);
    }

    /// Inserts, or replaces the inbox of that id.
    pub fn put_inbox(&self, inbox: Inbox) {
        self.team_mut().put_inbox(inbox);
    }

    /// Takes the inbox out of the list of inboxes; whether there was one. Its conversations stay.
    pub fn remove_inbox(&self, id: i64) -> bool {
        self.team_mut().remove_inbox(id)
    }

    pub fn inboxes(&self) -> Vec<Inbox> {
        self.team().inboxes.clone()
    }

    /// Changes the message as `change` says, `updated` included; whether there was one. The id must stay.
    pub fn change_message(&self, id: i64, change: impl FnOnce(&mut Message)) -> bool {
        let mut team = self.team_mut();
        let changed = changed(team.messages(), id, change);
        changed.map(|message| team.put_message(message)).is_some()
    }

    /// See [`Self::change_message`].
    pub fn change_conversation(&self, id: i64, change: impl FnOnce(&mut Conversation)) -> bool {
        let mut team = self.team_mut();
        let changed = changed(team.conversations(), id, change);
        changed.map(|conversation| team.put_conversation(conversation)).is_some()
    }

    /// See [`Self::change_message`].
    pub fn change_contact(&self, id: i64, change: impl FnOnce(&mut Contact)) -> bool {
        let mut team = self.team_mut();
        let changed = changed(team.contacts(), id, change);
        changed.map(|contact| team.put_contact(contact)).is_some()
    }

    /// Takes the row out of the team; whether there was one. Messages of a removed conversation stay, and
    /// embed `null`.
    pub fn remove(&self, rows: Endpoint, id: i64) -> bool {
        self.team_mut().remove(rows, id)
    }

    /// From now on the row is printed as `bytes`, wherever it appears (a conversation also inside its
    /// messages), at the place of the row that it hides; `None` undoes it.
    pub fn set_raw(&self, rows: Endpoint, id: i64, bytes: Option<Bytes>) {
        self.team_mut().set_raw(rows, id, bytes);
    }

    // Live traffic.

    /// Applies one event as of `now`. The same seed and the same calls give the same events.
    pub fn apply_event(&self, now: DateTime<Utc>) -> Event {
        lock(&self.0.traffic).event(&mut self.team_mut(), now)
    }

    /// Applies what is due at the live rate since the last tick.
    pub fn tick(&self, now: DateTime<Utc>) -> Vec<Event> {
        let rate = *self.0.live_rate.borrow();
        lock(&self.0.traffic).tick(&mut self.team_mut(), rate, now)
    }

    /// Events a second that the running sandbox applies by itself; 0 stops it.
    pub fn set_live_rate(&self, rate: f64) {
        if rate <= 0.0 {
            lock(&self.0.traffic).pause();
        }
        self.0.live_rate.send_replace(rate.max(0.0));
    }

    pub(super) fn live_rate(&self) -> watch::Receiver<f64> {
        self.0.live_rate.subscribe()
    }

    // Disturbing it.

    /// The next request answers with `fault`, after those queued before.
    pub fn push_fault(&self, fault: Fault) {
        lock(&self.0.faults).push(None, fault);
    }

    /// The next request to `endpoint` answers with `fault`.
    pub fn push_fault_on(&self, endpoint: Endpoint, fault: Fault) {
        lock(&self.0.faults).push(Some(endpoint), fault);
    }

    /// Every request answers with `fault`, until `None`.
    pub fn set_lasting_fault(&self, fault: Option<Fault>) {
        lock(&self.0.faults).set_lasting(None, fault);
    }

    /// Every request to `endpoint` answers with `fault`, until `None`.
    pub fn set_lasting_fault_on(&self, endpoint: Endpoint, fault: Option<Fault>) {
        lock(&self.0.faults).set_lasting(Some(endpoint), fault);
    }

    /// Every list is empty and every count zero, or no longer.
    pub fn set_all_empty(&self, empty: bool) {
        for (list, count) in [
            (Endpoint::Messages, Endpoint::MessagesCount),
            (Endpoint::Conversations, Endpoint::ConversationsCount),
            (Endpoint::Contacts, Endpoint::ContactsCount),
        ] {
            self.set_lasting_fault_on(list, empty.then_some(Fault::EmptyArray));
            self.set_lasting_fault_on(count, empty.then_some(Fault::Zero));
        }
    }

    /// Each request meets one of [`Fault::BY_CHANCE`] with this probability.
    pub fn set_fault_probability(&self, probability: f64) {
        lock(&self.0.faults).set_probability(probability);
    }

    /// From now on nothing fails: forgets faults queued, lasting and by chance.
    pub fn clear_faults(&self) {
        lock(&self.0.faults).clear();
    }

    /// Faults queued and not yet met.
    pub fn queued_faults(&self) -> usize {
        lock(&self.0.faults).queued()
    }

    /// From now on these rows are in no list and in no count; where they are embedded they still are.
    pub fn hide(&self, rows: Endpoint, ids: impl IntoIterator<Item = i64>) {
        self.team_mut().hide(rows, ids.into_iter().collect());
    }

    /// From now on pages slip like this.
    pub fn set_slips(&self, slips: Slips) {
        lock(&self.0.slips).set(slips);
    }

    /// Does `act` when the `nth` request from now on has come in (1 is the next), before it is answered.
    pub fn on_request(&self, nth: u64, act: impl FnOnce(&Self) + Send + 'static) {
        lock(&self.0.script).add(nth, Box::new(act));
    }

    /// Forgets what [`Self::on_request`] was told and has not been due yet.
    pub fn clear_script(&self) {
        lock(&self.0.script).clear();
    }

    pub fn set_latency(&self, latency: Duration) {
        self.settings_mut().latency = latency;
    }

    pub fn set_rate_limit(&self, limit: RateLimit) {
        self.settings_mut().rate_limit = limit;
    }

    pub fn set_paging(&self, paging: Paging) {
        self.settings_mut().paging = paging;
    }

    pub fn set_credentials(&self, credentials: SandboxCredentials) {
        self.settings_mut().credentials = credentials;
    }

    /// From now on the same server answers whom `other` accepts, and this one does not, as `other` does.
    pub fn set_other_team(&self, other: SandboxState) {
        self.settings_mut().other_team = Some(other);
    }

    pub fn credentials(&self) -> SandboxCredentials {
        self.settings().credentials.clone()
    }

    // Watching it.

    pub fn counters(&self) -> Counters {
        lock(&self.0.observed).counters.clone()
    }

    /// The page requests answered, oldest first; of very many the latest.
    pub fn page_log(&self) -> Vec<PageRead> {
        lock(&self.0.observed).pages.iter().cloned().collect()
    }

    /// Sets the counters to zero and empties the page log.
    pub fn reset_observations(&self) {
        lock(&self.0.observed).reset();
    }

    pub(super) fn observed(&self) -> MutexGuard<'_, Observed> {
        lock(&self.0.observed)
    }

    // For the server.

    /// The team that a request of these credentials is for.
    pub(super) fn of(&self, authorization: &str) -> SandboxState {
        let own = self.accept(authorization).is_some();
        let other = if own { None } else { self.settings().other_team.clone() };
        other.filter(|other| other.accept(authorization).is_some()).unwrap_or_else(|| self.clone())
    }

    pub(super) fn accept(&self, authorization: &str) -> Option<Key> {
        self.settings().credentials.accept(authorization, self.now())
    }

    /// The error is the `Retry-After` to send, if any.
    pub(super) fn admit(&self, key: Key) -> Result<(), Option<Duration>> {
        let limit = self.settings().rate_limit;
        lock(&self.0.quota)
            .admit(key, limit.per_minute, Instant::now())
            .map_err(|wait| limit.retry_after.then_some(wait))
    }

    pub(super) fn next_fault(&self, endpoint: Endpoint) -> Option<Fault> {
        lock(&self.0.faults).next(endpoint)
    }

    pub(super) fn next_disturbance(&self) -> Disturbance {
        lock(&self.0.slips).next(self.now())
    }

    /// A request came in.
    pub(super) fn arrive(&self) {
        let due = lock(&self.0.script).arrive();
        for act in due {
            act(self);
        }
    }

    pub(super) fn next_request_id(&self) -> u64 {
        self.0.requests.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn latency(&self) -> Duration {
        self.settings().latency
    }

    pub(super) fn paging(&self) -> Paging {
        self.settings().paging.clone()
    }

    pub(super) fn gzip(&self) -> bool {
        self.0.gzip
    }

    pub(super) fn team(&self) -> RwLockReadGuard<'_, Team> {
        self.0.team.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn team_mut(&self) -> RwLockWriteGuard<'_, Team> {
        self.0.team.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> RwLockReadGuard<'_, Settings> {
        self.0.settings.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings_mut(&self) -> RwLockWriteGuard<'_, Settings> {
        self.0.settings.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn changed<R: super::rows::Row>(table: &Table<R>, id: i64, change: impl FnOnce(&mut R)) -> Option<R> {
    let mut row = table.get(id)?.clone();
    change(&mut row);
    Some(row)
}
