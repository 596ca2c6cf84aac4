#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::net::SocketAddr;

use api::ShardId;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_stream::StreamExt;

use super::*;
use crate::{Authority, OPERATOR_NAME, TlsSource};

struct Served {
    authority: Arc<Authority>,
    incoming: Incoming,
    refusals: Arc<Refusals>,
    address: SocketAddr,
}

impl Served {
    async fn start(limits: Limits) -> Self {
        let authority = Arc::new(Authority::make().unwrap());
        let own = Identity::Operator(0);
        let credentials = Credentials::renewing(Arc::clone(&authority), own).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let refusals = Arc::<Refusals>::default();
        let counted = Arc::clone(&refusals);
        Self {
            authority,
            incoming: bounded(listener, Some(credentials), counted, limits),
            refusals,
            address,
        }
    }

    /// A connection that shows a certificate of a shard, or nothing.
    async fn connect(&self, shard: Option<u32>) -> ClientStream<TcpStream> {
        let config = match shard {
            Some(shard) => {
                let (ca, shard) = (&self.authority, Identity::Shard(ShardId(shard)));
                Credentials::renewing(Arc::clone(ca), shard)
                    .unwrap()
                    .client()
            }
            None => {
                let mut roots = RootCertStore::empty();
                roots.add(self.authority.trust()[0].clone()).unwrap();
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                Arc::new(config)
            }
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = OPERATOR_NAME.try_into().unwrap();
        let stream = TlsConnector::from(config).connect(name, stream).await;
        stream.unwrap()
    }

    async fn next(&mut self) -> Connection {
        let next = tokio::time::timeout(Duration::from_secs(20), self.incoming.next());
        next.await.unwrap().unwrap().unwrap()
    }

    async fn refused(&self, cause: impl Fn(&Refusals) -> &AtomicU64) {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while cause(&self.refusals).load(Ordering::Relaxed) == 0 {
            assert!(std::time::Instant::now() < until, "never refused");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn those_who_show_nothing_are_few_and_do_not_stay() {
    let mut served = Served::start(Limits {
        anonymous_max: 1,
        anonymous_within: Duration::from_millis(500),
        ..LIMITS
    })
    .await;
    let mut first = served.connect(None).await;
    let mut accepted = served.next().await;
    assert!(accepted.peer.identity().is_none());
    assert!(!accepted.peer.may_act_as(Identity::Shard(ShardId(0))));
    // What it asks in time is heard.
    first.write_u8(7).await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), 7);

    let mut second = served.connect(None).await;
    served.refused(|refusals| &refusals.limit).await;
    assert!(second.read_u8().await.is_err(), "closed");
    // A shard has its place all the same.
    let _shard = served.connect(Some(4)).await;
    let known = served.next().await;
    assert_eq!(known.peer.identity(), Some(Identity::Shard(ShardId(4))));
    assert!(known.anonymous.is_none());

    let ended = accepted.read_u8().await.unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    drop(accepted);
    let _third = served.connect(None).await;
    served.next().await;
}

#[tokio::test]
async fn a_connection_without_a_handshake_holds_nobody_up() {
    let mut served = Served::start(Limits {
        handshakes_max: 1,
        handshake_within: Duration::from_millis(200),
        ..LIMITS
    })
    .await;
    let _silent = TcpStream::connect(served.address).await.unwrap();
    let mut garbled = TcpStream::connect(served.address).await.unwrap();
    garbled.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _shard = served.connect(Some(0)).await;
    let known = served.next().await;
    assert_eq!(known.peer.identity(), Some(Identity::Shard(ShardId(0))));
    served.refused(|refusals| &refusals.timeout).await;
    served.refused(|refusals| &refusals.tls).await;
}
