//! Condition types and reasons of the Gateway API, and our own. One name each; statuses use no other strings.
//!
//! Source: gateway-api v1.7.0 `apis/v1/{gatewayclass,gateway,shared}_types.go`.

/// Condition types.
pub mod types {
    /// The object is valid and taken up by this controller.
    pub const ACCEPTED: &str = "Accepted";
    /// The configuration is served by every live shard of the Gateway.
    pub const PROGRAMMED: &str = "Programmed";
    /// All references were found and are permitted.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// All addresses that the Gateway asks for are its own.
    pub const ADDRESSES_ASSIGNED: &str = "AddressesAssigned";
    /// The listener conflicts with another one of the same Gateway.
    pub const CONFLICTED: &str = "Conflicted";
    /// The listener's certificates overlap with those of another listener on the port.
    pub const OVERLAPPING_TLS_CONFIG: &str = "OverlappingTLSConfig";
    /// Some rules of a route are not served; the others are.
    pub const PARTIALLY_INVALID: &str = "PartiallyInvalid";
    /// The installed CRDs have a version that this controller supports.
    pub const SUPPORTED_VERSION: &str = "SupportedVersion";
    /// Ours, on a route's parent status: which share of the Gateway's shards serve this generation.
    pub const PROPAGATED: &str = "shardway.dev/Propagated";
}

/// Condition reasons, one word each, as the Gateway API spells them.
pub mod reasons {
    macro_rules! reasons {
        ($($konst:ident = $text:literal),* $(,)?) => {
            $(#[doc = concat!("`", $text, "`")] pub const $konst: &str = $text;)*
            /// All of them.
            pub const ALL: &[&str] = &[$($konst),*];
        };
    }
    reasons! {
        ACCEPTED = "Accepted",
        PROGRAMMED = "Programmed",
        RESOLVED_REFS = "ResolvedRefs",
        NO_CONFLICTS = "NoConflicts",
        PENDING = "Pending",
        INVALID = "Invalid",
        INVALID_PARAMETERS = "InvalidParameters",
        UNSUPPORTED = "Unsupported",
        SUPPORTED_VERSION = "SupportedVersion",
        UNSUPPORTED_VERSION = "UnsupportedVersion",
        LISTENERS_NOT_VALID = "ListenersNotValid",
        LISTENERS_NOT_RESOLVED = "ListenersNotResolved",
        NO_RESOURCES = "NoResources",
        ADDRESSES_ASSIGNED = "AddressesAssigned",
        NOT_ASSIGNED = "NotAssigned",
        ADDRESS_NOT_ASSIGNED = "AddressNotAssigned",
        ADDRESS_NOT_USABLE = "AddressNotUsable",
        UNSUPPORTED_ADDRESS = "UnsupportedAddress",
        HOSTNAME_CONFLICT = "HostnameConflict",
        PROTOCOL_CONFLICT = "ProtocolConflict",
        PORT_UNAVAILABLE = "PortUnavailable",
        UNSUPPORTED_PROTOCOL = "UnsupportedProtocol",
        UNSUPPORTED_VALUE = "UnsupportedValue",
        INVALID_CERTIFICATE_REF = "InvalidCertificateRef",
        INVALID_ROUTE_KINDS = "InvalidRouteKinds",
        REF_NOT_PERMITTED = "RefNotPermitted",
        INVALID_KIND = "InvalidKind",
        BACKEND_NOT_FOUND = "BackendNotFound",
        OVERLAPPING_HOSTNAMES = "OverlappingHostnames",
        OVERLAPPING_CERTIFICATES = "OverlappingCertificates",
        NOT_ALLOWED_BY_LISTENERS = "NotAllowedByListeners",
        NO_MATCHING_LISTENER_HOSTNAME = "NoMatchingListenerHostname",
        NO_MATCHING_PARENT = "NoMatchingParent",
        INVALID_FILTER = "InvalidFilter",
        INCOMPATIBLE_FILTERS = "IncompatibleFilters",
        QUARANTINED = "Quarantined",
        PROPAGATED = "Propagated",
        WAITING = "Waiting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: Kubernetes, validation of `metav1.Condition`: an API server refuses a status with any other.
    #[test]
    fn reasons_are_words_that_a_condition_may_have() {
        for reason in reasons::ALL {
            let is_word = |c: char| c.is_ascii_alphanumeric() || "_,:".contains(c);
            let ends = |c: char| c.is_ascii_alphanumeric() || c == '_';
            assert!(
                reason.starts_with(|c: char| c.is_ascii_alphabetic())
                    && reason.chars().all(is_word)
                    && reason.ends_with(ends),
                "{reason}"
            );
        }
    }
}
