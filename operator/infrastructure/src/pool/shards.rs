//! The shards of a pool, as a StatefulSet and its headless Service.

use api_pool::{ShardPool, shards_name};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use crate::labels::{POOL, seal};

/// Name of the shards' pods, as labels say it.
const APP: &str = "shardway-shard";
/// Port of health and metrics.
const ADMIN_PORT: u16 = 7002;
/// Seconds that a pod may take to end, beyond those that it drains: it writes its table to disk, and logs.
const GRACE_SECONDS: i32 = 15;
/// Seconds that a pod is ready before the next one is taken down: until load balancers have found it.
const READY_SECONDS: i32 = 10;

/// What a shard's pod is given, beside what the ShardPool says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSettings {
    /// Image of the shard.
    pub image: String,
    /// `imagePullPolicy`; none for Kubernetes' default.
    pub pull_policy: Option<String>,
    /// Service account, which brings the pull secrets.
    pub service_account: String,
    /// Where the operator's replicas are, host:port.
    pub operator: String,
    /// Name of the ConfigMap with the CAs that are trusted: `ca.pem`.
    pub trust: String,
    /// Audience of the pod's token.
    pub audience: String,
    /// Look of log lines: `text` or `json`.
    pub log_format: String,
}

/// A ShardPool cannot be made into shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec has something that no pod can have: {0}")]
pub struct PoolError(String);

/// Label selector of the shards' pods.
pub fn pod_selector(pool: &str) -> String {
    format!("app.kubernetes.io/name={APP},{POOL}={pool}")
}

/// The StatefulSet with this many shards.
///
/// # Errors
/// [`PoolError`] when tolerations, affinity or resources are not what a pod has.
pub fn stateful_set(
    pool: &ShardPool,
    settings: &PodSettings,
    replicas: i32,
) -> Result<StatefulSet, PoolError> {
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let mut metadata = metadata(pool);
    metadata["name"] = json!(shards_name(name));
    let set = json!({
        "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "serviceName": shards_name(name),
            // They do not wait for each other.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "minReadySeconds": READY_SECONDS,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector(name)},
            "template": {"metadata": {"labels": pod_labels(name)}, "spec": pod(pool, settings)},
        },
    });
    let mut set: StatefulSet =
        serde_json::from_value(set).map_err(|error| PoolError(error.to_string()))?;
    seal(&mut set, |set| &mut set.metadata);
    Ok(set)
}

/// The headless Service that gives each shard a name.
///
/// # Errors
/// None that a ShardPool with a name could cause.
pub fn headless_service(pool: &ShardPool) -> Result<Service, PoolError> {
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let mut metadata = metadata(pool);
    metadata["name"] = json!(shards_name(name));
    let service = json!({
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": selector(name),
            "ports": [{"name": "admin", "protocol": "TCP", "port": ADMIN_PORT, "targetPort": "admin"}],
        },
    });
    let mut service: Service =
        serde_json::from_value(service).map_err(|error| PoolError(error.to_string()))?;
    seal(&mut service, |service| &mut service.metadata);
    Ok(service)
}

/// Of both: they go with the ShardPool.
fn metadata(pool: &ShardPool) -> Value {
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    json!({
        "namespace": pool.metadata.namespace,
        "labels": pod_labels(name),
        "ownerReferences": [{
            "apiVersion": "shardway.dev/v1alpha1",
            "kind": "ShardPool",
            "name": name,
            "uid": pool.metadata.uid.clone().unwrap_or_default(),
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    })
}

fn selector(pool: &str) -> Value {
    json!({"app.kubernetes.io/name": APP, POOL: pool})
}

fn pod_labels(pool: &str) -> Value {
    json!({
        "app.kubernetes.io/name": APP,
        "app.kubernetes.io/managed-by": "shardway",
        "app.kubernetes.io/part-of": "shardway",
        POOL: pool,
    })
}

fn pod(pool: &ShardPool, settings: &PodSettings) -> Value {
    let spec = &pool.spec;
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let drain = spec.drain;
    let spread = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"].map(|key| {
        json!({
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(name)},
        })
    });
    let grace = drain.wait_seconds + drain.timeout_seconds + GRACE_SECONDS;
    let mut pod = json!({
        "serviceAccountName": settings.service_account,
        // It shows a token to the operator alone, and has none for the API server.
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
            // Target ports lie below the ports of outgoing connections, or both would collide.
            "sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "32768 65535"}],
        },
        "topologySpreadConstraints": spread,
        "containers": [container(pool, settings)],
        "volumes": [
            // The table survives a container, not the pod.
            {"name": "data", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {
                "audience": settings.audience, "expirationSeconds": 3600, "path": "token",
            }}]}},
            {"name": "trust", "configMap": {"name": settings.trust}},
        ],
    });
    let optional = [
        (
            "nodeSelector",
            (!spec.node_selector.is_empty()).then(|| json!(spec.node_selector)),
        ),
        (
            "tolerations",
            (!spec.tolerations.is_empty()).then(|| json!(spec.tolerations)),
        ),
        ("affinity", spec.affinity.clone()),
        (
            "priorityClassName",
            spec.priority_class_name.as_ref().map(|name| json!(name)),
        ),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            pod[field] = value;
        }
    }
    pod
}

fn container(pool: &ShardPool, settings: &PodSettings) -> Value {
    let drain = pool.spec.drain;
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |path: &str, every: u16, within: u16, failures: u16| {
        json!({
            "httpGet": {"path": path, "port": "admin"},
            "periodSeconds": every, "timeoutSeconds": within, "failureThreshold": failures,
        })
    };
    let mut container = json!({
        "name": "shard",
        "image": settings.image,
        "env": [
            value("SHARDWAY_OPERATOR", &settings.operator),
            field("SHARDWAY_ID", "metadata.name"),
            field("SHARDWAY_NODE", "spec.nodeName"),
            // Empty where Kubernetes does not label pods with it.
            field("SHARDWAY_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
            value("SHARDWAY_DATA", "/data"),
            value("SHARDWAY_ADMIN", &format!("[::]:{ADMIN_PORT}")),
            value("SHARDWAY_TARGET_ADDRESS", "::"),
            value("SHARDWAY_TOKEN_FILE", "/var/run/secrets/shardway.dev/token"),
            value("SHARDWAY_TRUST", "/etc/shardway/trust/ca.pem"),
            value("SHARDWAY_DRAIN_WAIT_MS", &format!("{}", i64::from(drain.wait_seconds) * 1000)),
            value("SHARDWAY_DRAIN_TIMEOUT_S", &drain.timeout_seconds.to_string()),
            value("SHARDWAY_LOG_FORMAT", &settings.log_format),
        ],
        "ports": [{"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        // A table is loaded before it is ready; only a process that does not answer is started anew.
        "startupProbe": probe("/healthz", 1, 1, 120),
        "livenessProbe": probe("/healthz", 10, 5, 6),
        "readinessProbe": probe("/readyz", 1, 2, 3),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "token", "mountPath": "/var/run/secrets/shardway.dev", "readOnly": true},
            {"name": "trust", "mountPath": "/etc/shardway/trust", "readOnly": true},
        ],
    });
    if let Some(policy) = &settings.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if let Some(resources) = &pool.spec.resources {
        container["resources"] = json!(resources);
    }
    container
}
