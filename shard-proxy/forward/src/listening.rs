//! A socket that a worker accepts on: from its first connection to the last that was waiting when it closes.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cause::ConnectionCause;
use crate::connection::{self, Counted};
use crate::log;
use crate::worker::{After, Phase, SocketSpec, Worker};

/// Pause after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Time for the next request on a connection of a Gateway that leaves; its client was led here before.
const LEAVE_IDLE: Duration = Duration::from_secs(5);
/// A socket says so in the log no more often than this; each failure is counted.
const ACCEPT_WARN: Duration = Duration::from_secs(10);

/// A socket as its connections see it.
pub(crate) struct Socket {
    spec: SocketSpec,
    /// How far the end of its connections has come. This worker's own, so that they wait on no shared lock.
    phase: watch::Sender<Phase>,
}

impl Deref for Socket {
    type Target = SocketSpec;

    fn deref(&self) -> &SocketSpec {
        &self.spec
    }
}

impl Socket {
    /// Waits until the end has come this far. Cancel safe.
    pub(crate) async fn reaches(&self, phase: Phase) {
        let mut reached = self.phase.subscribe();
        // The sender is in `self`: it outlives this wait.
        let _ = reached.wait_for(|reached| *reached >= phase).await;
    }

    /// Tells its connections; never takes back what they were told.
    pub(crate) fn reach(&self, phase: Phase) {
        self.phase.send_if_modified(|reached| {
            let goes_on = *reached < phase;
            *reached = phase.max(*reached);
            goes_on
        });
    }
}

/// A socket that is accepted on, until it is stopped.
pub(crate) struct Listening {
    listener: Rc<TcpListener>,
    socket: Rc<Socket>,
    accepting: JoinHandle<()>,
}

impl Listening {
    pub(crate) fn start(worker: &Rc<Worker>, listener: TcpListener, spec: SocketSpec) -> Self {
        let listener = Rc::new(listener);
        let socket = Rc::new(Socket {
            spec,
            phase: watch::Sender::new(Phase::Serving),
        });
        let accepting = accept(Rc::clone(worker), Rc::clone(&listener), Rc::clone(&socket));
        Self {
            accepting: tokio::task::spawn_local(accepting),
            listener,
            socket,
        }
    }

    pub(crate) fn socket(&self) -> &Rc<Socket> {
        &self.socket
    }

    /// Closes the socket. What waits in it is accepted first: a close resets it, though its client was told that it is
    /// connected.
    pub(crate) async fn stop(self, worker: &Rc<Worker>, after: After) {
        refuse_new(&self.listener);
        self.accepting.abort();
        let _ = self.accepting.await; // from here on nobody else accepts
        // Bounded by what the queue holds: a flood must not keep it open.
        for _ in 0..worker.config.backlog.max(1) {
            match SockRef::from(&*self.listener).accept() {
                Ok((stream, peer)) => {
                    let stream = std::net::TcpStream::from(stream);
                    let stream = stream
                        .set_nonblocking(true)
                        .and_then(|()| TcpStream::from_std(stream));
                    if let (Ok(stream), Some(peer)) = (stream, peer.as_socket()) {
                        admit(worker, &self.socket, stream, peer);
                    }
                }
                Err(error) if is_connection_error(&error) => {}
                Err(_) => break,
            }
        }
        match after {
            After::Serve => {}
            After::Leave => {
                let socket = self.socket;
                socket.reach(Phase::Draining);
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(LEAVE_IDLE).await;
                    socket.reach(Phase::Closing);
                });
            }
            After::Remove => self.socket.reach(Phase::Removed),
        }
    }
}

/// Makes the kernel drop each SYN that reaches this socket from now on, so that no connection slips in between the last
/// `accept` and the close. Its client sends the SYN again a second later, and that reaches whoever shares the address.
#[cfg(target_os = "linux")]
fn refuse_new(listener: &TcpListener) {
    use socket2::SockFilter;
    const FLAGS_OFFSET: u32 = 13; // in the TCP header, which the filter sees first
    const SYN: u32 = 2;
    let filter = [
        SockFilter::new(0x30, 0, 0, FLAGS_OFFSET), // load the byte
        SockFilter::new(0x45, 0, 1, SYN),          // without SYN skip one
        SockFilter::new(0x06, 0, 0, 0),            // drop
        SockFilter::new(0x06, 0, 0, u32::MAX),     // pass
    ];
    if let Err(error) = SockRef::from(listener).attach_filter(&filter) {
        tracing::debug!(%error, "closing without a filter; a connection may be reset");
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_new(_: &TcpListener) {}

async fn accept(worker: Rc<Worker>, listener: Rc<TcpListener>, socket: Rc<Socket>) {
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => admit(&worker, &socket, stream, peer),
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                worker.stats.connection_failed(ConnectionCause::Accept);
                if warned.is_none_or(|at| at.elapsed() >= ACCEPT_WARN) {
                    warned = Some(Instant::now());
                    tracing::warn!(gateway = socket.gateway.label, %error, "accept failed; connections wait");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection, unless there are too many: then it is closed at once, so that those that are open keep their
/// memory. A socket on `::` names IPv4 clients by mapped addresses; nobody after this sees one.
fn admit(worker: &Rc<Worker>, socket: &Rc<Socket>, stream: TcpStream, peer: SocketAddr) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let limit = worker.config.connections_max / worker.config.workers.max(1);
    if worker.connections_open.get() >= limit.max(1) {
        log::connection_failed(worker, &socket.gateway, peer, ConnectionCause::Limit, None);
        return;
    }
    let counted = Counted::new(worker);
    tokio::task::spawn_local(connection::serve(
        counted,
        Rc::clone(worker),
        Rc::clone(socket),
        stream,
        peer,
    ));
}

fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
