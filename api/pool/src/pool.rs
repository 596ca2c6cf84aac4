//! The ShardPool itself, and its CRD.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ServiceSettings;

/// Shards of a pool at most.
pub const SHARDS_MAX: u32 = 1000;

/// How many proxies there are, what they are given, and how Gateways are placed on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "shardway.dev",
    version = "v1alpha1",
    kind = "ShardPool",
    plural = "shardpools",
    shortname = "sp",
    category = "shardway",
    namespaced,
    status = "ShardPoolStatus",
    derive = "PartialEq",
    doc = "A pool of proxies that Gateways share.",
    scale(
        spec_replicas_path = ".spec.shards",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Gateways", type_ = "integer", json_path = ".status.gateways"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    // Its pods are named after it, with a number at the end.
    validation = ("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')", "the name has at most 40 letters, digits and dashes, and begins with a letter"),
)]
#[serde(rename_all = "camelCase")]
pub struct ShardPoolSpec {
    /// Shards, count, 1 to 1000; 2 or more, so that one may fail. `kubectl scale` changes it.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 1000))]
    pub shards: i32,
    /// Shards that serve each Gateway, count, 1 to 1000; all of them when the pool has fewer.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 1000))]
    pub shards_per_gateway: i32,
    /// How the Service of each Gateway looks. A Gateway overrides it by `infrastructure.parametersRef`, a ConfigMap with the
    /// key `service`, which holds YAML of this form.
    #[serde(default)]
    pub service: ServiceSettings,
    /// Requests and limits of each shard, as of a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources")]
    pub resources: Option<ResourceRequirements>,
    /// How a shard ends.
    #[serde(default)]
    pub drain: Drain,
    /// Labels of nodes that shards may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that shards stand, as of a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_list")]
    pub tolerations: Vec<Value>,
    /// Where shards run best, as of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any")]
    pub affinity: Option<Value>,
    /// PriorityClass of the shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

/// How a shard ends: it serves on while load balancers forget it, then finishes what is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Seconds that it goes on accepting after it was told to end, 0 to 300; 15 by default. Longer than load balancers take to
    /// notice.
    #[serde(default = "wait_seconds")]
    #[schemars(range(min = 0, max = 300))]
    pub wait_seconds: i32,
    /// Seconds that open connections may take after that, 1 to 3600; 30 by default. What is open then is cut off.
    #[serde(default = "timeout_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            wait_seconds: wait_seconds(),
            timeout_seconds: timeout_seconds(),
        }
    }
}

/// What has become of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardPoolStatus {
    /// Generation that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Shards that there are.
    #[serde(default)]
    pub replicas: i32,
    /// Those that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Gateways that are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<i32>,
    /// Label selector of the shards' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Ready and Progressing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// Name of the StatefulSet of a pool, and of its headless Service.
pub fn shards_name(pool: &str) -> String {
    format!("{pool}-shard")
}

/// Name of a shard's pod.
pub fn shard_name(pool: &str, shard: u32) -> String {
    format!("{pool}-shard-{shard}")
}

/// The CRD as the chart holds it.
pub fn crd_yaml() -> String {
    let crd = ShardPool::crd();
    // A CRD's value always has this form.
    let yaml = serde_saphyr::to_string(&crd).unwrap_or_default();
    format!("# Made from api/pool: REWRITE=1 cargo test --package api-pool\n{yaml}")
}

fn two() -> i32 {
    2
}

fn wait_seconds() -> i32 {
    15
}

fn timeout_seconds() -> i32 {
    30
}

/// Just quantities: the API server checks the rest when the pods are made.
fn resources(_: &mut SchemaGenerator) -> Schema {
    let quantities = json_schema!({
        "type": "object",
        "additionalProperties": {"x-kubernetes-int-or-string": true},
    });
    json_schema!({
        "description": "Requests and limits of each shard, as of a container.",
        "type": "object",
        "properties": {"limits": quantities, "requests": quantities},
    })
}

fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn any_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// Each type once, so that writers do not lose each other's.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Ready and Progressing.",
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

    use std::path::Path;

    use super::*;

    #[test]
    fn the_chart_holds_the_crd() {
        let file = "../../helm/shardway/crds/shardpools.yaml";
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let yaml = crd_yaml();
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&file, &yaml).unwrap();
        }
        let held = std::fs::read_to_string(&file).unwrap();
        assert!(held == yaml, "run: REWRITE=1 cargo test --package api-pool");
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let pool: ShardPoolSpec = serde_json::from_str("{}").unwrap();
        assert_eq!((pool.shards, pool.shards_per_gateway), (2, 2));
        assert_eq!(pool.service, ServiceSettings::default());
        assert_eq!(pool.drain.wait_seconds, 15);
        assert_eq!(pool.drain.timeout_seconds, 30);
    }

    #[test]
    fn a_pod_is_named_after_its_pool_and_number() {
        assert_eq!(shard_name("default", 3), "default-shard-3");
        assert_eq!(shards_name("default"), "default-shard");
    }
}
