//! The incremental state: what each object was translated to, and what changes when some are translated again.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{BackendKey, CertificateKey, GatewayKey, ObjectKey, RouteKey, Timestamp};
use api_snapshot::config::RuleSpec;
use api_snapshot::facts::{Backend, Certificate};
use api_snapshot::{GatewayEntry, GatewayEntryKey};
use operator_index::{Dirty, Index};

use crate::certificate::Certificates;
use crate::changes::{Changes, GatewayChange};
use crate::gateway::{Attachable, GatewayOutput, translate_gateway};
use crate::quarantine::guarded;
use crate::references::References;
use crate::route::{Parents, RouteOutput, quarantined, translate_route};
use crate::status::{ClassStatus, GatewayStatus, RouteStatus, class_object, gateway_object};
use crate::{backend, translate_class};

/// Everything translated, and who refers to which fact. One writer.
///
/// What it holds after any sequence of updates is what [`Translation::full`] gives for the same view.
#[derive(Debug, Default)]
pub struct Translation {
    classes: BTreeMap<String, ClassStatus>,
    gateways: BTreeMap<GatewayKey, TranslatedGateway>,
    routes: BTreeMap<RouteKey, TranslatedRoute>,
    backends: References<BackendKey, Backend>,
    certificates: References<CertificateKey, Arc<Certificate>>,
    cache: Certificates,
    /// Gateways with a certificate that has expired since the last update.
    expired: BTreeSet<GatewayKey>,
    panics_on: Option<ObjectKey>,
}

/// A Gateway of ours with all that attaches to it.
#[derive(Debug)]
struct TranslatedGateway {
    output: GatewayOutput,
    rules: BTreeMap<RouteKey, Vec<(u16, RuleSpec)>>,
    /// Routes on each listener.
    attached: BTreeMap<String, u32>,
}

/// A route without its rules, which its Gateways hold. Lists are in order: most have one element, for which a tree would
/// take ten times the memory.
#[derive(Debug, Default)]
struct TranslatedRoute {
    gateways: Vec<GatewayKey>,
    backends: Vec<BackendKey>,
    attached: Vec<(GatewayKey, String)>,
    status: RouteStatus,
}

/// State of one update.
#[derive(Default)]
struct Update {
    ops: BTreeMap<GatewayKey, BTreeMap<GatewayEntryKey, Option<GatewayEntry>>>,
    removed: BTreeSet<GatewayKey>,
    statuses: BTreeSet<ObjectKey>,
    /// Routes to translate.
    routes: BTreeSet<RouteKey>,
}

impl Parents for BTreeMap<GatewayKey, TranslatedGateway> {
    fn attachable(&self, key: &GatewayKey) -> Option<&Attachable> {
        self.get(key).map(|gateway| &gateway.output.attachable)
    }
}

impl Translation {
    /// Nothing translated yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Translates everything that the view holds.
    pub fn full(view: &Index) -> Self {
        let mut translation = Self::new();
        translation.update(view, Dirty::all(view));
        translation
    }

    /// Translates what is stale and says what changed by it.
    ///
    /// A stale Gateway brings its routes along only when what they attach to changed. Cost: O(objects translated), and for
    /// a Gateway O(its own listeners); the other routes of a Gateway are not looked at.
    pub fn update(&mut self, view: &Index, dirty: Dirty) -> Changes {
        let mut update = Update {
            routes: dirty.routes,
            ..Update::default()
        };
        for name in &dirty.classes {
            self.update_class(view, name, &mut update);
        }
        for key in dirty
            .gateways
            .iter()
            .chain(&std::mem::take(&mut self.expired))
        {
            self.update_gateway(view, key, &mut update);
        }
        for key in std::mem::take(&mut update.routes) {
            self.update_route(view, &key, &mut update);
        }
        for service in &dirty.backends {
            let first = BackendKey::new(&service.namespace, &service.name, 0);
            let last = BackendKey::new(&service.namespace, &service.name, u16::MAX);
            self.backends.refresh_range(first..=last);
        }
        let backends = self.backends.settle(|key| {
            // No object of its own to blame: its Service's routes still answer, without endpoints.
            guarded(|| backend(view, key)).unwrap_or_else(|_| Backend {
                protocol: api_snapshot::facts::BackendProtocol::Http1,
                endpoints: Vec::new(),
            })
        });
        let certificates = self.settle_certificates();
        Changes {
            gateways: gateway_changes(update.ops, update.removed),
            backends,
            certificates,
            statuses: update.statuses,
        }
    }

    /// Tells the time, by which the next update says of a certificate that it has expired. Time only goes on; before the
    /// first call nothing has expired. Cost: O(Gateways), so call it every few minutes, then update with what is stale.
    pub fn set_now(&mut self, now: Timestamp) {
        let before = self.cache.now();
        self.cache.set_now(now);
        let passed = |output: &GatewayOutput| {
            output
                .certificates
                .values()
                .any(|it| it.not_after < now.0 && before.is_none_or(|t| it.not_after >= t.0))
        };
        let expired = self
            .gateways
            .iter()
            .filter(|(_, gateway)| passed(&gateway.output))
            .map(|(key, _)| key.clone());
        self.expired.extend(expired);
    }

    /// For tests: translating this object panics, until it is called with none.
    #[doc(hidden)]
    pub fn panic_on(&mut self, object: Option<ObjectKey>) {
        self.panics_on = object;
    }

    fn update_class(&mut self, view: &Index, name: &str, update: &mut Update) {
        let object = class_object(name);
        let translated = guarded(|| {
            self.maybe_panic(&object);
            translate_class(view, name)
        });
        let status = translated
            .unwrap_or_else(|message| Some(ClassStatus::quarantined(view, name, &message)));
        if self.classes.get(name) == status.as_ref() {
            return;
        }
        match status {
            Some(status) => self.classes.insert(name.into(), status),
            None => self.classes.remove(name),
        };
        update.statuses.insert(object);
    }

    fn update_gateway(&mut self, view: &Index, key: &GatewayKey, update: &mut Update) {
        let object = gateway_object(key);
        let mut cache = std::mem::take(&mut self.cache);
        let translated = guarded(|| {
            self.maybe_panic(&object);
            translate_gateway(view, key, &mut cache)
        });
        self.cache = cache;
        let output = translated.unwrap_or_else(|message| {
            Some(GatewayOutput::quarantined(
                view.gateway(key).map(AsRef::as_ref),
                &message,
            ))
        });
        let Some(mut output) = output else {
            return self.remove_gateway(view, key, update);
        };
        let old = self.gateways.remove(key);
        let (old_output, rules, attached) = match old {
            Some(old) => (Some(old.output), old.rules, old.attached),
            None => (None, BTreeMap::new(), BTreeMap::new()),
        };
        let served_before = old_output.as_ref().is_some_and(|old| old.spec.is_some());
        if output.spec.is_some() {
            diff_gateway(
                old_output.as_ref(),
                &output,
                update.ops.entry(key.clone()).or_default(),
            );
        } else if served_before {
            update.removed.insert(key.clone());
        }
        if old_output.as_ref().map(|old| &old.attachable) != Some(&output.attachable) {
            update.routes.extend(view.routes_of_gateway(key).cloned());
        }
        let none = BTreeMap::new();
        let had = old_output.as_ref().map_or(&none, |old| &old.certificates);
        self.certificates
            .replace(had.keys(), output.certificates.keys());
        for (certificate, value) in &output.certificates {
            self.certificates.set(certificate, value);
        }
        count_attached(&mut output.status, &attached);
        if old_output.as_ref().map(|old| &old.status) != Some(&output.status) {
            update.statuses.insert(object);
        }
        self.gateways.insert(
            key.clone(),
            TranslatedGateway {
                output,
                rules,
                attached,
            },
        );
    }

    fn remove_gateway(&mut self, view: &Index, key: &GatewayKey, update: &mut Update) {
        let Some(old) = self.gateways.remove(key) else {
            return;
        };
        self.certificates
            .replace(old.output.certificates.keys(), std::iter::empty());
        if old.output.spec.is_some() {
            update.removed.insert(key.clone());
        }
        update.ops.remove(key);
        // Also those that no longer refer to it but did, and have not been translated since.
        update.routes.extend(old.rules.into_keys());
        update.routes.extend(view.routes_of_gateway(key).cloned());
        update.statuses.insert(gateway_object(key));
    }

    fn update_route(&mut self, view: &Index, key: &RouteKey, update: &mut Update) {
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

    fn settle_certificates(&mut self) -> BTreeMap<CertificateKey, Option<Certificate>> {
        let mut out = BTreeMap::new();
        for (key, change) in self.certificates.settle_set() {
            if change.is_none() {
                self.cache.forget(&key);
            }
            out.insert(key, change.map(|certificate| (*certificate).clone()));
        }
        out
    }

    fn maybe_panic(&self, object: &ObjectKey) {
        if self.panics_on.as_ref() == Some(object) {
            std::panic::panic_any("injected by a test");
        }
    }
}

fn count_attached(status: &mut GatewayStatus, attached: &BTreeMap<String, u32>) {
    for listener in &mut status.listeners {
        listener.attached_routes = attached.get(&listener.name).copied().unwrap_or_default();
    }
}

fn diff_gateway(
    old: Option<&GatewayOutput>,
    new: &GatewayOutput,
    ops: &mut BTreeMap<GatewayEntryKey, Option<GatewayEntry>>,
) {
    if old.and_then(|old| old.spec.as_ref()) != new.spec.as_ref() {
        ops.insert(
            GatewayEntryKey::Gateway,
            new.spec.clone().map(GatewayEntry::Gateway),
        );
    }
    let before = old.map_or(&[][..], |old| &old.listeners);
    for (name, _) in before
        .iter()
        .filter(|(name, _)| !new.listeners.iter().any(|(other, _)| other == name))
    {
        ops.insert(GatewayEntryKey::Listener(name.clone()), None);
    }
    for listener in new
        .listeners
        .iter()
        .filter(|listener| !before.contains(listener))
    {
        let (name, spec) = listener;
        ops.insert(
            GatewayEntryKey::Listener(name.clone()),
            Some(GatewayEntry::Listener(spec.clone())),
        );
    }
}

fn gateway_changes(
    ops: BTreeMap<GatewayKey, BTreeMap<GatewayEntryKey, Option<GatewayEntry>>>,
    removed: BTreeSet<GatewayKey>,
) -> BTreeMap<GatewayKey, GatewayChange> {
    let changed = ops
        .into_iter()
        .filter(|(key, ops)| !ops.is_empty() && !removed.contains(key));
    let mut out: BTreeMap<GatewayKey, GatewayChange> = changed
        .map(|(key, ops)| {
            (
                key,
                GatewayChange {
                    ops: ops.into_iter().collect(),
                    removed: false,
                },
            )
        })
        .collect();
    for key in removed {
        out.insert(
            key,
            GatewayChange {
                ops: Vec::new(),
                removed: true,
            },
        );
    }
    out
}
