//! A way to a database that can be cut and led elsewhere, as an operator's proxy or address does at a failover.

use std::net::SocketAddr;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Connections go to the target of the moment and end when it changes; without one they end at once.
pub struct Relay {
    address: SocketAddr,
    target: watch::Sender<Option<PgConnectOptions>>,
    silence: watch::Sender<()>,
    swallowed: watch::Sender<Option<&'static str>>,
    task: JoinHandle<()>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Relay {
    pub async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = watch::Sender::new(Some(url.parse().unwrap()));
        let targets = target.subscribe();
        let silence = watch::Sender::new(());
        let silences = silence.subscribe();
        let swallowed = watch::Sender::new(None);
        let words = swallowed.subscribe();
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(relay(client, targets.clone(), silences.clone(), words.clone()));
            }
        });
        Self { address, target, silence, swallowed, task }
    }

    /// The address of the database behind `url`, by way of this relay.
    pub fn url(&self, url: &str) -> String {
        let mut url = reqwest::Url::parse(url).unwrap();
        url.set_query(Some("sslmode=disable"));
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }

    /// Ends all connections and takes no more.
    pub fn cut(&self) {
        self.target.send_replace(None);
    }

    /// Nothing goes over the connections that there are any more, and they do not end; new ones are as before.
    pub fn fall_silent(&self) {
        self.silence.send_replace(());
    }

    /// Nothing goes any more over a connection on which the client sends a statement with these words (which ends
    /// without `None`), old ones and new ones alike; the others are as before.
    pub fn swallow(&self, words: Option<&'static str>) {
        self.swallowed.send_replace(words);
    }

    /// Ends all connections; new ones go to the server of `url`.
    pub fn lead_to(&self, url: &str) {
        self.target.send_replace(Some(url.parse().unwrap()));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(
    client: TcpStream,
    mut targets: watch::Receiver<Option<PgConnectOptions>>,
    mut silences: watch::Receiver<()>,
    words: watch::Receiver<Option<&'static str>>,
) {
    let Some(target) = targets.borrow_and_update().clone() else { return };
    silences.mark_unchanged();
    let Ok(server) = connect(&target).await else { return };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let silent = tokio::select! {
        // A connection that breaks ends both ways.
        _ = copy(&mut from_server, &mut to_client) => false,
        silent = forward(&mut from_client, &mut to_server, &words) => silent,
        _ = targets.changed() => false,
        _ = silences.changed() => true,
    };
    if silent {
        // What goes on at the server goes on: its end is not told.
        let _ = targets.changed().await;
    }
}

/// Hands on what the client sends, up to a piece with the words that are swallowed; returns whether there was one.
async fn forward(
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    words: &watch::Receiver<Option<&'static str>>,
) -> bool {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length) = client.read(&mut piece).await
        && length > 0
    {
        let swallowed = *words.borrow();
        if swallowed
            .is_some_and(|words| piece[..length].windows(words.len()).any(|part| part == words.as_bytes()))
        {
            return true;
        }
        if server.write_all(&piece[..length]).await.is_err() || server.flush().await.is_err() {
            break;
        }
    }
    false
}

async fn connect(target: &PgConnectOptions) -> std::io::Result<Box<dyn Stream>> {
    Ok(match target.get_socket() {
        Some(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", target.get_port()));
            Box::new(UnixStream::connect(path).await?)
        }
        None => Box::new(TcpStream::connect((target.get_host(), target.get_port())).await?),
    })
}
