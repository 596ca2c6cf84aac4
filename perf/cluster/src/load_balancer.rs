//! Gives Services of type LoadBalancer their addresses, as the controller of a cloud does. It knows Services alone: its role
//! lets it read them and write their status, nothing else, so what works here does not lean on more.
//!
//! One loop: list all, then follow changes until the watch ends, then again.

mod pool;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};

use crate::api::Api;
pub use pool::{Pool, Wish};

/// Pause after a loop that ended with an error.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until it is killed.
pub fn run(api: &Api, ranges: &[ipnet::IpNet], say: impl Fn(&str)) {
    let mut pool = Pool::new(ranges);
    loop {
        if let Err(error) = follow(api, &mut pool, &say) {
            say(&format!("{error:#}; trying again"));
            std::thread::sleep(PAUSE);
        }
    }
}

fn follow(api: &Api, pool: &mut Pool, say: &impl Fn(&str)) -> anyhow::Result<()> {
    let list = api.get("/api/v1/services")?;
    let mut services: BTreeMap<String, Value> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|service| (key(service), service.clone()))
        .collect();
    // Addresses that are in use are known before the first new one is given.
    pool.clear();
    for (key, service) in &services {
        pool.keep(key, &addresses(service));
    }
    settle(api, pool, &services, say)?;
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    api.watch("/api/v1/services", version, |event, service| {
        let key = key(service);
        if event == "DELETED" {
            services.remove(&key);
            if pool.release(&key) {
                // Somebody may wait for it.
                settle(api, pool, &services, say)?;
            }
            return Ok(());
        }
        let freed = settle_one(api, pool, &key, service, say)?;
        services.insert(key, service.clone());
        if freed {
            settle(api, pool, &services, say)?;
        }
        Ok(())
    })
}

fn settle(
    api: &Api,
    pool: &mut Pool,
    services: &BTreeMap<String, Value>,
    say: &impl Fn(&str),
) -> anyhow::Result<()> {
    for (key, service) in services {
        settle_one(api, pool, key, service, say)?;
    }
    Ok(())
}

/// Brings one Service's status in line; tells whether an address came free.
fn settle_one(
    api: &Api,
    pool: &mut Pool,
    key: &str,
    service: &Value,
    say: &impl Fn(&str),
) -> anyhow::Result<bool> {
    let now = addresses(service);
    let Some(wish) = wish(service) else {
        // An entry that is not from this range is somebody else's.
        if now.iter().any(|address| pool.contains(*address)) && !has_class(service) {
            write(api, service, &[])?;
        }
        return Ok(pool.release(key));
    };
    let held = pool.held(key);
    let given = match pool.give(key, &wish) {
        Ok(given) => given,
        Err(refusal) => {
            say(&format!("{key}: {refusal}"));
            Vec::new()
        }
    };
    if given != now && write(api, service, &given)? {
        say(&format!("{key}: {given:?}"));
    }
    Ok(held.iter().any(|address| !given.contains(address)))
}

/// What a Service asks for; none when it is no load balancer of ours.
fn wish(service: &Value) -> Option<Wish> {
    let spec = &service["spec"];
    let ours = spec["type"] == "LoadBalancer"
        && !has_class(service)
        && service["metadata"]["deletionTimestamp"].is_null();
    ours.then(|| Wish {
        six: spec["ipFamilies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|family| family == "IPv6")
            .collect(),
        address: spec["loadBalancerIP"]
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
    })
}

fn has_class(service: &Value) -> bool {
    !service["spec"]["loadBalancerClass"].is_null()
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    service["status"]["loadBalancer"]["ingress"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["ip"].as_str()?.parse().ok())
        .collect()
}

/// Writes the addresses into the status; false when the Service is gone.
fn write(api: &Api, service: &Value, addresses: &[IpAddr]) -> anyhow::Result<bool> {
    let metadata = &service["metadata"];
    let (namespace, name) = (
        metadata["namespace"].as_str().unwrap_or_default(),
        metadata["name"].as_str().unwrap_or_default(),
    );
    let entries: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"ip": address, "ipMode": "VIP"}))
        .collect();
    // With its uid, so that a Service of the same name that came since is left alone.
    let patch = json!({
        "metadata": {"uid": metadata["uid"]},
        "status": {"loadBalancer": {"ingress": entries}},
    });
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}/status");
    let answer = api.merge(&path, &patch)?;
    match answer.status {
        200 => Ok(true),
        404 | 409 => Ok(false),
        status => bail!(
            "{namespace}/{name}: write its status: {status} {}",
            answer.body["message"]
        ),
    }
}

fn key(service: &Value) -> String {
    let text = |name: &str| service["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_from_the_spec() {
        let service = json!({"spec": {
            "type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"], "loadBalancerIP": "10.98.0.7",
        }});
        let wish = wish(&service);
        assert_eq!(
            wish,
            Some(Wish {
                six: vec![false, true],
                address: Some("10.98.0.7".into())
            })
        );
    }

    #[test]
    fn what_is_not_ours_has_no_wish() {
        for spec in [
            json!({"type": "ClusterIP"}),
            json!({"type": "LoadBalancer", "loadBalancerClass": "other.example/lb"}),
        ] {
            assert_eq!(wish(&json!({"spec": spec})), None);
        }
        let leaving =
            json!({"metadata": {"deletionTimestamp": "x"}, "spec": {"type": "LoadBalancer"}});
        assert_eq!(wish(&leaving), None);
    }
}
