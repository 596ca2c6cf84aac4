//! Asks a running operator by its admin endpoint.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

/// Time for a whole question.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a running operator leaves in its data folder, so that it is found.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct OperatorFile {
    /// Admin endpoint.
    pub(crate) admin: SocketAddr,
}

/// A client for one operator.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    admin: SocketAddr,
}

impl Client {
    /// The operator at `address`, or the one that runs on the folder `data`.
    pub(crate) fn find(address: Option<SocketAddr>, data: &Path) -> anyhow::Result<Self> {
        if let Some(admin) = address {
            return Ok(Self { admin });
        }
        let file: PathBuf = data.join("operator.json");
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "find the operator: read {}; is it running? name its data folder by --data or its admin address by --operator",
                file.display()
            )
        })?;
        let file: OperatorFile =
            serde_json::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
        Ok(Self { admin: file.admin })
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
            let stream = TcpStream::connect(self.admin).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let driver = tokio::task::spawn(connection);
            let request = http::Request::get(path)
                .header(http::header::HOST, self.admin.to_string())
                .body(Empty::<Bytes>::new())?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            driver.abort();
            Ok((status, body))
        };
        tokio::time::timeout(TIMEOUT, ask)
            .await
            .context("no answer within 10 seconds")
            .and_then(|answer| answer)
            .with_context(|| format!("ask the operator at {} for {path}", self.admin))
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
