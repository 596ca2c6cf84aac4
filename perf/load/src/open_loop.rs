//! Requests at an even rate, whatever becomes of them: a slow or broken answer delays no other request.
//!
//! Every second request has a connection of its own, the others take turns on connections that are kept. Nothing is sent
//! twice. Bounds: requests that wait for an answer, and failures that are told apart; both are counted beyond.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

/// Requests that may wait for an answer at a time; one more fails as [`Kind::Shed`].
const WAITING_MAX: usize = 2_000;
/// Failures that are kept with their time.
const FAILURES_MAX: usize = 10_000;
/// Connections that are kept for each target.
const KEPT: usize = 16;
/// Ports that connections come from, one after the other. One that comes back soon would lead a new connection to where the
/// kernel's translation of addresses sent the old one, which may be gone without a word.
const PORTS: std::ops::Range<u16> = 10_000..61_000;

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    /// Address of the Gateway.
    pub address: SocketAddr,
    /// Host of the requests.
    pub host: String,
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Settings {
    /// They take turns.
    pub targets: Vec<Target>,
    /// Requests for each second, to all targets together.
    pub per_sec: u32,
    /// A later answer is a failure; so is a connection that takes as long.
    pub answer_within: Duration,
}

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No new connection, and why.
    Connect(ErrorKind),
    /// The connection broke before the answer was whole.
    Broken,
    /// No answer in time.
    Late,
    /// Another status than 200.
    Status(u16),
    /// Not sent: too many wait.
    Shed,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no new connection ({error})"),
            Self::Broken => f.write_str("connection broke while in flight"),
            Self::Late => f.write_str("no answer in time"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Shed => f.write_str("not sent, too many wait"),
        }
    }
}

/// A request that failed.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// When it was to be sent, on the clock of [`Report::began`].
    pub sent: Duration,
    /// When it failed.
    pub failed: Duration,
    /// How.
    pub kind: Kind,
    /// Whether it was on a connection that was kept.
    pub kept: bool,
}

/// What became of all requests.
#[derive(Debug, Clone)]
pub struct Report {
    /// Start of the clock.
    pub began: Instant,
    /// Requests that were to be sent.
    pub sent: u64,
    /// Requests that failed.
    pub failed: u64,
    /// The first of them, in the order in which they failed.
    pub failures: Vec<Failure>,
    /// The slowest answer.
    pub slowest: Duration,
}

/// Sends until `stop` and waits for the answers that are on their way. Wants a current-thread runtime of its own, in a
/// `LocalSet`: sockets are in the network of the thread.
pub async fn run(settings: &Settings, stop: &AtomicBool) -> Report {
    let began = Instant::now();
    let state = Rc::new(RefCell::new(Sent {
        report: Report {
            began,
            sent: 0,
            failed: 0,
            failures: Vec::new(),
            slowest: Duration::ZERO,
        },
        waiting: 0,
        port: first_port(),
        kept: settings.targets.iter().map(|_| VecDeque::new()).collect(),
    }));
    let gap = Duration::from_secs(1) / settings.per_sec.max(1);
    let mut ticks = tokio::time::interval(gap);
    // Open loop: what was missed is sent at once.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut number = 0_usize;
    while !stop.load(Ordering::Relaxed) && !settings.targets.is_empty() {
        ticks.tick().await;
        let at = number % settings.targets.len();
        let keep = (number / settings.targets.len()) % 2 == 1;
        number += 1;
        let sent = began.elapsed();
        state.borrow_mut().report.sent += 1;
        if state.borrow().waiting >= WAITING_MAX {
            state.borrow_mut().fail(sent, Kind::Shed, keep);
            continue;
        }
        state.borrow_mut().waiting += 1;
        let target = settings.targets[at].clone();
        let within = settings.answer_within;
        let state = Rc::clone(&state);
        tokio::task::spawn_local(async move {
            let answer = tokio::time::timeout(within, ask(&state, at, &target, keep)).await;
            let mut state = state.borrow_mut();
            state.waiting -= 1;
            match answer {
                Ok(Ok(())) => {
                    let took = began.elapsed().saturating_sub(sent);
                    state.report.slowest = state.report.slowest.max(took);
                }
                Ok(Err(kind)) => state.fail(sent, kind, keep),
                Err(_) => state.fail(sent, Kind::Late, keep),
            }
        });
    }
    let until = Instant::now() + settings.answer_within + Duration::from_secs(1);
    while state.borrow().waiting > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    state.borrow().report.clone()
}

type Sender = SendRequest<Empty<Bytes>>;

struct Sent {
    report: Report,
    waiting: usize,
    /// Where the next connection comes from.
    port: u16,
    /// Idle connections, the one that was used last at the end.
    kept: Vec<VecDeque<Sender>>,
}

impl Sent {
    fn fail(&mut self, sent: Duration, kind: Kind, kept: bool) {
        self.report.failed += 1;
        if self.report.failures.len() < FAILURES_MAX {
            let failed = self.report.began.elapsed();
            self.report.failures.push(Failure {
                sent,
                failed,
                kind,
                kept,
            });
        }
    }

    /// The connection that was idle longest, once there are enough to spread over the shards.
    fn idle(&mut self, at: usize) -> Option<Sender> {
        let kept = &mut self.kept[at];
        kept.retain(|sender| !sender.is_closed());
        if kept.len() < KEPT / 2 {
            return None;
        }
        kept.pop_front()
    }
}

async fn ask(
    state: &Rc<RefCell<Sent>>,
    at: usize,
    target: &Target,
    keep: bool,
) -> Result<(), Kind> {
    let idle = if keep {
        state.borrow_mut().idle(at)
    } else {
        None
    };
    let mut sender = match idle {
        Some(sender) => sender,
        None => connect(state, target).await?,
    };
    let mut request = Request::get("/").header(header::HOST, &target.host);
    if !keep {
        request = request.header(header::CONNECTION, "close");
    }
    let request = request.body(Empty::new()).map_err(|_| Kind::Broken)?;
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|_| Kind::Broken)?;
    let status = answer.status();
    answer
        .into_body()
        .collect()
        .await
        .map_err(|_| Kind::Broken)?;
    if status != http::StatusCode::OK {
        return Err(Kind::Status(status.as_u16()));
    }
    // One that the other side closes after this answer never gets ready.
    if keep && sender.ready().await.is_ok() {
        let mut state = state.borrow_mut();
        if state.kept[at].len() < KEPT {
            state.kept[at].push_back(sender);
        }
    }
    Ok(())
}

/// Another one for each run, so that those of the last are left alone.
fn first_port() -> u16 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let offset = now.as_secs() * 997 % u64::from(PORTS.end - PORTS.start);
    PORTS.start + u16::try_from(offset).unwrap_or_default()
}

async fn connect(state: &Rc<RefCell<Sent>>, target: &Target) -> Result<Sender, Kind> {
    let failed = |error: std::io::Error| Kind::Connect(error.kind());
    let socket = bound(state, target.address).map_err(failed)?;
    let stream = socket.connect(target.address).await.map_err(failed)?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Kind::Broken)?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// A socket on the next port that is free.
fn bound(state: &Rc<RefCell<Sent>>, to: SocketAddr) -> std::io::Result<TcpSocket> {
    let mut last = ErrorKind::AddrInUse.into();
    for _ in 0..100 {
        let port = {
            let state = &mut *state.borrow_mut();
            state.port += 1;
            if !PORTS.contains(&state.port) {
                state.port = PORTS.start;
            }
            state.port
        };
        let (socket, any): (_, IpAddr) = match to {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
        };
        socket.set_reuseaddr(true)?;
        match socket.bind((any, port).into()) {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, work)
    }

    fn settings(address: SocketAddr) -> Settings {
        let host = "a.test".to_owned();
        Settings {
            targets: vec![Target { address, host }],
            per_sec: 500,
            answer_within: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_backend_that_answers_fails_nothing() {
        let report = on_one_thread(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(crate::echo::serve(listener, "a".into()));
            until_sent(&settings(address), Duration::from_millis(500)).await
        });
        assert!(report.sent >= 100, "{report:?}");
        assert_eq!(report.failed, 0, "{report:?}");
    }

    #[test]
    fn failures_are_told_apart() {
        let report = on_one_thread(async {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let refusing = closed.local_addr().unwrap();
            drop(closed);
            let breaking = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let failing = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addresses = [
                refusing,
                breaking.local_addr().unwrap(),
                failing.local_addr().unwrap(),
            ];
            tokio::spawn(answer(breaking, b""));
            tokio::spawn(answer(
                failing,
                b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            ));
            let mut settings = settings(refusing);
            settings.targets = addresses
                .map(|address| Target {
                    address,
                    host: "a.test".into(),
                })
                .to_vec();
            until_sent(&settings, Duration::from_millis(300)).await
        });
        assert_eq!(report.failed, report.sent, "{report:?}");
        let refused = Kind::Connect(ErrorKind::ConnectionRefused);
        for kind in [refused, Kind::Broken, Kind::Status(503)] {
            assert!(report.failures.iter().any(|f| f.kind == kind), "{kind}");
        }
    }

    async fn until_sent(settings: &Settings, time: Duration) -> Report {
        let stop = AtomicBool::new(false);
        let timer = async {
            tokio::time::sleep(time).await;
            stop.store(true, Ordering::Relaxed);
        };
        tokio::join!(run(settings, &stop), timer).0
    }

    /// Reads a request, writes this and closes.
    async fn answer(listener: TcpListener, text: &'static [u8]) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(text).await;
        }
    }
}
