//! What is ours is known by its labels, and belongs to its Gateway.

use std::collections::BTreeMap;

use api::{GATEWAY_GROUP, PoolKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;

use crate::name::{hash, label_value};
use crate::needs::GatewayNeeds;

/// Label that names a Gateway, as the Gateway API wants it.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label of what we make.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const US: &str = "shardway";
/// Label that names the pool, and another one for its namespace: two installations leave each other's alone.
pub(crate) const POOL: &str = "shardway.dev/pool";
const POOL_NAMESPACE: &str = "shardway.dev/pool-namespace";
/// Annotation: a hash of what we wrote last. When it differs from what we want, something is to be written or taken away.
const APPLIED: &str = "shardway.dev/applied";

/// Selects Services and EndpointSlices of this installation.
pub(crate) fn selector(pool: &PoolKey) -> String {
    format!(
        "{GATEWAY_NAME},{MANAGED_BY}={US},{POOL}={},{POOL_NAMESPACE}={}",
        pool.name, pool.namespace
    )
}

/// Whether an object is of this installation.
pub(crate) fn is_ours(pool: &PoolKey, meta: &ObjectMeta) -> bool {
    let has = |name: &str, value: &str| {
        let labels = meta.labels.as_ref();
        labels
            .and_then(|labels| labels.get(name))
            .is_some_and(|of| of == value)
    };
    has(MANAGED_BY, US) && has(POOL, &pool.name) && has(POOL_NAMESPACE, &pool.namespace)
}

/// Labels of everything that is made for a Gateway: those that it asks for, and ours.
pub(crate) fn labels(pool: &PoolKey, needs: &GatewayNeeds) -> BTreeMap<String, String> {
    let mut labels = needs.labels.clone();
    labels.extend(
        [
            (GATEWAY_NAME, label_value(&needs.gateway.name)),
            (MANAGED_BY, US.to_owned()),
            (POOL, pool.name.clone()),
            (POOL_NAMESPACE, pool.namespace.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    labels
}

/// The Gateway as the owner: what it owns goes with it.
pub(crate) fn owner(needs: &GatewayNeeds) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GATEWAY_GROUP}/v1"),
        kind: "Gateway".into(),
        name: needs.gateway.name.clone(),
        uid: needs.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// Writes down a hash of `object` in its annotations.
pub(crate) fn seal<T: Serialize>(object: &mut T, meta: fn(&mut T) -> &mut ObjectMeta) {
    // What is written is plain data; it always has a JSON form.
    let text = serde_json::to_vec(object).unwrap_or_default();
    let annotations = &mut meta(object).annotations;
    let annotations = annotations.get_or_insert_default();
    annotations.insert(APPLIED.to_owned(), hash(&text));
}

/// The hash that was written down.
pub(crate) fn sealed(meta: &ObjectMeta) -> Option<&String> {
    meta.annotations.as_ref()?.get(APPLIED)
}
