//! Which namespaces a listener takes routes from.

use std::collections::BTreeMap;

use operator_index::Index;
use operator_objects::spec::{AllowedNamespaces, LabelSelector};

/// Label that every Namespace has, declared or not.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Whether a listener of a Gateway in namespace `home` takes routes from `namespace`.
pub(crate) fn allows_namespace(
    allowed: &AllowedNamespaces,
    home: &str,
    namespace: &str,
    view: &Index,
) -> bool {
    match allowed {
        AllowedNamespaces::All => true,
        AllowedNamespaces::Same => home == namespace,
        AllowedNamespaces::None => false,
        AllowedNamespaces::Selector(selector) => {
            let none = BTreeMap::new();
            let labels = view
                .namespace(namespace)
                .map_or(&none, |found| &found.meta.labels);
            selects(selector, |key| {
                if key == NAME_LABEL {
                    Some(namespace)
                } else {
                    labels.get(key).map(String::as_str)
                }
            })
        }
    }
}

/// Evaluates a label selector; an empty one selects everything, an unknown operator nothing.
///
/// Source: Kubernetes `metav1.LabelSelector`.
fn selects<'a>(selector: &LabelSelector, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    let matches = selector
        .match_labels
        .iter()
        .all(|(key, value)| label(key) == Some(value.as_str()));
    matches
        && selector.match_expressions.iter().all(|requirement| {
            let value = label(&requirement.key);
            let listed = value.is_some_and(|value| requirement.values.iter().any(|v| v == value));
            match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use operator_objects::spec::LabelRequirement;

    use super::*;

    #[test]
    fn operators() {
        let label = |key: &str| (key == "team").then_some("red");
        let check = |key: &str, operator: &str, values: &[&str]| {
            let requirement = LabelRequirement {
                key: key.into(),
                operator: operator.into(),
                values: values.iter().map(ToString::to_string).collect(),
            };
            selects(
                &LabelSelector {
                    match_labels: BTreeMap::new(),
                    match_expressions: vec![requirement],
                },
                label,
            )
        };
        assert!(
            check("team", "In", &["red", "blue"])
                && !check("team", "In", &["blue"])
                && !check("x", "In", &["red"])
        );
        assert!(
            !check("team", "NotIn", &["red"])
                && check("team", "NotIn", &["blue"])
                && check("x", "NotIn", &["red"])
        );
        assert!(check("team", "Exists", &[]) && !check("x", "Exists", &[]));
        assert!(!check("team", "DoesNotExist", &[]) && check("x", "DoesNotExist", &[]));
        assert!(!check("team", "Gt", &["1"]));
        assert!(selects(&LabelSelector::default(), label));
    }
}
