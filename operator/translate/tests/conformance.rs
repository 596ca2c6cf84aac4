//! The manifests of the official conformance suite, as far as it is run by the features that are claimed: what each test's
//! objects are told, in `testdata/conformance/*.out.yaml`. They are read from the Go module cache and not copied; where they
//! are absent, the test says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a failed unwrap is a failed test; a skipped test says why

#[path = "common/golden.rs"]
mod golden;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use api::PoolKey;
use golden::{Loaded, check, render_statuses};
use operator_translate::{FEATURES, Settings, Translation};

const MODULE: &str = "sigs.k8s.io/gateway-api/conformance@v1.6.3";

/// The suite's folder, or why it cannot be read.
fn suite() -> Result<PathBuf, String> {
    let output = Command::new("go")
        .args(["env", "GOMODCACHE"])
        .output()
        .map_err(|error| format!("run go: {error}"))?;
    let cache = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let folder = Path::new(&cache).join(MODULE);
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(format!(
            "module {MODULE} is not in the module cache; get it by `go mod download {MODULE}`"
        )),
    }
}

/// A test of the suite.
#[derive(Debug)]
struct Case {
    /// Its features, by name.
    features: BTreeSet<String>,
    /// Its manifests, below the suite's folder.
    manifests: Vec<String>,
}

/// The quoted or dotted words of a Go list that begins after `field`.
fn list<'t>(text: &'t str, field: &str) -> impl Iterator<Item = &'t str> {
    let from = text.find(field).map_or("", |at| &text[at..]);
    let from = from.find('{').map_or("", |at| &from[at + 1..]);
    let inner = from.find('}').map_or("", |end| &from[..end]);
    inner
        .split([',', '\n'])
        .map(|word| word.trim().trim_matches('"'))
        .filter(|word| !word.is_empty())
}

/// All tests of Gateways, by their short names.
fn cases(suite: &Path) -> BTreeMap<String, Case> {
    let mut cases = BTreeMap::new();
    for file in std::fs::read_dir(suite.join("tests")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "go") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for test in text.split("ShortName:").skip(1) {
            let name = test.split('"').nth(1).unwrap_or_default();
            let features = list(test, "Features:")
                .filter_map(|word| word.strip_prefix("features.Support"))
                .map(str::to_owned);
            cases.insert(
                name.to_owned(),
                Case {
                    features: features.collect(),
                    manifests: list(test, "Manifests:").map(str::to_owned).collect(),
                },
            );
        }
    }
    cases
}

/// Certificates that the suite makes before its tests.
const SECRETS: &[(&str, &str, &str)] = &[
    ("gateway-conformance-web-backend", "certificate", "*"),
    (
        "gateway-conformance-infra",
        "tls-validity-checks-certificate",
        "*,*.org,*.wildcard.org",
    ),
];

fn load(suite: &Path, manifests: &[String]) -> Loaded {
    let mut loaded = Loaded::default();
    loaded.apply(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: shardway}, spec: {controllerName: shardway.dev/gateway-controller}}",
    );
    for (namespace, name, names) in SECRETS {
        loaded.apply(&format!(
            "{{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {{namespace: {namespace}, name: {name}, annotations: {{test/certificate: '{names}'}}}}}}"
        ));
    }
    let base = ["base/manifests.yaml".to_owned()];
    for manifest in base.iter().chain(manifests) {
        let text = std::fs::read_to_string(suite.join(manifest)).unwrap();
        let text = text
            .replace("{GATEWAY_CLASS_NAME}", "shardway")
            .replace("{GATEWAY_CONTROLLER_NAME}", api::CONTROLLER_NAME)
            .replace("PLACEHOLDER_UNUSABLE_ADDRS", "192.0.2.1")
            .replace("PLACEHOLDER_USABLE_ADDRS", "10.1.0.1");
        loaded.apply(&text);
    }
    loaded
}

fn translated(loaded: &mut Loaded) -> Translation {
    let settings = Settings {
        pool: Some(PoolKey::new("shardway-system", "default")),
    };
    let mut translation = Translation::with(settings);
    translation.update(&loaded.index, std::mem::take(&mut loaded.dirty));
    translation
}

#[test]
fn objects_of_the_suite_are_told_what_it_asks_for() {
    let suite = match suite() {
        Ok(suite) => suite,
        Err(why) => {
            return eprintln!("SKIPPED objects_of_the_suite_are_told_what_it_asks_for: {why}");
        }
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/conformance");
    let claimed: BTreeSet<&str> = FEATURES.iter().map(|feature| feature.name).collect();
    let mut base = load(&suite, &[]);
    let before = translated(&mut base);
    let mut failures = Vec::new();
    let mut run = String::new();
    for (name, case) in cases(&suite) {
        if !case.features.iter().all(|of| claimed.contains(of.as_str())) {
            continue;
        }
        run.push_str(&format!("{name}\n"));
        let mut loaded = load(&suite, &case.manifests);
        let after = translated(&mut loaded);
        // What the test's objects change, those of the base included.
        let same: Vec<_> = before
            .statuses()
            .filter(|(key, status)| after.status(key).as_ref() == Some(status))
            .map(|(key, _)| key)
            .collect();
        let notes = loaded.notes.split_off(base.notes.len());
        let rendered = render_statuses(&after, &notes, &same);
        failures.extend(check(&folder.join(format!("{name}.out.yaml")), &rendered).err());
    }
    failures.extend(check(&folder.join("tests.txt"), &run).err());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
