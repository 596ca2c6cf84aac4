//! The operator reads a real API server and writes statuses into it; shards serve on when it is away.
//!
//! Operator, shards and echo backends run as processes in the cluster's network. Wants root and `SHARDWAY_CLUSTER=1`, and
//! their programs in `SHARDWAY_BIN_DIR`.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use perf_cluster::process::Ending;
use perf_cluster::{Cluster, down, process, up};
use serde_json::Value;

use support::{Ended, home, programs, reason_to_skip, say_skipped};

const NAME: &str = "kube-source";
const ADMIN: &str = "127.0.0.1:7001";
const WITHIN: Duration = Duration::from_secs(60);
/// Routes for the count of writes.
const ROUTES: usize = 1000;

#[test]
fn objects_come_from_the_api_server_and_statuses_go_there() {
    let Some(bin) = programs_or_reason() else {
        return;
    };
    let cluster = Cluster::new(NAME, &home()).unwrap();
    down::down(&cluster).unwrap();
    let _ended = Ended(&cluster);
    up::up(&cluster, programs()).unwrap();

    let data = tempfile::tempdir().unwrap();
    let run = Run::new(&cluster, &bin, data.path());
    let echo = run.echo();
    let mut operator = run.operator();
    run.wait("certificates for the shards", || {
        data.path().join("operator.json").exists().then_some(())
    });
    let shards = [run.shard(0), run.shard(1)];

    // It waits for CRDs, and takes them up without a restart.
    run.wait("the kinds to be missed", || {
        run.problems().contains("install its CRD").then_some(())
    });
    let crds = cluster.crds().join("experimental");
    run.kubectl(&["apply", "--server-side", "-f", &crds.display().to_string()]);
    run.wait("the kinds", || {
        (!run.problems().contains("install its CRD")).then_some(())
    });
    run.kubectl(&["apply", "-f", &quickstart()]);
    let web = run.wait_programmed("team-a", "web");
    run.wait("an answer", || {
        run.get("shop.team-a.test", &web)
            .contains("shop-v")
            .then_some(())
    });
    let class = run.object("gatewayclass", "", "shardway");
    assert_eq!(
        condition(&class["status"]["conditions"], "Accepted"),
        "True"
    );

    statuses_are_written_beside_those_of_others(&run);
    a_restart_writes_nothing(&run, &mut operator);
    shards_and_operator_go_on_without_an_api_server(&run, &web);
    writes_are_few(&run);

    for process in [operator].into_iter().chain(shards).chain([echo]) {
        drop(process);
    }
    down::down(&cluster).unwrap();
}

/// Another controller's parent and condition stay; a part of ours that somebody takes away comes back.
fn statuses_are_written_beside_those_of_others(run: &Run<'_>) {
    let patch = |kind: &str, name: &str, status: &str| {
        run.kubectl(&[
            "patch",
            kind,
            name,
            "-n",
            "team-a",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ]);
    };
    let theirs = r#"{"type": "other.test/Checked", "status": "True", "reason": "Checked", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}"#;
    let parent = format!(
        r#"{{"status": {{"parents": [{{"controllerName": "other.test/c", "parentRef": {{"name": "web"}}, "conditions": [{theirs}]}}]}}}}"#
    );
    patch("httproute", "shop", &parent);
    patch(
        "gateway",
        "web",
        &format!(r#"{{"status": {{"conditions": [{theirs}]}}}}"#),
    );
    run.wait("both controllers' parents", || {
        let parents = run.object("httproute", "team-a", "shop")["status"]["parents"].clone();
        let names: Vec<&str> = list(&parents)
            .filter_map(|p| p["controllerName"].as_str())
            .collect();
        (names.contains(&"other.test/c") && names.contains(&"shardway.dev/gateway-controller"))
            .then_some(())
    });
    run.wait("both controllers' conditions", || {
        let conditions = run.object("gateway", "team-a", "web")["status"]["conditions"].clone();
        let both = condition(&conditions, "other.test/Checked") == "True"
            && condition(&conditions, "Programmed") == "True";
        both.then_some(())
    });
}

fn a_restart_writes_nothing(run: &Run<'_>, operator: &mut Process) {
    run.wait("the last write", || run.is_quiet().then_some(()));
    let before = run.kubectl(&[
        "get",
        "gateways,httproutes,gatewayclasses",
        "-A",
        "-o",
        "json",
    ]);
    // The old one first: both would have the same ports and the same state.
    operator.end();
    *operator = run.operator();
    run.wait("the new operator to be done", || {
        (run.metric("shardway_objects{kind=\"HTTPRoute\"}") >= Some(3.0) && run.is_quiet())
            .then_some(())
    });
    assert_eq!(
        run.metric("shardway_status_writes_total{result=\"written\"}"),
        Some(0.0)
    );
    let after = run.kubectl(&[
        "get",
        "gateways,httproutes,gatewayclasses",
        "-A",
        "-o",
        "json",
    ]);
    assert_eq!(before, after);
}

fn shards_and_operator_go_on_without_an_api_server(run: &Run<'_>, web: &str) {
    process::stop(run.cluster, "kube-apiserver", Ending::Killed).unwrap();
    run.wait("the operator to say so", || {
        run.problems().contains("cannot be watched").then_some(())
    });
    for _ in 0..20 {
        assert!(run.get("shop.team-a.test", web).contains("shop-v"));
    }
    process::start_again(run.cluster, "kube-apiserver").unwrap();
    run.wait("the API server", || {
        run.cluster.kubectl(&["get", "--raw", "/readyz"]).ok()
    });
    let route = run
        .kubectl(&["get", "httproute", "shop", "-n", "team-a", "-o", "json"])
        .replace("shop.team-a.test", "later.team-a.test");
    run.apply(&route);
    run.wait("a change after it", || {
        run.get("later.team-a.test", web)
            .contains("shop-v")
            .then_some(())
    });
}

/// Each route is written about once, and the Gateway seldom.
fn writes_are_few(run: &Run<'_>) {
    run.wait("the last write", || run.is_quiet().then_some(()));
    let written = "shardway_status_writes_total{result=\"written\"}";
    let before = run.metric(written).unwrap();
    let routes: Vec<String> = (0..ROUTES)
        .map(|n| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: many-{n}, namespace: team-a}}\nspec:\n  \
                 parentRefs: [{{name: web}}]\n  hostnames: [many-{n}.team-a.test]\n  rules: [{{backendRefs: [{{name: shop-v1, port: 80}}]}}]\n"
            )
        })
        .collect();
    run.apply(&routes.join("---\n"));
    run.wait("all routes to be attached", || {
        let gateway = run.object("gateway", "team-a", "web");
        let attached = gateway["status"]["listeners"][0]["attachedRoutes"].as_u64();
        (attached >= Some(ROUTES as u64) && run.is_quiet()).then_some(())
    });
    let writes = run.metric(written).unwrap() - before;
    eprintln!("{writes} status writes for {ROUTES} routes, those of their Gateway among them");
    // 20 of them may be the Gateway's.
    assert!(
        writes <= ROUTES as f64 * 1.2 + 20.0,
        "{writes} writes for {ROUTES} routes"
    );
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn condition(conditions: &Value, type_: &str) -> String {
    let found = list(conditions).find(|condition| condition["type"] == type_);
    let status = found.and_then(|condition| condition["status"].as_str());
    status.unwrap_or_default().to_owned()
}

/// What runs in the cluster's network.
struct Run<'a> {
    cluster: &'a Cluster,
    bin: PathBuf,
    data: PathBuf,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster, bin: &Path, data: &Path) -> Self {
        Self {
            cluster,
            bin: bin.to_owned(),
            data: data.to_owned(),
        }
    }

    fn process(&self, program: &str, arguments: &[&str]) -> Process {
        let log = fs::File::create(self.data.join(format!("{program}.log"))).unwrap();
        let mut command = self.cluster.command(self.bin.join(program));
        let command = command.args(arguments).stdin(Stdio::null());
        let command = command.stdout(log.try_clone().unwrap()).stderr(log);
        Process(command.spawn().unwrap())
    }

    fn operator(&self) -> Process {
        let data = self.data.display().to_string();
        let arguments = [
            "--source",
            "kube",
            "--data",
            &data,
            "--stream",
            "127.0.0.1:7000",
            "--admin",
            ADMIN,
        ];
        self.process("operator", &arguments)
    }

    fn shard(&self, id: u32) -> Process {
        let data = self.data.display().to_string();
        let (id, target) = (id.to_string(), format!("127.0.2.{}", id + 1));
        let arguments = [
            "--operator",
            "127.0.0.1:7000",
            "--id",
            &id,
            "--data",
            &data,
            "--target-address",
            &target,
        ];
        self.process("shard-proxy", &arguments)
    }

    fn echo(&self) -> Process {
        let backends = [
            "shop-v1=127.0.3.1:9001",
            "shop-v1=127.0.3.1:9002",
            "shop-v2=127.0.3.1:9003",
        ];
        self.process("echo-backend", &backends)
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(arguments).unwrap()
    }

    fn apply(&self, manifest: &str) {
        let file = self.data.join("manifest");
        fs::write(&file, manifest).unwrap();
        self.kubectl(&["apply", "-f", &file.display().to_string()]);
    }

    fn object(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let mut arguments = vec!["get", kind, name, "-o", "json"];
        if !namespace.is_empty() {
            arguments.extend(["-n", namespace]);
        }
        serde_json::from_str(&self.kubectl(&arguments)).unwrap()
    }

    /// Waits for a Gateway and gives its address.
    fn wait_programmed(&self, namespace: &str, name: &str) -> String {
        self.wait(&format!("{namespace}/{name} to be programmed"), || {
            let gateway = self.object("gateway", namespace, name);
            let programmed = condition(&gateway["status"]["conditions"], "Programmed") == "True";
            let address = gateway["status"]["addresses"][0]["value"].as_str();
            address.filter(|_| programmed).map(str::to_owned)
        })
    }

    /// The answer to a request in the cluster's network.
    fn get(&self, host: &str, address: &str) -> String {
        self.curl(&[
            "-H",
            &format!("Host: {host}"),
            &format!("http://{address}/"),
        ])
    }

    fn curl(&self, arguments: &[&str]) -> String {
        let mut command = self.cluster.command("curl");
        let output = command
            .args(["-s", "-m", "5"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn problems(&self) -> String {
        self.curl(&[&format!("http://{ADMIN}/api/v1/problems")])
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let text = self.curl(&[&format!("http://{ADMIN}/metrics")]);
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    }

    /// Whether statuses were neither written nor looked at for longer than they are held back.
    fn is_quiet(&self) -> bool {
        let all = || {
            ["written", "unchanged", "outdated"].map(|result| {
                self.metric(&format!(
                    "shardway_status_writes_total{{result=\"{result}\"}}"
                ))
            })
        };
        let before = all();
        std::thread::sleep(Duration::from_millis(1500));
        before[0].is_some() && before == all()
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + WITHIN;
        loop {
            if let Some(found) = check() {
                return found;
            }
            if Instant::now() > until {
                let log = fs::read_to_string(self.data.join("operator.log")).unwrap_or_default();
                panic!(
                    "waited {} s for {what}; the operator said:\n{log}",
                    WITHIN.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Killed and waited for at its end.
struct Process(Child);

impl Process {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Folder of the programs that are tested; none, having said why, where they cannot be.
fn programs_or_reason() -> Option<PathBuf> {
    let bin = std::env::var_os("SHARDWAY_BIN_DIR");
    let reason = reason_to_skip().or_else(|| {
        let missing = bin.is_none();
        missing.then_some("SHARDWAY_BIN_DIR does not name the folder of the programs")
    });
    if let Some(reason) = reason {
        say_skipped(reason);
        return None;
    }
    bin.map(PathBuf::from)
}

fn quickstart() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../api/examples/quickstart");
    folder.display().to_string()
}
