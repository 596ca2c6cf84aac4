//! What one or more events made stale.

use std::collections::BTreeSet;
use std::fmt;

use api::{GatewayKey, ObjectKey, RouteKey};

use crate::Index;
use crate::references::{class_name, gateway_key, route_key};

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceKey {
    /// Builds a key from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What has to be translated again. Keys of objects that are gone are in it too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// GatewayClasses.
    pub classes: BTreeSet<String>,
    /// Gateways: their own spec, class, certificates, parameters or grants changed.
    pub gateways: BTreeSet<GatewayKey>,
    /// Routes: these alone, not their Gateways' other routes.
    pub routes: BTreeSet<RouteKey>,
    /// Services whose endpoints may have changed.
    pub backends: BTreeSet<ServiceKey>,
}

impl Dirty {
    /// Whether nothing is stale.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
            && self.gateways.is_empty()
            && self.routes.is_empty()
            && self.backends.is_empty()
    }

    /// Adds what another event made stale; a burst of events is translated once.
    pub fn merge(&mut self, other: Self) {
        self.classes.extend(other.classes);
        self.gateways.extend(other.gateways);
        self.routes.extend(other.routes);
        self.backends.extend(other.backends);
    }

    /// Everything that the index holds, for a first translation.
    pub fn all(index: &Index) -> Self {
        let mut all = Self {
            classes: index.classes.keys().cloned().collect(),
            gateways: index.gateways.keys().cloned().collect(),
            routes: index.routes.keys().cloned().collect(),
            backends: index.services.keys().cloned().collect(),
        };
        for key in index.rejected.keys() {
            all.mark(key);
        }
        all
    }

    /// Marks an object that has a status; others have nothing to be translated of their own.
    pub(crate) fn mark(&mut self, key: &ObjectKey) {
        if let Some(name) = class_name(key) {
            self.classes.insert(name);
        } else if let Some(gateway) = gateway_key(key) {
            self.gateways.insert(gateway);
        } else if let Some(route) = route_key(key) {
            self.routes.insert(route);
        }
    }
}
