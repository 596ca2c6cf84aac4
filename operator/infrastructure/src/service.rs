//! The Service of a Gateway: its address, and its ports.

use std::net::IpAddr;

use api::PoolKey;
use api_pool::{Family, FamilyPolicy, ServiceType};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::address::{family, wanted};
use crate::labels::{labels, owner, seal};
use crate::name::service_name;
use crate::needs::GatewayNeeds;

/// The Service that a Gateway is to have, beside the one that it has now.
///
/// A Service cannot be without a port. Without a valid listener there is none; one that is there keeps its ports, and with
/// them the Gateway's address, and leads nowhere. One whose `spec.addresses` cannot be had is not made either; one that is
/// there keeps the address that it has.
pub fn service(pool: &PoolKey, needs: &GatewayNeeds, current: Option<&Service>) -> Option<Service> {
    let now = current.and_then(|current| current.spec.as_ref());
    let ports: Vec<ServicePort> = if needs.ports.is_empty() {
        let ports = now?.ports.iter().flatten();
        ports
            .filter_map(|of| port(of.port, of.target_port.clone()?))
            .collect()
    } else {
        let ports = needs.ports.iter();
        ports
            .filter_map(|(port_, target)| {
                port(i32::from(*port_), IntOrString::Int(i32::from(*target)))
            })
            .collect()
    };
    if ports.is_empty() {
        return None;
    }
    let mut annotations = needs.settings.annotations.clone();
    annotations.extend(needs.annotations.clone());
    let mut service = Service {
        metadata: ObjectMeta {
            name: Some(service_name(&needs.gateway.name)),
            namespace: Some(needs.gateway.namespace.clone()),
            labels: Some(labels(pool, needs)),
            annotations: Some(annotations),
            owner_references: Some(vec![owner(needs)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec(needs, ports, now)?),
        status: None,
    };
    seal(&mut service, |service| &mut service.metadata);
    Some(service)
}

fn port(port: i32, target: IntOrString) -> Option<ServicePort> {
    (port > 0).then(|| ServicePort {
        name: Some(format!("tcp-{port}")),
        protocol: Some("TCP".into()),
        port,
        target_port: Some(target),
        ..ServicePort::default()
    })
}

fn spec(
    needs: &GatewayNeeds,
    ports: Vec<ServicePort>,
    now: Option<&ServiceSpec>,
) -> Option<ServiceSpec> {
    let settings = &needs.settings;
    let type_ = settings.service_type();
    let is_balancer = type_ == ServiceType::LoadBalancer;
    let mut spec = ServiceSpec {
        type_: Some(type_.as_str().into()),
        ports: Some(ports),
        // The default gives a port of every node to each: at 1,384 Gateways with two there would be none left.
        allocate_load_balancer_node_ports: is_balancer.then_some(false),
        load_balancer_class: settings.load_balancer_class.clone().filter(|_| is_balancer),
        external_traffic_policy: settings
            .external_traffic_policy
            .filter(|_| type_ != ServiceType::ClusterIp)
            .map(|of| of.as_str().into()),
        internal_traffic_policy: settings
            .internal_traffic_policy
            .map(|of| of.as_str().into()),
        ip_family_policy: settings.ip_family_policy.map(|of| of.as_str().into()),
        ip_families: strings(&settings.ip_families),
        traffic_distribution: settings.traffic_distribution.map(|of| of.as_str().into()),
        ..ServiceSpec::default()
    };
    match (wanted(needs), now) {
        (Ok(wanted), _) => ask_for(&mut spec, &wanted, is_balancer),
        (Err(_), Some(now)) if is_balancer => {
            spec.load_balancer_ip.clone_from(&now.load_balancer_ip);
        }
        (Err(_), Some(_)) => {}
        (Err(_), None) => return None,
    }
    Some(spec)
}

fn ask_for(spec: &mut ServiceSpec, wanted: &[IpAddr], is_balancer: bool) {
    let Some(first) = wanted.first() else {
        return;
    };
    if is_balancer {
        spec.load_balancer_ip = Some(first.to_string());
    } else {
        spec.cluster_ip = Some(first.to_string());
        spec.cluster_ips = Some(wanted.iter().map(ToString::to_string).collect());
    }
    if spec.ip_families.is_none() {
        let families: Vec<Family> = wanted.iter().map(|ip| family(*ip)).collect();
        if families.len() > 1 {
            spec.ip_family_policy = Some(FamilyPolicy::RequireDualStack.as_str().into());
        }
        spec.ip_families = strings(&families);
    }
}

fn strings(families: &[Family]) -> Option<Vec<String>> {
    let names: Vec<String> = families.iter().map(|of| of.as_str().to_owned()).collect();
    (!names.is_empty()).then_some(names)
}

/// IP families that a Service has: those that the API server gave it.
pub(crate) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let names = spec.and_then(|spec| spec.ip_families.as_ref());
    names
        .into_iter()
        .flatten()
        .map(|name| {
            if name == "IPv6" {
                Family::V6
            } else {
                Family::V4
            }
        })
        .collect()
}

/// The field by which one Service cannot become the other: then it has to go first.
pub fn immutable(current: &Service, desired: &Service) -> Option<&'static str> {
    let (now, then) = (current.spec.as_ref()?, desired.spec.as_ref()?);
    if let Some(ips) = &then.cluster_ips {
        let same = now
            .cluster_ips
            .as_ref()
            .is_some_and(|now| now.starts_with(ips));
        if !same {
            return Some("clusterIPs");
        }
    }
    let first = |spec: &ServiceSpec| spec.ip_families.as_ref().and_then(|of| of.first().cloned());
    if let (Some(now), Some(then)) = (first(now), first(then))
        && now != then
    {
        return Some("ipFamilies");
    }
    let same_type = now.type_ == then.type_ && then.type_.as_deref() == Some("LoadBalancer");
    (same_type && now.load_balancer_class != then.load_balancer_class)
        .then_some("loadBalancerClass")
}
