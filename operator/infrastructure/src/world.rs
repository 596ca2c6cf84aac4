//! What Gateways need and what there is, and from both what is to be written.

use std::collections::{BTreeMap, BTreeSet};

use api::{GatewayKey, PoolKey, ShardId};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;

use crate::address::{assigned, problem};
use crate::difference::differs;
use crate::known::{Known, Object, Place};
use crate::name::service_name;
use crate::needs::{GatewayNeeds, Observed, Problem, ShardPod};
use crate::service::{families, immutable, service};
use crate::slices::{SERVICE_NAME, endpoint_slices};

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Write {
    /// A Service, over the one with this uid, or a new one.
    Service(Box<Service>, Option<String>),
    /// An EndpointSlice, over the one with this uid, or a new one.
    Slice(Box<EndpointSlice>, Option<String>),
    /// This Service goes.
    DeleteService(Place, String),
    /// This EndpointSlice goes.
    DeleteSlice(Place, String),
}

/// A Service is the place of all that is made for one Gateway.
pub(crate) struct World {
    pool: PoolKey,
    gateways: BTreeMap<Place, GatewayNeeds>,
    /// Of Gateways that are gone, and whose objects may go.
    gone: BTreeSet<Place>,
    /// Of Gateways that keep their Service, and are led nowhere.
    kept: BTreeMap<Place, GatewayKey>,
    /// What is known of Gateways is all there is.
    is_complete: bool,
    services: Known<Service>,
    slices: Known<EndpointSlice>,
    /// Slices by Service.
    slices_of: BTreeMap<Place, BTreeSet<Place>>,
    pods: Known<Pod>,
    shards: BTreeMap<ShardId, ShardPod>,
    on_shard: BTreeMap<ShardId, BTreeSet<Place>>,
    /// Zones of nodes; none while they are asked for, or where they have none.
    zones: BTreeMap<String, Option<String>>,
    /// Why the last write of a Gateway's was refused.
    refused: BTreeMap<Place, Problem>,
}

impl World {
    /// Watches see these namespaces of Services and slices; none for all.
    pub(crate) fn new(pool: PoolKey, scopes: &[Option<String>]) -> Self {
        let namespace = pool.namespace.clone();
        Self {
            pool,
            gateways: BTreeMap::new(),
            gone: BTreeSet::new(),
            kept: BTreeMap::new(),
            is_complete: false,
            services: Known::new(scopes.to_vec()),
            slices: Known::new(scopes.to_vec()),
            slices_of: BTreeMap::new(),
            pods: Known::new(vec![Some(namespace)]),
            shards: BTreeMap::new(),
            on_shard: BTreeMap::new(),
            zones: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    pub(crate) fn place(gateway: &GatewayKey) -> Place {
        Place::new(&gateway.namespace, &service_name(&gateway.name))
    }

    /// Whether enough is known to write.
    pub(crate) fn is_listed(&self) -> bool {
        self.services.is_listed() && self.slices.is_listed() && self.pods.is_listed()
    }

    /// Takes what a Gateway needs; none when it is gone.
    pub(crate) fn set(&mut self, gateway: &GatewayKey, needs: Option<GatewayNeeds>) -> Place {
        let place = Self::place(gateway);
        self.kept.remove(&place);
        let before = match needs {
            Some(needs) => {
                self.gone.remove(&place);
                for shard in needs.shards.iter().chain(&needs.leaving) {
                    let places = self.on_shard.entry(*shard).or_default();
                    places.insert(place.clone());
                }
                self.gateways.insert(place.clone(), needs)
            }
            None => {
                self.gone.insert(place.clone());
                self.refused.remove(&place);
                self.gateways.remove(&place)
            }
        };
        let now = self.gateways.get(&place);
        for shard in before
            .iter()
            .flat_map(|of| of.shards.iter().chain(&of.leaving))
        {
            let stays =
                now.is_some_and(|now| now.shards.contains(shard) || now.leaving.contains(shard));
            if let Some(places) = self.on_shard.get_mut(shard).filter(|_| !stays) {
                places.remove(&place);
                if places.is_empty() {
                    self.on_shard.remove(shard);
                }
            }
        }
        place
    }

    /// Takes that a Gateway is not served and keeps its address.
    ///
    /// Its slices go: the target ports that they lead to may be another Gateway's tomorrow.
    pub(crate) fn keep(&mut self, gateway: &GatewayKey) -> Place {
        let place = self.set(gateway, None);
        self.gone.remove(&place);
        self.kept.insert(place.clone(), gateway.clone());
        place
    }

    /// Forgets which Gateways are gone: it is for the leader to see to.
    pub(crate) fn forget_gone(&mut self) {
        self.gone.clear();
    }

    /// From now on what no Gateway needs may go. Gives the places where there is something.
    pub(crate) fn complete(&mut self) -> Vec<Place> {
        self.is_complete = true;
        self.places()
    }

    /// Forgets what Gateways need.
    pub(crate) fn forget(&mut self) {
        self.gateways.clear();
        self.gone.clear();
        self.kept.clear();
        self.on_shard.clear();
        self.refused.clear();
        self.is_complete = false;
    }

    /// All places where there is something, or is to be.
    pub(crate) fn places(&self) -> Vec<Place> {
        let services = self.services.places();
        let places = services
            .chain(self.slices_of.keys())
            .chain(self.gateways.keys());
        places
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    pub(crate) fn take_service(&mut self, scope: usize, event: Event<Service>) -> Vec<Place> {
        let changed = self.services.take(scope, event);
        changed.into_iter().map(|of| of.place).collect()
    }

    pub(crate) fn take_slice(&mut self, scope: usize, event: Event<EndpointSlice>) -> Vec<Place> {
        let changed = self.slices.take(scope, event);
        let places = changed.into_iter().filter_map(|of| {
            let slice = of.now.as_ref().or(of.before.as_ref())?;
            let service = service_of(slice);
            let is_there = of.now.is_some();
            self.link(&service, of.place, is_there);
            Some(service)
        });
        places.collect()
    }

    fn link(&mut self, service: &Place, slice: Place, is_there: bool) {
        let slices = self.slices_of.entry(service.clone()).or_default();
        if is_there {
            slices.insert(slice);
        } else {
            slices.remove(&slice);
            if slices.is_empty() {
                self.slices_of.remove(service);
            }
        }
    }

    /// Takes what happens to a pod. Gives the Gateways on shards that are not as they were.
    pub(crate) fn take_pod(&mut self, event: Event<Pod>) -> Vec<Place> {
        let changed = self.pods.take(0, event);
        let shards = changed.into_iter().filter_map(|of| {
            let pod = of.now.as_ref();
            let pod = pod.and_then(|pod| ShardPod::of(&self.pool.name, pod));
            let before = of
                .before
                .as_ref()
                .and_then(|pod| ShardPod::of(&self.pool.name, pod));
            let shard = pod.as_ref().or(before.as_ref())?.shard;
            let known = match pod {
                Some(pod) => self.shards.insert(shard, self.zoned(pod)),
                None => self.shards.remove(&shard),
            };
            (self.shards.get(&shard) != known.as_ref()).then_some(shard)
        });
        let shards: BTreeSet<ShardId> = shards.collect();
        self.on(&shards)
    }

    fn zoned(&self, mut pod: ShardPod) -> ShardPod {
        let zone = pod.node.as_ref().and_then(|node| self.zones.get(node));
        pod.zone = zone.cloned().flatten();
        pod
    }

    fn on(&self, shards: &BTreeSet<ShardId>) -> Vec<Place> {
        let places = shards.iter().filter_map(|shard| self.on_shard.get(shard));
        places
            .flatten()
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Nodes of shards whose zone nobody has asked for.
    pub(crate) fn nodes_to_ask(&mut self) -> Vec<String> {
        let nodes = self.shards.values().filter_map(|pod| pod.node.clone());
        let nodes: Vec<String> = nodes
            .filter(|node| !self.zones.contains_key(node))
            .collect();
        for node in &nodes {
            self.zones.insert(node.clone(), None);
        }
        nodes
    }

    /// The zone of a node is to be asked for again.
    pub(crate) fn forget_zone(&mut self, node: &str) {
        self.zones.remove(node);
    }

    /// Takes the zone of a node. Gives the Gateways on its shards.
    pub(crate) fn take_zone(&mut self, node: &str, zone: Option<String>) -> Vec<Place> {
        let mut shards = BTreeSet::new();
        for pod in self
            .shards
            .values_mut()
            .filter(|pod| pod.node.as_deref() == Some(node))
        {
            if pod.zone != zone {
                pod.zone.clone_from(&zone);
                shards.insert(pod.shard);
            }
        }
        self.zones.insert(node.to_owned(), zone);
        self.on(&shards)
    }

    /// Takes what a write has made.
    pub(crate) fn written_service(&mut self, service: Service) {
        self.services.put(service);
    }

    pub(crate) fn written_slice(&mut self, slice: EndpointSlice) {
        let (service, place) = (service_of(&slice), Place::of(&slice.metadata));
        self.slices.put(slice);
        self.link(&service, place, true);
    }

    pub(crate) fn deleted_service(&mut self, place: &Place, uid: &str) {
        self.services.remove_uid(place, Some(uid));
    }

    pub(crate) fn deleted_slice(&mut self, place: &Place, uid: &str) {
        if let Some(of) = self.slices.remove_uid(place, Some(uid))
            && let Some(slice) = of.before
        {
            self.link(&service_of(&slice), of.place, false);
        }
    }

    /// Takes why a write was refused; none when it was not.
    pub(crate) fn refused(&mut self, place: &Place, problem: Option<Problem>) {
        match problem {
            Some(problem) if self.gateways.contains_key(place) => {
                self.refused.insert(place.clone(), problem);
            }
            _ => {
                self.refused.remove(place);
            }
        }
    }

    /// What is to be written at a place now. What depends on the answer comes with the next plan.
    pub(crate) fn plan(&self, place: &Place) -> Vec<Write> {
        let current = self.services.get(place);
        let Some(needs) = self.gateways.get(place) else {
            if self.kept.contains_key(place) {
                return self.take_slices_away(place);
            }
            return if self.is_complete || self.gone.contains(place) {
                self.take_away(place)
            } else {
                Vec::new()
            };
        };
        let mut writes: Vec<Write> = self.service_write(needs, current).into_iter().collect();
        if writes
            .iter()
            .any(|write| matches!(write, Write::DeleteService(..)))
        {
            return writes;
        }
        // Which families it has is the API server's to say, unless it is there already.
        if let Some(current) = current {
            writes.extend(self.slice_writes(place, needs, current));
        }
        writes
    }

    fn service_write(&self, needs: &GatewayNeeds, current: Option<&Service>) -> Option<Write> {
        let desired = service(&self.pool, needs, current)?;
        let Some(current) = current else {
            return Some(Write::Service(Box::new(desired), None));
        };
        let uid = uid(current);
        // It is on its way out; the next one comes after it.
        if current.metadata.deletion_timestamp.is_some() {
            return None;
        }
        if immutable(current, &desired).is_some() {
            return Some(Write::DeleteService(Place::of(&current.metadata), uid));
        }
        differs(current, &desired).then(|| Write::Service(Box::new(desired), Some(uid)))
    }

    fn slice_writes(&self, place: &Place, needs: &GatewayNeeds, current: &Service) -> Vec<Write> {
        let desired = endpoint_slices(&self.pool, needs, &families(current), &self.shards);
        let mut superfluous = self.slices_of.get(place).cloned().unwrap_or_default();
        let mut writes = Vec::new();
        for slice in desired {
            let place = Place::of(&slice.metadata);
            superfluous.remove(&place);
            match self.slices.get(&place) {
                // A slice cannot change its family; ours has it in its name.
                Some(current) if differs(current, &slice) => {
                    let uid = uid(current);
                    writes.push(Write::Slice(Box::new(slice), Some(uid)));
                }
                Some(_) => {}
                None => writes.push(Write::Slice(Box::new(slice), None)),
            }
        }
        writes.extend(
            superfluous
                .iter()
                .filter_map(|place| self.take_slice_away(place)),
        );
        writes
    }

    fn take_away(&self, place: &Place) -> Vec<Write> {
        let service = self
            .services
            .get(place)
            .filter(|of| of.metadata.deletion_timestamp.is_none());
        let service = service.map(|of| Write::DeleteService(place.clone(), uid(of)));
        service
            .into_iter()
            .chain(self.take_slices_away(place))
            .collect()
    }

    fn take_slices_away(&self, place: &Place) -> Vec<Write> {
        let slices = self.slices_of.get(place).into_iter().flatten();
        slices
            .filter_map(|place| self.take_slice_away(place))
            .collect()
    }

    fn take_slice_away(&self, place: &Place) -> Option<Write> {
        let slice = self.slices.get(place)?;
        Some(Write::DeleteSlice(place.clone(), uid(slice)))
    }

    /// The objects of a Gateway that is gone are gone as well.
    pub(crate) fn settled(&mut self, place: &Place) {
        self.gone.remove(place);
    }

    /// What a Gateway has now; none for one that nobody asked about.
    pub(crate) fn observed(&self, place: &Place) -> Option<Observed> {
        let service = self.services.get(place);
        let service = service.filter(|of| of.metadata.deletion_timestamp.is_none());
        let addresses = service.map(assigned).unwrap_or_default();
        if let Some(gateway) = self.kept.get(place) {
            return Some(Observed {
                gateway: gateway.clone(),
                addresses,
                problem: None,
                led_to: self.plan(place).is_empty().then(Vec::new),
            });
        }
        let needs = self.gateways.get(place)?;
        let refused = self.refused.get(place).cloned();
        let problem = refused.or_else(|| problem(needs, &addresses));
        let is_written = self.plan(place).is_empty();
        Some(Observed {
            gateway: needs.gateway.clone(),
            addresses,
            problem,
            led_to: is_written.then(|| needs.shards.clone()),
        })
    }
}

fn service_of(slice: &EndpointSlice) -> Place {
    let labels = slice.metadata.labels.as_ref();
    let name = labels.and_then(|labels| labels.get(SERVICE_NAME));
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Place::new(namespace, name.map_or("", String::as_str))
}

fn uid<K: Object>(object: &K) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
