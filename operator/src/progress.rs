//! Which revision carries which object, and how far it has come: what `Programmed` and `Propagated` say. [pure]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::{GatewayKey, Revision, RouteKey};

/// How far a Gateway's newest revision has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GatewayProgress {
    /// Newest committed revision.
    pub(crate) committed: Revision,
    /// Newest revision that every live shard of the Gateway serves.
    pub(crate) propagated: Revision,
    /// Shards that acknowledged `propagated`.
    pub(crate) acknowledged: usize,
    /// Shards that the Gateway is placed on.
    pub(crate) total: usize,
    /// Time from commit to the last acknowledgement.
    pub(crate) took: Duration,
    /// Why a shard refused the newest revision, by listener (none: the whole Gateway).
    pub(crate) refused: BTreeMap<Option<String>, String>,
}

impl GatewayProgress {
    /// Whether `revision` is served by every live shard.
    pub(crate) fn serves(&self, revision: Revision) -> bool {
        self.propagated >= revision && self.propagated != Revision(0)
    }
}

/// Progress of all Gateways and of the routes attached to them.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    gateways: BTreeMap<GatewayKey, GatewayProgress>,
    /// The revision that carries a route's newest form to a Gateway.
    routes: BTreeMap<(RouteKey, GatewayKey), Revision>,
    /// Routes whose status waits for a revision of the Gateway.
    waiting: BTreeMap<GatewayKey, BTreeMap<Revision, BTreeSet<RouteKey>>>,
}

impl Progress {
    /// Takes over a Gateway that was committed before this process started. It counts as propagated once its shards
    /// say so, which they do when they connect.
    pub(crate) fn restore(&mut self, gateway: &GatewayKey, tip: Revision) {
        self.gateways.entry(gateway.clone()).or_default().committed = tip;
    }

    /// A route that a Gateway serves was found committed: its newest form is in the Gateway's newest revision at most.
    pub(crate) fn carried(&mut self, route: &RouteKey, gateway: &GatewayKey) {
        let committed = self.gateways.entry(gateway.clone()).or_default().committed;
        if committed == Revision(0) {
            return;
        }
        let at = (route.clone(), gateway.clone());
        if let std::collections::btree_map::Entry::Vacant(place) = self.routes.entry(at) {
            place.insert(committed);
            let waiting = self.waiting.entry(gateway.clone()).or_default();
            waiting.entry(committed).or_default().insert(route.clone());
        }
    }

    /// A revision of a Gateway was committed that carries these routes.
    pub(crate) fn committed(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        routes: impl IntoIterator<Item = RouteKey>,
    ) {
        let progress = self.gateways.entry(gateway.clone()).or_default();
        progress.committed = revision;
        progress.refused.clear();
        let waiting = self
            .waiting
            .entry(gateway.clone())
            .or_default()
            .entry(revision)
            .or_default();
        for route in routes {
            self.routes
                .insert((route.clone(), gateway.clone()), revision);
            waiting.insert(route);
        }
    }

    /// All live shards of a Gateway serve a revision. Returns the routes whose status this changes.
    pub(crate) fn propagated(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        (acknowledged, total): (usize, usize),
        took: Duration,
    ) -> BTreeSet<RouteKey> {
        let progress = self.gateways.entry(gateway.clone()).or_default();
        if revision >= progress.propagated {
            progress.propagated = revision;
            progress.acknowledged = acknowledged;
            progress.total = total;
            progress.took = took;
        }
        let Some(waiting) = self.waiting.get_mut(gateway) else {
            return BTreeSet::new();
        };
        let later = waiting.split_off(&Revision(revision.0 + 1));
        std::mem::replace(waiting, later)
            .into_values()
            .flatten()
            .collect()
    }

    /// A shard refused a Gateway's newest revision.
    pub(crate) fn refused(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        listener: Option<String>,
        message: String,
    ) {
        let progress = self.gateways.entry(gateway.clone()).or_default();
        if revision == progress.committed {
            progress.refused.insert(listener, message);
        }
    }

    /// Forgets a Gateway.
    pub(crate) fn removed(&mut self, gateway: &GatewayKey) {
        self.gateways.remove(gateway);
        self.waiting.remove(gateway);
        self.routes.retain(|(_, of), _| of != gateway);
    }

    /// Forgets a route.
    pub(crate) fn route_removed(&mut self, route: &RouteKey) {
        self.routes.retain(|(of, _), _| of != route);
    }

    /// Progress of a Gateway; none before its first commit.
    pub(crate) fn gateway(&self, gateway: &GatewayKey) -> Option<&GatewayProgress> {
        self.gateways.get(gateway)
    }

    /// The revision that carries the route's newest form to the Gateway.
    pub(crate) fn route(&self, route: &RouteKey, gateway: &GatewayKey) -> Option<Revision> {
        self.routes.get(&(route.clone(), gateway.clone())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_waits_for_its_own_revision_only() {
        let mut progress = Progress::default();
        let gateway = GatewayKey::new("team-a", "web");
        let (first, second) = (
            RouteKey::http("team-a", "one"),
            RouteKey::http("team-a", "two"),
        );
        progress.committed(&gateway, Revision(4), [first.clone()]);
        progress.committed(&gateway, Revision(6), [second.clone()]);
        let done = progress.propagated(&gateway, Revision(4), (2, 2), Duration::from_millis(3));
        assert_eq!(done, [first.clone()].into());
        let at = progress.gateway(&gateway).cloned().unwrap_or_default();
        assert!(at.serves(Revision(4)) && !at.serves(Revision(6)));
        assert_eq!(progress.route(&second, &gateway), Some(Revision(6)));
        let done = progress.propagated(&gateway, Revision(6), (1, 2), Duration::ZERO);
        assert_eq!(done, [second].into());
    }
}
