//! What is killed. Traffic goes on; what was in flight on a shard that crashed, and new connections until its endpoints are
//! rewritten, are counted apart.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use perf_cluster::containerd;
use perf_cluster::install::{NAMESPACE, RELEASE};
use perf_cluster::process::{self, Ending};
use serde_json::Value;

use crate::cluster::{Scene, is_ready, name, wait};
use crate::traffic::{self, Window};

/// After a shard answers again, or its endpoints are rewritten: kube-proxy takes about a second to follow, and a packet that
/// nobody answered is sent again after another.
const SETTLES: Duration = Duration::from_secs(2);

/// Shards serve on; what was applied later is served later.
pub(crate) fn api_server_down(scene: &Scene, away: Duration) -> anyhow::Result<bool> {
    let traffic = scene.traffic()?;
    process::stop(&scene.cluster, "kube-apiserver", Ending::Killed)?;
    println!("fault: the API server is away for {} s", away.as_secs());
    std::thread::sleep(away);
    process::start_again(&scene.cluster, "kube-apiserver")?;
    let took = wait("the API server", || {
        Ok(scene.cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok())
    })?;
    println!(
        "      the API server is back after {:.1} s",
        took.as_secs_f64()
    );
    scene.a_new_route_works()?;
    scene.operators_are_ready()?;
    Ok(traffic::planned(&traffic.end()?))
}

/// Another replica leads, and what is applied meanwhile waits for it.
pub(crate) fn operator_leader_killed(scene: &Scene, away: Duration) -> anyhow::Result<bool> {
    let leader = scene.leader()?.context("no replica leads")?;
    let traffic = scene.traffic()?;
    containerd::kill(&scene.cluster, NAMESPACE, &leader, "operator")?;
    println!("fault: {leader} is killed");
    let mut next = None;
    let took = wait("a replica to lead", || {
        next = scene.leader()?;
        Ok(next.is_some())
    })?;
    println!(
        "      {} leads after {:.1} s",
        next.unwrap_or_default(),
        took.as_secs_f64()
    );
    scene.a_new_route_works()?;
    std::thread::sleep(away);
    scene.operators_are_ready()?;
    Ok(traffic::planned(&traffic.end()?))
}

/// Nobody is there to be asked: a shard's container boots from its disk.
pub(crate) fn operators_down(scene: &Scene, away: Duration) -> anyhow::Result<bool> {
    let replicas = scene.operators()?;
    let set = format!("statefulset/{RELEASE}-operator");
    let scale = |count: usize| {
        let count = format!("--replicas={count}");
        scene
            .cluster
            .kubectl(&["scale", "-n", NAMESPACE, &set, &count])
    };
    let traffic = scene.traffic()?;
    for pod in &replicas {
        containerd::kill(&scene.cluster, NAMESPACE, &name(pod), "operator")?;
    }
    // Kubelet would start them again.
    scale(0)?;
    for pod in &replicas {
        let pod = name(pod);
        let now = ["--force", "--grace-period=0", "--ignore-not-found"];
        let mut arguments = vec!["delete", "pod", "-n", NAMESPACE, &pod];
        arguments.extend(now);
        scene.cluster.kubectl(&arguments)?;
    }
    wait("the operator to be away", || {
        Ok(scene.operators()?.is_empty())
    })?;
    println!("fault: no operator for {} s", away.as_secs());
    std::thread::sleep(away / 2);
    let window = kill_a_shard(scene)?;
    std::thread::sleep(away / 2);
    scale(replicas.len())?;
    // Pods that were deleted by force may have ended the scheduler.
    perf_cluster::process::revive(&scene.cluster)?;
    scene.operators_are_ready()?;
    scene.a_new_route_works()?;
    Ok(traffic::crash(&traffic.end()?, window))
}

/// A shard is gone without a word; until its endpoints are rewritten, new connections are sent to it.
pub(crate) fn shard_crashed(scene: &Scene, away: Duration) -> anyhow::Result<bool> {
    let shards = scene.shards()?;
    let before = shards.last().context("the pool has a shard")?;
    let (pod, container) = (name(before), container(before)?);
    let addresses: Vec<String> = before["status"]["podIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|address| address["ip"].as_str().map(str::to_owned))
        .collect();
    if !scene.endpoints_of(&addresses)? {
        bail!("no Gateway of the quickstart is served by {pod}");
    }
    let traffic = scene.traffic()?;
    let from = Instant::now();
    containerd::kill(&scene.cluster, NAMESPACE, &pod, &container)?;
    scene.cluster.kubectl(&[
        "delete",
        "pod",
        "-n",
        NAMESPACE,
        &pod,
        "--force",
        "--grace-period=0",
        "--wait=false",
    ])?;
    println!("fault: {pod} is gone");
    wait("its endpoints to be rewritten", || {
        Ok(!scene.endpoints_of(&addresses)?)
    })?;
    let until = Instant::now();
    println!(
        "      its endpoints are rewritten after {:.2} s",
        (until - from).as_secs_f64()
    );
    wait("the pod's successor to be ready", || {
        let pods = scene.shards()?;
        let new = pods.iter().find(|new| name(new) == pod);
        Ok(new.is_some_and(|new| {
            new["metadata"]["uid"] != before["metadata"]["uid"] && is_ready(new)
        }))
    })?;
    std::thread::sleep(away);
    scene.a_new_route_works()?;
    let window = Window {
        from,
        until: until + SETTLES,
    };
    Ok(traffic::crash(&traffic.end()?, window))
}

fn container(pod: &Value) -> anyhow::Result<String> {
    let container = pod["spec"]["containers"][0]["name"].as_str();
    Ok(container.context("the pod has a container")?.to_owned())
}

/// Kills a shard's container and waits until it serves again, in the same pod with the same address.
fn kill_a_shard(scene: &Scene) -> anyhow::Result<Window> {
    let shards = scene.shards()?;
    let before = shards.last().context("the pool has a shard")?;
    let pod = name(before);
    let container = container(before)?;
    let from = Instant::now();
    containerd::kill(&scene.cluster, NAMESPACE, &pod, &container)?;
    println!("fault: the container of {pod} is killed");
    let mut after = Value::Null;
    wait("the container to be back", || {
        let pods = scene.shards()?;
        let Some(now) = pods.iter().find(|other| name(other) == pod) else {
            bail!("{pod} is gone, not just its container");
        };
        after = now.clone();
        let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        Ok(restarts(now) > restarts(before) && is_ready(now))
    })?;
    println!(
        "      it is ready again after {:.1} s",
        from.elapsed().as_secs_f64()
    );
    for field in ["podIP", "podIPs"] {
        if before["status"][field] != after["status"][field] {
            bail!("{pod} has another {field}: {}", after["status"][field]);
        }
    }
    Ok(Window {
        from,
        until: Instant::now() + SETTLES,
    })
}
