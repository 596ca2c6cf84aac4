//! ShardPools and CustomResourceDefinitions, which a cluster alone has.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::manifest::Document;
use crate::spec::{Crd, Fields, Meta, Object, ShardPool};

/// Annotations of the Gateway API's CRDs.
///
/// Source: gateway-api `pkg/consts`.
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
const CHANNEL: &str = "gateway.networking.k8s.io/channel";

pub(super) fn pool(document: &Document, meta: Meta) -> Result<Object, String> {
    let spec = document.object.get("spec").cloned().unwrap_or_default();
    Ok(Object::ShardPool(ShardPool { meta, spec }))
}

pub(super) fn crd(document: &Document, mut meta: Meta) -> Result<Object, String> {
    let object = &document.object;
    let kind = object.pointer("/spec/names/kind").and_then(Value::as_str);
    let versions = object.pointer("/spec/versions").and_then(Value::as_array);
    let served = versions
        .into_iter()
        .flatten()
        .filter(|version| version["served"] != Value::Bool(false));
    let versions: BTreeMap<String, Fields> = served
        .filter_map(|version| {
            let schema = version.pointer("/schema/openAPIV3Schema")?;
            Some((version["name"].as_str()?.to_owned(), Fields::of(schema)))
        })
        .collect();
    let bundle_version = meta.annotations.remove(BUNDLE_VERSION);
    let channel = meta.annotations.remove(CHANNEL);
    // Some hold the whole object as it was applied last.
    meta.annotations.clear();
    Ok(Object::Crd(Crd {
        meta,
        kind: kind.ok_or("spec.names.kind: is required")?.to_owned(),
        bundle_version,
        channel,
        versions,
    }))
}
