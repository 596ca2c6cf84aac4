//! What a Gateway's Service looks like, and how a Gateway has it otherwise.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The one key of a ConfigMap with parameters: a YAML mapping of the same form as a ShardPool's `spec.service`.
pub const PARAMETERS_KEY: &str = "service";

/// How the Service of each Gateway looks. A field that is not set is left to the API server.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("!has(self.loadBalancerClass) || !has(self.type) || self.type == 'LoadBalancer'", "loadBalancerClass needs type LoadBalancer"),
    validation = ("!has(self.ipFamilies) || self.ipFamilies.size() < 2 || self.ipFamilies[0] != self.ipFamilies[1]", "ipFamilies names a family once"),
    validation = ("!has(self.ipFamilies) || self.ipFamilies.size() < 2 || (has(self.ipFamilyPolicy) && self.ipFamilyPolicy != 'SingleStack')", "two ipFamilies need ipFamilyPolicy PreferDualStack or RequireDualStack"),
)]
pub struct ServiceSettings {
    /// Kind of address: LoadBalancer (the default), ClusterIP or NodePort.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<ServiceType>,
    /// Which load balancer; the cluster's default when it is not set. Only with type LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 316))]
    pub load_balancer_class: Option<String>,
    /// Local keeps clients' addresses and skips nodes without a shard. Not with type ClusterIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
    /// Local serves clients in the cluster from their own node alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<TrafficPolicy>,
    /// IP families, the first one first; one or two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<Family>,
    /// Whether it has one family or two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<FamilyPolicy>,
    /// Which shards are near to a client in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Annotations, as load balancers want them. Those of a Gateway's `spec.infrastructure` win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant),*
        }

        impl $name {
            /// As Kubernetes spells it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),*
                }
            }
        }
    };
}

words!(
    /// Type of a Service.
    ServiceType {
        /// An address of a load balancer.
        LoadBalancer = "LoadBalancer",
        /// An address within the cluster.
        ClusterIp = "ClusterIP",
        /// A port of every node.
        NodePort = "NodePort",
    }
);
words!(
    /// Where traffic may go.
    TrafficPolicy {
        /// To any node.
        Cluster = "Cluster",
        /// To the node that it came to.
        Local = "Local",
    }
);
words!(
    /// An IP family.
    Family {
        /// IPv4.
        V4 = "IPv4",
        /// IPv6.
        V6 = "IPv6",
    }
);
words!(
    /// How many IP families.
    FamilyPolicy {
        /// One.
        SingleStack = "SingleStack",
        /// Two where the cluster has two.
        PreferDualStack = "PreferDualStack",
        /// Two.
        RequireDualStack = "RequireDualStack",
    }
);
words!(
    /// What is near.
    TrafficDistribution {
        /// Older name of `PreferSameZone`.
        PreferClose = "PreferClose",
        /// The client's zone.
        PreferSameZone = "PreferSameZone",
        /// The client's node.
        PreferSameNode = "PreferSameNode",
    }
);

/// Parameters of a Gateway cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParametersError {
    /// There is nothing in it for us.
    #[error("key {PARAMETERS_KEY:?} is missing; it holds the settings of the Gateway's Service")]
    Missing,
    /// A key that means nothing.
    #[error("key {0:?} is not known; {PARAMETERS_KEY:?} is the only one")]
    UnknownKey(String),
    /// The text is not what it should be.
    #[error("key {PARAMETERS_KEY:?}: {0}")]
    Unreadable(String),
    /// Settings that do not go together.
    #[error("key {PARAMETERS_KEY:?}: {0}")]
    Contradiction(&'static str),
}

impl ServiceSettings {
    /// The type, with its default.
    pub fn service_type(&self) -> ServiceType {
        self.type_.unwrap_or(ServiceType::LoadBalancer)
    }

    /// These settings with those of a ConfigMap's `data` in their place, field by field; annotations are joined.
    ///
    /// # Errors
    /// [`ParametersError`] when the ConfigMap says anything that is not known, or cannot be. Its text is for the user.
    pub fn overridden(&self, data: &BTreeMap<String, String>) -> Result<Self, ParametersError> {
        if let Some(unknown) = data.keys().find(|key| *key != PARAMETERS_KEY) {
            return Err(ParametersError::UnknownKey(unknown.clone()));
        }
        let text = data.get(PARAMETERS_KEY).ok_or(ParametersError::Missing)?;
        let over = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_saphyr::from_str(text).map_err(|error| unreadable(&error))?
        };
        over.check()?;
        let merged = self.with(over);
        merged.check()?;
        Ok(merged)
    }

    fn with(&self, over: Self) -> Self {
        let mut annotations = self.annotations.clone();
        annotations.extend(over.annotations);
        let type_ = over.type_.or(self.type_);
        // A class says which load balancer: one from below means nothing to a Service that has none.
        let inherited = self
            .load_balancer_class
            .clone()
            .filter(|_| type_.is_none_or(|of| of == ServiceType::LoadBalancer));
        // Families and their number belong together.
        let (ip_families, ip_family_policy) =
            if over.ip_families.is_empty() && over.ip_family_policy.is_none() {
                (self.ip_families.clone(), self.ip_family_policy)
            } else {
                (over.ip_families, over.ip_family_policy)
            };
        Self {
            type_,
            load_balancer_class: over.load_balancer_class.or(inherited),
            external_traffic_policy: over
                .external_traffic_policy
                .or(self.external_traffic_policy),
            internal_traffic_policy: over
                .internal_traffic_policy
                .or(self.internal_traffic_policy),
            ip_families,
            ip_family_policy,
            traffic_distribution: over.traffic_distribution.or(self.traffic_distribution),
            annotations,
        }
    }

    /// What the CRD's rules check, for settings that did not come through it.
    fn check(&self) -> Result<(), ParametersError> {
        let not = |what| Err(ParametersError::Contradiction(what));
        if self.load_balancer_class.is_some() && self.service_type() != ServiceType::LoadBalancer {
            return not("loadBalancerClass needs type LoadBalancer");
        }
        match self.ip_families.as_slice() {
            [] | [_] => Ok(()),
            [one, two] if one == two => not("ipFamilies names a family once"),
            [_, _]
                if matches!(
                    self.ip_family_policy,
                    None | Some(FamilyPolicy::SingleStack)
                ) =>
            {
                not("two ipFamilies need ipFamilyPolicy PreferDualStack or RequireDualStack")
            }
            [_, _] => Ok(()),
            _ => not("ipFamilies has at most two"),
        }
    }
}

/// The first line says it; the rest shows the document.
fn unreadable(error: &serde_saphyr::Error) -> ParametersError {
    let text = error.to_string();
    ParametersError::Unreadable(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
