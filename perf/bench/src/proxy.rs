//! CPU for each proxied request: HTTP/1.1 keep-alive, 1 KiB, 64 connections, one core, beside HAProxy.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::proc::{cpu_ns, quantile};
use crate::run::{Run, base};
use crate::verdict;

const BACKEND: &str = "127.0.0.1:19000";
const HAPROXY: &str = "127.0.0.1:19102";

/// `proxy`: rounds alternate between the two; the proxy has CPU 0, load and backend have CPU 1.
pub(crate) fn proxy(seconds: u64, rounds: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let body = "x".repeat(1024);
    let nginx = format!(
        "worker_processes 1; daemon off; pid {pid}; error_log {log} warn;\nevents {{ worker_connections 8192; }}\nhttp {{ access_log off; keepalive_requests 100000000; keepalive_timeout 3600; default_type text/plain;\n  client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp}; scgi_temp_path {tmp};\n  server {{ listen {BACKEND} backlog=4096; location / {{ return 200 \"{body}\"; }} }} }}\n",
        pid = path("nginx.pid").display(),
        log = path("nginx.err").display(),
        tmp = path("tmp").display(),
    );
    fs::write(path("nginx.conf"), nginx)?;
    let haproxy = format!(
        "global\n  nbthread 1\n  maxconn 8000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  option http-keep-alive\n  http-reuse always\nfrontend f\n  bind {HAPROXY} backlog 4096\n  default_backend b\nbackend b\n  server s1 {BACKEND} pool-max-conn 512\n"
    );
    fs::write(path("haproxy.cfg"), haproxy)?;
    let mut command = pinned("1", "nginx");
    command
        .arg("-c")
        .arg(path("nginx.conf"))
        .arg("-e")
        .arg(path("nginx.err"));
    let _backend = Peer::start(command, BACKEND).context("apt-get install nginx-light")?;
    let mut command = pinned("0", "haproxy");
    command.arg("-db").arg("-f").arg(path("haproxy.cfg"));
    let haproxy = Peer::start(command, HAPROXY).context("apt-get install haproxy")?;
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: bench}\nspec:\n  parentRefs: [{name: web}]\n  rules: [{backendRefs: [{name: b, port: 80}]}]\n";
    let run = Run::start(
        &[("base.yaml".into(), format!("{}{route}", base(BACKEND)))],
        1,
        Some("0"),
    )?;
    let (address, _) = run.addresses()?;
    let shard = run
        .shards()
        .first()
        .copied()
        .context("the shard's process")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (name, pid, at, all) in [
            ("shardway", shard, address.to_string(), &mut ours),
            ("haproxy", haproxy.pid(), HAPROXY.to_owned(), &mut theirs),
        ] {
            wrk(&at, 1)?;
            let before = cpu_ns(pid);
            let requests = wrk(&at, seconds)?;
            let us = (cpu_ns(pid) - before) as f64 / 1000.0 / requests as f64;
            println!("  round {round} {name}: {requests} requests, {us:.2} us CPU each");
            all.push(us);
        }
    }
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    println!("proxy: HTTP/1.1 keep-alive, 1 KiB, 64 connections, one core, routing and metrics on");
    println!(
        "  us CPU for each request: shardway min {:.2} median {:.2}, haproxy min {:.2} median {:.2}",
        ours[0],
        quantile(&ours, 0.5),
        theirs[0],
        quantile(&theirs, 0.5)
    );
    verdict(
        "CPU / HAProxy's CPU, medians",
        quantile(&ours, 0.5) / quantile(&theirs, 0.5),
        1.3,
    );
    Ok(())
}

fn pinned(cpu: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command
        .args(["-c", cpu, program])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Requests that wrk completed; any that failed is an error.
fn wrk(address: &str, seconds: u64) -> anyhow::Result<u64> {
    let output = Command::new("taskset")
        .args([
            "-c",
            "1",
            "wrk",
            "-t1",
            "-c64",
            &format!("-d{seconds}s"),
            &format!("http://{address}/"),
        ])
        .output()
        .context("run wrk; apt-get install wrk")?;
    let text = String::from_utf8(output.stdout)?;
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("requests failed:\n{text}");
    }
    let line = text
        .lines()
        .find(|line| line.contains("requests in"))
        .context("read wrk's output")?;
    line.split_whitespace()
        .next()
        .and_then(|count| count.parse().ok())
        .context("read wrk's count")
}

/// A program beside ours; ends with this one.
struct Peer(Child);

impl Peer {
    fn start(mut command: Command, address: &str) -> anyhow::Result<Self> {
        let address: SocketAddr = address.parse()?;
        if TcpStream::connect(address).is_ok() {
            bail!("something listens on {address} already; stop it");
        }
        let mut peer = Self(command.spawn()?);
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > until || peer.0.try_wait()?.is_some() {
                bail!("{command:?} does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(peer)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Asked, not killed: a master that is killed leaves its workers behind.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
