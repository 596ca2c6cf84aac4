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

    fn set_certificate(
        &self,
        key: &CertificateKey,
        certificate: &Certificate,
    ) -> Result<(), String> {
        self.0
            .set_certificate(key, certificate)
            .map_err(|error| error.to_string())
    }

    fn remove_certificate(&self, key: &CertificateKey) {
        self.0.remove_certificate(key);
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

    async fn activate(&self, prepared: PreparedGateway) {
        self.0.activate(prepared).await;
    }

    async fn remove(&self, gateway: &GatewayKey) {
        self.0.remove(gateway).await;
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
