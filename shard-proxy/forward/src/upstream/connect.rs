//! Opens connections to endpoints.

use std::io;
use std::time::Duration;

use api_snapshot::facts::EndpointAddress;
use tokio::net::TcpStream;

use super::Endpoint;

/// A connection to an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect")]
    Io(#[source] io::Error),
    #[error("connect timed out")]
    TimedOut,
    /// Not tried again: whoever waits for a connection to be opened learns of its failure with it.
    #[error("the connect that was waited for failed")]
    Waited,
    #[error("http handshake")]
    Http(#[source] hyper::Error),
}

/// Connects within `limit`, name resolution included. The system's resolver is asked for each new connection to a
/// name; the pool keeps that rare.
pub(super) async fn connect(
    endpoint: &Endpoint,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    let attempt = async {
        let stream = match &endpoint.address {
            EndpointAddress::Ip(ip) => TcpStream::connect((*ip, endpoint.port)).await?,
            EndpointAddress::Host(host) => {
                TcpStream::connect((host.as_str(), endpoint.port)).await?
            }
            _ => {
                return Err(io::Error::other(
                    "an address of a kind that this version does not know",
                ));
            }
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(ConnectError::Io(error)),
        Err(_) => Err(ConnectError::TimedOut),
    }
}
