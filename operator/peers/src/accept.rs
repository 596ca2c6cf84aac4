//! Connections from other replicas.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use crate::metrics::Metrics;
use crate::stream::PeerStream;
use crate::tls::{Caller, PeerTls};

/// Open connections, handshakes among them; one more is closed at once. A replica has three: for messages, for a
/// snapshot, for what its shards say.
const CONNECTIONS_MAX: usize = 256;
/// Time for a TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Connections that wait to be served.
const READY_MAX: usize = 16;
/// Pause after the machine had no file or memory for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever; each connection is handshaken in a task of its own, with the TLS settings of that moment.
pub(crate) fn accept(
    listener: TcpListener,
    tls: PeerTls,
    metrics: Arc<Metrics>,
) -> ReceiverStream<io::Result<PeerStream>> {
    let (ready, receiver) = mpsc::channel(READY_MAX);
    api_telemetry::task::spawn("peer listener", async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let tcp = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => tcp,
                    Err(error) => {
                        tracing::warn!(%error, "connection of a replica not accepted");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
                () = ready.closed() => return,
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                metrics.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (tls, ready, metrics) = (tls.clone(), ready.clone(), Arc::clone(&metrics));
            api_telemetry::task::spawn("peer handshake", async move {
                let done = tokio::time::timeout(HANDSHAKE_WITHIN, handshake(tcp, &tls)).await;
                match done.unwrap_or_else(|late| Err(late.into())) {
                    // The server ends with the process.
                    Ok(stream) => drop(ready.send(Ok(stream.with_place(place))).await),
                    Err(error) => {
                        metrics.refused.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(%error, "handshake with a replica failed");
                    }
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn handshake(tcp: TcpStream, tls: &PeerTls) -> io::Result<PeerStream> {
    tcp.set_nodelay(true)?;
    match tls {
        PeerTls::LoopbackOnly => Ok(PeerStream::plain(tcp)),
        PeerTls::Mutual(source) => {
            let stream = TlsAcceptor::from(source.server()).accept(tcp).await?;
            let caller = Caller::of(stream.get_ref().1.peer_certificates());
            Ok(PeerStream::tls(stream.into(), caller))
        }
    }
}
