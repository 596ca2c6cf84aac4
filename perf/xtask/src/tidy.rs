//! Rules about the checkout that no compiler checks.
#![cfg(test)]
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::root;

/// Members of the workspace with the names of their own and our other packages that they depend on.
fn members() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let list = text
        .split("members = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap();
    let paths: Vec<&str> = list
        .split(',')
        .map(|path| path.trim().trim_matches('"'))
        .filter(|path| !path.is_empty())
        .collect();
    paths
        .into_iter()
        .map(|path| {
            let manifest = fs::read_to_string(root().join(path).join("Cargo.toml")).unwrap();
            // Tests may look anywhere.
            let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
            let names = dependencies
                .split("[dependencies]")
                .nth(1)
                .unwrap_or_default()
                .lines()
                .filter_map(|line| line.split(['.', ' ', '=']).next())
                .filter(|name| {
                    ["api", "operator", "shard-proxy", "perf"]
                        .iter()
                        .any(|part| *name == *part || name.starts_with(&format!("{part}-")))
                })
                .map(str::to_owned)
                .collect();
            (path.to_owned(), names)
        })
        .collect()
}

#[test]
fn arrows_point_down() {
    for (path, dependencies) in members() {
        for dependency in dependencies {
            let side = |name: &str| name.split(['-', '/']).next().unwrap().to_owned();
            let (from, to) = (side(&path), side(&dependency));
            let sees_both = path == "operator/cli";
            let allowed = match from.as_str() {
                "api" => to == "api",
                "operator" => to != "perf" && (to != "shard" || sees_both),
                "shard" => to == "api" || to == "shard",
                _ => true,
            };
            assert!(allowed, "{path} depends on {dependency}");
        }
    }
}

#[test]
fn a_package_is_named_as_its_path() {
    for path in members().into_keys().filter(|path| path != "perf/xtask") {
        let manifest = fs::read_to_string(root().join(&path).join("Cargo.toml")).unwrap();
        let name = format!("name = \"{}\"", path.replace('/', "-"));
        assert!(
            manifest.lines().any(|line| line == name),
            "{path} is not {name}"
        );
    }
}

#[test]
fn one_crypto_provider_is_in_the_graph() {
    let mut cargo = crate::cargo();
    cargo.args([
        "tree",
        "--locked",
        "--workspace",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
    ]);
    let output = cargo.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.lines().any(|line| line.starts_with("aws-lc-rs v")));
    for refused in ["ring", "openssl-sys", "native-tls", "serde_yaml"] {
        assert!(
            !tree
                .lines()
                .any(|line| line.starts_with(&format!("{refused} v"))),
            "{refused} is in the graph"
        );
    }
}

#[test]
fn every_relative_link_of_the_readme_leads_somewhere() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    for link in text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        if !link.starts_with("http") {
            assert!(Path::new(&root()).join(link).exists(), "{link}");
        }
    }
}
