//! GatewayClass: accepted when it names our controller; others are not ours to speak of.

use api::CONTROLLER_NAME;
use api::condition::{reasons, types};
use operator_index::Index;
use operator_objects::spec::GatewayClass;

use crate::status::{ClassStatus, Condition, class_object};

/// What we serve, by the names of the Gateway API's `pkg/features`, in ascending order.
pub const SUPPORTED_FEATURES: &[&str] = &[
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "GatewayRouteHostnameIntersectionPrecedence",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteBackendURLRewrite",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
];

/// Whether a class names our controller.
pub(crate) fn is_ours(class: &GatewayClass) -> bool {
    class.controller_name == CONTROLLER_NAME
}

/// Status of a GatewayClass; none when it does not exist or names another controller.
///
/// A class that is rejected and never had a good form has a status too: whose it is cannot be read.
pub fn translate_class(view: &Index, name: &str) -> Option<ClassStatus> {
    let rejected = view.rejected(&class_object(name));
    let accepted = match (view.class(name), rejected) {
        (Some(class), _) if !is_ours(class) => return None,
        (None, None) => return None,
        (_, Some(rejected)) => Condition::no(
            types::ACCEPTED,
            reasons::INVALID,
            rejected.message.clone(),
            rejected.generation,
        ),
        (Some(class), None) => match &class.parameters_ref {
            Some(parameters) => Condition::no(
                types::ACCEPTED,
                reasons::INVALID_PARAMETERS,
                format!(
                    "spec.parametersRef: kind {} of group {:?} is not supported; remove it. \
                     Gateways of this class are served with defaults",
                    parameters.kind, parameters.group
                ),
                class.meta.generation,
            ),
            None => Condition::yes(
                types::ACCEPTED,
                reasons::ACCEPTED,
                "served by Shardway",
                class.meta.generation,
            ),
        },
    };
    let version = Condition::yes(
        types::SUPPORTED_VERSION,
        reasons::SUPPORTED_VERSION,
        "objects are read by the schemas of Gateway API v1.7.0",
        accepted.observed_generation,
    );
    Some(ClassStatus {
        conditions: vec![accepted, version],
        supported_features: SUPPORTED_FEATURES.to_vec(),
    })
}

impl ClassStatus {
    /// What is left of a class whose translation panicked.
    pub(crate) fn quarantined(view: &Index, name: &str, message: &str) -> Self {
        let generation = view.class(name).map_or(0, |class| class.meta.generation);
        let accepted = Condition::no(types::ACCEPTED, reasons::QUARANTINED, message, generation);
        Self {
            conditions: vec![accepted],
            supported_features: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_in_ascending_order() {
        assert!(SUPPORTED_FEATURES.is_sorted());
    }
}
