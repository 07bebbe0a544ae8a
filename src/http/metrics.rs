//! `/metrics`: Prometheus text.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;

use chrono::{DateTime, Utc};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use crate::api::model::Stream;
use crate::clock;

use super::{Service, in_time, reach};

pub type InstallError = BuildError;

const ROWS_READ: &str = "heymarket_sync_rows_read_total";
const ROWS_WRITTEN: &str = "heymarket_sync_rows_written_total";
const PAGES: &str = "heymarket_sync_pages_total";
const REJECTED: &str = "heymarket_sync_rows_rejected_total";
const CONTRADICTIONS: &str = "heymarket_sync_contradictions_total";
const REJECTS_OPEN: &str = "heymarket_sync_rejects_open";
const COMMITTED: &str = "heymarket_sync_last_commit_timestamp_seconds";
const API_UP: &str = "heymarket_sync_api_up";
const ENDPOINT_UP: &str = "heymarket_sync_api_endpoint_up";
const OUTAGE_SECONDS: &str = "heymarket_sync_api_outage_seconds";
const LEADER: &str = "heymarket_sync_leader";
const DATABASE_UP: &str = "heymarket_sync_database_up";
const KEY_REFUSED: &str = "heymarket_sync_key_refused";

/// The process's one recorder; installed at the first call.
pub fn install() -> Result<PrometheusHandle, InstallError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new().install_recorder()?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// The page; gauges are read when it is asked for.
pub async fn page(handle: &PrometheusHandle, service: &Service) -> String {
    for stream in Stream::ALL {
        let progress = service.progress.of(stream);
        counter!(ROWS_READ, "stream" => stream.name()).absolute(progress.rows_read.load(Relaxed));
        counter!(ROWS_WRITTEN, "stream" => stream.name()).absolute(progress.rows_written.load(Relaxed));
        counter!(PAGES, "stream" => stream.name()).absolute(progress.requests.load(Relaxed));
        counter!(REJECTED, "stream" => stream.name()).absolute(progress.rejected.load(Relaxed));
        counter!(CONTRADICTIONS, "stream" => stream.name()).absolute(progress.contradictions.load(Relaxed));
        if let Some(at) = progress.committed_at() {
            gauge!(COMMITTED, "stream" => stream.name()).set(seconds(at));
        }
    }
    let api = service.api().unwrap_or_default();
    gauge!(API_UP).set(up(api.outages.is_empty()));
    for stream in Stream::ALL {
        gauge!(ENDPOINT_UP, "stream" => stream.name()).set(up(api.outage_of(stream).is_none()));
    }
    let since = api.outages.iter().map(|outage| outage.since).min();
    let seconds = since.map_or(0.0, |since| (clock::now() - since).as_seconds_f64().max(0.0));
    gauge!(OUTAGE_SECONDS).set(seconds);
    gauge!(LEADER).set(up(service.leads.load(Relaxed)));
    gauge!(KEY_REFUSED).set(up(service.objection().is_some()));
    let (open, reaches) =
        tokio::join!(in_time(service.store.open_rejects()), in_time(service.store.reaches()));
    // What was told last stands while the database says nothing: then the lag grows.
    let reaches = match reaches {
        Ok(told) => service.reaches_told(told),
        Err(_) => service.reaches_told_last(),
    };
    match open {
        Ok(open) => {
            gauge!(DATABASE_UP).set(if service.outage().is_none() { 1.0 } else { 0.0 });
            for stream in Stream::ALL {
                let open = open.get(&stream).copied().unwrap_or(0);
                gauge!(REJECTS_OPEN, "stream" => stream.name()).set(open as f64);
            }
        }
        // The gauge tells it; a scrape that fails altogether would tell less.
        Err(_) => gauge!(DATABASE_UP).set(0.0),
    }
    handle.run_upkeep();
    handle.render() + &reach::text(&reaches, clock::now())
}

/// As a Unix time.
fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

fn up(up: bool) -> f64 {
    if up { 1.0 } else { 0.0 }
}
