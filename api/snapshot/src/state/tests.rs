#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;

use api::{BackendKey, GatewayKey, Revision};
use proptest::prelude::*;

use crate::facts::{Backend, BackendProtocol};
use crate::{
    Activation, Applied, Command, Delta, EntrySet, Epoch, Fact, FactKey, FactsDelta, GatewayDelta,
    Op, Origin, PENDING_MAX, RoutingSnapshot, SetHash, diff,
};

fn gateway(n: u8) -> GatewayKey {
    GatewayKey::new("team", &format!("g{n}"))
}

fn op(key: u8, value: Option<u8>) -> Op {
    Op {
        key: vec![key],
        value: value.map(|v| vec![v]),
    }
}

/// A commit of `ops` on top of whatever the Gateway's tip is.
fn commit(state: &RoutingSnapshot, n: u8, ops: Vec<Op>) -> Command {
    let chain = state.gateway(&gateway(n)).cloned().unwrap_or_default();
    Command::Commit(Delta {
        facts: FactsDelta::default(),
        gateways: vec![GatewayDelta {
            gateway: gateway(n),
            base: chain.tip(),
            hash: chain.tip_hash_after(&ops),
            ops,
            removed: false,
        }],
        origin: Origin::default(),
    })
}

fn remove(state: &RoutingSnapshot, n: u8) -> Command {
    let base = state.gateway(&gateway(n)).unwrap().tip();
    Command::Commit(Delta {
        gateways: vec![GatewayDelta {
            gateway: gateway(n),
            base,
            ops: Vec::new(),
            hash: SetHash::default(),
            removed: true,
        }],
        ..Delta::default()
    })
}

fn activation(revision: u64, gone: bool) -> Activation {
    Activation {
        gateway: gateway(1),
        revision: Revision(revision),
        gone,
        traceparent: String::new(),
    }
}

#[test]
fn a_committed_delta_serves_only_once_it_is_activated() {
    let mut state = RoutingSnapshot::default();
    let command = commit(&state, 1, vec![op(1, Some(1))]);
    state.apply(Revision(5), command);
    let chain = state.gateway(&gateway(1)).unwrap();
    assert_eq!((chain.active(), chain.tip()), (Revision(0), Revision(5)));
    assert!(chain.entries().is_empty());
    assert_eq!(chain.tip_value(&[1]), Some(&[1][..]));

    let applied = state.apply(
        Revision(6),
        Command::Activate(vec![(gateway(1), Revision(5))]),
    );
    assert_eq!(
        applied,
        Applied::Activated {
            gateways: vec![activation(5, false)]
        }
    );
    assert_eq!(state.gateway(&gateway(1)).unwrap().entries().len(), 1);
}

#[test]
fn a_delta_on_a_stale_base_changes_nothing() {
    let mut state = RoutingSnapshot::default();
    let first = commit(&state, 1, vec![op(1, Some(1))]);
    let rival = commit(&state, 1, vec![op(1, Some(2))]);
    state.apply(Revision(1), first);
    let before = state.clone();
    let applied = state.apply(Revision(2), rival);
    assert!(matches!(
        applied,
        Applied::Rejected {
            base: Revision(0),
            tip: Revision(1),
            ..
        }
    ));
    assert_eq!(state.gateway(&gateway(1)), before.gateway(&gateway(1)));
}

#[test]
fn a_gateway_removed_and_created_anew_before_activation_serves_the_new_entries_alone() {
    let mut state = RoutingSnapshot::default();
    let command = commit(&state, 1, vec![op(1, Some(1)), op(2, Some(2))]);
    state.apply(Revision(1), command);
    state.apply(
        Revision(2),
        Command::Activate(vec![(gateway(1), Revision(1))]),
    );
    let command = remove(&state, 1);
    state.apply(Revision(3), command);
    assert_eq!(state.gateway(&gateway(1)).unwrap().tip_value(&[1]), None);
    let command = commit(&state, 1, vec![op(2, Some(9))]);
    state.apply(Revision(4), command);
    state.apply(
        Revision(5),
        Command::Activate(vec![(gateway(1), Revision(4))]),
    );
    let entries = state.gateway(&gateway(1)).unwrap().entries();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries.value(&[2]).unwrap()[..], [9]);
}

#[test]
fn an_activated_removal_leaves_nothing() {
    let mut state = RoutingSnapshot::default();
    let empty = state.root_hash();
    let command = commit(&state, 1, vec![op(1, Some(1))]);
    state.apply(Revision(1), command);
    state.apply(
        Revision(2),
        Command::Activate(vec![(gateway(1), Revision(1))]),
    );
    let command = remove(&state, 1);
    state.apply(Revision(3), command);
    let applied = state.apply(
        Revision(4),
        Command::Activate(vec![(gateway(1), Revision(3))]),
    );
    assert_eq!(
        applied,
        Applied::Activated {
            gateways: vec![activation(3, true)]
        }
    );
    assert!(state.gateway(&gateway(1)).is_none());
    assert_eq!(state.root_hash(), empty);
}

#[test]
#[should_panic(expected = "leads to another hash")]
fn a_delta_whose_hash_is_wrong_stops_the_replica() {
    let mut state = RoutingSnapshot::default();
    let Command::Commit(mut delta) = commit(&state, 1, vec![op(1, Some(1))]) else {
        unreachable!("commit builds a commit")
    };
    delta.gateways[0].hash = SetHash::default();
    state.apply(Revision(1), Command::Commit(delta));
}

#[test]
fn the_first_epoch_counts_and_is_stored() {
    let mut state = RoutingSnapshot::default();
    assert_eq!(state.epoch(), Epoch::NONE);
    let begun = state.apply(Revision(1), Command::Begin(Epoch(7)));
    assert_eq!(begun, Applied::Begun { epoch: Epoch(7) });
    let begun = state.apply(Revision(2), Command::Begin(Epoch(8)));
    assert_eq!(begun, Applied::Begun { epoch: Epoch(7) });
    let restored = RoutingSnapshot::restore(&state.to_bytes()).unwrap();
    assert_eq!(restored, state);
}

#[test]
fn deltas_that_wait_for_ever_become_one() {
    let mut state = RoutingSnapshot::default();
    let command = commit(&state, 1, vec![op(1, Some(1)), op(2, Some(2))]);
    state.apply(Revision(1), command);
    state.apply(
        Revision(2),
        Command::Activate(vec![(gateway(1), Revision(1))]),
    );
    let mut revision = 2;
    for round in 0..1000_u64 {
        revision += 1;
        let command = if round % 100 == 7 {
            remove(&state, 1)
        } else {
            commit(
                &state,
                1,
                vec![op((round % 5) as u8, Some((round % 200) as u8))],
            )
        };
        state.apply(Revision(revision), command);
        assert!(state.gateway(&gateway(1)).unwrap().pending().len() <= PENDING_MAX);
    }
    let chain = state.gateway(&gateway(1)).unwrap();
    let (tip, hash) = (chain.tip_entries(), chain.tip_hash());
    assert_eq!(chain.pending()[0].delta.base, Revision(1));
    // Of what became part of another delta, an activation changes nothing.
    let applied = state.apply(
        Revision(revision + 1),
        Command::Activate(vec![(gateway(1), Revision(3))]),
    );
    assert_eq!(applied, Applied::Activated { gateways: vec![] });
    state.apply(
        Revision(revision + 2),
        Command::Activate(vec![(gateway(1), Revision(revision))]),
    );
    let chain = state.gateway(&gateway(1)).unwrap();
    assert_eq!((chain.entries(), chain.entries().hash()), (&tip, hash));
}

#[test]
fn what_is_activated_names_its_trace() {
    let mut state = RoutingSnapshot::default();
    let Command::Commit(mut delta) = commit(&state, 1, vec![op(1, Some(1))]) else {
        unreachable!("commit builds a commit")
    };
    delta.origin.traceparent = "00-of-the-change".into();
    delta.origin.seen_at_us = 17;
    state.apply(Revision(1), Command::Commit(delta));
    let restored = RoutingSnapshot::restore(&state.to_bytes()).unwrap();
    let pending = &restored.gateway(&gateway(1)).unwrap().pending()[0];
    assert_eq!(pending.seen_at_us, 17);
    let Applied::Activated { gateways } = state.apply(
        Revision(2),
        Command::Activate(vec![(gateway(1), Revision(1))]),
    ) else {
        unreachable!("activate activates")
    };
    assert_eq!(gateways[0].traceparent, "00-of-the-change");
}

#[test]
fn keys_and_values_of_an_older_version_decode() {
    // Written by hand: [variant 0, [["team", "web", 80]]]; the encoding must not change.
    let key = FactKey::Backend(BackendKey::new("team", "web", 80));
    let bytes = crate::encode(&key);
    assert_eq!(bytes, b"\x82\x00\x81\x83\x64team\x63web\x18\x50");
    let fact = Fact::Backend(Backend {
        protocol: BackendProtocol::Http1,
        endpoints: Vec::new(),
    });
    assert_eq!(crate::encode(&fact), b"\x82\x00\x81\x82\x00\x80");
    assert_eq!(crate::decode::<FactKey>("key", &bytes).unwrap(), key);
}

fn entries() -> impl Strategy<Value = BTreeMap<u8, u8>> {
    proptest::collection::btree_map(0..24_u8, 0..4_u8, 0..16)
}

fn set(entries: &BTreeMap<u8, u8>) -> EntrySet {
    let ops: Vec<Op> = entries.iter().map(|(k, v)| op(*k, Some(*v))).collect();
    ops.iter().collect()
}

proptest! {
    #[test]
    fn applying_the_difference_gives_the_new_set_with_its_hash(old in entries(), new in entries()) {
        let (old, new) = (set(&old), set(&new));
        let ops = diff(&old, &new);
        prop_assert_eq!(old.hash_after(&ops), new.hash());
        let mut applied = old.clone();
        for op in &ops {
            applied.apply(op);
        }
        prop_assert_eq!(&applied, &new);
        prop_assert_eq!(diff(&applied, &new), Vec::<Op>::new());
    }

    /// Random commits, activations (some of revisions that never were) and removals on a few Gateways, against a
    /// naive model; a replica restored from a snapshot in the middle ends in the same state.
    #[test]
    fn replicas_agree_whatever_the_path(
        steps in proptest::collection::vec((0..3_u8, 0..8_u8, 0..6_u8, proptest::option::of(0..4_u8)), 1..80),
        restart in 0..80_usize,
    ) {
        let mut state = RoutingSnapshot::default();
        let mut other = RoutingSnapshot::default();
        let mut active: BTreeMap<u8, BTreeMap<u8, u8>> = BTreeMap::new();
        let mut tip: BTreeMap<u8, BTreeMap<u8, u8>> = BTreeMap::new();
        for (index, (n, action, key, value)) in steps.into_iter().enumerate() {
            let revision = Revision(index as u64 + 1);
            let command = match action {
                0..=4 => {
                    let entries = tip.entry(n).or_default();
                    match value {
                        Some(value) => entries.insert(key, value),
                        None => entries.remove(&key),
                    };
                    commit(&state, n, vec![op(key, value)])
                }
                5 if state.gateway(&gateway(n)).is_some() => {
                    tip.remove(&n);
                    remove(&state, n)
                }
                _ => {
                    match tip.get(&n) {
                        Some(entries) => active.insert(n, entries.clone()),
                        None => active.remove(&n),
                    };
                    Command::Activate(vec![(gateway(n), revision)])
                }
            };
            let bytes = command.to_bytes();
            state.apply(revision, Command::from_bytes(&bytes).unwrap());
            other.apply(revision, Command::from_bytes(&bytes).unwrap());
            if index == restart {
                other = RoutingSnapshot::restore(&other.to_bytes()).unwrap();
            }
            prop_assert_eq!(&state, &other);
            for n in 0..3 {
                let chain = state.gateway(&gateway(n)).cloned().unwrap_or_default();
                prop_assert_eq!(chain.entries(), &set(active.get(&n).unwrap_or(&BTreeMap::new())));
                prop_assert_eq!(chain.tip_entries(), set(tip.get(&n).unwrap_or(&BTreeMap::new())));
                prop_assert_eq!(chain.tip_entries().hash(), chain.tip_hash());
            }
        }
    }

    #[test]
    fn a_damaged_snapshot_is_refused_or_equal(at in 0..400_usize, bit in 0..8_u8) {
        let mut state = RoutingSnapshot::default();
        for n in 0..3 {
            let command = commit(&state, n, vec![op(n, Some(n)), op(7, Some(7))]);
            state.apply(Revision(u64::from(n) + 1), command);
        }
        state.apply(Revision(9), Command::Activate(vec![(gateway(0), Revision(1)), (gateway(1), Revision(2))]));
        let mut bytes = state.to_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        // The store's checksum finds every such damage; here it must at least never panic.
        let _ = RoutingSnapshot::restore(&bytes);
    }
}
