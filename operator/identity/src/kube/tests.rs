#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::TokenReviewer;

/// Secrets and ConfigMaps of one namespace, by path; and tokens.
#[derive(Default)]
struct FakeApi {
    objects: Mutex<BTreeMap<String, Value>>,
    down: AtomicBool,
    /// Makes the next read of the Secret miss what is there: another replica is faster.
    race: AtomicBool,
    writes: Mutex<Vec<String>>,
}

impl FakeApi {
    fn client(self: &Arc<Self>) -> Client {
        let api = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&api);
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "shardway-system")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let path = head.uri.path().to_owned();
        let failed = |code: StatusCode, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "message": path, "reason": reason, "code": code.as_u16()});
            (code, status)
        };
        let mut objects = self.objects.lock();
        let (code, answer) = if self.down.load(Ordering::Relaxed) {
            failed(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
        } else if head.method == Method::GET {
            let missed = path.ends_with("/shardway-ca") && self.race.swap(false, Ordering::Relaxed);
            match objects.get(&path) {
                Some(found) if !missed => (StatusCode::OK, found.clone()),
                _ => failed(StatusCode::NOT_FOUND, "NotFound"),
            }
        } else {
            let object: Value = serde_json::from_slice(&body).unwrap();
            let path = match object["metadata"]["name"].as_str() {
                Some(name) if head.method == Method::POST => format!("{path}/{name}"),
                _ => path.clone(),
            };
            if head.method == Method::POST && objects.contains_key(&path) {
                failed(StatusCode::CONFLICT, "AlreadyExists")
            } else {
                self.writes.lock().push(path.clone());
                objects.insert(path, object.clone());
                (StatusCode::CREATED, object)
            }
        };
        let body = Body::from(answer.to_string().into_bytes());
        Response::builder().status(code).body(body).unwrap()
    }

    /// Waits for the ConfigMap to say something.
    async fn trusted(&self, expected: &str) {
        let path = "/api/v1/namespaces/shardway-system/configmaps/shardway-trust";
        let until = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let there = self.objects.lock().get(path).cloned().unwrap_or_default();
            if there["data"]["ca.pem"] == expected {
                return;
            }
            assert!(std::time::Instant::now() < until, "{there}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn settings(ordinal: u64, folder: &Path) -> Settings {
    Settings::new("shardway-system", ordinal, folder.join("identity"))
}

async fn opened(api: &Arc<FakeApi>, settings: &Settings) -> Opened {
    let opened = tokio::time::timeout(Duration::from_secs(20), open(api.client(), settings));
    opened.await.unwrap().unwrap()
}

#[tokio::test]
async fn replicas_that_start_together_hold_one_ca() {
    let api = Arc::new(FakeApi::default());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = opened(&api, &settings(0, folders[0].path())).await;
    api.race.store(true, Ordering::Relaxed);
    let second = opened(&api, &settings(1, folders[1].path())).await;
    assert_eq!(first.authority.trust(), second.authority.trust());
    assert_eq!(first.authority.key_pem(), second.authority.key_pem());
    api.trusted(&first.authority.trust_pem()).await;
    let secrets = |path: &&String| path.contains("/secrets/");
    assert_eq!(api.writes.lock().iter().filter(secrets).count(), 1);
}

#[tokio::test]
async fn a_restart_needs_no_api_server_and_a_lost_secret_is_written_again() {
    let api = Arc::new(FakeApi::default());
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(0, folder.path());
    let first = opened(&api, &settings).await;
    let trust = first.authority.trust_pem();

    api.down.store(true, Ordering::Relaxed);
    let again = opened(&api, &settings).await;
    assert_eq!(again.authority.trust_pem(), trust);

    api.down.store(false, Ordering::Relaxed);
    api.objects.lock().clear();
    let again = opened(&api, &settings).await;
    assert_eq!(again.authority.trust_pem(), trust);
    api.trusted(&trust).await;

    // Without a copy it waits.
    api.down.store(true, Ordering::Relaxed);
    std::fs::remove_dir_all(&settings.folder).unwrap();
    let waits = opened(&api, &settings);
    let up = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        api.down.store(false, Ordering::Relaxed);
    };
    let (found, ()) = tokio::join!(waits, up);
    assert_eq!(found.authority.trust_pem(), trust);
}

#[tokio::test]
async fn an_unreadable_secret_does_not_take_the_place_of_what_is_known() {
    let api = Arc::new(FakeApi::default());
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(0, folder.path());
    let first = opened(&api, &settings).await;
    let path = "/api/v1/namespaces/shardway-system/secrets/shardway-ca";
    let broken = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shardway-ca"},
        "data": {"ca.pem": "eA==", "ca.key": "eA=="}});
    api.objects.lock().insert(path.into(), broken.clone());
    let again = opened(&api, &settings).await;
    assert_eq!(again.authority.trust(), first.authority.trust());
    assert_eq!(api.objects.lock()[path], broken, "left for its owner");
}

#[tokio::test]
async fn a_token_that_cannot_be_reviewed_is_not_a_bad_one() {
    let api = Arc::new(FakeApi::default());
    api.down.store(true, Ordering::Relaxed);
    let error = Reviews::new(api.client()).review("t").await.unwrap_err();
    assert!(
        matches!(error, crate::ReviewError::Unavailable(_)),
        "{error}"
    );
}
