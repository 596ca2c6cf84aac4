//! `wait`: until the form of an object that stands in the folder, or in the cluster, has a condition.

use std::time::{Duration, Instant};

use anyhow::bail;
use api::ObjectKey;
use api::condition::types;
use operator_source::spec_hash;
use serde_json::Value;

use crate::client::Client;
use crate::objects::{conditions, documents, key, kind, list, path};

/// Pause between two questions, to an operator and to an API server.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));
/// Pause after which the folder is read again: somebody may have changed the object meanwhile.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Waits until an object has a condition in the form that it has in the source now, not in an older one that the operator
/// still shows. A question that fails is asked again. Without a condition, the one that says that the kind is in effect.
pub(crate) async fn wait(
    client: &Client,
    kind_name: &str,
    namespace: Option<&str>,
    name: &str,
    condition: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<String> {
    let kind = kind(kind_name)?;
    let namespace = match kind {
        "GatewayClass" | "Namespace" => "",
        _ => namespace.unwrap_or("default"),
    };
    let key = key(kind, namespace, name);
    let condition = match condition {
        Some(condition) => condition,
        None => in_effect(kind)?,
    };
    let end = Instant::now() + timeout;
    let mut folder = InFolder::default();
    let mut last = "the operator was not asked".to_owned();
    let mut poll = tokio::time::interval(if client.cluster().is_some() {
        POLL.1
    } else {
        POLL.0
    });
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while Instant::now() < end {
        poll.tick().await;
        match ask(client, &key, &mut folder, condition).await {
            Ok(Ok(message)) => return Ok(format!("{key} {condition}: {message}\n")),
            Ok(Err(not_yet)) => last = not_yet,
            Err(error) => last = format!("{error:#}"),
        }
    }
    bail!(
        "{key} has not reached {condition} within {} s: {last}",
        timeout.as_secs()
    )
}

/// The condition that says that an object is in effect.
fn in_effect(kind: &str) -> anyhow::Result<&'static str> {
    Ok(match kind {
        "GatewayClass" => types::ACCEPTED,
        "Gateway" => types::PROGRAMMED,
        "HTTPRoute" => types::PROPAGATED,
        _ => bail!("{kind} has no conditions; wait for a gatewayclass, gateway or httproute"),
    })
}

/// Forms of the object in the folder: several where two files have it.
#[derive(Default)]
struct InFolder {
    hashes: Vec<String>,
    read_at: Option<Instant>,
}

impl InFolder {
    async fn read(&mut self, client: &Client, key: &ObjectKey) -> anyhow::Result<()> {
        let documents = documents(client).await?;
        let own = documents.iter().filter(|document| document.key() == *key);
        self.hashes = own.map(|document| spec_hash(&document.object)).collect();
        self.read_at = Some(Instant::now());
        Ok(())
    }
}

async fn ask(
    client: &Client,
    key: &ObjectKey,
    folder: &mut InFolder,
    condition: &str,
) -> anyhow::Result<Result<String, String>> {
    if let Some(cluster) = client.cluster() {
        let object = cluster.get(key).await?;
        return Ok(match object {
            Some(object) => met(
                &object["status"],
                &object["metadata"]["generation"],
                condition,
            ),
            None => Err("it is not in the cluster".into()),
        });
    }
    if folder.read_at.is_none() {
        folder.read(client, key).await?;
    }
    if folder.hashes.is_empty() {
        folder.read_at = None;
        return Ok(Err("it is in no file of the folder".into()));
    }
    let Some(answer) = client.bytes_if_any(&path(key)).await? else {
        return Ok(Err("the operator has not seen it yet".into()));
    };
    let answer: Value = serde_json::from_slice(&answer)?;
    let verdict = verdict(&answer, &folder.hashes, condition);
    if verdict.is_err() && folder.read_at.is_some_and(|at| at.elapsed() > READ_AGAIN) {
        folder.read_at = None;
    }
    Ok(verdict)
}

/// The message of the condition when it is met, or why it is not.
fn verdict(answer: &Value, hashes: &[String], condition: &str) -> Result<String, String> {
    let seen = &answer["seen"];
    if !hashes.iter().any(|hash| seen["spec"] == **hash) {
        return Err("the operator has not seen its newest form yet".into());
    }
    met(&answer["status"], &seen["generation"], condition)
}

/// The message of the condition when a status says that this generation has it, or why not. Other controllers' parents do
/// not count.
fn met(status: &Value, generation: &Value, condition: &str) -> Result<String, String> {
    let generation = generation.as_i64().unwrap_or(i64::MAX);
    let is_ours = |parent: &&Value| {
        let controller = parent["controllerName"].as_str();
        controller.is_none_or(|name| name == api::CONTROLLER_NAME)
    };
    let parents: Vec<&Value> = match status.get("parents") {
        Some(parents) => list(parents).filter(is_ours).collect(),
        None => vec![status],
    };
    let mut message = None;
    for parent in parents {
        let found = conditions(parent).find(|found| found["type"] == condition);
        let Some(found) = found else {
            return Err(format!("no condition {condition}"));
        };
        let of = found["observedGeneration"].as_i64().unwrap_or_default();
        if of < generation {
            return Err(format!(
                "its status is of generation {of}, not {generation}"
            ));
        }
        let text = found["message"].as_str().unwrap_or_default();
        if found["status"] != "True" {
            let reason = found["reason"].as_str().unwrap_or_default();
            return Err(format!("{reason} {text}"));
        }
        message.get_or_insert_with(|| text.to_owned());
    }
    message.ok_or_else(|| "no Gateway that is served is its parent".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_counts_for_the_form_that_is_in_the_folder_alone() {
        let answer = |spec: &str, generation: i64, of: &[(&str, i64)]| {
            let parents = of.iter().map(|(status, of)| {
                json!({"conditions": [{"type": "C", "status": status, "observedGeneration": of, "reason": "R", "message": "m"}]})
            });
            json!({
                "seen": {"spec": spec, "generation": generation},
                "status": {"parents": parents.collect::<Vec<_>>()},
            })
        };
        let hashes = ["new".to_owned()];
        let of = |answer: Value| verdict(&answer, &hashes, "C");
        // The file was just written: everything that the operator shows is true of what it was before.
        let old = of(answer("old", 1, &[("True", 1)]));
        assert_eq!(
            old,
            Err("the operator has not seen its newest form yet".into())
        );
        let seen = of(answer("new", 2, &[("True", 1)]));
        assert_eq!(seen, Err("its status is of generation 1, not 2".into()));
        assert_eq!(of(answer("new", 2, &[("False", 2)])), Err("R m".into()));
        assert!(of(answer("new", 2, &[("True", 2), ("True", 1)])).is_err());
        assert!(of(answer("new", 2, &[])).is_err());
        assert_eq!(
            of(answer("new", 2, &[("True", 2), ("True", 2)])),
            Ok("m".into())
        );
        let gateway = json!({
            "seen": {"spec": "new", "generation": 2},
            "status": {"conditions": [{"type": "C", "status": "True", "observedGeneration": 2, "message": "m"}]},
        });
        assert_eq!(of(gateway), Ok("m".into()));
    }

    #[test]
    fn parents_of_other_controllers_do_not_count() {
        let parent = |controller: &str, status: &str| json!({"controllerName": controller, "conditions": [{"type": "C", "status": status, "observedGeneration": 1, "message": "m"}]});
        let theirs: Value = parent("example.net/other", "False");
        let status = json!({"parents": [theirs, parent(api::CONTROLLER_NAME, "True")]});
        assert_eq!(met(&status, &json!(1), "C"), Ok("m".into()));
        assert!(met(&json!({"parents": [theirs]}), &json!(1), "C").is_err());
    }

    #[test]
    fn each_kind_with_a_status_has_a_default() {
        for kind in ["GatewayClass", "Gateway", "HTTPRoute"] {
            assert!(in_effect(kind).is_ok(), "{kind}");
        }
        assert!(in_effect("Service").is_err());
    }
}
