//! The cluster that a fault happens in: what is installed, and questions to it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use perf_cluster::install::{self, NAMESPACE, POOL, Package};
use perf_cluster::{Cluster, up};
use perf_load::open_loop::Target;
use serde_json::Value;

use crate::traffic::Traffic;

/// Time for what must come true.
pub(crate) const WITHIN: Duration = Duration::from_secs(180);
/// The operator's pods.
const OPERATORS: &str = "app.kubernetes.io/name=shardway,app.kubernetes.io/component=operator";
/// Gateways of the quickstart: namespace, name, port, a host that answers.
const GATEWAYS: &[(&str, &str, u16, &str)] = &[
    ("team-a", "web", 80, "shop.team-a.test"),
    ("team-b", "api", 8080, "api.team-b.test"),
];

/// A cluster with an installation and the quickstart.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) package: Package,
    /// Requests for each second.
    pub(crate) rate: u32,
}

impl Scene {
    /// Brings everything up; `own` is the folder of the cluster's programs.
    pub(crate) fn prepare(&self, own: &Path, installed: bool) -> anyhow::Result<()> {
        up::up(&self.cluster, own)?;
        if !installed {
            install::install(&self.cluster, &self.package)?;
        }
        let quickstart = self.package.root.join("api/examples/quickstart");
        let folder = quickstart.display().to_string();
        self.cluster.kubectl(&["apply", "-f", &folder])?;
        // Pods of an earlier form are gone too: they would fail requests of their own.
        let within = format!("--timeout={}s", WITHIN.as_secs());
        for (namespace, _, _, _) in GATEWAYS {
            self.cluster
                .kubectl(&["rollout", "status", &within, "-n", namespace, "deployment"])?;
        }
        let targets = self.targets()?;
        for target in &targets {
            wait(&format!("{} to answer", target.host), || {
                Ok(self.get(&target.host, target.address))
            })?;
        }
        self.forget_the_dead()?;
        println!("fault: the quickstart answers");
        Ok(())
    }

    /// Takes away what the kernel's translation of addresses remembers of pods that are gone, as an earlier crash leaves it.
    fn forget_the_dead(&self) -> anyhow::Result<()> {
        let pods = self.cluster.kubectl(&[
            "get",
            "pods",
            "-A",
            "-o",
            "jsonpath={range .items[*].status.podIPs[*]}{.ip}{\"\\n\"}{end}",
        ])?;
        let alive: Vec<&str> = pods.lines().collect();
        let mut list = self.cluster.command("conntrack");
        let list = list
            .args(["-L", "-p", "tcp"])
            .output()
            .context("start conntrack")?;
        let text = String::from_utf8_lossy(&list.stdout).into_owned();
        // The second source of a line is who answers.
        let mut dead: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split("src=").nth(2)?.split_whitespace().next())
            .filter(|address| address.starts_with("10.244.") && *address != "10.244.0.1")
            .filter(|address| !alive.contains(address))
            .collect();
        dead.sort_unstable();
        dead.dedup();
        for address in dead {
            let mut forget = self.cluster.command("conntrack");
            forget.args(["-D", "-p", "tcp", "--reply-src", address]);
            forget.output().context("start conntrack")?;
        }
        Ok(())
    }

    /// Starts traffic to all Gateways of the quickstart.
    pub(crate) fn traffic(&self) -> anyhow::Result<Traffic> {
        Ok(Traffic::start(&self.cluster, self.targets()?, self.rate))
    }

    fn targets(&self) -> anyhow::Result<Vec<Target>> {
        GATEWAYS
            .iter()
            .map(|(namespace, name, port, host)| {
                let mut address = None;
                wait(&format!("{namespace}/{name} to be programmed"), || {
                    address = self.programmed(namespace, name);
                    Ok(address.is_some())
                })?;
                let ip: IpAddr = address.context("an address")?;
                Ok(Target {
                    address: SocketAddr::new(ip, *port),
                    host: (*host).to_owned(),
                })
            })
            .collect()
    }

    fn programmed(&self, namespace: &str, name: &str) -> Option<IpAddr> {
        let gateway = self.object("gateway", namespace, name).ok()?;
        let programmed = gateway["status"]["conditions"]
            .as_array()?
            .iter()
            .any(|condition| condition["type"] == "Programmed" && condition["status"] == "True");
        let address = gateway["status"]["addresses"][0]["value"].as_str();
        address.filter(|_| programmed)?.parse().ok()
    }

    /// One object as JSON.
    pub(crate) fn object(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<Value> {
        let text = self
            .cluster
            .kubectl(&["get", kind, name, "-n", namespace, "-o", "json"])?;
        serde_json::from_str(&text).context("read what kubectl printed")
    }

    /// Pods of the release with these labels.
    fn pods(&self, labels: &str) -> anyhow::Result<Vec<Value>> {
        let text = self
            .cluster
            .kubectl(&["get", "pods", "-n", NAMESPACE, "-l", labels, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text).context("read what kubectl printed")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The operator's pods.
    pub(crate) fn operators(&self) -> anyhow::Result<Vec<Value>> {
        self.pods(OPERATORS)
    }

    /// The pool's pods.
    pub(crate) fn shards(&self) -> anyhow::Result<Vec<Value>> {
        self.pods(&format!(
            "app.kubernetes.io/name=shardway-shard,shardway.dev/pool={POOL}"
        ))
    }

    /// Whether a Gateway's EndpointSlices send new connections to one of these addresses.
    pub(crate) fn endpoints_of(&self, addresses: &[String]) -> anyhow::Result<bool> {
        let path = "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=gateway.networking.k8s.io%2Fgateway-name";
        let slices = self.cluster.inside(|| self.cluster.api()?.get(path))?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        Ok(list(&slices["items"])
            .iter()
            .flat_map(|slice| list(&slice["endpoints"]))
            .filter(|endpoint| endpoint["conditions"]["ready"] != false)
            .flat_map(|endpoint| list(&endpoint["addresses"]))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .any(|address| addresses.contains(&address)))
    }

    /// The replica that leads, when there is one.
    pub(crate) fn leader(&self) -> anyhow::Result<Option<String>> {
        for pod in self.operators()? {
            let Some(ip) = pod["status"]["podIP"]
                .as_str()
                .and_then(|ip| ip.parse().ok())
            else {
                continue;
            };
            let address = SocketAddr::new(ip, 7002);
            let info = self.curl(&[&format!("http://{address}/api/v1/info")]);
            let info: Value = serde_json::from_str(&info).unwrap_or_default();
            if info["raft"]["role"] == "leader" {
                return Ok(Some(name(&pod)));
            }
        }
        Ok(None)
    }

    /// Waits until all replicas of the operator are ready.
    pub(crate) fn operators_are_ready(&self) -> anyhow::Result<()> {
        let set = format!("statefulset/{}-operator", install::RELEASE);
        let within = format!("--timeout={}s", WITHIN.as_secs());
        self.cluster
            .kubectl(&["rollout", "status", &within, "-n", NAMESPACE, &set])
            .map(drop)
    }

    /// Makes a route and waits until it answers; gives the time that took.
    pub(crate) fn a_new_route_works(&self) -> anyhow::Result<Duration> {
        let number = std::time::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_millis();
        let host = format!("fault-{number}.team-a.test");
        let route = serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": format!("fault-{number}"), "namespace": "team-a"},
            "spec": {
                "parentRefs": [{"name": "web", "sectionName": "http"}], "hostnames": [host],
                "rules": [{"backendRefs": [{"name": "shop-v1", "port": 80}]}],
            },
        });
        let targets = self.targets()?;
        let web = targets
            .first()
            .context("the quickstart has a Gateway")?
            .address;
        let file = self.cluster.state().join("fault-route.json");
        std::fs::write(&file, route.to_string()).context("write a route")?;
        let began = Instant::now();
        self.cluster
            .kubectl(&["create", "-f", &file.display().to_string()])?;
        wait("a new route to work", || Ok(self.get(&host, web)))?;
        let took = began.elapsed();
        println!(
            "      a new route answers {:.2} s after kubectl began",
            took.as_secs_f64()
        );
        self.cluster.kubectl(&[
            "delete",
            "httproute",
            "-n",
            "team-a",
            &format!("fault-{number}"),
        ])?;
        Ok(took)
    }

    /// Whether a request is answered by a backend.
    pub(crate) fn get(&self, host: &str, address: SocketAddr) -> bool {
        let answer = self.curl(&[
            "-H",
            &format!("Host: {host}"),
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &format!("http://{address}/"),
        ]);
        answer == "200"
    }

    /// What curl prints in the cluster's network.
    pub(crate) fn curl(&self, arguments: &[&str]) -> String {
        let output = self
            .cluster
            .command("curl")
            .args(["-s", "-m", "5"])
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        output.map_or_else(
            |_| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }
}

/// Name of an object.
pub(crate) fn name(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str();
    name.unwrap_or_default().to_owned()
}

/// Whether a pod is ready and not on its way out.
pub(crate) fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Asks until it is so.
pub(crate) fn wait(
    what: &str,
    mut ready: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    loop {
        if ready()? {
            return Ok(began.elapsed());
        }
        if began.elapsed() > WITHIN {
            bail!("waited {} s for {what}", WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
