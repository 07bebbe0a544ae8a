//! The reading of one key at a time: its type, its range, and what is said where it does not fit.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use humantime::format_duration;
use reqwest::Url;
use toml::Value;

use super::{
    LogFormat, Recheck,
    error::Problem,
    secret,
    sources::{Layers, nearest},
};
use crate::clock;

/// As `humantime` counts it.
const YEAR: Duration = Duration::from_secs(31_557_600);

/// Each entry is a pass of its own over its stream.
const MAX_RECHECKS: usize = 16;

const OUT_OF_RANGE: &str = "out of range";

/// A longer value is cut in messages.
const MAX_SHOWN_CHARS: usize = 120;

/// Reads the keys of `layers` and collects what is wrong with them.
///
/// A value that does not fit is reported, and its default stands in for it, so that the rest can be read too.
pub(super) struct Reader<'a> {
    pub layers: &'a Layers,
    pub working_dir: &'a Path,
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    pub fn boolean(&mut self, key: &str) -> bool {
        self.read(key, "true or false", |value| value.as_bool().ok_or_else(|| "not true or false".into()))
    }

    pub fn integer(&mut self, key: &str, range: RangeInclusive<u32>) -> u32 {
        let form = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, &form, |value| {
            let number = value.as_integer().ok_or("not a whole number")?;
            within(u32::try_from(number).map_err(|_| OUT_OF_RANGE)?, &range)
        })
    }

    pub fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Duration {
        self.read(key, &duration_form(&range), |value| duration(value, &range))
    }

    /// Bytes, 64 KiB to 1 GiB.
    pub fn body_size(&mut self, key: &str) -> u64 {
        let form = r#"a size from "64KiB" to "1GiB": a number of bytes, or a number with KiB, MiB, GiB, kB, MB or GB"#;
        self.read(key, form, |value| {
            let size = match value {
                Value::Integer(number) => u64::try_from(*number).ok(),
                value => value.as_str().and_then(size),
            };
            within(size.ok_or("not a size")?, &(64 << 10..=1 << 30))
        })
    }

    pub fn base_url(&mut self, key: &str) -> Url {
        let form = r#"an http or https address without user and password, like "https://api.heymarket.com""#;
        self.read(key, form, base_url)
    }

    pub fn socket_address(&mut self, key: &str) -> SocketAddr {
        let form = r#"IP address and port, like "127.0.0.1:8080", "0.0.0.0:8080" or "[::1]:8080"; port 0 takes a free one"#;
        self.read(key, form, |value| text(value)?.parse().map_err(|_| "not an IP address and port".into()))
    }

    pub fn log_format(&mut self, key: &str) -> LogFormat {
        self.read(key, r#""auto", "json" or "text""#, |value| match text(value)? {
            "auto" => Ok(LogFormat::Auto),
            "json" => Ok(LogFormat::Json),
            "text" => Ok(LogFormat::Text),
            _ => Err("not a log format".into()),
        })
    }

    pub fn time(&mut self, key: &str) -> Option<DateTime<Utc>> {
        let form = r#"a date like "2024-01-31" (midnight UTC), an RFC 3339 time like "2024-01-31T08:00:00Z", or "" for everything"#;
        self.read(key, form, |value| match value {
            Value::Datetime(time) => time_of(&time.to_string()).map(Some),
            value => Some(text(value)?).filter(|text| !text.is_empty()).map(time_of).transpose(),
        })
    }

    /// A path, from the working directory where it is relative; `None` where it is "".
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        let working_dir = self.working_dir;
        self.read(key, "a path", |value| {
            let path = text(value)?;
            if path.contains('\0') {
                return Err("a path can't hold a NUL character".into());
            }
            Ok((!path.is_empty()).then(|| working_dir.join(path)))
        })
    }

    pub fn rechecks(&mut self, key: &str) -> Vec<Recheck> {
        let form = format!(r#"a list of at most {MAX_RECHECKS} tables, like [{{window="1h", every="1m"}}]"#);
        let entries = self.read(key, &form, |value| match value.as_array() {
            Some(entries) if entries.len() > MAX_RECHECKS => Err("too many entries".into()),
            Some(entries) => Ok(entries.clone()),
            None => Err("not a list".into()),
        });
        let entries = entries.iter().enumerate();
        entries.filter_map(|(index, entry)| self.recheck(key, &format!("{key}[{index}]"), entry)).collect()
    }

    fn recheck(&mut self, key: &str, path: &str, entry: &Value) -> Option<Recheck> {
        const FIELDS: [&str; 2] = ["window", "every"];
        let Some(table) = entry.as_table() else {
            self.bad(key, path, Some(entry), "not a table".into(), r#"like {window="1h", every="1m"}"#);
            return None;
        };
        for name in table.keys().filter(|name| !FIELDS.contains(&name.as_str())) {
            self.problems.push(Problem::UnknownKey {
                key: format!("{path}.{name}"),
                origin: self.layers.given(key).origin.clone(),
                suggestion: nearest(name, FIELDS.into_iter()).map(str::to_owned),
            });
        }
        let [window, every] = [("window", 100 * YEAR), ("every", YEAR)].map(|(name, longest)| {
            let range = Duration::from_secs(1)..=longest;
            let value = table.get(name);
            let read = value.ok_or_else(|| "missing".to_owned()).and_then(|value| duration(value, &range));
            read.map_err(|reason| {
                self.bad(key, &format!("{path}.{name}"), value, reason, &duration_form(&range))
            })
        });
        Some(Recheck { window: window.ok()?, every: every.ok()? })
    }

    pub fn read<T>(&mut self, key: &str, form: &str, parse: impl Fn(&Value) -> Result<T, String>) -> T {
        let value = &self.layers.given(key).value;
        parse(value).unwrap_or_else(|reason| {
            self.bad(key, key, Some(value), reason, form);
            parse(self.layers.default(key))
                .expect("invariant: the values of config/default.toml are valid; a test loads them alone")
        })
    }

    /// Reports `value` at `path`, which lies in `key` or is `key`.
    fn bad(&mut self, key: &str, path: &str, value: Option<&Value>, reason: String, form: &str) {
        self.problems.push(Problem::BadValue {
            key: path.to_owned(),
            value: value.filter(|value| !secret::may_show_secret(key, value)).map(cut),
            origin: self.layers.given(key).origin.clone(),
            reason,
            form: form.to_owned(),
        });
    }
}

/// The text of a value that must be text.
pub(super) fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "not text in quotes".into())
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>) -> Result<T, String> {
    if range.contains(&value) { Ok(value) } else { Err(OUT_OF_RANGE.into()) }
}

fn duration(value: &Value, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let parsed = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
    within(parsed.ok_or("not a duration")?, range)
}

fn duration_form(range: &RangeInclusive<Duration>) -> String {
    let [shortest, longest] = [range.start(), range.end()].map(|bound| format_duration(*bound).to_string());
    format!(r#"a duration from "{shortest}" to "{longest}", like "30s", "15m", "2h" or "1d""#)
}

/// Bytes: `1048576`, `1024KiB`, `1 MiB`; decimal and binary units, whole numbers.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn base_url(value: &Value) -> Result<Url, String> {
    let url = Url::parse(text(value)?).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("not an http or https address".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password in the address; credentials have keys of their own".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a query (?) or fragment (#) in the address".into());
    }
    Ok(url)
}

fn time_of(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(date.and_time(NaiveTime::MIN).and_utc());
    }
    let time =
        DateTime::parse_from_rfc3339(text).map_err(|_| "not a date or a time with its offset from UTC")?;
    Ok(clock::floor_to_micros(time.to_utc()))
}

/// The value as TOML on one line, cut where it is long.
fn cut(value: &Value) -> String {
    // A multi-line TOML string would break the rule of one line per problem.
    let shown = match value {
        Value::String(text) => format!("{text:?}"),
        value => value.to_string().replace(['\n', '\r'], " "),
    };
    match shown.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &shown[..end]),
        None => shown,
    }
}
