//! Answers that no API should give, and connections that break.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test]
async fn a_page_that_is_no_page_is_asked_again() {
    for broken in ["<html>busy</html>", "", "[{\"id\":1},"] {
        let server =
            Server::start(move |seen| answer(200, &[], if seen.number == 0 { broken } else { "[1]" })).await;
        let response = page(&server.client()).await.unwrap();
        assert_eq!((&response.body[..], response.attempts), (&b"[1]"[..], 2), "{broken:?}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&settings(listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        let whole = "connection: close\r\ncontent-length: 3\r\n\r\n[2]";
        let broken = "content-length: 99\r\n\r\n[1,";
        for (answer, reset) in [(broken, false), (whole, false), (broken, true), (whole, false)] {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(br#"{"limit":200}"#) {
                assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0);
            }
            socket.write_all(format!("HTTP/1.1 200 OK\r\n{answer}").as_bytes()).await.unwrap();
            if reset {
                socket.set_zero_linger().unwrap();
            }
        }
    });
    for _ in 0..2 {
        let response = page(&client).await.unwrap();
        assert_eq!((&response.body[..], response.attempts), (&b"[2]"[..], 2));
    }
}

#[tokio::test]
async fn a_slow_answer_is_asked_for_again() {
    let server = Server::start_async(|seen| match seen.number {
        0 => Box::pin(std::future::pending()),
        _ => Box::pin(std::future::ready(answer(200, &[], "[]"))),
    })
    .await;
    let client = Client::new(&Api { timeout: Duration::from_millis(500), ..server.settings() }).unwrap();
    assert!(page(&client).await.unwrap().attempts >= 2);
}

#[tokio::test]
async fn a_body_may_be_compressed() {
    let rows = format!("[{}1]", "1,".repeat(10_000));
    let body = rows.clone();
    let server =
        Server::start(move |_| answer(200, &[("content-type", "application/json")], body.clone())).await;
    assert_eq!(page(&server.client()).await.unwrap().body, rows);
    assert_eq!(server.seen()[0].headers["accept-encoding"], "gzip");
}

#[tokio::test]
async fn a_body_above_the_cap_is_refused_compressed_or_not() {
    for encoding in ["application/json", "image/png"] {
        // The server compresses JSON, not images.
        let server = Server::start(move |_| {
            let body = format!("[{}1]", "1,".repeat(1_000_000));
            answer(200, &[("content-type", encoding), ("x-request-id", "r-big")], body)
        })
        .await;
        let error = page(&server.client()).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::TooLarge, 1), "{encoding}");
        assert_eq!(error.request_id(), Some("r-big"));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_no_credential_leaves() {
    let other = Server::start(|_| answer(200, &[], "[]")).await;
    let target = format!("http://localhost:{}/v1/steal?x=secret-path", other.address.port());
    let server = Server::start(move |_| answer(307, &[("location", &target)], "")).await;
    let error = page(&server.client()).await.unwrap_err();
    assert_eq!((error.kind(), error.status(), error.attempts()), (ErrorKind::Redirect, Some(307), 1));
    assert!(error.to_string().contains("\"localhost\"") && !error.to_string().contains("steal"), "{error}");
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn a_body_without_end_is_read_to_the_cap_and_no_further() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings(listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(br#"{"limit":200}"#) {
            assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0);
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\nx-request-id: r-endless\r\n\r\n[").await.unwrap();
        let mut sent = 0;
        // Ends only when the client hangs up.
        while socket.write_all(&[b'1'; 65_536]).await.is_ok() {
            sent += 65_536;
        }
        sent
    });
    let client = Client::new(&settings).unwrap();
    let error = page(&client).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::TooLarge, 1));
    assert_eq!(error.request_id(), Some("r-endless"));
    // What lies in the buffers of two sockets was sent without being read.
    let sent = server.await.unwrap();
    assert!(sent >= settings.max_body && sent < settings.max_body + (64 << 20), "{sent}");
}

#[tokio::test]
async fn a_certificate_that_nobody_signed_and_a_port_without_tls_are_said() {
    let server = Server::start(|_| answer(200, &[], "[]")).await;
    for address in [support::tls::tls_before(server.address).await, server.address] {
        let base_url = format!("https://localhost:{}", address.port()).parse().unwrap();
        let client = Client::new(&Api { base_url, ..server.settings() }).unwrap();
        let error = page(&client).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts(), error.is_outage()), (ErrorKind::Tls, 1, true));
    }
    assert_eq!(server.seen().len(), 0);
}
