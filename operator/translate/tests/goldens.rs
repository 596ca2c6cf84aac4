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

#[test]
fn each_case_that_the_coverage_table_names_exists() {
    let table = std::fs::read_to_string(testdata().join("COVERAGE.md")).unwrap();
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    let mut named = Vec::new();
    for row in table.lines().filter(|line| line.starts_with('|')) {
        // The last column; texts between back-ticks that end in .yaml or name a file and a function.
        let cell = row
            .trim_end_matches('|')
            .rsplit('|')
            .next()
            .unwrap_or_default();
        for name in cell.split('`').skip(1).step_by(2) {
            if let Some(case) = name.strip_suffix(".yaml") {
                named.push(case.to_owned());
                if !testdata().join(name).is_file() {
                    missing.push(name.to_owned());
                }
            } else if let Some((file, function)) = name.split_once(": ") {
                let found = ["tests", "src"].iter().any(|folder| {
                    let text = std::fs::read_to_string(crate_root.join(folder).join(file))
                        .unwrap_or_default();
                    text.contains(&format!("fn {function}("))
                });
                if !found {
                    missing.push(name.to_owned());
                }
            }
        }
    }
    assert!(
        missing.is_empty(),
        "COVERAGE.md names cases that do not exist: {missing:?}"
    );
    let unnamed: Vec<_> = cases()
        .into_iter()
        .filter(|case| !named.contains(case))
        .collect();
    assert!(
        unnamed.is_empty(),
        "cases that COVERAGE.md does not name: {unnamed:?}"
    );
}
