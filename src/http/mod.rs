//! Health, readiness, metrics and status on `http.listen`. Nothing here shows message text, phone numbers or
//! secrets.

mod api;
mod metrics;
mod reach;
mod server;
mod status;

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use chrono::TimeDelta;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::availability::{self, Availability};
use crate::api::model::Stream;
use crate::clock;
use crate::store::{Outage, Reach, SchemaState, Store, StoreError};
use crate::sync::progress::Progress;
use crate::telemetry;

pub use api::ApiReport;
pub use status::Report;

/// How long a page waits for the database: less than those who probe and scrape wait for the page.
const DATABASE_WITHIN: Duration = Duration::from_secs(3);
/// How long writes may fail before the daemon is no longer ready.
const DATABASE_PATIENCE: TimeDelta = TimeDelta::seconds(3);

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("http.listen {address} cannot be used; is another process listening there?")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the metrics recorder could not be installed")]
    Metrics(#[source] metrics::InstallError),
}

/// Says why nothing is read, if so.
pub type Objection = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// What the pages are made from. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    store: Store,
    progress: Arc<Progress>,
    availability: Arc<Availability>,
    leads: Arc<AtomicBool>,
    /// How far each line reached when the database told it last.
    reaches: Arc<Mutex<Vec<(Stream, String, Reach)>>>,
    objection: Objection,
}

impl Service {
    /// `objection`: why nothing is read with the API key, at the moment.
    pub fn new(
        store: Store,
        progress: Arc<Progress>,
        availability: Arc<Availability>,
        objection: Objection,
    ) -> Self {
        Self { store, progress, availability, leads: Arc::default(), reaches: Arc::default(), objection }
    }

    /// Notes whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leads.store(leads, Relaxed);
    }

    /// Why the database takes no writes. A write that is tried again once or twice is no outage.
    fn outage(&self) -> Option<Outage> {
        self.store.outage().filter(|outage| clock::now() - outage.since > DATABASE_PATIENCE)
    }

    /// Why nothing is read with the API key.
    fn objection(&self) -> Option<String> {
        (self.objection)()
    }

    async fn readiness(&self) -> Result<String, String> {
        if let Some(reason) = self.objection() {
            return Err(reason);
        }
        match in_time(self.store.schema_state()).await {
            Ok(SchemaState::Current) => {}
            Err(reason) => {
                // Whoever writes may know more than that nothing came in time.
                return Err(match self.store.outage() {
                    None => reason,
                    Some(outage) => {
                        format!("the database does not answer since {}: {}", outage.since, outage.error)
                    }
                });
            }
            Ok(SchemaState::Newer(_)) => {
                return Err("the schema is newer than this program: run a newer heymarket-sync".to_owned());
            }
            _ => return Err("the schema is not current: run `heymarket-sync migrate`".to_owned()),
        }
        if let Some(outage) = self.outage() {
            return Err(format!("the database takes no writes since {}: {}", outage.since, outage.error));
        }
        let part = if self.leads.load(Relaxed) { "leading" } else { "standing by" };
        let mut body = format!("ready, {part}");
        for outage in self.api().iter().flat_map(|api| &api.outages) {
            let (of, since, error) = (outage.scope.name(), outage.since, telemetry::chain(&outage.error));
            // Writing to a string does not fail.
            let _ = write!(body, "; {of} cannot be read since {since}: {error}");
        }
        body.push('\n');
        Ok(body)
    }

    /// Remembers how far each line reaches.
    fn reaches_told(&self, told: Vec<(Stream, String, Reach)>) -> Vec<(Stream, String, Reach)> {
        self.reaches.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&told);
        told
    }

    fn reaches_told_last(&self) -> Vec<(Stream, String, Reach)> {
        self.reaches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the API answers; `None` while standing by, when it is not asked.
    fn api(&self) -> Option<availability::Report> {
        self.leads.load(Relaxed).then(|| self.availability.report())
    }
}

/// What the database says, or in words why it says nothing.
async fn in_time<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, String> {
    match tokio::time::timeout(DATABASE_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(telemetry::chain(&error)),
        Err(_) => Err(format!("the database does not answer within {} s", DATABASE_WITHIN.as_secs())),
    }
}

/// Serves until cancelled, with bounds on connections (`server`). Port 0 takes a free one; the address in use comes back.
pub async fn serve(
    address: SocketAddr,
    service: Service,
    cancel: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>), HttpError> {
    let listen = |source| HttpError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let exporter = metrics::install().map_err(HttpError::Metrics)?;
    let metrics_service = service.clone();
    let router = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/status", get(status_page))
        .route("/metrics", get(async move || metrics::page(&exporter, &metrics_service).await))
        .with_state(service);
    Ok((address, tokio::spawn(server::serve(listener, router, cancel))))
}

async fn readyz(State(service): State<Service>) -> Response {
    match service.readiness().await {
        Ok(body) => body.into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status_page(State(service): State<Service>) -> Response {
    match in_time(Report::read(&service.store)).await {
        Ok(mut report) => {
            report.api = service.api().map(ApiReport::from);
            report.key_refused = service.objection();
            Json(report).into_response()
        }
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
