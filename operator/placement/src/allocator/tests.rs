#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use api_snapshot::Op;
use proptest::prelude::*;

use super::*;

fn allocator(privileged_below: u16) -> Allocator {
    let rules = Rules::Addresses {
        range: "127.1.0.0/24".parse().unwrap(),
        ports: PortRules { privileged_below },
    };
    Allocator::new(4, 2, rules)
}

fn any(ports: &[u16]) -> Request {
    Request {
        address: WantedAddress::Any,
        ports: ports.iter().copied().collect(),
    }
}

fn key(name: &str) -> GatewayKey {
    GatewayKey::new("team", name)
}

#[test]
fn each_gateway_gets_the_next_free_address_and_its_own_ports() {
    let mut allocator = allocator(0);
    let a = allocator.plan(&key("a"), &any(&[80, 443]));
    let b = allocator.plan(&key("b"), &any(&[80]));
    assert_eq!(
        a.bindings[&80].addresses,
        ["127.1.0.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(a.bindings[&443].addresses, a.bindings[&80].addresses);
    assert_eq!(
        b.bindings[&80].addresses,
        ["127.1.0.2".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(a.bindings[&80].public_port, 80);
}

#[test]
fn a_privileged_port_moves_up_by_ten_thousand_or_to_the_next_free_one() {
    let mut allocator = allocator(1024);
    let plan = allocator.plan(&key("a"), &any(&[80, 443, 10_080]));
    assert_eq!(plan.bindings[&80].public_port, 10_081);
    assert_eq!(plan.bindings[&443].public_port, 10_443);
    assert_eq!(plan.bindings[&10_080].public_port, 10_080);
}

#[test]
fn a_static_address_and_port_held_by_another_gateway_is_refused_by_name() {
    let mut allocator = allocator(0);
    let wanted = Request {
        address: WantedAddress::Static(vec!["127.9.0.1".parse().unwrap()]),
        ports: [80].into(),
    };
    allocator.plan(&key("a"), &wanted);
    let plan = allocator.plan(&key("b"), &wanted);
    assert!(plan.bindings.is_empty());
    assert_eq!(
        plan.refused[&80].to_string(),
        "127.9.0.1 port 80 is held by gateway team/a; choose another address or port"
    );
}

#[test]
fn a_gateway_that_moves_says_that_its_old_place_is_free() {
    let mut allocator = allocator(0);
    let at = |address: &str| Request {
        address: WantedAddress::Static(vec![address.parse().unwrap()]),
        ports: [80].into(),
    };
    let (one, two) = (at("127.9.0.1"), at("127.9.0.2"));
    allocator.plan(&key("a"), &one);
    assert!(!allocator.plan(&key("b"), &one).refused.is_empty());
    allocator.plan(&key("a"), &one);
    assert!(!allocator.take_moved(), "nothing has moved");
    allocator.plan(&key("a"), &two);
    assert!(allocator.take_moved());
    assert!(!allocator.take_moved(), "it is told once");
    assert!(allocator.plan(&key("b"), &one).refused.is_empty());
}

#[test]
fn a_full_range_says_so_and_frees_with_its_gateways() {
    let rules = Rules::Addresses {
        range: "127.1.0.0/30".parse().unwrap(),
        ports: PortRules {
            privileged_below: 0,
        },
    };
    let mut allocator = Allocator::new(1, 1, rules);
    for name in ["a", "b"] {
        assert!(allocator.plan(&key(name), &any(&[80])).refused.is_empty());
    }
    let plan = allocator.plan(&key("c"), &any(&[80]));
    assert!(plan.refused[&80].to_string().contains("--address-range"));
    allocator.release(&key("a"));
    let plan = allocator.plan(&key("c"), &any(&[80]));
    assert_eq!(plan.refused.len(), 1, "shards may still serve it");
    assert!(allocator.freed(&key("a"), 80));
    assert!(allocator.plan(&key("c"), &any(&[80])).refused.is_empty());
}

#[test]
fn an_address_that_was_given_is_nobody_elses_and_stays_without_ports() {
    let mut allocator = allocator(0);
    let address: IpAddr = "127.1.0.1".parse().unwrap();
    let first = allocator.plan(&key("a"), &any(&[80]));
    assert_eq!(first.bindings[&80].addresses, [address]);
    let wanted = Request {
        address: WantedAddress::Static(vec![address]),
        ports: [9000].into(),
    };
    let plan = allocator.plan(&key("b"), &wanted);
    assert_eq!(
        plan.refused[&9000].to_string(),
        "127.1.0.1 port 9000 is held by gateway team/a; choose another address or port"
    );
    // Its only listener cannot be served for a while.
    allocator.plan(&key("a"), &any(&[]));
    allocator.freed(&key("a"), 80);
    let other = allocator.plan(&key("c"), &any(&[80]));
    assert_ne!(other.bindings[&80].addresses, [address]);
    assert_eq!(
        allocator.plan(&key("a"), &any(&[80])).bindings,
        first.bindings
    );
}

#[test]
fn a_binding_that_leaves_is_taken_until_it_is_freed_and_comes_back_as_it_was() {
    let mut allocator = allocator(0);
    let wanted = Request {
        address: WantedAddress::Static(vec!["127.9.0.1".parse().unwrap()]),
        ports: [80].into(),
    };
    let first = allocator.plan(&key("a"), &wanted);
    allocator.release(&key("a"));
    assert_eq!(allocator.bindings(&key("a")), None);
    assert_eq!(allocator.plan(&key("b"), &wanted).refused.len(), 1);
    assert_eq!(allocator.plan(&key("a"), &wanted).bindings, first.bindings);
    allocator.release(&key("a"));
    assert!(allocator.freed(&key("a"), 80) && !allocator.freed(&key("a"), 80));
    assert!(allocator.plan(&key("b"), &wanted).refused.is_empty());
}

#[test]
fn a_target_port_that_cannot_be_bound_is_avoided() {
    let mut allocator = allocator(0);
    let first = allocator.plan(&key("a"), &any(&[80])).bindings[&80].clone();
    allocator.avoid_target(&key("a"), 80);
    let second = allocator.plan(&key("a"), &any(&[80])).bindings[&80].clone();
    assert_ne!(first.target_port, second.target_port);
    assert_eq!(first.addresses, second.addresses);
}

#[test]
fn in_a_cluster_there_are_target_ports_alone() {
    let mut allocator = Allocator::new(4, 2, Rules::Services);
    let wanted = Request {
        address: WantedAddress::Static(vec!["192.0.2.1".parse().unwrap()]),
        ports: [80, 443].into(),
    };
    for name in ["a", "b"] {
        let plan = allocator.plan(&key(name), &wanted);
        assert!(plan.refused.is_empty() && plan.placement.address.is_none());
        for (port, binding) in &plan.bindings {
            assert!(binding.addresses.is_empty());
            assert_eq!(binding.public_port, *port);
        }
    }
    assert!(!allocator.take_moved());
    // What was given an address from a range before gives it back.
    let mut before = self::allocator(1024);
    let binding = before.plan(&key("a"), &any(&[80])).bindings[&80].clone();
    let placement = before.placement(&key("a")).unwrap();
    assert_eq!(placement.address, Some(binding.addresses[0]));
    let facts = [
        Op::put(
            &FactKey::Placement(key("a")),
            &Fact::Placement(placement.clone()),
        ),
        Op::put(
            &FactKey::Binding(key("a"), 80),
            &Fact::Binding(binding.clone()),
        ),
    ];
    let mut allocator = Allocator::new(4, 2, Rules::Services);
    allocator.restore(&facts.iter().collect()).unwrap();
    let plan = allocator.plan(&key("a"), &any(&[80]));
    assert_eq!(plan.placement.address, None);
    assert_eq!(plan.placement.shards, placement.shards);
    assert_eq!(plan.bindings[&80].public_port, 80);
    assert_eq!(plan.bindings[&80].target_port, binding.target_port);
    assert!(plan.bindings[&80].addresses.is_empty());
}

proptest! {
    /// Whatever comes and goes: no clash, and what is held stays, also through the committed facts.
    #[test]
    fn allocations_never_clash_and_survive_a_restart(
        steps in proptest::collection::vec((0..12_usize, proptest::collection::btree_set(1..120_u16, 0..4)), 1..60)
    ) {
        let mut allocator = allocator(100);
        let mut wanted: BTreeMap<GatewayKey, Request> = BTreeMap::new();
        for (n, ports) in steps {
            let gateway = key(&n.to_string());
            if ports.is_empty() {
                let held: Vec<u16> = allocator.bindings(&gateway).into_iter().flat_map(BTreeMap::keys).copied().collect();
                allocator.release(&gateway);
                for port in held {
                    allocator.freed(&gateway, port);
                }
                wanted.remove(&gateway);
                continue;
            }
            let request = Request { address: WantedAddress::Any, ports };
            let before = allocator.bindings(&gateway).cloned().unwrap_or_default();
            let plan = allocator.plan(&gateway, &request);
            prop_assert!(plan.refused.is_empty());
            for (port, binding) in &plan.bindings {
                if let Some(old) = before.get(port) {
                    prop_assert_eq!(old.target_port, binding.target_port);
                    prop_assert_eq!(&old.addresses, &binding.addresses);
                }
            }
            for port in before.keys().filter(|port| !plan.bindings.contains_key(port)) {
                prop_assert!(allocator.freed(&gateway, *port));
            }
            wanted.insert(gateway, request);
        }
        let mut public = BTreeSet::new();
        let mut targets = BTreeSet::new();
        let mut facts = EntrySet::default();
        for gateway in wanted.keys() {
            let shards = allocator.shards(gateway).unwrap().to_vec();
            facts.apply(&Op::put(
                &FactKey::Placement(gateway.clone()),
                &Fact::Placement(allocator.placement(gateway).unwrap()),
            ));
            for (port, binding) in allocator.bindings(gateway).unwrap() {
                prop_assert!(public.insert((binding.addresses.clone(), binding.public_port)));
                for shard in &shards {
                    prop_assert!(targets.insert((*shard, binding.target_port)));
                }
                facts.apply(&Op::put(
                    &FactKey::Binding(gateway.clone(), *port),
                    &Fact::Binding(binding.clone()),
                ));
            }
        }
        let mut restarted = self::allocator(100);
        restarted.restore(&facts).unwrap();
        for (gateway, request) in &wanted {
            let plan = restarted.plan(gateway, request);
            prop_assert_eq!(Some(&plan.bindings), allocator.bindings(gateway));
        }
    }
}
