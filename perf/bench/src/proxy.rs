//! CPU for each proxied request: HTTP/1.1 keep-alive, 1 KiB, 64 connections, one core, beside HAProxy and Envoy.

use std::ffi::OsStr;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use crate::proc::{cpu_ns, quantile};
use crate::run::{Run, base};
use crate::verdict;

const BACKEND: &str = "127.0.0.1:19000";
const HAPROXY: &str = "127.0.0.1:19102";
const ENVOY: &str = "127.0.0.1:19103";

/// `proxy`: rounds go from one to the next; the proxy has CPU 0, load and backend have CPU 1. `envoy` is its program;
/// without one it is left out, and said so.
pub(crate) fn proxy(seconds: u64, rounds: usize, envoy: Option<&Path>) -> anyhow::Result<()> {
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
    let envoy = envoy
        .map(|program| {
            fs::write(path("envoy.json"), envoy_config().to_string())?;
            let mut command = pinned("0", program.as_os_str());
            command
                .arg("-c")
                .arg(path("envoy.json"))
                .args(["--concurrency", "1", "--log-level", "error"])
                .args(["--disable-hot-restart"]);
            Peer::start(command, ENVOY).context("start envoy")
        })
        .transpose()?;
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
    let mut proxies = vec![
        Measured::new("shardway", shard, &address.to_string(), None),
        Measured::new("haproxy", haproxy.pid(), HAPROXY, Some(1.3)),
    ];
    match &envoy {
        Some(envoy) => proxies.push(Measured::new("envoy", envoy.pid(), ENVOY, Some(0.45))),
        None => println!("  envoy is left out: --envoy names no program"),
    }
    for round in 0..rounds {
        for proxy in &mut proxies {
            proxy.round(round, seconds)?;
        }
    }
    println!("proxy: HTTP/1.1 keep-alive, 1 KiB, 64 connections, one core, routing and metrics on");
    for proxy in &mut proxies {
        proxy.us.sort_by(f64::total_cmp);
        println!(
            "  {}: us CPU for each request min {:.2} median {:.2}",
            proxy.name,
            proxy.us[0],
            proxy.median()
        );
    }
    let ours = proxies[0].median();
    for peer in &proxies[1..] {
        let Some(limit) = peer.ratio_max else {
            continue;
        };
        verdict(
            &format!("CPU / {}'s CPU, medians", peer.name),
            ours / peer.median(),
            limit,
        );
    }
    Ok(())
}

/// One proxy and what its requests cost.
struct Measured {
    name: &'static str,
    pid: u32,
    address: String,
    /// What ours may cost, as a share of this one's cost.
    ratio_max: Option<f64>,
    us: Vec<f64>,
}

impl Measured {
    fn new(name: &'static str, pid: u32, address: &str, ratio_max: Option<f64>) -> Self {
        Self {
            name,
            pid,
            address: address.to_owned(),
            ratio_max,
            us: Vec::new(),
        }
    }

    fn round(&mut self, round: usize, seconds: u64) -> anyhow::Result<()> {
        wrk(&self.address, 1)?;
        let before = cpu_ns(self.pid);
        let requests = wrk(&self.address, seconds)?;
        let spent = Duration::from_nanos(cpu_ns(self.pid) - before);
        let us = spent.as_secs_f64() * 1e6 / requests as f64;
        let busy = spent.as_secs_f64() / seconds as f64;
        println!(
            "  round {round} {}: {requests} requests, {us:.2} us CPU each, {:.0}% of its core",
            self.name,
            busy * 100.0
        );
        self.us.push(us);
        Ok(())
    }

    fn median(&self) -> f64 {
        quantile(&self.us, 0.5)
    }
}

/// One listener, one route, one cluster; statistics and request ids as they are by default.
fn envoy_config() -> serde_json::Value {
    let at = |address: &str| {
        let (host, port) = address.split_once(':').unwrap_or((address, "0"));
        json!({"socket_address": {"address": host, "port_value": port.parse::<u16>().unwrap_or(0)}})
    };
    let filters = "type.googleapis.com/envoy.extensions.filters";
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}});
    let limits =
        json!({"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096});
    json!({"static_resources": {
        "listeners": [{"name": "l", "address": at(ENVOY), "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": format!("{filters}.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "h",
                "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": format!("{filters}.http.router.v3.Router")},
                }],
            },
        }]}]}],
        "clusters": [{
            "name": "c", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [limits]},
            "load_assignment": {"cluster_name": "c", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": at(BACKEND)}}]},
            ]},
        }],
    }})
}

fn pinned(cpu: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command
        .args(["-c", cpu])
        .arg(program)
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
