//! Opens a connection to an operator.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Time for connect and TLS handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("{action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read {}: no {what} in it", path.display())]
    Pem { what: &'static str, path: PathBuf },
    #[error("use certificate for the delta stream")]
    Tls(#[from] rustls::Error),
    #[error("make key for the delta stream")]
    Key(#[from] rcgen::Error),
    #[error("read certificate for this shard")]
    Certificate,
    #[error("this shard has no certificate yet")]
    NoCertificate,
    #[error("operator's name in its certificate")]
    Name(#[from] InvalidDnsNameError),
    #[error("resolve operator's name {operator}")]
    Resolve {
        operator: String,
        #[source]
        source: io::Error,
    },
    #[error("connect to {operator}")]
    Connect {
        operator: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("open delta stream")]
    Open(#[from] tonic::transport::Error),
    #[error("delta stream")]
    Status(#[from] tonic::Status),
    #[error("delta stream ended")]
    Ended,
    #[error("operator did not answer or send all within {0:?}; another one is asked")]
    Lagging(Duration),
}

/// What a TLS connection to an operator needs.
pub(super) struct TlsTo {
    pub(super) config: Arc<rustls::ClientConfig>,
    /// DNS name in the operator's certificate.
    pub(super) server_name: String,
}

/// An open connection.
pub(super) struct Connection {
    pub(super) channel: Channel,
    /// This end of it.
    pub(super) local: IpAddr,
}

/// Connects to one address. The channel holds this connection and opens no other one: once it is lost, the shard chooses
/// where to go.
pub(super) async fn connect(
    operator: SocketAddr,
    tls: Option<TlsTo>,
) -> Result<Connection, StreamError> {
    let opened = tokio::time::timeout(CONNECT_WITHIN, open(operator, tls)).await;
    let (stream, local) = opened.unwrap_or_else(|elapsed| {
        Err(StreamError::Connect {
            operator,
            source: elapsed.into(),
        })
    })?;
    let once = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_| {
        let stream = once.lock().take();
        std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    // TLS is below; the name is for nobody.
    let channel = Endpoint::from_static("http://operator.shardway.internal")
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .connect_with_connector(connector)
        .await?;
    Ok(Connection { channel, local })
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn open(
    operator: SocketAddr,
    tls: Option<TlsTo>,
) -> Result<(Box<dyn Io>, IpAddr), StreamError> {
    let failed = |source| StreamError::Connect { operator, source };
    let stream = TcpStream::connect(operator).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let local = stream.local_addr().map_err(failed)?.ip();
    let Some(tls) = tls else {
        return Ok((Box::new(stream), local));
    };
    let name = ServerName::try_from(tls.server_name)?;
    let stream = TlsConnector::from(tls.config).connect(name, stream).await;
    Ok((Box::new(stream.map_err(failed)?), local))
}
