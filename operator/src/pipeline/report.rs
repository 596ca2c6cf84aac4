//! What shards say of a rollout, and which statuses that changes.

use api::{RouteKey, ShardId};
use operator_distribute::RolloutReport;
use operator_translate::status::gateway_object;

use crate::pipeline::Pipeline;
use crate::progress::Served;

impl Pipeline {
    pub(super) async fn report(&mut self, report: RolloutReport) {
        if let RolloutReport::Propagated { gateway, .. } | RolloutReport::Moving { gateway, .. } =
            &report
        {
            self.needs_changed([gateway.clone()]);
        }
        match report {
            RolloutReport::Propagated {
                gateway,
                revision,
                acknowledged,
                total,
                took,
            } => {
                let shards = (acknowledged, total);
                let served = Served { shards, took };
                let routes = self.progress.propagated(&gateway, revision, served);
                self.changelog.propagated(&gateway, revision, shards);
                self.retiring.reached(&gateway, revision);
                let committed = self.progress.gateway(&gateway).map(|p| p.committed);
                if committed.is_some_and(|committed| committed <= revision) {
                    self.ports_are_bound(&gateway);
                }
                if self.translation.gateway_status(&gateway).is_none() {
                    self.progress.removed(&gateway);
                }
                let objects = routes.iter().map(RouteKey::object);
                self.write_statuses(objects.chain([gateway_object(&gateway)]).collect());
            }
            RolloutReport::Refused {
                gateway,
                revision,
                listener,
                port_unavailable,
                message,
                shard,
                // Without this entry the rest could be served.
                entry: _,
            } => {
                let is_of_its_shards = |all: &[ShardId]| all.contains(&shard);
                if !self
                    .allocator
                    .shards(&gateway)
                    .is_some_and(is_of_its_shards)
                {
                    // It joins or leaves: clients are not led there, and the others serve on.
                    return;
                }
                let text = format!("{shard}: {message}");
                let news =
                    self.progress
                        .refused(&gateway, revision, listener.clone(), text.clone());
                if let (true, true, Some(listener)) = (news, port_unavailable, listener) {
                    self.leave_out(&gateway, &listener, text).await;
                }
                self.write_statuses([gateway_object(&gateway)].into());
            }
            RolloutReport::Waiting {
                gateway,
                revision,
                prepared,
                total,
            } => {
                let reason = format!(
                    "revision {revision} waits: {prepared} of {total} shards have prepared it, too few to go on"
                );
                let routes = self.progress.waits(&gateway, revision, reason);
                let objects = routes.iter().map(RouteKey::object);
                self.write_statuses(objects.chain([gateway_object(&gateway)]).collect());
            }
            RolloutReport::Moving {
                gateway,
                placed,
                serving,
            } => self.moving.serving(&gateway, placed, serving),
            // Propagated says how many shards serve it.
            RolloutReport::Fenced { .. } => {}
        }
    }
}
