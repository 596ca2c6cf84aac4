//! The addresses that a Gateway asks for, and those that it has.

use std::net::IpAddr;

use api::condition::reasons;
use api_pool::{Family, ServiceType};
use k8s_openapi::api::core::v1::Service;

use crate::needs::{AddressKind, GatewayNeeds, Problem, StatusAddress};

/// The addresses that a Gateway asks for by value; none when any will do.
///
/// A load balancer is asked for one, for there is one field to ask by; a Service within the cluster has one of each family.
///
/// # Errors
/// A [`Problem`] with the Gateway API's reason: `UnsupportedAddress` for a type, `AddressNotUsable` for a value.
///
/// Source: gateway-api v1 `GatewaySpec.addresses`.
pub fn wanted(needs: &GatewayNeeds) -> Result<Vec<IpAddr>, Problem> {
    let mut wanted: Vec<IpAddr> = Vec::new();
    if let Some(other) = needs.addresses.iter().find(|of| of.type_ != "IPAddress") {
        return Err(Problem {
            reason: reasons::UNSUPPORTED_ADDRESS,
            message: format!(
                "spec.addresses: type {} is not supported; use IPAddress",
                other.type_
            ),
        });
    }
    for address in &needs.addresses {
        if address.value.is_empty() {
            continue;
        }
        let Ok(ip) = address.value.parse::<IpAddr>() else {
            return Err(not_usable(format!("{:?} is no IP address", address.value)));
        };
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(not_usable(format!("{ip} cannot be reached by clients")));
        }
        if !wanted.contains(&ip) {
            wanted.push(ip);
        }
    }
    if needs.settings.service_type() == ServiceType::LoadBalancer {
        if wanted.len() > 1 {
            return Err(not_usable(format!(
                "a load balancer is asked for one address; leave {} and no other",
                wanted[0]
            )));
        }
    } else if let [one, other, rest @ ..] = wanted.as_slice()
        && (family(*one) == family(*other) || !rest.is_empty())
    {
        return Err(not_usable(
            "a Service has one address of each IP family; remove the others".into(),
        ));
    }
    let families = &needs.settings.ip_families;
    if let Some(ip) = wanted
        .iter()
        .find(|ip| !families.is_empty() && !families.contains(&family(**ip)))
    {
        let names: Vec<&str> = families.iter().map(|of| of.as_str()).collect();
        return Err(not_usable(format!(
            "{ip} is not of the Service's IP families ({})",
            names.join(", ")
        )));
    }
    Ok(wanted)
}

fn not_usable(message: String) -> Problem {
    Problem {
        reason: reasons::ADDRESS_NOT_USABLE,
        message: format!("spec.addresses: {message}"),
    }
}

/// Family of an address.
pub(crate) fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// The addresses that a Service has: of its load balancer, or within the cluster.
pub fn assigned(service: &Service) -> Vec<StatusAddress> {
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer") {
        let balancer = service
            .status
            .as_ref()
            .and_then(|of| of.load_balancer.as_ref());
        let ingress = balancer.and_then(|of| of.ingress.as_ref());
        let addresses = ingress.into_iter().flatten().filter_map(|of| {
            let ip = of.ip.as_ref().filter(|ip| !ip.is_empty());
            let hostname = of.hostname.as_ref().filter(|name| !name.is_empty());
            ip.map(|ip| (AddressKind::IpAddress, ip))
                .or(hostname.map(|name| (AddressKind::Hostname, name)))
        });
        return addresses.map(status_address).collect();
    }
    let ips = spec.and_then(|spec| spec.cluster_ips.as_ref());
    let ips = ips.into_iter().flatten();
    // A Service that has none of its own says so by a word.
    ips.filter(|ip| ip.parse::<IpAddr>().is_ok())
        .map(|ip| status_address((AddressKind::IpAddress, ip)))
        .collect()
}

fn status_address((kind, value): (AddressKind, &String)) -> StatusAddress {
    StatusAddress {
        kind,
        value: value.clone(),
    }
}

/// What is wrong with the addresses that a Gateway has.
pub(crate) fn problem(needs: &GatewayNeeds, has: &[StatusAddress]) -> Option<Problem> {
    let wanted = match wanted(needs) {
        Ok(wanted) => wanted,
        Err(problem) => return Some(problem),
    };
    if needs.ports.is_empty() && has.is_empty() {
        return Some(Problem {
            reason: reasons::INVALID,
            message: "no listener is valid, so there is no Service and no address".into(),
        });
    }
    let who = match needs.settings.service_type() {
        ServiceType::LoadBalancer => "load balancer",
        _ => "Service",
    };
    let has_ip = |ip: &IpAddr| has.iter().any(|of| of.value.parse() == Ok(*ip));
    let missing = wanted.iter().find(|ip| !has_ip(ip));
    let (reason, message) = match (missing, has.first()) {
        (Some(ip), None) => (
            reasons::ADDRESS_NOT_ASSIGNED,
            format!("spec.addresses: the {who} has not given {ip}"),
        ),
        (Some(ip), Some(other)) => (
            reasons::ADDRESS_NOT_USABLE,
            format!(
                "spec.addresses: the {who} has given {} in place of {ip}",
                other.value
            ),
        ),
        (None, None) => (
            reasons::ADDRESS_NOT_ASSIGNED,
            format!("the {who} has given no address yet"),
        ),
        (None, Some(_)) => return None,
    };
    Some(Problem { reason, message })
}
