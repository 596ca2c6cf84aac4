//! One route translated again: what that changes in the Gateways that serve it.

use api::{GatewayKey, RouteKey};
use api_snapshot::config::RuleSpec;
use api_snapshot::{GatewayEntry, GatewayEntryKey};
use operator_index::Index;

use super::{TranslatedRoute, Translation, Update};
use crate::quarantine::guarded;
use crate::route::{RouteOutput, quarantined, translate_route};
use crate::status::gateway_object;

impl Translation {
    pub(super) fn update_route(&mut self, view: &Index, key: &RouteKey, update: &mut Update) {
        let object = key.object();
        let translated = guarded(|| {
            self.maybe_panic(&object);
            translate_route(view, &self.gateways, key)
        });
        let output = translated
            .unwrap_or_else(|message| Some(quarantined(view, &self.gateways, key, &message)));
        let gone = output.is_none();
        let RouteOutput {
            rules,
            backends,
            attached,
            status,
        } = output.unwrap_or_default();
        let old = self.routes.remove(key);
        if old.as_ref().map(|old| &old.status) != (!gone).then_some(&status) {
            update.statuses.insert(object);
        }
        let old = old.unwrap_or_default();
        for gateway in old
            .gateways
            .iter()
            .filter(|gateway| !rules.contains_key(*gateway))
        {
            self.set_rules(gateway, key, Vec::new(), update);
        }
        self.backends.replace(old.backends.iter(), backends.iter());
        for one in old.attached.iter().filter(|one| !attached.contains(*one)) {
            self.recount(one, -1, update);
        }
        for one in attached
            .iter()
            .filter(|one| old.attached.binary_search(one).is_err())
        {
            self.recount(one, 1, update);
        }
        let gateways = rules.keys().cloned().collect();
        for (gateway, rules) in rules {
            self.set_rules(&gateway, key, rules, update);
        }
        if !gone {
            let (backends, attached) = (Vec::from_iter(backends), Vec::from_iter(attached));
            self.routes.insert(
                key.clone(),
                TranslatedRoute {
                    gateways,
                    backends,
                    attached,
                    status,
                },
            );
        }
    }

    /// Sets the rules of a route on a Gateway; both lists are in the order of their numbers.
    fn set_rules(
        &mut self,
        gateway: &GatewayKey,
        route: &RouteKey,
        new: Vec<(u16, RuleSpec)>,
        update: &mut Update,
    ) {
        let Some(translated) = self.gateways.get_mut(gateway) else {
            return;
        };
        let old = translated.rules.remove(route).unwrap_or_default();
        let mut ops: Vec<(u16, Option<RuleSpec>)> = Vec::new();
        for (at, _) in old
            .iter()
            .filter(|(at, _)| new.binary_search_by_key(at, |(at, _)| *at).is_err())
        {
            ops.push((*at, None));
        }
        for (at, rule) in &new {
            let same = old
                .binary_search_by_key(at, |(at, _)| *at)
                .is_ok_and(|found| old[found].1 == *rule);
            if !same {
                ops.push((*at, Some(rule.clone())));
            }
        }
        if !ops.is_empty() {
            let gateway_ops = update.ops.entry(gateway.clone()).or_default();
            for (at, rule) in ops {
                gateway_ops.insert(
                    GatewayEntryKey::Rule(route.clone(), at),
                    rule.map(GatewayEntry::Rule),
                );
            }
        }
        if !new.is_empty() {
            translated.rules.insert(route.clone(), new);
        }
    }

    /// One route more or less on a listener.
    fn recount(
        &mut self,
        (gateway, listener): &(GatewayKey, String),
        by: i32,
        update: &mut Update,
    ) {
        let Some(translated) = self.gateways.get_mut(gateway) else {
            return;
        };
        let count = translated.attached.entry(listener.clone()).or_default();
        *count = count.saturating_add_signed(by);
        let count = *count;
        if count == 0 {
            translated.attached.remove(listener);
        }
        // A listener that is gone from the spec has no status.
        let status = translated
            .output
            .status
            .listeners
            .iter_mut()
            .find(|status| status.name == *listener);
        if let Some(status) = status {
            status.attached_routes = count;
            update.statuses.insert(gateway_object(gateway));
        }
    }
}
