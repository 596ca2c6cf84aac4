//! A running Shardway to measure.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::proc;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// The operator is idle when it takes less than a fiftieth of a core over this time.
const IDLE_OVER: Duration = Duration::from_millis(1500);

/// GatewayClass, one Gateway `bench/web` on port 8080, and a Service `bench/b` with these endpoints.
pub(crate) fn base(endpoints: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: shardway}}\nspec: {{controllerName: shardway.dev/gateway-controller}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: web, namespace: bench}}\nspec:\n  gatewayClassName: shardway\n  listeners: [{{name: http, port: 8080, protocol: HTTP}}]\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: b, namespace: bench, annotations: {{shardway.dev/endpoints: \"{endpoints}\"}}}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

/// A route of its own host to `bench/b`.
pub(crate) fn route(name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n  parentRefs: [{{name: web}}]\n  hostnames: [{name}.bench.test]\n  rules: [{{backendRefs: [{{name: b, port: 80}}]}}]\n"
    )
}

/// `shardway-up` on a folder.
pub(crate) struct Run {
    up: Child,
    pub(crate) folder: PathBuf,
    data: PathBuf,
    /// Each shard's own address.
    targets: Vec<String>,
    _root: TempDir,
}

impl Run {
    /// Starts it on these files with so many shards of one worker each; `pin` names the CPU for all of it.
    pub(crate) fn start(
        files: &[(String, String)],
        shards: usize,
        pin: Option<&str>,
    ) -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        let folder = root.path().join("manifests");
        fs::create_dir(&folder)?;
        for (name, text) in files {
            fs::write(folder.join(name), text)?;
        }
        let bin = std::env::current_exe()?
            .parent()
            .context("find the programs")?
            .to_owned();
        let data = root.path().join("data");
        let mut command = match pin {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cpu]).arg(bin.join("shardway-up"));
                command
            }
            None => Command::new(bin.join("shardway-up")),
        };
        let mut up = command
            .arg(&folder)
            .arg("--data")
            .arg(&data)
            .args(["--shards", &shards.to_string(), "--workers", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start shardway-up")?;
        let out = up.stdout.take().context("read its output")?;
        let (ready, wait) = std::sync::mpsc::sync_channel(1);
        let (addresses, found) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(rest) = line.split("each alone at ").nth(1) {
                    let _ =
                        addresses.try_send(rest.split('(').next().unwrap_or_default().to_owned());
                }
                if line.starts_with("up: ready") {
                    let _ = ready.try_send(());
                }
            }
        });
        let mut run = Self {
            up,
            folder,
            data,
            targets: Vec::new(),
            _root: root,
        };
        wait.recv_timeout(PATIENCE)
            .context("wait for shardway-up to be ready")?;
        let prefix = found
            .recv_timeout(PATIENCE)
            .context("wait for the shards' addresses")?;
        run.targets = (1..=shards).map(|n| format!("{prefix}{n}")).collect();
        Ok(run)
    }

    /// The operator's process.
    pub(crate) fn operator(&self) -> anyhow::Result<u32> {
        let info: Value =
            serde_json::from_str(&fs::read_to_string(self.data.join("operator.json"))?)?;
        Ok(u32::try_from(
            info["pid"].as_u64().context("pid of the operator")?,
        )?)
    }

    /// The shards' processes.
    pub(crate) fn shards(&self) -> Vec<u32> {
        proc::children(self.up.id(), "shard-proxy")
    }

    /// Waits until the operator has nothing to do: what is measured next is not the end of its start.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        let operator = self.operator()?;
        let until = Instant::now() + PATIENCE;
        loop {
            let before = proc::cpu_ns(operator);
            std::thread::sleep(IDLE_OVER);
            let spent = Duration::from_nanos(proc::cpu_ns(operator).saturating_sub(before));
            if spent < IDLE_OVER / 50 {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("the operator is still busy after {} s", PATIENCE.as_secs());
            }
        }
    }

    /// Where the Gateway's port 8080 answers: its own address, then each shard alone.
    pub(crate) fn addresses(&self) -> anyhow::Result<(SocketAddr, Vec<SocketAddr>)> {
        let info: Value =
            serde_json::from_str(&fs::read_to_string(self.data.join("operator.json"))?)?;
        let admin: SocketAddr = info["admin"].as_str().context("admin address")?.parse()?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let mut stream = TcpStream::connect(admin)?;
            write!(
                stream,
                "GET /api/v1/bindings HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            if let Ok(bindings) = serde_json::from_str::<Value>(body)
                && let Some(binding) = bindings.get(0)
            {
                let port = |name: &str| {
                    binding[name]
                        .as_u64()
                        .and_then(|port| u16::try_from(port).ok())
                        .unwrap_or(0)
                };
                let public = format!(
                    "{}:{}",
                    binding["addresses"][0].as_str().unwrap_or_default(),
                    port("publicPort")
                );
                let own = self
                    .targets
                    .iter()
                    .map(|ip| format!("{ip}:{}", port("targetPort")).parse());
                return Ok((public.parse()?, own.collect::<Result<_, _>>()?));
            }
        }
        bail!("the gateway has no binding")
    }

    /// Puts a file into the folder as an editor does.
    pub(crate) fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        put(&self.folder, name, text)
    }
}

/// Puts a file into a folder, whole or not at all.
pub(crate) fn put(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let temporary = folder.join(format!(".{name}.new"));
    fs::write(&temporary, text)?;
    fs::rename(temporary, folder.join(name))?;
    Ok(())
}

impl Drop for Run {
    fn drop(&mut self) {
        // Its children end with it.
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}

/// A kept connection that asks for a host and tells the status.
pub(crate) struct Probe(BufReader<TcpStream>);

impl Probe {
    pub(crate) fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn status(&mut self, host: &str) -> anyhow::Result<u16> {
        // One write, as clients do; in pieces, each would wake the shard.
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok())
            .context("read the status line")?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            self.0.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        std::io::copy(&mut (&mut self.0).take(length), &mut std::io::sink())?;
        Ok(status)
    }
}
