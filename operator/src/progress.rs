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
    /// How `propagated` is served.
    pub(crate) served: Served,
    /// Why a shard refused the newest revision, by listener (none: the whole Gateway).
    pub(crate) refused: BTreeMap<Option<String>, String>,
    /// Why the newest revision is not activated.
    pub(crate) waits: Option<String>,
}

impl GatewayProgress {
    /// Whether `revision` is served by every live shard.
    pub(crate) fn serves(&self, revision: Revision) -> bool {
        self.propagated >= revision && self.propagated != Revision(0)
    }
}

/// How a revision is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// Shards that acknowledged it, and shards of the Gateway.
    pub(crate) shards: (usize, usize),
    /// Time from the change to the last acknowledgement.
    pub(crate) took: Duration,
}

/// The revision that carries a route to a Gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) revision: Revision,
    /// Later revisions of the Gateway do not change it; shards that come late do.
    pub(crate) served: Option<Served>,
    /// It was committed before this process started: what its status says of it still holds.
    pub(crate) is_inherited: bool,
}

/// Progress of all Gateways and of the routes attached to them.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    gateways: BTreeMap<GatewayKey, GatewayProgress>,
    /// The revision that carries a route's newest form to a Gateway.
    routes: BTreeMap<(RouteKey, GatewayKey), Carried>,
    routes_of: BTreeMap<GatewayKey, BTreeSet<RouteKey>>,
    /// Routes whose status waits for a revision of the Gateway.
    waiting: BTreeMap<GatewayKey, BTreeMap<Revision, BTreeSet<RouteKey>>>,
}

impl Progress {
    /// Takes over a Gateway that was committed before this process started. What is active counts as propagated: it was
    /// activated when every live shard had prepared it.
    pub(crate) fn restore(&mut self, gateway: &GatewayKey, tip: Revision, active: Revision) {
        let progress = self.gateways.entry(gateway.clone()).or_default();
        progress.committed = tip;
        if active == tip {
            progress.propagated = active;
        }
    }

    /// A route that a Gateway serves was found committed: its newest form is in the Gateway's newest revision at most.
    pub(crate) fn carried(&mut self, route: &RouteKey, gateway: &GatewayKey) {
        let committed = self.gateways.entry(gateway.clone()).or_default().committed;
        if committed == Revision(0) || self.route(route, gateway).is_some() {
            return;
        }
        self.carry(route, gateway, committed, true);
        let waiting = self.waiting.entry(gateway.clone()).or_default();
        waiting.entry(committed).or_default().insert(route.clone());
    }

    fn carry(
        &mut self,
        route: &RouteKey,
        gateway: &GatewayKey,
        revision: Revision,
        is_inherited: bool,
    ) {
        let carried = Carried {
            revision,
            served: None,
            is_inherited,
        };
        self.routes
            .insert((route.clone(), gateway.clone()), carried);
        let of = self.routes_of.entry(gateway.clone()).or_default();
        of.insert(route.clone());
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
        progress.waits = None;
        let mut carried = BTreeSet::new();
        for route in routes {
            self.carry(&route, gateway, revision, false);
            carried.insert(route);
        }
        let waiting = self.waiting.entry(gateway.clone()).or_default();
        waiting.entry(revision).or_default().extend(carried);
    }

    /// All live shards of a Gateway serve a revision. Returns the routes whose status this changes.
    pub(crate) fn propagated(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        served: Served,
    ) -> BTreeSet<RouteKey> {
        let progress = self.gateways.entry(gateway.clone()).or_default();
        // More shards serve what was served before: those that came late, with everything up to here.
        let more = revision == progress.propagated && served.shards.0 > progress.served.shards.0;
        if revision >= progress.propagated {
            progress.propagated = revision;
            progress.served = served;
        }
        if revision >= progress.committed {
            progress.waits = None;
        }
        let mut reached = BTreeSet::new();
        if let Some(waiting) = self.waiting.get_mut(gateway) {
            let later = waiting.split_off(&Revision(revision.0 + 1));
            let now = std::mem::replace(waiting, later).into_values();
            reached.extend(now.flatten());
        }
        if more {
            let all = self.routes_of.get(gateway);
            reached.extend(all.into_iter().flatten().cloned());
        }
        for route in &reached {
            let at = (route.clone(), gateway.clone());
            if let Some(carried) = self.routes.get_mut(&at)
                && carried.revision <= revision
            {
                let known = carried.served.get_or_insert(served);
                known.shards = known.shards.max(served.shards);
            }
        }
        reached
    }

    /// Too few shards answer to activate a Gateway's newest revision. Returns the routes that it carries.
    pub(crate) fn waits(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        reason: String,
    ) -> BTreeSet<RouteKey> {
        match self.gateways.get_mut(gateway) {
            Some(progress) if progress.committed == revision => progress.waits = Some(reason),
            _ => return BTreeSet::new(),
        }
        let waiting = self.waiting.get(gateway);
        let waiting = waiting.into_iter().flat_map(BTreeMap::values);
        waiting.flatten().cloned().collect()
    }

    /// A shard refused a Gateway's newest revision. Returns whether that stands in its way: a revision that is served
    /// elsewhere, or is not the newest, is not taken back for one shard.
    pub(crate) fn refused(
        &mut self,
        gateway: &GatewayKey,
        revision: Revision,
        listener: Option<String>,
        message: String,
    ) -> bool {
        match self.gateways.get_mut(gateway) {
            Some(progress) if revision == progress.committed => {
                progress.refused.insert(listener, message);
                !progress.serves(revision)
            }
            _ => false,
        }
    }

    /// Forgets a Gateway.
    pub(crate) fn removed(&mut self, gateway: &GatewayKey) {
        self.gateways.remove(gateway);
        self.waiting.remove(gateway);
        for route in self.routes_of.remove(gateway).unwrap_or_default() {
            self.routes.remove(&(route, gateway.clone()));
        }
    }

    /// Forgets a route.
    pub(crate) fn route_removed(&mut self, route: &RouteKey) {
        let first = (route.clone(), GatewayKey::new("", ""));
        let of = self.routes.range(first..).map(|((of, g), _)| (of, g));
        let gateways: Vec<GatewayKey> = of
            .take_while(|(of, _)| *of == route)
            .map(|(_, gateway)| gateway.clone())
            .collect();
        for gateway in gateways {
            if let Some(of) = self.routes_of.get_mut(&gateway) {
                of.remove(route);
            }
            self.routes.remove(&(route.clone(), gateway));
        }
    }

    /// Progress of a Gateway; none before its first commit.
    pub(crate) fn gateway(&self, gateway: &GatewayKey) -> Option<&GatewayProgress> {
        self.gateways.get(gateway)
    }

    /// The revision that carries the route's newest form to the Gateway.
    pub(crate) fn route(&self, route: &RouteKey, gateway: &GatewayKey) -> Option<Carried> {
        self.routes.get(&(route.clone(), gateway.clone())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By so many of two shards, after so many milliseconds.
    fn served(acknowledged: usize, took_ms: u64) -> Served {
        Served {
            shards: (acknowledged, 2),
            took: Duration::from_millis(took_ms),
        }
    }

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
        let done = progress.propagated(&gateway, Revision(4), served(2, 3));
        assert_eq!(done, [first.clone()].into());
        let at = progress.gateway(&gateway).cloned().unwrap_or_default();
        assert!(at.serves(Revision(4)) && !at.serves(Revision(6)));
        let carried = progress.route(&second, &gateway);
        assert_eq!(carried.map(|carried| carried.revision), Some(Revision(6)));
        let done = progress.propagated(&gateway, Revision(6), served(1, 0));
        assert_eq!(done, [second].into());
    }

    #[test]
    fn what_was_active_before_a_restart_counts_as_propagated_and_is_inherited() {
        let mut progress = Progress::default();
        let (one, two) = (GatewayKey::new("a", "web"), GatewayKey::new("b", "web"));
        progress.restore(&one, Revision(7), Revision(7));
        progress.restore(&two, Revision(9), Revision(7));
        assert!(
            progress
                .gateway(&one)
                .is_some_and(|p| p.serves(Revision(7)))
        );
        assert!(
            progress
                .gateway(&two)
                .is_some_and(|p| !p.serves(Revision(7)))
        );
        let route = RouteKey::http("a", "shop");
        progress.carried(&route, &one);
        assert!(progress.route(&route, &one).is_some_and(|c| c.is_inherited));
        progress.committed(&one, Revision(10), [route.clone()]);
        progress.carried(&route, &one);
        assert!(
            progress
                .route(&route, &one)
                .is_some_and(|c| !c.is_inherited)
        );
        progress.route_removed(&route);
        assert_eq!(progress.route(&route, &one), None);
    }

    #[test]
    fn a_refusal_of_what_others_serve_stands_in_nobodys_way() {
        let mut progress = Progress::default();
        let gateway = GatewayKey::new("team-a", "web");
        progress.committed(&gateway, Revision(4), []);
        let refuse = |progress: &mut Progress, revision| {
            progress.refused(&gateway, Revision(revision), None, "taken".into())
        };
        assert!(!refuse(&mut progress, 3));
        assert!(refuse(&mut progress, 4));
        progress.propagated(&gateway, Revision(4), served(1, 0));
        assert!(!refuse(&mut progress, 4));
    }

    #[test]
    fn a_shard_that_comes_late_counts_and_a_later_revision_does_not() {
        let mut progress = Progress::default();
        let gateway = GatewayKey::new("team-a", "web");
        let route = RouteKey::http("team-a", "one");
        let of = |progress: &Progress| progress.route(&route, &gateway).and_then(|c| c.served);
        progress.committed(&gateway, Revision(4), [route.clone()]);
        let done = progress.propagated(&gateway, Revision(4), served(1, 3));
        assert_eq!(done, [route.clone()].into());
        assert_eq!(of(&progress), Some(served(1, 3)));
        let done = progress.propagated(&gateway, Revision(4), served(2, 900));
        assert_eq!(done, [route.clone()].into());
        assert_eq!(of(&progress), Some(served(2, 3)));
        progress.committed(&gateway, Revision(7), []);
        let done = progress.propagated(&gateway, Revision(7), served(2, 5));
        assert!(done.is_empty());
        assert_eq!(of(&progress), Some(served(2, 3)));
    }
}
