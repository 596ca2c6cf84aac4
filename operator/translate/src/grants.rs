//! Whether a reference may cross namespaces: the one place that reads ReferenceGrants.

use operator_objects::spec::ReferenceGrant;

/// Who refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefFrom<'a> {
    /// API group.
    pub group: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Namespace.
    pub namespace: &'a str,
}

/// To what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefTo<'a> {
    /// API group; empty for core.
    pub group: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
}

/// The owner of the target's namespace has not permitted the reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "reference from {from_kind} in namespace {from} to {kind} {namespace}/{name} is not permitted; \
     a ReferenceGrant in namespace {namespace} must allow it"
)]
pub struct RefNotPermitted {
    from_kind: String,
    from: String,
    kind: String,
    namespace: String,
    name: String,
}

/// Checks a reference. Within a namespace every reference is permitted; across, one grant in the target's namespace
/// must name both sides: any of its `from` with any of its `to`.
///
/// Whether the target exists is not looked at, so that a refusal tells nothing about other namespaces.
///
/// Source: gateway-api v1 `ReferenceGrantSpec`.
///
/// # Errors
/// [`RefNotPermitted`] when no grant permits it.
pub fn resolve_ref<'g>(
    from: RefFrom<'_>,
    to: RefTo<'_>,
    grants: impl IntoIterator<Item = &'g ReferenceGrant>,
) -> Result<(), RefNotPermitted> {
    let permits = |grant: &ReferenceGrant| {
        grant.meta.namespace == to.namespace
            && grant.from.iter().any(|g| {
                g.group == from.group && g.kind == from.kind && g.namespace == from.namespace
            })
            && grant.to.iter().any(|g| {
                g.group == to.group
                    && g.kind == to.kind
                    && g.name.as_deref().is_none_or(|n| n == to.name)
            })
    };
    if from.namespace == to.namespace || grants.into_iter().any(permits) {
        return Ok(());
    }
    Err(RefNotPermitted {
        from_kind: from.kind.into(),
        from: from.namespace.into(),
        kind: to.kind.into(),
        namespace: to.namespace.into(),
        name: to.name.into(),
    })
}

#[cfg(test)]
mod tests {
    use operator_objects::spec::{GrantFrom, GrantTo, Meta};

    use super::*;

    const FROM: RefFrom<'static> = RefFrom {
        group: "g",
        kind: "HTTPRoute",
        namespace: "a",
    };
    const TO: RefTo<'static> = RefTo {
        group: "",
        kind: "Service",
        namespace: "b",
        name: "app",
    };

    fn grant(
        namespace: &str,
        from: &[(&str, &str)],
        to: &[(&str, Option<&str>)],
    ) -> ReferenceGrant {
        let from = from.iter().map(|(kind, namespace)| GrantFrom {
            group: "g".into(),
            kind: (*kind).into(),
            namespace: (*namespace).into(),
        });
        let to = to.iter().map(|(kind, name)| GrantTo {
            group: String::new(),
            kind: (*kind).into(),
            name: name.map(Into::into),
        });
        let meta = Meta {
            namespace: namespace.into(),
            ..Meta::default()
        };
        ReferenceGrant {
            meta,
            from: from.collect(),
            to: to.collect(),
        }
    }

    #[test]
    fn entries_are_combined_by_or() {
        let permitting = grant(
            "b",
            &[("Gateway", "a"), ("HTTPRoute", "a")],
            &[("Secret", None), ("Service", Some("app"))],
        );
        assert_eq!(resolve_ref(FROM, TO, [&permitting]), Ok(()));
        let others = [
            grant("b", &[("HTTPRoute", "z")], &[("Service", None)]),
            grant("b", &[("HTTPRoute", "a")], &[("Service", Some("other"))]),
            grant("b", &[("HTTPRoute", "a")], &[("Secret", None)]),
            // Both halves are there, in two grants.
            grant("b", &[("HTTPRoute", "a")], &[]),
            grant("b", &[], &[("Service", None)]),
            grant("a", &[("HTTPRoute", "a")], &[("Service", None)]),
        ];
        assert!(resolve_ref(FROM, TO, &others).is_err());
        assert_eq!(
            resolve_ref(FROM, TO, others.iter().chain([&permitting])),
            Ok(())
        );
        assert_eq!(
            resolve_ref(
                FROM,
                RefTo {
                    namespace: "a",
                    ..TO
                },
                []
            ),
            Ok(()),
            "within a namespace"
        );
    }
}
