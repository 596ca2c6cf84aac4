#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::condition::reasons;
use api::{GatewayKey, PoolKey, ShardId};
use api_pool::{Family, FamilyPolicy, ServiceType, TrafficDistribution, TrafficPolicy};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;

use crate::address::problem;
use crate::*;

pub(crate) fn pool() -> PoolKey {
    PoolKey::new("shardway-system", "default")
}

fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) fn needs() -> GatewayNeeds {
    GatewayNeeds {
        gateway: GatewayKey::new("team-a", "web"),
        uid: "0a1b".into(),
        ports: [(80, 2001), (443, 2002)].into(),
        shards: vec![ShardId(2), ShardId(0)],
        leaving: Vec::new(),
        labels: strings(&[("team", "a"), ("app.kubernetes.io/managed-by", "somebody")]),
        annotations: strings(&[("both", "gateway")]),
        addresses: Vec::new(),
        settings: ServiceSettings {
            annotations: strings(&[("both", "pool"), ("cloud.example/kind", "internal")]),
            ..ServiceSettings::default()
        },
    }
}

fn pod(shard: u32) -> ShardPod {
    ShardPod {
        shard: ShardId(shard),
        name: format!("default-shard-{shard}"),
        namespace: "shardway-system".into(),
        uid: format!("pod-{shard}"),
        node: Some(format!("node-{shard}")),
        zone: Some("zone-a".into()),
        ips: vec![
            format!("10.244.{}.{}", shard / 250, shard % 250 + 1)
                .parse()
                .unwrap(),
            format!("fd00::{:x}", shard + 1).parse().unwrap(),
        ],
        ready: true,
        running: true,
        terminating: false,
    }
}

fn pods(of: impl IntoIterator<Item = ShardPod>) -> BTreeMap<ShardId, ShardPod> {
    of.into_iter().map(|pod| (pod.shard, pod)).collect()
}

fn address(type_: &str, value: &str) -> WantedAddress {
    WantedAddress {
        type_: type_.into(),
        value: value.into(),
    }
}

#[track_caller]
pub(crate) fn check<T: serde::Serialize>(name: &str, value: &T) {
    // By way of JSON, which leaves out what is not set.
    let value = serde_json::to_value(value).unwrap();
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_yaml_snapshot!(name, value);
    });
}

#[test]
fn a_service_has_an_address_of_its_own_and_no_node_ports() {
    check("service", &service(&pool(), &needs(), None));
}

#[test]
fn settings_are_written_as_they_are() {
    let mut needs = needs();
    needs.settings = ServiceSettings {
        type_: Some(ServiceType::LoadBalancer),
        load_balancer_class: Some("cloud.example/lb".into()),
        external_traffic_policy: Some(TrafficPolicy::Local),
        internal_traffic_policy: Some(TrafficPolicy::Cluster),
        ip_families: vec![Family::V6, Family::V4],
        ip_family_policy: Some(FamilyPolicy::PreferDualStack),
        traffic_distribution: Some(TrafficDistribution::PreferSameZone),
        annotations: BTreeMap::new(),
    };
    check(
        "service_with_settings",
        &service(&pool(), &needs, None).unwrap().spec,
    );
    // What means nothing to a Service within the cluster is left out: the API server would refuse it.
    needs.settings.type_ = Some(ServiceType::ClusterIp);
    check(
        "service_within_the_cluster",
        &service(&pool(), &needs, None).unwrap().spec,
    );
}

#[test]
fn a_long_name_is_shortened_everywhere() {
    let mut needs = needs();
    needs.gateway.name = "g.".repeat(126) + "g";
    let service = service(&pool(), &needs, None).unwrap();
    assert_eq!(service.metadata.name.as_ref().unwrap().len(), 63);
    for value in service.metadata.labels.unwrap().values() {
        assert!(value.len() <= 63, "{value}");
    }
    let owner = &service.metadata.owner_references.unwrap()[0];
    assert_eq!(owner.name, needs.gateway.name);
}

#[test]
fn without_a_valid_listener_an_address_is_kept_but_not_made() {
    let mut invalid = needs();
    invalid.ports.clear();
    assert_eq!(service(&pool(), &invalid, None), None);
    assert_eq!(problem(&invalid, &[]).unwrap().reason, reasons::INVALID);
    let before = service(&pool(), &needs(), None).unwrap();
    let after = service(&pool(), &invalid, Some(&before)).unwrap();
    assert_eq!(after.spec, before.spec);
    assert!(endpoint_slices(&pool(), &invalid, &[Family::V4], &pods([pod(0)])).is_empty());
}

#[test]
fn addresses_are_asked_for_where_they_can_be() {
    let spec = |type_, addresses: &[&str]| {
        let mut needs = needs();
        needs.settings.type_ = Some(type_);
        needs.addresses = addresses
            .iter()
            .map(|of| address("IPAddress", of))
            .collect();
        service(&pool(), &needs, None).map(|service| service.spec.unwrap())
    };
    let balancer = spec(ServiceType::LoadBalancer, &["", "10.98.0.7"]).unwrap();
    assert_eq!(balancer.load_balancer_ip.as_deref(), Some("10.98.0.7"));
    let six = spec(ServiceType::LoadBalancer, &["fd00:10:98::7"]).unwrap();
    assert_eq!(six.ip_families, Some(vec!["IPv6".to_owned()]));
    let any = spec(ServiceType::LoadBalancer, &[""]).unwrap();
    assert_eq!((any.load_balancer_ip, any.ip_families), (None, None));
    let inner = spec(ServiceType::ClusterIp, &["fd00:10:96::7", "10.96.0.7"]).unwrap();
    assert_eq!(inner.cluster_ip.as_deref(), Some("fd00:10:96::7"));
    assert_eq!(inner.cluster_ips.unwrap().len(), 2);
    assert_eq!(inner.ip_family_policy.as_deref(), Some("RequireDualStack"));
    // What cannot be had is not made.
    assert_eq!(
        spec(ServiceType::LoadBalancer, &["10.0.0.1", "10.0.0.2"]),
        None
    );
}

#[test]
fn an_address_that_cannot_be_had_says_why() {
    let balancer = ServiceType::LoadBalancer;
    for (type_, families, addresses, reason, says) in [
        (
            balancer,
            vec![],
            vec![("Hostname", "a.test")],
            reasons::UNSUPPORTED_ADDRESS,
            "Hostname",
        ),
        (
            balancer,
            vec![],
            vec![("IPAddress", "10.0.0.1"), ("test/fake", "x")],
            reasons::UNSUPPORTED_ADDRESS,
            "test/fake",
        ),
        (
            balancer,
            vec![],
            vec![("IPAddress", "web")],
            reasons::ADDRESS_NOT_USABLE,
            "web",
        ),
        (
            balancer,
            vec![],
            vec![("IPAddress", "127.0.0.1")],
            reasons::ADDRESS_NOT_USABLE,
            "reached",
        ),
        (
            balancer,
            vec![],
            vec![("IPAddress", "10.0.0.1"), ("IPAddress", "10.0.0.2")],
            reasons::ADDRESS_NOT_USABLE,
            "10.0.0.1 and no other",
        ),
        (
            ServiceType::ClusterIp,
            vec![],
            vec![("IPAddress", "10.0.0.1"), ("IPAddress", "10.0.0.2")],
            reasons::ADDRESS_NOT_USABLE,
            "each IP family",
        ),
        (
            balancer,
            vec![Family::V6],
            vec![("IPAddress", "10.0.0.1")],
            reasons::ADDRESS_NOT_USABLE,
            "(IPv6)",
        ),
    ] {
        let mut needs = needs();
        needs.settings.type_ = Some(type_);
        needs.settings.ip_families = families;
        needs.addresses = addresses
            .iter()
            .map(|(of, value)| address(of, value))
            .collect();
        let problem = wanted(&needs).unwrap_err();
        assert_eq!(problem.reason, reason, "{addresses:?}");
        assert!(problem.message.contains(says), "{}", problem.message);
        // One that is there keeps what it has.
        let mut before = service(&pool(), &self::needs(), None).unwrap();
        before.spec.as_mut().unwrap().load_balancer_ip = Some("10.98.0.9".into());
        let after = service(&pool(), &needs, Some(&before))
            .unwrap()
            .spec
            .unwrap();
        let kept = (type_ == balancer).then_some("10.98.0.9");
        assert_eq!(after.load_balancer_ip.as_deref(), kept);
    }
}

#[test]
fn what_was_given_is_told_and_compared_with_what_was_asked_for() {
    let given = |of: serde_json::Value| -> Service {
        let mut service = service(&pool(), &needs(), None).unwrap();
        let status = serde_json::json!({"loadBalancer": {"ingress": of}});
        service.status = Some(serde_json::from_value(status).unwrap());
        service
    };
    let none = assigned(&given(serde_json::json!([])));
    assert_eq!(none, []);
    assert_eq!(
        problem(&needs(), &none).unwrap().reason,
        reasons::ADDRESS_NOT_ASSIGNED
    );
    let two = serde_json::json!([{"ip": "10.98.0.1"}, {"hostname": "lb.test"}]);
    let two = assigned(&given(two));
    let expected = [
        (AddressKind::IpAddress, "10.98.0.1"),
        (AddressKind::Hostname, "lb.test"),
    ]
    .map(|(kind, value)| StatusAddress {
        kind,
        value: value.into(),
    });
    assert_eq!(two, expected);
    assert_eq!(problem(&needs(), &two), None);
    let mut asks = needs();
    asks.addresses = vec![address("IPAddress", "10.98.0.2")];
    assert_eq!(
        problem(&asks, &none).unwrap().reason,
        reasons::ADDRESS_NOT_ASSIGNED
    );
    assert_eq!(
        problem(&asks, &two).unwrap().reason,
        reasons::ADDRESS_NOT_USABLE
    );
    let mut inner = given(serde_json::json!([]));
    let spec = inner.spec.as_mut().unwrap();
    spec.type_ = Some("ClusterIP".into());
    spec.cluster_ips = Some(vec!["10.96.0.1".into(), "fd00::1".into()]);
    assert_eq!(assigned(&inner).len(), 2);
    inner.spec.as_mut().unwrap().cluster_ips = Some(vec!["None".into()]);
    assert_eq!(assigned(&inner), []);
}

#[test]
fn what_cannot_be_changed_is_known() {
    let with = |change: fn(&mut GatewayNeeds)| {
        let mut needs = needs();
        change(&mut needs);
        service(&pool(), &needs, None).unwrap()
    };
    let plain = with(|_| {});
    let class = with(|needs| needs.settings.load_balancer_class = Some("a/b".into()));
    let six = with(|needs| needs.settings.ip_families = vec![Family::V6]);
    let four = with(|needs| needs.settings.ip_families = vec![Family::V4]);
    let inner = with(|needs| needs.settings.type_ = Some(ServiceType::ClusterIp));
    let fixed = with(|needs| {
        needs.settings.type_ = Some(ServiceType::ClusterIp);
        needs.addresses = vec![address("IPAddress", "10.96.0.7")];
    });
    let balanced = with(|needs| needs.addresses = vec![address("IPAddress", "10.98.0.7")]);
    assert_eq!(immutable(&plain, &class), Some("loadBalancerClass"));
    assert_eq!(immutable(&class, &plain), Some("loadBalancerClass"));
    assert_eq!(immutable(&four, &six), Some("ipFamilies"));
    assert_eq!(immutable(&inner, &fixed), Some("clusterIPs"));
    for (now, then) in [
        (&plain, &inner),
        (&plain, &balanced),
        (&fixed, &inner),
        (&class, &inner),
        (&fixed, &fixed),
    ] {
        assert_eq!(immutable(now, then), None);
    }
}

#[test]
fn slices_list_shards_with_what_becomes_of_them() {
    let mut needs = needs();
    needs.shards = vec![ShardId(0), ShardId(1), ShardId(2), ShardId(7)];
    needs.leaving = vec![ShardId(3), ShardId(1)];
    let starts = ShardPod {
        ready: false,
        ..pod(1)
    };
    let ends = ShardPod {
        ready: false,
        terminating: true,
        ..pod(2)
    };
    // Shard 7 has no pod yet; nobody asked for shard 4.
    let pods = pods([pod(0), starts, ends, pod(3), pod(4)]);
    let slices = endpoint_slices(&pool(), &needs, &[Family::V4, Family::V6], &pods);
    check("slices", &slices);
}

#[test]
fn running_shards_stay_when_all_are_called_not_ready() {
    let mut needs = needs();
    needs.shards = vec![ShardId(0), ShardId(1), ShardId(2)];
    let ready = |pods: [ShardPod; 3]| -> Vec<bool> {
        let slices = endpoint_slices(&pool(), &needs, &[Family::V4], &self::pods(pods));
        let endpoints = slices[0].endpoints.iter();
        let conditions = endpoints.filter_map(|of| of.conditions.clone());
        conditions.filter_map(|of| of.ready).collect()
    };
    let unready = |shard: u32| ShardPod {
        ready: false,
        ..pod(shard)
    };
    let stopped = |shard: u32| ShardPod {
        running: false,
        ..unready(shard)
    };
    let ending = |shard: u32| ShardPod {
        terminating: true,
        ..pod(shard)
    };
    assert_eq!(
        ready([pod(0), unready(1), unready(2)]),
        [true, false, false]
    );
    assert_eq!(
        ready([unready(0), unready(1), stopped(2)]),
        [true, true, false]
    );
    // One that ends is nobody to rely on.
    assert_eq!(
        ready([ending(0), unready(1), stopped(2)]),
        [false, true, false]
    );
}

#[test]
fn hints_are_ours_to_give() {
    let mut needs = needs();
    needs.settings.traffic_distribution = Some(TrafficDistribution::PreferSameNode);
    let hinted = |pods| -> Vec<bool> {
        let slices = endpoint_slices(&pool(), &needs, &[Family::V4], &pods);
        slices[0]
            .endpoints
            .iter()
            .map(|of| of.hints.is_some())
            .collect()
    };
    assert_eq!(hinted(pods([pod(0), pod(2)])), [true, true]);
    let unknown = ShardPod {
        zone: None,
        ..pod(2)
    };
    assert_eq!(hinted(pods([pod(0), unknown])), [false, false]);
}

#[test]
fn what_is_written_is_sealed_with_all_that_it_says() {
    let seal = |needs: &GatewayNeeds| {
        let service = service(&pool(), needs, None).unwrap();
        crate::labels::sealed(&service.metadata).cloned().unwrap()
    };
    let before = seal(&needs());
    assert_eq!(before, seal(&needs()));
    let mut other = needs();
    other.labels.remove("team");
    assert_ne!(before, seal(&other));
    other = needs();
    other.ports.insert(80, 2003);
    assert_ne!(before, seal(&other));
}

fn addresses(slices: &[EndpointSlice]) -> Vec<String> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    endpoints
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect()
}

proptest! {
    #[test]
    fn slices_list_exactly_the_shards(
        shards in prop::collection::btree_set(0_u32..400, 0..320),
        leaving in prop::collection::btree_set(0_u32..400, 0..20),
        there in prop::collection::btree_set(0_u32..400, 0..400),
    ) {
        let mut needs = needs();
        needs.shards = shards.iter().copied().map(ShardId).collect();
        needs.leaving = leaving.iter().copied().map(ShardId).collect();
        let ip = |shard: &u32| IpAddr::from([10, 1, (shard / 250) as u8, (shard % 250) as u8 + 1]);
        let pods = pods(there.iter().map(|shard| ShardPod { ips: vec![ip(shard)], ..pod(*shard) }));
        let slices = endpoint_slices(&pool(), &needs, &[Family::V4, Family::V6], &pods);
        let (four, six): (Vec<_>, Vec<_>) =
            slices.iter().cloned().partition(|slice| slice.address_type == "IPv4");
        let expected: Vec<String> = shards
            .union(&leaving)
            .filter(|shard| there.contains(shard))
            .map(|shard| ip(shard).to_string())
            .collect();
        prop_assert_eq!(addresses(&four), expected);
        prop_assert!(addresses(&six).is_empty());
        for slice in &slices {
            prop_assert!(slice.endpoints.len() <= 100);
        }
        let names: std::collections::BTreeSet<_> =
            slices.iter().map(|slice| slice.metadata.name.clone()).collect();
        prop_assert_eq!(names.len(), slices.len());
    }
}
