#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::time::Duration;

use api::condition::reasons;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::tests::{needs, pool};
use fake::Fake;

mod fake;

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";
const PODS: &str = "pods";
/// Of the paused clock: it is reached when nothing is left to do.
const WITHIN: Duration = Duration::from_secs(600);

fn start(fake: &Arc<Fake>) -> (Infrastructure, mpsc::Receiver<Observed>) {
    let settings = Settings {
        pool: pool(),
        namespaces: Vec::new(),
    };
    Infrastructure::start(fake.client(), settings)
}

/// The next that is told and that `check` takes.
async fn told<T>(
    observed: &mut mpsc::Receiver<Observed>,
    check: impl Fn(&Observed) -> Option<T>,
) -> T {
    let waiting = async {
        loop {
            let next = observed.recv().await.unwrap();
            if let Some(found) = check(&next) {
                return found;
            }
        }
    };
    tokio::time::timeout(WITHIN, waiting).await.unwrap()
}

fn is_led(of: &Observed) -> Option<()> {
    of.led_to.as_ref().map(|_| ())
}

fn pod(shard: u32) -> Value {
    json!({
        "metadata": {
            "name": format!("default-shard-{shard}"), "namespace": pool().namespace,
            "labels": {"shardway.dev/pool": "default"},
        },
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {
            "podIPs": [{"ip": format!("10.244.0.{}", shard + 1)}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

#[tokio::test(start_paused = true)]
async fn a_follower_writes_nothing_and_a_leader_what_is_needed() {
    let fake = Fake::new();
    fake.put(PODS, pod(0));
    let (infrastructure, mut observed) = start(&fake);
    infrastructure.set(needs().gateway, Some(needs()));
    let reason = told(&mut observed, |of| Some(of.problem.as_ref()?.reason)).await;
    assert_eq!(reason, reasons::ADDRESS_NOT_ASSIGNED);
    assert_eq!(fake.writes(), [""; 0]);
    infrastructure.lead(true);
    told(&mut observed, is_led).await;
    let written = [
        "PATCH services/shardway-web",
        "PATCH endpointslices/shardway-web-v4",
    ];
    assert_eq!(fake.writes(), written);
    let zone = fake.get(SLICES, "shardway-web-v4")["endpoints"][0]["zone"].clone();
    assert_eq!(zone, "zone-a");
    fake.address("shardway-web", "10.98.0.1");
    let address = told(&mut observed, |of| of.addresses.first().cloned()).await;
    assert_eq!(address.value, "10.98.0.1");
    // Once more the same, and one that asks for something else.
    infrastructure.set(needs().gateway, Some(needs()));
    let mut other = needs();
    other.ports.remove(&443);
    infrastructure.set(needs().gateway, Some(other));
    told(&mut observed, is_led).await;
    assert_eq!(fake.writes()[2..], written);
    assert_eq!(
        fake.get(SERVICES, "shardway-web")["spec"]["ports"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

/// Without the pods every slice would be emptied.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_everything_is_listed() {
    let fake = Fake::new();
    fake.hold(PODS, true);
    fake.put(PODS, pod(0));
    let (infrastructure, mut observed) = start(&fake);
    infrastructure.lead(true);
    infrastructure.set(needs().gateway, Some(needs()));
    fake.asked_for(PODS).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fake.writes(), [""; 0]);
    assert!(observed.try_recv().is_err());
    fake.hold(PODS, false);
    told(&mut observed, is_led).await;
    let endpoints = fake.get(SLICES, "shardway-web-v4")["endpoints"].clone();
    assert_eq!(endpoints.as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again_and_what_is_refused_is_told() {
    let fake = Fake::new();
    let (infrastructure, mut observed) = start(&fake);
    infrastructure.lead(true);
    fake.fail(503, "etcd is away", 2);
    infrastructure.set(needs().gateway, Some(needs()));
    told(&mut observed, is_led).await;
    assert_eq!(fake.writes().len(), 4);
    fake.fail(422, "spec.ports: Invalid value", 1);
    let mut other = needs();
    other.ports.insert(81, 2003);
    infrastructure.set(needs().gateway, Some(other));
    let problem = told(&mut observed, |of| {
        of.problem
            .clone()
            .filter(|of| of.reason == reasons::INVALID)
    });
    assert!(problem.await.message.contains("spec.ports"));
    // It was tried again, and the problem is gone.
    told(&mut observed, is_led).await;
    let service = fake.get(SERVICES, "shardway-web");
    assert_eq!(service["spec"]["ports"].as_array().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_others_made_is_left_alone() {
    let fake = Fake::new();
    let theirs = json!({
        "metadata": {"name": "shardway-web", "namespace": "team-a", "labels": {"app": "theirs"}},
        "spec": {"ports": [{"port": 80}]},
    });
    fake.hide(SERVICES, theirs);
    let (infrastructure, mut observed) = start(&fake);
    infrastructure.lead(true);
    infrastructure.set(needs().gateway, Some(needs()));
    let problem = told(&mut observed, |of| {
        of.problem
            .clone()
            .filter(|of| of.message.contains("not made by Shardway"))
    });
    problem.await;
    infrastructure.complete();
    infrastructure.set(needs().gateway, None);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(fake.writes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_any_more_writes_nothing_and_begins_anew() {
    let fake = Fake::new();
    let (infrastructure, mut observed) = start(&fake);
    infrastructure.lead(true);
    infrastructure.set(needs().gateway, Some(needs()));
    told(&mut observed, is_led).await;
    infrastructure.lead(false);
    infrastructure.lead(true);
    infrastructure.complete();
    // Nobody has set it again.
    fake.gone(SERVICES, "shardway-web").await;
    fake.gone(SLICES, "shardway-web-v4").await;
}

/// More than are looked at in one go, and all but one as they should be.
#[tokio::test(start_paused = true)]
async fn a_new_leader_looks_at_all_and_writes_what_differs() {
    let fake = Fake::new();
    let gateways: Vec<GatewayNeeds> = (0..300)
        .map(|number| {
            let mut needs = needs();
            needs.gateway.name = format!("web-{number}");
            needs
        })
        .collect();
    let (infrastructure, mut observed) = start(&fake);
    infrastructure.lead(true);
    for needs in &gateways {
        infrastructure.set(needs.gateway.clone(), Some(needs.clone()));
    }
    for _ in &gateways {
        told(&mut observed, is_led).await;
    }
    let before = fake.writes().len();
    assert_eq!(before, 2 * gateways.len());
    drop(infrastructure);
    let (infrastructure, mut observed) = start(&fake);
    infrastructure.lead(true);
    for needs in &gateways {
        infrastructure.set(needs.gateway.clone(), Some(needs.clone()));
    }
    let mut last = gateways[299].clone();
    last.gateway.name = "one-more".into();
    infrastructure.set(last.gateway.clone(), Some(last.clone()));
    for _ in 0..=gateways.len() {
        told(&mut observed, is_led).await;
    }
    assert_eq!(fake.writes().len(), before + 2);
}
