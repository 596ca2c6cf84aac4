//! One Gateway translated again: what that changes in its own entries, its certificates and the routes to translate.

use std::collections::BTreeMap;

use api::GatewayKey;
use api_snapshot::{GatewayEntry, GatewayEntryKey};
use operator_index::Index;

use super::{TranslatedGateway, Translation, Update};
use crate::gateway::{GatewayOutput, translate_gateway};
use crate::quarantine::guarded;
use crate::status::{GatewayStatus, gateway_object};

impl Translation {
    pub(super) fn update_gateway(&mut self, view: &Index, key: &GatewayKey, update: &mut Update) {
        let object = gateway_object(key);
        let mut cache = std::mem::take(&mut self.cache);
        let translated = guarded(|| {
            self.maybe_panic(&object);
            translate_gateway(view, key, &self.settings, &mut cache)
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
        let asked = old_output.as_ref().map(|old| &old.infrastructure);
        if asked != Some(&output.infrastructure) {
            update.infrastructure.insert(key.clone());
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
        update.infrastructure.insert(key.clone());
        // Also those that no longer refer to it but did, and have not been translated since.
        update.routes.extend(old.rules.into_keys());
        update.routes.extend(view.routes_of_gateway(key).cloned());
        update.statuses.insert(gateway_object(key));
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
