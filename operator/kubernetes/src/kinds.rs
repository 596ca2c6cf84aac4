//! The kinds that are watched.

use kube::core::{ApiResource, GroupVersionKind};
use operator_objects::spec::POOL_GROUP;

/// A kind with the versions that are read, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) versions: &'static [&'static str],
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) is_namespaced: bool,
}

/// Read by name as well where namespaces are given.
pub(crate) const NAMESPACE: &str = "Namespace";

/// Kinds whose objects are all read. Secrets, ConfigMaps, CRDs and the ShardPool are not among them: those are read by name.
pub(crate) const WATCHED: &[Kind] = &[
    gateway_api("GatewayClass", "gatewayclasses", &["v1"], false),
    gateway_api("Gateway", "gateways", &["v1"], true),
    gateway_api("HTTPRoute", "httproutes", &["v1"], true),
    gateway_api(
        "ReferenceGrant",
        "referencegrants",
        &["v1", "v1beta1"],
        true,
    ),
    core(NAMESPACE, "namespaces", false),
    core("Service", "services", true),
    Kind {
        group: "discovery.k8s.io",
        versions: &["v1"],
        kind: "EndpointSlice",
        plural: "endpointslices",
        is_namespaced: true,
    },
];

/// Secrets, for watches by name.
pub(crate) const SECRET: Kind = core("Secret", "secrets", true);
/// ConfigMaps, for watches by name.
pub(crate) const CONFIG_MAP: Kind = core("ConfigMap", "configmaps", true);
/// CRDs, for watches by name.
pub(crate) const CRD: Kind = Kind {
    group: "apiextensions.k8s.io",
    versions: &["v1"],
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    is_namespaced: false,
};
/// The ShardPool, for a watch by name.
pub(crate) const POOL: Kind = Kind {
    group: POOL_GROUP,
    versions: &["v1alpha1"],
    kind: "ShardPool",
    plural: "shardpools",
    is_namespaced: true,
};

const fn gateway_api(
    kind: &'static str,
    plural: &'static str,
    versions: &'static [&'static str],
    is_namespaced: bool,
) -> Kind {
    Kind {
        group: api::GATEWAY_GROUP,
        versions,
        kind,
        plural,
        is_namespaced,
    }
}

const fn core(kind: &'static str, plural: &'static str, is_namespaced: bool) -> Kind {
    Kind {
        group: "",
        versions: &["v1"],
        kind,
        plural,
        is_namespaced,
    }
}

impl Kind {
    /// The kind in one of its versions.
    pub(crate) fn resource(&self, version: &str) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    /// Whether it comes from a CRD that may be missing.
    pub(crate) fn is_custom(&self) -> bool {
        [api::GATEWAY_GROUP, POOL_GROUP].contains(&self.group)
    }

    /// Whether its objects have a status of ours.
    pub(crate) fn has_status(&self) -> bool {
        self.group == api::GATEWAY_GROUP && self.kind != "ReferenceGrant"
    }

    /// Whether objects of it that cannot be read may be committed: then nobody can tell that they are gone. The others
    /// lead to conditions alone.
    pub(crate) fn is_served(&self) -> bool {
        self.group == api::GATEWAY_GROUP
    }

    /// The names of the CRDs that are watched.
    pub(crate) fn crds() -> impl Iterator<Item = String> {
        WATCHED
            .iter()
            .filter(|kind| kind.group == api::GATEWAY_GROUP)
            .map(|kind| format!("{}.{}", kind.plural, kind.group))
    }

    /// The kind of an object's status that we write.
    pub(crate) fn named(kind: &str) -> Option<&'static Self> {
        WATCHED.iter().find(|of| of.kind == kind)
    }
}
