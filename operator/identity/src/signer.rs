//! Signs certificates for shards that show who they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::ShardId;
use api_telemetry::metrics::{Sink, Source};
use api_telemetry::{Chain, names};
use api_wire::identity::certificates_server::{Certificates, CertificatesServer};
use api_wire::identity::{SignRequest, SignResponse};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::{Authority, Identity, IdentityError, Peer, ReviewError, ShardPods, TokenReviewer};

/// Largest request, bytes: a token of a few KiB and a key.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Reviews at a time, and how long one may take.
const REVIEWS_MAX: usize = 16;
const REVIEW_WITHIN: Duration = Duration::from_secs(10);
/// Requests with a token: how many at once, and how many each second from then on. Each is a request to the API server.
const TOKENS: (f64, f64) = (200.0, 20.0);
/// Requests with a certificate. Counted apart: nobody without one can keep renewals from being made.
const RENEWALS: (f64, f64) = (1000.0, 100.0);

/// Signs what shards ask for. Clones share it.
#[derive(Clone)]
pub struct Signer(Arc<Inner>);

struct Inner {
    authority: Arc<Authority>,
    reviewer: Arc<dyn TokenReviewer>,
    pods: ShardPods,
    reviews: Semaphore,
    tokens: Bucket,
    renewals: Bucket,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    token: AtomicU64,
    certificate: AtomicU64,
    refused: AtomicU64,
    limited: AtomicU64,
    failed: AtomicU64,
}

impl Signer {
    /// One that believes tokens as far as `reviewer` does, from pods that are shards.
    pub fn new(
        authority: Arc<Authority>,
        reviewer: Arc<dyn TokenReviewer>,
        pods: ShardPods,
    ) -> Self {
        Self(Arc::new(Inner {
            authority,
            reviewer,
            pods,
            reviews: Semaphore::new(REVIEWS_MAX),
            tokens: Bucket::new(TOKENS),
            renewals: Bucket::new(RENEWALS),
            counts: Counts::default(),
        }))
    }

    /// The gRPC service; its connections are those of [`incoming`](crate::incoming).
    pub fn service(&self) -> CertificatesServer<Self> {
        CertificatesServer::new(self.clone()).max_decoding_message_size(REQUEST_BYTES_MAX)
    }

    /// Metrics of it.
    pub fn metrics(&self) -> Arc<dyn Source> {
        Arc::clone(&self.0) as Arc<dyn Source>
    }
}

#[tonic::async_trait]
impl Certificates for Signer {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let asked = request.into_inner();
        let shard = ShardId(asked.shard);
        let answer = self.0.sign(peer.unwrap_or(Peer::Anonymous), asked).await;
        let counts = &self.0.counts;
        let (count, result) = match &answer {
            Ok((_, How::Certificate)) => (&counts.certificate, "certificate"),
            Ok((_, How::Token)) => (&counts.token, "token"),
            Err(Refusal::Who(_)) => (&counts.refused, "refused"),
            Err(Refusal::Often) => (&counts.limited, "limited"),
            Err(Refusal::Review(_) | Refusal::Sign(_)) => (&counts.failed, "failed"),
        };
        let before = count.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok((response, _)) => {
                tracing::info!(%shard, by = result, "certificate signed");
                Ok(Response::new(response))
            }
            Err(refusal) => {
                // One who asks again and again does not fill the log.
                if before < 10 || before.is_power_of_two() {
                    tracing::warn!(%shard, result, error = %Chain(&refusal), "certificate not signed");
                }
                Err(refusal.into())
            }
        }
    }
}

enum How {
    Certificate,
    Token,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Who(String),
    #[error("too many requests for certificates")]
    Often,
    #[error("token cannot be reviewed")]
    Review(#[source] ReviewError),
    #[error("certificate cannot be made")]
    Sign(#[source] IdentityError),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = Chain(&refusal).to_string();
        match refusal {
            Refusal::Who(_) => Self::permission_denied(text),
            Refusal::Often => Self::resource_exhausted(text),
            Refusal::Review(_) => Self::unavailable(text),
            Refusal::Sign(IdentityError::Request(_)) => Self::invalid_argument(text),
            Refusal::Sign(_) => Self::internal(text),
        }
    }
}

impl Inner {
    async fn sign(&self, peer: Peer, asked: SignRequest) -> Result<(SignResponse, How), Refusal> {
        let shard = ShardId(asked.shard);
        let how = if peer.identity() == Some(Identity::Shard(shard)) {
            self.renewals.take(Instant::now())?;
            How::Certificate
        } else if asked.token.is_empty() {
            let text = format!("neither a token nor a valid client certificate of {shard}");
            return Err(Refusal::Who(text));
        } else {
            self.tokens.take(Instant::now())?;
            self.by_token(shard, &asked.token).await?;
            How::Token
        };
        let signed = self
            .authority
            .sign_request(&asked.request, Identity::Shard(shard))
            .map_err(Refusal::Sign)?;
        let trust = self.authority.trust();
        let response = SignResponse {
            chain: vec![signed.to_vec()],
            trust: trust.iter().map(|trusted| trusted.to_vec()).collect(),
        };
        Ok((response, how))
    }

    async fn by_token(&self, shard: ShardId, token: &str) -> Result<(), Refusal> {
        let unavailable =
            |text: &'static str| Refusal::Review(ReviewError::Unavailable(text.into()));
        let review = async {
            let permit = self.reviews.acquire().await;
            let _permit = permit.map_err(|_| unavailable("stopping"))?;
            match self.reviewer.review(token).await {
                Ok(owner) => Ok(owner),
                Err(ReviewError::Refused(why)) => {
                    Err(Refusal::Who(format!("token refused: {why}")))
                }
                Err(error) => Err(Refusal::Review(error)),
            }
        };
        let owner = tokio::time::timeout(REVIEW_WITHIN, review)
            .await
            .unwrap_or_else(|_| Err(unavailable("no answer within 10 seconds")))?;
        if self.pods.shard(&owner) == Some(shard) {
            return Ok(());
        }
        let pod = owner.pod.as_deref().unwrap_or("no pod");
        Err(Refusal::Who(format!(
            "the token is of {pod} with account {}, which is not {shard} of pool {}",
            owner.account, self.pods.pool
        )))
    }
}

impl Source for Inner {
    fn collect(&self, sink: &mut dyn Sink) {
        let counts = &self.counts;
        for (result, count) in [
            ("token", &counts.token),
            ("certificate", &counts.certificate),
            ("refused", &counts.refused),
            ("limited", &counts.limited),
            ("failed", &counts.failed),
        ] {
            let count = count.load(Ordering::Relaxed);
            sink.counter(names::CERTIFICATES_SIGNED, &[("result", result)], count);
        }
    }
}

/// Lets through so many at once and so many each second; refuses more.
struct Bucket {
    most: f64,
    per_sec: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    fn new((most, per_sec): (f64, f64)) -> Self {
        Self {
            most,
            per_sec,
            level: Mutex::new((most, Instant::now())),
        }
    }

    fn take(&self, now: Instant) -> Result<(), Refusal> {
        let mut level = self.level.lock();
        let (left, at) = *level;
        let now = now.max(at);
        let gained = self.per_sec * (now - at).as_secs_f64();
        let left = self.most.min(left + gained);
        *level = (left, now);
        if left < 1.0 {
            return Err(Refusal::Often);
        }
        level.0 -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
