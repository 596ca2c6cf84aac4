//! `explain`: the shard's own table, asked with a request that is not sent.

mod question;
mod text;

use std::fmt::Write as _;

use anyhow::{Context, bail};
use api::{BackendKey, GatewayKey, Revision};
use api_snapshot::{Fact, Op, SetHash};
use serde_json::Value;
use shard_proxy_table::{Match, Outcome, SubTable};

use self::question::Question;
use self::text::{backend_text, filter_text};
use crate::client::Client;

/// Explains where a request would go.
pub(crate) async fn explain(
    client: &Client,
    method: &str,
    url: &str,
    headers: &[String],
    gateway: Option<&str>,
) -> anyhow::Result<String> {
    let question = Question::read(method, url, headers)?;
    let Some(path) = &question.path else {
        return Ok(format!(
            "path       {} is refused by every Gateway, peers read it in different ways: 400\n",
            question.raw_path
        ));
    };
    let request = question.request(path);
    let mut out = String::new();
    let mut tried = 0;
    for key in candidates(client, gateway, &question.connects_to).await? {
        // One of many that is not served, as it never had a valid form, is no answer to the question.
        let Some((table, ports)) = table(client, &key).await? else {
            if gateway.is_some() {
                bail!("gateway {key} is not served; see shardway get gateway -o yaml");
            }
            continue;
        };
        let port = question.port;
        let Some((listener_port, public)) = ports
            .iter()
            .find(|(own, public)| *own == port || *public == port)
        else {
            continue;
        };
        if table.port_is_tls(*listener_port) != Some(question.is_tls) {
            continue;
        }
        tried += 1;
        let explanation = table.explain(*listener_port, &request);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "gateway    {key} (revision {}), port {listener_port} bound as {public}",
            table.revision()
        );
        if *path != question.raw_path {
            let _ = writeln!(out, "path       {} is read as {path}", question.raw_path);
        }
        let _ = writeln!(
            out,
            "listener   {}",
            explanation
                .listener
                .as_deref()
                .unwrap_or("none takes this host: 404")
        );
        match table.route(*listener_port, &request) {
            Outcome::Matched(found) => {
                let matched = explanation.matched.as_deref().unwrap_or_default();
                out.push_str(&rule(client, &found, matched).await?);
            }
            _ => {
                let _ = writeln!(out, "route      none: 404");
            }
        }
        if !explanation.near_misses.is_empty() {
            let _ = writeln!(out, "near misses, of {} matches:", explanation.considered);
            for miss in &explanation.near_misses {
                let _ = writeln!(out, "  {}: {}", miss.candidate, miss.reason);
            }
        }
    }
    if tried == 0 {
        bail!(
            "no gateway has port {} with{} TLS; name one by --gateway NAMESPACE/NAME",
            question.port,
            if question.is_tls { "" } else { "out" }
        );
    }
    Ok(out)
}

/// What the rule that was found does.
async fn rule(
    client: &Client,
    found: &Match<'_, BackendKey>,
    matched: &str,
) -> anyhow::Result<String> {
    let mut out = String::new();
    let name = found.rule.name.as_deref().map(|name| format!(" ({name})"));
    let _ = writeln!(
        out,
        "route      {} rules[{}]{}",
        found.rule.route,
        found.rule.index,
        name.unwrap_or_default()
    );
    let _ = writeln!(out, "match      {matched}");
    for filter in &found.rule.filters {
        let _ = writeln!(out, "filter     {}", filter_text(filter));
    }
    for backend in &found.rule.backends {
        let Some(key) = &backend.target else {
            let weight = backend.weight;
            let _ = writeln!(out, "backend    invalid reference: 500, weight {weight}");
            continue;
        };
        let endpoints = match endpoints(client, key).await? {
            Some(fact) => backend_text(&fact),
            None => "its endpoints are not known".to_owned(),
        };
        let _ = writeln!(
            out,
            "backend    {key} weight {}: {endpoints}",
            backend.weight
        );
        for filter in &backend.filters {
            let _ = writeln!(out, "  filter   {}", filter_text(filter));
        }
    }
    Ok(out)
}

async fn endpoints(
    client: &Client,
    key: &BackendKey,
) -> anyhow::Result<Option<api_snapshot::facts::Backend>> {
    let path = format!(
        "/api/v1/backends/{}/{}/{}",
        key.namespace, key.name, key.port
    );
    let Some(bytes) = client.bytes_if_any(&path).await? else {
        return Ok(None);
    };
    Ok(match api_snapshot::decode("fact", &bytes)? {
        Fact::Backend(backend) => Some(backend),
        _ => None,
    })
}

/// The Gateway that is named, the one with the URL's address, or all.
async fn candidates(
    client: &Client,
    gateway: Option<&str>,
    host: &str,
) -> anyhow::Result<Vec<GatewayKey>> {
    if let Some(name) = gateway {
        let (namespace, name) = name
            .split_once('/')
            .context("--gateway is NAMESPACE/NAME")?;
        return Ok(vec![GatewayKey::new(namespace, name)]);
    }
    let statuses: Vec<Value> = client.json("/api/v1/statuses").await?;
    let gateways: Vec<&Value> = statuses
        .iter()
        .filter(|status| status["kind"] == "Gateway")
        .collect();
    let key = |status: &Value| {
        GatewayKey::new(
            status["namespace"].as_str().unwrap_or_default(),
            status["name"].as_str().unwrap_or_default(),
        )
    };
    let has = |status: &Value| {
        let addresses = status["status"]["addresses"].as_array();
        addresses
            .into_iter()
            .flatten()
            .any(|address| address["value"] == host)
    };
    let by_address: Vec<GatewayKey> = gateways
        .iter()
        .filter(|status| has(status))
        .map(|s| key(s))
        .collect();
    if by_address.is_empty() {
        Ok(gateways.into_iter().map(key).collect())
    } else {
        Ok(by_address)
    }
}

/// The table of a Gateway, and where its ports are bound; none for one that is not served.
async fn table(
    client: &Client,
    gateway: &GatewayKey,
) -> anyhow::Result<Option<(SubTable<BackendKey>, Vec<(u16, u16)>)>> {
    let path = format!("/api/v1/entries/{}/{}", gateway.namespace, gateway.name);
    let Some(bytes) = client.bytes_if_any(&path).await? else {
        return Ok(None);
    };
    let (revision, ops, hash, ports): (Revision, Vec<Op>, SetHash, Vec<(u16, u16)>) =
        api_snapshot::decode("entries", &bytes)?;
    let table = SubTable::empty(gateway.clone())
        .apply(Revision(0), revision, true, &ops, hash, &mut Clone::clone)
        .with_context(|| format!("build the table of gateway {gateway}"))?;
    Ok(Some((table, ports)))
}

#[cfg(test)]
mod tests;
