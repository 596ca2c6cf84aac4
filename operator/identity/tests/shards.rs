//! Shards get certificates, renew them, and come back, over real connections.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use api::ShardId;
use common::{Follower, Operator, pod, wait_for};
use operator_identity::{Authority, Credentials, Identity, LIFE, TlsSource};
use rustls_pki_types::CertificateDer;
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_gets_a_certificate_for_itself_alone() {
    let operator = Operator::start(LIFE).await;
    let of = |shard| {
        let authority = Arc::clone(&operator.authority);
        let shard = Identity::Shard(ShardId(shard));
        Credentials::renewing(authority, shard).unwrap().client()
    };
    let nobody = operator.anonymous();
    let signed = operator
        .sign(Arc::clone(&nobody), 3, "default-shard-3")
        .await;
    let signed = signed.unwrap();
    let certificate = CertificateDer::from(signed.chain[0].clone());
    assert_eq!(
        Identity::of(&certificate),
        Some(Identity::Shard(ShardId(3)))
    );
    assert_eq!(signed.trust, [operator.authority.trust()[0].to_vec()]);
    // A certificate is enough, and then nobody is asked about the token.
    let asked = operator.reviewer.asked.load(Ordering::Relaxed);
    operator.sign(of(3), 3, "").await.unwrap();
    operator.sign(of(3), 3, "forged").await.unwrap();
    assert_eq!(operator.reviewer.asked.load(Ordering::Relaxed), asked);

    let refused = async |config: &Arc<_>, token: &str| {
        let answer = operator.sign(Arc::clone(config), 3, token).await;
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    };
    refused(&nobody, "").await;
    refused(&nobody, "forged").await;
    refused(&nobody, "default-shard-4").await;
    refused(&nobody, "shardway-operator-0").await;
    refused(&of(4), "").await;
    refused(&of(4), "default-shard-4").await;
    let replica = operator.credentials.client();
    refused(&replica, "").await;
    // Of another CA: as good as none.
    let other = Arc::new(Authority::make().unwrap());
    let trusts_us = operator.authority.trust_pem() + &other.trust_pem();
    let other = Authority::from_pem(&trusts_us, &other.key_pem()).unwrap();
    let stranger = Credentials::renewing(Arc::new(other), Identity::Shard(ShardId(3))).unwrap();
    refused(&stranger.client(), "").await;

    operator.reviewer.down.store(true, Ordering::Relaxed);
    let answer = operator.sign(nobody, 3, "default-shard-3").await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    assert_eq!(operator.signed("token"), 1);
    assert_eq!(operator.signed("certificate"), 2);
    assert_eq!(operator.signed("refused"), 8);
    assert_eq!(operator.signed("failed"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_need_no_api_server_and_lose_nothing_of_an_open_stream() {
    // Half of it is a margin that a busy machine does not use up.
    let operator = Operator::start(Duration::from_secs(8)).await;
    let folder = pod(3, &operator.authority);
    let shard = Follower::start(3, folder.path(), &[operator.address]);
    wait_for("a ready shard", || {
        shard.status.borrow().ready.then_some(())
    })
    .await;
    operator.reviewer.down.store(true, Ordering::Relaxed);
    let ends = SystemTime::now() + Duration::from_secs(9);
    let first = operator.credentials.not_after();
    let numbers = wait_for("renewals beyond the first certificate's end", || {
        let renewed = operator.signed("certificate") >= 2 && shard.renewed() >= 3;
        let past = SystemTime::now() > ends && operator.credentials.not_after() > first;
        (renewed && past).then(|| operator.streams.lock().clone())
    })
    .await;
    assert_eq!(numbers.len(), 1, "one stream all along");
    let expected: Vec<u64> = (1..=numbers[0].len() as u64).collect();
    assert_eq!(numbers[0], expected, "nothing lost, nothing twice");
    // It is still the one that goes on.
    let more = numbers[0].len() + 10;
    wait_for("the stream to go on", || {
        (operator.streams.lock()[0].len() > more).then_some(())
    })
    .await;
    assert!(*shard.connected.borrow());
    assert_eq!(operator.signed("token"), 1);
    shard.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_certificate_is_over_comes_back_by_its_token() {
    let operator = Operator::start(Duration::from_secs(2)).await;
    let folder = pod(0, &operator.authority);
    let shard = Follower::start(0, folder.path(), &[operator.address]);
    wait_for("a ready shard", || {
        shard.status.borrow().ready.then_some(())
    })
    .await;
    let (authority, address) = operator.stop();
    wait_for("a lost stream", || {
        (!*shard.connected.borrow()).then_some(())
    })
    .await;
    let kept = std::fs::read(folder.path().join("kept/certificate.pem")).unwrap();
    let over = SystemTime::now() + Duration::from_secs(3);
    wait_for("the end of the certificate", || {
        (SystemTime::now() > over).then_some(())
    })
    .await;
    assert!(shard.status.borrow().ready, "serves on");

    // The API server is down as well at first: the shard tries on.
    let operator = Operator::start_with(authority, address).await;
    operator.reviewer.down.store(true, Ordering::Relaxed);
    wait_for("a try", || (operator.signed("failed") > 0).then_some(())).await;
    assert_eq!(operator.signed("token") + operator.signed("certificate"), 0);
    operator.reviewer.down.store(false, Ordering::Relaxed);
    wait_for("a stream", || shard.connected.borrow().then_some(())).await;
    assert!(operator.signed("token") >= 1);
    let renewed = std::fs::read(folder.path().join("kept/certificate.pem")).unwrap();
    assert_ne!(kept, renewed);
    shard.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_shard_takes_the_certificate_that_it_kept() {
    use std::os::unix::fs::PermissionsExt;
    let operator = Operator::start(LIFE).await;
    let folder = pod(1, &operator.authority);
    let shard = Follower::start(1, folder.path(), &[operator.address]);
    wait_for("a ready shard", || {
        shard.status.borrow().ready.then_some(())
    })
    .await;
    shard.stop();
    let kept = folder.path().join("kept/certificate.pem");
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Neither a token nor the ConfigMap, and nobody who would review it.
    operator.reviewer.down.store(true, Ordering::Relaxed);
    std::fs::remove_file(folder.path().join("token")).unwrap();
    std::fs::remove_file(folder.path().join("ca.pem")).unwrap();
    let shard = Follower::start(1, folder.path(), &[operator.address]);
    wait_for("a ready shard", || {
        shard.status.borrow().ready.then_some(())
    })
    .await;
    assert_eq!((shard.renewed(), operator.signed("certificate")), (0, 0));
    shard.stop();

    // What was cut off is asked for anew.
    std::fs::write(&kept, &std::fs::read(&kept).unwrap()[..300]).unwrap();
    std::fs::write(folder.path().join("token"), "default-shard-1").unwrap();
    operator.reviewer.down.store(false, Ordering::Relaxed);
    let shard = Follower::start(1, folder.path(), &[operator.address]);
    wait_for("a ready shard", || {
        shard.status.borrow().ready.then_some(())
    })
    .await;
    assert_eq!(operator.signed("token"), 2);
    shard.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_is_another_one_is_taken_up_by_way_of_the_token() {
    let operator = Operator::start(LIFE).await;
    let folder = pod(2, &operator.authority);
    let shard = Follower::start(2, folder.path(), &[operator.address]);
    wait_for("a ready shard", || {
        shard.status.borrow().ready.then_some(())
    })
    .await;
    let (_, address) = operator.stop();
    let other = Arc::new(Authority::make().unwrap());
    let operator = Operator::start_with(Arc::clone(&other), address).await;
    // The kubelet brings the new ConfigMap at some time.
    std::fs::write(folder.path().join("ca.pem"), other.trust_pem()).unwrap();
    wait_for("a stream", || {
        (operator
            .streams
            .lock()
            .iter()
            .any(|numbers| !numbers.is_empty()))
        .then_some(())
    })
    .await;
    assert_eq!(operator.signed("token"), 1);
    shard.stop();
}
