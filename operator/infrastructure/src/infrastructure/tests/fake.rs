//! An API server in memory: lists, watches, applies without merging, deletes; and fails when it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

/// Events of a watch that wait.
const EVENTS_MAX: usize = 4096;

type Answer = http::Response<UnsyncBoxBody<Bytes, std::io::Error>>;

#[derive(Default)]
pub(super) struct Fake {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By kind and name.
    objects: BTreeMap<(String, String), Value>,
    /// Those that no selector finds.
    hidden: BTreeSet<(String, String)>,
    watches: Vec<(String, mpsc::Sender<Bytes>)>,
    writes: Vec<String>,
    failures: Vec<(u16, String)>,
    held: BTreeSet<String>,
    asked: BTreeSet<String>,
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        let fake = Arc::new(Self::default());
        let labels = json!({"topology.kubernetes.io/zone": "zone-a"});
        fake.put(
            "nodes",
            json!({"metadata": {"name": "node-1", "labels": labels}}),
        );
        fake
    }

    pub(super) fn client(self: &Arc<Self>) -> Client {
        let fake = Arc::clone(self);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let fake = Arc::clone(&fake);
            async move { Ok::<_, std::io::Error>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Somebody else writes an object.
    pub(super) fn put(&self, kind: &str, object: Value) {
        let mut state = self.state.lock();
        state.put(kind, object);
        drop(state);
        self.changed.notify_waiters();
    }

    /// As `put`, of an object that our selectors do not find.
    pub(super) fn hide(&self, kind: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.state.lock().hidden.insert((kind.to_owned(), name));
        self.put(kind, object);
    }

    pub(super) fn get(&self, kind: &str, name: &str) -> Value {
        let state = self.state.lock();
        state.objects[&(kind.to_owned(), name.to_owned())].clone()
    }

    /// A load balancer gives an address.
    pub(super) fn address(&self, service: &str, ip: &str) {
        let mut object = self.get("services", service);
        object["status"] = json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
        self.put("services", object);
    }

    /// The next writes fail.
    pub(super) fn fail(&self, code: u16, message: &str, times: usize) {
        let failures = std::iter::repeat_n((code, message.to_owned()), times);
        self.state.lock().failures.extend(failures);
    }

    /// Lists of a kind are not answered.
    pub(super) fn hold(&self, kind: &str, held: bool) {
        let mut state = self.state.lock();
        if held {
            state.held.insert(kind.to_owned());
        } else {
            state.held.remove(kind);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) async fn asked_for(&self, kind: &str) {
        self.until(|state| state.asked.contains(kind)).await;
    }

    pub(super) async fn gone(&self, kind: &str, name: &str) {
        let key = (kind.to_owned(), name.to_owned());
        self.until(|state| !state.objects.contains_key(&key)).await;
    }

    async fn until(&self, check: impl Fn(&State) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if check(&self.state.lock()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(super::WITHIN, waiting).await.unwrap();
    }

    /// Writes that were asked for, also those that failed.
    pub(super) fn writes(&self) -> Vec<String> {
        self.state.lock().writes.clone()
    }

    async fn answer(&self, request: http::Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default();
        let names: Vec<&str> = path.split('/').collect();
        let is_list = KINDS.contains(names.last().unwrap());
        if is_list {
            let kind = *names.last().unwrap();
            self.state.lock().asked.insert(kind.to_owned());
            self.changed.notify_waiters();
            self.until(|state| !state.held.contains(kind)).await;
            return if query.contains("watch=true") {
                self.state.lock().watch(kind)
            } else {
                self.state.lock().list(kind)
            };
        }
        let [.., kind, name] = names.as_slice() else {
            return status(404, "no such path");
        };
        let body = body.collect_bytes().await.unwrap();
        let mut state = self.state.lock();
        let key = ((*kind).to_owned(), (*name).to_owned());
        if parts.method == http::Method::GET {
            return match state.objects.get(&key) {
                Some(object) => ok(object),
                None => status(404, "not found"),
            };
        }
        state.writes.push(format!("{} {kind}/{name}", parts.method));
        if !state.failures.is_empty() {
            let (code, message) = state.failures.remove(0);
            return status(code, &message);
        }
        let answer = if parts.method == http::Method::DELETE {
            state.delete(&key)
        } else {
            let object = serde_json::from_slice(&body).unwrap();
            ok(&state.put(kind, object))
        };
        drop(state);
        self.changed.notify_waiters();
        answer
    }
}

/// Kinds that are listed.
const KINDS: [&str; 3] = ["services", "endpointslices", "pods"];

impl State {
    fn put(&mut self, kind: &str, mut object: Value) -> Value {
        self.version += 1;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (kind.to_owned(), name);
        let before = self.objects.get(&key);
        let uid = before.map_or(json!(self.version.to_string()), |of| {
            of["metadata"]["uid"].clone()
        });
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if kind == "services" && object["spec"]["ipFamilies"].is_null() {
            object["spec"]["ipFamilies"] = json!(["IPv4"]);
        }
        let event = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.objects.insert(key.clone(), object.clone());
        if !self.hidden.contains(&key) {
            self.tell(kind, event, &object);
        }
        object
    }

    fn delete(&mut self, key: &(String, String)) -> Answer {
        let Some(mut object) = self.objects.remove(key) else {
            return status(404, "not found");
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(&key.0, "DELETED", &object);
        status(200, "")
    }

    fn tell(&mut self, kind: &str, event: &str, object: &Value) {
        let line = json!({"type": event, "object": object}).to_string() + "\n";
        self.watches.retain(|(_, watch)| !watch.is_closed());
        let watches = self.watches.iter().filter(|(of, _)| of == kind);
        for (_, watch) in watches {
            watch.try_send(Bytes::from(line.clone())).unwrap();
        }
    }

    fn list(&self, kind: &str) -> Answer {
        let objects = self.objects.iter();
        let items: Vec<&Value> = objects
            .filter(|(key, _)| key.0 == kind && !self.hidden.contains(key))
            .map(|(_, object)| object)
            .collect();
        ok(&json!({
            "metadata": {"resourceVersion": self.version.to_string()},
            "items": items,
        }))
    }

    fn watch(&mut self, kind: &str) -> Answer {
        let (send, receive) = mpsc::channel(EVENTS_MAX);
        self.watches.push((kind.to_owned(), send));
        let lines = futures::stream::unfold(receive, |mut receive| async move {
            let line = receive.recv().await?;
            Some((line, receive))
        });
        let frames = lines.map(|line| Ok::<_, std::io::Error>(Frame::data(line)));
        http::Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn ok(object: &Value) -> Answer {
    let body = Full::new(Bytes::from(object.to_string()));
    http::Response::new(body.map_err(std::io::Error::other).boxed_unsync())
}

fn status(code: u16, message: &str) -> Answer {
    let word = if code == 200 { "Success" } else { "Failure" };
    // A client tells by the word, not by the number.
    let reason = if code == 404 { "NotFound" } else { "" };
    let text = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": word,
        "message": message, "reason": reason, "code": code,
    });
    let mut response = ok(&text);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}
