//! A team made up from a seed: the same options give the same team.

mod contacts;
mod conversations;
mod messages;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    corpus,
    rows::{CLOSED, OPEN},
    team::{Inbox, TEAM_ID, TeamRows, User},
};

/// What team to make up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamOptions {
    /// The team's own id; [`TEAM_ID`] unless a test needs two teams.
    pub id: i64,
    pub messages: usize,
    /// At least one is made where there are messages.
    pub conversations: usize,
    pub contacts: usize,
    pub seed: u64,
    /// How far back from `end` the rows reach.
    pub span: Duration,
    /// The newest time in any row; `None` is the moment of generation.
    pub end: Option<DateTime<Utc>>,
}

impl Default for TeamOptions {
    /// A team small enough for a test: 2,000 messages, 200 conversations, 150 contacts over 30 days.
    fn default() -> Self {
        Self {
            id: TEAM_ID,
            messages: 2_000,
            conversations: 200,
            contacts: 150,
            seed: 1,
            span: Duration::from_secs(30 * 86_400),
            end: None,
        }
    }
}

pub(super) const FIRST_MESSAGE_ID: i64 = 90_000_000;
pub(super) const FIRST_CONVERSATION_ID: i64 = 50_000_000;
pub(super) const FIRST_CONTACT_ID: i64 = 30_000_000;
const INBOXES: [(i64, &str); 6] = [
    (101, "Front desk"),
    (102, "Sales"),
    (103, "Support"),
    (104, "Billing"),
    (105, "Día"),
    (106, "Recruiting"),
];
const USERS: usize = 12;
/// Rows changed by one bulk action (an import, a bulk close), all with the same `updated`.
const BULK: usize = 150;

pub(super) fn generate(options: &TeamOptions, end: DateTime<Utc>) -> TeamRows {
    let mut maker = Maker::new(options, end);
    let contacts = maker.contacts(options.contacts);
    let wanted = options.conversations.max(usize::from(options.messages > 0));
    let mut conversations = maker.conversations(wanted, &contacts);
    let messages = maker.messages(options.messages, &conversations);
    maker.settle(&mut conversations, &messages);
    TeamRows { id: maker.team, inboxes: maker.inboxes, users: maker.users, messages, conversations, contacts }
}

/// Words that very many rows share.
struct Words {
    empty: Arc<str>,
    null: Arc<str>,
    none: Arc<str>,
    text: Arc<str>,
    received: Arc<str>,
    sent: Arc<str>,
    delivered: Arc<str>,
    failed: Arc<str>,
    open: Arc<str>,
    closed: Arc<str>,
    sms: Arc<str>,
    direct: Arc<str>,
    group: Arc<str>,
    form: Arc<str>,
}

struct Maker {
    team: i64,
    rng: ChaCha8Rng,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    /// Microseconds from `start` to `end`, at least 1.
    span: i64,
    inboxes: Vec<Inbox>,
    users: Vec<User>,
    words: Words,
}

impl Maker {
    fn new(options: &TeamOptions, end: DateTime<Utc>) -> Self {
        let span = i64::try_from(options.span.as_micros()).unwrap_or(i64::MAX).clamp(1, MAX_SPAN);
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let users: Vec<User> = (0..USERS)
            .map(|index| {
                let first = corpus::FIRST_NAMES[index];
                let last = corpus::pick(&mut rng, &corpus::LAST_NAMES);
                User { id: 2_001 + index as i64, name: Arc::from(format!("{first} {last}")) }
            })
            .collect();
        let inbox = |(index, &(id, name)): (usize, &(i64, &str))| Inbox {
            id,
            name: Arc::from(name),
            phone: Arc::from(format!("1415555{id:04}")),
            // Nobody belongs to all.
            members: (0..USERS).filter(|user| (user + index) % 3 != 0).map(|user| users[user].id).collect(),
        };
        let inboxes = INBOXES.iter().enumerate().map(inbox).collect();
        let words = Words {
            empty: Arc::from(""),
            null: Arc::from("null"),
            none: Arc::from("{}"),
            text: Arc::from("text"),
            received: Arc::from("received"),
            sent: Arc::from("sent"),
            delivered: Arc::from("delivered"),
            failed: Arc::from("failed"),
            open: Arc::from(OPEN),
            closed: Arc::from(CLOSED),
            sms: Arc::from("sms"),
            direct: Arc::from("direct"),
            group: Arc::from("group"),
            form: Arc::from(r#"{"data":[11,12,15],"type":"form"}"#),
        };
        let team = options.id;
        Self { team, rng, start: end - TimeDelta::microseconds(span), end, span, inboxes, users, words }
    }

    /// Any time of the span; a few on the whole second.
    fn moment(&mut self) -> DateTime<Utc> {
        let at = self.start + TimeDelta::microseconds(self.rng.random_range(0..self.span));
        if self.rng.random_bool(0.02) && at.timestamp() > self.start.timestamp() {
            return DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at);
        }
        at
    }

    fn between(&mut self, from: DateTime<Utc>, to: DateTime<Utc>) -> DateTime<Utc> {
        let width = (to - from).num_microseconds().unwrap_or(0).max(0);
        from + TimeDelta::microseconds(self.rng.random_range(0..=width))
    }

    /// Up to so many seconds after `time`, never past the end.
    fn soon(&mut self, time: DateTime<Utc>, seconds: i64) -> DateTime<Utc> {
        let after = self.rng.random_range(0..=seconds * 1_000_000);
        (time + TimeDelta::microseconds(after)).min(self.end)
    }

    fn user(&mut self) -> i64 {
        self.users[self.rng.random_range(0..self.users.len())].id
    }

    fn below(&mut self, bound: i64) -> i64 {
        self.rng.random_range(0..bound)
    }

    fn empty(&self) -> Arc<str> {
        Arc::clone(&self.words.empty)
    }
}

/// A hundred years: keeps the arithmetic within chrono's range.
const MAX_SPAN: i64 = 100 * 365 * 86_400 * 1_000_000;

/// The phone of the `index`th contact: E.164 digits without `+`.
pub(super) fn phone(index: usize) -> Arc<str> {
    Arc::from(format!("1{:010}", 2_025_550_100 + 7 * index as u64))
}
