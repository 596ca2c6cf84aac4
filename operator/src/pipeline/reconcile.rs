//! From what is committed to what the source holds: at the start, and whenever this process has lost the thread.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use api::{GatewayKey, ObjectKey, RouteKey};
use api_snapshot::{Fact, FactKey};
use operator_index::Dirty;
use operator_translate::Translation;
use operator_translate::status::gateway_object;

use crate::delta;
use crate::kept::Kept;
use crate::pipeline::Pipeline;
use crate::pipeline::step::Step;

impl Pipeline {
    /// Reads what is committed, whoever committed it.
    pub(super) fn take_over(&mut self) -> anyhow::Result<()> {
        let snapshot = self.machine.snapshot.read();
        self.allocator = self.allocator.emptied();
        self.allocator.restore(snapshot.facts())?;
        self.retiring = crate::retire::Retiring::default();
        for (gateway, chain) in snapshot.gateways() {
            self.progress.restore(gateway, chain.tip(), chain.active());
        }
        drop(snapshot);
        self.restart_moves();
        // The rollout begins anew from the same; what was said before is of the one that it was.
        while self.reports.try_recv().is_ok() {}
        self.put_off.clear();
        self.distributor.lead(true);
        Ok(())
    }

    /// Translates everything and proposes the difference to what is committed: nothing, when nothing has changed. What is
    /// committed of an object that cannot be read serves on.
    pub(super) async fn reconcile(&mut self, seen: Instant) {
        self.tell_time();
        let changes = self
            .translation
            .update(&self.index, Dirty::all(&self.index));
        let mut step = Step::default();
        {
            let snapshot = Arc::clone(&self.machine.snapshot);
            let snapshot = snapshot.read();
            let unreadable = self.published.read().problems.iter().any(|problem| {
                // Nobody can tell which objects were in there.
                problem.is_error && problem.object.is_none()
            });
            self.kept = Kept::of(&snapshot, &self.translation, &self.index, unreadable);
            if !self.kept.is_empty() {
                tracing::warn!(
                    gateways = self.kept.gateways().count(),
                    routes = self.kept.routes(),
                    "some objects cannot be read; what is committed of them serves on"
                );
            }
            let ours: BTreeSet<GatewayKey> = self.translation.gateways().cloned().collect();
            let gone: Vec<GatewayKey> = snapshot
                .gateways()
                .map(|(key, _)| key)
                .filter(|gateway| !ours.contains(*gateway) && !self.kept.has_gateway(gateway))
                .cloned()
                .collect();
            for gateway in &gone {
                self.remove(&snapshot, gateway, &mut step);
            }
            for gateway in &ours {
                self.place(&snapshot, gateway, &mut step);
                self.whole(&snapshot, gateway, &mut step);
            }
            for (key, backend) in self.translation.backends() {
                let key = FactKey::Backend(key.clone());
                let fact = Fact::Backend(backend.clone());
                delta::put_fact(&snapshot, &mut step.delta.facts, &key, &fact);
            }
            for (key, certificate) in self.translation.certificates() {
                let key = FactKey::Certificate(key.clone());
                let fact = Fact::Certificate(certificate.clone());
                delta::put_fact(&snapshot, &mut step.delta.facts, &key, &fact);
            }
            // Whatever else is committed has lost its last reference while this process was away.
            for (key, _) in api_snapshot::view::facts(snapshot.facts()).unwrap_or_default() {
                if !self.is_wanted(&key) {
                    step.retired.insert(key);
                }
            }
        }
        self.propose(step, &[], seen, String::new()).await;
        self.begin().await;
        let status_of =
            |translation: &Translation, object: &ObjectKey| translation.status(object).is_some();
        let translation = &self.translation;
        self.statuses
            .write()
            .retain(|object| status_of(translation, object));
        for (route, gateway) in self.carried_routes() {
            self.progress.carried(&route, &gateway);
        }
        // All of them, not just those that this translation changed: while it followed, it noted changes and wrote nothing.
        let mut statuses = changes.statuses;
        statuses.extend(self.objects());
        self.write_statuses(statuses);
        self.publish_counts();
    }

    /// Every object that may have a status.
    fn objects(&self) -> BTreeSet<ObjectKey> {
        let class = |name: &String| ObjectKey::new(api::GATEWAY_GROUP, "GatewayClass", "", name);
        let gateways = self.index.gateways().map(|(key, _)| gateway_object(key));
        let routes = self.index.routes().map(|(key, _)| key.object());
        let classes = self.index.classes().map(|(name, _)| class(name));
        classes.chain(gateways).chain(routes).collect()
    }

    /// Every route with each Gateway that it is served by.
    fn carried_routes(&self) -> Vec<(RouteKey, GatewayKey)> {
        self.index
            .routes()
            .flat_map(|(route, _)| {
                let parents = self
                    .translation
                    .route_status(route)
                    .map(|status| &status.parents);
                parents
                    .into_iter()
                    .flatten()
                    .filter(|p| p.served)
                    .map(|p| (route.clone(), p.gateway.clone()))
            })
            .collect()
    }
}
