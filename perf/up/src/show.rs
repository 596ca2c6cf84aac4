//! What a person sees: the table, and requests to try.

mod request;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use operator_objects::manifest::Provenance;
use operator_objects::spec::Object;
use operator_objects::{Decoded, decode};
use operator_source::Document;
use serde_json::Value;
use tokio::process::Command;

use self::request::{Request, quoted, requests, shared_host};
use crate::http::json;

/// Requests that are shown.
const CURLS_MAX: usize = 12;
/// Requests that are asked about before the rest is left to who wants to know.
const ASKED_MAX: usize = 48;

/// Gateways and routes as kubectl would show them.
#[allow(clippy::print_stdout)] // this program's output
pub(crate) async fn table(bin: &Path, data: &Path) -> anyhow::Result<()> {
    let output = Command::new(bin.join("shardway"))
        .args(["get", "gateway,httproute", "-o", "wide", "--data"])
        .arg(data)
        .output()
        .await
        .context("run shardway get")?;
    println!(
        "\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A complete command for each listener of each route, at the start of a line: one that the route itself answers.
#[allow(clippy::print_stdout)] // this program's output
pub(crate) async fn curls(
    bin: &Path,
    admin: SocketAddr,
    folder: &Path,
    data: &Path,
) -> anyhow::Result<()> {
    let bindings = json(admin, "/api/v1/bindings").await?;
    let statuses = json(admin, "/api/v1/statuses").await?;
    let documents = operator_source::documents(folder)?;
    let (mut shown, mut asked) = (0, 0);
    for target in targets(&documents, &statuses, &bindings) {
        for request in requests(&target.route.object) {
            if shown == CURLS_MAX || asked == ASKED_MAX {
                println!("up: more routes are served; shardway get httproute lists them");
                return Ok(());
            }
            asked += 1;
            if !is_taken(bin, admin, &target, &request).await {
                continue;
            }
            if let Some(line) = line(&documents, &target, &request, data)? {
                shown += 1;
                println!("{line}");
            }
            break;
        }
    }
    println!();
    Ok(())
}

/// A listener that a route may be reached at.
struct Target<'d> {
    route: &'d Document,
    gateway: &'d Document,
    listener: &'d Value,
    host: String,
    address: String,
    port: u64,
}

impl Target<'_> {
    fn is_tls(&self) -> bool {
        self.listener["protocol"] == "HTTPS"
    }

    fn url(&self, host: &str, request: &Request) -> String {
        let scheme = if self.is_tls() { "https" } else { "http" };
        format!("{scheme}://{host}:{}{}", self.port, request.target)
    }
}

fn targets<'d>(
    documents: &'d [Document],
    statuses: &'d Value,
    bindings: &'d Value,
) -> impl Iterator<Item = Target<'d>> {
    let routes = documents.iter().filter(|it| it.kind == "HTTPRoute");
    let routes = routes.filter(|route| accepted(statuses, route));
    let parents = routes.flat_map(|route| {
        list(&route.object["spec"]["parentRefs"]).map(move |parent| (route, parent))
    });
    let gateways = parents.filter_map(|(route, parent)| {
        let name = parent["name"].as_str().unwrap_or_default();
        let namespace = parent["namespace"].as_str().unwrap_or(&route.namespace);
        let gateway = documents
            .iter()
            .find(|it| it.kind == "Gateway" && it.namespace == namespace && it.name == name)?;
        programmed(statuses, gateway).then_some((route, parent, gateway))
    });
    gateways.flat_map(move |(route, parent, gateway)| {
        let listeners = list(&gateway.object["spec"]["listeners"]);
        listeners.filter_map(move |listener| {
            let is_named = |field: &str, of: &str| {
                let wanted = &parent[field];
                wanted.is_null() || *wanted == listener[of]
            };
            if !is_named("sectionName", "name") || !is_named("port", "port") {
                return None;
            }
            let binding = list(bindings).find(|binding| {
                binding["namespace"] == *gateway.namespace
                    && binding["name"] == *gateway.name
                    && binding["port"] == listener["port"]
            })?;
            Some(Target {
                route,
                gateway,
                listener,
                host: shared_host(&route.object, listener)?,
                address: binding["addresses"][0].as_str()?.to_owned(),
                port: binding["publicPort"].as_u64()?,
            })
        })
    })
}

/// Whether the route itself takes a request: another one may be more precise, or this one be kept out by the listener.
async fn is_taken(bin: &Path, admin: SocketAddr, target: &Target<'_>, request: &Request) -> bool {
    let gateway = format!("{}/{}", target.gateway.namespace, target.gateway.name);
    let mut command = Command::new(bin.join("shardway"));
    command
        .args(["--operator", &admin.to_string()])
        .args([
            "explain",
            &request.method,
            &target.url(&target.host, request),
        ])
        .args(["--gateway", &gateway]);
    for header in &request.headers {
        command.args(["-H", header]);
    }
    let route = format!(" {}/{} ", target.route.namespace, target.route.name);
    command.output().await.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        let taken = text.lines().find(|line| line.starts_with("route "));
        taken.is_some_and(|line| line.contains(&route))
    })
}

/// The command; none where the certificate is not in the folder.
fn line(
    documents: &[Document],
    target: &Target<'_>,
    request: &Request,
    data: &Path,
) -> anyhow::Result<Option<String>> {
    let mut words = vec!["curl -s".to_owned()];
    match request.method.as_str() {
        "GET" => {}
        // With -X alone curl would wait for a body.
        "HEAD" => words.push("--head".into()),
        method => words.push(format!("-X {}", quoted(method))),
    }
    for header in &request.headers {
        words.push(format!("-H {}", quoted(header)));
    }
    if target.is_tls() {
        let Some(certificate) = certificate(documents, target, data)? else {
            return Ok(None);
        };
        let resolve = format!("{}:{}:{}", target.host, target.port, target.address);
        words.push(format!("--cacert {}", quoted(&certificate)));
        words.push(format!("--resolve {}", quoted(&resolve)));
        words.push(quoted(&target.url(&target.host, request)));
    } else {
        words.push(format!("-H {}", quoted(&format!("Host: {}", target.host))));
        words.push(quoted(&target.url(&target.address, request)));
    }
    Ok(Some(words.join(" ")))
}

fn programmed(statuses: &Value, gateway: &Document) -> bool {
    list(statuses).any(|status| {
        status["kind"] == "Gateway"
            && status["namespace"] == *gateway.namespace
            && status["name"] == *gateway.name
            && list(&status["status"]["conditions"])
                .any(|c| c["type"] == "Programmed" && c["status"] == "True")
    })
}

/// Whether a route's newest form is accepted by all of its parents.
fn accepted(statuses: &Value, route: &Document) -> bool {
    let status = list(statuses).find(|status| {
        status["kind"] == "HTTPRoute"
            && status["namespace"] == *route.namespace
            && status["name"] == *route.name
    });
    let Some(status) = status else { return false };
    list(&status["status"]["parents"])
        .flat_map(|parent| list(&parent["conditions"]))
        .filter(|condition| condition["type"] == "Accepted")
        .all(|condition| condition["status"] == "True")
}

/// The listener's first certificate as a file that curl can trust.
fn certificate(
    documents: &[Document],
    target: &Target<'_>,
    data: &Path,
) -> anyhow::Result<Option<String>> {
    let wanted = &target.listener["tls"]["certificateRefs"][0];
    let namespace = wanted["namespace"]
        .as_str()
        .unwrap_or(&target.gateway.namespace);
    let name = wanted["name"].as_str().unwrap_or_default();
    let secret = documents
        .iter()
        .find(|d| d.kind == "Secret" && d.namespace == namespace && d.name == name);
    let Some(pem) = secret.and_then(pem) else {
        return Ok(None);
    };
    let folder = data.join("certificates");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{namespace}.{name}.pem"));
    std::fs::write(&file, pem)?;
    Ok(Some(file.display().to_string()))
}

/// `tls.crt`, in whichever way the Secret is written.
fn pem(secret: &Document) -> Option<Vec<u8>> {
    match decode(secret, &Provenance::default()) {
        Decoded::Object(Object::Secret(secret)) => secret.data.get("tls.crt").cloned(),
        _ => None,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests;
