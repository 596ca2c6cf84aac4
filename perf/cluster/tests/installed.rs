//! The chart in a cluster: it gets ready, the quickstart answers, and what is taken away leaves nothing but CRDs.
//!
//! Wants root and `SHARDWAY_CLUSTER=1`, and our programs in `SHARDWAY_BIN_DIR`.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use perf_cluster::install::{self, NAMESPACE, Package};
use perf_cluster::{Cluster, down, up};
use serde_json::Value;

use support::{Ended, home, programs, reason_to_skip, say_skipped};

const NAME: &str = "installed";
const WITHIN: Duration = Duration::from_secs(120);
/// What every namespace has without anybody's doing, and what the API server forgets by itself.
const OF_KUBERNETES: &[&str] = &[
    "configmap/kube-root-ca.crt",
    "serviceaccount/default",
    "event",
];

#[test]
fn what_is_installed_serves_and_leaves_nothing_but_crds() {
    let bin = std::env::var_os("SHARDWAY_BIN_DIR").map(PathBuf::from);
    let missing = "SHARDWAY_BIN_DIR does not name the folder of the programs";
    let reason = reason_to_skip().or_else(|| bin.is_none().then_some(missing));
    if let Some(reason) = reason {
        say_skipped(reason);
        return;
    }
    let cluster = Cluster::new(NAME, &home()).unwrap();
    down::down(&cluster).unwrap();
    let _ended = Ended(&cluster);
    up::up(&cluster, programs()).unwrap();
    let package = Package {
        root: Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
        programs: bin.unwrap(),
        values: Vec::new(),
    };
    install::install(&cluster, &package).unwrap();
    the_quickstart_answers(&cluster, &package);
    the_class_is_accepted(&cluster);
    a_second_installation_changes_no_pod(&cluster, &package);

    install::uninstall(&cluster).unwrap();
    wait("all to be gone", || {
        let left = left(&cluster);
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join(", "))
        }
    });
    let crd = cluster.kubectl(&["get", "crd", "shardpools.shardway.dev"]);
    assert!(crd.is_ok(), "{crd:?}");
    down::down(&cluster).unwrap();
}

fn the_quickstart_answers(cluster: &Cluster, package: &Package) {
    let folder = package.root.join("api/examples/quickstart");
    let folder = folder.display().to_string();
    cluster.kubectl(&["apply", "-f", &folder]).unwrap();
    let mut address = String::new();
    wait("the Gateway to be programmed", || {
        let gateway = get(cluster, &["gateway", "web", "-n", "team-a"]);
        let conditions = gateway["status"]["conditions"].as_array();
        let programmed = conditions
            .into_iter()
            .flatten()
            .any(|of| of["type"] == "Programmed" && of["status"] == "True");
        let given = gateway["status"]["addresses"][0]["value"].as_str();
        address = given.unwrap_or_default().to_owned();
        if programmed && !address.is_empty() {
            Ok(())
        } else {
            Err(gateway["status"].to_string())
        }
    });
    wait("an answer", || {
        let output = cluster
            .command("curl")
            .args(["-s", "-m", "5", "-H", "Host: shop.team-a.test"])
            .arg(format!("http://{address}/"))
            .output()
            .unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        if answer.contains("shop-v") {
            Ok(())
        } else {
            Err(answer)
        }
    });
}

/// The chart's class is there before the operator is: what nobody changes afterwards has a status too.
fn the_class_is_accepted(cluster: &Cluster) {
    wait("the class to be accepted", || {
        let class = get(cluster, &["gatewayclass", "shardway"]);
        let conditions = class["status"]["conditions"].as_array();
        let accepted = conditions
            .into_iter()
            .flatten()
            .any(|of| of["type"] == "Accepted" && of["status"] == "True");
        if accepted {
            Ok(())
        } else {
            Err(class["status"].to_string())
        }
    });
}

/// `helm upgrade` with the same values is no news to anybody.
fn a_second_installation_changes_no_pod(cluster: &Cluster, package: &Package) {
    let pods = || {
        let list = get(cluster, &["pods", "-n", NAMESPACE]);
        let mut ids: Vec<String> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| pod["metadata"]["uid"].to_string())
            .collect();
        ids.sort();
        ids
    };
    let before = pods();
    assert!(before.len() >= 5, "{before:?}");
    install::upgrade(cluster, package, &[]).unwrap();
    assert_eq!(before, pods());
}

/// What is left of the installation: all in its namespace, and what has none and carries its name.
fn left(cluster: &Cluster) -> Vec<String> {
    let kinds = |namespaced: &str| {
        let arguments = ["api-resources", "--verbs=list", "-o", "name", namespaced];
        let names = cluster.kubectl(&arguments).unwrap();
        names.lines().collect::<Vec<_>>().join(",")
    };
    let own = kinds("--namespaced=true");
    let own = cluster.kubectl(&["get", &own, "-n", NAMESPACE, "-o", "name"]);
    let wide = cluster.kubectl(&["get", &kinds("--namespaced=false"), "-o", "name"]);
    let own = own.unwrap();
    let wide = wide.unwrap();
    let own = own
        .lines()
        .filter(|name| !OF_KUBERNETES.iter().any(|known| name.starts_with(known)));
    let wide = wide.lines().filter(|name| {
        let of_ours = name.contains("shardway") || name.starts_with("persistentvolume/");
        of_ours
            && !name.starts_with("customresourcedefinition")
            && *name != format!("namespace/{NAMESPACE}")
            // Those of the CRD, and the harness's own.
            && !name.starts_with("apiservice")
            && !name.contains("shardway-cluster")
            && !name.contains("shardway:")
    });
    own.chain(wide).map(str::to_owned).collect()
}

fn get(cluster: &Cluster, arguments: &[&str]) -> Value {
    let mut all = vec!["get", "-o", "json"];
    all.extend(arguments);
    serde_json::from_str(&cluster.kubectl(&all).unwrap()).unwrap()
}

/// Asks until it is so; the last reason why it is not ends up in the failure.
#[track_caller]
fn wait(what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let until = Instant::now() + WITHIN;
    while let Err(reason) = check() {
        assert!(Instant::now() < until, "waited for {what}: {reason}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
