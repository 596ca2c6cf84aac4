//! One event: the object's new form, its links, and what that makes stale.

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{CertificateKey, GATEWAY_GROUP, GatewayKey, ObjectKey, PoolKey, RouteKey};
use operator_objects::spec::{
    EndpointSlice, Event, Gateway, GatewayClass, HttpRoute, Namespace, Object, POOL_GROUP,
    ReferenceGrant, Rejected, Secret, Service,
};

use crate::references::{GatewayRefs, RouteRefs, class_name, gateway_key, route_key};
use crate::{Dirty, Index, ServiceKey};

impl Index {
    /// Takes in one event and says what has to be translated again.
    ///
    /// A deletion of what is not there, and an object that is equal to the one held, mark nothing. Cost: O(log
    /// objects) and the objects marked.
    pub fn apply(&mut self, event: Event) -> Dirty {
        let mut dirty = Dirty::default();
        match event {
            Event::Apply(object) => {
                let key = object.key();
                self.lift(&key, &mut dirty);
                self.put(key, object, &mut dirty);
            }
            Event::Reject(rejected) => self.reject(rejected, &mut dirty),
            Event::Delete(key) => {
                self.lift(&key, &mut dirty);
                self.delete(&key, &mut dirty);
            }
        }
        dirty
    }

    fn reject(&mut self, rejected: Rejected, dirty: &mut Dirty) {
        let key = rejected.key.clone();
        if self.rejected.get(&key) == Some(&rejected) {
            return;
        }
        self.with_rejection(&key, Some(rejected));
        self.mark_rejection(&key, dirty);
    }

    /// Ends a rejection, if there is one.
    fn lift(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        if self.rejected.contains_key(key) {
            self.with_rejection(key, None);
            self.mark_rejection(key, dirty);
        }
    }

    /// Marks the object if it has a status. Of a Service that was never good, those who refer to it say why; of a Secret they
    /// always do, for an older certificate than the one that was meant is served.
    fn mark_rejection(&self, key: &ObjectKey, dirty: &mut Dirty) {
        dirty.mark(key);
        match (key.group.as_str(), key.kind.as_str()) {
            ("", "Service") => {
                let service = ServiceKey::new(&key.namespace, &key.name);
                if !self.services.contains_key(&service) {
                    dirty
                        .routes
                        .extend(self.links.routes_by_service.of(&service).cloned());
                }
            }
            ("", "Secret") => {
                let secret = CertificateKey::new(&key.namespace, &key.name);
                dirty
                    .gateways
                    .extend(self.links.gateways_by_secret.of(&secret).cloned());
            }
            ("", "ConfigMap") => {
                let gateways = self.links.gateways_by_config_map.of(key);
                dirty.gateways.extend(gateways.cloned());
            }
            _ => {}
        }
    }

    /// Sets or ends a rejection; a rejected route has parents of its own.
    fn with_rejection(&mut self, key: &ObjectKey, rejected: Option<Rejected>) {
        let route = route_key(key);
        let refs = |index: &Self| {
            route.as_ref().map(|route| {
                RouteRefs::of(
                    route,
                    index.routes.get(route).map(AsRef::as_ref),
                    index.rejected.get(key),
                )
            })
        };
        let old = refs(self);
        match rejected {
            Some(rejected) => {
                self.rejected.insert(key.clone(), rejected);
            }
            None => {
                self.rejected.remove(key);
            }
        }
        if let (Some(route), Some(old), Some(new)) = (&route, old, refs(self)) {
            self.links.relink_route(route, &old, &new);
        }
    }

    fn put(&mut self, key: ObjectKey, object: Object, dirty: &mut Dirty) {
        match object {
            Object::GatewayClass(class) => self.set_class(&key.name, Some(class), dirty),
            Object::Gateway(gateway) => {
                self.set_gateway(
                    &GatewayKey::new(&key.namespace, &key.name),
                    Some(gateway),
                    dirty,
                );
            }
            Object::HttpRoute(route) => self.set_route(
                &RouteKey::http(&key.namespace, &key.name),
                Some(route),
                dirty,
            ),
            Object::ReferenceGrant(grant) => self.set_grant(&key, Some(grant), dirty),
            Object::Namespace(namespace) => self.set_namespace(&key.name, Some(namespace), dirty),
            Object::Service(service) => {
                self.set_service(
                    &ServiceKey::new(&key.namespace, &key.name),
                    Some(service),
                    dirty,
                );
            }
            Object::EndpointSlice(slice) => self.set_slice(&key, Some(slice), dirty),
            Object::Secret(secret) => {
                self.set_secret(
                    &CertificateKey::new(&key.namespace, &key.name),
                    Some(secret),
                    dirty,
                );
            }
            Object::ConfigMap(map) => self.set_config_map(&key, Some(map), dirty),
            Object::ShardPool(pool) => {
                self.set_pool(&PoolKey::new(&key.namespace, &key.name), Some(pool), dirty);
            }
            Object::Crd(crd) => self.set_crd(&key.name, Some(crd), dirty),
        }
    }

    fn delete(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        if let Some(name) = class_name(key) {
            return self.set_class(&name, None, dirty);
        }
        if let Some(gateway) = gateway_key(key) {
            return self.set_gateway(&gateway, None, dirty);
        }
        if let Some(route) = route_key(key) {
            return self.set_route(&route, None, dirty);
        }
        match (key.group.as_str(), key.kind.as_str()) {
            (GATEWAY_GROUP, "ReferenceGrant") => self.set_grant(key, None, dirty),
            ("", "Namespace") => self.set_namespace(&key.name, None, dirty),
            ("", "Service") => {
                self.set_service(&ServiceKey::new(&key.namespace, &key.name), None, dirty);
            }
            ("discovery.k8s.io", "EndpointSlice") => self.set_slice(key, None, dirty),
            ("", "Secret") => {
                self.set_secret(&CertificateKey::new(&key.namespace, &key.name), None, dirty);
            }
            ("", "ConfigMap") => self.set_config_map(key, None, dirty),
            (POOL_GROUP, "ShardPool") => {
                self.set_pool(&PoolKey::new(&key.namespace, &key.name), None, dirty);
            }
            ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                self.set_crd(&key.name, None, dirty);
            }
            _ => {}
        }
    }

    fn set_class(&mut self, name: &str, new: Option<GatewayClass>, dirty: &mut Dirty) {
        let Some((old, new)) = replace(&mut self.classes, &name.to_owned(), new) else {
            return;
        };
        dirty.classes.insert(name.into());
        let decides = |class: &Option<Arc<GatewayClass>>| {
            class
                .as_ref()
                .map(|class| (class.controller_name.clone(), class.parameters_ref.clone()))
        };
        if decides(&old) != decides(&new) {
            dirty
                .gateways
                .extend(self.links.gateways_by_class.of(name).cloned());
        }
    }

    fn set_gateway(&mut self, key: &GatewayKey, new: Option<Gateway>, dirty: &mut Dirty) {
        let Some((old, new)) = replace(&mut self.gateways, key, new) else {
            return;
        };
        self.links.relink_gateway(
            key,
            &GatewayRefs::of(old.as_deref()),
            &GatewayRefs::of(new.as_deref()),
        );
        dirty.gateways.insert(key.clone());
    }

    fn set_route(&mut self, key: &RouteKey, new: Option<HttpRoute>, dirty: &mut Dirty) {
        let Some((old, new)) = replace(&mut self.routes, key, new) else {
            return;
        };
        let rejected = self.rejected.get(&key.object());
        let refs = |route: &Option<Arc<HttpRoute>>| RouteRefs::of(key, route.as_deref(), rejected);
        let (old, new) = (refs(&old), refs(&new));
        self.links.relink_route(key, &old, &new);
        dirty.routes.insert(key.clone());
    }

    fn set_grant(&mut self, key: &ObjectKey, new: Option<ReferenceGrant>, dirty: &mut Dirty) {
        let grants = self.grants.entry(key.namespace.clone()).or_default();
        let changed = replace(grants, &key.name, new);
        if grants.is_empty() {
            self.grants.remove(&key.namespace);
        }
        let Some((old, new)) = changed else { return };
        let from: BTreeSet<&str> = old
            .iter()
            .chain(&new)
            .flat_map(|grant| &grant.from)
            .map(|from| from.namespace.as_str())
            .collect();
        let routes = self.links.routes_into.of(&key.namespace);
        dirty.routes.extend(
            routes
                .filter(|route| from.contains(route.namespace.as_str()))
                .cloned(),
        );
        let gateways = self.links.gateways_into.of(&key.namespace);
        dirty.gateways.extend(
            gateways
                .filter(|gateway| from.contains(gateway.namespace.as_str()))
                .cloned(),
        );
    }

    fn set_namespace(&mut self, name: &str, new: Option<Namespace>, dirty: &mut Dirty) {
        let Some((old, new)) = replace(&mut self.namespaces, &name.to_owned(), new) else {
            return;
        };
        let labels = |namespace: &Option<Arc<Namespace>>| {
            namespace
                .as_ref()
                .map(|namespace| namespace.meta.labels.clone())
                .unwrap_or_default()
        };
        if labels(&old) == labels(&new) {
            return;
        }
        let selected = |key: &RouteKey, route: &HttpRoute| {
            RouteRefs::of(key, Some(route), None)
                .parents
                .iter()
                .any(|parent| self.links.selecting.contains(parent))
        };
        let routes = self
            .routes
            .range(RouteKey::http(name, "")..)
            .take_while(|(key, _)| key.namespace == name);
        dirty.routes.extend(
            routes
                .filter(|(key, route)| selected(key, route))
                .map(|(key, _)| key.clone()),
        );
    }

    fn set_service(&mut self, key: &ServiceKey, new: Option<Service>, dirty: &mut Dirty) {
        let Some((old, new)) = replace(&mut self.services, key, new) else {
            return;
        };
        let decides = |service: &Option<Arc<Service>>| {
            service
                .as_ref()
                .map(|service| (service.external_name.is_some(), service.ports.clone()))
        };
        if decides(&old) != decides(&new) {
            dirty
                .routes
                .extend(self.links.routes_by_service.of(key).cloned());
        }
        dirty.backends.insert(key.clone());
    }

    fn set_slice(&mut self, key: &ObjectKey, new: Option<EndpointSlice>, dirty: &mut Dirty) {
        let Some((old, new)) = replace(&mut self.slices, key, new) else {
            return;
        };
        let service = |slice: &Option<Arc<EndpointSlice>>| {
            let service = slice.as_ref()?.service.as_ref()?;
            Some(ServiceKey::new(&key.namespace, service))
        };
        let (old, new) = (service(&old), service(&new));
        if let Some(service) = &old {
            self.links.slices_by_service.remove(service, key);
        }
        if let Some(service) = &new {
            self.links.slices_by_service.insert(service, key);
        }
        dirty.backends.extend(old.into_iter().chain(new));
    }

    fn set_secret(&mut self, key: &CertificateKey, new: Option<Secret>, dirty: &mut Dirty) {
        let Some((old, new)) = replace(&mut self.secrets, key, new) else {
            return;
        };
        let decides = |secret: &Option<Arc<Secret>>| {
            secret
                .as_ref()
                .map(|secret| (secret.kind.clone(), secret.data.clone()))
        };
        if decides(&old) != decides(&new) {
            dirty
                .gateways
                .extend(self.links.gateways_by_secret.of(key).cloned());
        }
    }
}

/// Old and new form of an object.
type Change<V> = (Option<Arc<V>>, Option<Arc<V>>);

/// Sets or removes; none when that changes nothing.
fn replace<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, Arc<V>>,
    key: &K,
    new: Option<V>,
) -> Option<Change<V>> {
    let Some(new) = new else {
        return Some((Some(map.remove(key)?), None));
    };
    if map.get(key).is_some_and(|old| **old == new) {
        return None;
    }
    let new = Arc::new(new);
    let old = map.insert(key.clone(), Arc::clone(&new));
    Some((old, Some(new)))
}
