//! The pool grows and shrinks under traffic: Gateways go from shard to shard, and nobody notices.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use perf_e2e::{Programs, example, wait_for};
use serde_json::Value;

/// Shards that run all the time, whatever the pool's size.
const SHARDS: u32 = 4;

/// Processes that end with the test.
struct Pool {
    programs: Programs,
    stream: u16,
    operator: Option<Child>,
    shards: Vec<Child>,
}

/// The address range of this test.
fn range() -> String {
    format!("127.{}.251", 100 + std::process::id() % 100)
}

impl Pool {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let mut pool = Self {
            programs: Programs::new(),
            stream: port.unwrap().port(),
            operator: None,
            shards: Vec::new(),
        };
        // Certificates are made for as many shards as there will ever be.
        pool.resize(SHARDS, 2);
        for shard in 0..SHARDS {
            let operator = format!("127.0.0.1:{}", pool.stream);
            let child = pool.programs.shard(shard, &operator, &range());
            pool.shards.push(child);
        }
        pool
    }

    fn path(&self, name: &str) -> PathBuf {
        self.programs.path(name)
    }

    /// Starts the operator anew, with another size of the pool.
    fn resize(&mut self, shards: u32, of_each: u32) {
        if let Some(mut before) = self.operator.take() {
            before.kill().unwrap();
            before.wait().unwrap();
        }
        let arguments = [
            format!("--source=dir:{}", example("quickstart").display()),
            format!("--data={}", self.path("operator").display()),
            format!("--tls-dir={}", self.path("tls").display()),
            format!("--stream=127.0.0.1:{}", self.stream),
            format!("--address-range={}.0/24", range()),
            format!("--shards={shards}"),
            format!("--shards-per-gateway={of_each}"),
        ];
        let operator = self.programs.spawn("operator", &arguments, "operator.log");
        self.operator = Some(operator);
    }

    fn ask(&self, path: &str) -> Option<Value> {
        let info = fs::read_to_string(self.path("operator/operator.json")).ok()?;
        let info: Value = serde_json::from_str(&info).ok()?;
        // Of the one before, until the next one has written its own.
        let pid = self.operator.as_ref().map(Child::id);
        if info["pid"].as_u64() != pid.map(u64::from) {
            return None;
        }
        let url = format!("http://{}{path}", info["admin"].as_str()?);
        let output = Command::new("curl").args(["-s", "-m", "5", &url]).output();
        serde_json::from_slice(&output.unwrap().stdout).ok()
    }

    /// Waits until all Gateways are on so many shards of the pool, and none moves; gives where the first is bound.
    fn wait_until_placed(&self, shards: u32, of_each: usize) -> (SocketAddr, Vec<u64>) {
        wait_for("all gateways to be where they are to be", || {
            let dump = self.ask("/dump")?.to_string();
            if dump.contains("\"joining\"") || dump.contains("\"leaving\"") {
                return None;
            }
            let bindings = self.ask("/api/v1/bindings")?;
            let bindings = bindings.as_array().filter(|all| all.len() == 3)?;
            let on = |binding: &Value| -> Vec<u64> {
                let shards = binding["shards"].as_array().unwrap().iter();
                shards.map(|shard| shard.as_u64().unwrap()).collect()
            };
            let fits = |binding: &Value| {
                let on = on(binding);
                on.len() == of_each && on.iter().all(|shard| *shard < u64::from(shards))
            };
            if !bindings.iter().all(fits) {
                return None;
            }
            let web = bindings
                .iter()
                .find(|b| b["name"] == "web" && b["port"] == 80)?;
            let ip = web["addresses"][0].as_str()?.parse().ok()?;
            let port = u16::try_from(web["publicPort"].as_u64()?).ok()?;
            Some((SocketAddr::new(ip, port), on(web)))
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for child in self.operator.iter_mut().chain(&mut self.shards) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("operator.log"));
            eprintln!("{}", log.unwrap_or_default());
        }
    }
}

/// Requests without end, each counted; what fails is told.
struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Traffic {
    /// Clients that keep their connections, and clients that open one for each request.
    fn to(address: SocketAddr) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let clients = [true, true, false];
        let clients = clients.map(|keeps| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || client(address, keeps, &stop, &sent))
        });
        Self {
            stop,
            sent,
            clients: clients.into(),
        }
    }

    fn wait_for_more(&self) {
        let before = self.sent.load(Ordering::Relaxed);
        wait_for("more requests", || {
            (self.sent.load(Ordering::Relaxed) > before + 20).then_some(())
        });
    }

    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let clients = self.clients.into_iter();
        clients.flat_map(|client| client.join().unwrap()).collect()
    }
}

fn client(address: SocketAddr, keeps: bool, stop: &AtomicBool, sent: &AtomicU64) -> Vec<String> {
    let mut failures = Vec::new();
    let mut open: Option<TcpStream> = None;
    while !stop.load(Ordering::Relaxed) {
        let stream = open.take().map_or_else(|| connect(address), Ok);
        match stream.and_then(|mut stream| Ok((redirect(&mut stream)?, stream))) {
            Ok((answer, stream)) => {
                if !answer.starts_with("HTTP/1.1 301") {
                    failures.push(answer.clone());
                }
                let closes = answer.to_lowercase().contains("connection: close");
                open = (keeps && !closes).then_some(stream);
            }
            Err(error) => failures.push(error.to_string()),
        }
        sent.fetch_add(1, Ordering::Relaxed);
        // At an even pace, so that connections are idle between requests.
        std::thread::park_timeout(Duration::from_millis(5));
    }
    failures
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A redirect's head: it needs no backend, and has no body.
fn redirect(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: old.team-a.test\r\n\r\n")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut some = [0; 4096];
        match stream.read(&mut some)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => answer.extend(&some[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn a_pool_that_grows_and_shrinks_loses_no_request() {
    let mut pool = Pool::start();
    let (address, mut before) = pool.wait_until_placed(SHARDS, 2);
    wait_for("the redirect to be served", || {
        let answer = connect(address).and_then(|mut stream| redirect(&mut stream));
        answer
            .ok()
            .filter(|answer| answer.starts_with("HTTP/1.1 301"))
    });
    let traffic = Traffic::to(address);
    let mut moved = 0;
    for (shards, of_each) in [(2, 2), (4, 3), (1, 1), (4, 2)] {
        traffic.wait_for_more();
        pool.resize(shards, of_each);
        let of_each = usize::try_from(of_each).unwrap();
        let (same, on) = pool.wait_until_placed(shards, of_each);
        assert_eq!(same, address);
        moved += u32::from(on != before);
        before = on;
    }
    traffic.wait_for_more();
    let failures = traffic.end();
    assert!(failures.is_empty(), "{failures:?}");
    assert!(moved >= 2, "nothing has moved");
}
