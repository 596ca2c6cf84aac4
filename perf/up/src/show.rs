//! What a person sees: the table, and requests to try.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;
use tokio::process::Command;

use crate::http::json;

/// Requests that are shown.
const CURLS_MAX: usize = 12;

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

/// A complete command for each host of each route, at the start of a line.
#[allow(clippy::print_stdout)] // this program's output
pub(crate) async fn curls(admin: SocketAddr, folder: &Path, data: &Path) -> anyhow::Result<()> {
    let bindings = json(admin, "/api/v1/bindings").await?;
    let statuses = json(admin, "/api/v1/statuses").await?;
    let documents = operator_source::documents(folder)?;
    let mut shown = 0;
    for route in documents
        .iter()
        .filter(|document| document.kind == "HTTPRoute")
    {
        if !accepted(&statuses, route) {
            continue;
        }
        let programmed = |namespace: &str, name: &str| {
            list(&statuses).any(|status| {
                status["kind"] == "Gateway"
                    && status["namespace"] == namespace
                    && status["name"] == name
                    && list(&status["status"]["conditions"])
                        .any(|c| c["type"] == "Programmed" && c["status"] == "True")
            })
        };
        for parent in list(&route.object["spec"]["parentRefs"]) {
            let name = parent["name"].as_str().unwrap_or_default();
            let namespace = parent["namespace"].as_str().unwrap_or(&route.namespace);
            if !programmed(namespace, name) {
                continue;
            }
            let Some(gateway) = documents
                .iter()
                .find(|d| d.kind == "Gateway" && d.namespace == namespace && d.name == name)
            else {
                continue;
            };
            for listener in list(&gateway.object["spec"]["listeners"]) {
                let section = parent["sectionName"].as_str();
                if section.is_some_and(|section| Some(section) != listener["name"].as_str()) {
                    continue;
                }
                let binding = list(&bindings).find(|binding| {
                    binding["namespace"] == namespace
                        && binding["name"] == name
                        && binding["port"] == listener["port"]
                });
                let (Some(host), Some(binding)) = (host(&route.object, listener), binding) else {
                    continue;
                };
                let path = path(&route.object);
                let address = binding["addresses"][0].as_str().unwrap_or_default();
                let port = &binding["publicPort"];
                if shown == CURLS_MAX {
                    println!("up: more routes are served; shardway get httproute lists them");
                    return Ok(());
                }
                shown += 1;
                if listener["protocol"] == "HTTPS" {
                    let Some(certificate) = certificate(&documents, gateway, listener, data)?
                    else {
                        continue;
                    };
                    let resolve = quoted(&format!("{host}:{port}:{address}"));
                    let url = quoted(&format!("https://{host}:{port}{path}"));
                    let certificate = quoted(&certificate);
                    println!("curl -s --cacert {certificate} --resolve {resolve} {url}");
                } else {
                    let header = quoted(&format!("Host: {host}"));
                    let url = quoted(&format!("http://{address}:{port}{path}"));
                    println!("curl -s -H {header} {url}");
                }
            }
        }
    }
    println!();
    Ok(())
}

/// A text as one word of a shell: what manifests hold is never run.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@%+=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Whether a route's newest form is accepted by all of its parents.
fn accepted(statuses: &Value, route: &operator_source::Document) -> bool {
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

/// A host that both the route and the listener take.
fn host(route: &Value, listener: &Value) -> Option<String> {
    let own = listener["hostname"].as_str();
    let hosts: Vec<&str> = list(&route["spec"]["hostnames"])
        .filter_map(Value::as_str)
        .collect();
    let fits = |host: &str| match own {
        None => true,
        Some(own) => {
            own == host
                || own
                    .strip_prefix('*')
                    .is_some_and(|suffix| host.ends_with(suffix))
        }
    };
    let concrete = |host: &str| {
        host.strip_prefix('*')
            .map_or_else(|| host.to_owned(), |suffix| format!("example{suffix}"))
    };
    match hosts.iter().find(|host| fits(host)) {
        Some(host) => Some(concrete(host)),
        None if hosts.is_empty() => Some(own.map_or_else(|| "example.test".to_owned(), concrete)),
        None => None,
    }
}

/// The path of the route's first match.
fn path(route: &Value) -> String {
    let path = route["spec"]["rules"][0]["matches"][0]["path"]["value"].as_str();
    path.unwrap_or("/").to_owned()
}

/// The listener's first certificate as a file that curl can trust.
fn certificate(
    documents: &[operator_source::Document],
    gateway: &operator_source::Document,
    listener: &Value,
    data: &Path,
) -> anyhow::Result<Option<String>> {
    let wanted = &listener["tls"]["certificateRefs"][0];
    let namespace = wanted["namespace"].as_str().unwrap_or(&gateway.namespace);
    let name = wanted["name"].as_str().unwrap_or_default();
    let secret = documents
        .iter()
        .find(|d| d.kind == "Secret" && d.namespace == namespace && d.name == name);
    let Some(pem) = secret.and_then(|secret| secret.object["stringData"]["tls.crt"].as_str())
    else {
        return Ok(None);
    };
    let folder = data.join("certificates");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{namespace}.{name}.pem"));
    std::fs::write(&file, pem)?;
    Ok(Some(file.display().to_string()))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_a_manifest_holds_is_one_word_of_a_shell() {
        assert_eq!(quoted("http://127.1.0.1:80/a/b"), "http://127.1.0.1:80/a/b");
        assert_eq!(
            quoted("http://127.1.0.1/x;echo no"),
            "'http://127.1.0.1/x;echo no'"
        );
        assert_eq!(quoted("Host: it's"), r"'Host: it'\''s'");
    }
}
