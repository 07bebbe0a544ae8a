//! Keeps the server there: starts it, or uses the one that another process runs, and does so anew when it
//! ends before its time.

use std::{fs, path::Path, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    DATABASE, EmbeddedError, cluster::Cluster, postmaster::Postmaster, programs::Programs, socket::Socket,
};

/// How long a server that was killed or told to stop may stand in the way of the next: the children of a
/// killed one take about 1.5 s to notice, a stopping one writes out its memory.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_PAUSE: Duration = Duration::from_millis(100);

/// Between two looks at a server that another process runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Before a server that ended is started anew: at first, and at most.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// SQLSTATE duplicate_database.
const DUPLICATE_DATABASE: &str = "42P04";

/// A server in use: our own, or another process's.
#[derive(Debug)]
pub(super) enum Hold {
    Own(Box<Postmaster>),
    /// A session that tells when the server ends.
    Borrowed(PgConnection),
}

impl Hold {
    /// The server of `cluster`, taking connections, with our database in it. When it returns an error, that
    /// of `cancel` included, a server that it started has ended again.
    pub async fn take(cluster: &mut Cluster, cancel: &CancellationToken) -> Result<Hold, EmbeddedError> {
        let prepared = cancel.run_until_cancelled(async {
            let lock = cluster.lock().await?;
            if let Some(hold) = borrow(cluster).await {
                return Ok((lock, Err(hold)));
            }
            let programs = cluster.programs().await?;
            cluster.hand_over().await?;
            cluster.create(&programs, &lock).await?;
            Ok((lock, Ok(programs)))
        });
        let (_lock, found) = prepared.await.ok_or(EmbeddedError::Cancelled)??;
        let hold = match found {
            Ok(programs) => start(cluster, &programs, cancel).await?,
            Err(running) => running,
        };
        match cancel.run_until_cancelled(make_database(cluster.socket())).await {
            Some(Ok(())) => Ok(hold),
            Some(Err(source)) => hold.stop().await.and(Err(EmbeddedError::Database { source })),
            None => hold.stop().await.and(Err(EmbeddedError::Cancelled)),
        }
    }

    /// Returns when the server has ended.
    async fn ended(&mut self) {
        match self {
            Hold::Own(postmaster) => {
                let _ = postmaster.ended().await;
            }
            Hold::Borrowed(session) => {
                while session.ping().await.is_ok() {
                    sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    async fn stop(self) -> Result<(), EmbeddedError> {
        match self {
            Hold::Own(postmaster) => postmaster.stop().await,
            Hold::Borrowed(_) => Ok(()),
        }
    }
}

/// Keeps a server there until `stopping`, then stops it if it is ours.
pub(super) async fn keep(
    mut cluster: Cluster,
    mut hold: Hold,
    stopping: CancellationToken,
) -> Result<(), EmbeddedError> {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return hold.stop().await,
            () = hold.ended() => {}
        }
        drop(hold);
        tracing::warn!(data_dir = %cluster.data_dir().display(), "the embedded PostgreSQL ended; starting it anew");
        hold = match take_again(&mut cluster, &stopping).await {
            Some(hold) => hold,
            None => return Ok(()),
        };
    }
}

/// Tries until it succeeds, ever more slowly; `None` once `stopping`.
async fn take_again(cluster: &mut Cluster, stopping: &CancellationToken) -> Option<Hold> {
    let mut pause = SHORTEST_PAUSE;
    loop {
        stopping.run_until_cancelled(sleep(pause)).await?;
        match Hold::take(cluster, stopping).await {
            Ok(hold) => return Some(hold),
            Err(EmbeddedError::Cancelled) => return None,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the embedded PostgreSQL does not start");
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Starts the server, or finds that another process did.
async fn start(
    cluster: &mut Cluster,
    programs: &Programs,
    cancel: &CancellationToken,
) -> Result<Hold, EmbeddedError> {
    let deadline = Instant::now() + LINGER_TIMEOUT;
    loop {
        // It is PostgreSQL's alone to judge whether this file is stale.
        let in_the_way = cluster.data_dir().join("postmaster.pid").exists();
        let access = cluster.access().await?;
        let mut postmaster = Box::new(Postmaster::spawn(cluster, programs, &access)?);
        match cancel.run_until_cancelled(postmaster.ready(cluster)).await {
            Some(Ok(())) => return Ok(Hold::Own(postmaster)),
            Some(Err(EmbeddedError::Ended { .. })) if in_the_way && Instant::now() < deadline => {}
            Some(Err(error)) => return postmaster.stop().await.and(Err(error)),
            None => return postmaster.stop().await.and(Err(EmbeddedError::Cancelled)),
        }
        cancel.run_until_cancelled(sleep(LINGER_PAUSE)).await.ok_or(EmbeddedError::Cancelled)?;
        if let Some(hold) = borrow(cluster).await {
            return Ok(hold);
        }
    }
}

/// A session with the server that runs on the data directory already, if one does.
async fn borrow(cluster: &mut Cluster) -> Option<Hold> {
    let socket = Socket::in_use(cluster.data_dir())?;
    let mut session = socket.connect("postgres").await.ok()?;
    let served: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut session).await.ok()?;
    let is_ours = fs::canonicalize(Path::new(&served)).ok()? == fs::canonicalize(cluster.data_dir()).ok()?;
    is_ours.then(|| {
        cluster.listens_at(socket);
        Hold::Borrowed(session)
    })
}

async fn make_database(socket: &Socket) -> Result<(), sqlx::Error> {
    let mut session = socket.connect("postgres").await?;
    let exists: Option<i32> = sqlx::query_scalar("SELECT 1 FROM pg_database WHERE datname = $1")
        .bind(DATABASE)
        .fetch_optional(&mut session)
        .await?;
    if exists.is_none() {
        let create = AssertSqlSafe(format!("CREATE DATABASE {DATABASE}"));
        match sqlx::query(create).execute(&mut session).await {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(DUPLICATE_DATABASE) => {}
            other => {
                other?;
            }
        }
    }
    session.close().await
}
