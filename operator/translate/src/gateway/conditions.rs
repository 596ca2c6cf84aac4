//! Conditions of a Gateway and its listeners.

use api::condition::{reasons, types};
use api_snapshot::config::ListenerProtocol;
use operator_objects::spec::Gateway;

use crate::listener::Examined;
use crate::problem::{Problem, join};
use crate::status::{Condition, ListenerStatus, holds};

/// Why nothing of a Gateway is served, apart from what it asks for outside of the snapshot.
///
/// Source: gateway-api v1 `GatewayConditionAccepted`.
pub(super) fn refused(gateway: &Gateway) -> Option<Problem> {
    // Client certificates that nobody checks would open what the user meant to close. Other fields do no harm unserved.
    let tls: Vec<&str> = gateway
        .unsupported
        .iter()
        .map(String::as_str)
        .filter(|field| field.contains("tls"))
        .collect();
    (!tls.is_empty()).then(|| {
        Problem::new(
            reasons::INVALID,
            format!("not served yet: {}; remove it", tls.join(", ")),
        )
    })
}

/// `without_parameters`: those of the class are invalid.
pub(super) fn accepted(
    gateway: &Gateway,
    refused: Option<Problem>,
    invalid: &[String],
    listeners: &[ListenerStatus],
    without_parameters: bool,
) -> Condition {
    let generation = gateway.meta.generation;
    if let Some(problem) = refused {
        return Condition::no(types::ACCEPTED, problem.reason, problem.message, generation);
    }
    let invalid_text = join(invalid.iter().map(String::as_str));
    if !invalid.is_empty() && invalid.len() == gateway.listeners.len() {
        let text = format!("no listener is valid: {invalid_text}");
        return Condition::no(
            types::ACCEPTED,
            reasons::LISTENERS_NOT_VALID,
            text,
            generation,
        );
    }
    if !invalid.is_empty() {
        let valid = listeners
            .iter()
            .filter(|listener| holds(&listener.conditions, types::ACCEPTED));
        let valid: Vec<&str> = valid.map(|listener| listener.name.as_str()).collect();
        let text = format!(
            "accepted: {}; not accepted: {invalid_text}",
            valid.join(", ")
        );
        return Condition::yes(
            types::ACCEPTED,
            reasons::LISTENERS_NOT_VALID,
            text,
            generation,
        );
    }
    let mut text = String::from("all listeners accepted");
    if !gateway.unsupported.is_empty() {
        text.push_str(&format!(
            "; not served yet: {}",
            gateway.unsupported.join(", ")
        ));
    }
    if without_parameters {
        text.push_str(&format!(
            "; parameters of GatewayClass {} are invalid, defaults are used",
            gateway.class_name
        ));
    }
    Condition::yes(types::ACCEPTED, reasons::ACCEPTED, text, generation)
}

/// Whether all listeners found what they refer to. The Gateway itself refers to nothing that is served yet.
///
/// Source: gateway-api v1 `GatewayConditionResolvedRefs`.
pub(super) fn resolved(listeners: &[ListenerStatus], generation: i64) -> Condition {
    let unresolved = listeners
        .iter()
        .filter(|listener| !holds(&listener.conditions, types::RESOLVED_REFS));
    let names: Vec<&str> = unresolved.map(|listener| listener.name.as_str()).collect();
    if names.is_empty() {
        return Condition::yes(
            types::RESOLVED_REFS,
            reasons::RESOLVED_REFS,
            "all references are resolved",
            generation,
        );
    }
    Condition::no(
        types::RESOLVED_REFS,
        reasons::LISTENERS_NOT_RESOLVED,
        format!("see the conditions of listeners: {}", join(names)),
        generation,
    )
}

/// Why a listener is not in the snapshot.
pub(super) fn not_served(
    refused: Option<&Problem>,
    problem: Option<&Problem>,
    found: &Examined,
) -> Option<String> {
    if let Some(problem) = refused.or(problem) {
        return Some(problem.message.clone());
    }
    let needs_certificate = found.protocol == Some(ListenerProtocol::Https);
    (needs_certificate && found.certificates.is_empty()).then(|| {
        join(
            found
                .unresolved
                .iter()
                .map(|problem| problem.message.as_str()),
        )
    })
}

pub(super) fn listener_conditions(
    problem: Option<&Problem>,
    conflict: Option<&Problem>,
    found: &Examined,
    generation: i64,
) -> Vec<Condition> {
    let accepted = match problem {
        Some(problem) => Condition::no(
            types::ACCEPTED,
            problem.reason,
            problem.message.clone(),
            generation,
        ),
        None => Condition::yes(
            types::ACCEPTED,
            reasons::ACCEPTED,
            "listener is valid",
            generation,
        ),
    };
    let resolved = match found.unresolved.first() {
        Some(first) => {
            let message = join(
                found
                    .unresolved
                    .iter()
                    .map(|problem| problem.message.as_str()),
            );
            Condition::no(types::RESOLVED_REFS, first.reason, message, generation)
        }
        None => {
            let notes = ["all references are resolved"]
                .into_iter()
                .chain(found.notes.iter().map(String::as_str));
            Condition::yes(
                types::RESOLVED_REFS,
                reasons::RESOLVED_REFS,
                join(notes),
                generation,
            )
        }
    };
    let conflicted = match conflict {
        Some(problem) => Condition::yes(
            types::CONFLICTED,
            problem.reason,
            problem.message.clone(),
            generation,
        ),
        None => Condition::no(
            types::CONFLICTED,
            reasons::NO_CONFLICTS,
            "distinct from all other listeners",
            generation,
        ),
    };
    vec![accepted, resolved, conflicted]
}
