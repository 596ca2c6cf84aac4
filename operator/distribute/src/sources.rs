//! What the shards of every replica have said, and which replica speaks for each shard. [pure]
//!
//! A replica that leads is told what others' shards say. What was said is kept, so that a new leader, a new relay and an
//! entry that comes after what is said of it find it. A shard that moves from replica to replica is connected to both for a
//! moment: the one that it came to last speaks for it, and what the other says counts only if that one is lost.

use std::collections::BTreeMap;

use api::{GatewayKey, Revision, ShardId};

use crate::event::{Event, Refusal};

/// Where shards are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// To this replica.
    Here,
    /// To another, by its raft id.
    Replica(u64),
}

/// What is known of all shards. Bounded by the replicas, times what is placed.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pictures: BTreeMap<Source, Picture>,
    /// Where a shard is connected, the newest last.
    connected: BTreeMap<ShardId, Vec<Source>>,
}

/// What the shards of one replica have said on the streams that are open.
type Picture = BTreeMap<ShardId, BTreeMap<GatewayKey, Said>>;

/// The newest of each.
#[derive(Debug, Default, Clone)]
struct Said {
    prepared: Revision,
    acknowledged: Revision,
    refused: Option<Refusal>,
}

impl Sources {
    /// Takes what a source says; gives what the rollout is to be told of it.
    pub(crate) fn take(&mut self, source: Source, event: Event) -> Vec<Event> {
        match event {
            Event::Restarted => self.ended(source),
            Event::Connected(shard) => {
                let picture = self.pictures.entry(source).or_default();
                picture.insert(shard, BTreeMap::new());
                let sources = self.connected.entry(shard).or_default();
                sources.retain(|other| *other != source);
                sources.push(source);
                vec![Event::Connected(shard)]
            }
            Event::Disconnected(shard) => self.disconnected(source, shard),
            Event::Prepared(shard, ref gateway, revision) => {
                self.note(source, shard, gateway, |said| {
                    said.prepared = said.prepared.max(revision);
                    // What was tried again has worked.
                    said.refused.take_if(|refused| refused.revision <= revision);
                });
                self.speaks(source, shard, event)
            }
            Event::Acknowledged(shard, ref gateway, revision) => {
                self.note(source, shard, gateway, |said| {
                    said.acknowledged = said.acknowledged.max(revision);
                    said.refused.take_if(|refused| refused.revision <= revision);
                });
                self.speaks(source, shard, event)
            }
            Event::Refused(ref refusal) => {
                let shard = refusal.shard;
                self.note(source, shard, &refusal.gateway, |said| {
                    said.refused = Some(refusal.clone());
                });
                self.speaks(source, shard, event)
            }
            Event::Busy(shard, ..) => self.speaks(source, shard, event),
        }
    }

    /// Nothing is known of a source's shards any more.
    pub(crate) fn ended(&mut self, source: Source) -> Vec<Event> {
        let shards: Vec<ShardId> = self
            .pictures
            .get(&source)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .copied()
            .collect();
        let events = shards
            .into_iter()
            .flat_map(|shard| self.disconnected(source, shard))
            .collect();
        self.pictures.remove(&source);
        events
    }

    fn disconnected(&mut self, source: Source, shard: ShardId) -> Vec<Event> {
        if let Some(picture) = self.pictures.get_mut(&source) {
            picture.remove(&shard);
        }
        let Some(sources) = self.connected.get_mut(&shard) else {
            return Vec::new();
        };
        let spoke = sources.last() == Some(&source);
        sources.retain(|other| *other != source);
        let is_elsewhere = !sources.is_empty();
        if !is_elsewhere {
            self.connected.remove(&shard);
        }
        match (spoke, is_elsewhere) {
            (false, _) => Vec::new(),
            (true, false) => vec![Event::Disconnected(shard)],
            // The one that speaks from now on has said this.
            (true, true) => self.of_shard(shard),
        }
    }

    fn note(
        &mut self,
        source: Source,
        shard: ShardId,
        gateway: &GatewayKey,
        note: impl FnOnce(&mut Said),
    ) {
        let picture = self.pictures.get_mut(&source);
        if let Some(of_shard) = picture.and_then(|picture| picture.get_mut(&shard)) {
            match of_shard.get_mut(gateway) {
                Some(said) => note(said),
                None => note(of_shard.entry(gateway.clone()).or_default()),
            }
        }
    }

    fn speaks(&self, source: Source, shard: ShardId, event: Event) -> Vec<Event> {
        if self.speaker(shard) == Some(source) {
            vec![event]
        } else {
            Vec::new()
        }
    }

    fn speaker(&self, shard: ShardId) -> Option<Source> {
        self.connected.get(&shard)?.last().copied()
    }

    /// All that counts, for a leader that begins.
    pub(crate) fn all(&self) -> Vec<Event> {
        let shards = self.connected.keys();
        shards.flat_map(|shard| self.of_shard(*shard)).collect()
    }

    fn of_shard(&self, shard: ShardId) -> Vec<Event> {
        let source = self.speaker(shard);
        source.map_or_else(Vec::new, |source| self.said(source, shard))
    }

    /// All that the shards of one source have said, for who begins to listen.
    pub(crate) fn of(&self, source: Source) -> Vec<Event> {
        let shards = self.pictures.get(&source).into_iter();
        let shards = shards.flat_map(BTreeMap::keys);
        let said = shards.flat_map(|shard| self.said(source, *shard));
        [Event::Restarted].into_iter().chain(said).collect()
    }

    fn said(&self, source: Source, shard: ShardId) -> Vec<Event> {
        let Some(gateways) = self.pictures.get(&source).and_then(|of| of.get(&shard)) else {
            return Vec::new();
        };
        let said = gateways
            .iter()
            .flat_map(|(gateway, said)| said.events(shard, gateway, Revision(0)));
        [Event::Connected(shard)].into_iter().chain(said).collect()
    }

    /// What a shard has said of a Gateway's revisions from one on: an entry may come after it.
    pub(crate) fn said_of(
        &self,
        shard: ShardId,
        gateway: &GatewayKey,
        from: Revision,
    ) -> Vec<Event> {
        let source = self.speaker(shard);
        let picture = source.and_then(|source| self.pictures.get(&source));
        let said = picture.and_then(|picture| picture.get(&shard)?.get(gateway));
        said.map_or_else(Vec::new, |said| said.events(shard, gateway, from))
    }

    /// Forgets what was said of Gateways that a shard does not hold any more. Cost: O(all that was said).
    pub(crate) fn tidy(&mut self, holds: impl Fn(ShardId, &GatewayKey) -> bool) {
        for (shard, gateways) in self.pictures.values_mut().flatten() {
            gateways.retain(|gateway, _| holds(*shard, gateway));
        }
    }
}

impl Said {
    fn events(&self, shard: ShardId, gateway: &GatewayKey, from: Revision) -> Vec<Event> {
        let mut events = Vec::new();
        let counts = |revision: Revision| revision > Revision(0) && revision >= from;
        if counts(self.acknowledged) {
            events.push(Event::Acknowledged(
                shard,
                gateway.clone(),
                self.acknowledged,
            ));
        }
        if counts(self.prepared) && self.prepared > self.acknowledged {
            events.push(Event::Prepared(shard, gateway.clone(), self.prepared));
        }
        let refused = self.refused.iter().filter(|of| counts(of.revision));
        events.extend(refused.cloned().map(Event::Refused));
        events
    }
}

#[cfg(test)]
mod tests;
