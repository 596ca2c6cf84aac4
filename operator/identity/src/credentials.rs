//! A certificate in use, with what it trusts, which renews itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_certificate::{renewal, validity};
use api_telemetry::metrics::{Sink, Source};
use api_telemetry::{Chain, names};
use parking_lot::RwLock;
use rcgen::KeyPair;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::authority::certificates_of;
use crate::tls::{Parts, StreamVerifier};
use crate::{Authority, Identity, IdentityError, TlsSource};

/// Longest time between two looks at the clock. A machine that slept, or a clock that was set, is found out by them.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Shortest one, also after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// A certificate with its key and the CAs that are trusted. Clones share it; all see it swapped.
#[derive(Clone)]
pub struct Credentials(Arc<Shared>);

struct Shared {
    current: RwLock<Arc<Current>>,
    renewals: AtomicU64,
    failures: AtomicU64,
}

/// One certificate and the settings made of it.
pub(crate) struct Current {
    renew_at: SystemTime,
    not_after: SystemTime,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    pub(crate) stream: Arc<ServerConfig>,
    pub(crate) verifier: Arc<StreamVerifier>,
}

impl Credentials {
    /// A certificate of the authority's for `identity`, made now and anew at half of its life, and when the CA is
    /// exchanged. Within a runtime; the task ends with the last clone.
    ///
    /// # Errors
    /// [`IdentityError`] when the first one cannot be made.
    pub fn renewing(authority: Arc<Authority>, identity: Identity) -> Result<Self, IdentityError> {
        let mut changes = authority.changes();
        let first = Current::sign(&authority, identity)?;
        let credentials = Self::of(first);
        let shared = Arc::downgrade(&credentials.0);
        api_telemetry::task::spawn("own certificate", async move {
            loop {
                let Some(wait) = shared.upgrade().map(|shared| shared.current().wait()) else {
                    return;
                };
                let exchanged = tokio::select! {
                    changed = changes.changed() => changed.is_ok(),
                    () = tokio::time::sleep(wait.clamp(PAUSE_MIN, LOOK_EVERY)) => false,
                };
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                if exchanged || shared.current().wait().is_zero() {
                    shared.renew(&authority, identity);
                }
            }
        });
        Ok(credentials)
    }

    /// Fixed ones, from PEM texts.
    ///
    /// # Errors
    /// [`IdentityError`] when a text cannot be read, or the key is not the certificate's.
    pub fn fixed(certificate: &str, key: &str, trust: &str) -> Result<Self, IdentityError> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| IdentityError::Pem("the key"))?;
        let (chain, trust) = (certificates_of(certificate)?, certificates_of(trust)?);
        Ok(Self::of(Current::new(chain, key, &trust)?))
    }

    /// End of the current certificate.
    pub fn not_after(&self) -> SystemTime {
        self.current().not_after
    }

    /// Metrics of it.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.0) as Arc<dyn Source>
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.0.current()
    }

    fn of(current: Current) -> Self {
        Self(Arc::new(Shared {
            current: RwLock::new(Arc::new(current)),
            renewals: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }))
    }
}

impl TlsSource for Credentials {
    fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().server)
    }

    fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current().client)
    }
}

impl Shared {
    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read())
    }

    /// What was there before stays when it fails: the CA's key is in memory, only a broken machine makes it fail.
    fn renew(&self, authority: &Authority, identity: Identity) {
        match Current::sign(authority, identity) {
            Ok(current) => {
                *self.current.write() = Arc::new(current);
                self.renewals.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%identity, "own certificate renewed");
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%identity, error = %Chain(&error), "own certificate cannot be renewed");
            }
        }
    }
}

impl Source for Shared {
    fn collect(&self, sink: &mut dyn Sink) {
        let end = self.current().not_after.duration_since(UNIX_EPOCH);
        let end = end.unwrap_or_default().as_secs_f64();
        sink.gauge(names::CERTIFICATE_EXPIRY, &[], end);
        for (result, count) in [("renewed", &self.renewals), ("failed", &self.failures)] {
            let count = count.load(Ordering::Relaxed);
            sink.counter(names::CERTIFICATE_RENEWALS, &[("result", result)], count);
        }
    }
}

impl Current {
    fn sign(authority: &Authority, identity: Identity) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(|source| IdentityError::Make {
            subject: identity.to_string(),
            source,
        })?;
        let certificate = authority.sign(&key, identity)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Self::new(vec![certificate], key.into(), &authority.trust())
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        trust: &[CertificateDer<'static>],
    ) -> Result<Self, IdentityError> {
        let (_, not_after) = chain
            .first()
            .and_then(|certificate| validity(certificate))
            .ok_or(IdentityError::Pem("certificates"))?;
        let parts = Parts::new(chain, key, trust)?;
        let verifier = parts.stream_verifier()?;
        Ok(Self {
            renew_at: renewal(SystemTime::now(), not_after),
            not_after,
            server: parts.peers()?,
            client: parts.client()?,
            stream: parts.stream(&verifier)?,
            verifier,
        })
    }

    /// Time until it should be made anew.
    fn wait(&self) -> Duration {
        let left = self.renew_at.duration_since(SystemTime::now());
        left.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
