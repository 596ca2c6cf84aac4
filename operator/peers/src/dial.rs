//! Opens a connection to another replica.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use api_wire::peer::peer_client::PeerClient;
use hyper_util::rt::TokioIo;
use operator_identity::OPERATOR_NAME;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::directory::Peer;
use crate::parts::FRAME_BYTES_MAX;
use crate::queue::MESSAGE_BYTES_MAX;
use crate::stream::PeerStream;
use crate::tls::{Caller, PeerTls};
use crate::transport::Shared;

/// Time for the name to be resolved and one of its addresses to be reached, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Time for one address.
const ADDRESS_WITHIN: Duration = Duration::from_secs(1);
/// Largest message of the wire, bytes.
pub(crate) const WIRE_BYTES_MAX: usize = MESSAGE_BYTES_MAX + FRAME_BYTES_MAX;

/// How soon a connection without a sign of life is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// For messages: the replica may be back under another address. It is asked after a second, and has two to answer.
    Short,
    /// For what would have to begin anew: five seconds, and ten.
    Long,
}

/// A replica cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("resolve {address}")]
    Resolve {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} has no address that can be used; without TLS only loopback can")]
    NoAddress { address: String },
    #[error("connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} shows the certificate of {found:?}, not of replica {ordinal}")]
    WrongReplica {
        address: String,
        ordinal: u64,
        found: Caller,
    },
    #[error("no connection to {address} within {CONNECT_WITHIN:?}")]
    TimedOut { address: String },
    #[error("speak HTTP/2 with {address}")]
    Http {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to a replica: where it has called from last, else its name is resolved now and its addresses are tried in turn.
/// Its certificate must name it.
///
/// # Errors
/// [`DialError`], within about [`CONNECT_WITHIN`].
///
/// Cancel safety: dropping it closes what was opened.
pub(crate) async fn dial(
    id: u64,
    peer: &Peer,
    shared: &Shared,
    patience: Patience,
) -> Result<PeerClient<Channel>, DialError> {
    let (every, within) = match patience {
        Patience::Short => (1, 2),
        Patience::Long => (5, 10),
    };
    let address = || peer.address.clone();
    let stream = tokio::time::timeout(CONNECT_WITHIN, connect(id, peer, shared))
        .await
        .map_err(|_| DialError::TimedOut { address: address() })??;
    // The name is for HTTP alone: the connection is made already.
    let endpoint = Endpoint::from_static("http://operator.shardway.internal")
        .http2_keep_alive_interval(Duration::from_secs(every))
        .keep_alive_timeout(Duration::from_secs(within))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024);
    // The channel would ask again to reconnect; that is a matter of the caller, who resolves the name anew.
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|source| DialError::Http {
        address: address(),
        source,
    })?;
    Ok(PeerClient::new(channel)
        .max_decoding_message_size(WIRE_BYTES_MAX)
        .max_encoding_message_size(WIRE_BYTES_MAX))
}

async fn connect(id: u64, peer: &Peer, shared: &Shared) -> Result<PeerStream, DialError> {
    if let Some(target) = shared.seen.address(id, peer) {
        match attempt(target, peer, &shared.tls).await {
            Ok(stream) => return Ok(stream),
            Err(_) => shared.seen.forget(id, target),
        }
    }
    let address = || peer.address.clone();
    let found = tokio::net::lookup_host(&peer.address).await;
    let found = found.map_err(|source| DialError::Resolve {
        address: address(),
        source,
    })?;
    let mut error = DialError::NoAddress { address: address() };
    for target in found {
        match attempt(target, peer, &shared.tls).await {
            Ok(stream) => return Ok(stream),
            // What was tried and failed says more.
            Err(DialError::NoAddress { .. }) => {}
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

async fn attempt(target: SocketAddr, peer: &Peer, tls: &PeerTls) -> Result<PeerStream, DialError> {
    let address = peer.address.clone();
    if matches!(tls, PeerTls::LoopbackOnly) && !target.ip().is_loopback() {
        return Err(DialError::NoAddress { address });
    }
    let opened = tokio::time::timeout(ADDRESS_WITHIN, open(target, tls)).await;
    match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) if stream.caller().is_replica(peer.ordinal) => Ok(stream),
        Ok(stream) => Err(DialError::WrongReplica {
            address,
            ordinal: peer.ordinal,
            found: stream.caller(),
        }),
        Err(source) => Err(DialError::Connect { address, source }),
    }
}

async fn open(target: SocketAddr, tls: &PeerTls) -> io::Result<PeerStream> {
    let tcp = TcpStream::connect(target).await?;
    tcp.set_nodelay(true)?;
    match tls {
        PeerTls::LoopbackOnly => Ok(PeerStream::plain(tcp)),
        PeerTls::Mutual(source) => {
            let name = ServerName::try_from(OPERATOR_NAME).map_err(io::Error::other)?;
            let stream = TlsConnector::from(source.client())
                .connect(name, tcp)
                .await?;
            let caller = Caller::of(stream.get_ref().1.peer_certificates());
            Ok(PeerStream::tls(stream.into(), caller))
        }
    }
}
