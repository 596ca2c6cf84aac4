//! What we serve, by the names of the Gateway API's `pkg/features`, and what each needs of the installed CRDs.

use operator_index::Index;

use crate::Settings;

/// A feature that is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What it needs to be true.
    pub needs: Needs,
    /// What of ours makes it true: whoever claims one names where it is built.
    pub because: &'static str,
}

/// What a feature needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The CRD of this kind.
    Kind(&'static str),
    /// This field of this kind; lists are looked into.
    Field(&'static str, &'static [&'static str]),
    /// CRDs of at least this minor version of v1: its name did not exist before.
    Since(u32),
    /// A cluster, and this field of a Gateway: what is asked for is done by Services.
    Cluster(&'static [&'static str]),
}

/// All that is claimed, in ascending order of names.
pub const FEATURES: &[Feature] = &[
    feature("Gateway", Needs::Kind("Gateway"), "translate/gateway"),
    feature(
        "GatewayAddressEmpty",
        Needs::Field("Gateway", &["spec", "addresses", "value"]),
        "an address without value is any: placement, the Service",
    ),
    feature(
        "GatewayHTTPListenerIsolation",
        Needs::Kind("Gateway"),
        "shard-proxy/table: the listener with the closest hostname alone answers",
    ),
    feature(
        "GatewayHTTPSListenerDetectMisdirectedRequests",
        Needs::Kind("Gateway"),
        "forward: a host of another listener than the server name's gets 421; overlaps are told: translate/overlap",
    ),
    feature(
        "GatewayInfrastructure",
        Needs::Cluster(&["spec", "infrastructure", "parametersRef"]),
        "labels and annotations stand on the Gateway's Service, parametersRef is checked: translate/parameters",
    ),
    feature(
        "GatewayPort8080",
        Needs::Kind("Gateway"),
        "any port: each has a target port of its own",
    ),
    feature(
        "GatewayRouteHostnameIntersectionPrecedence",
        Needs::Since(7),
        "shard-proxy/table: precedence by the route's own hostname",
    ),
    feature(
        "GatewayStaticAddresses",
        Needs::Field("Gateway", &["spec", "addresses", "value"]),
        "the Service asks for them; unusable ones are told: status/render",
    ),
    feature("HTTPRoute", Needs::Kind("HTTPRoute"), "translate/route"),
    feature(
        "HTTPRoute303RedirectStatusCode",
        REDIRECT,
        "forward: filters",
    ),
    feature(
        "HTTPRoute307RedirectStatusCode",
        REDIRECT,
        "forward: filters",
    ),
    feature(
        "HTTPRoute308RedirectStatusCode",
        REDIRECT,
        "forward: filters",
    ),
    feature(
        "HTTPRouteBackendProtocolH2C",
        Needs::Kind("HTTPRoute"),
        "appProtocol kubernetes.io/h2c: translate/backend",
    ),
    feature(
        "HTTPRouteBackendRequestHeaderModification",
        Needs::Field("HTTPRoute", &["spec", "rules", "backendRefs", "filters"]),
        "filters of a backendRef run after its choice",
    ),
    feature(
        "HTTPRouteBackendTimeout",
        Needs::Field(
            "HTTPRoute",
            &["spec", "rules", "timeouts", "backendRequest"],
        ),
        "forward: deadline of one try",
    ),
    feature(
        "HTTPRouteBackendURLRewrite",
        Needs::Since(7),
        "URLRewrite on a backendRef runs after its choice",
    ),
    feature(
        "HTTPRouteDestinationPortMatching",
        PARENT_PORT,
        "parentRef.port: translate/attach; the listener's port counts, never the socket's",
    ),
    feature("HTTPRouteHostRewrite", REWRITE, "forward: filters"),
    feature(
        "HTTPRouteMethodMatching",
        Needs::Field("HTTPRoute", &["spec", "rules", "matches", "method"]),
        "table: matches",
    ),
    feature(
        "HTTPRouteNamedRouteRule",
        Needs::Field("HTTPRoute", &["spec", "rules", "name"]),
        "names are kept in the snapshot",
    ),
    feature(
        "HTTPRouteParentRefPort",
        PARENT_PORT,
        "parentRef.port: translate/attach",
    ),
    feature("HTTPRoutePathRedirect", REDIRECT, "forward: filters"),
    feature("HTTPRoutePathRewrite", REWRITE, "forward: filters"),
    feature("HTTPRoutePortRedirect", REDIRECT, "forward: filters"),
    feature(
        "HTTPRouteQueryParamMatching",
        Needs::Field("HTTPRoute", &["spec", "rules", "matches", "queryParams"]),
        "table: matches",
    ),
    feature(
        "HTTPRouteRequestTimeout",
        Needs::Field("HTTPRoute", &["spec", "rules", "timeouts", "request"]),
        "forward: deadline of the whole request",
    ),
    feature(
        "HTTPRouteResponseHeaderModification",
        Needs::Field(
            "HTTPRoute",
            &["spec", "rules", "filters", "responseHeaderModifier"],
        ),
        "forward: filters",
    ),
    feature("HTTPRouteSchemeRedirect", REDIRECT, "forward: filters"),
    feature(
        "ReferenceGrant",
        Needs::Kind("ReferenceGrant"),
        "translate/grants",
    ),
];

const REDIRECT: Needs = Needs::Field(
    "HTTPRoute",
    &["spec", "rules", "filters", "requestRedirect"],
);
const REWRITE: Needs = Needs::Field("HTTPRoute", &["spec", "rules", "filters", "urlRewrite"]);
const PARENT_PORT: Needs = Needs::Field("HTTPRoute", &["spec", "parentRefs", "port"]);

const fn feature(name: &'static str, needs: Needs, because: &'static str) -> Feature {
    Feature {
        name,
        needs,
        because,
    }
}

/// Names of the features that hold here, in ascending order. Where objects are no API server's, the CRDs are our own: those
/// that need no cluster hold.
pub(crate) fn supported(view: &Index, settings: &Settings) -> Vec<&'static str> {
    let holds = FEATURES
        .iter()
        .filter(|feature| has(view, settings, feature.needs));
    holds.map(|feature| feature.name).collect()
}

fn has(view: &Index, settings: &Settings, needs: Needs) -> bool {
    let ours = view.crds().next().is_none();
    let has = |kind: &str, path: &[&str]| {
        ours || view
            .crd(kind)
            .is_some_and(|crd| crd.versions.values().any(|fields| fields.has(path)))
    };
    match needs {
        Needs::Kind(kind) => has(kind, &[]),
        Needs::Field(kind, path) => has(kind, path),
        Needs::Since(minor) => {
            let mut versions = view.crds().map(|crd| crd.bundle_version.as_deref());
            ours || versions.all(|version| version.and_then(minor_of).is_some_and(|it| it >= minor))
        }
        Needs::Cluster(path) => settings.pool.is_some() && has("Gateway", path),
    }
}

/// The minor version of a bundle `v1.MINOR.PATCH`, with or without what follows.
pub(crate) fn minor_of(version: &str) -> Option<u32> {
    let rest = version.strip_prefix("v1.")?;
    rest.split(['.', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_in_ascending_order_and_each_says_why() {
        assert!(FEATURES.is_sorted_by_key(|feature| feature.name));
        assert!(FEATURES.iter().all(|feature| !feature.because.is_empty()));
        assert!(FEATURES.len() <= 64, "the API takes 64 of them");
    }

    #[test]
    fn versions_of_bundles_are_read() {
        for (version, minor) in [
            ("v1.6.3", Some(6)),
            ("v1.7.0-rc.1", Some(7)),
            ("v1.10-dev", Some(10)),
            ("v0.8.1", None),
            ("1.6.3", None),
        ] {
            assert_eq!(minor_of(version), minor, "{version}");
        }
    }
}
