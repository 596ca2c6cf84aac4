//! HTTP/2 on both sides, TLS, streams, trailers, pace, redirects as clients see them.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::CertificateKey;
use api_snapshot::config::{Filter, HeaderChanges, NameValue, PathChange, Redirect, Rewrite};
use api_snapshot::facts::{BackendProtocol, Certificate};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use support::{Scripted, Shard, http2_over_tls, listener, rule, status, wait_for};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

type Sender = http2::SendRequest<Empty<Bytes>>;

async fn http2_over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Sender {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn get(uri: &str) -> Request<Empty<Bytes>> {
    Request::get(uri).body(Empty::new()).unwrap()
}

/// A backend that speaks HTTP/2 only and answers with what it saw, and a trailer.
async fn h2c_backend(connections: Arc<AtomicU64>) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(|request: Request<Incoming>| async move {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                trailers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
                let text = format!("{:?} {}", request.version(), request.uri());
                let frames = [
                    Ok::<_, Infallible>(Frame::data(Bytes::from(text))),
                    Ok(Frame::trailers(trailers)),
                ];
                Ok::<_, Infallible>(Response::new(StreamBody::new(futures::stream::iter(
                    frames,
                ))))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_crosses_with_its_trailers() {
    let connections = Arc::new(AtomicU64::new(0));
    let backend = h2c_backend(Arc::clone(&connections)).await;
    let shard = tokio::task::spawn_blocking(move || {
        let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |_| {});
        shard.backend("a", BackendProtocol::H2c, &[backend]);
        drop(shard.connect());
        shard
    })
    .await
    .unwrap();
    let mut client = http2_over(TcpStream::connect(shard.address).await.unwrap()).await;
    // All at once: the first opens the connection, the others wait for it.
    let all = (0..20).map(|_| client.send_request(get("http://a.test/svc/Method")));
    for response in futures::future::join_all(all).await {
        assert_eq!(response.unwrap().status(), 200);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    for _ in 0..20 {
        let request = get("http://a.test/svc/Method?x=1");
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "0");
        assert!(!trailers.contains_key("x-forwarded-for"));
        assert_eq!(body.to_bytes(), "HTTP/2.0 http://a.test/svc/Method?x=1");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    // HTTP/1.1 clients of the same backend.
    let answer = tokio::task::spawn_blocking(move || {
        let answer = shard.connect().get("/one");
        (answer, shard)
    });
    let (answer, _shard) = answer.await.unwrap();
    assert!(answer.contains("HTTP/2.0 http://a.test/one"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn split_cookies_are_joined_and_a_drain_lets_streams_end() {
    let backend = Scripted::ok();
    let address = backend.address;
    let shard = tokio::task::spawn_blocking(move || {
        let shard = Shard::of(address);
        drop(shard.connect());
        shard
    })
    .await
    .unwrap();
    let mut client = http2_over(TcpStream::connect(shard.address).await.unwrap()).await;
    let mut request = get("http://a.test/");
    request
        .headers_mut()
        .append("cookie", HeaderValue::from_static("a=1"));
    request
        .headers_mut()
        .append("cookie", HeaderValue::from_static("b=2"));
    let response = client.send_request(request).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "ok"
    );
    let seen = backend.seen().pop().unwrap();
    assert!(seen.contains("\r\ncookie: a=1; b=2\r\n"), "{seen}");
    assert!(
        shard.plane.drain(Duration::from_secs(5)).await,
        "GOAWAY ends it"
    );
    assert!(client.ready().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_chooses_certificate_and_protocol_and_misdirected_hosts_get_421() {
    let backend = Scripted::ok();
    let address = backend.address;
    let mut roots = rustls::RootCertStore::empty();
    let certificates: Vec<(&str, Certificate)> = ["a.test", "b.test"]
        .into_iter()
        .map(|host| {
            let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
            roots.add(made.cert.der().clone()).unwrap();
            let certificate = Certificate {
                chain: vec![made.cert.der().to_vec()],
                key: made.signing_key.serialize_der(),
                dns_names: vec![host.to_owned()],
                not_after: i64::MAX,
            };
            (host, certificate)
        })
        .collect();
    let shard = tokio::task::spawn_blocking(move || {
        let listeners = vec![
            ("web", listener(Some("a.test"), Some("a.test"))),
            ("other", listener(Some("b.test"), Some("b.test"))),
        ];
        let mut rule = rule("/", &[("a", 1)], vec![]);
        rule.attachments[0].hosts[0].host = Some("a.test".into());
        let shard = Shard::serving(
            listeners,
            vec![rule],
            |_| {},
            |plane| {
                for (name, certificate) in &certificates {
                    let key = CertificateKey::new("shop", name);
                    plane.set_certificate(&key, certificate).unwrap();
                }
            },
        );
        shard.backend("a", BackendProtocol::Http1, &[address]);
        drop(shard.connect());
        shard
    })
    .await
    .unwrap();
    let connector = tokio_rustls::TlsConnector::from(http2_over_tls(roots));
    let open = async |host: &'static str| {
        let stream = TcpStream::connect(shard.address).await.unwrap();
        let name = ServerName::try_from(host).unwrap();
        connector.connect(name, stream).await
    };
    let mut client = http2_over(open("a.test").await.unwrap()).await;
    for (uri, expected) in [
        ("https://a.test/", 200),
        ("https://b.test/", 421),
        ("https://c.test/", 404),
        ("https://a.test/", 200),
    ] {
        let response = client.send_request(get(uri)).await.unwrap();
        assert_eq!(response.status(), expected, "{uri}");
    }
    assert!(backend.seen()[0].contains("\r\nx-forwarded-proto: https\r\n"));
    assert!(open("b.test").await.is_ok());
    assert!(open("c.test").await.is_err(), "no listener takes it");

    // Many at once: one that cannot be used leaves the one before, the others change all the same.
    let broken = Certificate {
        chain: vec![vec![1]],
        key: vec![2],
        dns_names: vec!["a.test".into()],
        not_after: i64::MAX,
    };
    let (a, b) = (
        CertificateKey::new("shop", "a.test"),
        CertificateKey::new("shop", "b.test"),
    );
    let errors = shard
        .plane
        .change_certificates([(&a, Some(&broken)), (&b, None)]);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("a.test"), "{}", errors[0]);
    assert!(open("a.test").await.is_ok());
    assert!(open("b.test").await.is_err());

    // A Gateway that is removed says goodbye.
    shard.plane.remove(&shard.gateway).await;
    wait_for(|| (shard.plane.load().connections == 0).then_some(()));
    assert!(client.ready().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_leaves_ends_its_connections_by_goaway() {
    let backend = Scripted::ok();
    let address = backend.address;
    let shard = tokio::task::spawn_blocking(move || {
        let shard = Shard::of(address);
        drop(shard.connect());
        shard
    })
    .await
    .unwrap();
    let mut client = http2_over(TcpStream::connect(shard.address).await.unwrap()).await;
    let response = client.send_request(get("http://a.test/")).await.unwrap();
    assert_eq!(response.status(), 200);
    let begun = client.send_request(get("http://a.test/"));
    shard.plane.leave(&shard.gateway).await;
    // A request that was on its way is served, or was told not to have been.
    if let Ok(response) = begun.await {
        assert_eq!(response.status(), 200);
    }
    wait_for(|| (shard.plane.load().connections == 0).then_some(()));
    assert!(client.ready().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_holds_back_the_endpoint() {
    const PIECE: usize = 64 * 1024;
    static SENT: AtomicU64 = AtomicU64::new(0);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let service = service_fn(|_: Request<Incoming>| async move {
                let pieces = futures::stream::repeat_with(|| {
                    SENT.fetch_add(PIECE as u64, Ordering::SeqCst);
                    Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[7; PIECE])))
                });
                Ok::<_, Infallible>(Response::new(StreamBody::new(pieces)))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    tokio::task::spawn_blocking(move || {
        let shard = Shard::with(vec![rule("/", &[("a", 1)], vec![])], |config| {
            config.client_idle_timeout = Duration::from_millis(300);
        });
        shard.backend("a", BackendProtocol::Http1, &[backend]);
        let mut client = shard.connect();
        client.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_for(|| (SENT.load(Ordering::SeqCst) > 0).then_some(()));
        // Never read: the limit for clients that do not read ends it.
        wait_for(|| (shard.plane.load().connections == 0).then_some(()));
        let sent = SENT.load(Ordering::SeqCst);
        // What the sockets of both connections hold, and two buffers of ours.
        assert!(sent < 32 << 20, "{sent} bytes were taken from the endpoint");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_do_what_the_specification_says() {
    let backend = Scripted::ok();
    tokio::task::spawn_blocking(move || {
        let pair = |name: &str, value: &str| NameValue {
            name: name.into(),
            value: value.into(),
        };
        let redirect = |scheme: Option<&str>, port| {
            Filter::Redirect(Redirect {
                scheme: scheme.map(str::to_owned),
                hostname: None,
                path: None,
                port,
                status: 301,
            })
        };
        let rewrite = |hostname: Option<&str>, path| {
            Filter::Rewrite(Rewrite {
                hostname: hostname.map(str::to_owned),
                path: Some(path),
            })
        };
        let changes = HeaderChanges {
            set: vec![pair("x-a", "set"), pair("transfer-encoding", "gzip")],
            add: vec![pair("x-b", "2")],
            remove: vec!["x-c".into(), "content-length".into()],
        };
        let response = HeaderChanges {
            set: vec![pair("x-from", "edge")],
            ..HeaderChanges::default()
        };
        let shard = Shard::with(
            vec![
                rule("/plain", &[], vec![redirect(None, None)]),
                rule("/tls", &[], vec![redirect(Some("https"), None)]),
                rule("/port", &[], vec![redirect(None, Some(8443))]),
                rule("/old", &[("a", 1)], vec![rewrite(Some("in.test"), PathChange::Prefix("/new/".into()))]),
                rule("/full", &[("a", 1)], vec![rewrite(None, PathChange::Full("/one".into()))]),
                rule(
                    "/headers",
                    &[("a", 1)],
                    vec![Filter::RequestHeaders(changes), Filter::ResponseHeaders(response)],
                ),
            ],
            |_| {},
        );
        shard.backend("a", BackendProtocol::Http1, &[backend.address]);
        let mut client = shard.connect();
        for (path, location) in [
            ("/plain/x?q=1", "http://a.test:8080/plain/x?q=1"),
            ("/tls/%61", "https://a.test/tls/a"),
            ("/port", "http://a.test:8443/port"),
        ] {
            let answer = client.get(path);
            assert_eq!(status(&answer), 301);
            let line = format!("\r\nlocation: {location}\r\n");
            assert!(answer.contains(&line), "{answer}");
        }
        for (path, first, host) in [
            ("/old/x//y?q=1", "GET /new/x//y?q=1 ", "in.test"),
            ("/old", "GET /new ", "in.test"),
            ("/full/x?q", "GET /one?q ", "a.test"),
        ] {
            assert_eq!(status(&client.get(path)), 200);
            let seen = backend.seen().pop().unwrap();
            assert!(seen.starts_with(first), "{seen}");
            assert!(seen.contains(&format!("\r\nhost: {host}\r\n")), "{seen}");
        }
        client.write(b"POST /headers HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-B: 1\r\nX-C: 1\r\nContent-Length: 2\r\n\r\nhi");
        let answer = client.response();
        assert!(answer.contains("x-from: edge"), "{answer}");
        let seen = backend.seen().pop().unwrap();
        for text in ["x-a: set", "x-b: 1", "x-b: 2", "content-length: 2"] {
            assert!(seen.contains(text), "{text} is not in {seen}");
        }
        assert!(!seen.contains("x-c") && !seen.contains("gzip"), "{seen}");
    })
    .await
    .unwrap();
}
