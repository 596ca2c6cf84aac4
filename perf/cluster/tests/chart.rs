//! The chart as helm renders it: goldens, settings that are refused, and what holds for every pod.
//!
//! Needs helm: the one that `cargo xtask cluster up` builds, or one in the path. Without it the tests say that they are skipped.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The version that the chart is rendered for; helm alone would take its own.
const KUBERNETES: &str = "1.36.0";

#[test]
fn lint_finds_nothing() {
    let Some(helm) = helm() else { return };
    let output = run(Command::new(&helm)
        .arg("lint")
        .arg("--strict")
        .arg("--kube-version")
        .arg(KUBERNETES)
        .arg(chart()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", stderr(&output));
    assert!(!said.contains("[WARNING]"), "{said}");
}

#[test]
fn the_default_is_three_replicas_and_a_pool() {
    let Some(helm) = helm() else { return };
    insta::assert_snapshot!("default", rendered(&helm, &[]));
}

#[test]
fn with_a_list_of_namespaces_rights_end_there() {
    let Some(helm) = helm() else { return };
    let text = rendered(&helm, &["namespaces={team-a,team-b}"]);
    let roles = documents(&text).filter(|document| {
        ["ClusterRole", "Role", "RoleBinding"].contains(&field(document, "kind:"))
            || document.contains("SHARDWAY_NAMESPACES")
    });
    let roles: Vec<&str> = roles.collect();
    insta::assert_snapshot!("namespaces", roles.join("\n---\n"));
    let cluster = documents(&text).find(|document| field(document, "kind:") == "ClusterRole");
    assert!(!cluster.unwrap().contains("secrets"));
}

#[test]
fn what_is_optional_is_left_out() {
    let Some(helm) = helm() else { return };
    let text = rendered(
        &helm,
        &[
            "gatewayClass.create=false",
            "networkPolicy.enabled=false",
            "podDisruptionBudget.enabled=false",
        ],
    );
    for kind in ["GatewayClass", "NetworkPolicy", "PodDisruptionBudget"] {
        assert!(
            !documents(&text).any(|document| field(document, "kind:") == kind),
            "{kind}"
        );
    }
}

#[test]
fn a_wrong_value_is_refused_by_name() {
    let Some(helm) = helm() else { return };
    for (value, named) in [
        ("operator.replicas=2", "/operator/replicas"),
        ("operator.replica=3", "replica"),
        ("pool.shards=0", "/pool/shards"),
        ("pool.name=UPPER", "/pool/name"),
        ("pool.service.type=Loadbalancer", "/pool/service/type"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("operator.storage.size=large", "/operator/storage/size"),
        ("colour=red", "colour"),
    ] {
        let output = template(&helm, &[value]);
        let said = stderr(&output);
        assert!(!output.status.success(), "{value} was taken");
        assert!(said.contains(named), "{value}: {said}");
    }
}

#[test]
fn every_value_is_described_and_in_the_schema() {
    let values = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let schema = std::fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let mut before = "";
    for line in values.lines() {
        let trimmed = line.trim();
        if let Some((key, value)) = trimmed
            .split_once(':')
            .filter(|_| !trimmed.starts_with('#'))
        {
            assert!(
                schema.contains(&format!("\"{key}\"")) || is_quantity(key),
                "{key}"
            );
            // A key with a value of its own; those that hold others are described by them.
            if !value.trim().is_empty() && !is_quantity(key) {
                assert!(before.starts_with('#'), "{key} has no comment above it");
            }
        }
        before = trimmed;
    }
}

/// An upgrade from a Kubernetes that is too old is refused by helm, not by a pod.
#[test]
fn an_older_kubernetes_is_refused() {
    let Some(helm) = helm() else { return };
    let mut command = Command::new(&helm);
    command.args(["template", "shardway"]).arg(chart());
    let output = run(command.args(["--kube-version", "1.32.9"]));
    assert!(!output.status.success());
    assert!(stderr(&output).contains(">=1.33"), "{}", stderr(&output));
}

/// That the CRD is the one that the operator reads is tested where it is made, in `api/pool`.
#[test]
fn the_pool_has_every_setting() {
    let Some(helm) = helm() else { return };
    let text = rendered(
        &helm,
        &[
            "pool.name=edge",
            "pool.shards=4",
            "pool.shardsPerGateway=3",
            "pool.service.ipFamilyPolicy=RequireDualStack",
            "pool.service.ipFamilies={IPv6,IPv4}",
            "pool.drain.waitSeconds=5",
            "pool.nodeSelector.edge=yes",
            "pool.tolerations[0].key=edge",
            "pool.priorityClassName=high",
        ],
    );
    let pool = documents(&text).find(|document| field(document, "kind:") == "ShardPool");
    insta::assert_snapshot!("pool", pool.unwrap());
}

fn is_quantity(key: &str) -> bool {
    ["cpu", "memory"].contains(&key)
}

fn rendered(helm: &Path, values: &[&str]) -> String {
    let output = template(helm, values);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn template(helm: &Path, values: &[&str]) -> Output {
    let mut command = Command::new(helm);
    command.args(["template", "shardway"]).arg(chart()).args([
        "--namespace",
        "shardway-system",
        "--kube-version",
        KUBERNETES,
    ]);
    for value in values {
        command.args(["--set", value]);
    }
    run(&mut command)
}

fn documents(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n---\n").map(str::trim)
}

/// The value of a field at the start of a line.
fn field<'a>(document: &'a str, name: &str) -> &'a str {
    let mut lines = document.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default()
        .trim()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn chart() -> PathBuf {
    root().join("helm/shardway")
}

/// The program; none, having said so, where there is none.
fn helm() -> Option<PathBuf> {
    // Tools of clusters are below the folder that cargo builds to; programs are two folders down from there.
    let mut above = Path::new(env!("CARGO_BIN_EXE_shardway-cluster")).ancestors();
    let built = above.nth(2).unwrap().join("cluster/bin/helm");
    let found = [built, "helm".into()].into_iter().find(|helm| {
        Command::new(helm)
            .arg("version")
            .output()
            .is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        // Past the test runner, which shows what a test prints only when it fails.
        let mut standard_error = std::io::stderr();
        let _ = writeln!(
            standard_error,
            "skipped: helm is not there; `cargo xtask cluster up` builds it"
        );
    }
    found
}
