//! The Gateway API's own manifests: its examples are taken, its invalid examples are refused.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::path::{Path, PathBuf};
use std::process::Command;

use operator_objects::decode::{Decoded, decode};
use operator_objects::manifest::{Provenance, parse};
use operator_objects::schema::not_evaluated;

/// The module's folder in Go's cache; `cargo xtask test` downloads it.
fn module() -> Option<PathBuf> {
    let output = Command::new("go")
        .args(["env", "GOMODCACHE"])
        .output()
        .ok()?;
    let cache = String::from_utf8(output.stdout).ok()?;
    let module = Path::new(cache.trim()).join("sigs.k8s.io/gateway-api@v1.7.0");
    module.is_dir().then_some(module)
}

fn manifests(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            manifests(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
    found.sort();
}

fn decoded(path: &Path) -> Vec<Result<Decoded, String>> {
    parse(&std::fs::read_to_string(path).unwrap())
        .into_iter()
        .map(|document| match document {
            Ok(document) => Ok(decode(&document, &Provenance::default())),
            Err(error) => Err(error.to_string()),
        })
        .collect()
}

#[test]
fn all_examples_of_our_kinds_are_taken() {
    let Some(module) = module() else {
        eprintln!("skipped: module sigs.k8s.io/gateway-api v1.7.0 is not in Go's cache");
        return;
    };
    let mut files = Vec::new();
    manifests(&module.join("examples"), &mut files);
    let mut taken = 0;
    for file in files {
        for document in decoded(&file) {
            match document {
                Ok(Decoded::Object(_)) => taken += 1,
                Ok(Decoded::Ignored { .. }) => {}
                other => panic!("{}: {other:?}", file.display()),
            }
        }
    }
    assert!(taken > 60, "only {taken} objects");
}

#[test]
fn all_invalid_examples_of_our_kinds_are_refused() {
    let Some(module) = module() else {
        eprintln!("skipped: module sigs.k8s.io/gateway-api v1.7.0 is not in Go's cache");
        return;
    };
    let folder = module.join("hack/invalid-examples");
    if !folder.is_dir() {
        eprintln!("skipped: the module holds no hack/invalid-examples");
        return;
    }
    let mut files = Vec::new();
    manifests(&folder, &mut files);
    let mut accepted = Vec::new();
    for file in files {
        let documents = decoded(&file);
        let ours: Vec<_> = documents
            .iter()
            .filter(|d| !matches!(d, Ok(Decoded::Ignored { .. })))
            .collect();
        if !ours.is_empty()
            && ours
                .iter()
                .all(|document| matches!(document, Ok(Decoded::Object(_))))
        {
            accepted.push(file.strip_prefix(&folder).unwrap().display().to_string());
        }
    }
    assert_eq!(accepted, Vec::<String>::new(), "invalid, and taken");
}

#[test]
fn the_rules_that_are_not_evaluated_are_known_by_name() {
    assert_eq!(not_evaluated(), Vec::<String>::new());
}
