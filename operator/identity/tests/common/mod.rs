//! An operator that signs certificates and holds streams open, and shards that follow it.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::{BackendKey, CertificateKey, GatewayKey, ShardId};
use api_snapshot::facts::{Backend, Binding, Certificate};
use api_telemetry::metrics::{Desc, HistogramValue, Labels, Sink, Source};
use api_telemetry::task;
use api_wire::delivery::delivery_server::{Delivery, DeliveryServer};
use api_wire::delivery::{self, FromShard, ToShard, from_shard, to_shard};
use api_wire::identity::certificates_client::CertificatesClient;
use api_wire::identity::{SignRequest, SignResponse};
use hyper_util::rt::TokioIo;
use operator_identity::{
    Authority, Credentials, Identity, OPERATOR_NAME, Peer, ReviewError, ShardPods, Signer,
    TokenOwner, TokenReviewer, incoming,
};
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use shard_proxy_subscribe::{
    Certificates, ClientTls, Plane, PrepareFailure, Shard, ShardStatus, TokenTls,
};
use shard_proxy_table::SubTable;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const ACCOUNT: &str = "system:serviceaccount:shardway-system:shardway-shard";
/// Longest wait for any condition.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `check` gives something.
pub(crate) async fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < until, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Takes a token for the name of the pod that it was made for.
#[derive(Default)]
pub(crate) struct Reviewer {
    pub(crate) down: AtomicBool,
    pub(crate) asked: AtomicU64,
}

#[tonic::async_trait]
impl TokenReviewer for Reviewer {
    async fn review(&self, token: &str) -> Result<TokenOwner, ReviewError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            return Err(ReviewError::Unavailable("connection refused".into()));
        }
        if token == "forged" {
            return Err(ReviewError::Refused("not authenticated".into()));
        }
        Ok(TokenOwner {
            account: ACCOUNT.into(),
            pod: Some(token.to_owned()),
        })
    }
}

/// What shards have sent back on each stream: the numbers that they were sent.
pub(crate) type Streams = Arc<Mutex<Vec<Vec<u64>>>>;

struct Echo(Streams);

#[tonic::async_trait]
impl Delivery for Echo {
    type SubscribeStream = ReceiverStream<Result<ToShard, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<FromShard>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap();
        let mut messages = request.into_inner();
        let hello = messages.message().await?.unwrap().message.unwrap();
        let from_shard::Message::Hello(hello) = hello else {
            return Err(Status::invalid_argument("no hello"));
        };
        if !peer.may_act_as(Identity::Shard(ShardId(hello.shard))) {
            return Err(Status::permission_denied("another shard"));
        }
        let streams = Arc::clone(&self.0);
        let session = {
            let mut streams = streams.lock();
            streams.push(Vec::new());
            streams.len() - 1
        };
        let (out, batches) = mpsc::channel(16);
        task::spawn("numbers", async move {
            let welcome = to_shard::Message::Welcome(delivery::Welcome { epoch: 7 });
            let synced = to_shard::Message::Synced(delivery::Synced { revision: 1 });
            let numbers = (1..).map(|revision| {
                to_shard::Message::Prepare(delivery::Prepare {
                    gateway: Some(delivery::GatewayKey::default()),
                    revision,
                    // A shard answers at once that this takes longer.
                    more: true,
                    ..delivery::Prepare::default()
                })
            });
            for message in [welcome, synced].into_iter().chain(numbers) {
                let message = ToShard {
                    message: Some(message),
                    traceparent: String::new(),
                };
                if out.send(Ok(message)).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        task::spawn("echo", async move {
            while let Ok(Some(message)) = messages.message().await {
                if let Some(from_shard::Message::Busy(busy)) = message.message {
                    streams.lock()[session].push(busy.revision);
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(batches)))
    }
}

/// An operator.
pub(crate) struct Operator {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Arc<Authority>,
    pub(crate) credentials: Credentials,
    pub(crate) reviewer: Arc<Reviewer>,
    pub(crate) signer: Signer,
    pub(crate) streams: Streams,
    /// All that it runs, so that it can be ended with its connections.
    runtime: Option<Runtime>,
}

impl Operator {
    /// Starts one whose certificates live as long as said.
    pub(crate) async fn start(life: Duration) -> Self {
        let authority = Authority::make().unwrap().with_life(life);
        Self::start_with(Arc::new(authority), "127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts one with a CA, at an address.
    pub(crate) async fn start_with(authority: Arc<Authority>, address: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        let identity = Identity::Operator(0);
        let credentials = Credentials::renewing(Arc::clone(&authority), identity).unwrap();
        let reviewer = Arc::new(Reviewer::default());
        let pods = ShardPods {
            account: ACCOUNT.into(),
            pool: "default".into(),
        };
        let signer = Signer::new(Arc::clone(&authority), Arc::clone(&reviewer) as _, pods);
        let streams = Streams::default();
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                // The one before it has just let go of it.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let address = listener.local_addr().unwrap();
        let listener = listener.into_std().unwrap();
        let router = Server::builder()
            .add_service(signer.service())
            .add_service(DeliveryServer::new(Echo(Arc::clone(&streams))));
        let served = credentials.clone();
        let server = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let connections = incoming(listener, Some(served), Arc::default());
            let _ = router.serve_with_incoming(connections).await;
        };
        {
            let _there = runtime.enter();
            task::spawn("operator", server);
        }
        Self {
            address,
            authority,
            credentials,
            reviewer,
            signer,
            streams,
            runtime: Some(runtime),
        }
    }

    /// Stops it with all of its connections.
    pub(crate) fn stop(self) -> (Arc<Authority>, SocketAddr) {
        (Arc::clone(&self.authority), self.address)
    }

    /// How many requests ended so.
    pub(crate) fn signed(&self, result: &str) -> u64 {
        let mut values = Values::default();
        self.signer.metrics().collect(&mut values);
        values.0.get(result).copied().unwrap_or(0)
    }

    /// Asks for a certificate.
    pub(crate) async fn sign(
        &self,
        config: Arc<ClientConfig>,
        shard: u32,
        token: &str,
    ) -> Result<SignResponse, Status> {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let request = SignRequest {
            shard,
            request: request.der().to_vec(),
            token: token.to_owned(),
        };
        let mut client = CertificatesClient::new(channel(self.address, config).await);
        client.sign(request).await.map(Response::into_inner)
    }

    /// Settings of a client that trusts this operator and shows nothing.
    pub(crate) fn anonymous(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in self.authority.trust() {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Counters by the value of their label.
#[derive(Default)]
pub(crate) struct Values(pub(crate) BTreeMap<String, u64>);

impl Sink for Values {
    fn counter(&mut self, _: &'static Desc, labels: Labels<'_>, value: u64) {
        for (_, label) in labels {
            self.0.insert((*label).to_owned(), value);
        }
    }

    fn gauge(&mut self, _: &'static Desc, _: Labels<'_>, _: f64) {}

    fn histogram(&mut self, _: &'static Desc, _: Labels<'_>, _: &HistogramValue) {}
}

/// Opens a channel to an operator.
pub(crate) async fn channel(address: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let config = Arc::clone(&config);
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = OPERATOR_NAME.try_into().unwrap();
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://operator")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

/// A shard that runs in pod `default-shard-N`.
pub(crate) struct Follower {
    pub(crate) status: watch::Receiver<ShardStatus>,
    pub(crate) connected: watch::Receiver<bool>,
    pub(crate) certificates: Arc<Certificates>,
    task: JoinHandle<Option<()>>,
}

impl Follower {
    /// Starts it with its files in `folder`.
    pub(crate) fn start(shard: u32, folder: &Path, operators: &[SocketAddr]) -> Self {
        let certificates = Arc::new(Certificates::open(TokenTls {
            token: folder.join("token"),
            trust: folder.join("ca.pem"),
            folder: folder.join("kept"),
        }));
        let plane = Arc::new(NoPlane);
        let (status, status_seen) = watch::channel(ShardStatus::default());
        let (connected, connected_seen) = watch::channel(false);
        let config = shard_proxy_subscribe::ClientConfig {
            shard,
            operators: operators.iter().map(ToString::to_string).collect(),
            admin: "127.0.0.1:7002".parse().unwrap(),
            tls: Some(ClientTls::Token(Arc::clone(&certificates))),
        };
        let state = Shard::new(Arc::clone(&plane));
        let run = shard_proxy_subscribe::run(config, state, None, plane, status, connected);
        Self {
            status: status_seen,
            connected: connected_seen,
            certificates,
            task: task::spawn("shard", run),
        }
    }

    /// How often it got a certificate.
    pub(crate) fn renewed(&self) -> u64 {
        let mut values = Values::default();
        self.certificates.collect(&mut values);
        values.0["renewed"]
    }

    pub(crate) fn stop(self) {
        self.task.abort();
    }
}

/// A folder as a pod finds it.
pub(crate) fn pod(shard: u32, authority: &Authority) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let token = format!("default-shard-{shard}\n");
    std::fs::write(folder.path().join("token"), token).unwrap();
    std::fs::write(folder.path().join("ca.pem"), authority.trust_pem()).unwrap();
    folder
}

struct NoPlane;

impl Plane for NoPlane {
    type Backend = ();
    type Prepared = ();

    fn backend(&self, _: &BackendKey) {}

    fn set_backend(&self, _: &BackendKey, _: &Backend) {}

    fn remove_backend(&self, _: &BackendKey) {}

    fn change_certificates(&self, _: Vec<(CertificateKey, Option<Certificate>)>) -> Vec<String> {
        Vec::new()
    }

    fn prepare(&self, _: SubTable<()>, _: &BTreeMap<u16, Binding>) -> Result<(), PrepareFailure> {
        Ok(())
    }

    async fn activate(&self, _: Vec<()>) {}

    async fn remove(&self, _: &GatewayKey) {}

    async fn leave(&self, _: &GatewayKey) {}

    fn load(&self) -> (u64, u64, u64) {
        (0, 0, 0)
    }
}
