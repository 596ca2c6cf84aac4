//! A Gateway: its own entry, its listeners, its status, and what routes may attach to.

mod conditions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::condition::{reasons, types};
use api::{CertificateKey, GATEWAY_GROUP, GatewayKey, ObjectKey, TenantId};
use api_snapshot::config::{GatewaySpec, ListenerSpec};
use api_snapshot::facts::Certificate;
use operator_index::Index;
use operator_objects::spec::{AllowedNamespaces, Gateway, Listener};

use crate::Settings;
use crate::certificate::Certificates;
use crate::class::{is_ours, parameters_problem};
use crate::conflicts::conflict;
use crate::infrastructure::{GatewayInfrastructure, config_map, infrastructure};
use crate::listener::{Examined, examine};
use crate::overlap::overlaps;
use crate::status::{Condition, GatewayStatus, ListenerStatus, gateway_object};
use conditions::{accepted, listener_conditions, not_served, refused, resolved};

/// What a Gateway becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayOutput {
    /// Its own entry; none when it was never readable, so that there is nothing to serve.
    pub spec: Option<GatewaySpec>,
    /// Listeners that can be served, by name, in the order of the spec.
    pub listeners: Vec<(String, ListenerSpec)>,
    /// What routes see of it. Routes are translated again when this changes, and only then.
    pub attachable: Attachable,
    /// Certificates of the listeners that can be served.
    pub certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    /// Secrets that its listeners refer to and may read, whether they are there or not.
    pub secrets: BTreeSet<CertificateKey>,
    /// What it asks for outside of the snapshot; none when that is refused.
    pub infrastructure: Option<GatewayInfrastructure>,
    /// The ConfigMap that it takes parameters from, whether it is there or not.
    pub config_map: Option<ObjectKey>,
    /// Its status; `attached_routes` is 0, as routes are counted by [`crate::Translation`].
    pub status: GatewayStatus,
}

/// What routes see of a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachable {
    /// All listeners of the spec, valid or not.
    pub listeners: Vec<AttachableListener>,
    /// Set when translating the Gateway panicked.
    pub quarantined: bool,
}

/// What routes see of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachableListener {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// Its host name.
    pub hostname: Option<String>,
    /// Whether it takes HTTPRoutes.
    pub takes_http_routes: bool,
    /// From which namespaces.
    pub namespaces: AllowedNamespaces,
    /// Why it is not served, if it is not. Routes attach to it all the same (gateway-api v1 `ListenerStatus.attachedRoutes`).
    pub not_served: Option<String>,
}

/// Translates a Gateway; none when it does not exist or its class is not ours.
///
/// A Gateway that is rejected and never had a good form has a status and no entries: its class cannot be read.
pub fn translate_gateway(
    view: &Index,
    key: &GatewayKey,
    settings: &Settings,
    certificates: &mut Certificates,
) -> Option<GatewayOutput> {
    let rejected = view.rejected(&gateway_object(key));
    let Some(gateway) = view.gateway(key) else {
        let rejected = rejected?;
        let accepted = Condition::no(
            types::ACCEPTED,
            reasons::INVALID,
            rejected.message.clone(),
            rejected.generation,
        );
        return Some(GatewayOutput::without_entries(accepted));
    };
    if !view
        .class(&gateway.class_name)
        .is_some_and(|class| is_ours(class))
    {
        return None;
    }
    let mut output = translate(view, gateway, settings, certificates);
    if let Some(rejected) = rejected {
        let text = format!("{}; the last valid form is served", rejected.message);
        output.observe(rejected.generation);
        let accepted = Condition::no(types::ACCEPTED, reasons::INVALID, text, rejected.generation);
        let conditions = &mut output.status.conditions;
        conditions.retain(|condition| condition.type_ != types::ACCEPTED);
        conditions.insert(0, accepted);
    }
    Some(output)
}

impl GatewayOutput {
    fn without_entries(accepted: Condition) -> Self {
        Self {
            spec: None,
            listeners: Vec::new(),
            attachable: Attachable::default(),
            certificates: BTreeMap::new(),
            secrets: BTreeSet::new(),
            infrastructure: None,
            config_map: None,
            status: GatewayStatus {
                conditions: vec![accepted],
                listeners: Vec::new(),
            },
        }
    }

    /// What is left of a Gateway whose translation panicked: it exists and has no listeners.
    pub(crate) fn quarantined(gateway: Option<&Gateway>, message: &str) -> Self {
        let generation = gateway.map_or(0, |gateway| gateway.meta.generation);
        let mut output = Self::without_entries(Condition::no(
            types::ACCEPTED,
            reasons::QUARANTINED,
            message,
            generation,
        ));
        output.spec = gateway.map(gateway_spec);
        output.attachable.quarantined = true;
        output
    }

    fn observe(&mut self, generation: i64) {
        let listeners = self.status.listeners.iter_mut();
        let conditions = listeners.flat_map(|listener| &mut listener.conditions);
        for condition in conditions.chain(&mut self.status.conditions) {
            condition.observed_generation = generation;
        }
    }
}

fn gateway_spec(gateway: &Gateway) -> GatewaySpec {
    GatewaySpec {
        tenant: TenantId(gateway.meta.namespace.clone()),
        uid: gateway.meta.uid.clone(),
        generation: gateway.meta.generation,
    }
}

fn translate(
    view: &Index,
    gateway: &Gateway,
    settings: &Settings,
    cache: &mut Certificates,
) -> GatewayOutput {
    let generation = gateway.meta.generation;
    let mut held = BTreeMap::new();
    let examined: Vec<(&Listener, Examined)> = gateway
        .listeners
        .iter()
        .map(|listener| (listener, examine(view, gateway, listener, cache, &mut held)))
        .collect();
    let (infrastructure, refused) = match infrastructure(view, gateway, settings) {
        Ok(infrastructure) => (Some(infrastructure), refused(gateway)),
        Err(problem) => (None, Some(problem)),
    };
    // In a cluster it is the Service that cannot be had: what one that is there leads to stays.
    let unserved = refused
        .as_ref()
        .filter(|_| infrastructure.is_some() || settings.pool.is_none());
    let secrets = examined.iter().flat_map(|(_, found)| found.secrets.clone());
    let mut output = GatewayOutput {
        spec: Some(gateway_spec(gateway)),
        listeners: Vec::new(),
        attachable: Attachable::default(),
        certificates: BTreeMap::new(),
        secrets: secrets.collect(),
        infrastructure,
        config_map: config_map(gateway),
        status: GatewayStatus {
            conditions: Vec::new(),
            listeners: Vec::new(),
        },
    };
    let mut invalid = Vec::new();
    let mut overlaps = overlaps(&examined, &held);
    for (at, (listener, found)) in examined.iter().enumerate() {
        let conflict = conflict(&examined, at);
        let problem = found.refused.as_ref().or(conflict.as_ref());
        if let Some(problem) = problem {
            invalid.push(format!("{}: {}", listener.name, problem.message));
        }
        let not_served = not_served(unserved, problem, found);
        if let (None, Some(protocol)) = (&not_served, found.protocol) {
            output.listeners.push((
                listener.name.clone(),
                ListenerSpec {
                    port: listener.port,
                    protocol,
                    hostname: listener.hostname.clone(),
                    certificates: found.certificates.clone(),
                },
            ));
            for key in &found.certificates {
                if let Some(certificate) = held.get(key) {
                    output
                        .certificates
                        .insert(key.clone(), Arc::clone(certificate));
                }
            }
        }
        let mut conditions = listener_conditions(problem, conflict.as_ref(), found, generation);
        if let Some(overlap) = overlaps.remove(&at) {
            let condition = Condition::yes(
                types::OVERLAPPING_TLS_CONFIG,
                overlap.reason,
                overlap.message,
                generation,
            );
            conditions.push(condition);
        }
        output.status.listeners.push(ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: found.supported_kinds.clone(),
            attached_routes: 0,
            conditions,
            servable: not_served.is_none(),
        });
        output.attachable.listeners.push(AttachableListener {
            name: listener.name.clone(),
            port: listener.port,
            hostname: listener.hostname.clone(),
            takes_http_routes: found
                .supported_kinds
                .iter()
                .any(|kind| kind.group == GATEWAY_GROUP && kind.kind == "HTTPRoute"),
            namespaces: listener.allowed_namespaces.clone(),
            not_served,
        });
    }
    let without_parameters = view
        .class(&gateway.class_name)
        .is_some_and(|class| parameters_problem(view, class, settings).is_some());
    let accepted = accepted(
        gateway,
        refused,
        &invalid,
        &output.status.listeners,
        without_parameters,
    );
    let resolved = resolved(&output.status.listeners, generation);
    output.status.conditions = vec![accepted, resolved];
    output
}
