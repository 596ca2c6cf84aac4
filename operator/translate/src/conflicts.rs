//! What the listeners of one Gateway are to each other: conflicts, and TLS configuration that overlaps.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::CertificateKey;
use api::condition::reasons;
use api_snapshot::config::ListenerProtocol;
use api_snapshot::facts::Certificate;
use operator_objects::spec::Listener;

use crate::hostname::{intersect, intersect_optional};
use crate::listener::Examined;
use crate::problem::Problem;

/// Why a listener is not distinct from others, if it is not. All listeners of a conflict have one: none wins.
///
/// Listeners of a protocol that is not served conflict with nobody: nothing is bound for them.
///
/// Source: gateway-api v1 `GatewaySpec.listeners`, "Handling indistinct Listeners".
pub(crate) fn conflict(listeners: &[(&Listener, Examined)], at: usize) -> Option<Problem> {
    let (this, examined) = &listeners[at];
    examined.protocol?;
    let others = || {
        let others = listeners
            .iter()
            .enumerate()
            .filter(move |(index, _)| *index != at);
        others
            .map(|(_, other)| other)
            .filter(|(other, examined)| other.port == this.port && examined.protocol.is_some())
    };
    if let Some((other, _)) = others().find(|(_, other)| other.protocol != examined.protocol) {
        let message = format!(
            "listener {} has port {} with protocol {}",
            other.name, other.port, other.protocol
        );
        return Some(Problem::new(reasons::PROTOCOL_CONFLICT, message));
    }
    let (other, _) = others().find(|(other, _)| other.hostname == this.hostname)?;
    let host = this.hostname.as_deref().unwrap_or("(all)");
    let message = format!(
        "listener {} has port {} with hostname {host} too",
        other.name, other.port
    );
    Some(Problem::new(reasons::HOSTNAME_CONFLICT, message))
}

/// Why a listener's TLS configuration may be used for another's requests when a client reuses a connection.
///
/// Both reasons are looked for; overlapping certificates are the one that is told when both hold.
///
/// Source: gateway-api v1 `ListenerConditionOverlappingTLSConfig`.
pub(crate) fn overlap(
    listeners: &[(&Listener, Examined)],
    at: usize,
    held: &BTreeMap<CertificateKey, Arc<Certificate>>,
) -> Option<Problem> {
    let (this, examined) = &listeners[at];
    if examined.protocol != Some(ListenerProtocol::Https) {
        return None;
    }
    let names = |examined: &Examined| -> Vec<&str> {
        let certificates = examined.certificates.iter().filter_map(|key| held.get(key));
        certificates
            .flat_map(|certificate| certificate.dns_names.iter().map(String::as_str))
            .collect()
    };
    let own = names(examined);
    let (mut by_certificate, mut by_hostname) = (Vec::new(), Vec::new());
    for (index, (other, other_examined)) in listeners.iter().enumerate() {
        let https = other_examined.protocol == Some(ListenerProtocol::Https);
        if index == at || !https || other.port != this.port {
            continue;
        }
        if intersect_optional(this.hostname.as_deref(), other.hostname.as_deref()).is_some() {
            by_hostname.push(other.name.as_str());
        }
        if names(other_examined)
            .iter()
            .any(|name| own.iter().any(|mine| intersect(mine, name).is_some()))
        {
            by_certificate.push(other.name.as_str());
        }
    }
    let (reason, what, with) = match (by_certificate.is_empty(), by_hostname.is_empty()) {
        (false, _) => (
            reasons::OVERLAPPING_CERTIFICATES,
            "certificates",
            by_certificate,
        ),
        (true, false) => (reasons::OVERLAPPING_HOSTNAMES, "hostnames", by_hostname),
        (true, true) => return None,
    };
    let message = format!(
        "{what} overlap with those of listener {}; requests that reuse a connection for another listener's host get 421",
        with.join(", ")
    );
    Some(Problem::new(reason, message))
}
