//! GatewayClass, Gateway and ReferenceGrant.

use std::collections::BTreeMap;

use super::Meta;

/// GatewayClass.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayClass {
    /// Metadata.
    pub meta: Meta,
    /// `spec.controllerName`.
    pub controller_name: String,
    /// `spec.parametersRef`.
    pub parameters_ref: Option<ParametersRef>,
}

/// Reference to a parameters object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParametersRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, if given.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// Gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Metadata.
    pub meta: Meta,
    /// `spec.gatewayClassName`.
    pub class_name: String,
    /// `spec.listeners`.
    pub listeners: Vec<Listener>,
    /// `spec.addresses`.
    pub addresses: Vec<GatewayAddress>,
    /// `spec.infrastructure.labels`.
    pub infrastructure_labels: BTreeMap<String, String>,
    /// `spec.infrastructure.annotations`.
    pub infrastructure_annotations: BTreeMap<String, String>,
    /// `spec.infrastructure.parametersRef`.
    pub parameters_ref: Option<ParametersRef>,
    /// Fields that are set and not served yet (`spec.tls.frontend`, `spec.allowedListeners`, ...).
    pub unsupported: Vec<String>,
}

/// One of `spec.addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayAddress {
    /// `IPAddress`, `Hostname` or a domain-prefixed type.
    pub kind: String,
    /// Value; none asks for any address of that type.
    pub value: Option<String>,
}

/// One of `spec.listeners`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Name, unique in the Gateway.
    pub name: String,
    /// Lower-case host name, or none for all.
    pub hostname: Option<String>,
    /// Port.
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP` or a domain-prefixed one.
    pub protocol: String,
    /// `tls`.
    pub tls: Option<ListenerTls>,
    /// `allowedRoutes.namespaces`.
    pub allowed_namespaces: AllowedNamespaces,
    /// `allowedRoutes.kinds`; empty means those of the protocol.
    pub allowed_kinds: Vec<GroupKind>,
    /// Fields that are set and not served yet.
    pub unsupported: Vec<String>,
}

/// `listeners[].tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// `Terminate` or `Passthrough`.
    pub mode: String,
    /// `certificateRefs`.
    pub certificate_refs: Vec<SecretRef>,
    /// `options`.
    pub options: BTreeMap<String, String>,
}

/// Reference to a Secret or the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    /// API group; empty for core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, if given.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// From which namespaces routes may attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedNamespaces {
    /// All.
    All,
    /// The Gateway's own.
    Same,
    /// Those whose labels match.
    Selector(LabelSelector),
    /// None (gateway-api v1 `FromNamespaces` "None", of listener sets).
    None,
}

/// `metav1.LabelSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Each must be there with this value.
    pub match_labels: BTreeMap<String, String>,
    /// Each must hold.
    pub match_expressions: Vec<LabelRequirement>,
}

/// One of `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRequirement {
    /// Label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values.
    pub values: Vec<String>,
}

/// A kind of route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKind {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
}

/// ReferenceGrant.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceGrant {
    /// Metadata.
    pub meta: Meta,
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what.
    pub to: Vec<GrantTo>,
}

/// One of `spec.from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFrom {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// One of `spec.to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantTo {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name, or none for all of the kind.
    pub name: Option<String>,
}
