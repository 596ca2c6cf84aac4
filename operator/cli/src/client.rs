//! Asks a running operator by its admin endpoint: at an address, or in a cluster through the API server.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::cluster::Cluster;

/// Time for a whole question.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a running operator leaves in its data folder, so that it is found.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct OperatorFile {
    /// Admin endpoint.
    pub(crate) admin: SocketAddr,
}

/// How the operator is found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finder {
    /// Its admin address.
    pub(crate) address: Option<SocketAddr>,
    /// Its data folder.
    pub(crate) data: PathBuf,
    /// In a cluster, whatever the data folder says.
    pub(crate) is_in_cluster: bool,
    /// Context of the kubeconfig.
    pub(crate) context: Option<String>,
    /// Namespace that the operator runs in.
    pub(crate) namespace: Option<String>,
}

/// A client for one operator.
#[derive(Clone)]
pub(crate) struct Client {
    way: Way,
}

#[derive(Clone)]
enum Way {
    Address(SocketAddr),
    /// A replica, by the name of its pod.
    Pod(Box<Cluster>, String),
}

impl Client {
    /// The operator at an address, else the one that runs on a data folder, else the one of the kubeconfig's cluster: there the
    /// replica that leads, which alone knows all statuses.
    pub(crate) async fn find(finder: &Finder) -> anyhow::Result<Self> {
        if let Some(admin) = finder.address {
            return Ok(Self::at(admin));
        }
        let file: PathBuf = finder.data.join("operator.json");
        if !finder.is_in_cluster && (file.exists() || !has_kubeconfig()) {
            let text = std::fs::read_to_string(&file).with_context(|| {
                format!(
                    "find the operator: read {}; is it running? name its data folder by --data or its admin address by --operator, or set KUBECONFIG",
                    file.display()
                )
            })?;
            let file: OperatorFile =
                serde_json::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
            return Ok(Self::at(file.admin));
        }
        let (context, namespace) = (finder.context.as_deref(), finder.namespace.as_deref());
        let cluster = Cluster::find(context, namespace).await?;
        Self::leader(cluster).await
    }

    /// The operator at an address.
    pub(crate) fn at(admin: SocketAddr) -> Self {
        Self {
            way: Way::Address(admin),
        }
    }

    /// The replica that leads; without one the first that answers.
    async fn leader(cluster: Cluster) -> anyhow::Result<Self> {
        let mut first = None;
        let mut error = anyhow::anyhow!("no replica of the operator runs");
        for replica in &cluster.replicas {
            let way = Way::Pod(Box::new(cluster.clone()), replica.clone());
            let client = Self { way };
            match client.json::<Value>("/api/v1/info").await {
                Ok(info) if info["raft"]["role"] == "leader" => return Ok(client),
                Ok(_) => first = first.or(Some(client)),
                Err(failed) => error = failed,
            }
        }
        first.ok_or(error)
    }

    /// A client for each other replica of the operator; none on one machine.
    pub(crate) fn others(&self) -> Vec<Self> {
        let Way::Pod(cluster, own) = &self.way else {
            return Vec::new();
        };
        let others = cluster.replicas.iter().filter(|name| *name != own);
        others
            .map(|name| Self {
                way: Way::Pod(cluster.clone(), name.clone()),
            })
            .collect()
    }

    /// The cluster that the operator runs in, if it does.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match &self.way {
            Way::Pod(cluster, _) => Some(cluster),
            Way::Address(_) => None,
        }
    }

    /// The body of `GET path`.
    pub(crate) async fn bytes(&self, path: &str) -> anyhow::Result<Bytes> {
        let (status, body) = self.ask(path).await?;
        if !status.is_success() {
            bail!(
                "operator answered {status}: {}",
                String::from_utf8_lossy(&body).trim()
            );
        }
        Ok(body)
    }

    /// The body of `GET path`; none when the operator has no such thing.
    pub(crate) async fn bytes_if_any(&self, path: &str) -> anyhow::Result<Option<Bytes>> {
        match self.ask(path).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) if status.is_success() => Ok(Some(body)),
            (status, body) => bail!(
                "operator answered {status}: {}",
                String::from_utf8_lossy(&body).trim()
            ),
        }
    }

    async fn ask(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let ask = async {
            match &self.way {
                Way::Address(admin) => answer(TcpStream::connect(admin).await?, path).await,
                Way::Pod(cluster, replica) => {
                    let (stream, forwarder) = cluster.connect(replica).await?;
                    let answer = answer(stream, path).await;
                    forwarder.abort();
                    answer
                }
            }
        };
        tokio::time::timeout(TIMEOUT, ask)
            .await
            .context("no answer within 10 seconds")
            .and_then(|answer| answer)
            .with_context(|| format!("ask the operator at {} for {path}", self.way))
    }

    /// The JSON of `GET path`.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
    ) -> anyhow::Result<T> {
        let body = self.bytes(path).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("read the operator's answer to {path}"))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Pod(_, name) => write!(f, "pod {name}"),
        }
    }
}

/// Whether there is a kubeconfig to use.
fn has_kubeconfig() -> bool {
    let default = std::env::home_dir().map(|home| home.join(".kube/config"));
    std::env::var_os("KUBECONFIG").is_some() || default.is_some_and(|path| path.exists())
}

/// One question on a connection of its own.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::task::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, "operator")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok((status, body))
}
