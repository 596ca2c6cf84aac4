#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use api::condition::reasons;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;
use crate::tests::{needs, pool};

/// A world, and an API server that does what it is told.
struct Run {
    world: World,
    version: u64,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new(pool(), &[None]);
        for event in [Event::Init, Event::InitDone] {
            world.take_service(0, event.clone());
        }
        for event in [Event::Init, Event::InitDone] {
            world.take_slice(0, event.clone());
        }
        world.take_pod(Event::Init);
        world.take_pod(Event::InitDone);
        assert!(world.is_listed());
        Self { world, version: 0 }
    }

    fn set(&mut self, name: &str, shards: &[u32]) -> Place {
        let mut needs = needs();
        needs.gateway.name = name.into();
        needs.shards = shards.iter().copied().map(ShardId).collect();
        self.world.set(&needs.gateway.clone(), Some(needs))
    }

    /// Writes until there is nothing to write; says what was written.
    fn settle(&mut self, place: &Place) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..5 {
            let writes = self.world.plan(place);
            if writes.is_empty() {
                self.world.settled(place);
                return said;
            }
            for write in writes {
                said.push(self.write(write));
            }
        }
        panic!("no end: {said:?}");
    }

    fn write(&mut self, write: Write) -> String {
        self.version += 1;
        let version = Some(self.version.to_string());
        let new = format!("uid-{}", self.version);
        match write {
            Write::Service(mut service, uid) => {
                let said = if uid.is_some() { "~" } else { "+" };
                service.metadata.uid = uid.or(Some(new));
                service.metadata.resource_version = version;
                let spec = service.spec.as_mut().unwrap();
                spec.ip_families.get_or_insert(vec!["IPv4".into()]);
                spec.cluster_ip = Some("10.96.0.1".into());
                let said = format!("{said}{}", service.metadata.name.as_ref().unwrap());
                self.world.written_service(*service);
                said
            }
            Write::Slice(mut slice, uid) => {
                let said = if uid.is_some() { "~" } else { "+" };
                slice.metadata.uid = uid.or(Some(new));
                slice.metadata.resource_version = version;
                let said = format!("{said}{}", slice.metadata.name.as_ref().unwrap());
                self.world.written_slice(*slice);
                said
            }
            Write::DeleteService(place, uid) => {
                self.world.deleted_service(&place, &uid);
                format!("-{}", place.name)
            }
            Write::DeleteSlice(place, uid) => {
                self.world.deleted_slice(&place, &uid);
                format!("-{}", place.name)
            }
        }
    }

    fn pod(&mut self, shard: u32, ready: bool, ends: bool) -> Vec<String> {
        self.version += 1;
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": format!("default-shard-{shard}"), "namespace": pool().namespace, "uid": "u",
                "resourceVersion": self.version.to_string(),
            },
            "spec": {"nodeName": "n", "containers": []},
            "status": {
                "podIPs": [{"ip": format!("10.244.0.{shard}")}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        }))
        .unwrap();
        if ends {
            pod.metadata.deletion_timestamp = Some(Time(Default::default()));
        }
        let places = self.world.take_pod(Event::Apply(pod));
        places.into_iter().map(|place| place.name).collect()
    }

    fn current(&self, place: &Place) -> Service {
        self.world.services.get(place).unwrap().clone()
    }
}

#[test]
fn a_gateway_gets_a_service_then_slices_and_a_second_look_writes_nothing() {
    let mut run = Run::new();
    let place = run.set("web", &[0, 1]);
    assert_eq!(run.settle(&place), ["+shardway-web", "+shardway-web-v4"]);
    assert_eq!(run.settle(&place), [""; 0]);
    run.set("web", &[0, 1]);
    assert_eq!(run.settle(&place), [""; 0]);
}

#[test]
fn a_pod_that_changes_concerns_the_gateways_on_it_alone() {
    let mut run = Run::new();
    let (web, other) = (run.set("web", &[0, 1]), run.set("other", &[1]));
    run.settle(&web);
    run.settle(&other);
    assert_eq!(run.pod(0, true, false), ["shardway-web"]);
    assert_eq!(run.settle(&web), ["~shardway-web-v4"]);
    assert_eq!(run.pod(1, false, false), ["shardway-other", "shardway-web"]);
    // The same again, as each heartbeat of a pod's conditions is.
    assert_eq!(run.pod(1, false, false), [""; 0]);
    assert_eq!(run.pod(0, false, true), ["shardway-web"]);
    run.set("web", &[1]);
    assert_eq!(run.pod(0, true, true), [""; 0]);
}

#[test]
fn what_somebody_else_changes_is_put_back() {
    let mut run = Run::new();
    let place = run.set("web", &[0]);
    run.settle(&place);
    let mut service = run.current(&place);
    service.metadata.resource_version = Some("1000".into());
    service
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("theirs".into(), "1".into());
    run.world.take_service(0, Event::Apply(service.clone()));
    assert_eq!(run.settle(&place), [""; 0]);
    service.metadata.resource_version = Some("1001".into());
    service.spec.as_mut().unwrap().ports.as_mut().unwrap().pop();
    let places = run.world.take_service(0, Event::Apply(service));
    assert_eq!(places.as_slice(), std::slice::from_ref(&place));
    run.version = 1001;
    assert_eq!(run.settle(&place), ["~shardway-web"]);
}

#[test]
fn objects_of_a_gateway_that_is_gone_go() {
    let mut run = Run::new();
    let place = run.set("web", &[0]);
    run.settle(&place);
    run.world.set(&needs().gateway, None);
    assert_eq!(run.settle(&place), ["-shardway-web", "-shardway-web-v4"]);
    assert_eq!(run.world.places(), []);
}

#[test]
fn what_is_left_from_before_goes_when_all_gateways_are_known() {
    let mut run = Run::new();
    let (web, other) = (run.set("web", &[0]), run.set("other", &[0]));
    run.settle(&web);
    run.settle(&other);
    run.world.forget();
    run.set("web", &[0]);
    assert_eq!(run.settle(&other), [""; 0]);
    assert!(run.world.complete().contains(&other));
    assert_eq!(
        run.settle(&other),
        ["-shardway-other", "-shardway-other-v4"]
    );
    assert_eq!(run.settle(&web), [""; 0]);
}

#[test]
fn a_service_that_cannot_be_changed_is_made_anew() {
    let mut run = Run::new();
    let place = run.set("web", &[0]);
    run.settle(&place);
    let mut needs = needs();
    needs.shards = vec![ShardId(0)];
    needs.settings.load_balancer_class = Some("a/b".into());
    run.world.set(&needs.gateway.clone(), Some(needs));
    assert_eq!(run.settle(&place), ["-shardway-web", "+shardway-web"]);
}

#[test]
fn one_that_is_on_its_way_out_is_waited_for() {
    let mut run = Run::new();
    let place = run.set("web", &[0]);
    run.settle(&place);
    let mut service = run.current(&place);
    service.metadata.resource_version = Some("1000".into());
    service.metadata.deletion_timestamp = Some(Time(Default::default()));
    run.world.take_service(0, Event::Apply(service.clone()));
    assert_eq!(run.settle(&place), [""; 0]);
    assert_eq!(run.world.observed(&place).unwrap().addresses, []);
    run.world.take_service(0, Event::Delete(service));
    assert_eq!(run.settle(&place), ["+shardway-web"]);
}

#[test]
fn without_a_valid_listener_slices_go_and_the_address_stays() {
    let mut run = Run::new();
    let place = run.set("web", &[0]);
    run.settle(&place);
    let mut invalid = needs();
    invalid.ports.clear();
    run.world.set(&invalid.gateway.clone(), Some(invalid));
    assert_eq!(run.settle(&place), ["-shardway-web-v4"]);
}

#[test]
fn why_a_write_was_refused_is_observed_until_it_is_not() {
    let mut run = Run::new();
    let place = run.set("web", &[0]);
    let reason = |run: &Run| run.world.observed(&place).unwrap().problem.unwrap().reason;
    assert_eq!(reason(&run), reasons::ADDRESS_NOT_ASSIGNED);
    let problem = Problem {
        reason: reasons::NO_RESOURCES,
        message: "quota".into(),
    };
    run.world.refused(&place, Some(problem.clone()));
    assert_eq!(reason(&run), reasons::NO_RESOURCES);
    run.world.refused(&place, None);
    assert_eq!(reason(&run), reasons::ADDRESS_NOT_ASSIGNED);
    run.world.set(&needs().gateway, None);
    run.world.refused(&place, Some(problem));
    assert_eq!(run.world.observed(&place), None);
}

#[test]
fn a_zone_is_asked_for_once_and_reaches_the_slices() {
    let mut run = Run::new();
    let place = run.set("web", &[0]);
    run.pod(0, true, false);
    run.settle(&place);
    assert_eq!(run.world.nodes_to_ask(), ["n"]);
    assert_eq!(run.world.nodes_to_ask(), [""; 0]);
    let zone = || Some("zone-a".to_owned());
    assert_eq!(
        run.world.take_zone("n", zone()).as_slice(),
        std::slice::from_ref(&place)
    );
    assert_eq!(run.settle(&place), ["~shardway-web-v4"]);
    assert_eq!(run.world.take_zone("n", zone()), []);
    run.pod(0, false, false);
    assert_eq!(run.world.shards[&ShardId(0)].zone, zone());
}

#[test]
fn one_that_keeps_its_address_is_led_nowhere() {
    let mut run = Run::new();
    let place = run.set("web", &[0]);
    run.settle(&place);
    run.world.forget();
    run.world.keep(&needs().gateway);
    run.world.complete();
    let led_to = |run: &Run| run.world.observed(&place).unwrap().led_to;
    assert_eq!(led_to(&run), None);
    assert_eq!(run.settle(&place), ["-shardway-web-v4"]);
    assert_eq!(led_to(&run), Some(Vec::new()));
    run.set("web", &[0]);
    assert_eq!(run.settle(&place), ["+shardway-web-v4"]);
    run.world.keep(&needs().gateway);
    run.world.set(&needs().gateway, None);
    assert_eq!(run.settle(&place), ["-shardway-web", "-shardway-web-v4"]);
}
