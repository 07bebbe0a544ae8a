//! Outages of the database: the daemon lives on, says so, and catches up.

use std::net::SocketAddr;
use std::time::Duration;

use heymarket_sync::sandbox::SandboxOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use super::{EQUAL, Rig, VERB, reached, ready, team, traffic};

#[tokio::test(flavor = "multi_thread")]
async fn the_database_may_end_every_session_during_a_fill() {
    let latency = Duration::from_millis(20);
    let rig = Rig::with(SandboxOptions { team: team(3_000), latency, ..SandboxOptions::default() }).await;
    let rig = rig.set("HEYMARKET_SYNC__API__PAGE_SIZE", "20");
    let daemon = rig.start(&["run"]);
    for pages in [5, 30, 80] {
        reached("pages", EQUAL, async || rig.pages() >= pages).await.unwrap();
        let ended: i64 = sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'heymarket-sync'",
        )
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        assert!(ended > 0);
    }
    rig.equal().await;
    rig.complete(&daemon).await;
    ready(&daemon, &["ready, leading\n"], VERB).await;
    rig.stop(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_may_be_away() {
    let rig = Rig::new(500).await;
    let database: PgConnectOptions = rig.database.url().parse().unwrap();
    let mut relay = Relay::start("127.0.0.1:0".parse().unwrap(), database.clone()).await;
    let mut url = reqwest::Url::parse(rig.database.url()).unwrap();
    url.set_query(Some("sslmode=disable"));
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(relay.address.port())).unwrap();
    let rig = rig.set("DATABASE_URL", url.as_str());
    let daemon = rig.start(&["run"]);
    rig.equal().await;
    rig.complete(&daemon).await;
    let lag = "\nheymarket_sync_lag_seconds{stream=\"messages\"} ";
    assert!(daemon.get("/metrics").await.body.contains(lag));
    let listen = daemon.address().await.to_string();
    let asked = rig.environment.iter().cloned().chain([("HEYMARKET_SYNC__HTTP__LISTEN".to_owned(), listen)]);
    let environment: Vec<_> = asked.collect();
    let healthcheck = || super::Process::start(&["healthcheck"], &environment).ended(VERB);
    assert_eq!(healthcheck().await.code(), Some(0));

    let address = relay.address;
    relay.stop();
    traffic(rig.source());
    let unready = async || daemon.get("/readyz").await.status == 503;
    reached("not ready", VERB, unready).await.unwrap();
    assert_eq!(daemon.get("/healthz").await.status, 200);
    assert_eq!(daemon.get("/status").await.status, 503);
    let metrics = daemon.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("\nheymarket_sync_database_up 0\n"), "{}", metrics.body);
    assert!(metrics.body.contains(lag), "the lag is told, and grows: {}", metrics.body);
    let ended = healthcheck().await;
    assert_eq!(ended.code(), Some(1));
    assert!(ended.stderr.contains("/readyz: the database does not answer"), "{}", ended.stderr);

    let _relay = Relay::start(address, database).await;
    rig.equal().await;
    ready(&daemon, &["ready, leading\n"], EQUAL).await;
    rig.stop(daemon).await;
}

/// A way to the database that can be cut.
struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(listen: SocketAddr, database: PgConnectOptions) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // Dropped with this task: then all connections end.
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(relay(client, database.clone()));
            }
        });
        Self { address, task }
    }

    fn stop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn relay(client: TcpStream, database: PgConnectOptions) {
    match database.get_socket() {
        Some(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", database.get_port()));
            join(client, UnixStream::connect(path).await.unwrap()).await;
        }
        None => {
            let address = (database.get_host().to_owned(), database.get_port());
            join(client, TcpStream::connect(address).await.unwrap()).await;
        }
    }
}

/// A connection that breaks ends both ways.
async fn join(mut client: TcpStream, mut server: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
