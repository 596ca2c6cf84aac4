//! Reverse references: from what is referred to, to who refers.

use std::collections::{BTreeMap, BTreeSet};

use api::{CertificateKey, GatewayKey, ObjectKey, RouteKey};

use crate::ServiceKey;
use crate::references::{GatewayRefs, RouteRefs};

/// A set of pairs, asked for by its first part.
#[derive(Debug)]
pub(crate) struct Multimap<K, V>(BTreeMap<K, Set<V>>);

/// Most first parts have one second part: a list then takes a tenth of the memory of a tree.
#[derive(Debug)]
enum Set<V> {
    /// In order, at most [`FEW_MAX`].
    Few(Vec<V>),
    Many(BTreeSet<V>),
}

const FEW_MAX: usize = 16;

impl<V: Ord> Set<V> {
    fn insert(&mut self, value: V) {
        match self {
            Self::Few(list) => {
                if let Err(at) = list.binary_search(&value) {
                    list.reserve_exact(1);
                    list.insert(at, value);
                }
                if list.len() > FEW_MAX {
                    *self = Self::Many(std::mem::take(list).into_iter().collect());
                }
            }
            Self::Many(tree) => {
                tree.insert(value);
            }
        }
    }

    fn remove(&mut self, value: &V) {
        match self {
            Self::Few(list) => {
                if let Ok(at) = list.binary_search(value) {
                    list.remove(at);
                }
            }
            // It stays a tree: what had many values will have them again.
            Self::Many(tree) => {
                tree.remove(value);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(tree) => tree.is_empty(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &V> {
        let (list, tree) = match self {
            Self::Few(list) => (Some(list.iter()), None),
            Self::Many(tree) => (None, Some(tree.iter())),
        };
        list.into_iter().flatten().chain(tree.into_iter().flatten())
    }
}

impl<K, V> Default for Multimap<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Multimap<K, V> {
    /// All second parts of a first one, in order.
    pub(crate) fn of<Q>(&self, key: &Q) -> impl Iterator<Item = &V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.0.get(key).into_iter().flat_map(Set::iter)
    }

    /// All second parts, one for each first one that it belongs to.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flat_map(Set::iter)
    }

    pub(crate) fn insert(&mut self, key: &K, value: &V) {
        match self.0.get_mut(key) {
            Some(values) => values.insert(value.clone()),
            None => {
                self.0.insert(key.clone(), Set::Few(vec![value.clone()]));
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// Moves `value` from the keys of `old` to those of `new`.
    fn relink(&mut self, value: &V, old: &BTreeSet<K>, new: &BTreeSet<K>) {
        for key in old.difference(new) {
            self.remove(key, value);
        }
        for key in new.difference(old) {
            self.insert(key, value);
        }
    }
}

/// All reverse references.
#[derive(Debug, Default)]
pub(crate) struct Links {
    pub(crate) gateways_by_class: Multimap<String, GatewayKey>,
    pub(crate) gateways_by_secret: Multimap<CertificateKey, GatewayKey>,
    pub(crate) gateways_by_config_map: Multimap<ObjectKey, GatewayKey>,
    /// Gateways that refer into a namespace other than their own.
    pub(crate) gateways_into: Multimap<String, GatewayKey>,
    /// Gateways with a listener that selects namespaces by label.
    pub(crate) selecting: BTreeSet<GatewayKey>,
    pub(crate) routes_by_parent: Multimap<GatewayKey, RouteKey>,
    pub(crate) routes_by_service: Multimap<ServiceKey, RouteKey>,
    /// Routes that refer to a backend in a namespace other than their own.
    pub(crate) routes_into: Multimap<String, RouteKey>,
    pub(crate) slices_by_service: Multimap<ServiceKey, ObjectKey>,
}

impl Links {
    pub(crate) fn relink_gateway(
        &mut self,
        key: &GatewayKey,
        old: &GatewayRefs,
        new: &GatewayRefs,
    ) {
        self.gateways_by_class.relink(key, &old.class, &new.class);
        self.gateways_by_secret
            .relink(key, &old.secrets, &new.secrets);
        self.gateways_by_config_map
            .relink(key, &old.config_maps, &new.config_maps);
        self.gateways_into.relink(key, &old.into, &new.into);
        if new.selects {
            self.selecting.insert(key.clone());
        } else {
            self.selecting.remove(key);
        }
    }

    pub(crate) fn relink_route(&mut self, key: &RouteKey, old: &RouteRefs, new: &RouteRefs) {
        self.routes_by_parent
            .relink(key, &old.parents, &new.parents);
        self.routes_by_service
            .relink(key, &old.services, &new.services);
        self.routes_into.relink(key, &old.into, &new.into);
    }
}
