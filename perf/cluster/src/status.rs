//! `status`: a table of processes, nodes and pods.

#![allow(clippy::print_stdout)] // what it prints is what it is for

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::process::{self, Process};
use crate::{Cluster, images};

/// Prints how the cluster is; tells whether all of it runs.
///
/// # Errors
/// When the API server runs and does not answer.
pub fn status(cluster: &Cluster) -> anyhow::Result<bool> {
    let names = process::names(cluster);
    if names.is_empty() {
        println!("cluster {} is down", cluster.name());
        return Ok(false);
    }
    let mut rows = vec![
        ["PROCESS", "PID", "UP FOR", "MEMORY"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut all = true;
    for name in names {
        let found = process::find(cluster, &name);
        all &= found.is_some();
        rows.push(match found {
            Some(process) => vec![
                name.clone(),
                process.id.to_string(),
                up_for(cluster, &name),
                memory(process),
            ],
            None => vec![name, "-".into(), "ended".into(), "-".into()],
        });
    }
    print(&rows);
    if process::find(cluster, "kube-apiserver").is_some() {
        println!();
        print!("{}", cluster.kubectl(&["get", "nodes", "-o", "wide"])?);
        println!();
        let pods = cluster.inside(|| cluster.api()?.get("/api/v1/pods"))?;
        print(&pod_rows(&pods));
    }
    if process::find(cluster, "containerd").is_some() {
        println!("\n{} images", images::list(cluster)?.len());
    }
    println!(
        "\nIn its network: nsenter --net=/run/netns/{} COMMAND, with\nexport KUBECONFIG={}",
        cluster.name(),
        cluster.kubeconfig().display()
    );
    Ok(all)
}

fn pod_rows(pods: &Value) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["NAMESPACE", "POD", "PHASE", "READY", "ADDRESS"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for pod in pods["items"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let ready = pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Ready");
        rows.push(vec![
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"]),
            text(&pod["status"]["phase"]),
            ready.map_or_else(|| "-".into(), |ready| text(&ready["status"])),
            text(&pod["status"]["podIP"]),
        ]);
    }
    rows
}

fn print(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .map(|row| row[column].len())
                .max()
                .unwrap_or_default()
        })
        .collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("   ").trim_end());
    }
}

/// Since the process was written down.
fn up_for(cluster: &Cluster, name: &str) -> String {
    let file = cluster.state().join("run").join(format!("{name}.json"));
    let since = fs::metadata(file)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|written| written.elapsed().ok())
        .unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    if seconds < 120 {
        format!("{seconds} s")
    } else {
        format!("{} min", seconds / 60)
    }
}

fn memory(process: Process) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id)).unwrap_or_default();
    let kilobytes: Option<u64> = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kilobytes.map_or_else(
        || "-".into(),
        |kilobytes| format!("{} MiB", kilobytes / 1024),
    )
}
