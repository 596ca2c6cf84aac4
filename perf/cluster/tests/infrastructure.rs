//! Gateways get their addresses, slices follow the shards, and the pool is scaled, on a real API server.
//!
//! Shards are pods of echo-basic, named and labelled as the operator's are. Wants root and `SHARDWAY_CLUSTER=1`.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::{GatewayKey, PoolKey, ShardId};
use api_pool::{ServiceSettings, ServiceType};
use api_telemetry::metrics::{Desc, HistogramValue, Labels, Sink};
use operator_infrastructure::{
    GatewayNeeds, Infrastructure, Observed, PodSettings, PoolController, Settings, WantedAddress,
};
use perf_cluster::{Cluster, down, up};
use serde_json::{Value, json};

use support::{Ended, home, programs, reason_to_skip, say_skipped};

const NAME: &str = "infrastructure";
const WITHIN: Duration = Duration::from_secs(60);
const SYSTEM: &str = "system";
const TEAM: &str = "team-a";
/// Gateways for the time that a change takes.
const MANY: usize = 200;

#[test]
fn services_follow_gateways_slices_follow_shards_and_nothing_is_left() {
    if let Some(reason) = reason_to_skip() {
        say_skipped(reason);
        return;
    }
    let cluster = Cluster::new(NAME, &home()).unwrap();
    down::down(&cluster).unwrap();
    let _ended = Ended(&cluster);
    up::up(&cluster, programs()).unwrap();
    let crds = cluster.crds().join("experimental");
    let pool_crd = concat!(env!("CARGO_MANIFEST_DIR"), "/../../helm/shardway/crds");
    for folder in [&crds.display().to_string(), pool_crd] {
        let arguments = ["apply", "--server-side", "-f", folder];
        cluster.kubectl(&arguments).unwrap();
    }
    // The runtime's threads are in the cluster's network as the one that starts them is.
    let ran = cluster.inside(|| {
        let run = Run::new(&cluster);
        run.apply(&namespaces());
        a_pool_is_scaled(&run);
        a_gateway_is_served(&run);
        Ok(())
    });
    ran.unwrap();
    down::down(&cluster).unwrap();
}

fn a_gateway_is_served(run: &Run<'_>) {
    run.apply(&[
        shard(0),
        shard(1),
        gateway("web"),
        gateway("other"),
        gateway("taken"),
    ]);
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "shardway-taken", "namespace": TEAM},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"name": "theirs", "port": 80}]},
    });
    run.apply(std::slice::from_ref(&theirs));
    for shard in ["default-shard-0", "default-shard-1"] {
        run.kubectl(&["wait", "-n", SYSTEM, "pod", shard, "--for=condition=Ready"]);
    }

    let first = run.infrastructure();
    first.handle.lead(true);
    let web = run.needs("web", &[0, 1]);
    first.set(&web);
    first.set(&run.needs("other", &[1]));
    let address = first.address("web");
    wait("an answer", || run.answers(&address));
    let service = run.object("service", TEAM, "shardway-web");
    let spec = &service["spec"];
    assert_eq!(spec["ports"][0]["nodePort"], Value::Null, "{spec}");
    assert_eq!(spec["selector"], Value::Null, "{spec}");
    let labels = &service["metadata"]["labels"];
    assert_eq!(labels["gateway.networking.k8s.io/gateway-name"], "web");
    let zones: Vec<Value> = run
        .endpoints("web")
        .into_iter()
        .map(|of| of["zone"].clone())
        .collect();
    assert_eq!(zones, ["local-a", "local-a"]);

    // Another's Service of the name stays as it is.
    first.set(&run.needs("taken", &[0]));
    let problem = first.wait("taken", |of| {
        of.problem
            .clone()
            .filter(|of| of.message.contains("not made by Shardway"))
    });
    assert_eq!(problem.reason, "AddressNotAssigned");
    let taken = run.object("service", TEAM, "shardway-taken");
    assert_eq!(taken["spec"]["selector"], theirs["spec"]["selector"]);
    run.kubectl(&["delete", "service", "-n", TEAM, "shardway-taken"]);
    first.handle.set(GatewayKey::new(TEAM, "taken"), None);

    a_shard_that_ends_gets_no_new_connections(run, &address);
    addresses_are_asked_for(run, &first, &web);
    many_gateways_follow_a_shard(run, &first);
    another_replica_writes_nothing_and_takes_away_what_is_left(run, first, &web);
    what_a_gateway_had_goes_with_it(run);
}

/// It is out of the way within the second, while the pod goes on.
fn a_shard_that_ends_gets_no_new_connections(run: &Run<'_>, address: &str) {
    run.delete_pod("default-shard-0");
    let asked = Instant::now();
    let conditions = wait("the shard to be out of the way", || {
        let endpoints = run.endpoints("web");
        let ends = endpoints
            .iter()
            .find(|of| of["conditions"]["terminating"] == true)?;
        Some(ends["conditions"].clone())
    });
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(
        conditions,
        json!({"ready": false, "serving": true, "terminating": true})
    );
    wait("the pod to be gone", || {
        assert!(
            run.answers(address).is_some(),
            "the other shard does not answer"
        );
        (run.endpoints("web").len() == 1).then_some(())
    });
    run.apply(&[shard(0)]);
    wait("the shard to be back", || {
        let endpoints = run.endpoints("web");
        let ready = endpoints
            .iter()
            .filter(|of| of["conditions"]["ready"] == true);
        (ready.count() == 2).then_some(())
    });
}

fn addresses_are_asked_for(run: &Run<'_>, first: &Told, web: &GatewayNeeds) {
    let ask = |type_: &str, value: &str| {
        let mut needs = web.clone();
        needs.addresses = vec![WantedAddress {
            type_: type_.into(),
            value: value.into(),
        }];
        first.set(&needs);
    };
    ask("IPAddress", "10.98.0.77");
    first.wait("web", |of| {
        (of.addresses.first()?.value == "10.98.0.77").then_some(())
    });
    wait("an answer there", || run.answers("10.98.0.77"));
    // It keeps what it has.
    ask("Hostname", "web.test");
    let problem = first.wait("web", |of| of.problem.clone());
    assert_eq!(problem.reason, "UnsupportedAddress");
    assert!(run.answers("10.98.0.77").is_some());
    // From another family, which no Service can be changed to.
    ask("IPAddress", "fd00:10:98::77");
    first.wait("web", |of| {
        (of.addresses.first()?.value == "fd00:10:98::77").then_some(())
    });
    wait("an answer over IPv6", || run.answers("[fd00:10:98::77]"));
    // Not from the load balancer's range.
    ask("IPAddress", "192.0.2.1");
    let problem = first.wait("web", |of| {
        of.problem.clone().filter(|_| of.addresses.is_empty())
    });
    assert_eq!(problem.reason, "AddressNotAssigned");
    first.set(web);
    first.address("web");
}

/// Cost: one write for each Gateway on the shard.
fn many_gateways_follow_a_shard(run: &Run<'_>, first: &Told) {
    let names: Vec<String> = (0..MANY).map(|number| format!("many-{number}")).collect();
    let gateways: Vec<Value> = names.iter().map(|name| gateway(name)).collect();
    run.apply(&gateways);
    let uids = run.uids();
    let asked = Instant::now();
    for name in &names {
        let mut needs = run.needs_of(name, &uids[name], &[1]);
        // The load balancer has fewer addresses.
        needs.settings = ServiceSettings {
            type_: Some(ServiceType::ClusterIp),
            ..ServiceSettings::default()
        };
        first.set(&needs);
    }
    for name in &names {
        first.address(name);
    }
    let made = asked.elapsed();
    let slices = || {
        let text = run.kubectl(&["get", "endpointslices", "-n", TEAM, "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        list["items"].as_array().unwrap().clone()
    };
    wait("all slices", || (slices().len() == MANY + 2).then_some(()));
    // Asking the API server for all of them again and again would slow down what is measured.
    let before = first.written();
    let asked = Instant::now();
    run.delete_pod("default-shard-1");
    wait("as many writes", || {
        (first.written() >= before + MANY as u64).then_some(())
    });
    let ends = |of: &&Value| of["endpoints"][0]["conditions"]["terminating"] == true;
    wait("all slices to be rewritten", || {
        (slices().iter().filter(ends).count() > MANY).then_some(())
    });
    let rewritten = asked.elapsed();
    eprintln!("{MANY} Gateways: addresses after {made:?}, slices rewritten after {rewritten:?}");
    assert!(rewritten < Duration::from_secs(10), "{rewritten:?}");
    for name in &names {
        first.handle.set(GatewayKey::new(TEAM, name), None);
    }
    wait("their Services to be gone", || {
        (run.services().len() == 2).then_some(())
    });
    run.kubectl(&[
        "wait",
        "-n",
        SYSTEM,
        "pod",
        "default-shard-1",
        "--for=delete",
    ]);
    run.apply(&[shard(1)]);
    wait("the shard to be back", || {
        (run.endpoints("other").first()?["conditions"]["ready"] == true).then_some(())
    });
}

fn another_replica_writes_nothing_and_takes_away_what_is_left(
    run: &Run<'_>,
    first: Told,
    web: &GatewayNeeds,
) {
    let versions = || {
        let text = run.kubectl(&["get", "services,endpointslices", "-n", TEAM, "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        let objects = list["items"].as_array().unwrap().clone();
        let objects = objects.into_iter().filter(|of| {
            of["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"] == "web"
        });
        objects
            .map(|of| of["metadata"]["resourceVersion"].clone())
            .collect::<Vec<_>>()
    };
    drop(first);
    let before = versions();
    let second = run.infrastructure();
    second.handle.lead(true);
    second.set(web);
    second.handle.complete();
    // `other` was set by the one before, and by nobody now.
    wait("what is left to be gone", || {
        (run.services() == ["shardway-web"]).then_some(())
    });
    second.address("web");
    assert_eq!(versions(), before);
    second.handle.lead(false);
}

fn what_a_gateway_had_goes_with_it(run: &Run<'_>) {
    run.kubectl(&["delete", "gateways", "-n", TEAM, "--all"]);
    wait("all Services and slices to be gone", || {
        let left = run.kubectl(&["get", "services,endpointslices", "-n", TEAM, "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
}

fn a_pool_is_scaled(run: &Run<'_>) {
    for (spec, says) in [
        (
            json!({"service": {"type": "ClusterIP", "loadBalancerClass": "a/b"}}),
            "needs type",
        ),
        (
            json!({"service": {"ipFamilies": ["IPv4", "IPv6"]}}),
            "need ipFamilyPolicy",
        ),
        (json!({"shards": 0}), "spec.shards"),
    ] {
        let refused = run.refused(&pool("refused", &spec));
        assert!(refused.contains(says), "{spec}: {refused}");
    }
    let refused = run.refused(&pool("has.dots", &json!({})));
    assert!(refused.contains("at most 40"), "{refused}");

    let spec = json!({
        "shards": 2, "resources": {"requests": {"cpu": "1m", "memory": "1000Ki"}},
    });
    run.apply(&[pool("scaled", &spec)]);
    let pool = PoolKey::new(SYSTEM, "scaled");
    let settings = PodSettings {
        image: "test/none:1".into(),
        pull_policy: Some("Never".into()),
        service_account: "default".into(),
        operator: "operator.test:7000".into(),
        trust: "shardway-trust".into(),
        audience: "shardway.dev".into(),
        log_format: "json".into(),
    };
    let controller =
        run.block_on(async { PoolController::start(run.client.clone(), pool, settings, "test") });
    let mut specs = controller.specs();
    let spec = run.block_on(async { specs.wait_for(Option::is_some).await.unwrap().clone() });
    assert_eq!(spec.unwrap().shards, 2);
    controller.lead(true);
    controller.gateways(5);
    let set = || run.object("statefulset", SYSTEM, "scaled-shard");
    let status = |path: &str, value: Value| {
        wait(&format!("status{path} to be {value}"), || {
            let pool = run.object("shardpool", SYSTEM, "scaled");
            (pool["status"].pointer(path) == Some(&value)).then_some(())
        });
    };
    status("/replicas", json!(2));
    status("/gateways", json!(5));
    status("/conditions/0/reason", json!("ShardsNotReady"));
    let scale = |to: u32| {
        let to = format!("--replicas={to}");
        run.kubectl(&["scale", "shardpool", "-n", SYSTEM, "scaled", &to]);
    };
    scale(4);
    status("/replicas", json!(4));
    // Nobody has said what is in use.
    scale(1);
    status("/conditions/1/reason", json!("ScaleInWaits"));
    assert_eq!(set()["spec"]["replicas"], 4);
    controller.in_use(Some(2));
    status("/replicas", json!(3));
    controller.in_use(Some(0));
    status("/replicas", json!(1));
    assert_eq!(
        run.block_on(async { specs.borrow_and_update().clone() })
            .unwrap()
            .shards,
        1
    );
    // Made once, and scaled three times: nothing is written again and again.
    assert_eq!(set()["metadata"]["generation"], 4);
    let events = run.kubectl(&["get", "events", "-n", SYSTEM, "-o", "json"]);
    for reason in ["Created", "ScaledOut", "ScaledIn"] {
        assert!(
            events.contains(&format!("\"reason\": \"{reason}\"")),
            "{reason}: {events}"
        );
    }
    let columns = run.kubectl(&["get", "sp", "-n", SYSTEM]);
    assert!(
        columns.starts_with("NAME     SHARDS   READY   GATEWAYS   AGE"),
        "{columns}"
    );
    run.kubectl(&["delete", "shardpool", "-n", SYSTEM, "scaled"]);
    let none = run.block_on(async { specs.wait_for(Option::is_none).await.is_ok() });
    assert!(none);
    wait("the shards to be gone", || {
        let left = run.kubectl(&["get", "statefulsets,services", "-n", SYSTEM, "-o", "name"]);
        left.trim().is_empty().then_some(())
    });
}

fn namespaces() -> Vec<Value> {
    [SYSTEM, TEAM]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .into()
}

fn gateway(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": TEAM},
        "spec": {"gatewayClassName": "none", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    })
}

fn pool(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "shardway.dev/v1alpha1", "kind": "ShardPool",
        "metadata": {"name": name, "namespace": SYSTEM}, "spec": spec,
    })
}

/// Goes on for a while after it was told to end, as a shard does.
fn shard(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("default-shard-{number}"), "namespace": SYSTEM,
            "labels": {"app.kubernetes.io/name": "shardway-shard", "shardway.dev/pool": "default"},
        },
        "spec": {
            "terminationGracePeriodSeconds": 10,
            "containers": [{
                "name": "shard",
                "image": "registry.k8s.io/gateway-api/echo-basic:v1.5.1",
                "env": [{"name": "POD_NAME", "value": format!("shard-{number}")}],
                "readinessProbe": {"httpGet": {"path": "/health", "port": 3000}, "periodSeconds": 1},
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
            }],
        },
    })
}

/// An [`Infrastructure`], and the last that it told of each Gateway.
struct Told {
    handle: Infrastructure,
    told: Arc<Mutex<BTreeMap<GatewayKey, Observed>>>,
}

impl Told {
    fn set(&self, needs: &GatewayNeeds) {
        self.handle.set(needs.gateway.clone(), Some(needs.clone()));
    }

    /// Services and slices written so far.
    fn written(&self) -> u64 {
        let mut count = Written(0);
        self.handle.metrics().collect(&mut count);
        count.0
    }

    fn wait<T>(&self, gateway: &str, check: impl Fn(&Observed) -> Option<T>) -> T {
        let key = GatewayKey::new(TEAM, gateway);
        wait(gateway, || {
            let told = self.told.lock().unwrap();
            told.get(&key).and_then(&check)
        })
    }

    /// Its first address, once nothing is wrong.
    fn address(&self, gateway: &str) -> String {
        self.wait(gateway, |of| {
            let address = of.addresses.first()?;
            of.problem.is_none().then(|| address.value.clone())
        })
    }
}

/// Adds up what was written.
struct Written(u64);

impl Sink for Written {
    fn counter(&mut self, _: &'static Desc, labels: Labels<'_>, value: u64) {
        if labels.contains(&("result", "written")) {
            self.0 += value;
        }
    }

    fn gauge(&mut self, _: &'static Desc, _: Labels<'_>, _: f64) {}

    fn histogram(&mut self, _: &'static Desc, _: Labels<'_>, _: &HistogramValue) {}
}

struct Run<'a> {
    cluster: &'a Cluster,
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let config = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
            let options = kube::config::KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(config, &options).await;
            kube::Client::try_from(config.unwrap()).unwrap()
        });
        Self {
            cluster,
            runtime,
            client,
        }
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn infrastructure(&self) -> Told {
        let settings = Settings {
            pool: PoolKey::new(SYSTEM, "default"),
            namespaces: Vec::new(),
        };
        let _entered = self.runtime.enter();
        let (handle, mut observed) = Infrastructure::start(self.client.clone(), settings);
        let told: Arc<Mutex<BTreeMap<GatewayKey, Observed>>> = Arc::default();
        let shared = Arc::clone(&told);
        self.runtime.spawn(async move {
            while let Some(of) = observed.recv().await {
                shared.lock().unwrap().insert(of.gateway.clone(), of);
            }
        });
        Told { handle, told }
    }

    fn needs(&self, name: &str, shards: &[u32]) -> GatewayNeeds {
        let gateway = self.object("gateway", TEAM, name);
        self.needs_of(name, gateway["metadata"]["uid"].as_str().unwrap(), shards)
    }

    fn needs_of(&self, name: &str, uid: &str, shards: &[u32]) -> GatewayNeeds {
        GatewayNeeds {
            gateway: GatewayKey::new(TEAM, name),
            uid: uid.to_owned(),
            ports: [(80, 3000)].into(),
            shards: shards.iter().copied().map(ShardId).collect(),
            leaving: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            addresses: Vec::new(),
            settings: ServiceSettings::default(),
        }
    }

    /// Uids of Gateways by name.
    fn uids(&self) -> BTreeMap<String, String> {
        let text = self.kubectl(&["get", "gateways", "-n", TEAM, "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        let text = |of: &Value| of.as_str().unwrap().to_owned();
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|of| (text(&of["metadata"]["name"]), text(&of["metadata"]["uid"])))
            .collect()
    }

    /// Names of our Services.
    fn services(&self) -> Vec<String> {
        let selector = "app.kubernetes.io/managed-by=shardway";
        let names = self.kubectl(&["get", "services", "-n", TEAM, "-l", selector, "-o", "name"]);
        names
            .lines()
            .map(|name| name.replace("service/", ""))
            .collect()
    }

    fn endpoints(&self, gateway: &str) -> Vec<Value> {
        let name = format!("shardway-{gateway}-v4");
        let slice = self.object("endpointslice", TEAM, &name);
        slice["endpoints"].as_array().cloned().unwrap_or_default()
    }

    fn delete_pod(&self, name: &str) {
        self.kubectl(&["delete", "pod", "-n", SYSTEM, name, "--wait=false"]);
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(arguments).unwrap()
    }

    fn object(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let text = self.kubectl(&[
            "get",
            kind,
            "-n",
            namespace,
            name,
            "-o",
            "json",
            "--ignore-not-found",
        ]);
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn apply(&self, manifests: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": manifests});
        let (is_applied, said) = self.try_apply(&list);
        assert!(is_applied, "{said}");
    }

    /// What the API server says to an object that it refuses.
    fn refused(&self, manifest: &Value) -> String {
        let (is_applied, said) = self.try_apply(manifest);
        assert!(!is_applied, "{manifest} was taken");
        said
    }

    fn try_apply(&self, manifest: &Value) -> (bool, String) {
        let mut command = self.cluster.command("kubectl");
        let command = command.args(["apply", "-f", "-"]).stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(manifest.to_string().as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }

    /// Which pod answers at an address.
    fn answers(&self, address: &str) -> Option<String> {
        let mut command = self.cluster.command("curl");
        let url = format!("http://{address}/");
        let output = command.args(["-s", "-m", "3", &url]).output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        answer.contains("\"pod\": \"shard-").then_some(answer)
    }
}

#[track_caller]
fn wait<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(
            Instant::now() < until,
            "waited {} s for {what}",
            WITHIN.as_secs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
