//! `heymarket-sync healthcheck`: asks the daemon on this machine whether it is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Settings;

use super::CliError;

const WITHIN: Duration = Duration::from_secs(5);
/// More of the answer is not read.
const MAX_ANSWER: u64 = 64 * 1024;

pub async fn run(settings: &Settings) -> Result<(), CliError> {
    let address = local(settings.http.listen);
    let failed = |what: String| CliError::Failed(format!("http://{address}/readyz: {what}"));
    let answer = tokio::time::timeout(WITHIN, ask(address))
        .await
        .map_err(|_| failed(format!("no answer within {} s", WITHIN.as_secs())))?
        .map_err(|error| failed(format!("{error}; is the daemon running?")))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    if head.split_whitespace().nth(1) == Some("200") {
        println!("{}", body.trim());
        return Ok(());
    }
    Err(failed(body.trim().to_owned()))
}

/// Where a daemon that listens on `address` is reached from this machine.
fn local(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}
