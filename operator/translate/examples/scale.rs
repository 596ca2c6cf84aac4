//! What index and translate cost: `cargo run --release -p operator-translate --example scale [ROUTES [GATEWAYS]]`.
//!
//! Prints a full translation, then single changes, in time and, on Linux, in resident memory. It asserts nothing.
#![allow(clippy::print_stdout)] // printing is what it is for

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::*;
use operator_index::{Dirty, Index};
use operator_objects::spec::{Event, Object};
use operator_translate::Translation;

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse::<usize>().ok());
    let routes = arguments.next().unwrap_or(5_000);
    let gateways = arguments.next().unwrap_or(1).max(1);
    let mut index = Index::new();
    let mut dirty = index.apply(Event::Apply(Object::GatewayClass(class("ours", true))));
    let tenant = |number: usize| format!("team-{:05}", number % gateways);
    let started = Instant::now();
    for number in 0..gateways {
        let web = gateway(
            &tenant(number),
            "web",
            "ours",
            vec![listener("http", 80, None)],
        );
        dirty.merge(index.apply(Event::Apply(Object::Gateway(web))));
    }
    for number in 0..routes {
        let namespace = tenant(number);
        let name = format!("app-{number:06}");
        dirty.merge(index.apply(Event::Apply(Object::Service(service(
            &namespace,
            &name,
            &[80],
        )))));
        let slice = slice(&namespace, &name, &name, 80, &["10.1.0.1", "10.1.0.2"]);
        dirty.merge(index.apply(Event::Apply(Object::EndpointSlice(slice))));
        dirty.merge(index.apply(Event::Apply(Object::HttpRoute(app(&namespace, &name, "/")))));
    }
    let indexed = started.elapsed();
    let started = Instant::now();
    let mut translation = Translation::new();
    translation.update(&index, dirty);
    let translated = started.elapsed();
    println!(
        "{routes} routes on {gateways} Gateways: index {indexed:?}, translate {translated:?}, {}",
        memory()
    );

    let changes = 200;
    let mut times = Vec::with_capacity(changes);
    for change in 0..changes {
        let number = change * 7919 % routes;
        let route = app(
            &tenant(number),
            &format!("app-{number:06}"),
            &format!("/v{change}"),
        );
        let started = Instant::now();
        let dirty = index.apply(Event::Apply(Object::HttpRoute(route)));
        let changed = translation.update(&index, dirty);
        times.push(started.elapsed());
        assert_eq!(changed.gateways.len(), 1);
    }
    print("one route changed", &mut times);

    let mut times = Vec::with_capacity(changes);
    for change in 0..changes {
        let number = change * 7919 % routes;
        let (namespace, name) = (tenant(number), format!("app-{number:06}"));
        let slice = slice(
            &namespace,
            &name,
            &name,
            80,
            &[&format!("10.2.0.{}", change % 250)],
        );
        let started = Instant::now();
        let dirty = index.apply(Event::Apply(Object::EndpointSlice(slice)));
        let changed = translation.update(&index, dirty);
        times.push(started.elapsed());
        assert!(changed.gateways.is_empty() && changed.backends.len() == 1);
    }
    print("one endpoint changed", &mut times);

    let started = Instant::now();
    let mut gateway = gateway(
        &tenant(0),
        "web",
        "ours",
        vec![listener("http", 8080, None)],
    );
    gateway.meta.generation = 2;
    let dirty = index.apply(Event::Apply(Object::Gateway(gateway)));
    let changed = translation.update(&index, dirty);
    println!(
        "one Gateway's port changed: {:?}, {} statuses",
        started.elapsed(),
        changed.statuses.len()
    );
    let started = Instant::now();
    let again = translation.update(&index, Dirty::all(&index));
    println!(
        "all translated again: {:?}, nothing changed: {}",
        started.elapsed(),
        again.is_empty()
    );
}

fn app(namespace: &str, name: &str, prefix: &str) -> operator_objects::spec::HttpRoute {
    let rule = rule(prefix, vec![to(None, name, 80)]);
    let mut route = route(
        namespace,
        name,
        vec![parent(namespace, "web", None)],
        vec![rule],
    );
    route.hostnames = vec![format!("{name}.example.com")];
    route
}

fn print(what: &str, times: &mut [std::time::Duration]) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{what}: p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    );
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or("VmRSS unknown");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
