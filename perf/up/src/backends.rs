//! Echo backends that the manifests name: endpoints on 127.0.3.0/24 are ours to start.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

/// Name and address of each echo backend that is not there yet.
pub(crate) fn named_by(folder: &Path) -> anyhow::Result<Vec<(String, SocketAddr)>> {
    let mut found = BTreeMap::new();
    for document in operator_source::documents(folder)? {
        let endpoints = document
            .object
            .pointer("/metadata/annotations")
            .and_then(|annotations| annotations.get("shardway.dev/endpoints"))
            .and_then(|endpoints| endpoints.as_str())
            .unwrap_or_default();
        for address in endpoints
            .split(',')
            .filter_map(|text| text.trim().parse::<SocketAddr>().ok())
        {
            let ours = matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[..3] == [127, 0, 3]);
            // Another `up` may have started it.
            if ours && TcpListener::bind(address).is_ok() {
                found.insert(address, format!("{}-{}", document.name, address.port()));
            }
        }
    }
    Ok(found
        .into_iter()
        .map(|(address, name)| (name, address))
        .collect())
}
