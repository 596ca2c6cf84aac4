//! Core kinds, by the types of the Kubernetes API. There is no schema of them here: a field that does not survive being
//! read and written is unknown.

use std::net::{IpAddr, SocketAddr};

use api::ENDPOINTS_ANNOTATION;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Unknown;
use crate::certificate::{TLS_SECRET, certificate};
use crate::manifest::Document;
use crate::spec::{
    ConfigMap, EndpointSlice, Meta, Namespace, Object, Secret, Service, ServicePort, SliceEndpoint,
    SlicePort,
};

pub(super) fn decode(document: &Document, meta: Meta, unknown: Unknown) -> Result<Object, String> {
    match document.kind.as_str() {
        "Namespace" => read::<core::Namespace>(document, unknown)
            .map(|_| Object::Namespace(Namespace { meta })),
        "Service" => service(read(document, unknown)?, meta),
        "EndpointSlice" => slice(read(document, unknown)?, meta),
        "Secret" => secret(read(document, unknown)?, meta),
        _ => {
            let map: core::ConfigMap = read(document, unknown)?;
            Ok(Object::ConfigMap(ConfigMap {
                meta,
                data: map.data.unwrap_or_default(),
            }))
        }
    }
}

fn read<T: DeserializeOwned + Serialize>(
    document: &Document,
    unknown: Unknown,
) -> Result<T, String> {
    if document.version != "v1" {
        return Err(format!(
            "apiVersion: version {} is not served; use v1",
            document.version
        ));
    }
    if unknown == Unknown::LeftOut {
        return T::deserialize(&document.object).map_err(|error| error.to_string());
    }
    let mut given = document.object.clone();
    if let Some(fields) = given.as_object_mut() {
        fields.remove("status");
    }
    let typed: T = serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
    let back = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    match first_unknown(&given, &back, String::new()) {
        Some(field) => Err(format!("{field}: unknown field")),
        None => Ok(typed),
    }
}

/// The first field of `given` that is not in `back`.
fn first_unknown(given: &Value, back: &Value, at: String) -> Option<String> {
    match (given, back) {
        (Value::Object(given), Value::Object(back)) => given.iter().find_map(|(name, value)| {
            let at = if at.is_empty() {
                name.clone()
            } else {
                format!("{at}.{name}")
            };
            match back.get(name) {
                Some(back) => first_unknown(value, back, at),
                None if is_empty(value) => None,
                None => Some(at),
            }
        }),
        (Value::Array(given), Value::Array(back)) => {
            given
                .iter()
                .zip(back)
                .enumerate()
                .find_map(|(position, (given, back))| {
                    first_unknown(given, back, format!("{at}[{position}]"))
                })
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn port(value: i32, field: &str) -> Result<u16, String> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("{field}: {value} is no port; use 1 to 65535"))
}

fn service(service: core::Service, meta: Meta) -> Result<Object, String> {
    let spec = service.spec.unwrap_or_default();
    let static_endpoints = match meta.annotations.get(ENDPOINTS_ANNOTATION) {
        Some(text) => Some(endpoints(text)?),
        None => None,
    };
    let is_external = spec.type_.as_deref() == Some("ExternalName");
    let external_name = spec.external_name.filter(|_| is_external);
    if is_external && external_name.as_deref().unwrap_or_default().is_empty() {
        return Err("spec.externalName: is required for type ExternalName".into());
    }
    let ports = spec
        .ports
        .unwrap_or_default()
        .into_iter()
        .enumerate()
        .map(|(position, of)| {
            Ok(ServicePort {
                name: of.name.unwrap_or_default(),
                port: port(of.port, &format!("spec.ports[{position}].port"))?,
                protocol: of.protocol.unwrap_or_else(|| "TCP".into()),
                app_protocol: of.app_protocol,
                target_port: match of.target_port {
                    Some(IntOrString::Int(number)) => {
                        Some(port(number, &format!("spec.ports[{position}].targetPort"))?)
                    }
                    _ => None,
                },
            })
        })
        .collect::<Result<_, String>>()?;
    Ok(Object::Service(Service {
        meta,
        external_name,
        ports,
        static_endpoints,
        ip_families: spec.ip_families.unwrap_or_default(),
        traffic_distribution: spec.traffic_distribution,
    }))
}

fn endpoints(text: &str) -> Result<Vec<(IpAddr, u16)>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            part.parse::<SocketAddr>().map(|address| (address.ip(), address.port())).map_err(|_| {
                format!("metadata.annotations[{ENDPOINTS_ANNOTATION}]: {part:?} is no address; use IP:PORT,IP:PORT")
            })
        })
        .collect()
}

fn slice(slice: discovery::EndpointSlice, meta: Meta) -> Result<Object, String> {
    let ports = slice
        .ports
        .unwrap_or_default()
        .into_iter()
        .map(|of| {
            Ok(SlicePort {
                name: of.name.unwrap_or_default(),
                port: of
                    .port
                    .map(|number| port(number, "ports[].port"))
                    .transpose()?,
                protocol: of.protocol.unwrap_or_else(|| "TCP".into()),
            })
        })
        .collect::<Result<_, String>>()?;
    let endpoints = slice
        .endpoints
        .into_iter()
        .map(|of| {
            let conditions = of.conditions.unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let hints = of.hints.unwrap_or_default();
            let zones = hints.for_zones.into_iter().flatten();
            let nodes = hints.for_nodes.into_iter().flatten();
            SliceEndpoint {
                addresses: of.addresses,
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
                zone: of.zone,
                node: of.node_name,
                for_zones: zones.map(|zone| zone.name).collect(),
                for_nodes: nodes.map(|node| node.name).collect(),
            }
        })
        .collect();
    Ok(Object::EndpointSlice(EndpointSlice {
        service: meta.labels.get("kubernetes.io/service-name").cloned(),
        address_type: slice.address_type,
        ports,
        endpoints,
        meta,
    }))
}

fn secret(secret: core::Secret, meta: Meta) -> Result<Object, String> {
    let mut data: std::collections::BTreeMap<String, Vec<u8>> = secret
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(name, bytes)| (name, bytes.0))
        .collect();
    for (name, text) in secret.string_data.unwrap_or_default() {
        data.insert(name, text.into_bytes());
    }
    let kind = secret.type_.unwrap_or_else(|| "Opaque".into());
    // Here and not where it is served, so that the last good one goes on being served.
    if kind == TLS_SECRET {
        certificate(&data).map_err(|error| error.to_string())?;
    }
    Ok(Object::Secret(Secret { meta, kind, data }))
}
