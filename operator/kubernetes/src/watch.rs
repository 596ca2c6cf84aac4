//! One watch, for ever: through lost connections, expired versions, a CRD that is not there yet.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::convert::{item, key};
use crate::kinds::Kind;
use crate::watched::Seen;

/// Pauses after a failure: doubled each time, with a random part, so that an API server that comes back meets no storm.
const AGAIN: (Duration, Duration) = if cfg!(test) {
    (Duration::from_millis(1), Duration::from_millis(50))
} else {
    (Duration::from_millis(200), Duration::from_secs(5))
};
/// An API server that has just started refuses whom it does not know yet: that often in a row is an answer.
const FORBIDDEN_TRIES: u32 = 6;
/// How often a missing CRD is looked for.
const MISSING_AGAIN: Duration = Duration::from_secs(5);
/// Objects in one page, where lists are not streamed.
const PAGE: u32 = 500;

/// Tells watches apart.
pub(crate) type WatchId = u64;

/// What a watch reports.
#[derive(Debug)]
pub(crate) enum Report {
    /// Something was seen.
    Seen(Seen),
    /// The API server has no such kind.
    Missing,
    /// We may not read the kind, and have asked often enough to believe it.
    Forbidden(String),
    /// The watch does not get on; it goes on trying.
    Trouble(String),
}

/// What is watched.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    /// One namespace; none for all.
    pub(crate) namespace: Option<String>,
    /// One object by its name.
    pub(crate) name: Option<String>,
}

/// Watches until the receiver is gone.
pub(crate) async fn run(
    id: WatchId,
    target: Target,
    client: Client,
    reports: mpsc::Sender<(WatchId, Report)>,
) {
    let mut pause = Pause::default();
    let mut streamed = true;
    loop {
        let version = match version(&client, target.kind).await {
            Ok(Some(version)) => version,
            Ok(None) => {
                if reports.send((id, Report::Missing)).await.is_err() {
                    return;
                }
                tokio::time::sleep(MISSING_AGAIN).await;
                continue;
            }
            Err(error) => {
                if !trouble(id, &reports, &error, &mut pause).await {
                    return;
                }
                continue;
            }
        };
        let api = api(&client, &target, &target.kind.resource(version));
        let mut stream = pin!(watcher::watcher(api, config(&target, streamed)));
        loop {
            let seen = match stream.try_next().await {
                Ok(Some(event)) => seen(target.kind, version, event),
                Ok(None) => break,
                Err(error) => {
                    let status = status(&error);
                    // An API server without streamed lists says that the request is not valid.
                    if streamed && status.is_some_and(|status| [400, 422].contains(&status.code)) {
                        tracing::info!(kind = target.kind.kind, "lists are not streamed here");
                        streamed = false;
                        break;
                    }
                    let is_missing = status.is_some_and(|status| status.code == 404);
                    let after = status
                        .and_then(|status| status.details.as_ref())
                        .map(|details| Duration::from_secs(u64::from(details.retry_after_seconds)));
                    pause.at_least(after.unwrap_or_default());
                    let is_forbidden = status.is_some_and(|status| status.code == 403);
                    let error = kube_error(error);
                    if is_forbidden && pause.failures >= FORBIDDEN_TRIES {
                        let report = Report::Forbidden(error.clone());
                        if reports.send((id, report)).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(pause.next()).await;
                        continue;
                    }
                    if !trouble(id, &reports, &error, &mut pause).await {
                        return;
                    }
                    if is_missing {
                        break;
                    }
                    continue;
                }
            };
            pause = Pause::default();
            if reports.send((id, Report::Seen(seen))).await.is_err() {
                return;
            }
        }
    }
}

/// Reports a failure and waits. Whether anybody still listens.
async fn trouble(
    id: WatchId,
    reports: &mpsc::Sender<(WatchId, Report)>,
    error: &str,
    pause: &mut Pause,
) -> bool {
    let told = reports.send((id, Report::Trouble(error.to_owned()))).await;
    tokio::time::sleep(pause.next()).await;
    told.is_ok()
}

/// The best version of a kind that the API server has.
async fn version(client: &Client, kind: &Kind) -> Result<Option<&'static str>, String> {
    if !kind.is_custom() {
        return Ok(kind.versions.first().copied());
    }
    for version in kind.versions {
        let group = format!("{}/{version}", kind.group);
        match client.list_api_group_resources(&group).await {
            Ok(list) => {
                if list.resources.iter().any(|of| of.name == kind.plural) {
                    return Ok(Some(version));
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(None)
}

fn api(client: &Client, target: &Target, resource: &ApiResource) -> Api<DynamicObject> {
    match &target.namespace {
        Some(namespace) if target.kind.is_namespaced => {
            Api::namespaced_with(client.clone(), namespace, resource)
        }
        _ => Api::all_with(client.clone(), resource),
    }
}

fn config(target: &Target, streamed: bool) -> watcher::Config {
    let mut config = watcher::Config::default();
    if let Some(name) = &target.name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    if streamed {
        config.streaming_lists()
    } else {
        config.page_size(PAGE)
    }
}

fn seen(kind: &Kind, version: &str, event: Event<DynamicObject>) -> Seen {
    match event {
        Event::Init => Seen::ListBegins,
        Event::InitApply(object) => Seen::Listed(Box::new(item(kind, version, object))),
        Event::InitDone => Seen::ListEnds,
        Event::Apply(object) => Seen::Applied(Box::new(item(kind, version, object))),
        Event::Delete(object) => Seen::Deleted(key(kind, &object)),
    }
}

fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

fn kube_error(error: watcher::Error) -> String {
    if let Some(status) = status(&error) {
        return format!("{} ({})", status.message, status.code);
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// How long to wait after failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    failures: u32,
    least: Duration,
}

impl Pause {
    /// The API server asked for this much.
    fn at_least(&mut self, least: Duration) {
        self.least = least;
    }

    fn next(&mut self) -> Duration {
        let base = AGAIN.0 * 2_u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let base = base.min(AGAIN.1);
        // Half of it is random.
        let random = RandomState::new().hash_one(self.failures) as u32;
        let share = f64::from(random) / f64::from(u32::MAX);
        let least = std::mem::take(&mut self.least);
        least.max(base.mul_f64(0.5 + share / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_heed_what_the_api_server_asks_for() {
        let mut pause = Pause::default();
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let next = pause.next();
            assert!(next <= AGAIN.1);
            longest = longest.max(next);
        }
        assert!(longest >= AGAIN.1 / 2);
        pause.at_least(Duration::from_secs(90));
        assert_eq!(pause.next(), Duration::from_secs(90));
        assert!(pause.next() <= AGAIN.1);
    }
}
