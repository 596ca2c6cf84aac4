//! The kinds that are watched.

use kube::core::{ApiResource, GroupVersionKind};

/// A kind with the versions that are read, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) versions: &'static [&'static str],
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) is_namespaced: bool,
}

/// Kinds whose objects are all read. Secrets and ConfigMaps are not among them: those are read by name.
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
    core("Namespace", "namespaces", false),
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
        self.group == api::GATEWAY_GROUP
    }

    /// The kind of an object's status that we write.
    pub(crate) fn named(kind: &str) -> Option<&'static Self> {
        WATCHED.iter().find(|of| of.kind == kind)
    }
}
