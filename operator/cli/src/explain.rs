//! `explain`: the shard's own table, asked with a request that is not sent.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use api::{BackendKey, GatewayKey, Revision};
use api_snapshot::{Op, SetHash};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;
use shard_proxy_table::{CompiledFilter, Outcome, RequestView, SubTable};

use crate::client::Client;

/// Explains where a request would go.
pub(crate) async fn explain(
    client: &Client,
    method: &str,
    url: &str,
    headers: &[String],
    gateway: Option<&str>,
) -> anyhow::Result<String> {
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).context("read the method")?;
    let uri: Uri = url
        .parse()
        .with_context(|| format!("read the URL {url:?}"))?;
    let mut host = uri
        .host()
        .context("the URL needs a host: http://HOST/PATH")?
        .to_ascii_lowercase();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let mut map = HeaderMap::new();
    for header in headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("{header:?} is not NAME: VALUE"))?;
        if name.eq_ignore_ascii_case("host") {
            host = value
                .trim()
                .split(':')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase();
            continue;
        }
        map.append(
            HeaderName::from_bytes(name.trim().as_bytes())?,
            HeaderValue::from_str(value.trim())?,
        );
    }
    let path = if uri.path().is_empty() {
        "/"
    } else {
        uri.path()
    };
    let request = RequestView {
        host: &host,
        path,
        query: uri.query(),
        method: &method,
        headers: &map,
    };
    let mut out = String::new();
    let candidates = candidates(client, gateway, uri.host().unwrap_or_default()).await?;
    let mut tried = 0;
    for gateway in candidates {
        let (table, ports) = table(client, &gateway).await?;
        let Some((listener_port, public)) = ports
            .iter()
            .find(|(own, public)| *own == port || *public == port)
        else {
            continue;
        };
        if table.port_is_tls(*listener_port) != Some(tls) {
            continue;
        }
        tried += 1;
        let explanation = table.explain(*listener_port, &request);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "gateway    {gateway} (revision {}), port {listener_port} bound as {public}",
            table.revision()
        );
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
                let _ = writeln!(
                    out,
                    "route      {} rules[{}]{}",
                    found.rule.route,
                    found.rule.index,
                    found
                        .rule
                        .name
                        .as_deref()
                        .map(|n| format!(" ({n})"))
                        .unwrap_or_default()
                );
                let _ = writeln!(
                    out,
                    "match      {}",
                    explanation.matched.as_deref().unwrap_or_default()
                );
                for filter in &found.rule.filters {
                    let _ = writeln!(out, "filter     {}", filter_text(filter));
                }
                for backend in &found.rule.backends {
                    let target = backend
                        .target
                        .as_ref()
                        .map_or_else(|| "invalid reference: 500".to_owned(), ToString::to_string);
                    let _ = writeln!(out, "backend    {target} weight {}", backend.weight);
                }
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
            "no gateway has port {port} with{} TLS; name one by --gateway NAMESPACE/NAME",
            if tls { "" } else { "out" }
        );
    }
    Ok(out)
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

async fn table(
    client: &Client,
    gateway: &GatewayKey,
) -> anyhow::Result<(SubTable<BackendKey>, Vec<(u16, u16)>)> {
    let bytes = client
        .bytes(&format!(
            "/api/v1/entries/{}/{}",
            gateway.namespace, gateway.name
        ))
        .await?;
    let (revision, ops, hash, ports): (Revision, Vec<Op>, SetHash, Vec<(u16, u16)>) =
        api_snapshot::decode("entries", &bytes)?;
    let table = SubTable::empty(gateway.clone())
        .apply(Revision(0), revision, true, &ops, hash, &mut Clone::clone)
        .with_context(|| format!("build the table of gateway {gateway}"))?;
    Ok((table, ports))
}

fn filter_text(filter: &CompiledFilter) -> String {
    match filter {
        CompiledFilter::RequestHeaders(ops) => format!(
            "request headers: {} set, {} added, {} removed",
            ops.set.len(),
            ops.add.len(),
            ops.remove.len()
        ),
        CompiledFilter::ResponseHeaders(ops) => format!(
            "response headers: {} set, {} added, {} removed",
            ops.set.len(),
            ops.add.len(),
            ops.remove.len()
        ),
        CompiledFilter::Redirect(redirect) => format!("redirect {} {redirect:?}", redirect.status),
        CompiledFilter::Rewrite(rewrite) => format!("{rewrite:?}"),
        CompiledFilter::Fail(status) => format!("cannot be served: {status}"),
    }
}
