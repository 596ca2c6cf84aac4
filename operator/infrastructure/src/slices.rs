//! The EndpointSlices of a Gateway's Service: just its shards.

use std::collections::BTreeMap;

use api::{PoolKey, ShardId};
use api_pool::{Family, TrafficDistribution};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::address::family;
use crate::labels::{labels, owner, seal};
use crate::name::service_name;
use crate::needs::{GatewayNeeds, ShardPod};

/// Endpoints of one slice at most: as many as Kubernetes' own controller puts into one.
const ENDPOINTS_MAX: usize = 100;
/// Label that names the Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that keeps other controllers off.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The EndpointSlices that a Gateway is to have: for each family one, and more when it has many shards. None without a
/// valid listener.
///
/// A shard that leaves, and one whose pod ends, is not ready but serves on, and is used only when nothing else is there. When no
/// shard is said to be ready, those that run count as ready: after an outage of the API server, Kubernetes calls every pod not
/// ready until its node is heard of again, while all of them serve.
pub fn endpoint_slices(
    pool: &PoolKey,
    needs: &GatewayNeeds,
    families: &[Family],
    pods: &BTreeMap<ShardId, ShardPod>,
) -> Vec<EndpointSlice> {
    if needs.ports.is_empty() {
        return Vec::new();
    }
    let mut slices = Vec::new();
    for of in families {
        let endpoints = endpoints(needs, *of, pods);
        let mut chunks: Vec<&[Endpoint]> = endpoints.chunks(ENDPOINTS_MAX).collect();
        if chunks.is_empty() {
            // It stays when its shards go, for the next ones.
            chunks.push(&[]);
        }
        for (number, chunk) in chunks.into_iter().enumerate() {
            slices.push(slice(pool, needs, *of, number, chunk.to_vec()));
        }
    }
    slices
}

fn slice(
    pool: &PoolKey,
    needs: &GatewayNeeds,
    of: Family,
    number: usize,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let service = service_name(&needs.gateway.name);
    let suffix = match of {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    let name = match number {
        0 => format!("{service}-{suffix}"),
        number => format!("{service}-{suffix}-{number}"),
    };
    let mut labels = labels(pool, needs);
    labels.insert(SERVICE_NAME.into(), service);
    labels.insert(MANAGED_BY.into(), "shardway.dev".into());
    let ports = needs.ports.iter().map(|(port, target)| EndpointPort {
        name: Some(format!("tcp-{port}")),
        port: Some(i32::from(*target)),
        protocol: Some("TCP".into()),
        app_protocol: None,
    });
    let mut slice = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(needs.gateway.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![owner(needs)]),
            ..ObjectMeta::default()
        },
        address_type: of.as_str().into(),
        endpoints,
        ports: Some(ports.collect()),
    };
    seal(&mut slice, |slice| &mut slice.metadata);
    slice
}

fn endpoints(
    needs: &GatewayNeeds,
    of: Family,
    pods: &BTreeMap<ShardId, ShardPod>,
) -> Vec<Endpoint> {
    // In order, so that the same shards make the same slice; one that is both stays.
    let mut shards: BTreeMap<ShardId, bool> = BTreeMap::new();
    shards.extend(needs.leaving.iter().map(|shard| (*shard, true)));
    shards.extend(needs.shards.iter().map(|shard| (*shard, false)));
    let is_sound = |shard: &ShardId| {
        pods.get(shard)
            .is_some_and(|of| of.ready && !of.terminating)
    };
    let none_is_ready = !needs.shards.iter().any(is_sound);
    let mut endpoints: Vec<Endpoint> = shards
        .into_iter()
        .filter_map(|(shard, leaves)| endpoint(pods.get(&shard)?, leaves, none_is_ready, of))
        .collect();
    if let Some(distribution) = needs.settings.traffic_distribution {
        hint(&mut endpoints, distribution);
    }
    endpoints
}

fn endpoint(pod: &ShardPod, leaves: bool, none_is_ready: bool, of: Family) -> Option<Endpoint> {
    let address = pod.ips.iter().find(|ip| family(**ip) == of)?;
    let ready = pod.ready || (none_is_ready && pod.running);
    // A shard says that it is not ready as soon as it is told to end, while it still serves.
    let serving = if pod.terminating { pod.running } else { ready };
    let ends = leaves || pod.terminating;
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready && !ends),
            serving: Some(serving),
            terminating: Some(ends),
        }),
        node_name: pod.node.clone(),
        zone: pod.zone.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// Says for which zones and nodes endpoints are: Kubernetes' own controller, which else does it, leaves ours alone. All of
/// them or none, or kube-proxy takes no notice.
fn hint(endpoints: &mut [Endpoint], distribution: TrafficDistribution) {
    let by_node = distribution == TrafficDistribution::PreferSameNode;
    let known = |of: &Endpoint| of.zone.is_some() && (!by_node || of.node_name.is_some());
    if !endpoints.iter().all(known) {
        return;
    }
    for endpoint in endpoints {
        let zones = endpoint
            .zone
            .iter()
            .map(|name| ForZone { name: name.clone() });
        let nodes = endpoint
            .node_name
            .iter()
            .map(|name| ForNode { name: name.clone() });
        endpoint.hints = Some(EndpointHints {
            for_zones: Some(zones.collect()),
            for_nodes: by_node.then(|| nodes.collect()),
        });
    }
}
