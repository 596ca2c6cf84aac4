#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::net::SocketAddr;

use api_wire::delivery::Hello;
use api_wire::delivery::delivery_client::DeliveryClient;
use api_wire::identity::SignRequest;
use api_wire::identity::certificates_client::CertificatesClient;
use hyper_util::rt::TokioIo;
use operator_identity::{
    Authority, OPERATOR_NAME, ReviewError, ShardPods, TlsSource, TokenOwner, TokenReviewer,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;

struct Refuses;

#[tonic::async_trait]
impl TokenReviewer for Refuses {
    async fn review(&self, _: &str) -> Result<TokenOwner, ReviewError> {
        Err(ReviewError::Refused("in this test".into()))
    }
}

/// Serves streams on a port of their own.
async fn served(tls: impl Into<ServeTls>) -> SocketAddr {
    let config = crate::Config {
        prepare_deadline: Duration::from_millis(500),
    };
    let (activate, activations) = mpsc::channel(1);
    let (reports, reported) = mpsc::channel(1);
    let distributor = crate::start(config, Arc::default(), activate, reports);
    api_telemetry::task::spawn("held", async move {
        let _held = (activations, reported);
        std::future::pending::<()>().await;
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    api_telemetry::task::spawn("streams", serve(distributor, listener, tls.into()));
    address
}

async fn channel(address: SocketAddr, tls: Option<Credentials>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            Ok::<_, std::io::Error>(match tls {
                Some(tls) => {
                    let name = OPERATOR_NAME.try_into().unwrap();
                    let stream = TlsConnector::from(tls.client())
                        .connect(name, stream)
                        .await?;
                    TokioIo::new(Box::new(stream) as Box<dyn Io>)
                }
                None => TokioIo::new(Box::new(stream) as Box<dyn Io>),
            })
        }
    });
    let endpoint = Endpoint::from_static("http://operator");
    endpoint.connect_with_connector(connector).await.unwrap()
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

/// Opens a stream as a shard.
async fn subscribe(channel: Channel, shard: u32) -> Result<(), Code> {
    let (out, messages) = mpsc::channel(1);
    let hello = from_shard::Message::Hello(Hello {
        shard,
        ..Hello::default()
    });
    let hello = FromShard {
        message: Some(hello),
    };
    out.send(hello).await.unwrap();
    let mut client = DeliveryClient::new(channel);
    let opened = client.subscribe(ReceiverStream::new(messages));
    let opened = tokio::time::timeout(Duration::from_secs(20), opened).await;
    opened.unwrap().map(|_| ()).map_err(|status| status.code())
}

async fn sign(channel: Channel) -> Code {
    let request = SignRequest {
        shard: 2,
        ..SignRequest::default()
    };
    let answer = CertificatesClient::new(channel).sign(request).await;
    answer.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_for_the_shard_that_its_certificate_names() {
    let authority = Arc::new(Authority::make().unwrap());
    let of = |identity| Credentials::renewing(Arc::clone(&authority), identity).unwrap();
    let shard = |number| of(Identity::Shard(ShardId(number)));
    let pods = ShardPods {
        account: "shards".into(),
        pool: "default".into(),
    };
    let operator = Identity::Operator(0);
    let tls = ServeTls::Own {
        credentials: of(operator),
        signer: Signer::new(Arc::clone(&authority), Arc::new(Refuses), pods),
    };
    let address = served(tls).await;
    let refused = Err(Code::PermissionDenied);
    let open = async |tls, number| subscribe(channel(address, Some(tls)).await, number).await;
    assert_eq!(open(shard(2), 2).await, Ok(()));
    assert_eq!(open(shard(3), 2).await, refused);
    assert_eq!(open(of(operator), 2).await, refused);
    let code = sign(channel(address, Some(shard(3))).await).await;
    assert_eq!(code, Code::PermissionDenied);
    // The right one is asked for a request that can be read.
    let code = sign(channel(address, Some(shard(2))).await).await;
    assert_eq!(code, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_do_as_well_and_then_nothing_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let tls = crate::tls::ensure(folder.path(), 2).unwrap();
    let address = served(Some(tls.clone())).await;
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let one = Credentials::fixed(&text("shard-1.pem"), &text("shard-1.key"), &tls.ca).unwrap();
    let open = async |number| subscribe(channel(address, Some(one.clone())).await, number).await;
    assert_eq!(open(1).await, Ok(()));
    assert_eq!(open(0).await, Err(Code::PermissionDenied));
    let code = sign(channel(address, Some(one.clone())).await).await;
    assert_eq!(code, Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_every_caller_is_believed() {
    let address = served(None).await;
    assert_eq!(subscribe(channel(address, None).await, 7).await, Ok(()));
    assert_eq!(
        sign(channel(address, None).await).await,
        Code::Unimplemented
    );
}
