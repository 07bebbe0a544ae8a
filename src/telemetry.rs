//! The log subscriber, and how an error is told.

mod log_rate;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogFormat;

use self::log_rate::LogRate;
pub use self::log_rate::MAX_LINES;

/// The longest text of an error, in characters: some repeat what a server sent.
const MAX_CHAIN: usize = 2_000;

/// Sends the log to stderr, at most [`MAX_LINES`] warnings and notes of each place in the code per minute. `RUST_LOG` is the filter; without it, `level` for this program and warnings of its
/// libraries. Lines go around `bars`, where there are some.
pub fn init(format: LogFormat, level: &str, bars: Option<MultiProgress>) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,heymarket_sync={level}")));
    let writer = Stderr { bars };
    let terminal = io::stderr().is_terminal();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(terminal);
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    // A subscriber that is set already, by a test, stays.
    let _ = if json {
        subscriber.json().finish().with(LogRate::default()).try_init()
    } else {
        subscriber.with_target(false).finish().with(LogRate::default()).try_init()
    };
}

/// An error and everything that caused it, outermost first, on one line; cut where it is too long for one.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    if let Some((end, _)) = text.char_indices().nth(MAX_CHAIN) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[derive(Clone)]
struct Stderr {
    bars: Option<MultiProgress>,
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.bars {
            Some(bars) => bars.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Told {
        said: String,
        source: Option<Box<Told>>,
    }

    fn told(said: &str, source: Option<Told>) -> Told {
        Told { said: said.to_owned(), source: source.map(Box::new) }
    }

    #[test]
    fn an_error_is_told_with_its_causes_and_cut() {
        let long = "é".repeat(3 * MAX_CHAIN);
        let cases = [
            ("alone", told("a", None), "a".to_owned()),
            ("causes", told("a", Some(told("b", Some(told("c", None))))), "a: b: c".to_owned()),
            ("long", told("a", Some(told(&long, None))), format!("a: {}…", &long[..2 * (MAX_CHAIN - 3)])),
        ];
        for (name, error, expected) in cases {
            assert_eq!(chain(&error), expected, "{name}");
        }
    }
}
