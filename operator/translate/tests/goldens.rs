//! Manifests in, snapshot and statuses out: `testdata/<sentence>.yaml` and `.out.yaml`. `REWRITE=1` writes the latter.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

#[path = "common/golden.rs"]
mod golden;

use std::path::{Path, PathBuf};

use golden::{Loaded, check, render};
use operator_translate::Translation;
use operator_translate::status::class_object;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// Names of the cases, in order.
fn cases() -> Vec<String> {
    let files = std::fs::read_dir(testdata())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap());
    let cases = files.filter(|name| !name.ends_with(".out.yaml"));
    let mut names: Vec<String> = cases
        .filter_map(|name| Some(name.strip_suffix(".yaml")?.to_owned()))
        .collect();
    names.sort();
    names
}

#[test]
fn each_case_gives_its_snapshot_and_statuses() {
    let base = std::fs::read_to_string(testdata().join("base/common.yaml")).unwrap();
    let mut failures = Vec::new();
    for case in cases() {
        let mut loaded = Loaded::default();
        loaded.apply(&base);
        loaded.apply(&std::fs::read_to_string(testdata().join(format!("{case}.yaml"))).unwrap());
        let mut translation = Translation::new();
        translation.update(&loaded.index, loaded.dirty);
        let rendered = render(&translation, &loaded.notes, &[class_object("shardway")]);
        failures.extend(check(&testdata().join(format!("{case}.out.yaml")), &rendered).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn no_output_is_left_of_a_case_that_is_gone() {
    let cases = cases();
    for file in std::fs::read_dir(testdata()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let case = name.strip_suffix(".out.yaml");
        assert!(
            case.is_none_or(|case| cases.iter().any(|name| name == case)),
            "{name} has no manifest"
        );
    }
}
