//! The admin endpoint of the operator: probes, metrics, live state, and what the CLI asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{BackendKey, GatewayKey, ObjectKey, Revision};
use api_snapshot::view::SnapshotView;
use api_snapshot::{FactKey, Op, SetHash};
use api_telemetry::admin::Reply;
use api_telemetry::metrics::{DurationHistogram, HistogramValue, Sink, Source};
use api_telemetry::{names, prometheus};
use http::StatusCode;
use operator_consensus::Node;
use operator_distribute::Distributor;
use operator_source::{Problem, Seen};
use operator_status::Statuses;
use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::machine::{Machine, Output};

/// What the pipeline shows of itself.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) problems: Vec<Problem>,
    pub(crate) gateways: usize,
    pub(crate) routes: usize,
    pub(crate) rejected: usize,
    /// Gateways that wait to move, and that are moving.
    pub(crate) moving: (usize, usize),
}

/// Everything that the endpoint reads.
pub(crate) struct View {
    pub(crate) info: Value,
    pub(crate) machine: Machine,
    pub(crate) node: Arc<Node<Output>>,
    pub(crate) distributor: Distributor,
    pub(crate) statuses: Arc<RwLock<Statuses>>,
    pub(crate) published: Arc<RwLock<Published>>,
    pub(crate) seen: Seen,
    pub(crate) sources: Vec<Arc<dyn Source>>,
}

const PATHS: &[&str] = &[
    "/healthz",
    "/readyz",
    "/metrics",
    "/dump",
    "/api/v1/info",
    "/api/v1/objects",
    "/api/v1/objects/GROUP/KIND/NAMESPACE/NAME",
    "/api/v1/statuses",
    "/api/v1/revisions",
    "/api/v1/shards",
    "/api/v1/problems",
    "/api/v1/bindings",
    "/api/v1/entries/NAMESPACE/NAME",
    "/api/v1/backends/NAMESPACE/NAME/PORT",
];

impl View {
    /// Answers one path.
    pub(crate) fn answer(&self, path: &str) -> Reply {
        match path {
            "/healthz" if self.node.has_stopped() => {
                Reply::text(StatusCode::SERVICE_UNAVAILABLE, "the raft log has failed\n")
            }
            "/healthz" => Reply::text(StatusCode::OK, "ok\n"),
            // One that follows serves shards too; one that knows of no leader may be cut off.
            "/readyz" if self.node.leadership().borrow().leader.is_some() => {
                Reply::text(StatusCode::OK, "ready\n")
            }
            "/readyz" => Reply::text(StatusCode::SERVICE_UNAVAILABLE, "no leader\n"),
            "/metrics" => Reply {
                status: StatusCode::OK,
                content_type: prometheus::CONTENT_TYPE,
                body: prometheus::encode(&self.sources).into_bytes(),
            },
            "/dump" => match SnapshotView::of(&self.machine.snapshot.read()) {
                Ok(view) => json(&view),
                Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/api/v1/info" => json(&self.info()),
            "/api/v1/objects" => json(&self.objects()),
            "/api/v1/statuses" => json(&self.statuses()),
            "/api/v1/revisions" => json(&self.machine.history.read().0),
            "/api/v1/shards" => json(&self.distributor.shards()),
            "/api/v1/bindings" => json(&self.bindings()),
            "/api/v1/problems" => {
                let problems = self.published.read();
                let lines: Vec<Value> = problems
                    .problems
                    .iter()
                    .map(|problem| json!({"message": problem.to_string(), "error": problem.is_error}))
                    .collect();
                json(&lines)
            }
            _ => {
                if let Some(object) = path.strip_prefix("/api/v1/objects/") {
                    return self.object(object);
                }
                if let Some(backend) = path.strip_prefix("/api/v1/backends/") {
                    return self.backend(backend);
                }
                match path
                    .strip_prefix("/api/v1/entries/")
                    .and_then(|rest| rest.split_once('/'))
                {
                    Some((namespace, name)) => self.entries(&GatewayKey::new(namespace, name)),
                    None => Reply::not_found(PATHS),
                }
            }
        }
    }

    fn info(&self) -> Value {
        let status = self.node.status();
        let snapshot = self.machine.snapshot.read();
        let published = self.published.read();
        let members = status.members.iter().map(|member| {
            json!({"id": member.id, "voter": member.voter, "matched": member.matched, "active": member.active})
        });
        let members: Vec<Value> = members.collect();
        let mut info = self.info.clone();
        if let Some(fields) = info.as_object_mut() {
            fields.insert("revision".into(), json!(snapshot.revision()));
            fields.insert("rootHash".into(), json!(snapshot.root_hash()));
            fields.insert("gateways".into(), json!(published.gateways));
            fields.insert("routes".into(), json!(published.routes));
            fields.insert("rejected".into(), json!(published.rejected));
            fields.insert(
                "problems".into(),
                json!(published.problems.iter().filter(|p| p.is_error).count()),
            );
            fields.insert(
                "raft".into(),
                json!({"role": status.role, "term": status.term, "commit": status.commit, "applied": status.applied, "logBytes": status.log_bytes, "members": members}),
            );
        }
        info
    }

    /// What the source knows of each object beside its manifest.
    fn objects(&self) -> Vec<Value> {
        let objects = self.seen.all().into_iter();
        objects
            .map(|(key, seen)| json!({"object": key, "seen": seen}))
            .collect()
    }

    /// What is known of one object: `GROUP/KIND/NAMESPACE/NAME`, `core` for the core group, `-` where there is no namespace.
    fn object(&self, path: &str) -> Reply {
        let parts: Vec<&str> = path.split('/').collect();
        let [group, kind, namespace, name] = parts[..] else {
            return Reply::not_found(PATHS);
        };
        let group = if group == "core" { "" } else { group };
        let namespace = if namespace == "-" { "" } else { namespace };
        let key = ObjectKey::new(group, kind, namespace, name);
        match self.seen.get(&key) {
            Some(seen) => json(
                &json!({"object": key, "seen": seen, "status": self.statuses.read().get(&key)}),
            ),
            None => Reply::text(
                StatusCode::NOT_FOUND,
                format!("{key} is not in the folder\n"),
            ),
        }
    }

    /// The fact of one backend, `NAMESPACE/NAME/PORT`, as CBOR.
    fn backend(&self, path: &str) -> Reply {
        let parts: Vec<&str> = path.split('/').collect();
        let key = match parts[..] {
            [namespace, name, port] => port
                .parse()
                .ok()
                .map(|port| BackendKey::new(namespace, name, port)),
            _ => None,
        };
        let Some(key) = key else {
            return Reply::not_found(PATHS);
        };
        let snapshot = self.machine.snapshot.read();
        let fact = api_snapshot::encode(&FactKey::Backend(key));
        match snapshot.facts().value(&fact) {
            Some(value) => Reply::bytes(value.to_vec()),
            None => Reply::text(StatusCode::NOT_FOUND, "no route leads there\n"),
        }
    }

    fn statuses(&self) -> Vec<Value> {
        self.statuses
            .read()
            .iter()
            .map(|(key, status)| {
                json!({"group": key.group, "kind": key.kind, "namespace": key.namespace, "name": key.name, "status": status})
            })
            .collect()
    }

    /// Where each port of each Gateway is bound, and on which shards.
    fn bindings(&self) -> Vec<Value> {
        let snapshot = self.machine.snapshot.read();
        let facts = api_snapshot::view::facts(snapshot.facts()).unwrap_or_default();
        let mut shards: BTreeMap<GatewayKey, Vec<api::ShardId>> = BTreeMap::new();
        let mut bindings = Vec::new();
        for (key, fact) in facts {
            match (key, fact) {
                (
                    api_snapshot::FactKey::Placement(gateway),
                    api_snapshot::Fact::Placement(placement),
                ) => {
                    shards.insert(gateway, placement.shards);
                }
                (
                    api_snapshot::FactKey::Binding(gateway, port),
                    api_snapshot::Fact::Binding(binding),
                ) => {
                    bindings.push((gateway, port, binding));
                }
                _ => {}
            }
        }
        bindings
            .into_iter()
            .map(|(gateway, port, binding)| {
                json!({
                    "namespace": gateway.namespace,
                    "name": gateway.name,
                    "port": port,
                    "publicPort": binding.public_port,
                    "targetPort": binding.target_port,
                    "addresses": binding.addresses,
                    "shards": shards.get(&gateway),
                })
            })
            .collect()
    }

    /// The active entries of a Gateway as a shard has them, and where its ports are bound: CBOR of
    /// `(revision, operations, hash, [(port, public port)])`.
    fn entries(&self, gateway: &GatewayKey) -> Reply {
        let snapshot = self.machine.snapshot.read();
        let Some(chain) = snapshot.gateway(gateway) else {
            return Reply::text(
                StatusCode::NOT_FOUND,
                format!("gateway {gateway} is not served\n"),
            );
        };
        let ops: Vec<Op> = chain
            .entries()
            .iter()
            .map(|(key, value)| Op {
                key: key.to_vec(),
                value: Some(value.to_vec()),
            })
            .collect();
        let mut ports: BTreeMap<u16, u16> = BTreeMap::new();
        for (key, fact) in api_snapshot::view::facts(snapshot.facts()).unwrap_or_default() {
            if let (api_snapshot::FactKey::Binding(of, port), api_snapshot::Fact::Binding(binding)) =
                (key, fact)
                && of == *gateway
            {
                ports.insert(port, binding.public_port);
            }
        }
        let ports: Vec<(u16, u16)> = ports.into_iter().collect();
        let answer: (Revision, Vec<Op>, SetHash, Vec<(u16, u16)>) =
            (chain.active(), ops, chain.entries().hash(), ports);
        Reply::bytes(api_snapshot::encode(&answer))
    }
}

fn json<T: serde::Serialize>(value: &T) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => Reply::json(body),
        Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Metrics of the pipeline.
pub(crate) struct PipelineMetrics {
    pub(crate) published: Arc<RwLock<Published>>,
    pub(crate) translate: Arc<DurationHistogram>,
}

impl Source for PipelineMetrics {
    fn collect(&self, sink: &mut dyn Sink) {
        let published = self.published.read();
        sink.gauge(
            names::OBJECTS,
            &[("kind", "Gateway")],
            published.gateways as f64,
        );
        sink.gauge(
            names::OBJECTS,
            &[("kind", "HTTPRoute")],
            published.routes as f64,
        );
        sink.gauge(names::OBJECTS_REJECTED, &[], published.rejected as f64);
        let (queued, under_way) = published.moving;
        for (step, count) in [("queued", queued), ("under_way", under_way)] {
            sink.gauge(names::GATEWAYS_MOVING, &[("step", step)], count as f64);
        }
        let mut value = HistogramValue::default();
        self.translate.add_to(&mut value);
        sink.histogram(names::TRANSLATE_DURATION, &[], &value);
    }
}
