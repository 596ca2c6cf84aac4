//! GatewayClass, Gateway and ReferenceGrant.

use api_gateway_types::gatewayclasses::GatewayClassSpec;
use api_gateway_types::gateways::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From, GatewayListenersTls,
    GatewayListenersTlsMode, GatewaySpec,
};
use api_gateway_types::referencegrants::ReferenceGrantSpec;
use serde_json::Value;

use super::{port, spec};
use crate::spec::{
    AllowedNamespaces, Gateway, GatewayAddress, GatewayClass, GrantFrom, GrantTo, GroupKind,
    LabelRequirement, LabelSelector, Listener, ListenerTls, Meta, Object, ParametersRef,
    ReferenceGrant, SecretRef,
};

pub(super) fn class(object: &Value, meta: Meta) -> Result<Object, String> {
    let spec: GatewayClassSpec = spec(object)?;
    Ok(Object::GatewayClass(GatewayClass {
        meta,
        controller_name: spec.controller_name,
        parameters_ref: spec.parameters_ref.map(|of| ParametersRef {
            group: of.group,
            kind: of.kind,
            namespace: of.namespace,
            name: of.name,
        }),
    }))
}

pub(super) fn grant(object: &Value, meta: Meta) -> Result<Object, String> {
    let spec: ReferenceGrantSpec = spec(object)?;
    Ok(Object::ReferenceGrant(ReferenceGrant {
        meta,
        from: spec
            .from
            .into_iter()
            .map(|from| GrantFrom {
                group: from.group,
                kind: from.kind,
                namespace: from.namespace,
            })
            .collect(),
        to: spec
            .to
            .into_iter()
            .map(|to| GrantTo {
                group: to.group,
                kind: to.kind,
                name: to.name,
            })
            .collect(),
    }))
}

pub(super) fn gateway(object: &Value, meta: Meta) -> Result<Object, String> {
    let spec: GatewaySpec = spec(object)?;
    let infrastructure = spec.infrastructure;
    let mut unsupported = Vec::new();
    if spec.tls.is_some() {
        unsupported.push("spec.tls".to_owned());
    }
    if spec.default_scope.is_some() {
        unsupported.push("spec.defaultScope".to_owned());
    }
    let (mut labels, mut annotations, mut parameters_ref) = Default::default();
    if let Some(infrastructure) = infrastructure {
        labels = infrastructure.labels.unwrap_or_default();
        annotations = infrastructure.annotations.unwrap_or_default();
        parameters_ref = infrastructure.parameters_ref.map(|of| ParametersRef {
            group: of.group,
            kind: of.kind,
            namespace: None,
            name: of.name,
        });
    }
    Ok(Object::Gateway(Gateway {
        meta,
        class_name: spec.gateway_class_name,
        listeners: spec.listeners.into_iter().map(listener).collect(),
        addresses: spec
            .addresses
            .unwrap_or_default()
            .into_iter()
            .map(|address| GatewayAddress {
                kind: address.r#type.unwrap_or_else(|| "IPAddress".into()),
                value: address.value.filter(|value| !value.is_empty()),
            })
            .collect(),
        infrastructure_labels: labels,
        infrastructure_annotations: annotations,
        parameters_ref,
        unsupported,
    }))
}

fn listener(listener: GatewayListeners) -> Listener {
    let allowed = listener.allowed_routes;
    let (kinds, namespaces) =
        allowed.map_or((None, None), |allowed| (allowed.kinds, allowed.namespaces));
    let mut unsupported = Vec::new();
    if listener.filters.is_some() {
        unsupported.push("filters".to_owned());
    }
    Listener {
        name: listener.name,
        hostname: listener
            .hostname
            .filter(|host| !host.is_empty())
            .map(|host| host.to_ascii_lowercase()),
        port: port(listener.port),
        protocol: listener.protocol,
        tls: listener.tls.map(tls),
        allowed_namespaces: namespaces.map_or(
            AllowedNamespaces::Same,
            |namespaces| match namespaces.from {
                Some(From::All) => AllowedNamespaces::All,
                Some(From::Selector) => {
                    let selector = namespaces.selector;
                    AllowedNamespaces::Selector(selector.map_or_else(
                        LabelSelector::default,
                        |selector| {
                            LabelSelector {
                                match_labels: selector.match_labels.unwrap_or_default(),
                                match_expressions: selector
                                    .match_expressions
                                    .unwrap_or_default()
                                    .into_iter()
                                    .map(|e| LabelRequirement {
                                        key: e.key,
                                        operator: e.operator,
                                        values: e.values.unwrap_or_default(),
                                    })
                                    .collect(),
                            }
                        },
                    ))
                }
                Some(From::Same) | None => AllowedNamespaces::Same,
            },
        ),
        allowed_kinds: kinds
            .unwrap_or_default()
            .into_iter()
            .map(|kind| GroupKind {
                group: kind.group.unwrap_or_else(|| api::GATEWAY_GROUP.into()),
                kind: kind.kind,
            })
            .collect(),
        unsupported,
    }
}

fn tls(tls: GatewayListenersTls) -> ListenerTls {
    ListenerTls {
        mode: match tls.mode {
            Some(GatewayListenersTlsMode::Passthrough) => "Passthrough".into(),
            Some(GatewayListenersTlsMode::Terminate) | None => "Terminate".into(),
        },
        certificate_refs: tls
            .certificate_refs
            .unwrap_or_default()
            .into_iter()
            .map(|of| SecretRef {
                group: of.group.unwrap_or_default(),
                kind: of.kind.unwrap_or_else(|| "Secret".into()),
                namespace: of.namespace,
                name: of.name,
            })
            .collect(),
        options: tls.options.unwrap_or_default(),
    }
}
