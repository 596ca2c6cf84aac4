#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use http::Method;

use super::*;
use crate::fake::{Asked, client, refusal};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(api::GATEWAY_GROUP, "Gateway", "team-a", name)
}

fn change(name: &str, accepted: &str, generation: i64) -> Change {
    Change {
        object: key(name),
        status: Some(
            json!({"conditions": [{"type": "Accepted", "status": accepted, "reason": "Accepted",
            "message": "yes", "observedGeneration": generation}]}),
        ),
    }
}

/// A Gateway as it stands in the API server, and what was asked for it.
#[derive(Default)]
struct Server {
    status: Value,
    version: u64,
    generation: i64,
    /// Answers to the next patches, before they are taken.
    refusals: Vec<u16>,
    asked: Vec<Asked>,
}

impl Server {
    fn object(&self) -> Value {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "team-a", "uid": "uid-1", "generation": self.generation,
                "resourceVersion": self.version.to_string()},
            "spec": {}, "status": self.status})
    }

    fn answer(&mut self, asked: &Asked) -> crate::fake::Answer {
        let (method, _, body) = asked;
        self.asked.push(asked.clone());
        if *method == Method::PATCH {
            if let Some(code) = self.refusals.pop() {
                return refusal(code, "Refused");
            }
            assert_eq!(
                body["metadata"]["resourceVersion"],
                self.version.to_string()
            );
            self.status = body["status"].clone();
            self.version += 1;
        }
        if *method == Method::POST {
            return Some((201, body.clone()));
        }
        Some((200, self.object()))
    }

    fn count(&self, method: &Method) -> usize {
        self.asked.iter().filter(|(of, _, _)| of == method).count()
    }
}

/// A server with a Gateway of this generation, and a writer for it.
fn with(generation: i64) -> (Arc<Mutex<Server>>, StatusWriter) {
    let server = Arc::new(Mutex::new(Server {
        generation,
        ..Server::default()
    }));
    let of_client = Arc::clone(&server);
    let client = client(move |asked| of_client.lock().answer(asked));
    (server, StatusWriter::new(client))
}

#[tokio::test]
async fn a_write_that_meets_another_is_made_again_and_the_same_is_not_written_twice() {
    let (server, writer) = with(1);
    server.lock().refusals = vec![409, 409];
    let (errors, waiting) = writer.write(vec![change("web", "True", 1)]).await;
    assert!(errors.is_empty() && waiting.is_empty());
    assert_eq!(server.lock().count(&Method::PATCH), 3);
    assert_eq!(server.lock().status["conditions"][0]["status"], "True");
    let again = StatusWriter::new(writer.client.clone());
    let (errors, waiting) = again.write(vec![change("web", "True", 1)]).await;
    assert!(errors.is_empty() && waiting.is_empty());
    assert_eq!(server.lock().count(&Method::PATCH), 3);
    let path = &server.lock().asked[1].1;
    assert!(
        path.contains("/gateways/web/status") && path.contains("fieldManager=shardway"),
        "{path}"
    );
}

#[tokio::test]
async fn what_speaks_of_an_older_generation_is_not_written() {
    let (server, writer) = with(2);
    writer.write(vec![change("web", "True", 1)]).await;
    assert_eq!(server.lock().count(&Method::PATCH), 0);
    writer.write(vec![change("web", "True", 2)]).await;
    assert_eq!(server.lock().count(&Method::PATCH), 1);
}

#[tokio::test]
async fn a_writer_that_is_paused_writes_nothing_and_gives_all_back() {
    let (server, writer) = with(1);
    writer.pause(true);
    let (errors, waiting) = writer.write(vec![change("web", "True", 1)]).await;
    assert!(errors.is_empty());
    assert_eq!(waiting, [key("web")]);
    assert!(server.lock().asked.is_empty());
    writer.pause(false);
    let (_, waiting) = writer.write(vec![change("web", "True", 1)]).await;
    assert!(waiting.is_empty());
    assert_eq!(server.lock().count(&Method::PATCH), 1);
}

#[tokio::test]
async fn a_status_that_was_refused_is_written_as_soon_as_it_is_given_again() {
    let (server, writer) = with(1);
    server.lock().refusals = vec![500];
    let (errors, _) = writer.write(vec![change("web", "True", 1)]).await;
    assert_eq!(errors.len(), 1);
    let (errors, waiting) = writer.write(vec![change("web", "True", 1)]).await;
    assert!(errors.is_empty() && waiting.is_empty());
    assert_eq!(server.lock().status["conditions"][0]["status"], "True");
}

#[tokio::test]
async fn with_nobody_there_the_others_are_not_tried() {
    let tried = Arc::new(AtomicU64::new(0));
    let of_client = Arc::clone(&tried);
    let client = client(move |_| {
        of_client.fetch_add(1, Ordering::SeqCst);
        None
    });
    let writer = StatusWriter::new(client);
    let changes = (0..200).map(|name| change(&name.to_string(), "True", 1));
    let (errors, waiting) = writer.write(changes.collect()).await;
    assert!(!errors.is_empty());
    assert_eq!(errors.len() + waiting.len(), 200);
    assert!(tried.load(Ordering::SeqCst) <= AT_ONCE as u64);
}

#[tokio::test]
async fn what_a_crd_does_not_know_is_not_written() {
    let (server, writer) = with(1);
    let schemas = Schemas::default();
    let status = |fields: Value| json!({"properties": {"status": {"properties": fields}}});
    let conditions =
        json!({"items": {"properties": {"type": {}, "status": {}, "observedGeneration": {}}}});
    let fields = status(json!({"conditions": conditions}));
    schemas.apply(&operator_objects::spec::Crd {
        meta: operator_objects::spec::Meta::default(),
        kind: "Gateway".into(),
        bundle_version: None,
        channel: None,
        versions: [("v1".to_owned(), operator_objects::spec::Fields::of(&fields))].into(),
    });
    let writer = writer.with_schemas(schemas);
    let mut change = change("web", "True", 1);
    if let Some(status) = &mut change.status {
        status["attachedListenerSets"] = json!(1);
    }
    writer.write(vec![change]).await;
    assert_eq!(
        server.lock().status,
        json!({"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 1}]})
    );
}

#[tokio::test]
async fn what_a_write_changes_is_told_once() {
    let (server, writer) = with(1);
    let events = EventWriter::start(writer.client.clone(), "operator-0");
    let writer = writer.with_events(events.clone());
    writer.write(vec![change("web", "True", 1)]).await;
    writer.write(vec![change("web", "False", 1)]).await;
    writer.write(vec![change("web", "True", 1)]).await;
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    let posted = || server.lock().count(&Method::POST);
    while posted() < 2 {
        assert!(Instant::now() < deadline, "{} events", posted());
        tokio::task::yield_now().await;
    }
    let server = server.lock();
    let posts = server.asked.iter().filter(|(of, _, _)| of == Method::POST);
    let told: Vec<(&str, &str)> = posts
        .map(|(_, path, event)| {
            assert!(path.starts_with("/apis/events.k8s.io/v1/namespaces/team-a/events"));
            assert_eq!(event["regarding"]["uid"], "uid-1");
            let text = |field: &str| event[field].as_str().unwrap();
            (text("type"), text("reason"))
        })
        .collect();
    assert_eq!(told, [("Normal", "Accepted"), ("Warning", "Accepted")]);
}
