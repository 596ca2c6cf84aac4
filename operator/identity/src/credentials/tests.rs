#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use api::ShardId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::OPERATOR_NAME;

/// Opens a connection from `client` to `server`, sends a byte back, and says whom each side saw.
async fn meet(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
) -> std::io::Result<(Option<Identity>, Option<Identity>)> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let served = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        let certificates = stream.get_ref().1.peer_certificates();
        std::io::Result::Ok(certificates.and_then(|chain| Identity::of(&chain[0])))
    };
    let asked = async {
        let name = OPERATOR_NAME.try_into().unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        // A client learns with the first byte that its certificate was taken.
        stream.read_u8().await?;
        let certificates = stream.get_ref().1.peer_certificates();
        std::io::Result::Ok(certificates.and_then(|chain| Identity::of(&chain[0])))
    };
    let (served, asked) = tokio::join!(served, asked);
    Ok((served?, asked?))
}

#[tokio::test]
async fn replicas_meet_and_nobody_else() {
    let authority = Arc::new(Authority::make().unwrap());
    let credentials = |identity| Credentials::renewing(Arc::clone(&authority), identity).unwrap();
    let (zero, one) = (Identity::Operator(0), Identity::Operator(1));
    let (server, client) = (credentials(zero), credentials(one));
    let met = meet(server.server(), client.client()).await.unwrap();
    assert_eq!(met, (Some(one), Some(zero)));

    let shard = credentials(Identity::Shard(ShardId(0)));
    assert!(meet(server.server(), shard.client()).await.is_err());
    // A shard cannot pass for the operator either.
    assert!(meet(shard.server(), client.client()).await.is_err());
    let other = Arc::new(Authority::make().unwrap());
    let other = Credentials::renewing(other, one).unwrap();
    assert!(meet(server.server(), other.client()).await.is_err());
    assert!(meet(other.server(), client.client()).await.is_err());
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_ends() {
    let authority = Authority::make().unwrap();
    let authority = Arc::new(authority.with_life(Duration::from_secs(4)));
    let credentials = Credentials::renewing(authority, Identity::Operator(0)).unwrap();
    let first = credentials.current();
    let waited = std::time::Instant::now();
    while Arc::ptr_eq(&first, &credentials.current()) {
        assert!(waited.elapsed() < Duration::from_secs(20), "never renewed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(waited.elapsed() >= Duration::from_millis(1500), "too early");
    assert!(credentials.not_after() > first.not_after);
    let met = meet(credentials.server(), credentials.client()).await;
    assert_eq!(met.unwrap().0, Some(Identity::Operator(0)));
}

#[tokio::test]
async fn a_ca_is_exchanged_by_way_of_trusting_both() {
    let (old, new) = (Authority::make().unwrap(), Authority::make().unwrap());
    let both = |signs: &Authority| {
        let trust = old.trust_pem() + &new.trust_pem();
        Authority::from_pem(&trust, &signs.key_pem()).unwrap()
    };
    let alone = |ca: &Authority| Authority::from_pem(&ca.trust_pem(), &ca.key_pem()).unwrap();
    let (one, two) = (Arc::new(alone(&old)), Arc::new(alone(&old)));
    let of = |authority: &Arc<Authority>| {
        Credentials::renewing(Arc::clone(authority), Identity::Operator(0)).unwrap()
    };
    let (first, second) = (of(&one), of(&two));
    let swapped = async |authority: &Authority, credentials: &Credentials, next: Authority| {
        let before = credentials.current();
        authority.replace(&next);
        tokio::time::timeout(Duration::from_secs(10), async {
            while Arc::ptr_eq(&before, &credentials.current()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        for (server, client) in [(&first, &second), (&second, &first)] {
            meet(server.server(), client.client()).await.unwrap();
        }
    };
    swapped(&one, &first, both(&old)).await;
    swapped(&two, &second, both(&old)).await;
    swapped(&one, &first, both(&new)).await;
    swapped(&two, &second, both(&new)).await;
    swapped(&one, &first, alone(&new)).await;
    swapped(&two, &second, alone(&new)).await;
    // Nothing has changed: nothing is made anew.
    let before = first.current();
    one.replace(&alone(&new));
    tokio::task::yield_now().await;
    assert!(Arc::ptr_eq(&before, &first.current()));
}

#[tokio::test]
async fn an_expired_certificate_is_nobodys_and_passes_the_handshake_of_streams() {
    let authority = Authority::make().unwrap();
    let expired = Authority::from_pem(&authority.trust_pem(), &authority.key_pem()).unwrap();
    // Both moments lie before now: a certificate begins some minutes before it is made.
    let expired = Arc::new(expired.with_life(Duration::ZERO));
    let shard = Identity::Shard(ShardId(3));
    let server = Credentials::renewing(Arc::new(authority), Identity::Operator(0)).unwrap();
    let current = server.current();
    let client = Current::sign(&expired, shard).unwrap();
    let met = meet(Arc::clone(&current.stream), client.client).await;
    assert_eq!(met.unwrap().0, Some(shard), "by what it shows");
    assert!(
        meet(Arc::clone(&current.server), server.client())
            .await
            .is_ok()
    );

    let key = KeyPair::generate().unwrap();
    let chain = [expired.sign(&key, shard).unwrap()];
    // Times in certificates are whole seconds.
    let began = std::time::Instant::now();
    let error = loop {
        match current.verifier.identity(&chain) {
            Err(error) => break error.to_string(),
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(10), "never expired"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(error.contains("xpired"), "{error}");
    let stranger = [Authority::make().unwrap().sign(&key, shard).unwrap()];
    assert!(current.verifier.identity(&stranger).is_err());
    assert!(current.verifier.identity(&[]).is_err());
}
