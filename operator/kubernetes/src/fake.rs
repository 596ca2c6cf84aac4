//! An API server for tests, which answers as it is told.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A request: method, path with query, body.
pub(crate) type Asked = (Method, String, Value);

/// What is answered: a status and a body, or nothing, as if nobody were there.
pub(crate) type Answer = Option<(u16, Value)>;

/// A client of an API server that answers by `answer`.
pub(crate) fn client(answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Client {
    let answer = Arc::new(Mutex::new(answer));
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = Arc::clone(&answer);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let asked = (parts.method, parts.uri.to_string(), body);
            let Some((status, body)) = answer.lock()(&asked) else {
                return Err(std::io::Error::other("nobody is there"));
            };
            let response = Response::builder().status(status);
            let body = match body {
                // A watch that says nothing for a while.
                Value::Null => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    Full::default()
                }
                body => Full::new(body.to_string().into_bytes().into()),
            };
            Ok::<_, std::io::Error>(response.body(body).unwrap())
        }
    });
    Client::new(service, "default")
}

/// What an API server says that refuses.
pub(crate) fn refusal(code: u16, reason: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    Some((code, status))
}
