//! How many shards there are to be, and what a ShardPool's status says of it.

use api_pool::{SHARDS_MAX, ServiceSettings, ShardPool, ShardPoolStatus};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::pool::shards::{PoolError, pod_selector};

/// What a ShardPool asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// Shards.
    pub shards: u32,
    /// Shards of each Gateway.
    pub shards_per_gateway: u32,
    /// How the Service of each Gateway looks.
    pub service: ServiceSettings,
}

impl PoolSpec {
    /// As the ShardPool says; within bounds, also when its CRD did not see to that.
    pub fn of(pool: &ShardPool) -> Self {
        let bounded = |count: i32| u32::try_from(count).unwrap_or(1).clamp(1, SHARDS_MAX);
        Self {
            shards: bounded(pool.spec.shards),
            shards_per_gateway: bounded(pool.spec.shards_per_gateway),
            service: pool.spec.service.clone(),
        }
    }
}

/// How many shards are to run now.
///
/// A shard that is in use stays; the pool is never larger for it than it is. Until it is known which are in use, none goes.
/// `in_use` is the highest number in use, when that is known.
pub fn replicas(wanted: u32, in_use: Option<Option<u32>>, current: Option<i32>) -> i32 {
    let current = current.and_then(|of| u32::try_from(of).ok()).unwrap_or(0);
    let needed = match in_use {
        Some(highest) => highest.map_or(0, |highest| highest.saturating_add(1)),
        None => current,
    };
    let replicas = wanted.max(needed.min(current));
    i32::try_from(replicas).unwrap_or(i32::MAX)
}

/// What a status is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) pool: &'a ShardPool,
    pub(crate) set: Option<&'a StatefulSet>,
    pub(crate) gateways: Option<u32>,
    pub(crate) error: Option<&'a PoolError>,
}

/// The status of a ShardPool. `now` is the time of conditions that change.
pub(crate) fn status(facts: Facts<'_>, now: &Time) -> ShardPoolStatus {
    let Facts {
        pool,
        set,
        gateways,
        error,
    } = facts;
    let has = set.and_then(|set| set.status.as_ref());
    let replicas = has.map_or(0, |has| has.replicas);
    let ready = has.and_then(|has| has.ready_replicas).unwrap_or(0);
    let before = pool.status.as_ref();
    let kept = before.map_or(&[][..], |status| &status.conditions);
    let observed_generation = pool.metadata.generation;
    let condition = |type_: &str, (is_true, reason, message): (bool, &str, String)| {
        let status = if is_true { "True" } else { "False" };
        let same = kept
            .iter()
            .find(|of| of.type_ == type_ && of.status == status);
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            observed_generation,
            last_transition_time: same
                .map_or_else(|| now.clone(), |of| of.last_transition_time.clone()),
        }
    };
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    ShardPoolStatus {
        observed_generation,
        replicas,
        ready_replicas: ready,
        gateways: gateways.map(|count| i32::try_from(count).unwrap_or(i32::MAX)),
        selector: Some(pod_selector(name)),
        conditions: vec![
            condition("Ready", is_ready(pool, ready, error)),
            condition("Progressing", progress(pool, set, error)),
        ],
    }
}

fn is_ready(
    pool: &ShardPool,
    ready: i32,
    error: Option<&PoolError>,
) -> (bool, &'static str, String) {
    if let Some(error) = error {
        return (false, "Invalid", error.to_string());
    }
    let wanted = pool.spec.shards;
    let message = format!("{ready} of {wanted} shards are ready");
    if ready >= wanted {
        (true, "ShardsReady", message)
    } else {
        (false, "ShardsNotReady", message)
    }
}

fn progress(
    pool: &ShardPool,
    set: Option<&StatefulSet>,
    error: Option<&PoolError>,
) -> (bool, &'static str, String) {
    if error.is_some() {
        return (false, "Invalid", "shards stay as they are".into());
    }
    let spec = set.and_then(|set| set.spec.as_ref());
    let has = set.and_then(|set| set.status.as_ref());
    let (Some(spec), Some(has)) = (spec, has) else {
        return (true, "Creating", "shards are being made".into());
    };
    let (wanted, asked) = (pool.spec.shards, spec.replicas.unwrap_or(1));
    if asked > wanted {
        let message = format!(
            "{} shards have Gateways still; they go when those have moved",
            asked - wanted
        );
        return (true, "ScaleInWaits", message);
    }
    if has.replicas != asked {
        let message = format!("from {} shards to {asked}", has.replicas);
        return (true, "Scaling", message);
    }
    let generation = set.and_then(|set| set.metadata.generation);
    // A revision that counts nothing of itself is the one that all have.
    let updated = has.updated_replicas.unwrap_or(0);
    if has.observed_generation < generation
        || has.update_revision != has.current_revision && updated < asked
    {
        let message = format!("{updated} of {asked} shards are of the newest revision");
        return (true, "RollingOut", message);
    }
    (
        false,
        "Complete",
        format!("{asked} shards as they should be"),
    )
}
