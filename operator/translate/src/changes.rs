//! What an update changed.

use std::collections::{BTreeMap, BTreeSet};

use api::{BackendKey, CertificateKey, GatewayKey, ObjectKey};
use api_snapshot::facts::{Backend, Certificate};
use api_snapshot::{GatewayEntry, GatewayEntryKey};

/// What an update changed, against the state before it.
///
/// Facts count at once, configuration only when it is activated. So the facts that are written here go with or before
/// the Gateways' entries, and the facts that are removed may go only once the revisions of this update are activated:
/// until then the entries that serve still refer to them. Before removing one then, ask
/// [`crate::Translation::backend`] or [`crate::Translation::certificate`] whether it is referred to again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Gateways whose entries changed.
    pub gateways: BTreeMap<GatewayKey, GatewayChange>,
    /// Backends that changed; none: nothing refers to it any more.
    pub backends: BTreeMap<BackendKey, Option<Backend>>,
    /// Certificates that changed; none: nothing refers to it any more.
    pub certificates: BTreeMap<CertificateKey, Option<Certificate>>,
    /// Objects whose status changed or that have none any more; ask [`crate::Translation::status`].
    pub statuses: BTreeSet<ObjectKey>,
    /// Gateways that ask for something else outside of the snapshot, came or went; ask
    /// [`crate::Translation::infrastructure`].
    pub infrastructure: BTreeSet<GatewayKey>,
}

/// What changed in one Gateway.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GatewayChange {
    /// Entries in the order of their keys; none removes. Empty when `removed`.
    pub ops: Vec<(GatewayEntryKey, Option<GatewayEntry>)>,
    /// The Gateway is gone, or no longer ours.
    pub removed: bool,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty()
            && self.backends.is_empty()
            && self.certificates.is_empty()
            && self.statuses.is_empty()
            && self.infrastructure.is_empty()
    }
}
