//! The Gateway API's own examples, with what they take for granted supplied: `testdata/gateway-api-examples/*.out.yaml`.
//! They are read from the Go module cache and not copied; where they are absent, the test says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // a failed unwrap is a failed test; a skipped test says why

mod common;
#[path = "common/golden.rs"]
mod golden;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use golden::{Loaded, check, render};
use operator_objects::manifest::parse;
use operator_objects::spec::*;
use operator_translate::Translation;
use operator_translate::status::class_object;

const MODULE: &str = "sigs.k8s.io/gateway-api@v1.7.0";

/// The examples' folder, or why it cannot be read.
fn examples() -> Result<PathBuf, String> {
    let output = Command::new("go")
        .args(["env", "GOMODCACHE"])
        .output()
        .map_err(|error| format!("run go: {error}"))?;
    let cache = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let folder = Path::new(&cache).join(MODULE).join("examples");
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(format!(
            "module {MODULE} is not in the module cache; get it by `go mod download {MODULE}`"
        )),
    }
}

/// Files below a folder, in order.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            found.push(path);
        }
    }
}

/// Cases by name: a file of the top folders by itself; a folder below them as one, unless two of its files are forms of
/// one object.
fn cases(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut all = Vec::new();
    files(root, &mut all);
    let mut folders: BTreeMap<PathBuf, Vec<(String, String)>> = BTreeMap::new();
    for path in all {
        let text = std::fs::read_to_string(&path).unwrap();
        let relative = path.strip_prefix(root).unwrap();
        let name = relative
            .with_extension("")
            .to_string_lossy()
            .replace('/', "_");
        folders
            .entry(relative.parent().unwrap().to_owned())
            .or_default()
            .push((name, text));
    }
    let mut cases = BTreeMap::new();
    for (folder, members) in folders {
        let objects = members.iter().flat_map(|(_, text)| parse(text)).flatten();
        let mut seen = BTreeSet::new();
        let distinct = objects
            .map(|document| document.key())
            .all(|key| seen.insert(key));
        if distinct && folder.components().count() > 1 {
            let name = folder.to_string_lossy().replace('/', "_");
            cases.insert(name, members.into_iter().map(|(_, text)| text).collect());
        } else {
            cases.extend(members.into_iter().map(|(name, text)| (name, vec![text])));
        }
    }
    cases
}

/// What an example takes for granted: its classes are ours; Gateways, Services and certificates that it refers to exist.
fn supply(loaded: &mut Loaded) {
    let mut missing: Vec<Object> = Vec::new();
    let routes: Vec<_> = loaded
        .index
        .routes()
        .map(|(_, route)| route.clone())
        .collect();
    for route in &routes {
        let local = route.meta.namespace.as_str();
        for of in route.parent_refs.iter().filter(|of| of.kind == "Gateway") {
            let namespace = of.namespace.as_deref().unwrap_or(local);
            if loaded
                .index
                .gateway(&api::GatewayKey::new(namespace, &of.name))
                .is_none()
            {
                let name = of.section_name.as_deref().unwrap_or("http");
                let listener = Listener {
                    allowed_namespaces: AllowedNamespaces::All,
                    ..listener(name, of.port.unwrap_or(80), None)
                };
                missing.push(Object::Gateway(gateway(
                    namespace,
                    &of.name,
                    "supplied",
                    vec![listener],
                )));
            }
        }
        let mut ports: BTreeMap<(&str, &str), BTreeSet<u16>> = BTreeMap::new();
        for backend in route
            .rules
            .iter()
            .flat_map(|rule| &rule.backend_refs)
            .filter(|of| of.kind == "Service")
        {
            let namespace = backend.namespace.as_deref().unwrap_or(local);
            ports
                .entry((namespace, &backend.name))
                .or_default()
                .extend(backend.port);
        }
        for ((namespace, name), ports) in ports {
            let ports: Vec<u16> = ports.into_iter().collect();
            missing.push(Object::Service(service(namespace, name, &ports)));
        }
    }
    for object in std::mem::take(&mut missing) {
        note(loaded, object);
    }
    let gateways: Vec<_> = loaded
        .index
        .gateways()
        .map(|(_, gateway)| gateway.clone())
        .collect();
    for gateway in &gateways {
        missing.push(Object::GatewayClass(class(&gateway.class_name, true)));
        for listener in &gateway.listeners {
            for of in listener
                .tls
                .iter()
                .flat_map(|tls| &tls.certificate_refs)
                .filter(|of| of.kind == "Secret")
            {
                let namespace = of.namespace.as_deref().unwrap_or(&gateway.meta.namespace);
                let host = listener.hostname.as_deref().unwrap_or("example.com");
                let certificate = secret(namespace, &of.name, &[host], false);
                missing.push(Object::Secret(certificate));
            }
        }
    }
    for object in missing {
        note(loaded, object);
    }
}

/// Applies an object that was supplied, once.
fn note(loaded: &mut Loaded, object: Object) {
    let text = format!("supplied: {}", object.key());
    if !loaded.notes.contains(&text) {
        loaded.dirty.merge(loaded.index.apply(Event::Apply(object)));
        loaded.notes.push(text);
    }
}

#[test]
fn the_gateway_apis_own_examples_load() {
    let root = match examples() {
        Ok(root) => root,
        Err(why) => return eprintln!("SKIPPED the_gateway_apis_own_examples_load: {why}"),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/gateway-api-examples");
    let mut failures = Vec::new();
    let cases = cases(&root);
    assert!(
        cases.len() > 40,
        "only {} examples in {}",
        cases.len(),
        root.display()
    );
    for (name, texts) in &cases {
        let mut loaded = Loaded::default();
        for text in texts {
            loaded.apply(text);
        }
        if loaded.index.gateways().next().is_none() && loaded.index.routes().next().is_none() {
            continue; // only kinds that are not served yet
        }
        supply(&mut loaded);
        let classes: Vec<_> = loaded
            .index
            .classes()
            .map(|(name, _)| class_object(name))
            .collect();
        let mut translation = Translation::new();
        translation.update(&loaded.index, loaded.dirty);
        // Certificates are made for this run; when they end says nothing about the example.
        let rendered = render(&translation, &loaded.notes, &classes);
        let rendered: Vec<&str> = rendered
            .lines()
            .filter(|line| !line.trim_start().starts_with("notAfter:"))
            .collect();
        let rendered = rendered.join("\n") + "\n";
        failures.extend(check(&folder.join(format!("{name}.out.yaml")), &rendered).err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
