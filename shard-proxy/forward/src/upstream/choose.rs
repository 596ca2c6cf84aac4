//! The endpoints of a backend as requests see them, and which of them a request goes to.

use std::sync::Arc;

use api_snapshot::facts::Endpoint as EndpointFact;

use super::{Endpoint, InFlight};

/// Where this shard runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) zone: Option<String>,
    pub(super) node: Option<String>,
}

/// The endpoints of a backend; swapped whole.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// Those that take new requests: the ready ones; without any, those that terminate and serve to their end; without
    /// any, all. Source: kube-proxy, KEP-1669.
    usable: Vec<Arc<Endpoint>>,
    /// Parts of the usable ones that this shard is to prefer, the nearest first.
    near: Vec<Vec<Arc<Endpoint>>>,
    /// All, so that those that stay are taken over by the next update, and whether they are ready.
    pub(super) all: Vec<(Arc<Endpoint>, bool)>,
}

impl Endpoints {
    pub(super) fn new(facts: &[EndpointFact], all: Vec<Arc<Endpoint>>, place: &Place) -> Self {
        let both: Vec<_> = facts.iter().zip(&all).collect();
        let tier = |takes: fn(&EndpointFact) -> bool| {
            let mut tier = both.clone();
            tier.retain(|(fact, _)| takes(fact));
            (!tier.is_empty()).then_some(tier)
        };
        let usable = tier(|fact| fact.ready)
            .or_else(|| tier(|fact| fact.terminating))
            .unwrap_or_else(|| both.clone());
        let of_node = preferring(&usable, place.node.as_deref(), |fact| &fact.for_nodes);
        let of_zone = preferring(&usable, place.zone.as_deref(), |fact| &fact.for_zones);
        let near = [of_node, of_zone];
        Self {
            usable: usable.iter().map(|(_, of)| Arc::clone(of)).collect(),
            near: near.into_iter().flatten().collect(),
            all: facts
                .iter()
                .map(|fact| fact.ready)
                .zip(all)
                .map(|(ready, endpoint)| (endpoint, ready))
                .collect(),
        }
    }

    /// Chooses the less loaded of two random endpoints (power of two choices, least request); none when all were tried.
    ///
    /// Those in `tried` are never chosen again. Near ones come first, as long as one of them is not ejected; then any. When
    /// all that were not tried are ejected, they count as any other.
    ///
    /// Cost: O(1), unless both of the two are not to be had: then O(endpoints).
    pub(super) fn choose(&self, random: u64, tried: &[u64]) -> Option<InFlight> {
        for near in &self.near {
            if let Some(taken) = two_choices(near, random, tried)
                .or_else(|| least(near, random, tried, |endpoint| !endpoint.is_ejected()))
            {
                return Some(taken);
            }
        }
        two_choices(&self.usable, random, tried)
            .or_else(|| least(&self.usable, random, tried, |_| true))
    }

    /// Whether one more of them may be ejected for the answers that it does not give: half of them at most, never the last.
    /// What is counted may change meanwhile; by one or two more, when several workers find out at once.
    pub(super) fn may_eject(&self) -> bool {
        let troubled = self.usable.iter().filter(|of| of.is_troubled()).count();
        (troubled + 1) * 2 <= self.usable.len()
    }

    pub(super) fn find(&self, id: u64) -> Option<&Arc<Endpoint>> {
        let mut all = self.all.iter().map(|(endpoint, _)| endpoint);
        all.find(|endpoint| endpoint.id == id)
    }

    pub(super) fn in_flight(&self) -> u32 {
        let loads = self.all.iter().map(|(endpoint, _)| endpoint.load());
        loads.fold(0, u32::saturating_add)
    }
}

/// Those that name `place`, if all name some: while hints come one by one, the first would get all the requests (as
/// kube-proxy has it). None when there is no difference.
fn preferring(
    usable: &[(&EndpointFact, &Arc<Endpoint>)],
    place: Option<&str>,
    hints: fn(&EndpointFact) -> &Vec<String>,
) -> Option<Vec<Arc<Endpoint>>> {
    let place = place?;
    if usable.iter().any(|(fact, _)| hints(fact).is_empty()) {
        return None;
    }
    let named = |fact: &EndpointFact| hints(fact).iter().any(|hint| hint == place);
    let near = usable.iter().filter(|(fact, _)| named(fact));
    let near: Vec<_> = near.map(|(_, endpoint)| Arc::clone(endpoint)).collect();
    (!near.is_empty() && near.len() < usable.len()).then_some(near)
}

fn two_choices(usable: &[Arc<Endpoint>], random: u64, tried: &[u64]) -> Option<InFlight> {
    let good = |endpoint: &Endpoint| !tried.contains(&endpoint.id) && !endpoint.is_ejected();
    let count = usable.len() as u64;
    if count == 0 {
        return None;
    }
    let first = (random >> 32) % count;
    let a = &usable[first as usize];
    if count == 1 {
        return good(a).then(|| a.take()).flatten();
    }
    // Any other than the first, evenly.
    let second = (first + 1 + (random & 0xffff_ffff) % (count - 1)) % count;
    let b = &usable[second as usize];
    let chosen = match (good(a), good(b)) {
        (true, true) => {
            if b.load() < a.load() {
                b
            } else {
                a
            }
        }
        (true, false) => a,
        (false, true) => b,
        (false, false) => return None,
    };
    chosen.take()
}

/// The least loaded of those not tried that are `wanted`, from a random one on, so that equal ones share what comes; those
/// that are not ejected first.
fn least(
    usable: &[Arc<Endpoint>],
    random: u64,
    tried: &[u64],
    wanted: fn(&Endpoint) -> bool,
) -> Option<InFlight> {
    if usable.is_empty() {
        return None;
    }
    let first = (random >> 32) % usable.len() as u64;
    let (before, after) = usable.split_at(first as usize);
    let best = || {
        after
            .iter()
            .chain(before)
            .filter(|endpoint| !tried.contains(&endpoint.id) && wanted(endpoint))
            .min_by_key(|endpoint| (endpoint.is_ejected(), endpoint.load()))
    };
    // One that another request has begun to probe meanwhile is as ejected the second time.
    best()?.take().or_else(|| best()?.take())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
    use std::collections::BTreeSet;

    use api_snapshot::facts::{BackendProtocol, EndpointAddress};

    use super::*;

    fn fact(port: u16) -> EndpointFact {
        EndpointFact::new(EndpointAddress::Ip("127.0.0.1".parse().unwrap()), port)
    }

    fn for_zone(port: u16, zone: &str) -> EndpointFact {
        EndpointFact {
            for_zones: vec![zone.into()],
            ..fact(port)
        }
    }

    fn endpoints(facts: &[EndpointFact], place: &Place) -> Endpoints {
        let all = facts.iter().zip(0..).map(|(fact, id)| {
            let (address, port) = (fact.address.clone(), fact.port);
            Endpoint::new(id, address, port, BackendProtocol::Http1, Arc::default())
        });
        Endpoints::new(facts, all.collect(), place)
    }

    fn numbers() -> impl Iterator<Item = u64> {
        (0..1000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Ports that any number chooses.
    fn chosen(endpoints: &Endpoints, tried: &[u64]) -> BTreeSet<u16> {
        numbers()
            .filter_map(|random| endpoints.choose(random, tried))
            .map(|taken| taken.endpoint.port)
            .collect()
    }

    #[test]
    fn the_one_endpoint_that_is_left_is_found_whatever_the_random_number() {
        let facts: Vec<_> = (0..10).map(fact).collect();
        let endpoints = endpoints(&facts, &Place::default());
        let good = Arc::clone(endpoints.find(7).unwrap());
        for (bad, _) in endpoints.all.iter().filter(|(of, _)| of.id != good.id) {
            bad.connect_failed(false);
        }
        assert_eq!(chosen(&endpoints, &[]), [7].into());
        // It was tried: any other may be back.
        let others = (0..10).filter(|port| *port != 7).collect();
        assert_eq!(chosen(&endpoints, &[7]), others);
        // All failed: none is passed over, and each gets a share.
        good.connect_failed(false);
        assert_eq!(chosen(&endpoints, &[]).len(), 10);
        let tried: Vec<u64> = (0..10).collect();
        assert!(endpoints.choose(1, &tried).is_none());
        // One is back.
        endpoints.find(3).unwrap().connected();
        assert_eq!(chosen(&endpoints, &[]), [3].into());
        // The time of another has run out: one request finds out, the others go where it is known to be well.
        let due = endpoints.find(5).unwrap();
        due.let_time_pass();
        let taken: Vec<_> = numbers().filter_map(|n| endpoints.choose(n, &[])).collect();
        assert_eq!(taken.len(), 1000);
        let probes = taken.iter().filter(|taken| taken.probe);
        assert_eq!(
            probes.map(|taken| taken.endpoint.id).collect::<Vec<_>>(),
            [5]
        );
    }

    #[test]
    fn without_a_ready_endpoint_those_that_terminate_serve_and_without_these_all() {
        let terminating = |port| EndpointFact {
            ready: false,
            terminating: true,
            ..fact(port)
        };
        let serving = |port| EndpointFact {
            ready: false,
            ..fact(port)
        };
        // With publishNotReadyAddresses one that terminates is ready.
        let published = |port| EndpointFact {
            terminating: true,
            ..fact(port)
        };
        for (facts, expected) in [
            (
                vec![fact(1), terminating(2), serving(3), published(4)],
                vec![1, 4],
            ),
            (vec![terminating(2), serving(3), terminating(4)], vec![2, 4]),
            (vec![serving(3), serving(4)], vec![3, 4]),
            (vec![], vec![]),
        ] {
            let endpoints = endpoints(&facts, &Place::default());
            assert_eq!(chosen(&endpoints, &[]), expected.into_iter().collect());
        }
    }

    #[test]
    fn the_nearest_endpoint_that_is_not_ejected_serves() {
        let place = Place {
            zone: Some("a".into()),
            node: Some("n1".into()),
        };
        let on_node = |port, zone, node: &str| EndpointFact {
            for_nodes: vec![node.into()],
            ..for_zone(port, zone)
        };
        let facts = [
            on_node(1, "a", "n1"),
            on_node(2, "a", "n2"),
            on_node(3, "b", "n3"),
        ];
        let endpoints = endpoints(&facts, &place);
        for (id, expected) in [(0, 1), (1, 2), (2, 3)] {
            assert_eq!(chosen(&endpoints, &[]), [expected].into());
            endpoints.find(id).unwrap().connect_failed(false);
        }
        assert_eq!(chosen(&endpoints, &[]).len(), 3);
        endpoints.find(0).unwrap().connected();
        // It could not be connected to a moment ago: the next nearest.
        endpoints.find(1).unwrap().connected();
        assert_eq!(chosen(&endpoints, &[]), [1].into());
        assert_eq!(chosen(&endpoints, &[0]), [2].into());
    }

    #[test]
    fn hints_hold_when_all_that_take_requests_have_some_and_one_is_for_here() {
        let place = |zone: Option<&str>| Place {
            zone: zone.map(str::to_owned),
            node: None,
        };
        let not_ready = EndpointFact {
            ready: false,
            ..fact(9)
        };
        let facts = [
            for_zone(1, "a"),
            for_zone(2, "b"),
            for_zone(3, "b"),
            not_ready,
        ];
        let with_plain = [for_zone(1, "a"), for_zone(2, "b"), fact(3)];
        for (facts, zone, expected) in [
            (&facts[..], Some("a"), vec![1]),
            (&facts, Some("b"), vec![2, 3]),
            (&facts, Some("c"), vec![1, 2, 3]),
            (&facts, None, vec![1, 2, 3]),
            (&with_plain, Some("a"), vec![1, 2, 3]),
        ] {
            let endpoints = endpoints(facts, &place(zone));
            let expected = expected.into_iter().collect();
            assert_eq!(chosen(&endpoints, &[]), expected, "{zone:?}");
        }
    }

    #[test]
    fn at_most_half_are_ejected_for_answers_that_do_not_come_and_never_the_last() {
        for (count, expected) in [(1, 0), (2, 1), (3, 1), (10, 5)] {
            let facts: Vec<_> = (0..count).map(fact).collect();
            let endpoints = endpoints(&facts, &Place::default());
            for (endpoint, _) in &endpoints.all {
                for _ in 0..20 {
                    endpoint.unanswered(false, || endpoints.may_eject());
                }
            }
            let ejected = endpoints.all.iter().filter(|(of, _)| of.is_ejected());
            assert_eq!(ejected.count(), expected, "of {count}");
        }
    }
}
