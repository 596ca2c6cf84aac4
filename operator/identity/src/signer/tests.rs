#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::TokenOwner;

/// Says that every token is of one pod.
struct Says(&'static str);

#[tonic::async_trait]
impl TokenReviewer for Says {
    async fn review(&self, _: &str) -> Result<TokenOwner, ReviewError> {
        Ok(TokenOwner {
            account: "shards".into(),
            pod: Some(self.0.into()),
        })
    }
}

fn signer(pod: &'static str) -> Signer {
    let pods = ShardPods {
        account: "shards".into(),
        pool: "p".into(),
    };
    let authority = Arc::new(Authority::make().unwrap());
    Signer::new(authority, Arc::new(Says(pod)), pods)
}

async fn ask(signer: &Signer, peer: Option<Peer>, token: &str) -> Result<(), tonic::Code> {
    let key = KeyPair::generate().unwrap();
    let wanted = CertificateParams::default().serialize_request(&key);
    let mut request = Request::new(SignRequest {
        shard: 5,
        request: wanted.unwrap().der().to_vec(),
        token: token.into(),
    });
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    let answer = signer.sign(request).await;
    answer.map(|_| ()).map_err(|status| status.code())
}

#[tokio::test]
async fn tokens_are_limited_and_do_not_hold_renewals_up() {
    let signer = signer("p-shard-5");
    let known = Peer::Known {
        identity: Identity::Shard(ShardId(5)),
        not_after: std::time::SystemTime::now() + Duration::from_secs(60),
    };
    // All that will come within the hour is taken.
    let later = Instant::now() + Duration::from_secs(3600);
    while signer.0.tokens.take(later).is_ok() {}
    let often = Err(tonic::Code::ResourceExhausted);
    assert_eq!(ask(&signer, None, "t").await, often);
    assert_eq!(ask(&signer, Some(known), "").await, Ok(()));
    assert_eq!(signer.0.counts.limited.load(Ordering::Relaxed), 1);
}

#[test]
fn a_bucket_lets_so_many_through_at_once_and_then_so_many_each_second() {
    let began = Instant::now();
    let bucket = Bucket::new((10.0, 2.0));
    let passed = |seconds: f64| {
        let at = began + Duration::from_secs_f64(seconds);
        (0..100).filter(|_| bucket.take(at).is_ok()).count()
    };
    assert_eq!(passed(1.0), 10);
    assert_eq!(passed(1.0), 0);
    assert_eq!(passed(2.0), 2);
    assert_eq!(passed(1.5), 0, "a clock does not give twice");
    assert_eq!(passed(4.1), 4);
    assert_eq!(passed(1000.0), 10);
}

#[tokio::test]
async fn a_certificate_that_ended_since_the_connection_was_opened_is_none() {
    let ended = Peer::Known {
        identity: Identity::Shard(ShardId(5)),
        not_after: std::time::SystemTime::now() - Duration::from_secs(1),
    };
    let signer = signer("p-shard-5");
    let refused = Err(tonic::Code::PermissionDenied);
    assert_eq!(ask(&signer, Some(ended.clone()), "").await, refused);
    assert_eq!(ask(&signer, Some(ended), "t").await, Ok(()));
    // Without TLS nobody gets one by saying who he is.
    assert_eq!(ask(&signer, Some(Peer::Believed), "").await, refused);
}
