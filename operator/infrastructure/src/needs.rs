//! What a Gateway needs of the cluster, and what has become of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::{GatewayKey, ShardId};
use api_pool::ServiceSettings;
use k8s_openapi::api::core::v1::Pod;

/// What a Gateway needs: an address, and its ports led to its shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayNeeds {
    /// Whose.
    pub gateway: GatewayKey,
    /// `metadata.uid` of the Gateway.
    pub uid: String,
    /// Listeners' ports, and the target port of each on the shards. Empty when no listener is valid.
    pub ports: BTreeMap<u16, u16>,
    /// Shards that serve it.
    pub shards: Vec<ShardId>,
    /// Shards that serve on, but are to get no new connections.
    pub leaving: Vec<ShardId>,
    /// `spec.infrastructure.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.infrastructure.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.addresses`.
    pub addresses: Vec<WantedAddress>,
    /// How the Service looks.
    pub settings: ServiceSettings,
}

/// One of a Gateway's `spec.addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedAddress {
    /// `IPAddress`, `Hostname`, or the name of another type.
    pub type_: String,
    /// The address; empty for any.
    pub value: String,
}

/// A pod of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPod {
    /// Which shard it is.
    pub shard: ShardId,
    /// Name of the pod.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid: another one when the pod is made anew.
    pub uid: String,
    /// Node that it runs on.
    pub node: Option<String>,
    /// Zone of the node.
    pub zone: Option<String>,
    /// Its addresses, one for each family.
    pub ips: Vec<IpAddr>,
    /// Whether it says that it is ready.
    pub ready: bool,
    /// Whether its container runs.
    pub running: bool,
    /// Whether it was told to end.
    pub terminating: bool,
}

/// One of a Gateway's `status.addresses`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusAddress {
    /// Of which type.
    pub kind: AddressKind,
    /// The address.
    pub value: String,
}

/// Types of addresses that a Service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressKind {
    /// An IP address.
    IpAddress,
    /// A name that leads to it.
    Hostname,
}

impl AddressKind {
    /// As the Gateway API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IpAddress => "IPAddress",
            Self::Hostname => "Hostname",
        }
    }
}

/// Why a Gateway does not have what it needs, in the words of the Gateway API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Reason of a condition, one of `api::condition::reasons`.
    pub reason: &'static str,
    /// For the user.
    pub message: String,
}

/// What a Gateway has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Whose.
    pub gateway: GatewayKey,
    /// Its addresses.
    pub addresses: Vec<StatusAddress>,
    /// What it does not have, and why.
    pub problem: Option<Problem>,
    /// Shards that its clients are led to, as was asked for last; none while that waits to be written.
    pub led_to: Option<Vec<ShardId>>,
}

impl ShardPod {
    /// The shard that a pod of the pool is; none when its name is not one of a shard.
    pub fn of(pool: &str, pod: &Pod) -> Option<Self> {
        let name = pod.metadata.name.as_deref()?;
        let number = name.strip_prefix(&format!("{}-", api_pool::shards_name(pool)))?;
        let shard = number.parse().ok()?;
        // `01` is no number of a StatefulSet.
        if name != api_pool::shard_name(pool, shard) {
            return None;
        }
        let status = pod.status.as_ref();
        let ready = status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let running = status
            .and_then(|status| status.container_statuses.as_ref())
            .into_iter()
            .flatten()
            .any(|of| of.state.as_ref().is_some_and(|of| of.running.is_some()));
        let ips = status.and_then(|status| status.pod_ips.as_ref());
        Some(Self {
            shard: ShardId(shard),
            name: name.to_owned(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            zone: None,
            ips: ips
                .into_iter()
                .flatten()
                .filter_map(|of| of.ip.parse().ok())
                .collect(),
            ready,
            running,
            terminating: pod.metadata.deletion_timestamp.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "system", "uid": "u"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {
                "podIPs": [{"ip": "10.244.0.7"}, {"ip": "fd00::7"}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{
                    "name": "shard", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"running": {}},
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_is_the_shard_that_its_name_says() {
        let shard = ShardPod::of("default", &pod("default-shard-12")).unwrap();
        assert_eq!(shard.shard, ShardId(12));
        assert!(shard.ready && shard.running && !shard.terminating);
        assert_eq!(shard.ips.len(), 2);
        for other in [
            "default-shard",
            "default-shard-",
            "default-shard-01",
            "default-shard-1-2",
            "other-shard-1",
            "default-shard-99999999999",
        ] {
            assert_eq!(ShardPod::of("default", &pod(other)), None, "{other}");
        }
    }
}
