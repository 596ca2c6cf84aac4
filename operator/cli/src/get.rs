//! `get`: objects of the source, a folder or a cluster, with their statuses.

use anyhow::bail;
use serde_json::{Value, json};

use crate::client::Client;
use crate::objects::{conditions, kind, list, objects, text};
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

/// Objects of some kinds.
pub(crate) async fn get(
    client: &Client,
    kinds: &str,
    name: Option<&str>,
    namespace: Option<&str>,
    output: Option<Output>,
) -> anyhow::Result<String> {
    let is_whole = matches!(output, Some(Output::Yaml | Output::Json));
    let kinds = kinds
        .split(',')
        .map(kind)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let objects = objects(client, &kinds, is_whole).await?;
    let mut texts = Vec::new();
    for kind in kinds {
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
