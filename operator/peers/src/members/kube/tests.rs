//! Against an API server that knows one ConfigMap.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;

/// The object, and how often it was written.
#[derive(Default)]
struct Server {
    object: Option<Value>,
    writes: u64,
}

impl Server {
    fn answer(&mut self, method: &Method, path: &str, sent: &[u8]) -> (StatusCode, Value) {
        let one = "/api/v1/namespaces/system/configmaps/shardway-members";
        let conflict = (StatusCode::CONFLICT, failure(409, "Conflict"));
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        match (method, path) {
            (&Method::GET, path) if path == one => match &self.object {
                Some(object) => (StatusCode::OK, object.clone()),
                None => (StatusCode::NOT_FOUND, failure(404, "NotFound")),
            },
            (&Method::POST, "/api/v1/namespaces/system/configmaps") => {
                if self.object.is_some() {
                    return conflict;
                }
                let object = serde_json::from_slice(sent).unwrap();
                (StatusCode::CREATED, self.write(object))
            }
            (&Method::PATCH, path) if path == one => {
                let patch: Value = serde_json::from_slice(sent).unwrap();
                if self.object.as_ref().map(version) != Some(version(&patch)) {
                    return conflict;
                }
                let mut merged = self.object.clone().unwrap();
                for part in ["metadata", "data"] {
                    for (name, value) in patch[part].as_object().unwrap() {
                        merged[part][name] = value.clone();
                    }
                }
                (StatusCode::OK, self.write(merged))
            }
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, mut object: Value) -> Value {
        self.writes += 1;
        object["metadata"]["resourceVersion"] = json!(self.writes.to_string());
        self.object = Some(object.clone());
        object
    }
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "", "reason": reason, "code": code})
}

fn store(server: &Arc<Mutex<Server>>) -> KubeStore {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (head, body) = request.into_parts();
            let sent = body.collect().await?.to_bytes();
            let path = head.uri.path().to_owned();
            let (status, value) = server.lock().answer(&head.method, &path, &sent);
            let response = Response::builder().status(status);
            let response = response.header("content-type", "application/json");
            let body = Body::from(serde_json::to_vec(&value).unwrap());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(response.body(body).unwrap())
        }
    });
    let labels = BTreeMap::from([("app".to_owned(), "shardway".to_owned())]);
    let client = Client::new(service, "system");
    KubeStore::new(client, "system", "shardway-members", labels)
}

#[tokio::test]
async fn a_config_map_is_made_once_and_replaced_by_who_has_seen_it() {
    let server = Arc::<Mutex<Server>>::default();
    let store = store(&server);
    assert_eq!(store.get().await.unwrap(), None);
    let first = Document::found("c".into(), 3, |ordinal| ordinal.to_string());
    let conflict = |result| matches!(result, Err(StoreError::Conflict));
    store.put(&first, None).await.unwrap();
    assert!(conflict(store.put(&first, None).await));

    let found = store.get().await.unwrap().unwrap();
    assert_eq!(found.document, first);
    let second = first.claim(0, "disk", "0").write.unwrap();
    store.put(&second, Some(&found.version)).await.unwrap();
    assert!(conflict(store.put(&first, Some(&found.version)).await));
    assert_eq!(store.get().await.unwrap().unwrap().document, second);
    let labels = server.lock().object.as_ref().unwrap()["metadata"]["labels"].clone();
    assert_eq!(labels, json!({"app": "shardway"}));
}

#[tokio::test]
async fn an_owner_that_somebody_has_named_stays() {
    let server = Arc::<Mutex<Server>>::default();
    let store = store(&server);
    let first = Document::found("c".into(), 3, |ordinal| ordinal.to_string());
    store.put(&first, None).await.unwrap();
    let owners = json!([{"kind": "StatefulSet", "name": "shardway-operator", "uid": "u"}]);
    server.lock().object.as_mut().unwrap()["metadata"]["ownerReferences"] = owners.clone();

    let found = store.get().await.unwrap().unwrap();
    let second = first.claim(0, "disk", "0").write.unwrap();
    store.put(&second, Some(&found.version)).await.unwrap();
    let object = server.lock().object.clone().unwrap();
    assert_eq!(object["metadata"]["ownerReferences"], owners);
}

#[tokio::test]
async fn a_config_map_without_a_table_is_left_alone() {
    let object = json!({"metadata": {"name": "shardway-members", "resourceVersion": "7"}});
    let server = Arc::new(Mutex::new(Server {
        object: Some(object),
        writes: 0,
    }));
    let error = store(&server).get().await.unwrap_err();
    assert!(matches!(error, StoreError::Malformed { .. }));
}
