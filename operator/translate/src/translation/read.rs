//! What a translation holds, for those who write statuses, propose and compare.

use std::collections::{BTreeMap, BTreeSet};

use api::{BackendKey, CertificateKey, GATEWAY_GROUP, GatewayKey, ObjectKey, RouteKey};
use api_snapshot::config::ListenerSpec;
use api_snapshot::facts::{Backend, Certificate};
use api_snapshot::{GatewayEntry, GatewayEntryKey};

use super::Translation;
use crate::GatewayInfrastructure;
use crate::status::{
    ClassStatus, GatewayStatus, ObjectStatus, RouteStatus, class_object, gateway_object,
};

impl Translation {
    /// Status of an object; none when we have nothing to say of it.
    pub fn status(&self, object: &ObjectKey) -> Option<ObjectStatus<'_>> {
        if object.group != GATEWAY_GROUP {
            return None;
        }
        let (namespace, name) = (object.namespace.as_str(), object.name.as_str());
        match object.kind.as_str() {
            "GatewayClass" => self.class_status(name).map(ObjectStatus::Class),
            "Gateway" => self
                .gateway_status(&GatewayKey::new(namespace, name))
                .map(ObjectStatus::Gateway),
            "HTTPRoute" => self
                .route_status(&RouteKey::http(namespace, name))
                .map(ObjectStatus::Route),
            _ => None,
        }
    }

    /// All statuses: classes, Gateways, then routes, each in the order of their keys.
    pub fn statuses(&self) -> impl Iterator<Item = (ObjectKey, ObjectStatus<'_>)> {
        let classes = self
            .classes
            .iter()
            .map(|(name, status)| (class_object(name), ObjectStatus::Class(status)));
        let gateways = self.gateways.iter().map(|(key, it)| {
            (
                gateway_object(key),
                ObjectStatus::Gateway(&it.output.status),
            )
        });
        let routes = self
            .routes
            .iter()
            .map(|(key, it)| (key.object(), ObjectStatus::Route(&it.status)));
        classes.chain(gateways).chain(routes)
    }

    /// Status of a GatewayClass of ours.
    pub fn class_status(&self, name: &str) -> Option<&ClassStatus> {
        self.classes.get(name)
    }

    /// Status of a Gateway of ours, with its routes counted.
    pub fn gateway_status(&self, key: &GatewayKey) -> Option<&GatewayStatus> {
        self.gateways.get(key).map(|gateway| &gateway.output.status)
    }

    /// Status of a route. One without a parent of ours has no parents in it.
    pub fn route_status(&self, key: &RouteKey) -> Option<&RouteStatus> {
        self.routes.get(key).map(|route| &route.status)
    }

    /// Gateways of ours that have entries, in the order of their keys.
    pub fn gateways(&self) -> impl Iterator<Item = &GatewayKey> {
        self.gateways
            .iter()
            .filter(|(_, gateway)| gateway.output.spec.is_some())
            .map(|(key, _)| key)
    }

    /// All entries of a Gateway, in the order of their keys; a new leader compares them with what is committed.
    pub fn entries(&self, key: &GatewayKey) -> BTreeMap<GatewayEntryKey, GatewayEntry> {
        let mut out = BTreeMap::new();
        let Some(gateway) = self.gateways.get(key) else {
            return out;
        };
        let Some(spec) = &gateway.output.spec else {
            return out;
        };
        out.insert(
            GatewayEntryKey::Gateway,
            GatewayEntry::Gateway(spec.clone()),
        );
        for (name, listener) in &gateway.output.listeners {
            out.insert(
                GatewayEntryKey::Listener(name.clone()),
                GatewayEntry::Listener(listener.clone()),
            );
        }
        for (route, rules) in &gateway.rules {
            for (at, rule) in rules {
                out.insert(
                    GatewayEntryKey::Rule(route.clone(), *at),
                    GatewayEntry::Rule(rule.clone()),
                );
            }
        }
        out
    }

    /// Listeners of a Gateway that can be served, in the order of its spec; empty when it is not ours.
    pub fn listeners(&self, key: &GatewayKey) -> &[(String, ListenerSpec)] {
        self.gateways
            .get(key)
            .map_or(&[], |gateway| &gateway.output.listeners)
    }

    /// A backend, if it is referred to now.
    pub fn backend(&self, key: &BackendKey) -> Option<&Backend> {
        self.backends.value(key)
    }

    /// A certificate, if it is referred to now.
    pub fn certificate(&self, key: &CertificateKey) -> Option<&Certificate> {
        self.certificates.value(key).map(AsRef::as_ref)
    }

    /// Secrets that Gateways of ours refer to and may read: a source that reads by name reads these. Cost: O(Gateways).
    pub fn secrets(&self) -> BTreeSet<CertificateKey> {
        let gateways = self.gateways.values();
        gateways
            .flat_map(|gateway| gateway.output.secrets.iter().cloned())
            .collect()
    }

    /// ConfigMaps that Gateways of ours take parameters from: a source that reads by name reads these. Cost: O(Gateways).
    pub fn config_maps(&self) -> BTreeSet<ObjectKey> {
        let gateways = self.gateways.values();
        gateways
            .filter_map(|gateway| gateway.output.config_map.clone())
            .collect()
    }

    /// What a Gateway of ours asks for outside of the snapshot. None when it is not ours, and when what it asks for cannot
    /// be had: what there is of it then stays as it is, and nothing is made.
    pub fn infrastructure(&self, key: &GatewayKey) -> Option<&GatewayInfrastructure> {
        self.gateways.get(key)?.output.infrastructure.as_ref()
    }

    /// Backends that are referred to now.
    pub fn backends(&self) -> impl Iterator<Item = (&BackendKey, &Backend)> {
        self.backends.iter()
    }

    /// Certificates that are referred to now.
    pub fn certificates(&self) -> impl Iterator<Item = (&CertificateKey, &Certificate)> {
        self.certificates
            .iter()
            .map(|(key, certificate)| (key, certificate.as_ref()))
    }
}
