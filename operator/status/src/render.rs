//! Full statuses from translate's and what only the running system knows. [pure]

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::condition::{reasons, types};
use api::{Revision, ShardId};
use operator_translate::status::{
    ClassStatus, Condition, GatewayStatus, ParentStatus, RouteStatus, condition, holds,
};
use serde_json::{Value, json};

/// An address of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusAddress {
    /// `IPAddress` or `Hostname`.
    pub kind: &'static str,
    /// The address.
    pub value: String,
}

impl StatusAddress {
    /// An IP address.
    pub fn ip(address: IpAddr) -> Self {
        Self {
            kind: "IPAddress",
            value: address.to_string(),
        }
    }

    /// A host name, as some load balancers give.
    pub fn hostname(name: &str) -> Self {
        Self {
            kind: "Hostname",
            value: name.to_owned(),
        }
    }
}

/// Addresses that a status may hold.
///
/// Source: gateway-api v1 `GatewayStatus.addresses`.
const ADDRESSES_MAX: usize = 16;

/// What the running system knows of a Gateway.
#[derive(Debug, Clone, Default)]
pub struct GatewayFacts {
    /// Its addresses.
    pub addresses: Vec<StatusAddress>,
    /// Its addresses are those of a Service: until there is one, it is not programmed.
    pub has_service: bool,
    /// Its shards.
    pub shards: Vec<ShardId>,
    /// Newest committed revision.
    pub committed: Revision,
    /// Newest revision that all live shards serve.
    pub propagated: Revision,
    /// Why it lacks an address, or has no port at all: a reason of `Programmed`, and a message.
    pub not_placed: Option<(&'static str, String)>,
    /// By listener port.
    pub ports: BTreeMap<u16, ListenerFacts>,
    /// Why the newest revision is not served.
    pub waiting: Option<String>,
}

/// What the running system knows of a listener port.
#[derive(Debug, Clone, Default)]
pub struct ListenerFacts {
    /// Port that clients use; none when it is not bound.
    pub public_port: Option<u16>,
    /// Why it cannot be bound.
    pub unavailable: Option<String>,
    /// It cannot be bound because the address is none of the machine's.
    pub is_address_unusable: bool,
}

/// How far a route has come at one parent.
#[derive(Debug, Clone, Default)]
pub struct ParentFacts {
    /// The revision that carries its newest form; none when there is nothing of it to carry.
    pub revision: Option<Revision>,
    /// Whether all live shards serve it.
    pub propagated: bool,
    /// Shards that serve it, and shards of the Gateway.
    pub shards: (usize, usize),
    /// Milliseconds from commit to the last acknowledgement.
    pub took_ms: u64,
    /// Why the revision is not activated.
    pub waiting: Option<String>,
    /// `Propagated` as it was before this process started, when nothing has changed since.
    pub inherited: Option<Value>,
}

/// Status of a GatewayClass.
pub fn class_status(status: &ClassStatus) -> Value {
    let features: Vec<Value> = status
        .supported_features
        .iter()
        .map(|name| json!({"name": name}))
        .collect();
    json!({"conditions": status.conditions, "supportedFeatures": features})
}

/// Status of a Gateway. `ports` gives each listener's port by name.
pub fn gateway_status(
    status: &GatewayStatus,
    ports: &BTreeMap<String, u16>,
    facts: &GatewayFacts,
    generation: i64,
) -> Value {
    let served = facts.propagated >= facts.committed && facts.committed != Revision(0);
    let mut listeners = Vec::new();
    let mut unavailable = 0;
    let mut servable = 0;
    for listener in &status.listeners {
        let port = ports
            .get(&listener.name)
            .and_then(|port| facts.ports.get(port));
        let taken = port.and_then(|port| port.unavailable.as_deref());
        let mut conditions = listener.conditions.clone();
        servable += usize::from(listener.servable);
        if let (true, Some(reason)) = (listener.servable, taken) {
            unavailable += 1;
            replace(
                &mut conditions,
                Condition::no(
                    types::ACCEPTED,
                    reasons::PORT_UNAVAILABLE,
                    reason,
                    generation,
                ),
            );
        }
        let programmed = if !listener.servable || taken.is_some() {
            Condition::no(
                types::PROGRAMMED,
                reasons::INVALID,
                "the listener cannot be served",
                generation,
            )
        } else if served {
            Condition::yes(
                types::PROGRAMMED,
                reasons::PROGRAMMED,
                port_message(ports.get(&listener.name), port),
                generation,
            )
        } else {
            Condition::no(
                types::PROGRAMMED,
                reasons::PENDING,
                waiting(facts),
                generation,
            )
        };
        conditions.push(programmed);
        listeners.push(json!({
            "name": listener.name,
            "attachedRoutes": listener.attached_routes,
            "supportedKinds": serde_json::to_value(listener).ok().and_then(|mut v| v.get_mut("supportedKinds").map(Value::take)).unwrap_or_default(),
            "conditions": conditions,
        }));
    }
    let mut conditions = status.conditions.clone();
    let accepted = holds(&conditions, types::ACCEPTED);
    let programmed = if !accepted {
        Condition::no(
            types::PROGRAMMED,
            reasons::INVALID,
            "the gateway is not accepted",
            generation,
        )
    } else if let Some((reason, message)) = &facts.not_placed {
        Condition::no(types::PROGRAMMED, reason, message, generation)
    } else if facts.has_service && facts.addresses.is_empty() && servable > 0 {
        Condition::no(
            types::PROGRAMMED,
            reasons::ADDRESS_NOT_ASSIGNED,
            NO_ADDRESS_YET,
            generation,
        )
    } else if servable == unavailable {
        let is_address = facts.ports.values().any(|port| port.is_address_unusable);
        let reason = if is_address {
            reasons::ADDRESS_NOT_USABLE
        } else {
            reasons::INVALID
        };
        let message = "no listener can be served; see the listeners' conditions";
        Condition::no(types::PROGRAMMED, reason, message, generation)
    } else if served {
        let shards: Vec<String> = facts.shards.iter().map(ToString::to_string).collect();
        let message = format!(
            "revision {} is served by {}",
            facts.propagated,
            shards.join(", ")
        );
        Condition::yes(types::PROGRAMMED, reasons::PROGRAMMED, message, generation)
    } else {
        Condition::no(
            types::PROGRAMMED,
            reasons::PENDING,
            waiting(facts),
            generation,
        )
    };
    if unavailable > 0 && accepted {
        let message = "some listeners cannot be served; see their conditions";
        replace(
            &mut conditions,
            Condition::yes(
                types::ACCEPTED,
                reasons::LISTENERS_NOT_VALID,
                message,
                generation,
            ),
        );
    }
    conditions.push(programmed);
    conditions.extend(addresses_assigned(facts, generation));
    let addresses: Vec<Value> = facts
        .addresses
        .iter()
        .take(ADDRESSES_MAX)
        .map(|address| json!({"type": address.kind, "value": address.value}))
        .collect();
    json!({"addresses": addresses, "conditions": conditions, "listeners": listeners})
}

/// What a Gateway waits for whose Service was just made.
const NO_ADDRESS_YET: &str =
    "its Service has no address yet; see the Service and its Events if this stays";

/// None while nothing is placed.
///
/// Source: gateway-api v1 `GatewayConditionAddressesAssigned`.
fn addresses_assigned(facts: &GatewayFacts, generation: i64) -> Option<Condition> {
    if let Some((_, reason)) = &facts.not_placed {
        let reason = reason.as_str();
        return Some(Condition::no(
            types::ADDRESSES_ASSIGNED,
            reasons::NOT_ASSIGNED,
            reason,
            generation,
        ));
    }
    if facts.has_service && facts.addresses.is_empty() {
        return Some(Condition::no(
            types::ADDRESSES_ASSIGNED,
            reasons::NOT_ASSIGNED,
            NO_ADDRESS_YET,
            generation,
        ));
    }
    let addresses: Vec<&str> = facts.addresses.iter().map(|of| of.value.as_str()).collect();
    (!addresses.is_empty()).then(|| {
        Condition::yes(
            types::ADDRESSES_ASSIGNED,
            reasons::ADDRESSES_ASSIGNED,
            addresses.join(", "),
            generation,
        )
    })
}

/// Status of a route; `facts` tells of each parent.
pub fn route_status(status: &RouteStatus, facts: impl Fn(&ParentStatus) -> ParentFacts) -> Value {
    let parents: Vec<Value> = status
        .parents
        .iter()
        .map(|parent| {
            let mut value = serde_json::to_value(parent).unwrap_or_default();
            let generation =
                condition(&parent.conditions, types::ACCEPTED).map_or(0, |c| c.observed_generation);
            let facts = facts(parent);
            let propagated = serde_json::to_value(propagated(parent, &facts, generation));
            let inherited = facts.inherited.filter(|inherited| {
                let same = propagated.as_ref().ok();
                same.is_some_and(|new| {
                    ["status", "observedGeneration"]
                        .iter()
                        .all(|field| inherited[field] == new[field])
                })
            });
            if let (Some(conditions), Some(propagated)) = (
                value.get_mut("conditions").and_then(Value::as_array_mut),
                inherited.or(propagated.ok()),
            ) {
                conditions.push(propagated);
            }
            value
        })
        .collect();
    json!({"parents": parents})
}

fn propagated(parent: &ParentStatus, facts: &ParentFacts, generation: i64) -> Condition {
    // What is served then is an older form, of which nobody asked.
    if !holds(&parent.conditions, types::ACCEPTED) {
        let message = "this generation is not accepted; see Accepted";
        return Condition::no(types::PROPAGATED, reasons::INVALID, message, generation);
    }
    let Some(revision) = facts.revision.filter(|_| parent.served) else {
        let message = "no rule of this generation is served by the gateway";
        return Condition::no(types::PROPAGATED, reasons::INVALID, message, generation);
    };
    let (served, total) = facts.shards;
    if facts.propagated {
        let message = format!(
            "{served}/{total} shards, revision {revision}, {} ms",
            facts.took_ms
        );
        Condition::yes(types::PROPAGATED, reasons::PROPAGATED, message, generation)
    } else {
        let message = facts
            .waiting
            .clone()
            .unwrap_or_else(|| format!("revision {revision} is being rolled out"));
        Condition::no(types::PROPAGATED, reasons::WAITING, message, generation)
    }
}

fn waiting(facts: &GatewayFacts) -> String {
    match &facts.waiting {
        Some(reason) => reason.clone(),
        None if facts.committed == Revision(0) => "not committed yet".to_owned(),
        None => format!("revision {} is being rolled out", facts.committed),
    }
}

fn port_message(port: Option<&u16>, facts: Option<&ListenerFacts>) -> String {
    match (port, facts.and_then(|facts| facts.public_port)) {
        (Some(port), Some(public)) if *port != public => {
            format!("port {port} may not be bound here; the listener is served on port {public}")
        }
        _ => "served".to_owned(),
    }
}

fn replace(conditions: &mut [Condition], new: Condition) {
    if let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) {
        *old = new;
    }
}

#[cfg(test)]
mod tests;
