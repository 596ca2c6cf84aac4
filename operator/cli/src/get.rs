//! `get` and `wait`: objects of the source's folder, with the statuses that the operator has.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::client::Client;
use crate::table::{or_none, render};

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// YAML.
    Yaml,
    /// JSON.
    Json,
    /// A table with more columns.
    Wide,
}

type Id = (String, String, String);

/// Kinds by the names that kubectl takes.
fn kind(name: &str) -> anyhow::Result<&'static str> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "gatewayclass" | "gatewayclasses" | "gc" => "GatewayClass",
        "gateway" | "gateways" | "gtw" => "Gateway",
        "httproute" | "httproutes" => "HTTPRoute",
        "referencegrant" | "referencegrants" | "refgrant" => "ReferenceGrant",
        "service" | "services" | "svc" => "Service",
        "endpointslice" | "endpointslices" => "EndpointSlice",
        "namespace" | "namespaces" | "ns" => "Namespace",
        "secret" | "secrets" => "Secret",
        "configmap" | "configmaps" | "cm" => "ConfigMap",
        _ => bail!(
            "unknown kind {name:?}; there are gatewayclass, gateway, httproute, referencegrant, service, endpointslice, namespace, secret, configmap"
        ),
    })
}

/// Objects of some kinds.
pub(crate) async fn get(
    client: &Client,
    kinds: &str,
    name: Option<&str>,
    namespace: Option<&str>,
    output: Option<Output>,
) -> anyhow::Result<String> {
    let objects = objects(client).await?;
    let mut texts = Vec::new();
    for kind_name in kinds.split(',') {
        let kind = kind(kind_name)?;
        let found: Vec<&Value> = objects
            .iter()
            .filter(|((of, ns, n), _)| {
                of == kind
                    && name.is_none_or(|name| name == n)
                    && namespace.is_none_or(|space| ns.is_empty() || space == ns)
            })
            .map(|(_, object)| object)
            .collect();
        if found.is_empty() && name.is_some() {
            bail!("{kind} {} not found", name.unwrap_or_default());
        }
        texts.push(match output {
            Some(Output::Json) => {
                format!("{}\n", serde_json::to_string_pretty(&one_or_list(&found))?)
            }
            Some(Output::Yaml) => serde_saphyr::to_string(&one_or_list(&found))?,
            wide => match kind {
                "Gateway" => gateways(&found, wide.is_some()),
                "HTTPRoute" => routes(&found, wide.is_some()),
                "GatewayClass" => classes(&found),
                _ => others(&found),
            },
        });
    }
    Ok(texts.join("\n"))
}

/// Waits for a condition of an object's newest generation.
pub(crate) async fn wait(
    client: &Client,
    kind_name: &str,
    namespace: &str,
    name: &str,
    condition: &str,
    timeout: Duration,
) -> anyhow::Result<String> {
    let kind = kind(kind_name)?;
    let began = Instant::now();
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    let mut last = "not found".to_owned();
    while began.elapsed() < timeout {
        poll.tick().await;
        let statuses = statuses(client).await?;
        let Some(status) = statuses.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
        else {
            continue;
        };
        let parents: Vec<&Value> = match status.get("parents").and_then(Value::as_array) {
            Some(parents) => parents.iter().collect(),
            None => vec![status],
        };
        let newest = parents
            .iter()
            .flat_map(|p| conditions(p))
            .filter_map(|c| c["observedGeneration"].as_i64())
            .max();
        let met: Vec<&Value> = parents
            .iter()
            .flat_map(|parent| conditions(parent))
            .filter(|c| c["type"] == condition)
            .collect();
        if !met.is_empty()
            && met
                .iter()
                .all(|c| c["status"] == "True" && c["observedGeneration"].as_i64() == newest)
        {
            return Ok(format!(
                "{kind} {namespace}/{name} {condition}: {}\n",
                met[0]["message"].as_str().unwrap_or_default()
            ));
        }
        last = met.first().map_or_else(
            || format!("no condition {condition}"),
            |c| {
                format!(
                    "{} {}",
                    c["reason"].as_str().unwrap_or_default(),
                    c["message"].as_str().unwrap_or_default()
                )
            },
        );
    }
    bail!(
        "{kind} {namespace}/{name} has not reached {condition} within {} s: {last}",
        timeout.as_secs()
    )
}

async fn statuses(client: &Client) -> anyhow::Result<BTreeMap<Id, Value>> {
    let list: Vec<Value> = client.json("/api/v1/statuses").await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(list
        .into_iter()
        .map(|mut item| {
            let status = item["status"].take();
            (
                (
                    text(&item["kind"]),
                    text(&item["namespace"]),
                    text(&item["name"]),
                ),
                status,
            )
        })
        .collect())
}

/// Objects of the folder with their statuses. Keys of Secrets are left out.
async fn objects(client: &Client) -> anyhow::Result<BTreeMap<Id, Value>> {
    let info: Value = client.json("/api/v1/info").await?;
    let folder = info["source"]
        .as_str()
        .context("the operator has no folder as its source")?;
    let mut statuses = statuses(client).await?;
    let mut objects = BTreeMap::new();
    for document in operator_source::documents(Path::new(folder))? {
        let mut object = document.object;
        let id = (document.kind, document.namespace, document.name);
        if let Some(fields) = object.as_object_mut() {
            for secret in ["data", "stringData"] {
                if id.0 == "Secret" {
                    fields.remove(secret);
                }
            }
            if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
                && !id.1.is_empty()
            {
                metadata.insert("namespace".into(), json!(id.1));
            }
            if let Some(status) = statuses.remove(&id) {
                fields.insert("status".into(), status);
            }
        }
        objects.entry(id).or_insert(object);
    }
    Ok(objects)
}

fn one_or_list(found: &[&Value]) -> Value {
    match found {
        [one] => (*one).clone(),
        many => json!({"apiVersion": "v1", "kind": "List", "items": many}),
    }
}

fn gateways(found: &[&Value], wide: bool) -> String {
    let mut headings = vec![
        "NAMESPACE",
        "NAME",
        "CLASS",
        "ADDRESS",
        "PROGRAMMED",
        "ATTACHED",
        "HOSTNAMES",
    ];
    if wide {
        headings.extend(["LISTENERS", "SERVED BY"]);
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|gateway| {
            let listeners: Vec<&Value> = list(&gateway["spec"]["listeners"]).collect();
            let mut hosts: Vec<String> = listeners
                .iter()
                .map(|listener| text(&listener["hostname"]))
                .map(|h| if h.is_empty() { "*".into() } else { h })
                .collect();
            hosts.dedup();
            let attached: u64 = list(&gateway["status"]["listeners"])
                .filter_map(|listener| listener["attachedRoutes"].as_u64())
                .sum();
            let addresses: Vec<String> = list(&gateway["status"]["addresses"])
                .map(|address| text(&address["value"]))
                .collect();
            let programmed = condition(&gateway["status"], "Programmed");
            let mut row = vec![
                text(&gateway["metadata"]["namespace"]),
                text(&gateway["metadata"]["name"]),
                text(&gateway["spec"]["gatewayClassName"]),
                or_none(addresses.join(",")),
                programmed.map_or_else(|| "Unknown".into(), |c| text(&c["status"])),
                attached.to_string(),
                hosts.join(","),
            ];
            if wide {
                let ports: Vec<String> = listeners
                    .iter()
                    .map(|l| format!("{}:{}", text(&l["name"]), l["port"]))
                    .collect();
                row.push(ports.join(","));
                row.push(programmed.map_or_else(String::new, |c| text(&c["message"])));
            }
            row
        })
        .collect();
    render(&headings, &rows)
}

fn routes(found: &[&Value], wide: bool) -> String {
    let mut headings = vec![
        "NAMESPACE",
        "NAME",
        "HOSTNAMES",
        "PARENTS",
        "ACCEPTED",
        "PROPAGATED",
    ];
    if wide {
        headings.push("MESSAGE");
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|route| {
            let hosts: Vec<String> = list(&route["spec"]["hostnames"]).map(text).collect();
            let parents: Vec<String> = list(&route["spec"]["parentRefs"])
                .map(|parent| match text(&parent["sectionName"]) {
                    section if section.is_empty() => text(&parent["name"]),
                    section => format!("{}/{section}", text(&parent["name"])),
                })
                .collect();
            let all = |name: &str| {
                let found: Vec<&Value> = list(&route["status"]["parents"])
                    .filter_map(|parent| condition(parent, name))
                    .collect();
                match found
                    .iter()
                    .find(|c| c["status"] != "True")
                    .or(found.first())
                {
                    Some(c) => (text(&c["status"]), text(&c["message"])),
                    None => ("Unknown".to_owned(), String::new()),
                }
            };
            let (accepted, refusal) = all("Accepted");
            let (propagated, progress) = all("shardway.dev/Propagated");
            let mut row = vec![
                text(&route["metadata"]["namespace"]),
                text(&route["metadata"]["name"]),
                if hosts.is_empty() {
                    "*".into()
                } else {
                    hosts.join(",")
                },
                or_none(parents.join(",")),
                accepted.clone(),
                propagated,
            ];
            if wide {
                row.push(if accepted == "True" {
                    progress
                } else {
                    refusal
                });
            }
            row
        })
        .collect();
    render(&headings, &rows)
}

fn classes(found: &[&Value]) -> String {
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|class| {
            vec![
                text(&class["metadata"]["name"]),
                text(&class["spec"]["controllerName"]),
                condition(&class["status"], "Accepted")
                    .map_or_else(|| "Unknown".into(), |c| text(&c["status"])),
            ]
        })
        .collect();
    render(&["NAME", "CONTROLLER", "ACCEPTED"], &rows)
}

fn others(found: &[&Value]) -> String {
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|object| {
            vec![
                text(&object["metadata"]["namespace"]),
                text(&object["metadata"]["name"]),
            ]
        })
        .collect();
    render(&["NAMESPACE", "NAME"], &rows)
}

fn condition<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    conditions(status).find(|condition| condition["type"] == name)
}

fn conditions(status: &Value) -> impl Iterator<Item = &Value> {
    list(&status["conditions"])
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
