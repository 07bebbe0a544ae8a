//! How far the proof reaches, as Prometheus text. Not by the recorder, which would go on telling of lines that have
//! ended.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use crate::api::model::Stream;
use crate::store::{Reach, covered_to};

/// The samples of `lines`, each metric with its HELP and TYPE.
pub fn text(lines: &[(Stream, String, Reach)], now: DateTime<Utc>) -> String {
    let lag = Stream::ALL.iter().filter_map(|stream| {
        let reaches = lines.iter().filter(|(of, ..)| of == stream).map(|(.., reach)| reach);
        let to = covered_to(reaches)?;
        Some((format!("stream=\"{stream}\""), (now - to).as_seconds_f64().max(0.0)))
    });
    let of_lines = |value: fn(&Reach) -> Option<f64>| {
        let samples = lines.iter().filter_map(move |(stream, line, reach)| {
            Some((format!("stream=\"{stream}\",line=\"{line}\""), value(reach)?))
        });
        samples.collect::<Vec<_>>()
    };
    let mut text = String::new();
    gauge(
        &mut text,
        "heymarket_sync_lag_seconds",
        "Seconds since the time up to which all of the stream is proved to be held; absent until its history is.",
        lag,
    );
    gauge(
        &mut text,
        "heymarket_sync_covered_to_timestamp_seconds",
        "Unix time in seconds up to which all that is wanted of the line is proved to be held; absent until its oldest is.",
        of_lines(|reach| reach.covered_to.map(|to| to.timestamp_micros() as f64 / 1e6)),
    );
    gauge(
        &mut text,
        "heymarket_sync_gaps",
        "Stretches of the line below the newest held time that are still to be read.",
        of_lines(|reach| Some(reach.gaps as f64)),
    );
    gauge(
        &mut text,
        "heymarket_sync_complete",
        "1 if all that is wanted of the line, up to the newest held time, is held; else 0.",
        of_lines(|reach| Some(f64::from(u8::from(reach.complete)))),
    );
    text
}

fn gauge(text: &mut String, name: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{{{labels}}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_and_stream_has_its_samples() {
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let reach =
            |second: Option<i64>, gaps| Reach { covered_to: second.map(at), gaps, complete: gaps == 0 };
        let lines = [
            (Stream::Messages, "date".to_owned(), reach(Some(100), 0)),
            (Stream::Messages, "updated".to_owned(), reach(Some(90), 1)),
            (Stream::Contacts, "updated".to_owned(), reach(None, 1)),
        ];
        let text = text(&lines, at(105));
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "heymarket_sync_lag_seconds{stream=\"messages\"} 15",
                "heymarket_sync_covered_to_timestamp_seconds{stream=\"messages\",line=\"date\"} 100",
                "heymarket_sync_covered_to_timestamp_seconds{stream=\"messages\",line=\"updated\"} 90",
                "heymarket_sync_gaps{stream=\"messages\",line=\"date\"} 0",
                "heymarket_sync_gaps{stream=\"messages\",line=\"updated\"} 1",
                "heymarket_sync_gaps{stream=\"contacts\",line=\"updated\"} 1",
                "heymarket_sync_complete{stream=\"messages\",line=\"date\"} 1",
                "heymarket_sync_complete{stream=\"messages\",line=\"updated\"} 0",
                "heymarket_sync_complete{stream=\"contacts\",line=\"updated\"} 0",
            ]
        );
    }
}
