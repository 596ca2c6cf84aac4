//! One listener by itself: protocol, kinds, certificates. What it shares with others is in `conflicts`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::condition::reasons;
use api::{CertificateKey, GATEWAY_GROUP};
use api_snapshot::config::ListenerProtocol;
use api_snapshot::facts::Certificate;
use operator_index::Index;
use operator_objects::spec::{Gateway, GroupKind, Listener};

use crate::certificate::{Certificates, superseded};
use crate::grants::{RefFrom, RefTo, resolve_ref};
use crate::problem::Problem;

/// A listener after it was looked at alone.
#[derive(Debug)]
pub(crate) struct Examined {
    /// None: a protocol that is not served.
    pub(crate) protocol: Option<ListenerProtocol>,
    /// Why it is not accepted.
    pub(crate) refused: Option<Problem>,
    /// References that were not resolved, in order.
    pub(crate) unresolved: Vec<Problem>,
    pub(crate) supported_kinds: Vec<GroupKind>,
    /// Valid ones in the user's order.
    pub(crate) certificates: Vec<CertificateKey>,
    /// Secrets that it may read, whether they are there or not.
    pub(crate) secrets: Vec<CertificateKey>,
    /// What is to be said although all is resolved: certificates that have expired.
    pub(crate) notes: Vec<String>,
}

/// Kinds of routes that a protocol carries, of those that are served.
///
/// Source: gateway-api v1 `AllowedRoutes.kinds`.
fn kinds_of(protocol: Option<ListenerProtocol>) -> Vec<GroupKind> {
    match protocol {
        Some(_) => vec![GroupKind {
            group: GATEWAY_GROUP.into(),
            kind: "HTTPRoute".into(),
        }],
        None => Vec::new(),
    }
}

/// Looks at one listener; certificates that are valid are added to `held`.
pub(crate) fn examine(
    view: &Index,
    gateway: &Gateway,
    listener: &Listener,
    cache: &mut Certificates,
    held: &mut BTreeMap<CertificateKey, Arc<Certificate>>,
) -> Examined {
    let protocol = match listener.protocol.as_str() {
        "HTTP" => Some(ListenerProtocol::Http),
        "HTTPS" => Some(ListenerProtocol::Https),
        _ => None,
    };
    let (supported_kinds, kinds_problem) = kinds(listener, protocol);
    let mut examined = Examined {
        protocol,
        refused: refused(listener, protocol),
        unresolved: kinds_problem.into_iter().collect(),
        supported_kinds,
        certificates: Vec::new(),
        secrets: Vec::new(),
        notes: Vec::new(),
    };
    if protocol == Some(ListenerProtocol::Https) && examined.refused.is_none() {
        resolve_certificates(view, gateway, listener, cache, held, &mut examined);
    }
    examined
}

/// Why a listener cannot be accepted whatever it refers to.
///
/// Source: gateway-api v1 `ListenerConditionAccepted`, `ProtocolType`.
fn refused(listener: &Listener, protocol: Option<ListenerProtocol>) -> Option<Problem> {
    let unsupported = |message: String| Some(Problem::new(reasons::UNSUPPORTED_VALUE, message));
    let Some(protocol) = protocol else {
        let message = format!(
            "protocol {} is not served; use HTTP or HTTPS",
            listener.protocol
        );
        return Some(Problem::new(reasons::UNSUPPORTED_PROTOCOL, message));
    };
    if !listener.unsupported.is_empty() {
        return unsupported(format!(
            "not served yet: {}; remove it",
            listener.unsupported.join(", ")
        ));
    }
    match (protocol, &listener.tls) {
        (ListenerProtocol::Http, Some(_)) => {
            unsupported("tls must not be set for protocol HTTP".into())
        }
        (ListenerProtocol::Https, Some(tls)) if tls.mode != "Terminate" => unsupported(format!(
            "tls.mode {} is not possible for protocol HTTPS; use Terminate",
            tls.mode
        )),
        _ => None,
    }
}

/// Kinds taken, and those asked for that cannot be.
fn kinds(
    listener: &Listener,
    protocol: Option<ListenerProtocol>,
) -> (Vec<GroupKind>, Option<Problem>) {
    let possible = kinds_of(protocol);
    if listener.allowed_kinds.is_empty() {
        return (possible, None);
    }
    let mut supported: Vec<GroupKind> = Vec::new();
    let mut others = Vec::new();
    for kind in &listener.allowed_kinds {
        if !possible.contains(kind) {
            others.push(format!("{}/{}", kind.group, kind.kind));
        } else if !supported.contains(kind) {
            supported.push(kind.clone());
        }
    }
    let problem = (!others.is_empty()).then(|| {
        let possible: Vec<&str> = possible.iter().map(|kind| kind.kind.as_str()).collect();
        let message = format!(
            "allowedRoutes.kinds: {} cannot attach here; a listener of protocol {} takes {}",
            others.join(", "),
            listener.protocol,
            if possible.is_empty() {
                "no routes yet".into()
            } else {
                possible.join(", ")
            },
        );
        Problem::new(reasons::INVALID_ROUTE_KINDS, message)
    });
    (supported, problem)
}

/// Source: gateway-api v1 `ListenerTLSConfig.certificateRefs`.
fn resolve_certificates(
    view: &Index,
    gateway: &Gateway,
    listener: &Listener,
    cache: &mut Certificates,
    held: &mut BTreeMap<CertificateKey, Arc<Certificate>>,
    examined: &mut Examined,
) {
    let refs = listener
        .tls
        .as_ref()
        .map_or(&[][..], |tls| &tls.certificate_refs);
    if refs.is_empty() {
        let message = "tls.certificateRefs: at least one Secret is needed for protocol HTTPS";
        examined
            .unresolved
            .push(Problem::new(reasons::INVALID_CERTIFICATE_REF, message));
    }
    for (at, secret) in refs.iter().enumerate() {
        let invalid = |text: String| {
            Problem::new(
                reasons::INVALID_CERTIFICATE_REF,
                format!("tls.certificateRefs[{at}]: {text}"),
            )
        };
        if !secret.group.is_empty() || secret.kind != "Secret" {
            let text = format!(
                "kind {} of group {:?} is not supported; use a core Secret",
                secret.kind, secret.group
            );
            examined.unresolved.push(invalid(text));
            continue;
        }
        let home = gateway.meta.namespace.as_str();
        let namespace = secret.namespace.as_deref().unwrap_or(home);
        let from = RefFrom {
            group: GATEWAY_GROUP,
            kind: "Gateway",
            namespace: home,
        };
        let to = RefTo {
            group: "",
            kind: "Secret",
            namespace,
            name: &secret.name,
        };
        if let Err(refused) = resolve_ref(from, to, view.grants_in(namespace)) {
            let message = format!("tls.certificateRefs[{at}]: {refused}");
            examined
                .unresolved
                .push(Problem::new(reasons::REF_NOT_PERMITTED, message));
            continue;
        }
        let key = CertificateKey::new(namespace, &secret.name);
        examined.secrets.push(key.clone());
        match cache.of(view, &key) {
            Ok(certificate) => {
                if let Some(text) = superseded(view, &key) {
                    examined.unresolved.push(invalid(text));
                }
                if let Some(when) = cache.expired(&certificate) {
                    examined.notes.push(format!(
                        "certificate {key} expired at {when} and is served all the same"
                    ));
                }
                held.insert(key.clone(), certificate);
                if !examined.certificates.contains(&key) {
                    examined.certificates.push(key);
                }
            }
            Err(problem) => examined.unresolved.push(invalid(problem.to_string())),
        }
    }
}
