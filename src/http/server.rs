//! Connections of the HTTP server, all of them bounded: how many there are, how long each may idle or take for a
//! request's head, how large that may be, and how long each lives.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at once. Others wait in the listener's queue until one of these ends.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may idle and take for the head of its next request, both together. Those who probe or scrape
/// more rarely connect anew.
const HEAD_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a request's head, and of what is read or written at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long a connection lives, whatever its client does: one may read an answer a byte at a time.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// How long the answer that is under way then may take.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// Pause after a failed accept: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until cancelled; then returns once the answers under way are given.
pub(super) async fn serve(listener: TcpListener, router: Router, cancel: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = cancel.cancelled() => break,
        };
        let Some((stream, place)) = accepted else { break };
        while connections.try_join_next().is_some() {}
        connections.spawn(converse(stream, place, router.clone(), cancel.clone()));
    }
    while connections.join_next().await.is_some() {}
}

/// The next connection, once there is room for it; `None` never comes, as the room is not closed.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some((stream, place)),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    router: Router,
    cancel: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // However it ended, its client knows.
        _ = &mut connection => return,
        () = cancel.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_LIFE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
}
