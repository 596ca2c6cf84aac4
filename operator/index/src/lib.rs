//! The linked view of all objects: what exists, in its last good form, and who refers to whom.
//!
//! ```text
//!   source --Event--> Index::apply --Dirty--> translate (reads the Index)
//!                        |
//!        objects by key, rejections, reverse references
//! ```
//!
//! | this changes        | and this is to be translated again                                             |
//! |---------------------|--------------------------------------------------------------------------------|
//! | GatewayClass        | itself; its Gateways when controller or parameters change                      |
//! | Gateway             | itself (translate adds its routes when what they attach to has changed)        |
//! | HTTPRoute           | itself alone                                                                   |
//! | ReferenceGrant      | routes and Gateways that it names and that refer into its namespace            |
//! | Namespace labels    | routes in it that refer to a Gateway that selects by labels                    |
//! | Service ports, type | routes that refer to it, and its backends                                      |
//! | EndpointSlice       | the backends of its Service                                                    |
//! | Secret              | Gateways whose listeners refer to it                                           |
//! | ConfigMap           | Gateways that take parameters from it                                          |
//! | ShardPool           | GatewayClasses that name it, and their Gateways when it comes or goes          |
//! | CRD                 | all GatewayClasses                                                             |
//! | a rejection         | the object, if it has a status; who refers to a Service or Secret never good   |
//!
//! **Invariants**
//! - One writer. [`Index::apply`] is synchronous and its cost follows what changed: O(log objects + what it marks).
//! - An object that is rejected keeps its last good form here, so that it goes on serving; the rejection stands beside
//!   it ([`Index::rejected`]) until the object is applied or deleted. After a restart there is no last good form:
//!   then a rejected object has a status and serves nothing.
//! - Reverse references follow from the objects alone; an event that changes nothing marks nothing.
//!
//! It deliberately does not know: conditions, snapshots, files, sockets, clocks.

mod apply;
mod dirty;
mod links;
mod references;
#[cfg(test)]
mod tests;

pub use dirty::{Dirty, ServiceKey};

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{CertificateKey, GatewayKey, ObjectKey, PoolKey, RouteKey};
use operator_objects::spec::{
    ConfigMap, Crd, EndpointSlice, Gateway, GatewayClass, HttpRoute, Namespace, ReferenceGrant,
    Rejected, Secret, Service, ShardPool,
};

use links::Links;

/// All objects and their links. See the crate's text for what a change marks.
#[derive(Debug, Default)]
pub struct Index {
    classes: BTreeMap<String, Arc<GatewayClass>>,
    gateways: BTreeMap<GatewayKey, Arc<Gateway>>,
    routes: BTreeMap<RouteKey, Arc<HttpRoute>>,
    /// By namespace, then name: grants are always asked for by the namespace that they open.
    grants: BTreeMap<String, BTreeMap<String, Arc<ReferenceGrant>>>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    services: BTreeMap<ServiceKey, Arc<Service>>,
    slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    secrets: BTreeMap<CertificateKey, Arc<Secret>>,
    config_maps: BTreeMap<ObjectKey, Arc<ConfigMap>>,
    pools: BTreeMap<PoolKey, Arc<ShardPool>>,
    crds: BTreeMap<String, Arc<Crd>>,
    rejected: BTreeMap<ObjectKey, Rejected>,
    links: Links,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// A GatewayClass, whoever its controller is.
    pub fn class(&self, name: &str) -> Option<&Arc<GatewayClass>> {
        self.classes.get(name)
    }

    /// All GatewayClasses by name.
    pub fn classes(&self) -> impl Iterator<Item = (&String, &Arc<GatewayClass>)> {
        self.classes.iter()
    }

    /// A Gateway, whatever its class is.
    pub fn gateway(&self, key: &GatewayKey) -> Option<&Arc<Gateway>> {
        self.gateways.get(key)
    }

    /// All Gateways in the order of their keys.
    pub fn gateways(&self) -> impl ExactSizeIterator<Item = (&GatewayKey, &Arc<Gateway>)> {
        self.gateways.iter()
    }

    /// A route.
    pub fn route(&self, key: &RouteKey) -> Option<&Arc<HttpRoute>> {
        self.routes.get(key)
    }

    /// All routes in the order of their keys.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = (&RouteKey, &Arc<HttpRoute>)> {
        self.routes.iter()
    }

    /// Routes, rejected ones included, with a parentRef to this Gateway.
    pub fn routes_of_gateway(&self, key: &GatewayKey) -> impl Iterator<Item = &RouteKey> {
        self.links.routes_by_parent.of(key)
    }

    /// The ReferenceGrants in a namespace: they open what is in it.
    pub fn grants_in(&self, namespace: &str) -> impl Iterator<Item = &ReferenceGrant> {
        self.grants
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(AsRef::as_ref)
    }

    /// A declared Namespace. One that is not declared exists all the same, with its name label alone.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// A Service.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The EndpointSlices of a Service, in the order of their names.
    pub fn slices_of(&self, key: &ServiceKey) -> impl Iterator<Item = &EndpointSlice> {
        self.links
            .slices_by_service
            .of(key)
            .filter_map(|slice| self.slices.get(slice))
            .map(AsRef::as_ref)
    }

    /// A Secret.
    pub fn secret(&self, key: &CertificateKey) -> Option<&Arc<Secret>> {
        self.secrets.get(key)
    }

    /// A ConfigMap, by its object key.
    pub fn config_map(&self, key: &ObjectKey) -> Option<&Arc<ConfigMap>> {
        self.config_maps.get(key)
    }

    /// A ShardPool.
    pub fn pool(&self, key: &PoolKey) -> Option<&Arc<ShardPool>> {
        self.pools.get(key)
    }

    /// The CRDs of the Gateway API's kinds, in the order of their names; none where objects are no API server's.
    pub fn crds(&self) -> impl Iterator<Item = &Crd> {
        self.crds.values().map(AsRef::as_ref)
    }

    /// The CRD of a kind of the Gateway API.
    pub fn crd(&self, kind: &str) -> Option<&Crd> {
        self.crds().find(|crd| crd.kind == kind)
    }

    /// Why an object's newest form is refused, if it is.
    pub fn rejected(&self, key: &ObjectKey) -> Option<&Rejected> {
        self.rejected.get(key)
    }

    /// All rejections, by object.
    pub fn rejections(&self) -> impl ExactSizeIterator<Item = &Rejected> {
        self.rejected.values()
    }
}
