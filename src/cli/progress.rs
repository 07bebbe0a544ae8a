//! Progress: a bar per stream on a terminal, plain lines elsewhere.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::api::model::Stream;
use crate::app::BackfillProgress;
use crate::sync::progress::{Progress, StreamProgress};

const REDRAW: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Steps of a bar.
const STEPS: u64 = 1_000;

pub struct Bars {
    bars: Option<MultiProgress>,
}

impl Bars {
    pub fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        Self { bars: terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr())) }
    }

    /// Where the log is to be written so that it does not tear the bars.
    pub fn log(&self) -> Option<MultiProgress> {
        self.bars.clone()
    }

    /// Shows how `streams` get on while `work` runs, and a last time when it has ended.
    pub async fn show<T>(
        &self,
        progress: &Arc<Progress>,
        streams: &[Stream],
        work: impl Future<Output = T>,
    ) -> T {
        let started = Instant::now();
        let bars: Vec<_> = streams.iter().map(|stream| (*stream, self.bar())).collect();
        tokio::pin!(work);
        let mut redraw = tokio::time::interval(if self.bars.is_some() { REDRAW } else { LINE_EVERY });
        redraw.tick().await;
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                _ = redraw.tick() => self.draw(&bars, progress, started, false),
            }
        };
        self.draw(&bars, progress, started, true);
        outcome
    }

    /// One bar for a backfill, or plain lines.
    pub fn share(&self, name: &str) -> ShareBar {
        let bar = self.bar();
        if let Some(bar) = &bar {
            bar.set_prefix(name.to_owned());
        }
        ShareBar { bar, name: name.to_owned(), told: Cell::new(None) }
    }

    fn bar(&self) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let bar = bars.add(ProgressBar::new(STEPS));
        if let Ok(style) = ProgressStyle::with_template("{prefix:13} [{bar:30}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Some(bar)
    }

    fn draw(
        &self,
        bars: &[(Stream, Option<ProgressBar>)],
        progress: &Progress,
        started: Instant,
        last: bool,
    ) {
        for (stream, bar) in bars {
            let of = progress.of(*stream);
            let text = line(of, started.elapsed());
            match bar {
                Some(bar) => {
                    bar.set_prefix(stream.name());
                    bar.set_position((of.share().unwrap_or(0.0) * STEPS as f64) as u64);
                    bar.set_message(text);
                    if last {
                        bar.abandon();
                    }
                }
                None => eprintln!("{stream}: {text}"),
            }
        }
    }
}

/// How far a backfill is.
pub struct ShareBar {
    bar: Option<ProgressBar>,
    name: String,
    /// When a line was written last.
    told: Cell<Option<Instant>>,
}

impl ShareBar {
    pub fn tell(&self, progress: &BackfillProgress) {
        let mut text = match &progress.leader {
            Some(leader) => format!("by {}", leader.holder),
            None => "by this process".to_owned(),
        };
        if let Some(reached) = progress.reached {
            text += &format!(", back to {}", reached.format("%F %H:%M"));
        }
        if let Some(share) = progress.share {
            text += &format!(", {:.0} %", share * 100.0);
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position((progress.share.unwrap_or(0.0) * STEPS as f64) as u64);
                bar.set_message(text);
            }
            None if self.told.get().is_none_or(|told| told.elapsed() >= LINE_EVERY) => {
                self.told.set(Some(Instant::now()));
                eprintln!("{}: {text}", self.name);
            }
            None => {}
        }
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Rows, rate, oldest point reached, share of the time line held.
fn line(of: &StreamProgress, elapsed: Duration) -> String {
    let rows = of.rows_read.load(Relaxed);
    let rate = rows as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = format!("{rows} rows, {rate:.0}/s");
    if let Some(oldest) = of.oldest() {
        text += &format!(", back to {}", oldest.format("%F %H:%M"));
    }
    if let Some(share) = of.share() {
        text += &format!(", {:.0} % held", share * 100.0);
    }
    text
}
