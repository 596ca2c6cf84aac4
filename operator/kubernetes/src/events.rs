//! Kubernetes Events: what happened to an object, for `kubectl describe`. Told once, at a bounded rate, and never waited for.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::ObjectKey;
use api_telemetry::metrics::{Sink, Source};
use api_telemetry::names;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::pace::Pace;

/// Events that wait to be sent; more are dropped.
const QUEUE_MAX: usize = 256;
/// Events in a second over time, and at once after a pause: those that somebody should look at, and the others. More are
/// dropped: each is a write for the API server, and a thousand routes that came at once need not be told one by one.
const WARNINGS: (f64, f64) = (10.0, 100.0);
const OTHERS: (f64, f64) = (10.0, 100.0);
/// How long one that says the same of the same object is not told again.
const AGAIN: Duration = Duration::from_secs(600);
/// Events that are remembered for that; then all are forgotten.
const REMEMBERED_MAX: usize = 8192;
/// How long one may take.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// Longest note in bytes, reason and name in characters.
///
/// Source: Kubernetes, validation of `events.k8s.io/v1` Event.
const NOTE_BYTES_MAX: usize = 1024;
const REASON_MAX: usize = 128;
const NAME_MAX: usize = 230;

/// How much an Event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It is as it should be.
    Normal,
    /// Somebody should look at it.
    Warning,
}

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regarding {
    /// The object.
    pub object: ObjectKey,
    /// Version of its group.
    pub version: String,
    /// `metadata.uid`: without it nobody finds the Event.
    pub uid: String,
}

/// Tells Events. One for each process; it is cheap to clone.
#[derive(Clone)]
pub struct EventWriter {
    queue: mpsc::Sender<Said>,
    limits: Arc<Mutex<Limits>>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Said {
    regarding: Regarding,
    type_: EventType,
    reason: String,
    note: String,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    repeated: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Source for Counts {
    fn collect(&self, sink: &mut dyn Sink) {
        for (result, count) in [
            ("written", &self.written),
            ("repeated", &self.repeated),
            ("dropped", &self.dropped),
            ("failed", &self.failed),
        ] {
            let count = count.load(Ordering::Relaxed);
            sink.counter(names::EVENTS, &[("result", result)], count);
        }
    }
}

impl EventWriter {
    /// Starts to send what is said, as `instance`: the pod's name.
    pub fn start(client: Client, instance: &str) -> Self {
        let (queue, said) = mpsc::channel(QUEUE_MAX);
        let counts = Arc::<Counts>::default();
        let sending = send_all(client, instance.to_owned(), said, Arc::clone(&counts));
        api_telemetry::task::spawn("events", sending);
        Self {
            queue,
            limits: Arc::new(Mutex::new(Limits::new(Instant::now()))),
            counts,
        }
    }

    /// What has been done so far.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.counts) as Arc<dyn Source>
    }

    /// Says what happened to an object. Never waits: what is one too many, or was said just now, is counted and dropped.
    pub fn say(&self, regarding: Regarding, type_: EventType, reason: &str, note: &str) {
        let verdict = self
            .limits
            .lock()
            .judge(&regarding.uid, type_, reason, note, Instant::now());
        let said = Said {
            regarding,
            type_,
            reason: cut(reason, REASON_MAX).to_owned(),
            note: cut(note, NOTE_BYTES_MAX).to_owned(),
        };
        let counted = match verdict {
            Verdict::Repeated => &self.counts.repeated,
            Verdict::TooMany => &self.counts.dropped,
            Verdict::Told if self.queue.try_send(said).is_err() => &self.counts.dropped,
            Verdict::Told => return,
        };
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

async fn send_all(
    client: Client,
    instance: String,
    mut said: mpsc::Receiver<Said>,
    counts: Arc<Counts>,
) {
    while let Some(said) = said.recv().await {
        // Cluster-scoped objects have their Events in the default namespace.
        let namespace = match said.regarding.object.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let event = event(&said, namespace, &instance, Timestamp::now());
        let parameters = PostParams::default();
        let sent = tokio::time::timeout(SEND_WITHIN, api.create(&parameters, &event)).await;
        // Nobody waits for an Event: it is not tried again.
        let counted = match sent {
            Ok(Ok(_)) => &counts.written,
            Ok(Err(error)) => {
                tracing::debug!(object = %said.regarding.object, error = %error, "event is not told");
                &counts.failed
            }
            Err(_) => &counts.failed,
        };
        counted.fetch_add(1, Ordering::Relaxed);
    }
}

fn event(said: &Said, namespace: &str, instance: &str, now: Timestamp) -> Event {
    let Regarding {
        object,
        version,
        uid,
    } = &said.regarding;
    let type_ = match said.type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}.{:x}",
                cut(&object.name, NAME_MAX).trim_end_matches(['.', '-']),
                now.as_nanosecond()
            )),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(type_.to_owned()),
        reason: Some(said.reason.clone()),
        action: Some("Reconcile".to_owned()),
        note: Some(said.note.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(format!("{}/{version}", object.group)),
            kind: Some(object.kind.clone()),
            name: Some(object.name.clone()),
            namespace: Some(object.namespace.clone()).filter(|of| !of.is_empty()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(api::controller_name().to_owned()),
        reporting_instance: Some(cut(instance, REASON_MAX).to_owned()),
        ..Event::default()
    }
}

/// At most so many bytes of a text, whole characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Told,
    Repeated,
    TooMany,
}

/// What was told when, and how much may be told now. [pure]
#[derive(Debug)]
struct Limits {
    told: HashMap<u64, Instant>,
    warnings: Pace,
    others: Pace,
}

impl Limits {
    fn new(now: Instant) -> Self {
        Self {
            told: HashMap::new(),
            warnings: Pace::new(WARNINGS.0, WARNINGS.1, now),
            others: Pace::new(OTHERS.0, OTHERS.1, now),
        }
    }

    fn judge(
        &mut self,
        uid: &str,
        type_: EventType,
        reason: &str,
        note: &str,
        now: Instant,
    ) -> Verdict {
        let mut hasher = DefaultHasher::new();
        (uid, type_, reason, note).hash(&mut hasher);
        let key = hasher.finish();
        if self.told.get(&key).is_some_and(|at| now < *at + AGAIN) {
            return Verdict::Repeated;
        }
        let pace = match type_ {
            EventType::Warning => &mut self.warnings,
            EventType::Normal => &mut self.others,
        };
        if !pace.try_take(now) {
            return Verdict::TooMany;
        }
        if self.told.len() >= REMEMBERED_MAX {
            self.told.retain(|_, at| now < *at + AGAIN);
            if self.told.len() >= REMEMBERED_MAX {
                self.told.clear();
            }
        }
        self.told.insert(key, now);
        Verdict::Told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_in_a_while_and_warnings_have_room_of_their_own() {
        let now = Instant::now();
        let mut limits = Limits::new(now);
        let mut judge = |uid: &str, type_, after| {
            limits.judge(
                uid,
                type_,
                "Accepted",
                "yes",
                now + Duration::from_secs(after),
            )
        };
        assert_eq!(judge("a", EventType::Normal, 0), Verdict::Told);
        assert_eq!(judge("a", EventType::Normal, 0), Verdict::Repeated);
        assert_eq!(judge("a", EventType::Warning, 0), Verdict::Told);
        for uid in 0..99 {
            assert_eq!(judge(&uid.to_string(), EventType::Normal, 0), Verdict::Told);
        }
        assert_eq!(judge("x", EventType::Normal, 0), Verdict::TooMany);
        assert_eq!(judge("x", EventType::Warning, 0), Verdict::Told);
        assert_eq!(judge("x", EventType::Normal, 1), Verdict::Told);
        assert_eq!(judge("a", EventType::Normal, 601), Verdict::Told);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut limits = Limits::new(now);
        for uid in 0..20_000_u64 {
            let at = now + Duration::from_millis(uid * 100);
            limits.judge(&uid.to_string(), EventType::Normal, "", "", at);
            assert!(limits.told.len() <= REMEMBERED_MAX);
        }
    }

    #[test]
    fn an_event_keeps_to_what_the_api_server_takes() {
        let said = Said {
            regarding: Regarding {
                object: ObjectKey::new(api::GATEWAY_GROUP, "Gateway", "a", &"n".repeat(253)),
                version: "v1".into(),
                uid: "uid".into(),
            },
            type_: EventType::Warning,
            reason: "Invalid".into(),
            note: "no".into(),
        };
        let event = event(&said, "a", "pod-0", Timestamp::UNIX_EPOCH);
        assert!(event.metadata.name.is_some_and(|name| name.len() <= 253));
        let regarding = event.regarding.unwrap_or_default();
        assert_eq!(regarding.uid.as_deref(), Some("uid"));
        assert_eq!(
            regarding.api_version.as_deref(),
            Some("gateway.networking.k8s.io/v1")
        );
        assert_eq!(cut("ab\u{e9}", 3), "ab");
        assert_eq!(cut("ab", 3), "ab");
    }
}
