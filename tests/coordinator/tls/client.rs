//! How a client tells a coordinator that is away from one that is there and does not serve it: it comes back to the first
//! at once, and gives the second time.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::de::IgnoredAny;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use tfo_testbed::pki::{Ca, client_config, server_config};
use tfo_wire::client::{Call, Client, ClientError, Lost};

/// What the other end does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It does not listen any more.
    Away,
    /// It closes it unread, as a coordinator does that has no place.
    Refused,
    /// It reads the request and ends, as one does that is killed.
    Killed,
    /// It reads the request and says nothing.
    Silent,
}

async fn lost(end: End) -> Lost {
    let ca = Ca::new("ca");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&ca.pem, None, &ca.both(&["localhost"]))));
    let mut peer = tokio::task::JoinSet::new();
    peer.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        if end == End::Refused {
            return;
        }
        let mut stream = acceptor.accept(stream).await.unwrap();
        assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0);
        if end == End::Silent {
            std::future::pending().await
        }
    });
    if end == End::Away {
        // Its socket is closed then.
        peer.shutdown().await;
    }
    let client = Client::new(client_config(&ca.pem, Some(&ca.client(&["cp1.example.org"])))).unwrap();
    let timeout = if end == End::Silent { Duration::from_millis(500) } else { tfo_testbed::SOON };
    let call = Call { method: &Method::GET, path: "/v1/pools", timeout, answer_bytes_max: 1_024 };
    let answer = client.call::<(), IgnoredAny>(&url, call, None).await;
    let Err(ClientError::Unreachable { lost, .. }) = answer else { panic!("{end:?}: {answer:?}") };
    lost
}

#[tokio::test]
async fn what_is_away_is_told_from_what_does_not_serve() {
    assert_eq!(lost(End::Away).await, Lost::Away);
    assert_eq!(lost(End::Killed).await, Lost::Away);
    assert_eq!(lost(End::Refused).await, Lost::NoConnection);
    assert_eq!(lost(End::Silent).await, Lost::Late);
}
