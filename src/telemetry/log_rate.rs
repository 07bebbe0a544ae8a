//! A bound on the log: what a broken or hostile API or database provokes again and again does not fill a disk.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines that one place in the code logs within a minute at most.
pub const MAX_LINES: u32 = 20;
/// Counted from the place's first line.
const WINDOW: Duration = Duration::from_secs(60);
/// Characters of a message by which lines that were left out are told.
const MAX_MESSAGE: usize = 100;

/// Lets [`MAX_LINES`] warnings and notes of each place in the code through per minute, and says how many it left
/// out. Errors pass always, and so does what only a more detailed `RUST_LOG` asks for.
#[derive(Debug, Default)]
pub(super) struct LogRate {
    places: Mutex<Places<Identifier>>,
}

impl<S: Subscriber> Layer<S> for LogRate {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if !matches!(*metadata.level(), Level::WARN | Level::INFO) || metadata.target() == module_path!() {
            return true;
        }
        let now = Instant::now();
        let (admitted, left_out) = {
            // The counts are whole after any panic.
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let admitted = places.admit(metadata.callsite(), now, || Message::of(event));
            (admitted, if admitted { places.left_out(now) } else { Vec::new() })
        };
        for LeftOut { lines, message } in left_out {
            warn!(lines, message_of_them = message, "lines were left out of the log");
        }
        admitted
    }
}

/// What each place logged. As many as there are places in the code, whatever they log.
#[derive(Debug)]
struct Places<K>(HashMap<K, Place>);

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[derive(Debug)]
struct Place {
    began: Instant,
    lines: u32,
    left_out: Option<LeftOut>,
}

/// Lines of one place that were not logged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LeftOut {
    lines: u64,
    /// Of the first of them.
    message: String,
}

impl<K: Eq + Hash> Places<K> {
    /// Whether a line of `place` is logged.
    fn admit(&mut self, place: K, now: Instant, message: impl FnOnce() -> String) -> bool {
        let place = self.0.entry(place).or_insert(Place { began: now, lines: 0, left_out: None });
        if now - place.began >= WINDOW {
            (place.began, place.lines) = (now, 0);
        }
        if place.lines < MAX_LINES {
            place.lines += 1;
            return true;
        }
        place.left_out.get_or_insert_with(|| LeftOut { lines: 0, message: message() }).lines += 1;
        false
    }

    /// What was left out in windows that are over and has not been told.
    fn left_out(&mut self, now: Instant) -> Vec<LeftOut> {
        let over = |place: &&mut Place| place.lines < MAX_LINES || now - place.began >= WINDOW;
        self.0.values_mut().filter(over).filter_map(|place| place.left_out.take()).collect()
    }
}

/// The message of an event, cut.
#[derive(Default)]
struct Message(String);

impl Message {
    fn of(event: &Event<'_>) -> String {
        let mut message = Self::default();
        event.record(&mut message);
        message.0
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}").chars().take(MAX_MESSAGE).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Second, place, how many lines come, how many of them are logged, and what is told to have been left out.
    type Step = (u64, char, u32, u32, &'static [(&'static str, u64)]);

    #[test]
    fn each_place_has_its_share_of_a_minute() {
        let steps: [Step; 8] = [
            (0, 'a', MAX_LINES, MAX_LINES, &[]),
            (1, 'b', 1, 1, &[]),
            (2, 'a', 1_000, 0, &[]),
            (59, 'b', MAX_LINES, MAX_LINES - 1, &[]),
            (60, 'c', 1, 1, &[("a", 1_000)]),
            (60, 'a', MAX_LINES + 2, MAX_LINES, &[]),
            (119, 'c', 1, 1, &[("b", 1)]),
            (120, 'a', 1, 1, &[("a", 2)]),
        ];
        let start = Instant::now();
        let mut places = Places::default();
        for (second, place, lines, expected, told) in steps {
            let now = start + Duration::from_secs(second);
            let (mut logged, mut left_out) = (0, Vec::new());
            for _ in 0..lines {
                if places.admit(place, now, || place.to_string()) {
                    logged += 1;
                    left_out.extend(places.left_out(now));
                }
            }
            let left_out: Vec<_> = left_out.iter().map(|left| (left.message.as_str(), left.lines)).collect();
            assert_eq!((logged, left_out.as_slice()), (expected, told), "{place} at {second} s");
        }
    }

    #[test]
    fn errors_and_details_that_were_asked_for_are_never_left_out() {
        use tracing_subscriber::layer::SubscriberExt as _;

        #[derive(Clone, Default)]
        struct Logged(std::sync::Arc<Mutex<HashMap<Level, u32>>>);
        impl<S: Subscriber> Layer<S> for Logged {
            fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
                *self.0.lock().unwrap().entry(*event.metadata().level()).or_default() += 1;
            }
        }
        let logged = Logged::default();
        let subscriber = tracing_subscriber::registry().with(logged.clone()).with(LogRate::default());
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..3 * MAX_LINES {
                tracing::error!(target: "test", "failed");
                tracing::warn!(target: "test", "odd");
                tracing::info!(target: "test", "done");
                tracing::debug!(target: "test", "page");
            }
        });
        let logged = logged.0.lock().unwrap();
        for (level, lines) in [
            (Level::ERROR, 3 * MAX_LINES),
            (Level::WARN, MAX_LINES),
            (Level::INFO, MAX_LINES),
            (Level::DEBUG, 3 * MAX_LINES),
        ] {
            assert_eq!(logged.get(&level), Some(&lines), "{level}");
        }
    }
}
