//! An HTTPRoute: its rules for each Gateway that serves it, and its status at each parent.

use std::collections::{BTreeMap, BTreeSet};

use api::condition::{reasons, types};
use api::{BackendKey, GATEWAY_GROUP, GatewayKey, RouteKey};
use api_snapshot::config::{Attachment, RuleSpec};
use operator_index::Index;
use operator_objects::spec::{HttpRoute, ParentRef, Rejected};

use crate::attach::attach;
use crate::gateway::Attachable;
use crate::problem::{Problem, join};
use crate::rule::{Rules, rules};
use crate::status::{Condition, ParentStatus, RouteStatus};

/// What a route becomes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteOutput {
    /// Rules for each Gateway that serves any, by their place in the route.
    pub rules: BTreeMap<GatewayKey, Vec<(u16, RuleSpec)>>,
    /// Backends that these rules lead to.
    pub backends: BTreeSet<BackendKey>,
    /// Listeners that the route is attached to, served or not: what `attachedRoutes` counts.
    pub attached: BTreeSet<(GatewayKey, String)>,
    /// Its status.
    pub status: RouteStatus,
}

/// The Gateways of ours, as routes see them.
pub trait Parents {
    /// None when the Gateway does not exist or is not ours: such a parent gets no status from us.
    fn attachable(&self, key: &GatewayKey) -> Option<&Attachable>;
}

/// Translates a route; none when it neither exists nor was rejected.
///
/// A route whose newest form is rejected goes on as in its last good form, with `Accepted` False for the parents that
/// the rejected form names, and counts as attached nowhere.
pub fn translate_route(view: &Index, parents: &dyn Parents, key: &RouteKey) -> Option<RouteOutput> {
    let rejected = view.rejected(&key.object());
    let output = view
        .route(key)
        .map(|route| translate(view, parents, key, route));
    match rejected {
        Some(rejected) => Some(reject(output.unwrap_or_default(), parents, key, rejected)),
        None => output,
    }
}

/// The Gateway of ours that a parentRef names, if it names one.
fn parent<'p>(
    parents: &'p dyn Parents,
    key: &RouteKey,
    of: &ParentRef,
) -> Option<(GatewayKey, &'p Attachable)> {
    if of.group != GATEWAY_GROUP || of.kind != "Gateway" {
        return None;
    }
    let gateway = GatewayKey::new(of.namespace.as_deref().unwrap_or(&key.namespace), &of.name);
    let attachable = parents.attachable(&gateway)?;
    Some((gateway, attachable))
}

/// Why no rule of a route can be served, whatever its parents say.
fn refused(route: &HttpRoute, rules: &Rules) -> Option<Problem> {
    if !route.unsupported.is_empty() {
        let message = format!(
            "not served yet: {}; remove it",
            route.unsupported.join(", ")
        );
        return Some(Problem::new(reasons::UNSUPPORTED_VALUE, message));
    }
    let (_, first) = rules.dropped.first().filter(|_| rules.served.is_empty())?;
    let messages = rules
        .dropped
        .iter()
        .map(|(_, problem)| problem.message.as_str());
    Some(Problem::new(
        first.reason,
        format!("no rule can be served: {}", join(messages)),
    ))
}

fn translate(
    view: &Index,
    parents: &dyn Parents,
    key: &RouteKey,
    route: &HttpRoute,
) -> RouteOutput {
    let mut rules = rules(view, route);
    let refused = refused(route, &rules);
    let mut output = RouteOutput::default();
    let mut attachments: BTreeMap<GatewayKey, (&Attachable, Vec<Attachment>)> = BTreeMap::new();
    for of in distinct(&route.parent_refs) {
        let Some((gateway, attachable)) = parent(parents, key, of) else {
            continue;
        };
        let attached = attach(view, route, of, &gateway, attachable)
            .and_then(|attached| refused.clone().map_or(Ok(attached), Err));
        let mut status = ParentStatus {
            parent_ref: of.clone(),
            controller_name: api::controller_name(),
            conditions: conditions(
                route,
                &rules,
                &attached
                    .as_ref()
                    .map(|list| not_served(list))
                    .map_err(Clone::clone),
            ),
            gateway: gateway.clone(),
            served: false,
        };
        for (listener, attachment) in attached.unwrap_or_default() {
            output
                .attached
                .insert((gateway.clone(), listener.name.clone()));
            if listener.not_served.is_none() {
                status.served = true;
                let (_, list) = attachments
                    .entry(gateway.clone())
                    .or_insert((attachable, Vec::new()));
                if !list.contains(&attachment) {
                    list.push(attachment);
                }
            }
        }
        output.status.parents.reserve_exact(1);
        output.status.parents.push(status);
    }
    if !attachments.is_empty() {
        output.backends = std::mem::take(&mut rules.backends);
    }
    for (gateway, (attachable, mut list)) in attachments {
        // Several parentRefs may name listeners in any order; entries follow the Gateway's.
        list.sort_by_key(|one| {
            attachable
                .listeners
                .iter()
                .position(|listener| listener.name == one.listener)
        });
        let mut served = rules.served.clone();
        for (_, rule) in &mut served {
            rule.attachments.clone_from(&list);
        }
        output.rules.insert(gateway, served);
    }
    output
}

/// Equal parentRefs have one status.
fn distinct(refs: &[ParentRef]) -> impl Iterator<Item = &ParentRef> {
    refs.iter()
        .enumerate()
        .filter(|(at, of)| !refs[..*at].contains(of))
        .map(|(_, of)| of)
}

/// Of the listeners that a route is attached to, those that are not served.
fn not_served(attached: &[(&crate::gateway::AttachableListener, Attachment)]) -> Vec<String> {
    let with_reason = attached.iter().filter_map(|(listener, _)| {
        let why = listener.not_served.as_ref()?;
        Some(format!("listener {} is not served: {why}", listener.name))
    });
    with_reason.collect()
}

/// Source: gateway-api v1 `RouteParentStatus.conditions`, `RouteConditionPartiallyInvalid`.
fn conditions(
    route: &HttpRoute,
    rules: &Rules,
    attached: &Result<Vec<String>, Problem>,
) -> Vec<Condition> {
    let generation = route.meta.generation;
    let accepted = match attached {
        Err(problem) => Condition::no(
            types::ACCEPTED,
            problem.reason,
            problem.message.clone(),
            generation,
        ),
        Ok(not_served) if not_served.is_empty() => Condition::yes(
            types::ACCEPTED,
            reasons::ACCEPTED,
            "route is accepted",
            generation,
        ),
        Ok(not_served) => {
            let text = format!(
                "route is accepted; {}",
                join(not_served.iter().map(String::as_str))
            );
            Condition::yes(types::ACCEPTED, reasons::ACCEPTED, text, generation)
        }
    };
    let resolved = match rules.unresolved.first() {
        Some(first) => {
            let text = join(
                rules
                    .unresolved
                    .iter()
                    .map(|problem| problem.message.as_str()),
            );
            Condition::no(types::RESOLVED_REFS, first.reason, text, generation)
        }
        None => Condition::yes(
            types::RESOLVED_REFS,
            reasons::RESOLVED_REFS,
            "all references are resolved",
            generation,
        ),
    };
    let mut conditions = vec![accepted, resolved];
    if attached.is_ok() && !rules.dropped.is_empty() {
        let which: Vec<String> = rules
            .dropped
            .iter()
            .map(|(index, _)| index.to_string())
            .collect();
        let why = join(
            rules
                .dropped
                .iter()
                .map(|(_, problem)| problem.message.as_str()),
        );
        // The API asks for this beginning.
        let text = format!("Dropped Rule {}: {why}", which.join(", "));
        conditions.push(Condition::yes(
            types::PARTIALLY_INVALID,
            reasons::UNSUPPORTED_VALUE,
            text,
            generation,
        ));
    }
    conditions
}

/// The status of a rejected route; what serves stays.
fn reject(
    mut output: RouteOutput,
    parents: &dyn Parents,
    key: &RouteKey,
    rejected: &Rejected,
) -> RouteOutput {
    let served: BTreeSet<GatewayKey> = output.rules.keys().cloned().collect();
    let named = if rejected.parents.is_empty() {
        output
            .status
            .parents
            .iter()
            .map(|status| status.parent_ref.clone())
            .collect()
    } else {
        rejected.parents.clone()
    };
    output.attached.clear();
    // An unknown value is the usual cause, and the one that the API names for a route that cannot be read.
    output.status = not_accepted(parents, key, &named, |gateway| {
        let text = match served.contains(gateway) {
            true => format!("{}; the last valid form is served", rejected.message),
            false => rejected.message.clone(),
        };
        Condition::no(
            types::ACCEPTED,
            reasons::UNSUPPORTED_VALUE,
            text,
            rejected.generation,
        )
    });
    for parent in &mut output.status.parents {
        parent.served = served.contains(&parent.gateway);
    }
    output
}

/// The status of a route whose translation panicked; it serves nothing.
pub(crate) fn quarantined(
    view: &Index,
    parents: &dyn Parents,
    key: &RouteKey,
    message: &str,
) -> RouteOutput {
    let route = view.route(key);
    let generation = route.map_or(0, |route| route.meta.generation);
    let refs = route.map_or(&[][..], |route| &route.parent_refs);
    let status = not_accepted(parents, key, refs, |_| {
        Condition::no(types::ACCEPTED, reasons::QUARANTINED, message, generation)
    });
    RouteOutput {
        status,
        ..RouteOutput::default()
    }
}

fn not_accepted(
    parents: &dyn Parents,
    key: &RouteKey,
    refs: &[ParentRef],
    accepted: impl Fn(&GatewayKey) -> Condition,
) -> RouteStatus {
    let statuses = distinct(refs).filter_map(|of| {
        let (gateway, _) = parent(parents, key, of)?;
        Some(ParentStatus {
            parent_ref: of.clone(),
            controller_name: api::controller_name(),
            conditions: vec![accepted(&gateway)],
            gateway,
            served: false,
        })
    });
    RouteStatus {
        parents: statuses.collect(),
    }
}
