//! Opens a connection to an operator.

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::ClientConfig;

/// Time for connect and TLS handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
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

pub(super) async fn connect(config: &ClientConfig, operator: &str) -> Result<Channel, StreamError> {
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
