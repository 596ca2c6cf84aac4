//! Keeps a stream to an operator open.

use std::path::PathBuf;
use std::time::Duration;

use api_telemetry::Chain;
use api_wire::MESSAGE_BYTES_MAX;
use api_wire::delivery::delivery_client::DeliveryClient;
use api_wire::delivery::{self, FromShard, from_shard};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::Plane;
use crate::disk::Writer;
use crate::shard::{Shard, ShardStatus};

/// First pause after a stream broke; it doubles up to [`PAUSE_MAX`] and is cut by up to a half at random.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often the operator is told what this shard does.
const LOAD_EVERY: Duration = Duration::from_secs(2);
/// Answers that wait to be sent; the shard waits for room.
const ANSWERS_MAX: usize = 1024;
/// Time for connect and TLS handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Files for mutual TLS, read anew for each connection, so that renewed ones are taken up.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Certificate of the pool's CA.
    pub ca: PathBuf,
    /// This shard's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// DNS name in the operator's certificate.
    pub server_name: String,
}

/// How operators are reached.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// This shard.
    pub shard: u32,
    /// `host:port` of the operators' streams, tried in turn.
    pub operators: Vec<String>,
    /// Admin endpoint of this shard, told to the operator.
    pub admin: String,
    /// None for clear text.
    pub tls: Option<ClientTls>,
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("connect to {operator}")]
    Connect {
        operator: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("delta stream")]
    Status(#[from] tonic::Status),
    #[error("delta stream ended")]
    Ended,
}

/// Follows the operators for ever; never returns while the process should serve. `status` is kept current; `connected`
/// says whether a stream is open.
pub async fn run<P: Plane>(
    config: ClientConfig,
    mut shard: Shard<P>,
    writer: Option<Writer>,
    plane: std::sync::Arc<P>,
    status: watch::Sender<ShardStatus>,
    connected: watch::Sender<bool>,
) {
    let mut pause = PAUSE_MIN;
    let mut random = u64::from(config.shard) + 1;
    for operator in config.operators.iter().cycle() {
        let _ = status.send(shard.status());
        let began = tokio::time::Instant::now();
        let error = match follow(
            &config,
            operator,
            &mut shard,
            writer.as_ref(),
            &*plane,
            &status,
            &connected,
        )
        .await
        {
            Ok(()) => StreamError::Ended,
            Err(error) => error,
        };
        if connected.send_replace(false) {
            tracing::warn!(operator, error = %Chain(&error), "delta stream lost; serving on");
        } else {
            tracing::debug!(operator, error = %Chain(&error), "no delta stream");
        }
        if began.elapsed() > PAUSE_MAX * 2 {
            pause = PAUSE_MIN;
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let half = pause.as_micros() as u64 / 2;
        tokio::time::sleep(Duration::from_micros(half + (random >> 33) % half.max(1))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn follow<P: Plane>(
    config: &ClientConfig,
    operator: &str,
    shard: &mut Shard<P>,
    writer: Option<&Writer>,
    plane: &P,
    status: &watch::Sender<ShardStatus>,
    connected: &watch::Sender<bool>,
) -> Result<(), StreamError> {
    let channel = connect(config, operator).await?;
    let mut client = DeliveryClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
    shard.forget_prepared();
    let _ = answers.send(shard.hello(config.shard, &config.admin)).await;
    let mut messages = client
        .subscribe(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    for answer in shard.standing() {
        answers.send(answer).await.map_err(|_| StreamError::Ended)?;
    }
    connected.send_replace(true);
    tracing::info!(operator, "delta stream open");
    let mut load = tokio::time::interval(LOAD_EVERY);
    loop {
        tokio::select! {
            message = messages.message() => {
                let Some(message) = message? else { return Err(StreamError::Ended) };
                let outcome = shard.take(message).await;
                for answer in outcome.answers {
                    answers.send(answer).await.map_err(|_| StreamError::Ended)?;
                }
                if let Some(writer) = writer {
                    for change in outcome.changes {
                        writer.write(change);
                    }
                }
                let _ = status.send(shard.status());
            }
            _ = load.tick() => {
                answers.send(load_of(plane)).await.map_err(|_| StreamError::Ended)?;
            }
        }
    }
}

fn load_of<P: Plane>(plane: &P) -> FromShard {
    let (connections, requests_in_flight, requests_total) = plane.load();
    FromShard {
        message: Some(from_shard::Message::Load(delivery::Load {
            connections,
            requests_in_flight,
            requests_total,
            rss_bytes: rss_bytes().unwrap_or(0),
        })),
    }
}

/// Resident memory of this process, from the second field of `/proc/self/statm`, in pages of 4 KiB.
fn rss_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

async fn connect(config: &ClientConfig, operator: &str) -> Result<Channel, StreamError> {
    let failed = |source| StreamError::Connect {
        operator: operator.to_owned(),
        source,
    };
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{operator}"))
        .map_err(failed)?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024);
    if let Some(tls) = &config.tls {
        let (ca, certificate, key) = (read(&tls.ca)?, read(&tls.certificate)?, read(&tls.key)?);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .identity(Identity::from_pem(certificate, key))
            .domain_name(tls.server_name.clone());
        endpoint = endpoint.tls_config(tls).map_err(failed)?;
    }
    endpoint.connect().await.map_err(failed)
}

fn read(path: &PathBuf) -> Result<Vec<u8>, StreamError> {
    std::fs::read(path).map_err(|source| StreamError::File {
        path: path.clone(),
        source,
    })
}
