//! Random histories, told late or at once, against a shard written from the protocol's text.

use api_snapshot::EntrySet;
use proptest::prelude::*;

use super::*;

/// A shard: what it holds by the messages alone.
#[derive(Default)]
struct Model {
    facts: EntrySet,
    facts_revision: u64,
    gateways: BTreeMap<GatewayKey, Held>,
    /// What it asks for anew.
    asks: Vec<Option<GatewayKey>>,
    epoch: u64,
}

#[derive(Default, Clone)]
struct Held {
    active: (u64, EntrySet),
    next: Vec<(u64, EntrySet, bool)>,
}

impl Held {
    fn top(&self) -> (u64, EntrySet) {
        let next = self.next.last();
        next.map_or_else(|| self.active.clone(), |(at, set, _)| (*at, set.clone()))
    }
}

impl Model {
    fn take(&mut self, message: Message) -> Result<(), TestCaseError> {
        match message {
            Message::Welcome(m) => self.epoch = m.epoch,
            Message::Facts(m) => {
                if m.replace {
                    self.facts = EntrySet::default();
                } else {
                    prop_assert_eq!(m.base, self.facts_revision, "a gap in the facts");
                }
                for op in api_wire::ops_from_wire(m.ops) {
                    self.facts.apply(&op);
                }
                self.facts_revision = m.revision;
                prop_assert_eq!(&m.hash[..], &self.facts.hash().to_bytes()[..]);
            }
            Message::Prepare(m) => {
                let gateway = gateway_key(m.gateway).unwrap();
                let held = self.gateways.entry(gateway.clone()).or_default();
                if m.replace {
                    held.next.clear();
                }
                let (at, mut entries) = held.top();
                if !m.replace && m.revision <= at {
                    return Ok(());
                }
                prop_assert!(
                    m.replace || m.base == at,
                    "a gap in {}: {} builds on {}, held is {at}",
                    gateway,
                    m.revision,
                    m.base
                );
                if m.replace || m.removed {
                    entries = EntrySet::default();
                }
                for op in api_wire::ops_from_wire(m.ops) {
                    entries.apply(&op);
                }
                prop_assert_eq!(&m.hash[..], &entries.hash().to_bytes()[..]);
                for (key, value) in entries.iter() {
                    let op = Op {
                        key: key.to_vec(),
                        value: Some(value.to_vec()),
                    };
                    for fact in crate::interest::references(&gateway, &op) {
                        prop_assert!(
                            self.facts.value(&fact).is_some(),
                            "a fact that it needs is not there"
                        );
                    }
                }
                held.next.push((m.revision, entries, m.removed));
            }
            Message::Activate(m) => {
                let gateway = gateway_key(m.gateway).unwrap();
                let held = self.gateways.entry(gateway.clone()).or_default();
                let at = held.next.iter().position(|(at, ..)| *at == m.revision);
                let Some(at) = at else {
                    if held.active.0 < m.revision {
                        self.asks.push(Some(gateway));
                    }
                    return Ok(());
                };
                let (at, entries, removed) = held.next.drain(..=at).next_back().unwrap();
                held.active = (at, entries);
                if removed && held.next.is_empty() {
                    self.gateways.remove(&gateway);
                }
            }
            Message::Drop(m) => {
                self.gateways.remove(&gateway_key(m.gateway).unwrap());
            }
            Message::Synced(_) => {}
        }
        Ok(())
    }

    fn hello(&mut self) -> delivery::Hello {
        for held in self.gateways.values_mut() {
            held.next.clear();
        }
        self.gateways.retain(|_, held| held.active.0 > 0);
        let gateways = self.gateways.iter();
        delivery::Hello {
            epoch: self.epoch,
            facts_revision: self.facts_revision,
            facts_hash: self.facts.hash().to_bytes().to_vec(),
            gateways: gateways
                .map(|(key, held)| delivery::Held {
                    gateway: Some(key.into()),
                    active: held.active.0,
                    active_hash: held.active.1.hash().to_bytes().to_vec(),
                })
                .collect(),
            ..delivery::Hello::default()
        }
    }
}

fn gateway(n: u8) -> GatewayKey {
    GatewayKey::new("team-a", &format!("g{n}"))
}

/// Both shards read what came and ask for what they lack.
fn read(
    replica: &mut Replica,
    shards: &mut [(Model, Option<Shard>); 2],
) -> Result<(), TestCaseError> {
    for _ in 0..8 {
        for (n, (model, stream)) in (0..).zip(shards.iter_mut()) {
            let received = stream.as_mut().map(Shard::received);
            for message in received.into_iter().flatten() {
                model.take(message)?;
            }
            for ask in std::mem::take(&mut model.asks) {
                replica.now += MS * 60_000;
                let held = ask.as_ref().and_then(|ask| model.gateways.get_mut(ask));
                let active = held.map_or(0, |held| {
                    held.next.clear();
                    held.active.0
                });
                replica.resync_at(ShardId(n), ask.as_ref(), active);
            }
        }
    }
    Ok(())
}

proptest! {
    /// Whatever happens in whatever order: no gap, no wrong hash, no entry before its facts; and in the end each shard
    /// holds what is placed on it as it is committed, with the facts that this refers to and no other.
    #[test]
    fn shards_hold_what_is_placed_on_them(
        steps in proptest::collection::vec((0..12_u8, 0..3_u8, 0..4_u16, 0..4_u8, any::<bool>()), 1..90),
    ) {
        let mut replica = Replica::new();
        let mut shards = [(); 2].map(|()| (Model::default(), None));
        let backends = (0..4).map(|n| backend(&format!("b{n}"))).collect();
        replica.commit(backends, &gateway(0), Vec::new());
        for (action, n, index, value, tell) in steps {
            replica.now += MS;
            let key = gateway(n);
            let chain = replica.snapshot.read().gateway(&key).cloned();
            match action {
                0..=3 => {
                    replica.commit(Vec::new(), &key, vec![rule(index, &format!("b{value}"))]);
                }
                4 => {
                    let facts = vec![binding(&key, 8000 + index)];
                    let name = format!("l{index}");
                    replica.commit(facts, &key, vec![listener(&name, 8000 + index)]);
                }
                5 => {
                    let placed = [&[][..], &[0], &[1], &[0, 1]][usize::from(value)];
                    let other = match placed {
                        [0] => &[1][..],
                        [1] => &[0],
                        _ => &[],
                    };
                    let (joining, leaving) = [(&[][..], &[][..]), (other, &[]), (&[], other)]
                        [usize::from(index % 3)];
                    let placed = super::moving(&key, placed, joining, leaving);
                    replica.commit(vec![placed], &key, Vec::new());
                }
                6 if chain.as_ref().is_some_and(|chain| !chain.removed_at_tip()) => {
                    replica.remove(&key);
                }
                7..=9 => {
                    let pending = chain.map(|chain| chain.pending().to_vec()).unwrap_or_default();
                    if let Some(at) = pending.get(usize::from(value) % pending.len().max(1)) {
                        replica.activate(&key, at.revision);
                    }
                }
                10 => {
                    let (model, stream) = &mut shards[usize::from(value % 2)];
                    let hello = model.hello();
                    *stream = Some(replica.connect(ShardId(u32::from(value % 2)), hello).0);
                }
                _ => {
                    let shard = ShardId(u32::from(value % 2));
                    let whole = (index > 0).then_some(&key);
                    replica.now += MS * 60_000;
                    let held = whole.and_then(|whole| shards[shard.0 as usize].0.gateways.get(whole));
                    let active = held.map_or(0, |held| held.active.0);
                    replica.resync_at(shard, whole, active);
                }
            }
            if tell {
                replica.tell();
                read(&mut replica, &mut shards)?;
            }
            // Entries that are told this late are taken for missed.
            for (n, (_, stream)) in (0..).zip(&mut shards) {
                stream.take_if(|_| !replica.streams.is_open(ShardId(n), 1));
            }
        }
        for n in 0..2_u32 {
            let (model, stream) = &mut shards[n as usize];
            if stream.is_none() {
                *stream = Some(replica.connect(ShardId(n), model.hello()).0);
            }
        }
        replica.tell();
        read(&mut replica, &mut shards)?;
        let snapshot = replica.snapshot.read();
        for (n, (model, _)) in (0..).zip(&shards) {
            let shard = ShardId(n);
            let needed: BTreeSet<&FactBytes> = replica.streams.interest.facts_of(shard).collect();
            let held: BTreeSet<Vec<u8>> = model.facts.iter().map(|(key, _)| key.to_vec()).collect();
            prop_assert_eq!(held.iter().collect::<BTreeSet<_>>(), needed);
            for (key, value) in model.facts.iter() {
                prop_assert_eq!(snapshot.facts().value(key), Some(value));
            }
            for gateway in model.gateways.keys() {
                prop_assert!(replica.streams.interest.shards_of(gateway).contains(&shard));
            }
            for (gateway, chain) in snapshot.gateways() {
                if replica.streams.interest.shards_of(gateway).contains(&shard) {
                    let held = model.gateways.get(gateway).cloned().unwrap_or_default();
                    prop_assert_eq!(held.active.0, chain.active().0);
                    prop_assert_eq!(&held.active.1, chain.entries());
                    prop_assert_eq!(held.top(), (chain.tip().0, chain.tip_entries()));
                }
            }
        }
    }
}
