//! One watch, for ever.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use tokio::sync::mpsc;

/// Watches what `config` selects and tells of it, until nobody listens.
///
/// Failures are tried again with growing pauses; what is known stays until the next list has ended.
pub(crate) async fn follow<K, N>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
    news: mpsc::Sender<N>,
    wrap: impl Fn(Event<K>) -> N,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = pin!(watcher::watcher(api, config).default_backoff());
    let mut is_well = true;
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                is_well = true;
                if news.send(wrap(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Once, not with each try.
                if std::mem::take(&mut is_well) {
                    let error = api_telemetry::Chain(&error).to_string();
                    tracing::warn!(what, error, "watch does not get on; what is known stays");
                }
            }
        }
    }
}
