//! Taking silent shards out of a rollout whose deadline has passed, within the bounds. [pure]

use std::collections::BTreeMap;
use std::time::Duration;

use api::{GatewayKey, Revision, ShardId};

use super::progress::Progress;
use super::{Action, Rollout};

impl Rollout {
    /// Fences the shards that hold a Gateway back although its deadline has passed, or says that too few answer.
    pub(super) fn fence(&mut self, gateway: &GatewayKey, now: Duration) -> Vec<Action> {
        let Some(progress) = self.gateways.get(gateway) else {
            return Vec::new();
        };
        let late = |by: Option<Duration>| by.is_some_and(|by| now >= by);
        // Only a shard that has not moved since the last step forward is silent: what was just committed is on its way.
        let phases = [
            (progress.prepare_by, &progress.prepared, progress.active),
            (
                progress.acknowledge_by,
                &progress.acknowledged,
                progress.propagated,
            ),
        ];
        let held_back = phases.into_iter().find_map(|(by, answers, than)| {
            let silent = self.silent(progress, answers, than);
            (late(by) && !silent.is_empty()).then_some((silent, answers, than))
        });
        let Some((silent, answers, than)) = held_back else {
            return Vec::new();
        };
        // Those that join are not missed yet, and those that leave no more.
        let of = |shard: &ShardId| progress.led_to.contains(shard);
        let done = answers
            .iter()
            .filter(|(shard, at)| of(shard) && **at > than)
            .count();
        let total = progress.led_to.len();
        let fenced = |shard: &&ShardId| self.fenced.contains(*shard);
        let out = progress.led_to.iter().filter(fenced).count();
        let missed = silent.iter().filter(|shard| of(shard)).count();
        let pool_limit = (self.live.len() / 4).max(1);
        let allowed = done * 2 >= total
            && done > 0
            && out + missed <= total / 2
            && self.fenced.len() + silent.len() <= pool_limit;
        if allowed {
            self.fenced.extend(silent.iter().copied());
            let fenced = silent.into_iter();
            return fenced
                .map(|shard| Action::Fenced(shard, gateway.clone()))
                .collect();
        }
        let revision = progress.target;
        match self.gateways.get_mut(gateway) {
            Some(progress) if !progress.waiting_reported => {
                progress.waiting_reported = true;
                vec![Action::Waiting {
                    gateway: gateway.clone(),
                    revision,
                    prepared: done,
                    total,
                }]
            }
            _ => Vec::new(),
        }
    }

    /// Live shards that have answered nothing newer than a revision.
    fn silent(
        &self,
        progress: &Progress,
        answers: &BTreeMap<ShardId, Revision>,
        than: Revision,
    ) -> Vec<ShardId> {
        let newer = |of: &BTreeMap<ShardId, Revision>, shard: &ShardId| {
            of.get(shard).is_some_and(|at| *at > than)
        };
        let shards = progress.shards.iter().copied();
        shards
            .filter(|shard| self.live.contains(shard) && !self.fenced.contains(shard))
            .filter(|shard| !newer(answers, shard) && !newer(&progress.refused, shard))
            .collect()
    }
}
