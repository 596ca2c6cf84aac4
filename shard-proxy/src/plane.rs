//! The data plane as the delta stream's client drives it.

use std::collections::BTreeMap;

use api::{BackendKey, CertificateKey, GatewayKey};
use api_snapshot::facts::{Backend, Binding, Certificate};
use api_telemetry::Chain;
use shard_proxy_forward::{BackendHandle, DataPlane, PrepareError, PreparedGateway};
use shard_proxy_subscribe::{Plane, PrepareFailure};
use shard_proxy_table::SubTable;

/// A data plane.
pub(crate) struct Served(pub(crate) DataPlane);

impl Plane for Served {
    type Backend = BackendHandle;
    type Prepared = PreparedGateway;

    fn backend(&self, key: &BackendKey) -> BackendHandle {
        self.0.backend_handle(key)
    }

    fn set_backend(&self, key: &BackendKey, backend: &Backend) {
        self.0.set_backend(key, backend);
    }

    fn remove_backend(&self, key: &BackendKey) {
        self.0.remove_backend(key);
    }

    fn change_certificates(
        &self,
        changes: Vec<(CertificateKey, Option<Certificate>)>,
    ) -> Vec<String> {
        let changes = changes.iter();
        let errors = self
            .0
            .change_certificates(changes.map(|(key, certificate)| (key, certificate.as_ref())));
        errors.iter().map(ToString::to_string).collect()
    }

    fn prepare(
        &self,
        table: SubTable<BackendHandle>,
        bindings: &BTreeMap<u16, Binding>,
    ) -> Result<PreparedGateway, PrepareFailure> {
        self.0
            .prepare(table, bindings)
            .map_err(|error| PrepareFailure {
                listener: error.listener().map(str::to_owned),
                port_unavailable: matches!(error, PrepareError::Bind { .. }),
                message: Chain(&error).to_string(),
            })
    }

    async fn activate(&self, prepared: Vec<PreparedGateway>) {
        self.0.activate_all(prepared).await;
    }

    async fn remove(&self, gateway: &GatewayKey) {
        self.0.remove(gateway).await;
    }

    async fn leave(&self, gateway: &GatewayKey) {
        self.0.leave(gateway).await;
    }

    fn load(&self) -> (u64, u64, u64) {
        let load = self.0.load();
        (
            load.connections,
            load.requests_in_flight,
            load.requests_total,
        )
    }
}
