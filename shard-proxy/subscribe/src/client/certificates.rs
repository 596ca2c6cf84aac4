//! The shard's own certificate: asked for by a token, kept, renewed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_telemetry::metrics::{Sink, Source};
use api_telemetry::{Chain, names};
use api_wire::identity::SignRequest;
use api_wire::identity::certificates_client::CertificatesClient;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, watch};

use super::OPERATOR_NAME;
use super::connect::{StreamError, TlsTo, connect};
use super::held::{Held, Wanted, keep_trust};
use super::operators::Operators;
use super::tls::{certificates, client, read};

/// Longest time between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pauses after failed requests; the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Pause after one that worked: an operator that signs and then refuses what it signed is not asked without end.
const PAUSE_RENEWED: Duration = Duration::from_secs(1);
/// Time for one request: the operator may have to ask the API server.
const SIGN_WITHIN: Duration = Duration::from_secs(15);
/// How long the delta stream waits for a certificate before it says that there is none.
const WAIT: Duration = Duration::from_secs(5);
/// How often it is said that no certificate can be had.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Where the shard's certificate comes from and stays.
#[derive(Debug, Clone)]
pub struct TokenTls {
    /// Token of the pod's service account; read for each request, as it is renewed by the kubelet.
    pub token: PathBuf,
    /// Certificates of the CAs that operators' certificates are signed by; read for each connection.
    pub trust: PathBuf,
    /// Folder for what is kept.
    pub folder: PathBuf,
}

/// This shard's certificate. An old one is shown while it counts; from half of its life on a new one is asked for, by the
/// old one and the token together: either is enough for the operator.
pub struct Certificates {
    settings: TokenTls,
    held: watch::Sender<Option<Arc<Held>>>,
    /// An operator did not take what it was shown.
    doubted: Notify,
    renewed: AtomicU64,
    failed: AtomicU64,
}

impl Certificates {
    /// Takes what was kept, if that is of use.
    pub fn open(settings: TokenTls) -> Self {
        let held = match Held::load(&settings.folder.join("certificate.pem")) {
            Ok(held) => Some(Arc::new(held)),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "no certificate was kept");
                None
            }
        };
        Self {
            settings,
            held: watch::Sender::new(held),
            doubted: Notify::new(),
            renewed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// What a delta stream is opened with; waits some seconds for a certificate.
    pub(super) async fn tls(&self) -> Result<Arc<ClientConfig>, StreamError> {
        let mut held = self.held.subscribe();
        let counts = held.wait_for(|held| held.as_ref().is_some_and(|held| held.counts()));
        let held = match tokio::time::timeout(WAIT, counts).await {
            Ok(Ok(held)) => held.clone(),
            _ => None,
        };
        let held = held.ok_or(StreamError::NoCertificate)?;
        client(&self.trust()?, Some(held.shown()))
    }

    /// Says that an operator refused the certificate: the CA may have been exchanged.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Keeps the certificate current, for ever.
    pub(super) async fn run(self: Arc<Self>, operators: Vec<String>, shard: u32) {
        let mut operators = Operators::new(operators, shard);
        let mut pause = PAUSE.0;
        let mut warned: Option<tokio::time::Instant> = None;
        loop {
            self.due().await;
            match self.renew(&mut operators, shard).await {
                Ok(held) => {
                    self.renewed.fetch_add(1, Ordering::Relaxed);
                    let left = held.not_after.duration_since(SystemTime::now());
                    tracing::info!(left = ?left.unwrap_or_default(), "certificate of this shard renewed");
                    self.held.send_replace(Some(Arc::new(held)));
                    (pause, warned) = (PAUSE.0, None);
                    tokio::time::sleep(PAUSE_RENEWED).await;
                }
                Err(error) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                        tracing::warn!(error = %Chain(&error), "no certificate for this shard; serving what is held, trying on");
                        warned = Some(tokio::time::Instant::now());
                    } else {
                        tracing::debug!(error = %Chain(&error), "no certificate for this shard");
                    }
                    if operators.round_over() {
                        pause = (pause * 2).min(PAUSE.1);
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Waits until a certificate is to be asked for.
    async fn due(&self) {
        loop {
            let at = self.held.borrow().as_ref().map(|held| held.renew_at);
            let left = at.and_then(|at| at.duration_since(SystemTime::now()).ok());
            let Some(left) = left.filter(|left| !left.is_zero()) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK_EVERY)) => {}
                () = self.doubted.notified() => return,
            }
        }
    }

    /// Asks the next operator. A connection of its own: that of the delta stream shows the certificate that it began with,
    /// which may be over by now.
    async fn renew(&self, operators: &mut Operators, shard: u32) -> Result<Held, StreamError> {
        let operator = operators.next().await?;
        let current = self.held.borrow().clone().filter(|held| held.counts());
        let config = client(&self.trust()?, current.as_ref().map(|held| held.shown()))?;
        let wanted = Wanted::make()?;
        let token = read(&self.settings.token);
        let token = match (token, &current) {
            (Ok(token), _) => String::from_utf8_lossy(&token).trim().to_owned(),
            // The certificate may be enough.
            (Err(_), Some(_)) => String::new(),
            (Err(error), None) => return Err(error),
        };
        let asked = async {
            let tls = TlsTo {
                config,
                server_name: OPERATOR_NAME.into(),
            };
            let connection = connect(operator, Some(tls)).await?;
            let request = SignRequest {
                shard,
                request: wanted.request.clone(),
                token,
            };
            let mut client = CertificatesClient::new(connection.channel);
            Ok::<_, StreamError>(client.sign(request).await?.into_inner())
        };
        let answer = tokio::time::timeout(SIGN_WITHIN, asked)
            .await
            .map_err(|_| StreamError::Lagging(SIGN_WITHIN))??;
        let held = wanted.signed(answer.chain)?;
        let trust: Vec<_> = answer.trust.into_iter().map(CertificateDer::from).collect();
        let kept = held
            .keep(&self.settings.folder.join("certificate.pem"))
            .and_then(|()| keep_trust(&self.settings.folder.join("trust.pem"), &trust));
        if let Err(error) = kept {
            // It is used all the same; a restart asks for another one.
            tracing::warn!(error = %Chain(&error), "certificate of this shard cannot be kept");
        }
        Ok(held)
    }

    /// What is trusted: by those who set this shard up, and by the operator that was asked last.
    fn trust(&self) -> Result<Vec<CertificateDer<'static>>, StreamError> {
        let kept = certificates(&self.settings.folder.join("trust.pem")).unwrap_or_default();
        match certificates(&self.settings.trust) {
            Ok(mut trust) => {
                trust.extend(kept);
                Ok(trust)
            }
            Err(_) if !kept.is_empty() => Ok(kept),
            Err(error) => Err(error),
        }
    }
}

impl Source for Certificates {
    fn collect(&self, sink: &mut dyn Sink) {
        let end = self.held.borrow().as_ref().map(|held| held.not_after);
        let end = end.and_then(|end| end.duration_since(UNIX_EPOCH).ok());
        let end = end.unwrap_or_default().as_secs_f64();
        sink.gauge(names::CERTIFICATE_EXPIRY, &[], end);
        for (result, count) in [("renewed", &self.renewed), ("failed", &self.failed)] {
            let count = count.load(Ordering::Relaxed);
            sink.counter(names::CERTIFICATE_RENEWALS, &[("result", result)], count);
        }
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Certificates")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
