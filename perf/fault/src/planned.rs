//! Removals that are planned: no request may fail.

use std::time::Duration;

use anyhow::Context;
use perf_cluster::install::{self, NAMESPACE, POOL};

use crate::cluster::{Scene, is_ready, name, wait};
use crate::traffic;

/// A pod that is deleted drains; its successor has another address.
pub(crate) fn shard_pod_deleted(scene: &Scene, away: Duration) -> anyhow::Result<bool> {
    let shards = scene.shards()?;
    let before = shards.last().context("the pool has a shard")?;
    let traffic = scene.traffic()?;
    scene.cluster.kubectl(&[
        "delete",
        "pod",
        "-n",
        NAMESPACE,
        &name(before),
        "--wait=false",
    ])?;
    println!("fault: {} is deleted", name(before));
    let uid = &before["metadata"]["uid"];
    let took = wait("the pod's successor to be ready", || {
        let pods = scene.shards()?;
        let new = pods.iter().find(|pod| name(pod) == name(before));
        Ok(new.is_some_and(|pod| pod["metadata"]["uid"] != *uid && is_ready(pod)))
    })?;
    println!(
        "      its successor is ready after {:.1} s",
        took.as_secs_f64()
    );
    std::thread::sleep(away);
    scene.a_new_route_works()?;
    Ok(traffic::planned(&traffic.end()?))
}

/// Other pods of the operator, one after the other.
pub(crate) fn upgrade_operators(scene: &Scene, away: Duration) -> anyhow::Result<bool> {
    let traffic = scene.traffic()?;
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_secs();
    let values = [format!("operator.podAnnotations.upgraded=at-{now}")];
    let began = std::time::Instant::now();
    install::upgrade(&scene.cluster, &scene.package, &values)?;
    scene.operators_are_ready()?;
    println!(
        "      all replicas are new after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    std::thread::sleep(away);
    scene.a_new_route_works()?;
    Ok(traffic::planned(&traffic.end()?))
}

/// Another image of the shards: the operator rolls them when it is given it.
pub(crate) fn upgrade_shards(scene: &Scene, away: Duration) -> anyhow::Result<bool> {
    let tag = format!("{}-again", scene.package.tag("shard-proxy")?);
    install::load_images(&scene.cluster, &scene.package.programs, &tag)?;
    let traffic = scene.traffic()?;
    let began = std::time::Instant::now();
    let values = [format!("image.shardProxy.tag={tag}")];
    install::upgrade(&scene.cluster, &scene.package, &values)?;
    wait("the shards to have the new image", || {
        let set = scene.object("statefulset", NAMESPACE, &format!("{POOL}-shard"))?;
        let image = set["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
        Ok(image.is_some_and(|image| image.ends_with(&format!(":{tag}"))))
    })?;
    install::shards_are_ready(&scene.cluster)?;
    println!(
        "      all shards are new after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    std::thread::sleep(away);
    scene.a_new_route_works()?;
    Ok(traffic::planned(&traffic.end()?))
}

/// More shards, then fewer.
pub(crate) fn pool_scaled(scene: &Scene, away: Duration) -> anyhow::Result<bool> {
    let traffic = scene.traffic()?;
    for shards in [4, 2] {
        scene.cluster.kubectl(&[
            "scale",
            "shardpool",
            POOL,
            "-n",
            NAMESPACE,
            &format!("--replicas={shards}"),
        ])?;
        let took = wait(&format!("{shards} shards"), || {
            let pods = scene.shards()?;
            Ok(pods.len() == shards && pods.iter().all(is_ready))
        })?;
        println!("      {shards} shards after {:.1} s", took.as_secs_f64());
        std::thread::sleep(away);
        scene.a_new_route_works()?;
    }
    Ok(traffic::planned(&traffic.end()?))
}
