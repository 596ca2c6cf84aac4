//! The incremental state: what each object was translated to, and what changes when some are translated again.

mod gateways;
mod read;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{BackendKey, CertificateKey, GatewayKey, ObjectKey, RouteKey, Timestamp};
use api_snapshot::config::RuleSpec;
use api_snapshot::facts::{Backend, Certificate};
use api_snapshot::{GatewayEntry, GatewayEntryKey};
use operator_index::{Dirty, Index};

use crate::certificate::Certificates;
use crate::changes::{Changes, GatewayChange};
use crate::gateway::{Attachable, GatewayOutput};
use crate::quarantine::guarded;
use crate::references::References;
use crate::route::Parents;
use crate::status::{ClassStatus, RouteStatus, class_object};
use crate::{Settings, backend, translate_class};

/// Everything translated, and who refers to which fact. One writer.
///
/// What it holds after any sequence of updates is what [`Translation::full`] gives for the same view.
#[derive(Debug, Default)]
pub struct Translation {
    settings: Settings,
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
    infrastructure: BTreeSet<GatewayKey>,
    /// Routes to translate.
    routes: BTreeSet<RouteKey>,
}

impl Parents for BTreeMap<GatewayKey, TranslatedGateway> {
    fn attachable(&self, key: &GatewayKey) -> Option<&Attachable> {
        self.get(key).map(|gateway| &gateway.output.attachable)
    }
}

impl Translation {
    /// Nothing translated yet, outside of a cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing translated yet.
    pub fn with(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Translates everything that the view holds.
    pub fn full(view: &Index) -> Self {
        Self::full_with(view, Settings::default())
    }

    /// Translates everything that the view holds.
    pub fn full_with(view: &Index, settings: Settings) -> Self {
        let mut translation = Self::with(settings);
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
            infrastructure: update.infrastructure,
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
            translate_class(view, name, &self.settings)
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
