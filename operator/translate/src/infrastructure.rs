//! What a Gateway asks of the things around it: labels, annotations, addresses and settings of its Service.

use std::collections::BTreeMap;

use api::condition::reasons;
use api::{ObjectKey, PoolKey};
use api_pool::ServiceSettings;
use operator_index::Index;
use operator_objects::spec::{Gateway, GatewayAddress, ParametersRef};

use crate::Settings;
use crate::problem::Problem;

/// What a Gateway asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayInfrastructure {
    /// `metadata.uid` of the Gateway, for owner references.
    pub uid: String,
    /// `spec.infrastructure.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.infrastructure.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.addresses`; empty for any one.
    pub addresses: Vec<GatewayAddress>,
    /// `data` of the ConfigMap that `spec.infrastructure.parametersRef` names; it has been checked.
    pub parameters: Option<BTreeMap<String, String>>,
}

/// What a Gateway asks for, or why it cannot have it.
///
/// Source: gateway-api v1 `GatewayInfrastructure`, `GatewaySpecAddress`.
pub(crate) fn infrastructure(
    view: &Index,
    gateway: &Gateway,
    settings: &Settings,
) -> Result<GatewayInfrastructure, Problem> {
    let parameters = match &gateway.parameters_ref {
        Some(of) => Some(parameters(view, gateway, of, settings).map_err(|text| {
            let message = format!("spec.infrastructure.parametersRef: {text}");
            Problem::new(reasons::INVALID_PARAMETERS, message)
        })?),
        None => None,
    };
    let other = gateway
        .addresses
        .iter()
        .find(|address| address.kind != "IPAddress");
    if let Some(address) = other {
        let message = format!(
            "spec.addresses: type {} is not supported; use IPAddress",
            address.kind
        );
        return Err(Problem::new(reasons::UNSUPPORTED_ADDRESS, message));
    }
    Ok(GatewayInfrastructure {
        uid: gateway.meta.uid.clone(),
        labels: gateway.infrastructure_labels.clone(),
        annotations: gateway.infrastructure_annotations.clone(),
        addresses: gateway.addresses.clone(),
        parameters,
    })
}

/// The ConfigMap that a Gateway takes parameters from, whether it is there or not.
pub(crate) fn config_map(gateway: &Gateway) -> Option<ObjectKey> {
    let of = gateway.parameters_ref.as_ref()?;
    is_config_map(of).then(|| ObjectKey::new("", "ConfigMap", &gateway.meta.namespace, &of.name))
}

fn is_config_map(of: &ParametersRef) -> bool {
    of.group.is_empty() && of.kind == "ConfigMap"
}

fn parameters(
    view: &Index,
    gateway: &Gateway,
    of: &ParametersRef,
    settings: &Settings,
) -> Result<BTreeMap<String, String>, String> {
    let Some(key) = config_map(gateway) else {
        return Err(format!(
            "kind {} of group {:?} is not supported; name a core ConfigMap or remove it",
            of.kind, of.group
        ));
    };
    if let Some(rejected) = view.rejected(&key) {
        return Err(format!("{key} is rejected: {}", rejected.message));
    }
    let Some(map) = view.config_map(&key) else {
        return Err(format!(
            "{key} does not exist; create it or remove the reference"
        ));
    };
    match pool_settings(view, settings.pool.as_ref()).overridden(&map.data) {
        Ok(_) => Ok(map.data.clone()),
        Err(error) => Err(format!("{key}: {error}")),
    }
}

/// The settings that those of a Gateway are put over. What cannot be read of a pool is told there, not here.
fn pool_settings(view: &Index, pool: Option<&PoolKey>) -> ServiceSettings {
    let pool = pool.and_then(|pool| view.pool(pool));
    let service = pool.and_then(|pool| pool.spec.get("service")).cloned();
    service
        .and_then(|service| serde_json::from_value(service).ok())
        .unwrap_or_default()
}
